package optics

import (
	"context"
	"math"
	"math/cmplx"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
	"github.com/refocus-em/refocus/harness/random"
)

const energy = 300e3

func newImager(t testing.TB, o Options) *Imager {
	t.Helper()
	im, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// E at Δ = 10 Å and 300 kV from its formula evaluated elsewhere, to 1e-5.
func TestEnvelope(t *testing.T) {
	lambda := kirkland.Wavelength(energy)
	for k, want := range map[float64]float64{0: 1, 0.5: 0.99404, 1: 0.90879, 1.5: 0.61622, 2: 0.21650, 2.5: 0.02385} {
		if got := Envelope(lambda, 10, k*k); math.Abs(got-want) > 1e-5 {
			t.Errorf("E(%v) = %.5f, want %.5f", k, got, want)
		}
	}
	if got := Envelope(lambda, math.Sqrt2*10, 1); math.Abs(got-0.82591) > 1e-5 {
		t.Errorf("E(1) at Δ = 14.14 Å = %.5f, want 0.82591", got)
	}
}

// A pair of waves imaged through the definition: float64 sums over all
// frequencies, intensities averaged afterwards.
func TestIntensityAgainstDefinition(t *testing.T) {
	const n, cell, defocus, spread = 32, 8.0, 137.0, 25.0
	im := newImager(t, Options{Samples: n, Cell: cell, Energy: energy, FocalSpread: spread})
	r := random.Stream(1, "test")
	lambda := kirkland.Wavelength(energy)
	want := make([]float64, n*n)
	var spectra []fft.Field
	for range 2 {
		wave := make([]complex64, n*n)
		for i := range wave {
			wave[i] = complex(1+float32(0.2*r.NormFloat64()), float32(0.2*r.NormFloat64()))
		}
		spectra = append(spectra, im.Spectrum(wave))
		image := make([]complex128, n*n)
		for ky := -n / 2; ky < n/2; ky++ {
			for kx := -n / 2; kx < n/2; kx++ {
				var c complex128
				for y := range n {
					for x := range n {
						c += complex128(wave[y*n+x]) * cmplx.Rect(1, -2*math.Pi*float64((kx*x+ky*y)%n)/n)
					}
				}
				k2 := float64(kx*kx+ky*ky) / (cell * cell)
				e := math.Exp(-math.Pow(math.Pi/2*lambda*spread*k2, 2))
				c *= cmplx.Rect(e/(n*n), math.Pi*lambda*defocus*k2)
				for y := range n {
					for x := range n {
						image[y*n+x] += c * cmplx.Rect(1, 2*math.Pi*float64((kx*x+ky*y)%n)/n)
					}
				}
			}
		}
		for i, v := range image {
			want[i] += (real(v)*real(v) + imag(v)*imag(v)) / 2
		}
	}
	got := make([]float32, n*n)
	im.Intensity(got, spectra, defocus)
	for i := range want {
		if math.Abs(float64(got[i])-want[i]) > 3e-6 {
			t.Fatalf("pixel %d: intensity %v, want %v", i, got[i], want[i])
		}
	}
}

// weak is a wave with phase and amplitude contrast of 10⁻⁴ at several frequencies.
func weak(n int) []complex64 {
	wave := make([]complex64, n*n)
	for y := range n {
		for x := range n {
			re, im := 1.0, 0.0
			for j, k := range [][2]int{{3, 1}, {7, -4}, {11, 9}, {-2, 15}} {
				p := 2 * math.Pi * float64(k[0]*x+k[1]*y) / float64(n)
				re += 1e-4 * math.Cos(p+float64(j))
				im += 3e-4 * math.Cos(p+2*float64(j))
			}
			wave[y*n+x] = complex(float32(re), float32(im))
		}
	}
	return wave
}

// The envelope is what averaging intensities over focus does to a weak object: a
// Gaussian focus distribution of standard deviation Δ/√2 gives the image with E to
// 10⁻³ of its contrast.
func TestEnvelopeIsAFocalAverage(t *testing.T) {
	const n, cell, spread = 48, 10.0, 30.0
	sharp := newImager(t, Options{Samples: n, Cell: cell, Energy: energy})
	damped := newImager(t, Options{Samples: n, Cell: cell, Energy: energy, FocalSpread: spread})
	wave := weak(n)
	want, one := make([]float32, n*n), make([]float32, n*n)
	damped.Intensity(want, []fft.Field{damped.Spectrum(wave)}, 60)
	sum := make([]float64, n*n)
	spectra := []fft.Field{sharp.Spectrum(wave)}
	const steps = 60
	weights := 0.0
	for i := -steps; i <= steps; i++ {
		u := 4 * float64(i) / steps // in standard deviations
		w := math.Exp(-u * u / 2)
		sharp.Intensity(one, spectra, 60+u*spread/math.Sqrt2)
		for j, v := range one {
			sum[j] += w * (float64(v) - 1)
		}
		weights += w
	}
	worst, contrast := 0.0, 0.0
	for j := range sum {
		worst = max(worst, math.Abs(sum[j]/weights-(float64(want[j])-1)))
		contrast = max(contrast, math.Abs(float64(want[j])-1))
	}
	if worst > 1e-3*contrast+3e-7 { // 3e-7: float32 intensities near 1
		t.Errorf("average and envelope differ by %.2g, the contrast is %.2g", worst, contrast)
	}
}

// An object that is in focus a known distance upstream has its least contrast
// there; a range that does not hold it is an error.
func TestZeroDefocus(t *testing.T) {
	const n = 48
	im := newImager(t, Options{Samples: n, Cell: 10, Energy: energy, FocalSpread: 10})
	wave := make([]complex64, n*n)
	for i, v := range weak(n) {
		wave[i] = complex(1, imag(v)) // a phase object
	}
	spectra := []fft.Field{im.Spectrum(wave)}
	// Defocus of the lens by −23.4 Å stands for propagation by that distance.
	moved := spectra[0]
	for kx := range n {
		for ky := range n {
			fx, fy := float64(fft.Frequency(n, kx))/10, float64(fft.Frequency(n, ky))/10
			s, c := math.Sincos(-math.Pi * im.lambda * 23.4 * (fx*fx + fy*fy))
			i := fft.Index(n, kx, ky)
			a, b := float64(moved.Re[i]), float64(moved.Im[i])
			moved.Re[i], moved.Im[i] = float32(a*c-b*s), float32(a*s+b*c)
		}
	}
	f, contrast, err := im.ZeroDefocus(context.Background(), spectra, 20, 40)
	if err != nil || math.Abs(f-23.4) > 0.051 || contrast > 1e-5 {
		t.Errorf("zero defocus %v, contrast %.2g, %v; want 23.4", f, contrast, err)
	}
	if _, _, err := im.ZeroDefocus(context.Background(), spectra, 10, 5); err == nil || !strings.Contains(err.Error(), "end of the range") {
		t.Errorf("a minimum outside the range gives %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := im.ZeroDefocus(ctx, spectra, 20, 40); err == nil {
		t.Error("a cancelled search goes on")
	}
}

// 10⁶ counts: mean and variance within 1 %, the share of zeros within four standard
// errors, for means below and above the split.
func TestPoisson(t *testing.T) {
	r := random.Stream(2, "test")
	for _, mean := range []float64{0, 1.2, 16, 96} {
		const n = 300000
		sum, squares, zeros := 0.0, 0.0, 0
		for range n {
			k := Poisson(r, mean)
			sum += float64(k)
			squares += float64(k) * float64(k)
			if k == 0 {
				zeros++
			}
		}
		m := sum / n
		v := squares/n - m*m
		if math.Abs(m-mean) > 0.01*mean || math.Abs(v-mean) > 0.012*mean {
			t.Errorf("mean %v: got %.4f, variance %.4f", mean, m, v)
		}
		p := math.Exp(-mean)
		if d := float64(zeros)/n - p; math.Abs(d) > 4*math.Sqrt(p*(1-p)/n) {
			t.Errorf("mean %v: share of zeros %.4f, want %.4f", mean, float64(zeros)/n, p)
		}
	}
}

// The whole distribution at a mean of 40, which is drawn in two parts: χ² over the
// counts 20 to 60 stays below its 99.9 % point, 73.4 for 40 degrees of freedom.
func TestPoissonSum(t *testing.T) {
	r := random.Stream(3, "test")
	const n, mean = 200000, 40.0
	var histogram [200]float64
	for range n {
		histogram[Poisson(r, mean)]++
	}
	chi2 := 0.0
	for k := 20; k <= 60; k++ {
		l, _ := math.Lgamma(float64(k + 1))
		want := n * math.Exp(float64(k)*math.Log(mean)-mean-l)
		chi2 += (histogram[k] - want) * (histogram[k] - want) / want
	}
	if chi2 > 73.4 {
		t.Errorf("χ² = %.1f", chi2)
	}
}

func TestStandardize(t *testing.T) {
	r := random.Stream(4, "test")
	x, y := make([]float32, 4096), make([]float32, 4096)
	for i := range x {
		x[i] = float32(Poisson(r, 16))
		y[i] = 3*x[i] + 50
	}
	Standardize(x)
	Standardize(y)
	mean, variance := 0.0, 0.0
	for i, v := range x {
		mean += float64(v) / 4096
		variance += float64(v) * float64(v) / 4096
		if math.Abs(float64(v-y[i])) > 1e-6 {
			t.Fatalf("3x + 50 is standardised to %v, x to %v", y[i], v)
		}
	}
	if math.Abs(mean) > 1e-6 || math.Abs(variance-1) > 1e-6 {
		t.Errorf("mean %.2g, variance %.8f", mean, variance)
	}
	constant := []float32{7, 7, 7}
	Standardize(constant)
	if constant[0] != 0 || constant[2] != 0 {
		t.Errorf("a constant becomes %v", constant)
	}
	Standardize(nil)
}
