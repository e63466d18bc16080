// Package optics turns exit waves into images: the objective lens, the electron
// counts, and the standardisation that a network sees.
//
// A lens without spherical aberration at defocus Δf and with focal spread Δ
// multiplies the wave's spectrum by
//
//	exp(iπλΔf·k²)·E(k),  E(k) = exp(−(½πλΔ·k²)²)
//
// Δf is in Å and positive for underfocus (abTEM's sign): a positive Δf propagates
// the exit wave backwards. Δ is the 1/e half width of the focus distribution, √2
// times its standard deviation. The study mentions neither a spherical aberration
// (its microscope is corrected) nor an aperture, a spatial coherence envelope or a
// detector response; none is applied.
package optics

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/kernel"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
)

// Options describe the field and the lens.
type Options struct {
	Samples     int     // per side of the waves
	Cell        float64 // side of the field in Å
	Energy      float64 // eV
	FocalSpread float64 // Å
}

// Imager is a lens for fields of one size. It is safe for concurrent use.
type Imager struct {
	o        Options
	plan     *fft.Plan
	lambda   float64
	envelope []float32 // E/Samples², laid out like a spectrum
}

// New makes the tables of a lens.
func New(o Options) (*Imager, error) {
	plan, err := fft.NewPlan(o.Samples)
	if err != nil {
		return nil, fmt.Errorf("image: %w", err)
	}
	im := &Imager{o: o, plan: plan, lambda: kirkland.Wavelength(o.Energy)}
	n := o.Samples
	im.envelope = make([]float32, n*n)
	for kx := range n {
		for ky := range n {
			fx, fy := fft.Frequency(n, kx), fft.Frequency(n, ky)
			k2 := float64(fx*fx+fy*fy) / float64(o.Cell*o.Cell)
			im.envelope[fft.Index(n, kx, ky)] = float32(Envelope(im.lambda, o.FocalSpread, k2) / float64(n*n))
		}
	}
	return im, nil
}

// Envelope returns E at a squared frequency k2 in 1/Å², for a wavelength and a
// focal spread in Å.
func Envelope(lambda, spread, k2 float64) float64 {
	x := math.Pi / 2 * lambda * spread * k2
	return portable.Exp(-float64(x * x))
}

// Spectrum returns the spectrum of a wave (row by row) times the envelope.
func (im *Imager) Spectrum(rows []complex64) fft.Field {
	f := fft.NewField(im.o.Samples)
	f.FromRows(im.o.Samples, rows)
	im.plan.Forward(f, f)
	for i, e := range im.envelope {
		f.Re[i] *= e
		f.Im[i] *= e
	}
	return f
}

// intensity adds |ψ|² of a spectrum at a defocus to sum, in the layout of a field.
// work is overwritten.
func (im *Imager) intensity(sum []float32, work, spectrum fft.Field, defocus float64) {
	n := im.o.Samples
	// The phase is separable: exp(iπλΔf·kx²)·exp(iπλΔf·ky²).
	phase := kernel.Planes{Re: make([]float32, n), Im: make([]float32, n)}
	for i := range n {
		f := float64(fft.Frequency(n, i)) / im.o.Cell
		s, c := portable.SinCos(math.Pi * im.lambda * defocus * f * f)
		phase.Re[i], phase.Im[i] = float32(c), float32(s)
	}
	for kx := 0; kx < n; kx += fft.Lanes {
		lo, hi := fft.Index(n, kx, 0), fft.Index(n, kx+fft.Lanes, 0)
		kernel.Best.Rotate(
			kernel.Planes{Re: work.Re[lo:hi], Im: work.Im[lo:hi]},
			kernel.Planes{Re: spectrum.Re[lo:hi], Im: spectrum.Im[lo:hi]},
			phase,
			kernel.Planes{Re: phase.Re[kx : kx+fft.Lanes], Im: phase.Im[kx : kx+fft.Lanes]},
		)
	}
	im.plan.Inverse(work, work)
	kernel.Best.AddNorm(sum, kernel.Planes(work))
}

// mean returns the mean intensity over spectra at a defocus in Å, in the layout of
// a field.
func (im *Imager) mean(spectra []fft.Field, defocus float64) []float32 {
	n := im.o.Samples
	sum := make([]float32, n*n)
	work := fft.NewField(n)
	for _, s := range spectra {
		im.intensity(sum, work, s, defocus)
	}
	for i := range sum {
		sum[i] /= float32(len(spectra))
	}
	return sum
}

// Intensity writes the mean intensity of waves, given as spectra, at a defocus in
// Å to dst, row by row. Vacuum has intensity 1. Averaging intensities, not waves,
// keeps what is scattered by thermal motion.
func (im *Imager) Intensity(dst []float32, spectra []fft.Field, defocus float64) {
	n := im.o.Samples
	mean := im.mean(spectra, defocus)
	for y := range n {
		i := fft.Index(n, y, 0)
		for x := range n {
			dst[y*n+x] = mean[i]
			i += fft.Lanes
		}
	}
}

// contrast returns the standard deviation of the intensity at a defocus.
func (im *Imager) contrast(spectra []fft.Field, defocus float64) float64 {
	sum, squares := 0.0, 0.0
	mean := im.mean(spectra, defocus)
	for _, v := range mean {
		d := float64(v) - 1 // the mean is about 1: no cancellation in the variance
		sum += d
		squares += float64(d * d)
	}
	n := float64(len(mean))
	sum /= n
	return math.Sqrt(max(0, squares/n-float64(sum*sum)))
}

// ZeroDefocus finds the defocus in Å at which the intensity varies least: the
// study's two-stage search, on steps of 1 Å within ±span of guess, then of 0.1 Å
// around the best. It returns the contrast there, too. A minimum at the end of the
// range is an error.
func (im *Imager) ZeroDefocus(ctx context.Context, spectra []fft.Field, guess float64, span int) (defocus, contrast float64, err error) {
	search := func(centre, step float64, span int) (int, float64, error) {
		best, least := 0, math.Inf(1)
		for i := -span; i <= span; i++ {
			if err := ctx.Err(); err != nil {
				return 0, 0, err
			}
			if c := im.contrast(spectra, centre+float64(float64(i)*step)); c < least {
				best, least = i, c
			}
		}
		return best, least, nil
	}
	guess = math.Floor(guess + 0.5)
	coarse, _, err := search(guess, 1, span)
	if err != nil {
		return 0, 0, err
	}
	if coarse == -span || coarse == span {
		return 0, 0, fmt.Errorf("zero defocus: contrast still falls at the end of the range of %v ± %d Å", guess, span)
	}
	centre := guess + float64(coarse)
	fine, contrast, err := search(centre, 0.1, 10)
	return centre + float64(float64(fine)*0.1), contrast, err
}
