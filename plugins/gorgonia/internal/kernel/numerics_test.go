package kernel

import (
	"math"
	"math/big"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// bits compares to the bit, zeros' signs included.
func bits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, v := range want {
		if math.Float32bits(got[i]) != math.Float32bits(v) {
			t.Errorf("%s: element %d is %v (%08x), not %v (%08x)", what, i, got[i], math.Float32bits(got[i]), v, math.Float32bits(v))
			return
		}
	}
}

// everyISA runs f with the assembly and with its portable twins.
func everyISA(t *testing.T, f func(t *testing.T)) {
	here := assembly
	defer func() { assembly = here }()
	for _, assembly = range []bool{false, here} {
		t.Run(ISA(), f)
	}
}

// fma against sums in unlimited precision, where rounding twice would go wrong too.
func TestFMA(t *testing.T) {
	r := seed.Rand(t)
	number := func() float32 {
		for {
			if v := math.Float32frombits(r.Uint32()); v-v == 0 {
				return v
			}
		}
	}
	near := func(v float64) float32 { // a summand that cancels or just misses the half
		return float32(-v * (1 + float64(r.IntN(64)-32)*0x1p-24))
	}
	for i := range 200000 {
		a, b, c := number(), number(), number()
		switch i % 4 {
		case 1:
			c = near(float64(a) * float64(b))
		case 2: // numbers as they come
			a, b, c = float32(r.NormFloat64()), float32(r.NormFloat64()), float32(r.NormFloat64())
		case 3: // results that are subnormal
			a, b, c = a*0x1p-70, b*0x1p-70, c*0x1p-60
		}
		if c-c != 0 || a-a != 0 || b-b != 0 {
			continue
		}
		x := new(big.Float).SetPrec(700).SetFloat64(float64(a) * float64(b)) // exact
		x.Add(x, new(big.Float).SetFloat64(float64(c)))
		want, _ := x.Float32()
		if got := fma(a, b, c); got != want {
			t.Fatalf("fma(%v, %v, %v) is %v, not %v", a, b, c, got, want)
		}
	}
	inf := float32(math.Inf(1))
	if v := fma(inf, 1, 1); v != inf {
		t.Errorf("with infinity: %v", v)
	}
	if v := fma(inf, 0, 1); v == v {
		t.Errorf("∞·0: %v", v)
	}
}

// defined is a convolution and its gradients by the letter of numerics.md.
func (c Conv) defined(x, w, b, dy []float32) (y, dx, dw, db []float32) {
	at := func(v []float32, plane, h, w, row, column int) float32 {
		if row < 0 || row >= h || column < 0 || column >= w {
			return 0
		}
		return v[(plane*h+row)*w+column]
	}
	weight := func(m, ch, ky, kx int) float32 { return w[((m*c.C+ch)*c.KH+ky)*c.KW+kx] }
	for n := range c.N {
		for m := range c.M {
			for o := range c.OH * c.OW {
				var s float32
				for ch := range c.C {
					for ky := range c.KH {
						for kx := range c.KW {
							s = fma(weight(m, ch, ky, kx), at(x, n*c.C+ch, c.H, c.W, o/c.OW*c.SH-c.Top+ky, o%c.OW*c.SW-c.Left+kx), s)
						}
					}
				}
				y = append(y, s+b[m])
			}
		}
		for ch := range c.C {
			for i := range c.H * c.W {
				row, column := i/c.W+c.Top, i%c.W+c.Left
				var s float32
				for m := range c.M {
					for ky := c.KH - 1; ky >= 0; ky-- {
						for kx := c.KW - 1; kx >= 0; kx-- {
							if (row-ky)%c.SH == 0 && (column-kx)%c.SW == 0 {
								s = fma(weight(m, ch, ky, kx), at(dy, n*c.M+m, c.OH, c.OW, (row-ky)/c.SH, (column-kx)/c.SW), s)
							}
						}
					}
				}
				dx = append(dx, s)
			}
		}
	}
	pixels, chunk := c.OH*c.OW, ChunkRows(c.OW)*c.OW
	for m := range c.M {
		for i := range c.C * c.KH * c.KW {
			ch, ky, kx := i/(c.KH*c.KW), i/c.KW%c.KH, i%c.KW
			var sum float64
			for n := range c.N {
				for first := 0; first < pixels; first += chunk {
					var s [8]float32
					for q := range min(chunk, pixels-first) {
						o := first + q
						s[q%8] = fma(dy[(n*c.M+m)*pixels+o], at(x, n*c.C+ch, c.H, c.W, o/c.OW*c.SH-c.Top+ky, o%c.OW*c.SW-c.Left+kx), s[q%8])
					}
					sum += float64(((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])))
				}
			}
			dw = append(dw, float32(sum))
		}
	}
	for m := range c.M {
		var lanes [32]float64
		piece := 0
		for n := range c.N {
			for first := 0; first < pixels; first += 1024 {
				var s [32]float32
				for q := range min(1024, pixels-first) {
					s[q%32] += dy[(n*c.M+m)*pixels+first+q]
				}
				lanes[piece%32] += float64(folded(s))
				piece++
			}
		}
		db = append(db, float32(folded(lanes)))
	}
	return
}

func folded[T float32 | float64](s [32]T) T {
	for _, half := range []int{16, 8, 4, 2, 1} {
		for i := range half {
			s[i] += s[i+half]
		}
	}
	return s[0]
}

// more are shapes whose gradients have several chunks and pieces, and whose padding is
// wider than the kernel.
var more = append(shapes[:len(shapes):len(shapes)],
	Conv{N: 2, C: 2, H: 70, W: 72, M: 3, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 70, OW: 72},
	Conv{N: 1, C: 1, H: 131, W: 67, M: 2, KH: 2, KW: 2, SH: 1, SW: 1, Top: 0, Left: 0, OH: 130, OW: 66},
	Conv{N: 1, C: 2, H: 5, W: 4, M: 2, KH: 2, KW: 2, SH: 1, SW: 2, Top: 3, Left: 4, OH: 10, OW: 6},
	Conv{N: 2, C: 2, H: 9, W: 11, M: 5, KH: 2, KW: 3, SH: 3, SW: 4, Top: 0, Left: 1, OH: 3, OW: 3},
)

func TestConvIsAsDefined(t *testing.T) {
	everyISA(t, func(t *testing.T) {
		for _, c := range more {
			x, w, b, dy := c.operands()
			y, dx, dw, db := c.defined(x, w, b, dy)
			got := run(NewWorkers(2, nil), c, x, w, b, dy)
			for i, want := range [][]float32{y, dx, dw, db} {
				bits(t, []string{"y", "dx", "dw", "db"}[i], got[i], want)
			}
			if t.Failed() {
				t.Fatalf("%+v", c)
			}
		}
	})
}

func TestSumsAreAsDefined(t *testing.T) {
	everyISA(t, func(t *testing.T) {
		for _, n := range []int{1, 7, 8, 31, 32, 33, 100, 1000, 1023, 1024} {
			x, y, dy := uniform("x", n), uniform("y", n), uniform("dy", n)
			y[n/2] = float32(math.Copysign(0, -1))
			const m, k, q = 0.37, -1.3, 0.01
			for _, relued := range []bool{false, true} {
				var sum, square, dot, total [32]float32
				var affine, combined []float32
				for i, v := range x {
					d := dy[i]
					if relued && !(y[i] > 0) {
						d = 0
					}
					sum[i%32] += v
					square[i%32] = fma(v-m, v-m, square[i%32])
					dot[i%32] = fma(d, v-m, dot[i%32])
					total[i%32] += d
					product := float32(k * v)
					a := product + q
					if relued && a <= 0 {
						a = 0
					}
					affine = append(affine, a)
					first, second := float32(k*d), float32(m*v)
					combined = append(combined, first+second+q)
				}
				gotDot, gotTotal := SumProducts(x, y, dy, m, relued)
				bits(t, "sums", []float32{Sum(x), SumSquares(x, m), gotDot, gotTotal},
					[]float32{folded(sum), folded(square), folded(dot), folded(total)})
				got := make([]float32, n)
				Affine(got, x, k, q, relued)
				bits(t, "affine", got, affine)
				Combine(got, x, y, dy, k, m, q, relued)
				bits(t, "combine", got, combined)
			}
		}
		nan := float32(math.NaN())
		got := make([]float32, 9)
		Affine(got, []float32{nan, -1, 0, 1, 2, 3, 4, 5, nan}, 1, 0, true)
		if got[0] == got[0] || got[8] == got[8] {
			t.Errorf("a ReLU makes %v of NaN", got)
		}
	})
}
