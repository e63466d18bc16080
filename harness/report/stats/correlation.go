package stats

import "math"

// ranks gives every point the mean rank of its value where each is repeated by
// its weight.
func ranks(v, w []float64) []float64 {
	order := sortedOrder(v)
	r := make([]float64, len(v))
	before := 0.0
	for i := 0; i < len(order); {
		j, n := i, 0.0
		for j < len(order) && v[order[j]] == v[order[i]] {
			n += w[order[j]]
			j++
		}
		for k := i; k < j; k++ {
			r[order[k]] = before + (n+1)/2
		}
		before += n
		i = j
	}
	return r
}

// pearson is the correlation of weighted points; NaN without variation.
func pearson(x, y, w []float64) float64 {
	var n, mx, my float64
	for i := range x {
		n += w[i]
		mx += w[i] * x[i]
		my += w[i] * y[i]
	}
	mx, my = mx/n, my/n
	var xy, xx, yy float64
	for i := range x {
		dx, dy := x[i]-mx, y[i]-my
		xy += w[i] * dx * dy
		xx += w[i] * dx * dx
		yy += w[i] * dy * dy
	}
	if xx == 0 || yy == 0 {
		return math.NaN()
	}
	return xy / math.Sqrt(xx*yy)
}

// complete keeps the points of which all values are finite, and that count at
// all; w nil counts each once.
func complete(w []float64, columns ...[]float64) (weights []float64, kept [][]float64) {
	kept = make([][]float64, len(columns))
points:
	for i := range columns[0] {
		weight := 1.0
		if w != nil {
			weight = w[i]
		}
		if weight == 0 {
			continue
		}
		for _, c := range columns {
			if math.IsNaN(c[i]) || math.IsInf(c[i], 0) {
				continue points
			}
		}
		weights = append(weights, weight)
		for k, c := range columns {
			kept[k] = append(kept[k], c[i])
		}
	}
	return weights, kept
}

// leastPoints is the least number of points that are correlated.
const leastPoints = 3

// Spearman is the rank correlation of the points of which both values are finite,
// and their number; NaN for fewer than three or without variation. Each point is
// repeated by its weight; w nil repeats none.
func Spearman(a, b, w []float64) (rho float64, n int) {
	weights, v := complete(w, a, b)
	if len(weights) < leastPoints {
		return math.NaN(), len(weights)
	}
	return pearson(ranks(v[0], weights), ranks(v[1], weights), weights), len(weights)
}

// Partial is Spearman's correlation of a and b with what the ranks of z tell of
// both taken out.
func Partial(a, b, z, w []float64) float64 {
	weights, v := complete(w, a, b, z)
	if len(weights) < leastPoints+1 {
		return math.NaN()
	}
	for k := range v {
		v[k] = ranks(v[k], weights)
	}
	ab, az, bz := pearson(v[0], v[1], weights), pearson(v[0], v[2], weights), pearson(v[1], v[2], weights)
	left := (1 - az*az) * (1 - bz*bz)
	if !(left > 1e-12) { // the rule alone says everything of one of them
		return math.NaN()
	}
	return (ab - az*bz) / math.Sqrt(left)
}
