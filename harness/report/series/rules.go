package series

import (
	"math"
	"strconv"
)

// Rule is a guess at which cells of a matrix are hard that needs no model: a
// correlation says something only beyond what a rule reaches.
type Rule struct {
	Name string
	// Loss guesses at the loss of a cell, on any scale.
	Loss func(source, domain string) float64
}

func of(key string) float64 {
	v, err := strconv.ParseFloat(key, 64)
	if err != nil {
		return math.NaN()
	}
	return v
}

// Rules are the one-line rules for an axis.
func Rules(axis string) []Rule {
	switch axis {
	case AxisDefocus:
		distance := func(s, d string) float64 { return math.Abs(of(s) - of(d)) }
		return []Rule{
			{"distance in defocus, in focus hardest", func(s, d string) float64 {
				if d == InFocus {
					return 1e6 // Å, beyond every other
				}
				return distance(s, d)
			}},
			{"distance in defocus", distance},
			{"in focus hardest", func(_, d string) float64 {
				if d == InFocus {
					return 1
				}
				return 0
			}},
		}
	case AxisDose:
		return []Rule{
			{"dose ratio", func(s, d string) float64 { return math.Abs(math.Log(of(s) / of(d))) }},
			{"lower dose is harder", func(_, d string) float64 { return -of(d) }},
			{"dose ratio, towards low doses", func(s, d string) float64 { return of(s) / of(d) }},
		}
	case AxisStructure:
		symmetry := func(s, d string) float64 {
			if SymmetryOf(s) == SymmetryOf(d) {
				return 0
			}
			return 1
		}
		return []Rule{
			{"same symmetry", symmetry},
			{"same symmetry, then the same size", func(s, d string) float64 {
				v := 2 * symmetry(s, d)
				if SizeOf(s) != SizeOf(d) {
					v++
				}
				return v
			}},
		}
	}
	return nil
}
