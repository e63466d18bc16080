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

// Expm1 returns e to the power x, less one.
func Expm1(x float64) float64 {
	if x == 0 {
		return x // with its sign
	}
	if !(math.Abs(x) < 0.34) { // within the series' bound, without cancellation
		return Exp(x) - 1
	}
	s := 0.0
	for _, c := range expTail {
		s = float64(s*x) + c
	}
	return x + float64(float64(x*x)*s)
}

// Log1p returns log(1 + x).
func Log1p(x float64) float64 {
	u := 1 + x
	if u == 1 {
		return x
	}
	if math.IsInf(u, 1) || u <= 0 {
		return Log(u)
	}
	return Log(u) * (x / (u - 1)) // Kahan: u is what the logarithm was taken of
}

// Tanh returns the hyperbolic tangent of x.
func Tanh(x float64) float64 {
	t := Expm1(-2 * math.Abs(x))
	return math.Copysign(t/(2+t), x)
}

// Erf returns the error function of x.
func Erf(x float64) float64 {
	a := math.Abs(x)
	var y float64
	switch {
	case math.IsNaN(x):
		return x
	case a >= 6: // 1 − 2·10⁻¹⁷
		y = 1
	case a < 3: // (2/√π)·e^(−x²)·Σ 2ⁿ x^(2n+1)/(2n+1)!!, of positive terms
		q := float64(a * a)
		term, sum := a, a
		for n := 1.0; term > sum*0x1p-54; n++ {
			term = float64(term * (2 * q / (2*n + 1)))
			sum += term
		}
		y = float64(float64(2/math.SqrtPi*Exp(-q)) * sum)
	default: // 1 − e^(−x²)/√π · 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …))))
		f := a
		for n := 60.0; n > 0; n-- {
			f = a + n/2/f
		}
		y = 1 - float64(Exp(-float64(a*a))/math.SqrtPi)/f
	}
	return math.Copysign(y, x)
}
