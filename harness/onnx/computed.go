package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// maxComputed bounds a tensor that takes part in computations with sizes;
// exporters use a dozen elements.
const maxComputed = 1024

// computed returns the value as a small tensor of forms.
func (v *value) computed() (*value, error) {
	switch {
	case v == nil:
		return nil, errors.New("an input is missing")
	case v.broken != "":
		return nil, errors.New(v.broken)
	case v.image != "":
		return nil, errors.New("the values of an image are used as numbers, which is not supported")
	case v.array == nil:
		return v, nil
	case v.array.Len() > maxComputed:
		return nil, fmt.Errorf("a constant of shape %v is used in a computation of sizes, which is not supported", v.array.Shape)
	}
	c := &value{shape: v.array.Shape, integer: !v.array.Type.IsFloat()}
	for _, x := range v.array.Ints {
		c.forms = append(c.forms, form{k: float64(x)})
	}
	for _, x := range v.array.F32 {
		c.forms = append(c.forms, form{k: float64(x)})
	}
	for _, x := range v.array.F64 {
		c.forms = append(c.forms, form{k: x})
	}
	return c, nil
}

// integers returns the value as fixed whole numbers.
func (v *value) integers() ([]int, error) {
	c, err := v.computed()
	if err != nil {
		return nil, err
	}
	var r []int
	for _, f := range c.forms {
		// Slice gives "to the end" as the largest int64
		f.k = min(max(f.k, -math.MaxInt32), math.MaxInt32)
		k, ok := f.integer()
		if !ok {
			return nil, fmt.Errorf("%v is no fixed whole number", f)
		}
		r = append(r, k)
	}
	return r, nil
}

// follow sets the output to what f computes from the first input's forms.
func (im *importer) follow(o *operator, f func(c *value) (*value, error)) error {
	c, err := im.input(o, 0).computed()
	if err == nil {
		c, err = f(c)
	}
	if err == nil && len(c.forms) > maxComputed {
		err = errors.New("a computation of sizes has too many elements")
	}
	var finer *finerError
	if errors.As(err, &finer) {
		return err
	}
	if err != nil {
		return im.set(o, broken(fmt.Errorf("%s: %w", o.Label(), err)))
	}
	return im.set(o, c)
}

func (im *importer) constantNode(o *operator, a *attributes) error {
	v := lookup[*wire.Array](a, "value", nil)
	switch {
	case a.get("value_float") != nil:
		v = &wire.Array{Shape: []int{}, Type: wire.Float32, F32: []float32{lookup(a, "value_float", float32(0))}}
	case a.get("value_int") != nil:
		v = &wire.Array{Shape: []int{}, Type: wire.Int64, Ints: []int64{lookup(a, "value_int", int64(0))}}
	case a.get("value_floats") != nil:
		x := lookup(a, "value_floats", []float32{})
		v = &wire.Array{Shape: []int{len(x)}, Type: wire.Float32, F32: x}
	case a.get("value_ints") != nil:
		x := lookup(a, "value_ints", []int64{})
		v = &wire.Array{Shape: []int{len(x)}, Type: wire.Int64, Ints: x}
	}
	if v == nil || len(o.values) != 1 {
		return errors.New("has no value of a kind that is supported")
	}
	return im.set(o, &value{array: v, constant: o.Outputs[0]})
}

func (im *importer) shapeOf(o *operator, a *attributes) error {
	x := im.input(o, 0)
	var dims []form
	switch {
	case x.image != "":
		var err error
		if dims, err = x.sizes(); err != nil {
			return im.set(o, broken(err))
		}
	case x.broken != "":
		return im.set(o, x)
	default:
		shape := x.shape
		if x.array != nil {
			shape = x.array.Shape
		}
		for _, d := range shape {
			dims = append(dims, constant(d))
		}
	}
	// opset 15
	n := int64(len(dims))
	start, end := lookup(a, "start", int64(0)), lookup(a, "end", n)
	clamp := func(i int64) int64 {
		if i < 0 {
			i += n
		}
		return min(max(i, 0), n)
	}
	dims = dims[clamp(start):max(clamp(start), clamp(end))]
	return im.set(o, &value{shape: []int{len(dims)}, forms: dims, integer: true})
}

func (im *importer) gather(o *operator, a *attributes) error {
	axis := lookup(a, "axis", int64(0))
	if im.input(o, 0).image != "" {
		return im.gatherChannels(o, axis)
	}
	return im.follow(o, func(c *value) (*value, error) {
		idx, err := im.input(o, 1).computed()
		if err != nil {
			return nil, err
		}
		at, err := idx.integers()
		if err != nil {
			return nil, err
		}
		if len(c.shape) != 1 || axis != 0 && axis != -1 {
			return nil, fmt.Errorf("gathering from shape %v along axis %d is not supported", c.shape, axis)
		}
		r := &value{shape: idx.shape, integer: c.integer}
		for _, i := range at {
			if i < 0 {
				i += len(c.forms)
			}
			if i < 0 || i >= len(c.forms) {
				return nil, fmt.Errorf("index %d of %d elements", i, len(c.forms))
			}
			r.forms = append(r.forms, c.forms[i])
		}
		return r, nil
	})
}

// gatherChannels takes one channel, or some that follow one another.
func (im *importer) gatherChannels(o *operator, axis int64) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	d, err := x.axis(axis)
	if err != nil {
		return err
	}
	idx, err := im.input(o, 1).computed()
	if err != nil {
		return err
	}
	at, err := idx.integers()
	if err != nil {
		return err
	}
	n, ok := x.dims[d].integer()
	if !ok || d == 0 || len(at) == 0 || len(idx.shape) > 1 {
		return fmt.Errorf("gathering %d from dimension %v is not supported", at, x.dims[d])
	}
	for i := range at {
		if at[i] < 0 {
			at[i] += n
		}
		if at[i] < 0 || at[i] >= n || at[i] != at[0]+i {
			return fmt.Errorf("gathering %d of %d is not supported; indices that follow one another are", at, n)
		}
	}
	if err := im.cropped(o, x, []crop{{d, int64(at[0]), int64(at[0] + len(at)), 1}}); err != nil {
		return err
	}
	if len(idx.shape) == 1 {
		return nil
	}
	return im.set(o, im.values[o.Outputs[0]].as(reduced(x.views(), []int{d}, false)))
}

// axes reads the axes of Squeeze and Unsqueeze: an attribute before opset 13,
// an input since.
func (im *importer) axes(o *operator, a *attributes) ([]int, error) {
	if im.Opset < 13 {
		var r []int
		for _, x := range lookup(a, "axes", []int64(nil)) {
			if x < -wire.MaxRank || x > wire.MaxRank {
				return nil, fmt.Errorf("attribute \"axes\" has the element %d", x)
			}
			r = append(r, int(x))
		}
		if len(o.Inputs) > 1 {
			return nil, fmt.Errorf("has %d inputs, needs 1 at opset %d", len(o.Inputs), im.Opset)
		}
		return r, nil
	}
	if im.input(o, 1) == nil {
		return nil, nil
	}
	r, err := im.input(o, 1).integers()
	if err != nil {
		return nil, fmt.Errorf("axes: %w", err)
	}
	return r, nil
}

func (im *importer) unsqueeze(o *operator, a *attributes) error {
	axes, err := im.axes(o, a)
	if err != nil {
		return err
	}
	if x := im.input(o, 0); x.image != "" {
		view := slices.Clone(x.views())
		list := slices.Clone(axes)
		for i := range list {
			if list[i] < 0 {
				list[i] += len(view) + len(list)
			}
		}
		slices.Sort(list)
		for _, i := range list {
			if i < 0 || i > len(view) || len(view) == wire.MaxRank {
				return fmt.Errorf("axes %v do not fit", axes)
			}
			view = slices.Insert(view, i, inserted)
		}
		return im.set(o, x.as(view))
	}
	return im.follow(o, func(c *value) (*value, error) {
		shape, err := c.unsqueezed(axes)
		return &value{shape: shape, forms: c.forms, integer: c.integer}, err
	})
}

// unsqueezed is the shape with dimensions of size one inserted.
func (v *value) unsqueezed(axes []int) ([]int, error) {
	rank := len(v.shape) + len(axes)
	if rank > wire.MaxRank {
		return nil, errors.New("too many dimensions")
	}
	shape := make([]int, rank)
	for i := range shape {
		shape[i] = -1
	}
	for _, x := range axes {
		if x < 0 {
			x += rank
		}
		if x < 0 || x >= rank || shape[x] != -1 {
			return nil, fmt.Errorf("axes %v do not fit %d dimensions", axes, rank)
		}
		shape[x] = 1
	}
	rest := v.shape
	for i := range shape {
		if shape[i] == -1 {
			shape[i], rest = rest[0], rest[1:]
		}
	}
	return shape, nil
}

func (im *importer) squeeze(o *operator, a *attributes) error {
	axes, err := im.axes(o, a)
	if err != nil {
		return err
	}
	if x := im.input(o, 0); x.image != "" {
		sizes, err := x.sizes()
		if err != nil {
			return err
		}
		drop := make([]bool, len(sizes))
		for _, i := range axes {
			if i < 0 {
				i += len(sizes)
			}
			if i < 0 || i >= len(sizes) || sizes[i] != constant(1) {
				return fmt.Errorf("axes %v do not fit an image of %v", axes, sizes)
			}
			drop[i] = true
		}
		view := []int{}
		for i, d := range x.views() {
			if !drop[i] && !(axes == nil && sizes[i] == constant(1)) {
				view = append(view, d)
			}
		}
		return im.set(o, x.as(view))
	}
	return im.follow(o, func(c *value) (*value, error) {
		shape, err := c.squeezed(axes)
		return &value{shape: shape, forms: c.forms, integer: c.integer}, err
	})
}

// squeezed is the shape without the given dimensions of size one, nil for all.
func (v *value) squeezed(axes []int) ([]int, error) {
	drop := make([]bool, len(v.shape))
	for _, x := range axes {
		if x < 0 {
			x += len(v.shape)
		}
		if x < 0 || x >= len(v.shape) || v.shape[x] != 1 {
			return nil, fmt.Errorf("axes %v do not fit shape %v", axes, v.shape)
		}
		drop[x] = true
	}
	shape := []int{}
	for i, d := range v.shape {
		if !drop[i] && !(axes == nil && d == 1) {
			shape = append(shape, d)
		}
	}
	return shape, nil
}

func (im *importer) concatComputed(o *operator, a *attributes) error {
	axis := lookup(a, "axis", int64(0))
	return im.follow(o, func(c *value) (*value, error) {
		r := &value{integer: c.integer}
		for i := range o.Inputs {
			x, err := im.input(o, i).computed()
			if err != nil {
				return nil, err
			}
			if len(x.shape) != 1 || axis != 0 && axis != -1 {
				return nil, fmt.Errorf("joining shape %v along axis %d is not supported", x.shape, axis)
			}
			if x.integer != c.integer {
				return nil, errors.New("joins different types")
			}
			r.forms = append(r.forms, x.forms...)
			if len(r.forms) > maxComputed {
				break // refused by follow
			}
		}
		r.shape = []int{len(r.forms)}
		return r, nil
	})
}

func (im *importer) sliceComputed(o *operator, given [4]*value) error {
	return im.follow(o, func(c *value) (*value, error) {
		var p [4][]int // starts, ends, axes, steps
		for i, v := range given {
			if v != nil {
				var err error
				if p[i], err = v.integers(); err != nil {
					return nil, err
				}
			}
		}
		axis, step := 0, 1
		if len(p[2]) > 0 {
			axis = p[2][0]
		}
		if len(p[3]) > 0 {
			step = p[3][0]
		}
		if axis < 0 {
			axis += len(c.shape)
		}
		// exporters slice vectors and reverse the rows of a small matrix
		if len(p[0]) != 1 || len(p[1]) != 1 || len(p[2]) > 1 || len(p[3]) > 1 || axis != 0 || len(c.shape) == 0 || step == 0 {
			return nil, errors.New("slicing along other than the first axis is not supported")
		}
		n := c.shape[0]
		row := len(c.forms) / max(n, 1)
		start, end := p[0][0], p[1][0]
		if start < 0 {
			start += n
		}
		if end < 0 {
			end += n
		}
		if step > 0 {
			start, end = min(max(start, 0), n), min(max(end, 0), n)
		} else {
			start, end = min(max(start, -1), n-1), min(max(end, -1), n-1)
		}
		r := &value{shape: slices.Clone(c.shape), integer: c.integer}
		r.shape[0] = 0
		for i := start; step > 0 && i < end || step < 0 && i > end; i += step {
			r.forms = append(r.forms, c.forms[i*row:(i+1)*row]...)
			r.shape[0]++
		}
		return r, nil
	})
}

func (im *importer) reshape(o *operator, a *attributes) error {
	zero := a.int("allowzero", 0, 0, 1) // opset 14
	if x := im.input(o, 0); x.image != "" {
		x, err := im.picture(o, 0)
		if err != nil {
			return err
		}
		c, err := im.input(o, 1).computed()
		if err != nil {
			return fmt.Errorf("shape: %w", err)
		}
		want := slices.Clone(c.forms)
		for i, t := range want {
			if t == (form{}) && zero == 0 {
				if i >= len(x.views()) {
					return fmt.Errorf("shape %v for an image of %v", want, x.dims)
				}
				switch d := x.views()[i]; d {
				case inserted:
					want[i] = constant(1)
				case merged:
					want[i] = form{k: -1}
				default:
					want[i] = x.dims[d]
				}
			}
		}
		return im.reshapeImage(o, x, want)
	}
	return im.follow(o, func(c *value) (*value, error) {
		want, err := im.input(o, 1).integers()
		if err != nil {
			return nil, err
		}
		shape := slices.Clone(want)
		known, open := 1, -1
		for i, d := range shape {
			switch {
			case d == 0 && i < len(c.shape) && zero == 0:
				shape[i] = c.shape[i]
			case d == -1 && open < 0:
				open = i
				continue
			case d < 0 || d > maxComputed:
				return nil, fmt.Errorf("shape %v", want)
			}
			known *= shape[i]
			if known > maxComputed {
				return nil, fmt.Errorf("shape %v", want)
			}
		}
		if open >= 0 && known > 0 {
			shape[open] = len(c.forms) / known
			known *= shape[open]
		}
		if known != len(c.forms) || len(shape) > wire.MaxRank {
			return nil, fmt.Errorf("shape %v for %d elements", want, len(c.forms))
		}
		return &value{shape: shape, forms: c.forms, integer: c.integer}, nil
	})
}

// flatten makes a matrix; of an image, one that has a single pixel.
func (im *importer) flatten(o *operator, a *attributes) error {
	x, err := im.picture(o, 0)
	if err != nil {
		return err
	}
	n := int64(len(x.views()))
	axis := a.int("axis", 1, -n, n)
	if axis < 0 {
		axis += n
	}
	sizes, err := x.sizes()
	if err != nil || a.first != nil {
		return errors.Join(a.first, err)
	}
	want := []form{constant(1), constant(1)}
	for i, s := range sizes {
		k := 0
		if int64(i) >= axis {
			k = 1
		}
		var ok bool
		if want[k], ok = want[k].times(s); !ok {
			return fmt.Errorf("an image of %v as a matrix is not supported", sizes)
		}
	}
	return im.reshapeImage(o, x, want)
}

func (c *value) transposed(perm []int64) *value {
	r := &value{integer: c.integer, forms: make([]form, len(c.forms)), shape: make([]int, len(perm))}
	for i, p := range perm {
		r.shape[i] = c.shape[p]
	}
	at := make([]int, len(perm)) // in the result
	for i := range r.forms {
		from := 0
		for d := range c.shape {
			from = from*c.shape[d] + at[slices.Index(perm, int64(d))]
		}
		r.forms[i] = c.forms[from]
		for d := len(at) - 1; d >= 0; d-- {
			if at[d]++; at[d] < r.shape[d] {
				break
			}
			at[d] = 0
		}
	}
	return r
}

func (im *importer) constantOfShape(o *operator, a *attributes) error {
	fill := &value{shape: []int{}, forms: []form{{}}}
	if v := lookup[*wire.Array](a, "value", nil); v != nil {
		if v.Len() != 1 {
			return errors.New("attribute \"value\" must have one element")
		}
		var err error
		if fill, err = (&value{array: v}).computed(); err != nil {
			return err
		}
	}
	return im.follow(o, func(c *value) (*value, error) {
		shape, err := c.integers()
		if err != nil {
			return nil, err
		}
		n := 1
		for _, d := range shape {
			if d < 0 || d > maxComputed || n*d > maxComputed {
				return nil, fmt.Errorf("shape %v is not supported", shape)
			}
			n *= d
		}
		if len(shape) > wire.MaxRank {
			return nil, errors.New("too many dimensions")
		}
		return &value{shape: shape, forms: slices.Repeat(fill.forms, n), integer: fill.integer}, nil
	})
}

// expandComputed repeats a single number.
func (im *importer) expandComputed(o *operator) error {
	return im.follow(o, func(c *value) (*value, error) {
		shape, err := im.input(o, 1).integers()
		if err != nil {
			return nil, err
		}
		if slices.Equal(shape, c.shape) {
			return c, nil
		}
		n := 1
		for _, d := range shape {
			if d < 1 || d > maxComputed || n*d > maxComputed {
				return nil, fmt.Errorf("shape %v is not supported", shape)
			}
			n *= d
		}
		if len(c.forms) != 1 || len(shape) > wire.MaxRank {
			return nil, fmt.Errorf("expanding shape %v to %v is not supported", c.shape, shape)
		}
		return &value{shape: shape, forms: slices.Repeat(c.forms, n), integer: c.integer}, nil
	})
}

// cast converts computed numbers between integers and floating point.
func (im *importer) cast(o *operator, a *attributes) error {
	to := lookup(a, "to", int64(0))
	a.int("saturate", 1, 0, 1)  // opset 19, of types that are not read
	lookup(a, "round_mode", "") // opset 24, likewise
	x := im.input(o, 0)
	if x.image != "" {
		return im.castImage(o, x, wire.Type(to))
	}
	return im.follow(o, func(c *value) (*value, error) {
		r := &value{shape: c.shape, forms: slices.Clone(c.forms)}
		switch wire.Type(to) {
		case wire.Int32, wire.Int64:
			r.integer = true
			for i, f := range r.forms { // rounds towards zero
				if f.fixed() {
					r.forms[i].k = math.Trunc(f.k)
				} else if !f.whole() {
					return nil, fmt.Errorf("rounding %v is not supported", f)
				}
			}
		case wire.Float32, wire.Float64:
			for _, f := range r.forms {
				if !f.exact() {
					return nil, fmt.Errorf("%v is rounded", f)
				}
			}
		default:
			return nil, fmt.Errorf("conversion to %s is not supported", wire.Type(to))
		}
		return r, nil
	})
}

// castLike converts between floating-point types, which is nothing.
func (im *importer) castLike(o *operator, a *attributes) error {
	a.int("saturate", 1, 0, 1)
	lookup(a, "round_mode", "")
	x, like := im.input(o, 0), im.input(o, 1)
	isFloat := func(v *value) bool {
		if v.image != "" {
			return !v.integer && v.quantized == nil
		}
		c := v.known()
		return c != nil && c.Type.IsFloat()
	}
	if !isFloat(x) || !isFloat(like) {
		return errors.New("of other than floating-point numbers is not supported")
	}
	if c := x.known(); c != nil && c.F64 != nil { // the one type that is not kept as float32
		r := &wire.Array{Shape: c.Shape, Type: wire.Float32, F32: make([]float32, len(c.F64))}
		for i, v := range c.F64 {
			r.F32[i] = float32(v)
		}
		return im.set(o, &value{array: r, constant: o.Outputs[0]})
	}
	return im.set(o, x)
}

// castImage does nothing between floating-point types: all arithmetic is in the
// backend's precision. The classes of an arg-max become numbers.
func (im *importer) castImage(o *operator, x *value, to wire.Type) error {
	switch {
	case x.quantized == nil && x.integer == !to.IsFloat():
		return im.set(o, x)
	case x.integer && to.IsFloat():
		return im.pointwise(o, "Cast", x, nil, nn.Attrs{"to": int64(wire.Float32)})
	}
	return fmt.Errorf("attribute \"to\" = %d (%s) of an image is not supported", int64(to), to)
}

func (im *importer) round(o *operator, a *attributes) error {
	if im.input(o, 0).image != "" {
		return errors.New("rounding an image is not supported")
	}
	return im.follow(o, func(c *value) (*value, error) {
		r := &value{shape: c.shape, forms: slices.Clone(c.forms)}
		for i, f := range r.forms {
			k := f.k
			f.k = 0
			if !f.whole() {
				return nil, fmt.Errorf("rounding %v is not supported", r.forms[i])
			}
			if o.Op == "Floor" {
				f.k = math.Floor(k)
			} else {
				f.k = math.Ceil(k)
			}
			r.forms[i] = f
		}
		return r, nil
	})
}

// combine applies Add, Sub, Mul or Div to computed tensors, one of which may
// have a single element.
func combine(op string, x, y *value) (*value, error) {
	a, err := x.computed()
	if err != nil {
		return broken(err), nil
	}
	b, err := y.computed()
	if err != nil {
		return broken(err), nil
	}
	shape, n := a.shape, len(a.forms)
	switch {
	case slices.Equal(a.shape, b.shape):
	case len(b.forms) == 1 && len(b.shape) <= len(a.shape):
	case len(a.forms) == 1 && len(a.shape) <= len(b.shape):
		shape, n = b.shape, len(b.forms)
	default:
		return broken(fmt.Errorf("combining sizes of shape %v and %v is not supported", a.shape, b.shape)), nil
	}
	if a.integer != b.integer {
		return broken(fmt.Errorf("%s of different types", op)), nil
	}
	r := &value{shape: shape, integer: a.integer, forms: make([]form, n)}
	for i := range r.forms {
		p, q := a.forms[i%len(a.forms)], b.forms[i%len(b.forms)]
		var f form
		switch {
		case op == "Add":
			f = p.add(q)
		case op == "Sub":
			f = p.sub(q)
		case op == "Mul" && q.fixed():
			f = p.scale(q.k)
		case op == "Mul" && p.fixed():
			f = q.scale(p.k)
		case op == "Div" && q.fixed() && q.k != 0:
			f = p.scale(1 / q.k)
			if a.integer && p.fixed() {
				f.k = math.Trunc(f.k) // integer division rounds towards zero
			} else if a.integer && !f.whole() && q.k > 0 && p.positive() { // likewise
				var err error
				if f, err = floorDiv(p, int(q.k)); err != nil {
					return nil, err
				}
			}
		default:
			return broken(fmt.Errorf("%s of %v and %v is not supported", op, p, q)), nil
		}
		if !f.exact() || r.integer && !f.whole() {
			return broken(fmt.Errorf("%s of %v and %v is not exact", op, p, q)), nil
		}
		r.forms[i] = f
	}
	return r, nil
}
