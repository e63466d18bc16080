package hrtem

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
	"github.com/refocus-em/refocus/harness/hrtem/optics"
)

// Intensity writes the noiseless image of the whole output field, Output² pixels row
// by row, at an actual defocus label in Å. Vacuum has intensity 1.
func (s *Simulator) Intensity(ctx context.Context, sp *Specimen, defocus float64, dst []float32) error {
	n := s.config.Output * s.config.Output
	if len(dst) != n {
		return fmt.Errorf("image of %d pixels into a slice of %d", n, len(dst))
	}
	if len(sp.Waves) == 0 {
		return fmt.Errorf("specimen %d of %q has no exit waves", sp.Info.Index, sp.Info.Split)
	}
	spectra := make([]fft.Field, len(sp.Waves))
	for i, w := range sp.Waves {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(w) != n {
			return fmt.Errorf("specimen %d of %q: exit wave of %d values, want %d", sp.Info.Index, sp.Info.Split, len(w), n)
		}
		spectra[i] = s.lens.Spectrum(w)
	}
	s.lens.Intensity(dst, spectra, sp.Info.FocusOffset+float64(float64(s.config.DefocusSign)*defocus))
	return nil
}

// Counts images a specimen: it draws the actual defocus and the electrons in every
// pixel of the crop from rng, in this order. dst has Crop² elements. It returns the
// actual defocus label in Å.
//
// A pixel of side p and intensity I collects Poisson(dose·p²·I) electrons.
func (s *Simulator) Counts(ctx context.Context, sp *Specimen, c Conditions, rng *rand.Rand, dst []float32) (actual float64, err error) {
	if !(c.Dose >= 0 && c.Dose <= maxDose) {
		return 0, fmt.Errorf("dose is %v e⁻/Å², want 0 to %v", c.Dose, float64(maxDose))
	}
	if !(c.DefocusStd >= 0 && c.DefocusStd <= maxDefocus && math.Abs(c.Defocus) <= maxDefocus) {
		return 0, fmt.Errorf("defocus is %v ± %v Å, want at most %v Å", c.Defocus, c.DefocusStd, float64(maxDefocus))
	}
	crop, n := s.config.Crop, s.config.Output
	if len(dst) != crop*crop {
		return 0, fmt.Errorf("image of %d pixels into a slice of %d", crop*crop, len(dst))
	}
	x0, y0 := sp.Info.Crop[0], sp.Info.Crop[1]
	if x0 < 0 || y0 < 0 || x0+crop > n || y0+crop > n {
		return 0, fmt.Errorf("specimen %d of %q: a crop of %d pixels at %v leaves the field of %d", sp.Info.Index, sp.Info.Split, crop, sp.Info.Crop, n)
	}
	actual = c.draw(rng)
	intensity := make([]float32, n*n)
	if err := s.Intensity(ctx, sp, actual, intensity); err != nil {
		return 0, err
	}
	px := s.config.Cell / float64(n)
	electrons := c.Dose * px * px
	for y := range crop {
		for x := range crop {
			i := float64(intensity[(y+y0)*n+x+x0])
			if !(i <= maxIntensity) {
				return 0, fmt.Errorf("specimen %d of %q: intensity %v at pixel (%d, %d), its exit waves are damaged", sp.Info.Index, sp.Info.Split, i, x, y)
			}
			mean := float64(electrons * i)
			dst[y*crop+x] = float32(optics.Poisson(rng, mean))
		}
	}
	return actual, nil
}

// draw returns an actual defocus label in Å: normal around the nominal one.
func (c Conditions) draw(rng *rand.Rand) float64 {
	return c.Defocus + float64(c.DefocusStd*portable.Normal(rng))
}

// Limits that keep a simulated image meaningful and its cost bounded.
const (
	maxDose    = 1e5 // e⁻/Å²
	maxDefocus = 1e5 // Å
	// No wave that started as 1 interferes to more than a few times that.
	maxIntensity = 1e3
)

// Image is Counts followed by the standardisation to mean 0 and variance 1.
func (s *Simulator) Image(ctx context.Context, sp *Specimen, c Conditions, rng *rand.Rand, dst []float32) (actual float64, err error) {
	actual, err = s.Counts(ctx, sp, c, rng, dst)
	if err != nil {
		return 0, err
	}
	optics.Standardize(dst)
	return actual, nil
}
