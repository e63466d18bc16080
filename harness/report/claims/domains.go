package claims

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// byTarget is the share of the variance of the medians' logarithms that targets
// explain.
func byTarget(c *stats.Cells) func(w []int) float64 {
	return func(w []int) float64 { return stats.ByColumn(c.Medians(w), diagonal) }
}

func targetDecides() string {
	return fmt.Sprintf("After transfer, the target explains more than %.0f %% of the variance of the medians' logarithms, and more than before.", 100*mostly)
}

// doses is the rule of finding 10.
func (e Evidence) doses() []Statement {
	s := e.Transfers
	const first = "After pretraining, models of the lowest dose have a higher median loss over the domains than those of any other."
	const second = "After transfer, the median loss falls with every step to a higher dose of the target."
	sources, targets := s.Sources(), s.Targets()
	var all []Statement
	if len(sources) < 2 {
		all = append(all, unjudged(first, "only one source"))
	} else {
		all = append(all, decided(first, "The median over domains is ours, for \"across the board\".", nil, measured(s, func(s *series.Series) []measure {
			values := byDomain(s, sources, sourceOf, func(o *series.Transfer) float64 { return stats.Median(o.Before) })
			return []measure{{"lowest dose to the worst other", above(1), func(w []int) float64 { return values[0].Median(w) / worst(w, values[1:]) }}}
		})...))
	}
	if len(targets) < 2 {
		return append(all, unjudged(second, "only one target"), unjudged(targetDecides(), "only one target"))
	}
	onTargets := func(s *series.Series) []*stats.Sorted { return byDomain(s, targets, targetOf, s.Final) } // in the order of the doses
	steps := measured(s, func(s *series.Series) (steps []measure) {
		values := onTargets(s)
		for k := 1; k < len(targets); k++ {
			steps = append(steps, measure{s.Name(targets[k]) + " to " + s.Name(targets[k-1]), below(1), func(w []int) float64 { return values[k].Median(w) / values[k-1].Median(w) }})
		}
		return steps
	})
	return append(all, decided(second, "", medians(s, named(s, "at ", targets), onTargets), steps...), e.decides())
}

// decides is the statement that after transfer the target decides.
func (e Evidence) decides() Statement {
	return decided(targetDecides(), fmt.Sprintf("%.0f %% is ours, for \"mostly\" and \"only\".", 100*mostly), nil, measured(e.Transfers, func(s *series.Series) []measure {
		before, after := s.Cells()
		b, a := byTarget(before), byTarget(after)
		return []measure{
			{"share after transfer", above(mostly), a},
			{"gain over before", above(0), func(w []int) float64 { return a(w) - b(w) }},
		}
	})...)
}

// structures is the rule of finding 11.
func (e Evidence) structures() []Statement {
	s := e.Transfers
	const (
		first = "Before transfer, models of the evaluated domain's own symmetry have a lower loss than the others, in the median over domains."
		third = "Before transfer, models of small particles have a higher loss on large ones than models of large particles of the same crystal, in the median over crystals and domains."
	)
	symmetry := func(m *stats.Matrix) float64 {
		var r []float64
		for j, c := range m.Columns {
			var same, other []float64
			for i, row := range m.Rows {
				switch {
				case row == c:
				case series.SymmetryOf(row) == series.SymmetryOf(c):
					same = append(same, m.Values[i][j])
				default:
					other = append(other, m.Values[i][j])
				}
			}
			r = append(r, stats.Median(same)/stats.Median(other))
		}
		return stats.Median(r)
	}
	sizes := func(m *stats.Matrix) float64 {
		var r []float64
		for _, c := range m.Columns {
			for _, row := range m.Rows {
				if crystal := series.CrystalOf(row); series.SizeOf(c) == "large" && series.SizeOf(row) == "small" && crystal != series.CrystalOf(c) {
					r = append(r, m.Get(row, c)/m.Get(crystal+"_large", c))
				}
			}
		}
		return stats.Median(r)
	}
	ofBefore := func(name string, l limits, of func(*stats.Matrix) float64) []Test {
		return measured(s, func(s *series.Series) []measure {
			before, _ := s.Cells()
			return []measure{{name, l, func(w []int) float64 { return of(before.Medians(w)) }}}
		})
	}
	all := []Statement{
		decided(first, "", nil, ofBefore("sources of the same to those of another symmetry", below(1), symmetry)...),
		e.decides(),
	}
	if before, _ := s.Medians(); math.IsNaN(sizes(before)) {
		return append(all, unjudged(third, "the series has no crystals of both sizes"))
	}
	return append(all, decided(third, "", nil, ofBefore("small to large sources", above(1), sizes)...))
}
