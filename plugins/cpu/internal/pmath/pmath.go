// Package pmath holds the elementary functions used in training, with the same
// bits on every architecture and an error below one unit in the last place.
//
// The standard library's Exp is assembly on some architectures and may be
// compiled with fused multiply-adds on others. Here every product that a sum
// follows is rounded by an explicit conversion, which the language defines to
// prevent fusing. math.Sqrt is correctly rounded everywhere and needs no twin.
//
// The simulator has functions of its own (harness/hrtem/internal/portable);
// its documentation says why they stay apart.
package pmath

import "math"

// ln 2 in two parts; the product of the first with an exponent is exact.
const (
	ln2Hi = 0x1.62e42feep-1
	ln2Lo = 0x1.a39ef35793c76p-33
)

// expTail holds (eʳ − 1 − r)/r² as a series, highest power first; the first
// term left out is below 2⁻⁵⁸ of the sum for |r| ≤ ln 2/2.
var expTail = [...]float64{
	1. / 87178291200, 1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
	1. / 40320, 1. / 5040, 1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2,
}

// Exp returns e to the power x.
func Exp(x float64) float64 {
	switch {
	case math.IsNaN(x):
		return x
	case x > 709.8:
		return math.Inf(1)
	case x < -745.2:
		return 0
	}
	// x = k·ln 2 + r with |r| ≤ ln 2/2; e is what r lost to rounding.
	k := math.Floor(float64(x*(1/math.Ln2)) + 0.5)
	hi, lo := x-float64(k*ln2Hi), -float64(k*ln2Lo)
	r := hi + lo
	e := (hi - r) + lo
	s := 0.0
	for _, c := range expTail {
		s = float64(s*r) + c
	}
	y := 1 + (r + (float64(float64(r*r)*s) + e))
	return scale(y, int(k))
}

// scale multiplies by 2ᵏ in two steps, so that neither factor leaves the range
// of normal numbers before the result does.
func scale(y float64, k int) float64 {
	h := k / 2
	return float64(float64(y*math.Float64frombits(uint64(h+1023)<<52)) * math.Float64frombits(uint64(k-h+1023)<<52))
}

// logTail holds 2(1/3 + q/5 + q²/7 + …), highest power first, for q = s² with
// |s| ≤ 0.1716; the first term left out is below 2⁻⁵⁸ of the sum.
var logTail = [...]float64{2. / 23, 2. / 21, 2. / 19, 2. / 17, 2. / 15, 2. / 13, 2. / 11, 2. / 9, 2. / 7, 2. / 5, 2. / 3}

// Log returns the natural logarithm of x.
func Log(x float64) float64 {
	switch {
	case math.IsNaN(x) || math.IsInf(x, 1):
		return x
	case x < 0:
		return math.NaN()
	case x == 0:
		return math.Inf(-1)
	}
	k := 0
	if x < 0x1p-1022 {
		x *= 0x1p54
		k = -54
	}
	b := math.Float64bits(x)
	k += int(b>>52) - 1023
	m := math.Float64frombits(b&(1<<52-1) | 1023<<52)
	if m > math.Sqrt2 {
		m /= 2
		k++
	}
	// With f = m − 1 and s = f/(2+f): log m = 2·artanh s = f − s(f − R).
	f := m - 1
	s := f / (2 + f)
	q := float64(s * s)
	r := 0.0
	for _, c := range logTail {
		r = float64(r*q) + c
	}
	r = float64(r * q)
	t := float64(s*(f-r)) - float64(float64(k)*ln2Lo)
	return float64(float64(k)*ln2Hi) - (t - f)
}

// Pow returns x to the power n ≥ 0 by repeated squaring.
func Pow(x float64, n int) float64 {
	y := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			y = float64(y * x)
		}
		x = float64(x * x)
	}
	return y
}
