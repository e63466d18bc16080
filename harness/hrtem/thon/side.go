package thon

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
)

// Skewness is the normalised third moment of an image whose phase reversals are taken
// back, and its standard error.
type Skewness struct{ Value, Error float64 }

// Score is the skewness in standard errors.
func (s Skewness) Score() float64 {
	if s.Error == 0 {
		return 0
	}
	return s.Value / s.Error
}

const (
	// lowest frequency in 1/Å that Side looks at: below it particles and illumination
	// outweigh the atoms.
	lowest = 0.25
	// blocks per side, from whose spread the standard error comes.
	blocks = 4
)

// Side restores the phase of an image as if the support had an underfocus of the
// magnitude, thickness and noise of a fit, and returns its skewness: positive in
// underfocus, negative in overfocus. Each amplitude is weighted as by N. Wiener.
func Side(im Image, o Optics, b Best) (Skewness, error) {
	mean, err := im.check()
	if err != nil {
		return Skewness{}, err
	}
	n := min(im.H, im.W)
	for n >= leastSide && !fft.Supported(n) {
		n--
	}
	n = min(n, mostSide)
	if n < leastSide {
		return Skewness{}, im.small()
	}
	plan, err := fft.NewPlan(n)
	if err != nil {
		return Skewness{}, err
	}
	// the middle of the image
	y0, x0 := (im.H-n)/2, (im.W-n)/2
	wave := make([]complex64, n*n)
	for y := range n {
		for x := range n {
			wave[y*n+x] = complex(float32(float64(im.Pixels[(y0+y)*im.W+x0+x])/mean-1), 0)
		}
	}
	f := fft.NewField(n)
	f.FromRows(n, wave)
	plan.Forward(f, f)
	const bins = 4096
	edge := math.Hypot(0.5/im.X, 0.5/im.Y)
	var weights [bins + 1]float32
	l := o.lens()
	for i := range weights {
		if k := edge * float64(i) / bins; k > lowest {
			full := l.scattered(k) * b.Thickness
			x := math.Pi * l.lambda * b.Thickness * k * k / 2
			transfer := math.Sin(math.Pi*l.lambda*b.Defocus*k*k) * math.Sin(x) / x
			weights[i] = float32(-transfer * full / (transfer*transfer*full + b.Noise))
		}
	}
	for kx := range n {
		for ky := range n {
			fx, fy := float64(fft.Frequency(n, kx))/(float64(n)*im.X), float64(fft.Frequency(n, ky))/(float64(n)*im.Y)
			w := weights[int(math.Hypot(fx, fy)/edge*bins)]
			i := fft.Index(n, kx, ky)
			f.Re[i] *= w
			f.Im[i] *= w
		}
	}
	plan.Inverse(f, f)
	var second float64
	var third [blocks * blocks]float64
	for y := range n {
		for x := range n {
			v := float64(f.Re[fft.Index(n, y, x)])
			second += v * v
			third[y*blocks/n*blocks+x*blocks/n] += v * v * v
		}
	}
	if second == 0 {
		return Skewness{}, nil
	}
	second /= float64(n * n)
	scale := blocks * blocks / (float64(n*n) * math.Pow(second, 1.5))
	var s Skewness
	for _, v := range third {
		s.Value += v * scale / (blocks * blocks)
	}
	for _, v := range third {
		d := v*scale - s.Value
		s.Error += d * d / (blocks*blocks - 1)
	}
	s.Error = math.Sqrt(s.Error / (blocks * blocks))
	if s.Value-s.Value != 0 || s.Error-s.Error != 0 {
		return Skewness{}, fmt.Errorf("the image's third moment is not a number")
	}
	return s, nil
}
