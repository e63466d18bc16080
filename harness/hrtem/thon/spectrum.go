package thon

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
)

// Spectrum is the radial power spectrum of the relative intensity I/⟨I⟩ − 1 of an
// image, robust against the reflections of crystals.
type Spectrum struct {
	K     []float64 // spatial frequency of every ring of the spectrum in 1/Å
	Power []float64 // in Å²; counting noise of dose d is 1/d
	Error []float64 // standard error of ln Power
	Side  float64   // of the square that was transformed, in Å
}

// Image is a grey image of H rows and W columns whose zero is no electrons.
type Image struct {
	H, W   int
	Pixels []float32
	// X and Y are the sides of a pixel in Å, along a row and along a column.
	X, Y float64
}

const (
	// side of the squares in Å: at 1 1/Å their transform resolves the rings of
	// 100 nm of defocus.
	side = 100
	// bandwidth of the taper in samples of the spectrum, along both axes: ordinates
	// nearer than that are not independent.
	bandwidth = 1.5 * 1.5
	// leastSide and mostSide of the squares in pixels.
	leastSide, mostSide = 48, 1024
)

// check returns the mean intensity.
func (im Image) check() (float64, error) {
	if len(im.Pixels) != im.H*im.W || !(im.X > 0 && im.Y > 0) {
		return 0, fmt.Errorf("%d pixels of %g × %g Å for an image of %d×%d", len(im.Pixels), im.X, im.Y, im.H, im.W)
	}
	mean := 0.0
	for _, v := range im.Pixels {
		mean += float64(v)
	}
	mean /= float64(len(im.Pixels))
	if mean-mean != 0 {
		return 0, errors.New("the mean intensity is not finite")
	}
	if mean <= 0 {
		return 0, fmt.Errorf("the mean intensity is %g; where it is not positive, a background was subtracted that contrast is measured against", mean)
	}
	return mean, nil
}

func (im Image) small() error {
	return fmt.Errorf("%d×%d pixels are too few for a power spectrum: %d×%d are needed", im.H, im.W, leastSide, leastSide)
}

// Measure returns the spectrum of an image: the median over rings of the
// periodograms of squares that overlap by half and are tapered by a Hann window.
// Reflections of crystals are outliers on the rings, which the median stands.
func Measure(im Image) (*Spectrum, error) {
	mean, err := im.check()
	if err != nil {
		return nil, err
	}
	n := min(im.H, im.W, mostSide, max(leastSide, int(math.Ceil(side/min(im.X, im.Y)))))
	for n >= leastSide && !fft.Supported(n) {
		n--
	}
	if n < leastSide {
		return nil, im.small()
	}
	plan, err := fft.NewPlan(n)
	if err != nil {
		return nil, err
	}
	taper := make([]float64, n)
	norm := 0.0
	for i := range taper {
		s := math.Sin(math.Pi * (float64(i) + 0.5) / float64(n))
		taper[i] = s * s
		norm += taper[i] * taper[i]
	}
	power := make([]float64, n*n)
	rows, columns := starts(im.H, n), starts(im.W, n)
	wave := make([]complex64, n*n)
	f := fft.NewField(n)
	for _, y0 := range rows {
		for _, x0 := range columns {
			// the mean under the taper is taken off, so that it does not leak
			sum, weight := 0.0, 0.0
			for y := range n {
				for x := range n {
					w := taper[y] * taper[x]
					sum += w * float64(im.Pixels[(y0+y)*im.W+x0+x])
					weight += w
				}
			}
			local := sum / weight
			for y := range n {
				for x := range n {
					v := float64(im.Pixels[(y0+y)*im.W+x0+x])
					wave[y*n+x] = complex(float32(taper[y]*taper[x]*(v-local)/mean), 0)
				}
			}
			f.FromRows(n, wave)
			plan.Forward(f, f)
			for i := range power {
				power[i] += float64(f.Re[i])*float64(f.Re[i]) + float64(f.Im[i])*float64(f.Im[i])
			}
		}
	}
	squares := float64(len(rows) * len(columns))
	scale := im.X * im.Y / (norm * norm * squares)
	independent := worth(rows, taper, norm) * worth(columns, taper, norm)

	s := &Spectrum{Side: float64(n) * max(im.X, im.Y)}
	// rings are as wide as a sample of the spectrum along its wider axis
	step := 1 / (float64(n) * min(im.X, im.Y))
	end := 0.5 / max(im.X, im.Y)
	rings := make([][]float64, int(end/step))
	for kx := range n {
		for ky := range n/2 + 1 { // the other half is the same
			fx, fy := float64(fft.Frequency(n, kx))/(float64(n)*im.X), float64(fft.Frequency(n, ky))/(float64(n)*im.Y)
			if r := int(math.Hypot(fx, fy)/step + 0.5); r < len(rings) {
				rings[r] = append(rings[r], power[fft.Index(n, kx, ky)]*scale)
			}
		}
	}
	// what 2·m·P/⟨P⟩ of a mean of m periodograms is distributed like: χ² of 2m degrees
	degrees := 2 * independent
	for r, v := range rings {
		k := float64(r) * step
		if r < 3 { // the taper's leakage of what lies around k = 0
			continue
		}
		slices.Sort(v)
		m := len(v)
		median := (v[(m-1)/2] + v[m/2]) / 2
		if !(median > 0) {
			return nil, fmt.Errorf("the image has no contrast at %.3g 1/Å", k)
		}
		// Wilson and Hilferty's median of χ²/degrees
		median /= math.Pow(1-2/(9*degrees), 3)
		s.K = append(s.K, k)
		s.Power = append(s.Power, median)
		s.Error = append(s.Error, math.Sqrt(2.08/independent*bandwidth/float64(m)))
	}
	if len(s.K) < 12 {
		return nil, im.small()
	}
	return s, nil
}

// worth is how many independent periodograms the mean of those of squares that begin
// at these places is worth, by the correlation of tapers that overlap.
func worth(places []int, taper []float64, norm float64) float64 {
	sum := 0.0
	for _, a := range places {
		for _, b := range places {
			overlap := 0.0
			for i := range taper {
				if j := i + a - b; j >= 0 && j < len(taper) {
					overlap += taper[i] * taper[j]
				}
			}
			sum += overlap * overlap / (norm * norm)
		}
	}
	return float64(len(places)*len(places)) / sum
}

// starts places squares of side n along an axis, overlapping by at least half.
func starts(length, n int) []int {
	count := max(1, (2*length+n-1)/n-1)
	s := []int{0}
	for i := 1; i < count; i++ {
		s = append(s, i*(length-n)/(count-1))
	}
	return s
}
