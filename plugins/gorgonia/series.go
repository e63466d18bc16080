package gorgonia

import "math"

// ln 2 in two parts, of which the first has zeros at its end: a whole number below
// 2¹¹ times it is exact.
const (
	ln2High = 6.93147180369123816490e-01
	ln2Low  = 1.90821492927058770002e-10
)

// exponential is eˣ of x ≤ 0 by the series that the GPU's kernels use, within a few
// units in the last place; below −700 it is 0. The standard library's differs from
// processor to processor.
func exponential(x float64) float64 {
	if !(x >= -700) {
		if x != x {
			return x
		}
		return 0
	}
	const shift = 6755399441055744 // 1.5·2⁵²: adding it rounds to whole numbers
	t := float64(x*1.4426950408889634) + shift
	k := t - shift
	r := (x - float64(k*ln2High)) - float64(k*ln2Low)
	p := 1.0 / 6227020800
	p = float64(p*r) + 1.0/479001600
	p = float64(p*r) + 1.0/39916800
	p = float64(p*r) + 1.0/3628800
	p = float64(p*r) + 1.0/362880
	p = float64(p*r) + 1.0/40320
	p = float64(p*r) + 1.0/5040
	p = float64(p*r) + 1.0/720
	p = float64(p*r) + 1.0/120
	p = float64(p*r) + 1.0/24
	p = float64(p*r) + 1.0/6
	p = float64(p*r) + 1.0/2
	p = float64(p*r) + 1
	p = float64(p*r) + 1
	return p * math.Float64frombits(uint64(int64(k)+1023)<<52)
}

// logarithm is ln v of v ≥ 1, likewise.
func logarithm(v float64) float64 {
	if !(v <= 1e300) {
		return v
	}
	bits := math.Float64bits(v)
	k := int(bits>>52) - 1023
	bits = bits&(1<<52-1) | 1023<<52
	if bits>>32 >= 0x3ff6a09e { // √2
		bits -= 1 << 52
		k++
	}
	m := math.Float64frombits(bits)
	s := (m - 1) / (m + 1)
	z := s * s
	p := 1.0 / 23
	p = float64(p*z) + 1.0/21
	p = float64(p*z) + 1.0/19
	p = float64(p*z) + 1.0/17
	p = float64(p*z) + 1.0/15
	p = float64(p*z) + 1.0/13
	p = float64(p*z) + 1.0/11
	p = float64(p*z) + 1.0/9
	p = float64(p*z) + 1.0/7
	p = float64(p*z) + 1.0/5
	p = float64(p*z) + 1.0/3
	p = float64(p*z) + 1
	rest := float64(2*s*p) + float64(float64(k)*ln2Low)
	return float64(float64(k)*ln2High) + rest
}
