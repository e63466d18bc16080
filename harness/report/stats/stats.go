package stats

import (
	"cmp"
	"math"
	"slices"
)

// Median of the finite values; NaN where there are none.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// Quantile of the finite values by linear interpolation, as NumPy's default.
func Quantile(v []float64, q float64) float64 {
	s := Finite(v)
	if len(s) == 0 {
		return math.NaN()
	}
	slices.Sort(s)
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

// Finite are the values that are neither NaN nor infinite.
func Finite(v []float64) []float64 {
	var s []float64
	for _, x := range v {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			s = append(s, x)
		}
	}
	return s
}

// Deviation is the population standard deviation.
func Deviation(v []float64) float64 {
	var m, s float64
	for _, x := range v {
		m += x
	}
	m /= float64(len(v))
	for _, x := range v {
		s += (x - m) * (x - m)
	}
	return math.Sqrt(s / float64(len(v)))
}

// sortedOrder are the indices of values in ascending order.
func sortedOrder(v []float64) []int {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(v[a], v[b]) })
	return order
}

// Group is values of a level of a factor.
type Group struct {
	Level  string
	Values []float64
	// At are the observations that the values are of, and Interval is the median's
	// 95 % interval; nil where it has none.
	At       []int
	Interval *[2]float64
}

// Add adds an observation's value unless it is not finite.
func (g *Group) Add(observation int, v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		g.Values, g.At = append(g.Values, v), append(g.At, observation)
	}
}

// Medians is the Statistic of the groups' medians.
func Medians(groups []Group) Statistic {
	sorted := make([]Sorted, len(groups))
	for k, g := range groups {
		for i, v := range g.Values {
			sorted[k].Add(g.At[i], v)
		}
	}
	return func(w []int, values []float64) {
		for k := range sorted {
			values[k] = sorted[k].Median(w)
		}
	}
}

// LogNormal fits a log-normal distribution to positive values: its median, and the
// standard deviation of the logarithm (the likeliest, with n below the sum). NaN
// without values.
func LogNormal(v []float64) (median, sigma float64) {
	var sum, square float64
	for _, x := range v {
		sum += math.Log(x)
	}
	mean := sum / float64(len(v))
	for _, x := range v {
		d := math.Log(x) - mean
		square += float64(d * d)
	}
	return math.Exp(mean), math.Sqrt(square / float64(len(v)))
}
