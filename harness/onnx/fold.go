package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// folding computes an operator of constants in the file's precision.
type folding func(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error)

// folds reports whether the operator computes a constant of floating-point
// numbers, such as a weight. Computations with a few integers are followed as
// sizes.
func (im *importer) folds(o *operator) bool {
	floats := false
	for i := range o.Inputs {
		v := im.input(o, i)
		if v == nil {
			continue
		}
		if v.known() == nil {
			return false
		}
		floats = floats || v.array != nil && (v.array.F32 != nil || v.array.F64 != nil || v.array.Len() > maxComputed)
	}
	return floats
}

// fold sets the operator's output to a constant.
func (im *importer) fold(o *operator, a *attributes, f folding) error {
	var in []*wire.Array
	for i := range o.Inputs {
		in = append(in, im.input(o, i).known())
	}
	c, err := f(im, o, a, in)
	if err != nil {
		return err
	}
	if c.Len() != nn.Size(c.Shape) {
		return fmt.Errorf("constant of %d elements with shape %v", c.Len(), c.Shape)
	}
	return im.set(o, &value{array: c, constant: o.Outputs[0]})
}

func foldUnary(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	c := in[0]
	if c.F32 == nil {
		return nil, fmt.Errorf("of a constant of type %s is not supported", c.Type)
	}
	r := &wire.Array{Shape: c.Shape, Type: wire.Float32, F32: make([]float32, len(c.F32))}
	for i, x := range c.F32 {
		switch o.Op {
		case "Neg":
			r.F32[i] = -x
		case "Sqrt":
			r.F32[i] = float32(math.Sqrt(float64(x)))
		case "Reciprocal":
			r.F32[i] = 1 / x
		}
	}
	return r, nil
}

func foldArithmetic(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	x, y := in[0], in[1]
	if x.F32 == nil || y.F32 == nil {
		return nil, fmt.Errorf("of constants of types %s and %s is not supported", x.Type, y.Type)
	}
	rank := max(len(x.Shape), len(y.Shape))
	shape := make([]int, rank)
	step := func(c *wire.Array) ([]int, error) { // strides, 0 where a dimension is repeated
		s := make([]int, rank)
		n := 1
		for i := len(c.Shape) - 1; i >= 0; i-- {
			d := rank - len(c.Shape) + i
			if c.Shape[i] != 1 {
				if shape[d] > 1 && shape[d] != c.Shape[i] {
					return nil, fmt.Errorf("constants of shapes %v and %v do not fit", x.Shape, y.Shape)
				}
				shape[d], s[d] = c.Shape[i], n
			}
			n *= c.Shape[i]
		}
		return s, nil
	}
	for i := range shape {
		shape[i] = 1
	}
	sx, err := step(x)
	if err != nil {
		return nil, err
	}
	sy, err := step(y)
	if err != nil {
		return nil, err
	}
	n := nn.Size(shape)
	if n > im.budget {
		return nil, fmt.Errorf("constants of shapes %v and %v give %d elements, which is not supported", x.Shape, y.Shape, n)
	}
	r := &wire.Array{Shape: shape, Type: wire.Float32, F32: make([]float32, n)}
	for i := range r.F32 {
		px, py := 0, 0
		for d, rest := rank-1, i; d >= 0; d-- {
			px += rest % shape[d] * sx[d]
			py += rest % shape[d] * sy[d]
			rest /= shape[d]
		}
		p, q := x.F32[px], y.F32[py]
		switch o.Op {
		case "Add":
			p += q
		case "Sub":
			p -= q
		case "Mul":
			p *= q
		case "Div":
			p /= q
		}
		r.F32[i] = p
	}
	return r, nil
}

// foldCast keeps the values of half-precision weights as they are.
func foldCast(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	a.int("saturate", 1, 0, 1)
	lookup(a, "round_mode", "")
	c, to := in[0], wire.Type(lookup(a, "to", int64(0)))
	r := &wire.Array{Shape: c.Shape, Type: to}
	switch {
	case c.Len() == 0, to == wire.Float64:
		return nil, fmt.Errorf("converting a constant of shape %v from %s to %s is not supported", c.Shape, c.Type, to)
	case to.IsFloat():
		r.Type = wire.Float32
		r.F32 = c.F32
		for _, v := range c.F64 {
			r.F32 = append(r.F32, float32(v))
		}
		for _, v := range c.Ints {
			r.F32 = append(r.F32, float32(v))
		}
	case to == wire.Int64 || to == wire.Int32:
		r.Ints = c.Ints
		whole := func(v float64) error {
			if !(math.Abs(v) < math.MaxInt32) {
				return fmt.Errorf("%g is no %s", v, to)
			}
			r.Ints = append(r.Ints, int64(v))
			return nil
		}
		for _, v := range c.F32 {
			if err := whole(float64(v)); err != nil {
				return nil, err
			}
		}
		for _, v := range c.F64 {
			if err := whole(v); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("conversion to %s is not supported", to)
	}
	return r, nil
}

func foldTranspose(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	c := in[0]
	rank := len(c.Shape)
	def := make([]int64, rank)
	for i := range def {
		def[i] = int64(rank - 1 - i)
	}
	perm := a.ints("perm", def, rank, 0, int64(rank-1))
	if a.first != nil {
		return nil, a.first
	}
	if err := permutation(perm); err != nil {
		return nil, err
	}
	r := &wire.Array{Shape: make([]int, rank), Type: c.Type}
	from := make([]int, rank) // strides of the constant, in the result's order
	for i, p := range perm {
		r.Shape[i] = c.Shape[p]
		from[i] = nn.Size(c.Shape[p+1:])
	}
	order := make([]int, c.Len())
	for i := range order {
		for d, rest := rank-1, i; d >= 0; d-- {
			order[i] += rest % r.Shape[d] * from[d]
			rest /= r.Shape[d]
		}
	}
	for _, p := range order {
		switch {
		case c.F32 != nil:
			r.F32 = append(r.F32, c.F32[p])
		case c.F64 != nil:
			r.F64 = append(r.F64, c.F64[p])
		default:
			r.Ints = append(r.Ints, c.Ints[p])
		}
	}
	return r, nil
}

// foldReshape is any operator that changes the shape alone.
func foldReshape(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	c := in[0]
	r := *c
	r.Shape = nil
	switch o.Op {
	case "Reshape":
		zero := a.int("allowzero", 0, 0, 1)
		if in[1] == nil || in[1].Ints == nil || len(in[1].Ints) > wire.MaxRank {
			return nil, errors.New("the shape is no list of integers")
		}
		open, n := -1, 1
		for i, d := range in[1].Ints {
			switch {
			case d == 0 && zero == 0 && i < len(c.Shape):
				d = int64(c.Shape[i])
			case d == -1 && open < 0:
				open, d = i, 1
			}
			if d < 0 || d > 0 && int64(n) > math.MaxInt32/d {
				return nil, fmt.Errorf("shape %v for %d elements", in[1].Ints, c.Len())
			}
			if r.Shape = append(r.Shape, int(d)); d > 0 {
				n *= int(d)
			}
		}
		if open >= 0 {
			r.Shape[open] = c.Len() / n
		}
	case "Flatten":
		axis := a.int("axis", 1, -int64(len(c.Shape)), int64(len(c.Shape)))
		if axis < 0 {
			axis += int64(len(c.Shape))
		}
		if a.first != nil {
			return nil, a.first
		}
		r.Shape = []int{nn.Size(c.Shape[:axis]), nn.Size(c.Shape[axis:])}
	default:
		axes, err := im.axes(o, a)
		if err != nil {
			return nil, err
		}
		v := &value{shape: c.Shape}
		if o.Op == "Unsqueeze" {
			r.Shape, err = v.unsqueezed(axes)
		} else {
			r.Shape, err = v.squeezed(axes)
		}
		if err != nil {
			return nil, err
		}
	}
	if nn.Size(r.Shape) != c.Len() {
		return nil, fmt.Errorf("shape %v for %d elements", r.Shape, c.Len())
	}
	return &r, nil
}

func foldConcat(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	axis := lookup(a, "axis", int64(0))
	first := in[0]
	if axis < 0 {
		axis += int64(len(first.Shape))
	}
	if axis < 0 || axis >= int64(len(first.Shape)) {
		return nil, fmt.Errorf("attribute \"axis\" = %d of %d dimensions", axis, len(first.Shape))
	}
	r := &wire.Array{Shape: slices.Clone(first.Shape), Type: wire.Float32}
	r.Shape[axis] = 0
	for _, c := range in {
		if c == nil || c.F32 == nil || len(c.Shape) != len(r.Shape) {
			return nil, errors.New("joins constants of different types or ranks")
		}
		for d := range r.Shape {
			if int64(d) != axis && c.Shape[d] != first.Shape[d] {
				return nil, fmt.Errorf("joins constants of shapes %v and %v", first.Shape, c.Shape)
			}
		}
		r.Shape[axis] += c.Shape[axis]
	}
	if nn.Size(r.Shape) > im.budget {
		return nil, errors.New("computes more constants than the file has")
	}
	for outer := range nn.Size(first.Shape[:axis]) {
		for _, c := range in {
			n := nn.Size(c.Shape[axis:])
			r.F32 = append(r.F32, c.F32[outer*n:][:n]...)
		}
	}
	return r, nil
}
