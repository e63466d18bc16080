package kernel

import "math"

// fma is the fused multiply-add a·b + c of float32, for processors without one: the
// product is exact in float64, the sum is rounded to odd there, and so rounded once by
// what follows.
func fma(a, b, c float32) float32 {
	p, q := float64(a)*float64(b), float64(c)
	s := p + q
	back := s - p
	lost := (p - (s - back)) + (q - back)
	if bits := math.Float64bits(s); lost != 0 && bits&1 == 0 && s-s == 0 {
		if (lost > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
		s = math.Float64frombits(bits)
	}
	return float32(s)
}
