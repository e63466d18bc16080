package optics

import (
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
	"github.com/refocus-em/refocus/harness/internal/pixels"
)

// Poisson draws a Poisson variate of a mean ≥ 0 by inversion: one uniform number
// is compared with the summed probabilities. Means above 32 are drawn as a sum
// of variates of smaller means, which has the same distribution.
func Poisson(r *rand.Rand, mean float64) int {
	k := 0
	for mean > 32 {
		k += inversion(r, 32)
		mean -= 32
	}
	return k + inversion(r, mean)
}

// inversion draws a variate of a mean up to 32.
func inversion(r *rand.Rand, mean float64) int {
	u := r.Float64()
	p := portable.Exp(-mean)
	for k, inverse := range reciprocals {
		if u < p {
			return k
		}
		u -= p
		p *= float64(mean * inverse)
	}
	// Rounding can leave the sum of all probabilities just below a u near 1.
	return len(reciprocals)
}

// reciprocals holds 1/(k+1), up to counts whose probability float64 does not resolve
// at any mean up to 32.
var reciprocals = func() (r [128]float64) {
	for k := range r {
		r[k] = 1 / float64(k+1)
	}
	return r
}()

// Standardize shifts and scales x to mean 0 and variance 1 (the population's). A
// constant x becomes 0. It multiplies by the reciprocal of the standard deviation,
// which the bits of simulated sets depend on.
func Standardize(x []float32) {
	mean, variance := pixels.Moments(x)
	scale := 0.0
	if variance > 0 {
		scale = 1 / math.Sqrt(variance)
	}
	for i, v := range x {
		x[i] = float32((float64(v) - mean) * scale)
	}
}
