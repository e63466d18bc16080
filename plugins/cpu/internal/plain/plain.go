package plain

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/half"
	"github.com/refocus-em/refocus/harness/nn"
)

type float interface{ float32 | float64 }

// value is the graph's input, a tensor, or what a node produces.
type value[T float] struct {
	name   string
	tensor *nn.Tensor // nil for an activation
	shape  []int
	data   []T
	grad   []T  // nil until a node adds to it
	needed bool // the current backward pass needs its gradient
	last   int  // the last node that reads it

	// Of a parameter.
	index int // in the graph's Parameters, -1 for other values
	m, v  []T // Adam's moments
}

// operator executes one node.
type operator[T float] interface {
	forward(e *Engine[T])
	backward(e *Engine[T])
}

type step[T float] struct {
	node    *nn.Node
	op      operator[T]
	in      []*value[T] // nil where an optional input is omitted
	out     *value[T]
	rounded bool // mixed precision rounds the output
}

// Engine implements engine.Engine.
type Engine[T float] struct {
	graph   *nn.Graph
	opts    engine.Options
	values  map[string]*value[T]
	params  []*value[T]
	steps   []step[T]
	input   *value[T]
	output  *value[T]
	logits  *value[T] // input of the final Softmax over channels, nil without one
	shape   []int     // of the input the values' shapes belong to
	train   bool      // mode of the pass under way
	update  bool      // move running statistics in this pass
	pool    pool[T]
	workers []*worker[T]
}

// Compile prepares the graph for execution with arithmetic in T. An error
// wraps backend.ErrUnsupported and names the node that cannot be executed.
func Compile[T float](g *nn.Graph, o engine.Options) (*Engine[T], error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	var zero T
	if _, wide := any(zero).(float64); wide && o.Precision == backend.Mixed {
		return nil, fmt.Errorf("mixed precision in float64: %w", backend.ErrUnsupported)
	}
	e := &Engine[T]{graph: g, opts: o, values: map[string]*value[T]{}}
	for range max(1, o.Threads) {
		e.workers = append(e.workers, &worker[T]{})
	}
	e.input = &value[T]{name: g.Input.Name, index: -1}
	e.values[g.Input.Name] = e.input
	for _, t := range g.Tensors {
		v := &value[T]{name: t.Name, tensor: t, shape: t.Shape, index: -1}
		v.data = make([]T, len(t.Data))
		for i, x := range t.Data {
			v.data[i] = T(x)
		}
		if t.Role == nn.Parameter {
			v.index = len(e.params)
			v.grad, v.m, v.v = make([]T, t.Len()), make([]T, t.Len()), make([]T, t.Len())
			e.params = append(e.params, v)
		}
		e.values[t.Name] = v
	}
	for i, n := range g.Nodes {
		s := step[T]{node: n, rounded: o.Precision == backend.Mixed}
		for _, name := range n.Inputs {
			var v *value[T]
			if name != "" {
				v = e.values[name]
				v.last = i
			}
			s.in = append(s.in, v)
		}
		if len(n.Outputs) != 1 {
			return nil, refuse(n, "has %d outputs, 1 is supported", len(n.Outputs))
		}
		s.out = &value[T]{name: n.Outputs[0], index: -1}
		op, err := build(e, &s)
		if err != nil {
			return nil, err
		}
		s.op = op
		e.values[s.out.name] = s.out
		e.steps = append(e.steps, s)
	}
	e.output = e.values[g.Output.Name]
	if len(e.steps) > 0 {
		s := &e.steps[len(e.steps)-1]
		if f, ok := s.op.(*softmax[T]); ok && f.axis == 1 && s.out == e.output {
			s.rounded = false
			e.logits = s.in[0]
			e.logits.last = len(e.steps) // read again by the loss
		}
	}
	e.output.last = len(e.steps)
	return e, nil
}

// refuse says why a node cannot be executed.
func refuse(n *nn.Node, format string, args ...any) error {
	return fmt.Errorf("node %q (%s): %s: %w", n.Name, n.Op, fmt.Sprintf(format, args...), backend.ErrUnsupported)
}

// data is a tensor's data in the engine's precision.
func data[T float](t backend.Tensor) []T {
	if d, ok := any(t.F64).([]T); ok {
		return d
	}
	return any(t.F32).([]T)
}

// Set implements engine.Engine.
func (e *Engine[T]) Set(k engine.Kind, ts []backend.NamedTensor) error {
	return e.arrays(k, ts, func(array, tensor []T) { copy(array, tensor) })
}

// Get implements engine.Engine.
func (e *Engine[T]) Get(k engine.Kind, ts []backend.NamedTensor) error {
	return e.arrays(k, ts, func(array, tensor []T) { copy(tensor, array) })
}

// arrays calls f with the array of every tensor and the tensor's data.
func (e *Engine[T]) arrays(k engine.Kind, ts []backend.NamedTensor, f func(array, tensor []T)) error {
	for _, t := range ts {
		d := data[T](t.Tensor)
		a, err := e.array(k, t.Name, len(d))
		if err != nil {
			return err
		}
		f(a, d)
	}
	return nil
}

func (e *Engine[T]) array(k engine.Kind, name string, n int) ([]T, error) {
	v := e.values[name]
	if v == nil || v.tensor == nil || k != engine.Value && v.index < 0 {
		return nil, fmt.Errorf("tensor %q has no %v", name, k)
	}
	a := [][]T{v.data, v.grad, v.m, v.v}[k]
	if len(a) != n {
		return nil, fmt.Errorf("tensor %q has %d elements, not %d", name, len(a), n)
	}
	return a, nil
}

// BatchSize implements engine.Engine.
func (e *Engine[T]) BatchSize(h, w int) int { return min(64, max(1, 1<<16/(h*w))) }

// Close implements engine.Engine; the garbage collector does the rest.
func (e *Engine[T]) Close() error {
	e.pool = nil
	return nil
}

// start prepares a pass over a batch: shapes, and the input's data.
func (e *Engine[T]) start(images backend.Tensor, train bool) error {
	shape := images.Shape
	if train != e.train || !slices.Equal(shape, e.shape) {
		shapes, err := e.graph.Shapes(shape)
		if err != nil {
			return err
		}
		for _, s := range e.steps {
			s.out.shape = shapes[s.out.name]
		}
		e.shape = slices.Clone(shape)
		e.input.shape, e.train = e.shape, train
		e.pool = nil
	}
	for _, v := range e.values {
		if v.tensor == nil { // left over from an interrupted pass
			v.data, v.grad = nil, nil
		}
	}
	x := data[T](images)
	if n := nn.Size(shape); len(x) != n {
		return fmt.Errorf("%d values do not fill images of shape %v", len(x), shape)
	}
	e.input.data = e.pool.get(len(x))
	copy(e.input.data, x)
	e.round(e.input.data)
	return nil
}

// round rounds to half precision in place where the session is mixed.
func (e *Engine[T]) round(x []T) {
	if e.opts.Precision != backend.Mixed {
		return
	}
	e.each(len(x), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			x[i] = T(half.Round(float32(x[i])))
		}
	})
}

// forward runs every node. keep says whether to keep a value after its last
// reader has run.
func (e *Engine[T]) forward(keep func(*value[T]) bool) error {
	for i, s := range e.steps {
		s.out.data = e.pool.get(nn.Size(s.out.shape))
		s.op.forward(e)
		if s.rounded {
			e.round(s.out.data)
		}
		if e.opts.Stopped() {
			return engine.ErrInterrupted
		}
		for _, v := range s.in {
			if v != nil && v.last == i && !keep(v) {
				e.release(v)
			}
		}
	}
	return nil
}

// release returns an activation's memory to the pool.
func (e *Engine[T]) release(v *value[T]) {
	if v.tensor == nil {
		e.pool.put(v.data)
		e.pool.put(v.grad)
		v.data, v.grad = nil, nil
	}
}

// gradient returns where to add a value's gradient, zeroed when asked first.
func (e *Engine[T]) gradient(v *value[T]) []T {
	if v.grad == nil {
		v.grad = e.pool.get(len(v.data))
		clear(v.grad)
	}
	return v.grad
}

// Gradients implements engine.Engine.
func (e *Engine[T]) Gradients(b engine.Batch, frozen []bool, scale float64, statistics bool) (float64, error) {
	if e.logits == nil {
		return 0, fmt.Errorf("the network does not end in a Softmax over channels, so it has no loss: %w", backend.ErrUnsupported)
	}
	if err := e.start(b.Images, true); err != nil {
		return 0, err
	}
	if len(b.Labels) != e.pixels() || len(frozen) != len(e.params) {
		return 0, fmt.Errorf("%d labels for %d pixels, %d frozen flags for %d parameters", len(b.Labels), e.pixels(), len(frozen), len(e.params))
	}
	e.input.needed = false
	for i, p := range e.params {
		p.needed = !frozen[i]
		clear(p.grad)
	}
	for _, s := range e.steps {
		s.out.needed = false
		for _, v := range s.in {
			s.out.needed = s.out.needed || v != nil && v.needed
		}
	}
	e.update = statistics
	if err := e.forward(func(*value[T]) bool { return true }); err != nil {
		return 0, err
	}
	losses := make([]float64, e.shape[0])
	if e.logits.needed {
		e.gradient(e.logits)
	}
	e.loss(b.Labels, losses, scale)
	var loss float64
	for _, l := range losses {
		loss += l
	}
	// The last step is the Softmax, whose backward pass is part of the loss's.
	for i := len(e.steps) - 2; i >= 0; i-- {
		s := &e.steps[i]
		if s.out.grad != nil {
			e.round(s.out.grad)
			s.op.backward(e)
			if e.opts.Stopped() {
				return 0, engine.ErrInterrupted
			}
		}
		e.release(s.out)
	}
	e.release(e.output)
	e.release(e.input)
	return loss / float64(len(losses)), nil
}

// pixels is the number of labels of a batch.
func (e *Engine[T]) pixels() int {
	s := e.output.shape
	return s[0] * s[2] * s[3]
}

// Forward implements engine.Engine.
func (e *Engine[T]) Forward(b engine.Batch, out backend.Tensor) ([]float64, error) {
	if err := e.start(b.Images, false); err != nil {
		return nil, err
	}
	y := data[T](out)
	if n := nn.Size(e.output.shape); n != len(y) {
		return nil, fmt.Errorf("output of shape %v does not fit %d values", e.output.shape, len(y))
	}
	if b.Labels != nil && (e.logits == nil || len(b.Labels) != e.pixels()) {
		return nil, fmt.Errorf("%d labels for %d pixels of a network with output %v", len(b.Labels), e.pixels(), e.output.shape)
	}
	if err := e.forward(func(*value[T]) bool { return false }); err != nil {
		return nil, err
	}
	copy(y, e.output.data)
	var losses []float64
	if b.Labels != nil {
		losses = make([]float64, e.shape[0])
		e.loss(b.Labels, losses, 1)
	}
	if e.logits != nil {
		e.release(e.logits)
	}
	e.release(e.output)
	return losses, nil
}

// Activations implements engine.Engine.
func (e *Engine[T]) Activations(b engine.Batch, training bool, out []backend.NamedTensor) error {
	wanted := map[*value[T]]bool{}
	for _, t := range out {
		v := e.values[t.Name]
		if v == nil {
			return fmt.Errorf("the network has no value %q", t.Name)
		}
		wanted[v] = true
	}
	if err := e.start(b.Images, training); err != nil {
		return err
	}
	e.update = false
	if err := e.forward(func(v *value[T]) bool { return wanted[v] }); err != nil {
		return err
	}
	for _, t := range out {
		copy(data[T](t.Tensor), e.values[t.Name].data)
	}
	for _, v := range e.values {
		e.release(v)
	}
	return nil
}

// Finite implements engine.Engine.
func (e *Engine[T]) Finite() (bool, error) {
	for _, p := range e.params {
		for _, g := range p.grad {
			if x := float64(g); math.IsNaN(x) || math.IsInf(x, 0) {
				return false, nil
			}
		}
	}
	return true, nil
}
