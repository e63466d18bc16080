package stats

import (
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

// ranks gives equal values their mean rank.
func ranks(v []float64) []float64 {
	order := make([]int, len(v))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case v[a] < v[b]:
			return -1
		case v[a] > v[b]:
			return 1
		}
		return 0
	})
	r := make([]float64, len(v))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && v[order[j]] == v[order[i]] {
			j++
		}
		for k := i; k < j; k++ {
			r[order[k]] = float64(i+j-1)/2 + 1
		}
		i = j
	}
	return r
}

// Spearman is the rank correlation of the pairs of which both values are finite,
// and their number; NaN for fewer than three or without variation.
func Spearman(a, b []float64) (rho float64, n int) {
	var x, y []float64
	for i := range a {
		if !math.IsNaN(a[i]) && !math.IsNaN(b[i]) {
			x, y = append(x, a[i]), append(y, b[i])
		}
	}
	if len(x) < 3 {
		return math.NaN(), len(x)
	}
	rx, ry := ranks(x), ranks(y)
	mean := float64(len(x)+1) / 2
	var xy, xx, yy float64
	for i := range rx {
		dx, dy := rx[i]-mean, ry[i]-mean
		xy += dx * dy
		xx += dx * dx
		yy += dy * dy
	}
	if xx == 0 || yy == 0 {
		return math.NaN(), len(x)
	}
	return xy / math.Sqrt(xx*yy), len(x)
}

// Group is values of a level of a factor.
type Group struct {
	Level  string
	Values []float64
}
