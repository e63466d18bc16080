package fft

import (
	"math"
	"math/cmplx"
	"math/rand/v2"
	"strconv"
	"testing"

	"gonum.org/v1/gonum/dsp/fourier"

	"github.com/refocus-em/refocus/harness/random"
)

var sides = []int{16, 32, 48, 80, 96, 128, 144, 160, 240, 256}

func randomField(n int, r *rand.Rand) Field {
	f := NewField(n)
	for i := range f.Re {
		f.Re[i], f.Im[i] = float32(r.NormFloat64()), float32(r.NormFloat64())
	}
	return f
}

// dft is the definition: two passes of the direct sum in float64. The result is
// indexed [ky·n + kx].
func dft(n int, f Field) []complex128 {
	roots := make([]complex128, n)
	for i := range roots {
		roots[i] = cmplx.Rect(1, -2*math.Pi*float64(i)/float64(n))
	}
	mid := make([]complex128, n*n)
	for y := range n {
		for kx := range n {
			var s complex128
			for x := range n {
				i := Index(n, y, x)
				s += complex(float64(f.Re[i]), float64(f.Im[i])) * roots[kx*x%n]
			}
			mid[y*n+kx] = s
		}
	}
	out := make([]complex128, n*n)
	for ky := range n {
		for kx := range n {
			var s complex128
			for y := range n {
				s += mid[y*n+kx] * roots[ky*y%n]
			}
			out[ky*n+kx] = s
		}
	}
	return out
}

// relative returns the root mean square of the difference over that of want.
func relative(got func(i int) complex128, want []complex128) float64 {
	var d, w float64
	for i, v := range want {
		d += math.Pow(cmplx.Abs(got(i)-v), 2)
		w += math.Pow(cmplx.Abs(v), 2)
	}
	return math.Sqrt(d / w)
}

// A float32 transform of 16 to 256 points per axis accumulates a few roundings of
// 6e-8 each; 4e-7 leaves a factor of about two.
func TestForwardAgainstDefinition(t *testing.T) {
	for _, n := range sides {
		p, err := NewPlan(n)
		if err != nil {
			t.Fatal(err)
		}
		src := randomField(n, random.Stream(1, "test", uint64(n)))
		want := dft(n, src)
		got := NewField(n)
		p.Forward(got, src)
		e := relative(func(i int) complex128 {
			j := Index(n, i%n, i/n) // spectrum: kx first
			return complex(float64(got.Re[j]), float64(got.Im[j]))
		}, want)
		if e > 4e-7 {
			t.Errorf("side %d: relative error %.2g", n, e)
		}
	}
}

func TestInverseUndoesForward(t *testing.T) {
	for _, n := range []int{48, 640} {
		p, err := NewPlan(n)
		if err != nil {
			t.Fatal(err)
		}
		src := randomField(n, random.Stream(1, "test", uint64(n)))
		got := NewField(n)
		p.Forward(got, src)
		p.Inverse(got, got)
		var d, w float64
		for i := range src.Re {
			d += math.Pow(float64(got.Re[i])/float64(n*n)-float64(src.Re[i]), 2)
			w += math.Pow(float64(src.Re[i]), 2)
		}
		if e := math.Sqrt(d / w); e > 4e-7 {
			t.Errorf("side %d: relative error %.2g", n, e)
		}
	}
}

// Filter with two terms, a real and a complex function inside a band, against
// the definition.
func TestFilter(t *testing.T) {
	const n, band = 80, 21
	p, err := NewPlan(n)
	if err != nil {
		t.Fatal(err)
	}
	r := random.Stream(3, "test")
	a, b := randomField(n, r), randomField(n, r)
	fa, fb := randomField(n, r), randomField(n, r)
	fa.Im = nil
	fourA, fourB := dft(n, a), dft(n, b)
	sum := NewField(n) // conjugated spectrum, as a field
	one := NewField(n)
	for ky := range n {
		for kx := range n {
			i := Index(n, kx, ky)
			kx0, ky0 := Frequency(n, kx), Frequency(n, ky)
			if max(kx0, -kx0) > band || max(ky0, -ky0) > band {
				fa.Re[i], fb.Re[i], fb.Im[i] = 0, 0, 0
			}
			hb := complex(float64(fb.Re[i]), float64(fb.Im[i]))
			s := fourA[ky*n+kx]*complex(float64(fa.Re[i]), 0) + fourB[ky*n+kx]*hb
			j := Index(n, ky, kx)
			sum.Re[j], sum.Im[j] = float32(real(s)), float32(-imag(s))
			s = fourB[ky*n+kx] * hb
			one.Re[j], one.Im[j] = float32(real(s)), float32(-imag(s))
		}
	}
	check := func(name string, got Field, spectrum Field) {
		want := dft(n, spectrum) // conjugate of the inverse transform
		e := relative(func(i int) complex128 {
			j := Index(n, i/n, i%n)
			return complex(float64(got.Re[j]), -float64(got.Im[j]))
		}, want)
		if e > 6e-7 {
			t.Errorf("%s: relative error %.2g", name, e)
		}
	}
	dst := NewField(n)
	p.Filter(dst, band, Term{a, fa.Re, nil}, Term{b, fb.Re, fb.Im})
	check("two terms", dst, sum)
	p.Filter(b, band, Term{b, fb.Re, fb.Im})
	check("in place", b, one)
}

func TestSupported(t *testing.T) {
	for _, n := range []int{-16, 0, 1, 15, 17, 40, 112, 176} {
		if Supported(n) {
			t.Errorf("side %d is reported as supported", n)
		}
		if _, err := NewPlan(n); err == nil {
			t.Errorf("NewPlan(%d) gives no error", n)
		}
	}
	for _, n := range append(sides, 1280) {
		if !Supported(n) {
			t.Errorf("side %d is reported as not supported", n)
		}
	}
}

// Each iteration is a forward and an inverse transform, 2·5·n²·log2(n²) operations
// by the usual count.
func BenchmarkFilter(b *testing.B) {
	for _, n := range []int{128, 256, 640, 1280} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			p, err := NewPlan(n)
			if err != nil {
				b.Fatal(err)
			}
			f := randomField(n, random.Stream(1, "bench"))
			h := make([]float32, n*n)
			for b.Loop() {
				p.Filter(f, n, Term{f, h, h})
			}
			flops(b, n)
		})
	}
}

// The same two transforms with gonum's complex128 package, row by row and column
// by column.
func BenchmarkGonum(b *testing.B) {
	for _, n := range []int{256, 1280} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			f := fourier.NewCmplxFFT(n)
			m := make([]complex128, n*n)
			line := make([]complex128, n)
			pass := func(one func(dst, src []complex128) []complex128) {
				for y := range n {
					one(m[y*n:y*n+n], m[y*n:y*n+n])
				}
				for x := range n {
					for y := range n {
						line[y] = m[y*n+x]
					}
					one(line, line)
					for y := range n {
						m[y*n+x] = line[y]
					}
				}
			}
			for b.Loop() {
				pass(f.Coefficients)
				pass(f.Sequence)
			}
			flops(b, n)
		})
	}
}

func flops(b *testing.B, n int) {
	count := 2 * 5 * float64(n*n) * math.Log2(float64(n*n)) * float64(b.N)
	b.ReportMetric(count/b.Elapsed().Seconds()/1e9, "Gflop/s")
}
