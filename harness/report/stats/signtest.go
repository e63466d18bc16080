package stats

import (
	"math"
	"slices"
)

// LeastPairs is the least number of values whose median has a 95 % interval.
const LeastPairs = 6

// Interval is the 95 % confidence interval of the median that belongs to the sign
// test: from one order statistic to another, whatever the distribution; NaN for
// fewer than LeastPairs values.
func Interval(v []float64) (low, high float64) {
	if len(v) < LeastPairs {
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

// SignTest is the two-sided probability of a split at least as uneven as k of n,
// if either side were equally likely.
func SignTest(k, n int) float64 {
	p := 0.0
	for i := range min(k, n-k) + 1 {
		p += binomial(i, n)
	}
	return min(1, 2*p)
}
