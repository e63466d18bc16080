package gorgonia

import (
	"fmt"
	"hash"
	"hash/fnv"

	"github.com/chewxy/hm"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// arithmetic is what distinguishes one operator from another: it computes the
// output, whose shape is fixed when the graph is built, from the inputs.
// Scalars are slices of one.
type arithmetic interface {
	compute(w *kernel.Workers, in [][]float32, out []float32)
}

// differentiable arithmetic adds the node that computes the gradient for each
// input marked in need; the entries of the others stay nil.
type differentiable interface {
	arithmetic
	gradients(b *builder, o *op, inputs G.Nodes, output, grad *G.Node, need []bool) (G.Nodes, error)
}

// op makes a Gorgonia operator (Op and SDOp) of arithmetic. Each op belongs to
// one node: its hash contains an id, so that Gorgonia's common subexpression
// elimination, which compares 32-bit hashes, never merges two of them.
type op struct {
	arithmetic
	b    *builder
	name string // the ONNX node's, for messages
	id   int
	in   []tensor.Shape
	out  tensor.Shape
	// need says for which inputs a gradient is wanted. Gorgonia evaluates every
	// gradient an operator is differentiable to, used or not, so this is what
	// keeps the work of frozen groups from being done.
	need []bool

	tables []driver.Pointer // on the device: see prepared

	// uses counts the own operators that read the output; 0 means that it is
	// kept until the end of the run.
	uses int
}

var _ G.SDOp = (*op)(nil)

func (o *op) Arity() int { return len(o.in) }

func (o *op) Type() hm.Type {
	a := hm.TypeVariable('a')
	of := func(s tensor.Shape) hm.Type {
		if s.IsScalar() {
			return a
		}
		return G.TensorType{Dims: s.Dims(), Of: a}
	}
	types := make([]hm.Type, 0, len(o.in)+1)
	for _, s := range o.in {
		types = append(types, of(s))
	}
	return hm.NewFnType(append(types, of(o.out))...)
}

func (o *op) InferShape(in ...G.DimSizer) (tensor.Shape, error) {
	for i, d := range in {
		if s, ok := d.(tensor.Shape); !ok || !s.Eq(o.in[i]) {
			return nil, fmt.Errorf("%v: input %d has shape %v, built for %v", o, i, d, o.in[i])
		}
	}
	return o.out.Clone(), nil
}

// Do computes the output into memory of the network's arena and gives back the
// memory of inputs that nobody reads any more.
func (o *op) Do(values ...G.Value) (result G.Value, err error) {
	x := o.b.exec
	if err := x.interrupted(); err != nil {
		return nil, err
	}
	for i, v := range values {
		if n, want := v.Shape().TotalSize(), o.in[i].TotalSize(); n != want {
			return nil, fmt.Errorf("%v: input %d has %d values, built for %d", o, i, n, want)
		}
	}
	err = x.do(func() error {
		result = G.NewF32(0)
		if !o.out.IsScalar() {
			if result, err = x.arena.tensor(o.out, o.uses); err != nil {
				return fmt.Errorf("%v: %w", o, err)
			}
		}
		if err := o.run(values, result); err != nil {
			return fmt.Errorf("%v: %w", o, err)
		}
		for _, v := range values {
			x.arena.used(v)
		}
		return nil
	})
	if err != nil {
		x.failed = err
		return nil, err
	}
	return result, x.interrupted()
}

// run computes the result where the values are.
func (o *op) run(values []G.Value, result G.Value) error {
	x := o.b.exec
	if x.gpu != nil {
		in := make([]span, len(values))
		for i, v := range values {
			in[i] = spanOf(v)
		}
		return o.arithmetic.(onDevice).launch(x.gpu, o, in, spanOf(result))
	}
	in := make([][]float32, len(values))
	for i, v := range values {
		switch d := v.Data().(type) {
		case []float32:
			in[i] = d
		case float32:
			in[i] = []float32{d}
		default:
			return fmt.Errorf("input %d is a %T", i, d)
		}
	}
	if s, ok := result.(*G.F32); ok {
		var v [1]float32
		o.compute(x.workers, in, v[:])
		*s = G.F32(v[0])
		return nil
	}
	o.compute(x.workers, in, result.Data().([]float32))
	return nil
}

func (o *op) ReturnsPtr() bool     { return false }
func (o *op) CallsExtern() bool    { return false }
func (o *op) OverwritesInput() int { return -1 }
func (o *op) String() string       { return fmt.Sprintf("%T#%d(%s)", o.arithmetic, o.id, o.name) }

func (o *op) WriteHash(h hash.Hash) { fmt.Fprintf(h, "refocus/%d/%d", o.b.salt, o.id) }

func (o *op) Hashcode() uint32 {
	h := fnv.New32a()
	o.WriteHash(h)
	return h.Sum32()
}

func (o *op) DiffWRT(inputs int) []bool {
	if o.need == nil {
		return make([]bool, inputs)
	}
	return o.need
}

func (o *op) SymDiff(inputs G.Nodes, output, grad *G.Node) (G.Nodes, error) {
	d, ok := o.arithmetic.(differentiable)
	if !ok {
		return nil, fmt.Errorf("%v has no derivative", o)
	}
	return d.gradients(o.b, o, inputs, output, grad, o.need)
}

// apply adds a node that computes a from the inputs. need is nil for operators
// that are never differentiated.
func (b *builder) apply(name string, a arithmetic, out []int, need []bool, inputs ...*G.Node) (*G.Node, error) {
	o := &op{arithmetic: a, b: b, name: name, id: len(b.ops), out: tensor.Shape(out).Clone(), need: need}
	for _, n := range inputs {
		o.in = append(o.in, n.Shape())
	}
	b.ops = append(b.ops, o)
	if _, ok := a.(onDevice); b.exec.gpu != nil && !ok {
		return nil, fmt.Errorf("node %q: %T does not run on a GPU", name, a)
	}
	node, err := G.ApplyOp(o, inputs...)
	if err != nil {
		return nil, fmt.Errorf("node %q: %w", name, err)
	}
	b.inputs[o] = inputs
	return node, nil
}

// own is the node's operator if it is one of this package's, else nil.
func own(n *G.Node) *op {
	o, _ := n.Op().(*op)
	return o
}

// only is a list of gradients of which those not needed stay nil.
func only(need []bool, f func(i int) (*G.Node, error)) (G.Nodes, error) {
	nodes := make(G.Nodes, len(need))
	for i, want := range need {
		if !want {
			continue
		}
		var err error
		if nodes[i], err = f(i); err != nil {
			return nil, err
		}
	}
	return nodes, nil
}
