package stats

import (
	"math"
	"slices"
)

// Sorted is the finite values of some of the observations in ascending order, so
// that quantiles of many resamples need no sorting.
type Sorted struct {
	at     []int // observations
	values []float64
}

// Add adds an observation's value; values that are not finite are left out.
func (s *Sorted) Add(observation int, v float64) {
	if !math.IsNaN(v) && !math.IsInf(v, 0) {
		i, _ := slices.BinarySearch(s.values, v)
		s.at, s.values = slices.Insert(s.at, i, observation), slices.Insert(s.values, i, v)
	}
}

// Len is the number of values.
func (s *Sorted) Len() int { return len(s.values) }

// Median is that of the values as often as their observations are drawn; NaN for
// none.
func (s *Sorted) Median(w []int) float64 { return s.Quantile(w, 0.5) }

// Quantile is that of the values as often as their observations are drawn, as
// Quantile of the repeated values.
func (s *Sorted) Quantile(w []int, q float64) float64 {
	n := 0
	for _, i := range s.at {
		n += w[i]
	}
	if n == 0 {
		return math.NaN()
	}
	place := q * float64(n-1)
	low := int(place)
	seen := 0
	for k, i := range s.at {
		seen += w[i]
		if seen <= low {
			continue
		}
		v := s.values[k]
		if f := place - float64(low); f > 0 && seen == low+1 {
			for k++; w[s.at[k]] == 0; {
				k++
			}
			v += f * (s.values[k] - v)
		}
		return v
	}
	return math.NaN() // not reached
}

// Deviation is the population standard deviation of the values as often as their
// observations are drawn; NaN for fewer than two.
func (s *Sorted) Deviation(w []int) float64 {
	n, m, v := 0, 0.0, 0.0
	for k, i := range s.at {
		n += w[i]
		m += float64(w[i]) * s.values[k]
	}
	if n < 2 {
		return math.NaN()
	}
	m /= float64(n)
	for k, i := range s.at {
		v += float64(w[i]) * (s.values[k] - m) * (s.values[k] - m)
	}
	return math.Sqrt(v / float64(n))
}

// Share is the mean of the values as often as their observations are drawn, which
// for zeros and ones is the share of ones; NaN for none.
func (s *Sorted) Share(w []int) float64 {
	n, m := 0, 0.0
	for k, i := range s.at {
		n += w[i]
		m += float64(w[i]) * s.values[k]
	}
	if n == 0 {
		return math.NaN()
	}
	return m / float64(n)
}

// Values are the values in ascending order.
func (s *Sorted) Values() []float64 { return s.values }
