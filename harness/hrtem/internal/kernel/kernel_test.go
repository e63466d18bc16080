package kernel

import (
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

const guard = 8 // values on each side that a kernel must not touch

// values returns n normal variates between guards.
func values(r *rand.Rand, n int) []float32 {
	x := make([]float32, n+2*guard)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

func inner(x []float32) []float32 { return x[guard : len(x)-guard] }

func planes(r *rand.Rand, n int) Planes { return Planes{values(r, n), values(r, n)} }

func innerPlanes(p Planes) Planes { return Planes{inner(p.Re), inner(p.Im)} }

// cases calls every kernel of a set on inputs drawn from r and returns all memory
// it could have written to.
func cases(s *Set, r *rand.Rand) map[string][]float32 {
	out := map[string][]float32{}
	keep := func(name string, p Planes) {
		out[name+" real"], out[name+" imaginary"] = p.Re, p.Im
	}
	for _, radix := range []int{2, 3, 4, 5} {
		for _, size := range [][2]int{{1, 16}, {1, 48}, {3, 16}, {2, 80}, {7, 32}} {
			m, w := size[0], size[1]
			dst, src := planes(r, m*w*radix), planes(r, m*w*radix)
			tw := inner(values(r, m*2*(radix-1)))
			s.Stages[radix](innerPlanes(dst), innerPlanes(src), m, w, tw)
			keep("stage "+string(rune('0'+radix))+" of "+string(rune('0'+m)), dst)
		}
	}
	for _, n := range []int{0, 16, 48, 160} {
		for name, f := range map[string]func(dst, x, h Planes){"multiply": s.Multiply, "multiply-add": s.MultiplyAdd, "scale": s.Scale, "scale-add": s.ScaleAdd} {
			// Map order must not change the draws.
			q := random.Stream(uint64(n), name)
			dst, x, h := planes(q, n), planes(q, n), planes(q, n)
			f(innerPlanes(dst), innerPlanes(x), innerPlanes(h))
			keep(name+" of "+string(rune('0'+n/16)), dst)
		}
		psi, phase := planes(r, n), values(r, n)
		for i := range phase {
			phase[i] *= 30
		}
		s.Transmit(innerPlanes(psi), inner(phase))
		keep("transmit", psi)
		sum := values(r, n)
		s.AddNorm(inner(sum), innerPlanes(psi))
		out["norm"] = sum
	}
	for _, n := range []int{0, 1, 5} {
		dst, x, rows, column := planes(r, 16*n), planes(r, 16*n), planes(r, n), planes(r, 16)
		s.Rotate(innerPlanes(dst), innerPlanes(x), innerPlanes(rows), innerPlanes(column))
		keep("rotate", dst)
	}
	dst := values(r, 256)
	s.Transpose(inner(dst), inner(values(r, 256)))
	out["transpose"] = dst
	return out
}

// The assembly and its portable twin give the same bits and write nothing else.
func TestSetsAgree(t *testing.T) {
	if native == nil {
		t.Skip("no assembly for this processor")
	}
	want, got := cases(&portable, random.Stream(1, "test")), cases(native, random.Stream(1, "test"))
	for name, w := range want {
		for i, v := range w {
			if math.Float32bits(got[name][i]) != math.Float32bits(v) {
				t.Errorf("%s: value %d is %v, want %v", name, i-guard, got[name][i], v)
				break
			}
		}
	}
}

// The stages against their definition in complex128.
func TestStages(t *testing.T) {
	r := random.Stream(2, "test")
	for _, radix := range []int{2, 3, 4, 5} {
		const m, w = 3, 16
		dst, src := innerPlanes(planes(r, m*w*radix)), innerPlanes(planes(r, m*w*radix))
		tw := values(r, m*2*(radix-1))
		Best.Stages[radix](dst, src, m, w, tw)
		for p := range m {
			for k := range radix {
				f := complex(1, 0)
				if k > 0 {
					i := 2 * (p*(radix-1) + k - 1)
					f = complex(float64(tw[i]), float64(tw[i+1]))
				}
				for q := range w {
					var want complex128
					for j := range radix {
						i := (p+m*j)*w + q
						want += complex(float64(src.Re[i]), float64(src.Im[i])) * cmplx.Rect(1, -2*math.Pi*float64(j*k)/float64(radix))
					}
					want *= f
					i := (radix*p+k)*w + q
					if got := complex(float64(dst.Re[i]), float64(dst.Im[i])); cmplx.Abs(got-want) > 5e-6 {
						t.Fatalf("radix %d: %v, want %v", radix, got, want)
					}
				}
			}
		}
	}
}

// sincos against the standard library: 1.5·10⁻⁷ over the range of phases.
func TestSincos(t *testing.T) {
	for x := -300.0; x < 300; x += 0.0137 {
		s, c := sincos(float32(x))
		ws, wc := math.Sincos(float64(float32(x)))
		if math.Abs(float64(s)-ws) > 1.5e-7 || math.Abs(float64(c)-wc) > 1.5e-7 {
			t.Fatalf("sincos(%v) = %v, %v, want %v, %v", x, s, c, ws, wc)
		}
	}
}

func TestLengthsAreChecked(t *testing.T) {
	short, long := Planes{make([]float32, 16), make([]float32, 16)}, Planes{make([]float32, 32), make([]float32, 32)}
	for name, f := range map[string]func(){
		"multiply":  func() { Best.Multiply(long, short, long) },
		"scale":     func() { Best.Scale(long, long, short) },
		"transmit":  func() { Best.Transmit(short, long.Re) },
		"norm":      func() { Best.AddNorm(long.Re, short) },
		"rotate":    func() { Best.Rotate(short, long, Planes{long.Re[:2], long.Im[:2]}, short) },
		"transpose": func() { Best.Transpose(long.Re, long.Re) },
		"stage":     func() { Best.Stages[4](long, long, 1, 16, make([]float32, 6)) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s accepts a slice that is too short", name)
				}
			}()
			f()
		}()
	}
}

// Work per second and bytes are those of one stage of a 256-point transform.
func BenchmarkStage4(b *testing.B) {
	for _, s := range []*Set{&portable, native} {
		if s == nil {
			continue
		}
		b.Run(s.Name, func(b *testing.B) {
			r := random.Stream(3, "bench")
			dst, src := planes(r, 4096), planes(r, 4096)
			tw := values(r, 6*64)
			b.SetBytes(4096 * 16)
			for b.Loop() {
				s.Stages[4](dst, src, 64, 16, tw)
			}
		})
	}
}

func BenchmarkTransmit(b *testing.B) {
	for _, s := range []*Set{&portable, native} {
		if s == nil {
			continue
		}
		b.Run(s.Name, func(b *testing.B) {
			r := random.Stream(3, "bench")
			psi, phase := planes(r, 4096), values(r, 4096)
			b.SetBytes(4096 * 20)
			for b.Loop() {
				s.Transmit(psi, phase[:4096])
			}
		})
	}
}
