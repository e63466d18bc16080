package micrograph

import (
	"math"
	"slices"
)

// Resample gives an image h rows and w columns that cover the same area: the mean
// over a pixel's area along an axis that shrinks, Keys' cubic interpolation (a =
// −1/2) along one that grows. The kernel is cut off, and renormalised, at the
// borders.
func Resample(x []float32, fromH, fromW, h, w int) []float32 {
	return resample(x, fromH, fromW, h, w, cubic)
}

// ResampleProbability is Resample for values that are to stay in their range: it
// grows an image linearly.
func ResampleProbability(x []float32, fromH, fromW, h, w int) []float32 {
	return resample(x, fromH, fromW, h, w, linear)
}

// kernel is an interpolation: its weight at a distance in pixels, 0 from reach on.
type kernel struct {
	reach  float64
	weight func(distance float64) float64
}

var (
	linear = kernel{1, func(d float64) float64 { return 1 - d }}
	cubic  = kernel{2, func(d float64) float64 {
		if d < 1 {
			return float64(float64(1.5*d-2.5)*d)*d + 1
		}
		return float64(float64(float64(-0.5*d+2.5)*d)-4)*d + 2
	}}
)

// taps are the weights of the values from first on.
type taps struct {
	first   int
	weights []float64
}

// axis returns, for every one of n pixels, what it takes of m.
func axis(m, n int, grow kernel) []taps {
	out := make([]taps, n)
	scale := float64(m) / float64(n)
	for i := range out {
		t := &out[i]
		if n <= m { // the area that the pixel covers
			begin, end := float64(i)*scale, float64(i+1)*scale
			t.first = int(begin)
			for j := t.first; j < m && float64(j) < end; j++ {
				if w := math.Min(end, float64(j+1)) - math.Max(begin, float64(j)); w > 1e-9 {
					t.weights = append(t.weights, w)
				} else if len(t.weights) == 0 {
					t.first++
				}
			}
		} else {
			centre := (float64(i)+0.5)*scale - 0.5
			t.first = max(0, int(math.Floor(centre-grow.reach))+1)
			for j := t.first; j < m && float64(j) < centre+grow.reach; j++ {
				t.weights = append(t.weights, grow.weight(math.Abs(float64(j)-centre)))
			}
		}
		var sum float64
		for _, w := range t.weights {
			sum += w
		}
		for k := range t.weights {
			t.weights[k] /= sum
		}
	}
	return out
}

func resample(x []float32, fromH, fromW, h, w int, grow kernel) []float32 {
	if h == fromH && w == fromW {
		return slices.Clone(x)
	}
	rows, columns := axis(fromH, h, grow), axis(fromW, w, grow)
	out := make([]float32, h*w)
	row := make([]float64, fromW)
	for y, t := range rows {
		clear(row)
		for k, weight := range t.weights {
			for c, v := range x[(t.first+k)*fromW:][:fromW] {
				row[c] += float64(weight * float64(v))
			}
		}
		for c, t := range columns {
			var s float64
			for k, weight := range t.weights {
				s += float64(weight * row[t.first+k])
			}
			out[y*w+c] = float32(s)
		}
	}
	return out
}
