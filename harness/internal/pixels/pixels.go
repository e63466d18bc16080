// Package pixels is arithmetic on the grey values of one image: the
// standardisation that a network sees, the range that a person is shown, and
// reflection at the borders.
package pixels

import (
	"fmt"
	"math"
	"slices"
)

// Moments returns the mean and the variance (the population's), summed in float64
// in the order of the pixels: the same bits on every machine.
func Moments(x []float32) (mean, variance float64) {
	n := float64(len(x))
	for _, v := range x {
		mean += float64(v)
	}
	mean /= n
	for _, v := range x {
		d := float64(v) - mean
		variance += float64(d * d)
	}
	return mean, variance / n
}

// Standardize shifts and scales an image of rows of the given width to mean 0 and
// variance 1, in place. It refuses pixels that are not finite, by row and column,
// and images of a single value.
func Standardize(x []float32, width int) error {
	for i, v := range x {
		if d := v - v; d != 0 { // NaN for both infinities and NaN
			return fmt.Errorf("pixel (%d, %d) is %g", i/width, i%width, v)
		}
	}
	mean, variance := Moments(x)
	std := math.Sqrt(variance)
	// Rounding leaves a constant image a trace of variance.
	if !(std > 1e-12*math.Abs(mean)) {
		return fmt.Errorf("every pixel has the value %g", x[0])
	}
	for i, v := range x {
		x[i] = float32((float64(v) - mean) / std)
	}
	return nil
}

// Range returns the values to show black and white: the 0.5th and the 99.5th
// percentile of a sample of the pixels, NaN left out. A constant image gives a
// range around its value.
func Range(x []float32) (black, white float64) {
	const most = 1 << 18
	step := max(1, len(x)/most)
	sample := make([]float32, 0, len(x)/step+1)
	for i := 0; i < len(x); i += step {
		if v := x[i]; v == v {
			sample = append(sample, v)
		}
	}
	if len(sample) == 0 {
		return 0, 1
	}
	slices.Sort(sample)
	last := len(sample) - 1
	black, white = float64(sample[last/200]), float64(sample[last-last/200])
	if !(white > black) {
		return black - 1, black + 1
	}
	return black, white
}

// Mirror folds coordinate i ≥ 0 into [0,n) by reflection at the last pixel, which
// is not repeated.
func Mirror(i, n int) int {
	if i < n {
		return i
	}
	if n == 1 {
		return 0
	}
	i %= 2 * (n - 1)
	if i >= n {
		i = 2*(n-1) - i
	}
	return i
}
