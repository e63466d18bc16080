package fast

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// Engine executes one network of the U-Net family. It implements
// engine.Engine.
type Engine struct {
	net     *network
	options engine.Options
	kernels *kernel.Set
	pool    *pool

	values, grads, moment1, moment2 []float32
	rounded                         []float32 // mixed precision: values in half precision
	adam                            kernel.Adam

	programs map[key]*program
	arena    []float32
}

// key is what a program depends on.
type key struct {
	n, h, w        int
	training, keep bool
	frozen         string
}

// maxPrograms bounds the programs kept for batches of different sizes.
const maxPrograms = 16

// Compile prepares a graph for execution. The error wraps
// backend.ErrUnsupported for a graph outside the U-Net family.
func Compile(g *nn.Graph, o engine.Options) (*Engine, error) {
	net, err := compile(g)
	if err != nil {
		return nil, err
	}
	set, err := kernel.Select("")
	if err != nil {
		return nil, err
	}
	e := &Engine{net: net, options: o, kernels: set, pool: newPool(max(1, o.Threads), o.Stop), programs: map[key]*program{}}
	size := net.size()
	e.values, e.grads, e.moment1, e.moment2 = aligned(size), aligned(size), aligned(size), aligned(size)
	if o.Precision == backend.Mixed {
		e.rounded = aligned(size)
	}
	// Whether the gradients can be combined shows when a program is built.
	if _, err := e.program(key{n: 1, h: net.multiple(), w: net.multiple(), training: true}, nil); err != nil {
		e.Close()
		return nil, err
	}
	for _, p := range net.params {
		p.pack(e.slice(e.values, p), p.t.Data)
	}
	return e, nil
}

// multiple is what an image's height and width must be multiples of.
func (n *network) multiple() int {
	m := 1
	for _, t := range n.tensors {
		m = max(m, t.reduce)
	}
	return m
}

// slice is a parameter's range of one of the engine's arrays.
func (e *Engine) slice(array []float32, p *param) []float32 {
	return array[p.offset : p.offset+p.length : p.offset+p.length]
}

// walk calls f with the index in the graph's layout and in the engine's for
// every element of a parameter. A convolution's weight [K,C,kH,kW] is kept as
// [K/8][C, padded per part][kH,kW][8].
func (p *param) walk(f func(graph, own int)) {
	if p.op == nil {
		for i := range p.t.Len() {
			f(i, i)
		}
		return
	}
	o := p.op
	taps, depth := o.taps(), o.depth()
	for k := range o.outChannels {
		for _, pt := range o.parts {
			for c := range pt.t.channels {
				for t := range taps {
					own := ((k/lanes*depth+pt.first*lanes+c)*taps+t)*lanes + k%lanes
					f((k*o.inChannels+pt.firstChannel+c)*taps+t, own)
				}
			}
		}
	}
}

func (p *param) pack(dst, data []float32) {
	p.walk(func(graph, own int) { dst[own] = data[graph] })
}

func (p *param) unpack(data, src []float32) {
	p.walk(func(graph, own int) { data[graph] = src[own] })
}

func (e *Engine) array(k engine.Kind, name string, data []float32) (*param, []float32, error) {
	p := e.net.byName[name]
	if p == nil {
		return nil, nil, fmt.Errorf("tensor %q is no parameter or statistic of the network", name)
	}
	if len(data) != p.t.Len() {
		return nil, nil, fmt.Errorf("tensor %q has %d elements, not %d", name, p.t.Len(), len(data))
	}
	arrays := [][]float32{e.values, e.grads, e.moment1, e.moment2}
	if k < 0 || int(k) >= len(arrays) || k != engine.Value && p.index < 0 {
		return nil, nil, fmt.Errorf("tensor %q has no %v", name, k)
	}
	return p, e.slice(arrays[k], p), nil
}

// Set implements engine.Engine.
func (e *Engine) Set(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		p, x, err := e.array(k, t.Name, t.F32)
		if err != nil {
			return err
		}
		p.pack(x, t.F32)
	}
	return nil
}

// Get implements engine.Engine.
func (e *Engine) Get(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		p, x, err := e.array(k, t.Name, t.F32)
		if err != nil {
			return err
		}
		p.unpack(t.F32, x)
	}
	return nil
}

// program returns the program of a kind of call, building it the first time.
func (e *Engine) program(k key, frozen []bool) (*program, error) {
	if p := e.programs[k]; p != nil {
		return p, nil
	}
	if len(e.programs) >= maxPrograms {
		clear(e.programs)
	}
	p, err := e.build(k, frozen)
	if err == nil {
		e.programs[k] = p
	}
	return p, err
}

// check refuses a batch that the network cannot take.
func (e *Engine) check(b engine.Batch) error {
	m := e.net.multiple()
	n, h, w := b.Size()
	if n < 1 || h < 1 || w < 1 || h%m != 0 || w%m != 0 {
		return fmt.Errorf("batch of %d images of %d×%d: height and width must be positive multiples of %d", n, h, w, m)
	}
	if k := n * e.net.inputs * h * w; len(b.Images.F32) != k {
		return fmt.Errorf("batch of %d images of %d×%d: %d values, not %d", n, h, w, len(b.Images.F32), k)
	}
	if b.Labels == nil {
		return nil
	}
	if len(b.Labels) != n*h*w {
		return fmt.Errorf("batch of %d images of %d×%d: %d labels", n, h, w, len(b.Labels))
	}
	for i, l := range b.Labels {
		if int(l) >= e.net.classes {
			return fmt.Errorf("label %d of pixel %d: the network has %d classes", l, i, e.net.classes)
		}
	}
	return nil
}

// run executes a program on a batch.
func (e *Engine) run(p *program, b engine.Batch) error {
	p.bind()
	p.images, p.labels = b.Images.F32, b.Labels
	defer func() { p.images, p.labels, p.out, p.losses = nil, nil, nil, nil }()
	for i := range p.phases {
		e.pool.run(p.phases[i].tasks, p.phases[i].f)
		if e.pool.stopped() {
			return engine.ErrInterrupted
		}
	}
	return nil
}

// Gradients implements engine.Engine.
func (e *Engine) Gradients(b engine.Batch, frozen []bool, scale float64, statistics bool) (float64, error) {
	if err := e.check(b); err != nil {
		return 0, err
	}
	if b.Labels == nil {
		return 0, fmt.Errorf("training needs labels")
	}
	n, h, w := b.Size()
	p, err := e.program(key{n: n, h: h, w: w, training: true, frozen: mask(frozen)}, frozen)
	if err != nil {
		return 0, err
	}
	p.scale, p.statistics = float32(scale), statistics
	err = e.run(p, b)
	return p.loss, err
}

// mask is frozen as a comparable value; "" freezes nothing.
func mask(frozen []bool) string {
	any := false
	m := make([]byte, len(frozen))
	for i, f := range frozen {
		if f {
			m[i], any = 1, true
		}
	}
	if !any {
		return ""
	}
	return string(m)
}

// Finite implements engine.Engine.
func (e *Engine) Finite() (bool, error) {
	for _, p := range e.net.params {
		if p.index < 0 {
			continue
		}
		for _, v := range e.slice(e.grads, p) {
			if v-v != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

// Adam implements engine.Engine.
func (e *Engine) Adam(step int, learningRate, scale float64, frozen []bool) error {
	o := e.options.Adam
	c1, c2 := 1-pmath.Pow(o.Beta1, step), 1-pmath.Pow(o.Beta2, step)
	e.adam = kernel.Adam{
		InvScale: float32(1 / scale), Beta1: float32(o.Beta1), OneMinusBeta1: float32(1 - o.Beta1),
		Beta2: float32(o.Beta2), OneMinusBeta2: float32(1 - o.Beta2),
		InvRootCorrection: float32(1 / math.Sqrt(c2)), Epsilon: float32(o.Epsilon), Rate: float32(-learningRate / c1),
	}
	// Trained parameters that follow each other are one range.
	ps := e.net.params
	for i := 0; i < len(ps); {
		if ps[i].index < 0 || ps[i].index < len(frozen) && frozen[ps[i].index] {
			i++
			continue
		}
		first := ps[i].offset
		last := first
		for i < len(ps) && ps[i].index >= 0 && !(ps[i].index < len(frozen) && frozen[ps[i].index]) {
			last = ps[i].offset + ps[i].length
			i++
		}
		e.pool.run((last-first+chunk-1)/chunk, func(_, task int) {
			a := first + task*chunk
			b := min(a+chunk, last)
			e.kernels.Adam(e.values[a:b], e.moment1[a:b], e.moment2[a:b], e.grads[a:b], &e.adam)
		})
	}
	if e.pool.stopped() {
		return engine.ErrInterrupted
	}
	return nil
}

// Forward implements engine.Engine.
func (e *Engine) Forward(b engine.Batch, out backend.Tensor) ([]float64, error) {
	if err := e.check(b); err != nil {
		return nil, err
	}
	n, h, w := b.Size()
	if k := n * e.net.classes * h * w; len(out.F32) != k {
		return nil, fmt.Errorf("room for %d probabilities, not %d", len(out.F32), k)
	}
	p, err := e.program(key{n: n, h: h, w: w}, nil)
	if err != nil {
		return nil, err
	}
	p.out = out.F32
	var losses []float64
	if b.Labels != nil {
		losses = make([]float64, n)
	}
	p.losses = losses
	return losses, e.run(p, b)
}

// BatchSize implements engine.Engine.
func (e *Engine) BatchSize(h, w int) int { return min(64, max(1, 1<<16/(h*w))) }

// Close implements engine.Engine.
func (e *Engine) Close() error {
	e.pool.close()
	e.programs, e.arena = nil, nil
	return nil
}
