package report

import (
	"math"
	"slices"
)

// median of the finite values; NaN where there are none.
func median(v []float64) float64 { return quantile(v, 0.5) }

// quantile of the finite values by linear interpolation, as NumPy's default.
func quantile(v []float64, q float64) float64 {
	s := finite(v)
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

func finite(v []float64) []float64 {
	var s []float64
	for _, x := range v {
		if !math.IsNaN(x) && !math.IsInf(x, 0) {
			s = append(s, x)
		}
	}
	return s
}

// deviation is the population standard deviation.
func deviation(v []float64) float64 {
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

// spearman is the rank correlation of the pairs of which both values are finite,
// and their number; NaN for fewer than three or without variation.
func spearman(a, b []float64) (rho float64, n int) {
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

// leastPairs is the least number of values whose median has a 95 % interval.
const leastPairs = 6

// interval is the 95 % confidence interval of the median that belongs to the sign
// test: from one order statistic to another, whatever the distribution; NaN for
// fewer than leastPairs values.
func interval(v []float64) (low, high float64) {
	if len(v) < leastPairs {
		return math.NaN(), math.NaN()
	}
	s := slices.Sorted(slices.Values(v))
	k := 0
	for p := binomial(0, len(s)); ; k++ {
		if p += binomial(k+1, len(s)); p > 0.025 {
			break
		}
	}
	return s[k], s[len(s)-1-k]
}

// binomial is the probability of k heads of n.
func binomial(k, n int) float64 {
	lg := func(x int) float64 { v, _ := math.Lgamma(float64(x) + 1); return v }
	return math.Exp(lg(n) - lg(k) - lg(n-k) - float64(n)*math.Ln2)
}

// signTest is the two-sided probability of a split at least as uneven as k of n,
// if either side were equally likely.
func signTest(k, n int) float64 {
	p := 0.0
	for i := range min(k, n-k) + 1 {
		p += binomial(i, n)
	}
	return min(1, 2*p)
}

// byColumn is the share of the variance of the logarithms of a matrix's values
// that their columns' means explain, cells for which skip is true left out; NaN
// where there is no variance.
func byColumn(m *Matrix, skip func(row, column string) bool) float64 {
	var all []float64
	columns := make([][]float64, len(m.Columns))
	for i, r := range m.Rows {
		for j, c := range m.Columns {
			if v := m.Values[i][j]; v > 0 && !skip(r, c) {
				all = append(all, math.Log(v))
				columns[j] = append(columns[j], math.Log(v))
			}
		}
	}
	total := deviation(all)
	if len(all) < 2 || total == 0 {
		return math.NaN()
	}
	within := 0.0
	for _, c := range columns {
		if len(c) > 0 {
			d := deviation(c)
			within += d * d * float64(len(c))
		}
	}
	return 1 - within/(total*total*float64(len(all)))
}
