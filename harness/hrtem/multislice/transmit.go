package multislice

import (
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
)

// transmit multiplies the wave by exp(i·phase).
func transmit(psi fft.Field, phase []float32) {
	re, im := psi.Re[:len(phase)], psi.Im[:len(phase)]
	for i, x := range phase {
		s, c := sincos(x)
		a, b := re[i], im[i]
		re[i] = float32(a*c) - float32(b*s)
		im[i] = float32(a*s) + float32(b*c)
	}
}

// sincos returns sin x and cos x for |x| up to a few hundred, within 1.5·10⁻⁷, by
// Taylor series around the nearest multiple of π/2.
func sincos(x float32) (s, c float32) {
	const (
		round = 3 << 22 // adding it rounds a small float32 to an integer
		hi    = 1.5703125
		lo    = math.Pi/2 - hi
	)
	k := float32(x*(2/math.Pi)) + round
	q := math.Float32bits(k)
	k -= round
	r := x - float32(k*hi) - float32(k*lo)
	z := float32(r * r)
	s = float32(z*(1./362880)) - 1./5040
	s = float32(z*s) + 1./120
	s = float32(z*s) - 1./6
	s = float32(float32(z*s)*r) + r
	c = float32(z*(1./40320)) - 1./720
	c = float32(z*c) + 1./24
	c = float32(z*c) - 0.5
	c = float32(z*c) + 1
	if q&1 != 0 {
		s, c = c, s
	}
	// The signs: − for sin in quadrants 2 and 3, for cos in 1 and 2.
	s = math.Float32frombits(math.Float32bits(s) ^ q&2<<30)
	c = math.Float32frombits(math.Float32bits(c) ^ (q+1)&2<<30)
	return s, c
}
