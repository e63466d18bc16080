package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// seen gives the operator's output, an image that it has emitted, the view of
// its input.
func (im *importer) seen(o *operator, view []int) error {
	im.values[o.Outputs[0]] = im.values[o.Outputs[0]].as(view)
	return nil
}

// pointwise emits a function of every element of x.
func (im *importer) pointwise(o *operator, op string, x *value, inputs []string, attrs nn.Attrs) error {
	if err := im.emit(o, op, append([]string{x.image}, inputs...), attrs, x.dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

// activation is a function of every element with numbers for attributes.
func (im *importer) activation(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	attrs := nn.Attrs{}
	for _, name := range map[string][]string{"LeakyRelu": {"alpha"}, "Elu": {"alpha"}, "Selu": {"alpha", "gamma"}, "HardSigmoid": {"alpha", "beta"}}[o.Op] {
		if v := lookup(a, name, float32(1)); v != v || math.IsInf(float64(v), 0) {
			a.fail("attribute %q = %g is not supported", name, v)
		}
		if v, ok := o.values[name]; ok {
			attrs[name] = v
		}
	}
	return im.pointwise(o, o.Op, x, nil, attrs)
}

// celu is α·elu(x/α).
func (im *importer) celu(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	alpha := lookup(a, "alpha", float32(1))
	if !(alpha > 0) || math.IsInf(float64(alpha), 0) {
		return fmt.Errorf("attribute \"alpha\" = %g is not supported", alpha)
	}
	if alpha == 1 {
		return im.pointwise(o, "Elu", x, nil, nil)
	}
	scale := im.scalar(o, "alpha", alpha)
	y, err := im.node(o, "Div", []string{x.image, scale}, nil, x.dims)
	if err == nil {
		y, err = im.node(o, "Elu", []string{y}, nil, x.dims)
	}
	if err != nil {
		return err
	}
	return im.pointwise(o, "Mul", &value{image: y, dims: x.dims, view: x.view}, []string{scale}, nil)
}

// gated is an activation x·g(x).
func (im *importer) gated(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	var g string
	switch o.Op {
	case "HardSwish":
		g, err = im.node(o, "HardSigmoid", []string{x.image}, nn.Attrs{"alpha": float32(1.0 / 6), "beta": float32(0.5)}, x.dims)
	case "Swish":
		g = x.image
		if alpha := lookup(a, "alpha", float32(1)); alpha != 1 {
			if g, err = im.node(o, "Mul", []string{x.image, im.scalar(o, "alpha", alpha)}, nil, x.dims); err != nil {
				return err
			}
		}
		g, err = im.node(o, "Sigmoid", []string{g}, nil, x.dims)
	case "Mish":
		if g, err = im.node(o, "Softplus", []string{x.image}, nil, x.dims); err != nil {
			return err
		}
		g, err = im.node(o, "Tanh", []string{g}, nil, x.dims)
	}
	if err != nil {
		return err
	}
	return im.pointwise(o, "Mul", x, []string{g}, nil)
}

// gelu is x/2·(1 + erf(x/√2)), or its approximation by tanh.
func (im *importer) gelu(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	last := x.image
	step := func(op string, inputs ...string) {
		if err == nil {
			last, err = im.node(o, op, inputs, nil, x.dims)
		}
	}
	if a.oneOf("approximate", "none", "tanh") == "none" {
		step("Div", last, im.scalar(o, "root", math.Sqrt2))
		step("Erf", last)
	} else {
		step("Mul", x.image, x.image)
		step("Mul", last, x.image)
		step("Mul", last, im.scalar(o, "cubic", 0.044715))
		step("Add", last, x.image)
		step("Mul", last, im.scalar(o, "slope", float32(math.Sqrt(2/math.Pi))))
		step("Tanh", last)
	}
	step("Add", last, im.scalar(o, "one", 1))
	step("Mul", last, x.image)
	if err != nil {
		return err
	}
	return im.pointwise(o, "Mul", &value{image: last, dims: x.dims, view: x.view}, []string{im.scalar(o, "half", 0.5)}, nil)
}

// softsign is x/(1 + |x|).
func (im *importer) softsign(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	y, err := im.node(o, "Abs", []string{x.image}, nil, x.dims)
	if err == nil {
		y, err = im.node(o, "Add", []string{y, im.scalar(o, "one", 1)}, nil, x.dims)
	}
	if err != nil {
		return err
	}
	return im.pointwise(o, "Div", x, []string{y}, nil)
}

func (im *importer) prelu(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	slope, dims, err := im.operand(o, 1, x.views())
	if err != nil {
		return err
	}
	for i, d := range dims {
		if d != constant(1) && d != x.dims[i] {
			return fmt.Errorf("a slope of shape %v does not fit an image of %v", im.input(o, 1).known().Shape, x.dims)
		}
	}
	return im.pointwise(o, o.Op, x, []string{slope}, nil)
}

// clip has its bounds as attributes before opset 11, as inputs since.
func (im *importer) clip(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	inputs := make([]string, 2)
	for i, name := range []string{"min", "max"} {
		if im.Opset < 11 {
			if v := a.get(name); v != nil {
				inputs[i] = im.scalar(o, name, lookup(a, name, float32(0)))
			}
			continue
		}
		if im.input(o, 1+i) == nil {
			continue
		}
		b := im.input(o, 1+i).known()
		switch {
		case b == nil || len(b.F32) != 1:
			return fmt.Errorf("input %d (%q) is no constant number", 1+i, o.Inputs[1+i])
		case len(b.Shape) == 0:
			if inputs[i], _, err = im.weight(o, 1+i); err != nil {
				return err
			}
		default:
			inputs[i] = im.scalar(o, name, b.F32[0])
		}
	}
	if inputs[0] == "" && inputs[1] == "" {
		return im.set(o, x)
	}
	return im.pointwise(o, o.Op, x, inputs, nil)
}

// pow takes the exponents that networks have.
func (im *importer) pow(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	p, ok := number(im.input(o, 1).known())
	if !ok {
		return fmt.Errorf("input 1 (%q) is no constant number", o.Inputs[1])
	}
	switch p {
	case 1:
		return im.set(o, x)
	case 2:
		return im.pointwise(o, "Mul", x, []string{x.image}, nil)
	case 3:
		y, err := im.node(o, "Mul", []string{x.image, x.image}, nil, x.dims)
		if err != nil {
			return err
		}
		return im.pointwise(o, "Mul", x, []string{y}, nil)
	case 0.5:
		return im.pointwise(o, "Sqrt", x, nil, nil)
	case -1:
		return im.pointwise(o, "Reciprocal", x, nil, nil)
	}
	return fmt.Errorf("an exponent of %g is not supported (1, 2, 3, 0.5 and −1 are)", p)
}

// number is the only element of a constant.
func number(a *wire.Array) (float64, bool) {
	switch {
	case a == nil || a.Len() != 1:
		return 0, false
	case a.F32 != nil:
		return float64(a.F32[0]), true
	case a.F64 != nil:
		return a.F64[0], true
	}
	return float64(a.Ints[0]), true
}

// arithmetic is an operator on two images, an image and a constant, or
// computed numbers.
func (im *importer) arithmetic(o *operator, a *attributes) error {
	x, y := im.input(o, 0), im.input(o, 1)
	if x.image == "" && y.image == "" {
		r, err := combine(o.Op, x, y)
		if err != nil {
			return err
		}
		return im.set(o, r)
	}
	return im.broadcast(o, o.Op, 0, 1)
}

// extremum is Max, Min or Sum of any number of images and constants.
func (im *importer) extremum(o *operator, a *attributes) error {
	op := o.Op
	if op == "Sum" {
		op = "Add"
	}
	if len(o.Inputs) == 1 {
		x, err := im.number(o, 0)
		if err != nil {
			return err
		}
		return im.set(o, x)
	}
	last := o.Inputs[0]
	for i, in := range o.Inputs[1:] {
		pair := &operator{Node: &wire.Node{Op: op, Name: o.Name, Inputs: []string{last, in}, Outputs: o.Outputs[:1]}}
		if i < len(o.Inputs)-2 {
			last = im.fresh(im.valueNames, o.Outputs[0]+"."+strings.ToLower(op))
			pair.Name, pair.Outputs = im.fresh(im.nodeNames, last), []string{last}
		}
		if err := im.broadcast(pair, op, 0, 1); err != nil {
			return err
		}
	}
	return nil
}

// broadcast emits an operator on the inputs i and j, of which at least one is
// an image. Dimensions of size one are repeated.
func (im *importer) broadcast(o *operator, op string, i, j int) error {
	var view []int
	for _, k := range []int{i, j} {
		v := im.input(o, k)
		if v == nil || v.known() != nil {
			continue
		}
		v, err := im.number(o, k)
		if err != nil {
			return err
		}
		if view, err = v.join(view); err != nil {
			return fmt.Errorf("input %d (%q): %w", k, o.Inputs[k], err)
		}
	}
	if view == nil {
		return errors.New("needs an image computed from the network's input")
	}
	var names []string
	dims := make([]form, 4)
	for n, k := range []int{i, j} {
		name, d, err := im.operand(o, k, view)
		if err != nil {
			return err
		}
		names = append(names, name)
		for i := range dims {
			switch {
			case n == 0 || dims[i] == constant(1):
				dims[i] = d[i]
			case d[i] != constant(1) && d[i] != dims[i]:
				return fmt.Errorf("images of different size (%v and %v in dimension %d) are not supported", dims[i], d[i], i)
			}
		}
	}
	if err := im.emit(o, op, names, nil, dims); err != nil {
		return err
	}
	return im.seen(o, view)
}

// join merges the view of an image with that of another that it is combined
// with. An inserted dimension is where the other has one that this image has
// with size one.
func (v *value) join(view []int) ([]int, error) {
	mine := slices.Clone(v.views())
	if view == nil {
		return mine, nil
	}
	view = slices.Clone(view)
	for len(mine) < len(view) {
		mine = slices.Insert(mine, 0, inserted)
	}
	for len(view) < len(mine) {
		view = slices.Insert(view, 0, inserted)
	}
	for i := range view {
		switch {
		case view[i] == inserted:
			view[i] = mine[i]
		case mine[i] != inserted && mine[i] != view[i]:
			return nil, errors.New("images in different orders of dimensions are combined, which is not supported")
		}
	}
	for i, d := range view {
		if d != inserted && slices.Contains(view[:i], d) {
			return nil, errors.New("images with different dimensions are combined, which is not supported")
		}
	}
	return view, nil
}

// operand is the operator's i-th input as an operand beside images in the given
// view: its name and its dimensions [N,C,H,W].
func (im *importer) operand(o *operator, i int, view []int) (string, []form, error) {
	v := im.input(o, i)
	if v == nil {
		return "", nil, fmt.Errorf("input %d is missing", i)
	}
	c := v.known()
	if c == nil {
		v, err := im.number(o, i)
		if err != nil {
			return "", nil, err
		}
		for d := range 4 { // what is not seen is one pixel
			if !slices.Contains(v.views(), d) && !slices.Contains(v.views(), merged) && v.dims[d] != constant(1) {
				return "", nil, fmt.Errorf("input %d (%q) hides a dimension", i, o.Inputs[i])
			}
		}
		return v.image, v.dims, nil
	}
	switch {
	case c.F32 == nil:
		return "", nil, fmt.Errorf("input %d (%q) is not of type float32", i, o.Inputs[i])
	case len(c.Shape) > len(view):
		return "", nil, fmt.Errorf("input %d (%q) has shape %v, more dimensions than the image", i, o.Inputs[i], c.Shape)
	}
	dims := []form{constant(1), constant(1), constant(1), constant(1)}
	order := []int{} // the image's dimensions of the constant's that are not one
	first := len(view) - len(c.Shape)
	for k, n := range c.Shape {
		if n == 1 {
			continue
		}
		d := view[first+k]
		if d == inserted || d == merged {
			return "", nil, fmt.Errorf("input %d (%q) has shape %v, which does not fit the image", i, o.Inputs[i], c.Shape)
		}
		dims[d] = constant(n)
		order = append(order, d)
	}
	if slices.Equal(view, []int{0, 1, 2, 3}) {
		name, _, err := im.weight(o, i, c.Shape...)
		return name, dims, err
	}
	if !slices.IsSorted(order) {
		return "", nil, fmt.Errorf("input %d (%q) of shape %v beside a transposed image is not supported", i, o.Inputs[i], c.Shape)
	}
	shape := make([]int, 4)
	for d := range shape {
		shape[d], _ = dims[d].integer()
	}
	return im.tensor(o, "operand", shape, c.F32), dims, nil
}
