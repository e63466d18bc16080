package gorgonia

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/testkit/seed"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/gpu"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/standin"
)

// operatorBench runs operators on the stand-in for a GPU and on the processor. A
// difference, and whatever fails, is a panic with an error.
type operatorBench struct {
	d *gpu.Device
	r *rand.Rand
	w *kernel.Workers
}

// operatorCases compare every operator that launches kernels, each on a few shapes that
// leave tiles, vectors and warps half full. Their names are what planted faults refer to.
var operatorCases = []struct {
	name string
	run  func(b *operatorBench)
}{
	{"add", func(b *operatorBench) {
		for _, n := range []int{1, 6, 1024, 1029} {
			b.both(fmt.Sprint("add ", n), add{}, n, b.numbers(n), b.numbers(n))
		}
	}},
	{"relu", func(b *operatorBench) {
		for _, n := range []int{3, 1024, 1031} {
			y := b.both(fmt.Sprint("relu ", n), relu{}, n, b.special(n))
			b.both(fmt.Sprint("gradient of relu ", n), reluInput{}, n, y, b.numbers(n))
		}
	}},
	{"concat", func(b *operatorBench) {
		for _, sizes := range [][]int{{4, 8}, {5, 3, 1027}, {1028, 4}} {
			c := concat{n: 3, sizes: sizes}
			var in [][]float32
			for _, s := range sizes {
				in = append(in, b.numbers(3*s))
			}
			_, total := c.offset(0)
			y := b.both(fmt.Sprint("concat ", sizes), c, 3*total, in...)
			for i, s := range sizes {
				b.both(fmt.Sprintf("gradient %d of concat %v", i, sizes), concatInput{c, i}, 3*s, y)
			}
		}
	}},
	{"upsample", func(b *operatorBench) {
		for _, u := range []upsample{{3, 5, 7, 2, 2}, {2, 13, 11, 2, 3}, {1, 1, 1, 1, 1}} {
			n := u.planes * u.h * u.w
			b.both(fmt.Sprint("upsample ", u), u, n*u.fy*u.fx, b.numbers(n))
			b.both(fmt.Sprint("gradient of upsample ", u), upsampleInput(u), n, b.numbers(n*u.fy*u.fx))
		}
	}},
	{"pool", func(b *operatorBench) {
		for _, p := range []maxPool{
			{planes: 3, h: 6, w: 8, kh: 2, kw: 2, sh: 2, sw: 2, oh: 3, ow: 4},
			{planes: 2, h: 17, w: 19, kh: 3, kw: 3, sh: 2, sw: 2, top: 1, left: 1, oh: 9, ow: 10},
			{planes: 2, h: 7, w: 9, kh: 3, kw: 2, sh: 1, sw: 3, left: 1, oh: 5, ow: 3},
		} {
			x := b.special(p.planes * p.h * p.w)
			for i := range x {
				if i%3 > 0 {
					x[i] = float32(i % 5) // equal ones
				}
			}
			n := p.planes * p.oh * p.ow
			b.both(fmt.Sprintf("pool %+v", p), p, n, x)
			b.both(fmt.Sprintf("gradient of pool %+v", p), maxPoolInput(p), len(x), x, b.numbers(n))
		}
	}},
	{"norm", func(b *operatorBench) {
		for i, s := range []batchNorm{
			{n: 5, c: 7, pixels: 35, epsilon: 1e-5},
			{n: 3, c: 10, pixels: 1024 + 40, epsilon: 1e-3, relu: true},
			{n: 70, c: 3, pixels: 5, epsilon: 1e-5, relu: true},
			{n: 9, c: 9, pixels: 88, epsilon: 1e-5},
		} {
			b.norm(i, s)
		}
	}},
	{"softmax", func(b *operatorBench) {
		for _, s := range []softmax{{2, 3, 77}, {1, 2, 259}, {3, 1, 4}} {
			n := s.n * s.k * s.pixels
			z := b.numbers(n)
			z[n/2], z[n/3], z[0] = 100, -800, float32(math.Inf(-1))
			y := b.both(fmt.Sprint("softmax ", s), s, n, z)
			b.both(fmt.Sprint("gradient of softmax ", s), softmaxInput(s), n, y, b.numbers(n))
		}
	}},
	{"loss", func(b *operatorBench) {
		for _, s := range []softmax{{2, 3, 77}, {1, 2, 1024 + 33}, {9, 4, 5}} {
			b.loss(s)
		}
	}},
	{"adam", func(b *operatorBench) {
		for step, n := range []int{1, 257, 300} {
			b.adam(step+1, n)
		}
	}},
	// The kernels for up to 32 channels, up to 64 and more, for images and for weights.
	{"conv_32", func(b *operatorBench) {
		b.conv(kernel.Conv{N: 2, C: 3, H: 7, W: 9, M: 5, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 7, OW: 9})
		b.conv(kernel.Conv{N: 3, C: 2, H: 8, W: 12, M: 3, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 8, OW: 12}) // in fours
		b.conv(kernel.Conv{N: 1, C: 3, H: 9, W: 7, M: 4, KH: 3, KW: 3, SH: 2, SW: 2, Top: 1, Left: 1, OH: 5, OW: 4})
		b.conv(kernel.Conv{N: 2, C: 2, H: 11, W: 6, M: 3, KH: 5, KW: 2, SH: 3, SW: 2, Top: 2, Left: 0, OH: 4, OW: 3})
		b.conv(kernel.Conv{N: 1, C: 1, H: 5, W: 5, M: 1, KH: 1, KW: 1, SH: 2, SW: 3, OH: 3, OW: 2}) // pixels without a gradient
		b.conv(kernel.Conv{N: 1, C: 4, H: 5, W: 3, M: 21, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 5, OW: 3})
		b.conv(kernel.Conv{N: 1, C: 1, H: 66, W: 64, M: 2, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 66, OW: 64})
	}},
	{"conv_64", func(b *operatorBench) {
		b.conv(kernel.Conv{N: 1, C: 5, H: 6, W: 7, M: 40, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 6, OW: 7})
		b.conv(kernel.Conv{N: 2, C: 37, H: 4, W: 5, M: 33, KH: 1, KW: 1, SH: 1, SW: 1, OH: 4, OW: 5})
	}},
	{"conv_128", func(b *operatorBench) {
		b.conv(kernel.Conv{N: 2, C: 3, H: 6, W: 8, M: 70, KH: 3, KW: 3, SH: 1, SW: 1, Top: 1, Left: 1, OH: 6, OW: 8})
		b.conv(kernel.Conv{N: 1, C: 2, H: 11, W: 13, M: 133, KH: 2, KW: 2, SH: 1, SW: 1, OH: 10, OW: 12})
	}},
}

// numbers are of many magnitudes, with zeros of either sign and subnormal numbers
// among them.
func (b *operatorBench) numbers(n int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(b.r.NormFloat64())
		switch b.r.IntN(16) {
		case 0:
			v[i] = float32(math.Copysign(0, float64(v[i])))
		case 1:
			v[i] *= 0x1p-130
		case 2:
			v[i] *= 32
		}
	}
	return v
}

// special are numbers with NaN and infinities among them.
func (b *operatorBench) special(n int) []float32 {
	v := b.numbers(n)
	for i := range v {
		switch b.r.IntN(40) {
		case 0:
			v[i] = float32(math.NaN())
		case 1:
			v[i] = float32(math.Inf(b.r.IntN(2)*2 - 1))
		}
	}
	return v
}

// must panics with an error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// upload puts numbers into memory of their own.
func upload[T float32 | float64 | uint8](b *operatorBench, v []T) span {
	p, err := b.d.Allocate(int64(len(gpu.Bytes(v))))
	must(err)
	must(b.d.Upload(p, gpu.Bytes(v)))
	return span{Pointer: p, n: len(v)}
}

func download[T float32 | float64 | uint8](b *operatorBench, p driver.Pointer, n int) []T {
	v := make([]T, n)
	must(b.d.Download(gpu.Bytes(v), p))
	must(b.d.Sync())
	return v
}

// same compares numbers to the bit, but for what a NaN's bits are.
func same[T float32 | float64](what string, got, want []T) {
	for i, v := range want {
		g := got[i]
		if math.Float64bits(float64(g)) != math.Float64bits(float64(v)) && (g == g || v == v) {
			panic(fmt.Errorf("%s: element %d is %v (%x) on the GPU, %v (%x) on the processor", what, i, g, g, v, v))
		}
	}
}

// device runs an operator's kernels on inputs and returns its n outputs.
func (b *operatorBench) device(a arithmetic, n int, in ...span) []float32 {
	o := &op{arithmetic: a}
	if p, ok := a.(prepared); ok {
		must(p.prepare(b.d, o))
	}
	p, err := b.d.Allocate(int64(n) * 4)
	must(err)
	must(a.(onDevice).launch(b.d, o, in, span{Pointer: p, n: n}))
	return download[float32](b, p, n)
}

// both runs an operator on the processor and on the GPU, compares its n outputs and
// returns them.
func (b *operatorBench) both(what string, a arithmetic, n int, in ...[]float32) []float32 {
	want := make([]float32, n)
	a.compute(b.w, in, want)
	var spans []span
	for _, v := range in {
		spans = append(spans, upload(b, v))
	}
	same(what, b.device(a, n, spans...), want)
	return want
}

func (b *operatorBench) norm(i int, s batchNorm) {
	s.batch = &batchStatistics{mean: make([]float64, s.c), variance: make([]float64, s.c), count: s.n * s.pixels}
	n := s.n * s.c * s.pixels
	x, dy, scale, shift := b.numbers(n), b.numbers(n), b.numbers(s.c), b.numbers(s.c)
	if i == 3 {
		for j := range s.pixels {
			x[j] = 3 // a channel without variance
		}
	}
	name := fmt.Sprint("norm ", i)
	y := b.both(name, &s, n, x, scale, shift)
	statistics := s.batch.device
	same(name+"'s mean", download[float64](b, statistics.mean, s.c), s.batch.mean)
	same(name+"'s variance", download[float64](b, statistics.variance, s.c), s.batch.variance)
	sums := b.both(name+"'s sums", (*batchNormSums)(&s), 2*s.c, x, y, dy)
	b.both(name+"'s gradient", (*batchNormInput)(&s), n, x, y, dy, scale, sums)
	for row := range 2 {
		b.both(fmt.Sprint(name, "'s row ", row), batchNormRow(row), s.c, sums)
	}

	// Running statistics.
	mean, variance := b.numbers(s.c), b.numbers(s.c)
	for j := range variance {
		variance[j] = float32(math.Abs(float64(variance[j])))
	}
	m, v := upload(b, mean), upload(b, variance)
	const momentum = 0.9
	must(norm{batch: s.batch, momentum: momentum}.running(b.d, m, v))
	count, rest := float64(s.batch.count), 1-momentum
	for j := range mean {
		mean[j] = float32(float64(momentum*float64(mean[j])) + float64(rest*s.batch.mean[j]))
		variance[j] = float32(float64(momentum*float64(variance[j])) + rest*s.batch.variance[j]*count/(count-1))
	}
	same(name+"'s running mean", download[float32](b, m.Pointer, s.c), mean)
	same(name+"'s running variance", download[float32](b, v.Pointer, s.c), variance)
	b.both(name+" in inference", batchNormInference{s.n, s.c, s.pixels, s.epsilon, s.relu}, n, x, scale, shift, mean, variance)
}

func (b *operatorBench) loss(s softmax) {
	z, labels := b.numbers(s.n*s.k*s.pixels), make([]uint8, s.n*s.pixels)
	numbers := make([]float32, len(labels))
	for i := range labels {
		labels[i] = uint8(b.r.IntN(s.k))
		numbers[i] = float32(labels[i])
	}
	on, at := upload(b, z), upload(b, labels)
	done, err := s.imageLosses(b.d, on.Pointer, at.Pointer)
	must(err)
	must(b.d.Sync())
	var want []float64
	for n := range s.n {
		want = append(want, imageLoss(z[n*s.k*s.pixels:][:s.k*s.pixels], labels[n*s.pixels:][:s.pixels], s.k))
	}
	same(fmt.Sprint("loss ", s), done(), want)
	gradient := make([]float32, len(z))
	l := crossEntropyInput{softmax: s}
	l.compute(b.w, [][]float32{z, numbers, {1}}, gradient)
	same(fmt.Sprint("gradient of loss ", s), b.device(l, len(z), on, at, span{n: 1, scalar: 1}), gradient)
}

func (b *operatorBench) adam(step, n int) {
	host := func(v []float32) *tensor.Dense { return tensor.New(tensor.WithShape(len(v)), tensor.WithBacking(v)) }
	w, g, m, v := b.numbers(n), b.numbers(n), b.numbers(n), b.numbers(n)
	for i := range v {
		v[i] = float32(math.Abs(float64(v[i])))
	}
	a := &adam{Adam: backend.Adam{Beta1: 0.9, Beta2: 0.999, Epsilon: 1e-8}, rate: 1e-3, step: step, exec: &executor{workers: b.w},
		m: map[string]*tensor.Dense{"w": host(m)}, v: map[string]*tensor.Dense{"w": host(v)}}
	dw, dm, dv, dg := upload(b, w), upload(b, m), upload(b, v), upload(b, g)
	must(a.launch(b.d, dw, dm, dv, dg))
	must(a.Step([]G.ValueGrad{trained{"w", host(w), host(g)}}))
	same("weights", download[float32](b, dw.Pointer, n), w)
	same("first moments", download[float32](b, dm.Pointer, n), m)
	same("second moments", download[float32](b, dv.Pointer, n), v)
}

func (b *operatorBench) conv(c kernel.Conv) {
	name := fmt.Sprintf("conv %+v", c)
	x, w, bias, dy := b.numbers(c.N*c.C*c.H*c.W), b.numbers(c.M*c.C*c.KH*c.KW), b.numbers(c.M), b.numbers(c.N*c.M*c.OH*c.OW)
	b.both(name, conv{c}, len(dy), x, w, bias)
	tiny := make([]float32, len(w)) // so that whole chains are subnormal
	for i, v := range w {
		tiny[i] = v * 0x1p-135
	}
	b.both(name+" without a bias", conv{c}, len(dy), x, tiny)
	b.both(name+": gradient of the images", convInput{c}, len(x), w, dy)
	b.both(name+": gradient of the weights", convWeights{c}, len(w), x, dy)
	b.both(name+": gradient of the bias", convBias{c}, c.M, dy)
}

// operator runs one of the cases on kernels of a text, and returns what went wrong: what the stand-in was
// told of, or a difference.
func operator(ptx string, r *rand.Rand, run func(b *operatorBench)) (err error) {
	var told []error
	api := standin.New(standin.Options{Misuse: func(err error) { told = append(told, err) }}).API()
	must(api.Check(api.Init(0), "initialising the driver"))
	d, err := gpu.Open(api, 0, ptx)
	if err == nil {
		err = d.Run(func() (err error) {
			defer func() {
				if v := recover(); v != nil {
					var ok bool
					if err, ok = v.(error); !ok {
						panic(v)
					}
				}
			}()
			run(&operatorBench{d, r, kernel.NewWorkers(1, nil)})
			return nil
		})
		err = errors.Join(err, d.Close())
	}
	return errors.Join(append(told, err)...)
}

// Every operator's kernels give the processor's bits, touch nothing that is not theirs,
// read nothing that nobody wrote, and do not race.
func TestOperatorsOnGPU(t *testing.T) {
	for _, c := range operatorCases {
		t.Run(c.name, func(t *testing.T) {
			if err := operator(kernelsPTX, seed.Rand(t), c.run); err != nil {
				t.Error(err)
			}
		})
	}
}
