// Package portable holds elementary functions whose results have the same bits
// on every architecture.
//
// The standard library's Exp is assembly on some architectures, and its Sin, Cos
// and Log, like rand.Rand.NormFloat64, may be compiled with fused multiply-adds
// on others. Here every product that a sum follows is rounded by an explicit
// conversion, which the language defines to prevent fusing. Errors stay below
// four units in the last place over the ranges stated.
//
// The CPU backend has functions of its own (plugins/cpu/internal/pmath), more
// exact and for every argument. One pair could not serve both: the last bit of
// the two Exp differs for one argument in fifteen, and with it would change
// either every simulated image or every trained network, whose bits are promised.
package portable

import (
	"math"
	"math/rand/v2"
)

// ln 2 in two parts; a product of the first with an exponent is exact.
const (
	ln2Hi = 0x1.62e42feep-1
	ln2Lo = 0x1.a39ef35793c76p-33
)

// Coefficients of the series around 0, highest power first. The first term left
// out is below 2⁻⁵⁷ of the sum in the ranges they are used in.
var (
	expSeries = [...]float64{1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880, 1. / 40320, 1. / 5040, 1. / 720, 1. / 120, 1. / 24, 1. / 6, 1. / 2, 1, 1}
	logSeries = [...]float64{1. / 23, 1. / 21, 1. / 19, 1. / 17, 1. / 15, 1. / 13, 1. / 11, 1. / 9, 1. / 7, 1. / 5, 1. / 3, 1}
	sinSeries = [...]float64{1. / 355687428096000, -1. / 1307674368000, 1. / 6227020800, -1. / 39916800, 1. / 362880, -1. / 5040, 1. / 120, -1. / 6, 1}
	cosSeries = [...]float64{1. / 20922789888000, -1. / 87178291200, 1. / 479001600, -1. / 3628800, 1. / 40320, -1. / 720, 1. / 24, -1. / 2, 1}
)

// Exp returns e to the power x. It is 0 below −700 and +Inf above 700.
func Exp(x float64) float64 {
	switch {
	case math.IsNaN(x):
		return x
	case x > 700:
		return math.Inf(1)
	case x < -700:
		return 0
	}
	// x = k·ln 2 + r with |r| ≤ ln 2/2.
	k := math.Floor(float64(x*(1/math.Ln2)) + 0.5)
	r := x - float64(k*ln2Hi) - float64(k*ln2Lo)
	s := 0.0
	for _, c := range expSeries {
		s = float64(s*r) + c
	}
	return s * math.Float64frombits(uint64(int64(k)+1023)<<52)
}

// Log returns the natural logarithm of a positive, finite, normal number.
func Log(x float64) float64 {
	b := math.Float64bits(x)
	e := float64(int64(b>>52) - 1023)
	m := math.Float64frombits(b&(1<<52-1) | 1023<<52)
	if m > math.Sqrt2 {
		m /= 2
		e++
	}
	// log m = 2·artanh f = 2(f + f³/3 + f⁵/5 + …) with |f| ≤ 0.1716.
	f := (m - 1) / (m + 1)
	q := float64(f * f)
	s := 0.0
	for _, c := range logSeries {
		s = float64(s*q) + c
	}
	return float64(e*ln2Hi) + (float64(e*ln2Lo) + float64(2*f*s))
}

// SinCos returns sin x and cos x for |x| up to 2²⁰.
func SinCos(x float64) (sin, cos float64) {
	// x = k·π/2 + r with |r| ≤ π/4; π/2 is split in three so that the first two
	// products are exact.
	const (
		a = 0x1.921fb544p+0
		b = 0x1.0b4611a6p-34
		c = 0x1.3198a2e037073p-69
	)
	k := math.Floor(float64(x*(2/math.Pi)) + 0.5)
	r := x - float64(k*a) - float64(k*b) - float64(k*c)
	q := float64(r * r)
	s, t := 0.0, 0.0
	for i := range sinSeries {
		s = float64(s*q) + sinSeries[i]
		t = float64(t*q) + cosSeries[i]
	}
	s *= r
	switch int64(k) & 3 {
	case 0:
		return s, t
	case 1:
		return t, -s
	case 2:
		return -s, -t
	default:
		return -t, s
	}
}

// Normal2 returns two independent standard normal variates (the polar method).
func Normal2(r *rand.Rand) (x, y float64) {
	for {
		x, y = float64(2*float64(r.Float64()))-1, float64(2*float64(r.Float64()))-1
		s := float64(x*x) + float64(y*y)
		if s < 1 && s > 0x1p-100 {
			f := math.Sqrt(-2 * Log(s) / s)
			return x * f, y * f
		}
	}
}

// Normal returns a standard normal variate.
func Normal(r *rand.Rand) float64 {
	x, _ := Normal2(r)
	return x
}
