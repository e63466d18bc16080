package hrtem

import (
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
)

// label sets the specimen's label from the exit waves of its particles in vacuum.
//
// The waves are averaged over the phonon draws; where the phase exceeds
// LabelPhase the binary map is 1. The map is blurred by a periodic Gaussian and
// cut at LabelLevel. The phase gathers in the atomic columns, so the map alone has
// holes between them; the low level closes these and gives the particles'
// outlines for every element. Plane, average, meaning of the blur and level are our
// choices.
func (s *Simulator) label(sp *Specimen, vacuum [][]complex64) {
	c := s.config
	n := c.Output
	sin, cos := portable.SinCos(c.LabelPhase)
	field := fft.NewField(n)
	for y := range n {
		for x := range n {
			re, im := 0.0, 0.0
			for _, v := range vacuum {
				re += float64(real(v[y*n+x]))
				im += float64(imag(v[y*n+x]))
			}
			// arg ψ in (LabelPhase, π], without an arc tangent.
			if im >= 0 && float64(cos*im)-float64(sin*re) > 0 {
				field.Re[fft.Index(n, y, x)] = 1
			}
		}
	}
	s.plan.Filter(field, n, fft.Term{Src: field, Re: s.blur})

	mask := make([]bool, n*n)
	label, discs, both := 0, 0, 0
	for y := range n {
		for x := range n {
			in := field.Re[fft.Index(n, y, x)] > float32(c.LabelLevel)
			mask[y*n+x] = in
			disc := c.covered(sp.Info.Particles, x, y)
			if in {
				label++
			}
			if disc {
				discs++
			}
			if in && disc {
				both++
			}
		}
	}
	if discs > 0 {
		sp.Info.AreaRatio = float64(label) / float64(discs)
		sp.Info.IoU = float64(both) / float64(label+discs-both)
	}

	sp.Label = make([]uint8, c.Crop*c.Crop)
	ones := 0
	for y := range c.Crop {
		for x := range c.Crop {
			if mask[(y+sp.Info.Crop[1])*n+x+sp.Info.Crop[0]] {
				sp.Label[y*c.Crop+x] = 1
				ones++
			}
		}
	}
	sp.Info.LabelFraction = float64(ones) / float64(len(sp.Label))
}

// blurFilter returns exp(−2π²σ²k²)/Output², laid out like a spectrum.
func (c Config) blurFilter() []float32 {
	n := c.Output
	filter := make([]float32, n*n)
	for kx := range n {
		for ky := range n {
			fx, fy := fft.Frequency(n, kx), fft.Frequency(n, ky)
			k2 := float64(fx*fx+fy*fy) / float64(c.Cell*c.Cell)
			filter[fft.Index(n, kx, ky)] = float32(portable.Exp(-2*math.Pi*math.Pi*c.LabelBlur*c.LabelBlur*k2) / float64(n*n))
		}
	}
	return filter
}

// covered reports whether the pixel lies within a particle's disc.
func (c Config) covered(particles []Particle, x, y int) bool {
	px := c.Cell / float64(c.Output)
	p := [3]float64{float64(float64(x) * px), float64(float64(y) * px)}
	for _, q := range particles {
		if c.lateral(p, q.Centre) <= float64(q.Radius*q.Radius) {
			return true
		}
	}
	return false
}
