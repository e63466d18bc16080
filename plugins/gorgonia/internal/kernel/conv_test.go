package kernel

import (
	"fmt"
	"math"
	"sync/atomic"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

// shapes covers every path: rows of sixteen, short rows, strides, odd sizes,
// asymmetric padding, 1×1 kernels, depths beyond one block.
var shapes = []Conv{
	{N: 2, C: 1, H: 16, W: 32, M: 8, KH: 7, KW: 7, SH: 1, SW: 1, Top: 3, Left: 3, OH: 16, OW: 32},
	{N: 3, C: 5, H: 8, W: 8, M: 6, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 8, OW: 8},
	{N: 3, C: 5, H: 8, W: 8, M: 6, KH: 3, KW: 3, SH: 2, SW: 2, Top: 1, Left: 1, OH: 4, OW: 4},
	{N: 2, C: 4, H: 7, W: 9, M: 3, KH: 1, KW: 1, SH: 2, SW: 2, OH: 4, OW: 5},
	{N: 1, C: 3, H: 5, W: 6, M: 2, KH: 1, KW: 1, SH: 1, SW: 1, OH: 5, OW: 6},
	{N: 2, C: 40, H: 4, W: 4, M: 5, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 4, OW: 4},
	{N: 1, C: 2, H: 6, W: 7, M: 4, KH: 2, KW: 3, SH: 1, SW: 1, Top: 0, Left: 2, OH: 5, OW: 8},
	{N: 1, C: 2, H: 6, W: 9, M: 4, KH: 2, KW: 3, SH: 3, SW: 1, Top: 1, Left: 0, OH: 2, OW: 7},
	{N: 1, C: 2, H: 16, W: 16, M: 4, KH: 1, KW: 1, SH: 1, SW: 1, Top: 1, Left: 1, OH: 18, OW: 18},
}

func uniform(purpose string, n int) []float32 {
	r := random.Stream(1, purpose)
	v := make([]float32, n)
	for i := range v {
		v[i] = 2*r.Float32() - 1
	}
	return v
}

// direct is the convolution by its definition, in float64, with both gradients
// of Σ y·dy.
func (c Conv) direct(x, w, b, dy []float32) (y, dx, dw, db []float64) {
	y, dx = make([]float64, c.N*c.M*c.OH*c.OW), make([]float64, len(x))
	dw, db = make([]float64, len(w)), make([]float64, c.M)
	for n := range c.N {
		for m := range c.M {
			for oy := range c.OH {
				for ox := range c.OW {
					o := ((n*c.M+m)*c.OH+oy)*c.OW + ox
					y[o] = float64(b[m])
					db[m] += float64(dy[o])
					for ch := range c.C {
						for ky := range c.KH {
							for kx := range c.KW {
								iy, ix := oy*c.SH-c.Top+ky, ox*c.SW-c.Left+kx
								if iy < 0 || iy >= c.H || ix < 0 || ix >= c.W {
									continue
								}
								i := ((n*c.C+ch)*c.H+iy)*c.W + ix
								k := ((m*c.C+ch)*c.KH+ky)*c.KW + kx
								y[o] += float64(x[i]) * float64(w[k])
								dx[i] += float64(dy[o]) * float64(w[k])
								dw[k] += float64(dy[o]) * float64(x[i])
							}
						}
					}
				}
			}
		}
	}
	return
}

func run(p *Workers, c Conv, x, w, b, dy []float32) [][]float32 {
	y, dx := make([]float32, len(dy)), make([]float32, len(x))
	dw, db := make([]float32, len(w)), make([]float32, c.M)
	c.Forward(p, x, w, b, y)
	c.BackwardInput(p, dy, w, dx)
	c.BackwardWeights(p, x, dy, dw)
	c.BackwardBias(p, dy, db)
	return [][]float32{y, dx, dw, db}
}

func (c Conv) operands() (x, w, b, dy []float32) {
	return uniform("x", c.N*c.C*c.H*c.W), uniform("w", c.M*c.C*c.KH*c.KW), uniform("b", c.M), uniform("dy", c.N*c.M*c.OH*c.OW)
}

func TestConv(t *testing.T) {
	here := assembly
	defer func() { assembly = here }()
	for _, asm := range []bool{here, false} {
		assembly = asm
		for _, c := range shapes {
			x, w, b, dy := c.operands()
			y64, dx64, dw64, db64 := c.direct(x, w, b, dy)
			got := run(NewWorkers(3, nil), c, x, w, b, dy)
			for i, want := range [][]float64{y64, dx64, dw64, db64} {
				var scale, worst float64
				for j, v := range want {
					scale = max(scale, math.Abs(v))
					worst = max(worst, math.Abs(v-float64(got[i][j])))
				}
				// Sums of at most a few hundred products of numbers below 1.
				if worst > 2e-6*scale {
					t.Errorf("%+v, assembly %v, result %d: off by %g of %g", c, asm, i, worst, scale)
				}
			}
		}
	}
}

// The bits depend neither on the number of workers nor on the batch.
func TestConvIsReproducible(t *testing.T) {
	for _, c := range shapes {
		x, w, b, dy := c.operands()
		want := run(NewWorkers(1, nil), c, x, w, b, dy)
		for _, n := range []int{2, 3, 7} {
			for i, v := range run(NewWorkers(n, nil), c, x, w, b, dy) {
				if fmt.Sprint(v) != fmt.Sprint(want[i]) {
					t.Errorf("%+v: result %d differs with %d workers", c, i, n)
				}
			}
		}
		one := c
		one.N = 1
		y := make([]float32, len(dy)/c.N)
		last := len(x) / c.N * (c.N - 1)
		one.Forward(NewWorkers(2, nil), x[last:], w, b, y)
		if fmt.Sprint(y) != fmt.Sprint(want[0][len(dy)-len(y):]) {
			t.Errorf("%+v: an image alone gives other bits than in the batch", c)
		}
	}
}

func TestRunStops(t *testing.T) {
	for _, n := range []int{1, 2} {
		var stop atomic.Bool
		stop.Store(true)
		p := NewWorkers(n, &stop)
		p.Run(10, func(_, task int) { t.Errorf("%d workers ran task %d after they were stopped", n, task) })
		if !p.Stopped() {
			t.Error("Stopped is false")
		}
	}
}

// BenchmarkConv reports the arithmetic rate of the layers that dominate a step
// of the width-16 network on 64×64 images.
func BenchmarkConv(b *testing.B) {
	for _, c := range []Conv{
		{N: 16, C: 16, H: 64, W: 64, M: 8, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 64, OW: 64},
		{N: 16, C: 48, H: 32, W: 32, M: 16, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 32, OW: 32},
		{N: 16, C: 128, H: 4, W: 4, M: 128, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 4, OW: 4},
		{N: 16, C: 16, H: 32, W: 32, M: 32, KH: 3, KW: 3, SH: 2, SW: 2, Top: 1, Left: 1, OH: 16, OW: 16},
	} {
		x, w, _, dy := c.operands()
		y, dx, dw := make([]float32, len(dy)), make([]float32, len(x)), make([]float32, len(w))
		p := NewWorkers(1, nil)
		flops := 2 * float64(len(dy)) * float64(len(w)/c.M)
		for name, f := range map[string]func(){
			"forward": func() { c.Forward(p, x, w, nil, y) },
			"input":   func() { c.BackwardInput(p, dy, w, dx) },
			"weights": func() { c.BackwardWeights(p, x, dy, dw) },
		} {
			b.Run(fmt.Sprintf("%dto%d_%dx%d_s%d/%s", c.C, c.M, c.H, c.W, c.SH, name), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				b.ReportMetric(flops*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
			})
		}
	}
}
