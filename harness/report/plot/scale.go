package plot

import (
	"math"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// LogScale maps positive values to [0,1] by their logarithms.
type LogScale struct{ low, high float64 }

// ScaleOf spans the positive values of the matrices.
func ScaleOf(ms ...*stats.Matrix) LogScale {
	s := LogScale{math.Inf(1), math.Inf(-1)}
	for _, m := range ms {
		if m == nil {
			continue
		}
		for _, row := range m.Values {
			s.include(row)
		}
	}
	return s
}

func (s *LogScale) include(v []float64) {
	for _, x := range v {
		if x > 0 && !math.IsInf(x, 0) {
			s.low, s.high = min(s.low, x), max(s.high, x)
		}
	}
}

func (s LogScale) at(v float64) float64 {
	if !(s.high > s.low) || v <= 0 {
		return 0
	}
	return math.Log(v/s.low) / math.Log(s.high/s.low)
}

// widened has room for ticks around its values.
func (s LogScale) widened() LogScale {
	f := max(1.04, math.Pow(s.high/s.low, 0.04))
	return LogScale{s.low / f, s.high * f}
}

// ticks are round values within the scale: 1, 2 and 5 of every decade, powers of
// ten over many, and equal steps where there is little between its ends.
func (s LogScale) ticks() []float64 {
	var t []float64
	if s.high/s.low < 8 {
		p := math.Pow(10, math.Floor(math.Log10(s.high-s.low)))
		step := p
		for _, m := range []float64{0.2, 0.5, 1, 2, 5} {
			if (s.high-s.low)/(m*p) <= 6 {
				step = m * p
				break
			}
		}
		for k := math.Ceil(s.low / step); k*step <= s.high; k++ {
			t = append(t, k*step)
		}
		return t
	}
	steps := []float64{1, 2, 5}
	if s.high/s.low > 200 {
		steps = []float64{1}
	}
	for e := math.Floor(math.Log10(s.low)); e <= math.Ceil(math.Log10(s.high)); e++ {
		for _, m := range steps {
			if v := m * math.Pow(10, e); v >= s.low && v <= s.high {
				t = append(t, v)
			}
		}
	}
	return t
}
