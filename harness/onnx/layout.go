package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// softmax is Softmax or LogSoftmax, also of a transposed image, the form in
// which PyTorch writes the channel softmax at opset 11 and 12.
func (im *importer) softmax(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	def := int64(-1)
	if im.Opset < 13 {
		def = 1
	}
	axis := a.int("axis", def, -4, 3)
	d, err := x.axis(axis)
	if err != nil {
		return fmt.Errorf("attribute \"axis\": %w", err)
	}
	// Before opset 13 it runs over all axes from this one on.
	if im.Opset < 13 {
		if axis < 0 {
			axis += int64(len(x.views()))
		}
		for _, p := range x.views()[axis+1:] {
			if p == merged || p != inserted && x.dims[p] != constant(1) {
				return fmt.Errorf("attribute \"axis\" = %d flattens the axes after it at opset %d, which is not supported", axis, im.Opset)
			}
		}
	}
	return im.pointwise(o, o.Op, x, nil, nn.Attrs{"axis": int64(d)})
}

// argMax gives an image of integers, which only the output may be.
func (im *importer) argMax(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	d, err := a.axis(x, 0)
	if err != nil {
		return err
	}
	keep := a.int("keepdims", 1, 0, 1)
	attrs := nn.Attrs{"axis": int64(d), "keepdims": int64(1)}
	if a.int("select_last_index", 0, 0, 1) == 1 { // opset 12
		attrs["select_last_index"] = int64(1)
	}
	dims := slices.Clone(x.dims)
	dims[d] = constant(1)
	if err := im.emit(o, "ArgMax", []string{x.image}, attrs, dims); err != nil {
		return err
	}
	v := im.values[o.Outputs[0]]
	v.integer = true
	return im.set(o, v.as(reduced(x.views(), []int{d}, keep == 1)))
}

// reduced is a view after a reduction along some of the image's dimensions.
func reduced(view []int, dims []int, keep bool) []int {
	view = slices.Clone(view)
	if keep {
		return view
	}
	return slices.DeleteFunc(view, func(d int) bool { return slices.Contains(dims, d) })
}

// reduce is a mean, sum or extremum along axes of an image: an attribute, or
// since opset 18 (ReduceSum 13) an input.
func (im *importer) reduce(o *operator, a *attributes) error {
	axes := lookup(a, "axes", []int64(nil))
	if v := im.input(o, 1); v != nil {
		r, err := v.integers()
		if err != nil {
			return fmt.Errorf("axes: %w", err)
		}
		axes = nil
		for _, k := range r {
			axes = append(axes, int64(k))
		}
	}
	noop := a.int("noop_with_empty_axes", 0, 0, 1)
	keep := a.int("keepdims", 1, 0, 1)
	if a.first != nil {
		return a.first
	}
	if s := im.input(o, 0); s.stack != nil {
		return im.reduceStack(o, s, axes, keep == 1)
	}
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	if len(axes) == 0 {
		if noop == 1 {
			return im.set(o, x)
		}
		return errors.New("a reduction of all dimensions is not supported")
	}
	var drop []int
	dims := slices.Clone(x.dims)
	for _, k := range axes {
		if x.views()[len(x.views())-1] == merged && (k == -1 || k == int64(len(x.views())-1)) {
			drop = append(drop, 2, 3)
			continue
		}
		d, err := x.axis(k)
		if err != nil {
			return fmt.Errorf("axes: %w", err)
		}
		drop = append(drop, d)
	}
	if slices.Contains(drop, 0) {
		return errors.New("a reduction of the batch is not supported")
	}
	slices.Sort(drop)
	drop = slices.Compact(drop)
	var list []int64
	for _, d := range drop {
		dims[d] = constant(1)
		list = append(list, int64(d))
	}
	attrs := nn.Attrs{"keepdims": int64(1)}
	inputs := []string{x.image}
	if o.Op == "ReduceSum" { // the operator that took its axes for an input first
		inputs = append(inputs, im.same(im.input(o, 1), o, "axes", list...))
	} else {
		attrs["axes"] = list
	}
	if err := im.emit(o, o.Op, inputs, attrs, dims); err != nil {
		return err
	}
	view := reduced(x.views(), drop, keep == 1)
	for i, d := range view {
		if d == merged { // two dimensions of one element each
			view[i] = inserted
		}
	}
	if keep == 0 {
		view = slices.DeleteFunc(view, func(d int) bool { return d == inserted && slices.Contains(x.views(), merged) })
	}
	return im.seen(o, view)
}

// same is the name of a constant with these integers: the file's own if it has
// them.
func (im *importer) same(v *value, o *operator, what string, x ...int64) string {
	if v != nil && v.array != nil && v.constant != "" && slices.Equal(v.array.Shape, []int{len(x)}) && v.array.Type == wire.Int64 && slices.Equal(v.array.Ints, x) {
		im.use(v)
		return v.constant
	}
	return im.ints(o, what, x...)
}

func (im *importer) transpose(o *operator, a *attributes) error {
	x := im.input(o, 0)
	var c *value
	rank := len(x.views())
	if x.image == "" {
		var err error
		if c, err = x.computed(); err != nil {
			a.keep("perm")
			return im.set(o, broken(err))
		}
		rank = len(c.shape)
	}
	def := make([]int64, rank)
	for i := range def {
		def[i] = int64(rank - 1 - i)
	}
	perm := a.ints("perm", def, rank, 0, int64(rank-1))
	if a.first != nil {
		return a.first
	}
	if err := permutation(perm); err != nil {
		return err
	}
	if x.image == "" {
		return im.set(o, c.transposed(perm))
	}
	var view []int
	for _, p := range perm {
		view = append(view, x.views()[p])
	}
	return im.set(o, x.as(view))
}

func permutation(perm []int64) error {
	seen := make([]bool, len(perm))
	for _, p := range perm {
		if seen[p] {
			return fmt.Errorf("attribute \"perm\" = %v is no permutation", perm)
		}
		seen[p] = true
	}
	return nil
}

// pad pads or, by negative numbers, crops. Exporters insert it to match sizes,
// where it comes out as nothing.
func (im *importer) pad(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	mode := a.oneOf("mode", "constant", "reflect", "edge")
	pads, fill := im.input(o, 1), ""
	if im.Opset < 11 {
		pads = &value{integer: true}
		for _, p := range lookup(a, "pads", []int64(nil)) {
			pads.forms = append(pads.forms, form{k: float64(p)})
		}
		if v := lookup(a, "value", float32(0)); v != 0 && mode == "constant" {
			fill = im.scalar(o, "value", v)
		}
	} else if im.input(o, 2) != nil && mode == "constant" {
		v, ok := number(im.input(o, 2).known())
		if !ok {
			return fmt.Errorf("input 2 (%q) is no constant number", o.Inputs[2])
		}
		switch k := im.input(o, 2).known(); {
		case v == 0:
		case len(k.Shape) == 0 && k.F32 != nil:
			if fill, _, err = im.weight(o, 2); err != nil {
				return err
			}
		default:
			fill = im.scalar(o, "value", float32(v))
		}
	}
	if a.first != nil {
		return a.first
	}
	c, err := pads.computed()
	if err != nil {
		return fmt.Errorf("pads: %w", err)
	}
	var axes []int64
	for i := range x.views() {
		axes = append(axes, int64(i))
	}
	if v := im.input(o, 3); v != nil { // opset 18
		r, err := v.integers()
		if err != nil {
			return fmt.Errorf("axes: %w", err)
		}
		axes = nil
		for _, k := range r {
			axes = append(axes, int64(k))
		}
	}
	if len(c.forms) != 2*len(axes) {
		return fmt.Errorf("%d pads, needs %d", len(c.forms), 2*len(axes))
	}
	var list [8]int64
	dims := slices.Clone(x.dims)
	for i, p := range c.forms {
		k, ok := p.integer()
		if !ok {
			return fmt.Errorf("pad %d is %v, which depends on the size of the image", i, p)
		}
		if pads.known() == nil || pads.array == nil {
			im.decided(x.dims...)
		}
		if k == 0 {
			continue
		}
		d, err := x.axis(axes[i%len(axes)])
		switch {
		case err != nil:
			return fmt.Errorf("pads: %w", err)
		case d == 0:
			return errors.New("padding the batch is not supported")
		case k < -maxPad || k > maxPad:
			return fmt.Errorf("pad %d is %d, which is not supported (up to %d are)", i, k, maxPad)
		case mode != "constant" && d == 1:
			return fmt.Errorf("attribute \"mode\" = %q of channels is not supported", mode)
		}
		list[i/len(axes)*4+d] = int64(k)
		dims[d] = dims[d].add(constant(k))
	}
	if list == [8]int64{} {
		return im.set(o, x)
	}
	if mode == "reflect" {
		for d := range 4 {
			if n, ok := x.dims[d].integer(); ok && max(list[d], list[4+d]) >= int64(n) {
				return fmt.Errorf("pads %v reflect more than the image of %v has", list, x.dims)
			}
		}
	}
	attrs := nn.Attrs{}
	if mode != "constant" {
		attrs["mode"] = mode
	}
	return im.resized(o, "Pad", x, []string{im.same(im.constantInput(o, 1), o, "pads", list[:]...), fill}, attrs, dims)
}

// maxPad bounds paddings and croppings.
const maxPad = 1 << 16

// constantInput is the operator's i-th input where inputs, not attributes, say
// how to pad.
func (im *importer) constantInput(o *operator, i int) *value {
	if im.Opset < 11 {
		return nil
	}
	return im.input(o, i)
}

// resized emits an operator that changes the size of x and keeps its view.
func (im *importer) resized(o *operator, op string, x *value, inputs []string, attrs nn.Attrs, dims []form) error {
	if err := im.emit(o, op, append([]string{x.image}, inputs...), attrs, dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

// crop is what Slice leaves of a dimension.
type crop struct {
	axis             int
	start, end, step int64
}

// toEnd is the end of a crop that reaches the end.
const toEnd = math.MaxInt64

// cropped emits the crops of an image as the operator's output.
func (im *importer) cropped(o *operator, x *value, crops []crop) error {
	dims := slices.Clone(x.dims)
	var starts, ends, axes, steps []int64
	strided := false
	for _, c := range crops {
		in := dims[c.axis]
		n, fixed := in.integer()
		at := func(i int64, name string) (form, error) { // a position in the dimension
			switch {
			case fixed && i < 0:
				return constant(max(0, int(max(i, -int64(n)))+n)), nil
			case fixed:
				return constant(int(min(i, int64(n)))), nil
			case i == toEnd:
				return in, nil
			case i < -maxPad || i > maxPad:
				return in, fmt.Errorf("%s %d is not supported on an image of any size", name, i)
			case i < 0:
				return in.add(constant(int(i))), nil
			}
			return constant(int(i)), nil
		}
		from, err := at(c.start, "start")
		if err != nil {
			return err
		}
		to, err := at(c.end, "end")
		if err != nil {
			return err
		}
		left, err := floorDiv(to.sub(from).add(constant(int(c.step-1))), int(c.step))
		if err != nil {
			return err
		}
		if k, ok := left.integer(); ok && k < 1 {
			return fmt.Errorf("start %d and end %d leave nothing of dimension %v", c.start, c.end, in)
		}
		if !fixed && left.fixed() {
			return fmt.Errorf("cropping %v to %v is not supported", in, left)
		}
		if left == in {
			continue
		}
		dims[c.axis] = left
		starts, ends, axes, steps = append(starts, c.start), append(ends, c.end), append(axes, int64(c.axis)), append(steps, c.step)
		strided = strided || c.step != 1
	}
	if len(axes) == 0 {
		return im.set(o, x)
	}
	own := func(i int) *value {
		if im.Opset < 10 || o.Op != "Slice" {
			return nil
		}
		return im.input(o, i)
	}
	inputs := []string{im.same(own(1), o, "starts", starts...), im.same(own(2), o, "ends", ends...), im.same(own(3), o, "axes", axes...)}
	if strided {
		inputs = append(inputs, im.same(own(4), o, "steps", steps...))
	}
	return im.resized(o, "Slice", x, inputs, nil, dims)
}

// slice crops an image; of computed numbers it takes some.
func (im *importer) slice(o *operator, a *attributes) error {
	var p [4]*value // starts, ends, axes, steps
	if im.Opset < 10 {
		for i, name := range []string{"starts", "ends", "axes"} {
			if a.get(name) == nil {
				continue
			}
			p[i] = &value{integer: true}
			for _, k := range lookup(a, name, []int64(nil)) {
				p[i].forms = append(p[i].forms, form{k: float64(min(max(k, -math.MaxInt32), math.MaxInt32))})
			}
			p[i].shape = []int{len(p[i].forms)}
		}
	} else {
		for i := range p {
			p[i] = im.input(o, 1+i)
		}
	}
	if p[0] == nil || p[1] == nil {
		return errors.New("has no starts or no ends")
	}
	if im.input(o, 0).image == "" {
		return im.sliceComputed(o, p)
	}
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	starts, err := p[0].computed()
	if err != nil {
		return fmt.Errorf("starts: %w", err)
	}
	ends, err := p[1].computed()
	if err != nil {
		return fmt.Errorf("ends: %w", err)
	}
	var axes, steps []int
	for i := range starts.forms {
		axes, steps = append(axes, i), append(steps, 1)
	}
	for i, s := range []*[]int{&axes, &steps} {
		if p[2+i] == nil {
			continue
		}
		if *s, err = p[2+i].integers(); err != nil {
			return fmt.Errorf("%s: %w", []string{"axes", "steps"}[i], err)
		}
	}
	if len(starts.forms) != len(ends.forms) || len(axes) != len(ends.forms) || len(steps) != len(ends.forms) {
		return fmt.Errorf("%d starts, %d ends, %d axes and %d steps", len(starts.forms), len(ends.forms), len(axes), len(steps))
	}
	var crops []crop
	for i, d := range axes {
		d, err := x.axis(int64(d))
		if err != nil {
			return err
		}
		c := crop{axis: d, step: int64(steps[i])}
		if c.step < 1 || c.step > maxWindow {
			return fmt.Errorf("step %d is not supported", c.step)
		}
		if slices.ContainsFunc(crops, func(c crop) bool { return c.axis == d }) {
			return fmt.Errorf("axes %v name a dimension twice", axes)
		}
		if c.start, err = im.position(starts.forms[i], x.dims[d], false); err != nil {
			return fmt.Errorf("start: %w", err)
		}
		if c.end, err = im.position(ends.forms[i], x.dims[d], true); err != nil {
			return fmt.Errorf("end: %w", err)
		}
		crops = append(crops, c)
	}
	return im.cropped(o, x, crops)
}

// position states a place in a dimension of size n: from its beginning or,
// where it depends on the size, from its end.
func (im *importer) position(p, n form, end bool) (int64, error) {
	if p.fixed() {
		if p.k >= math.MaxInt32 {
			return toEnd, nil
		}
		k, ok := p.integer()
		if !ok {
			return 0, fmt.Errorf("%v is no position", p)
		}
		return int64(k), nil
	}
	im.decided(p)
	k, ok := p.sub(n).integer()
	switch {
	case !ok:
		return 0, fmt.Errorf("the position %v in a dimension of %v is not supported", p, n)
	case k >= 0 && end:
		return toEnd, nil
	case k >= 0:
		return 0, fmt.Errorf("the position %v is beyond a dimension of %v", p, n)
	}
	return int64(k), nil
}

// split cuts an image into parts of its channels.
func (im *importer) split(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	d, err := a.axis(x, 0)
	if err != nil {
		return err
	}
	total, ok := x.dims[d].integer()
	if !ok {
		return fmt.Errorf("splitting a dimension of %v is not supported", x.dims[d])
	}
	n := len(o.Outputs)
	a.int("num_outputs", int64(n), int64(n), int64(n)) // opset 18
	var parts []int
	for _, k := range lookup(a, "split", []int64(nil)) { // before opset 13
		parts = append(parts, int(min(max(k, 0), math.MaxInt32)))
	}
	if im.input(o, 1) != nil {
		if parts, err = im.input(o, 1).integers(); err != nil {
			return fmt.Errorf("split: %w", err)
		}
	}
	if parts == nil { // equal ones, the last may be smaller
		each := (total + n - 1) / n
		for i := range n {
			parts = append(parts, min(each, total-i*each))
		}
	}
	at := 0
	for i, k := range parts {
		if i >= n || k < 1 || at+k > total {
			return fmt.Errorf("parts %v do not fit %d channels and %d outputs", parts, total, n)
		}
		if out := o.Outputs[i]; out != "" {
			part := &operator{Node: &wire.Node{Op: o.Op, Outputs: []string{out}}}
			if i == 0 {
				part.Name = o.Name
			}
			if err := im.cropped(part, x, []crop{{d, int64(at), int64(at + k), 1}}); err != nil {
				return err
			}
		}
		at += k
	}
	if at != total || len(parts) != n {
		return fmt.Errorf("parts %v do not fit %d channels and %d outputs", parts, total, n)
	}
	return nil
}

func (im *importer) concat(o *operator, a *attributes) error {
	if a.get("axis") == nil {
		return errors.New("attribute \"axis\" is missing")
	}
	computed := true
	for i := range o.Inputs {
		computed = computed && im.input(o, i) != nil && im.input(o, i).image == ""
	}
	if computed {
		return im.concatComputed(o, a)
	}
	if s := im.stacked(o, lookup(a, "axis", int64(0))); s != nil {
		return im.set(o, s)
	}
	var names []string
	var dims []form
	var view []int
	for i := range o.Inputs {
		v, err := im.number(o, i)
		if err != nil {
			return err
		}
		axis, err := a.axis(v, 0)
		if err != nil {
			return err
		}
		if axis != 1 {
			return fmt.Errorf("attribute \"axis\" = %d is not supported; joining channels (1) is", lookup(a, "axis", int64(0)))
		}
		if i == 0 {
			dims, view = slices.Clone(v.dims), v.view
			dims[1] = form{}
		}
		if !slices.Equal(view, v.view) {
			return errors.New("joins images with different orders of dimensions")
		}
		for _, d := range []int{0, 2, 3} {
			if v.dims[d] != dims[d] {
				return fmt.Errorf("images of different size (%v and %v in dimension %d)", dims[d], v.dims[d], d)
			}
		}
		dims[1] = dims[1].add(v.dims[1])
		names = append(names, v.image)
	}
	if err := im.emit(o, "Concat", names, nn.Attrs{"axis": int64(1)}, dims); err != nil {
		return err
	}
	return im.seen(o, view)
}

// stacked follows a Concat along a dimension of size one that every image has
// inserted, nil where it is another.
func (im *importer) stacked(o *operator, axis int64) *value {
	s := &value{broken: fmt.Sprintf("%s: images in a dimension of their own are supported only where they are summed", o.Label())}
	var view []int
	for i := range o.Inputs {
		v, err := im.number(o, i)
		if err != nil {
			return nil
		}
		if i == 0 {
			view = slices.Clone(v.views())
			if axis < 0 {
				axis += int64(len(view))
			}
			if axis < 0 || axis >= int64(len(view)) || view[axis] != inserted {
				return nil
			}
		}
		if !slices.Equal(view, v.views()) {
			return nil
		}
		s.stack = append(s.stack, v)
	}
	s.along = int(axis)
	return s
}

// reduceStack combines stacked images.
func (im *importer) reduceStack(o *operator, s *value, axes []int64, keep bool) error {
	first := s.stack[0]
	n := int64(len(first.views()))
	op := map[string]string{"ReduceSum": "Add", "ReduceMean": "Add", "ReduceMax": "Max", "ReduceMin": "Min"}[o.Op]
	if len(axes) != 1 || axes[0] != int64(s.along) && axes[0]+n != int64(s.along) {
		return errors.New(s.broken)
	}
	last := first.image
	var err error
	for _, v := range s.stack[1:] {
		if !slices.Equal(v.dims, first.dims) {
			return fmt.Errorf("stacks images of %v and %v", first.dims, v.dims)
		}
		if last, err = im.node(o, op, []string{last, v.image}, nil, v.dims); err != nil {
			return err
		}
	}
	v := &value{image: last, dims: first.dims, view: first.view}
	if !keep {
		v = v.as(slices.Delete(slices.Clone(first.views()), s.along, s.along+1))
	}
	if o.Op == "ReduceMean" {
		return im.pointwise(o, "Div", v, []string{im.scalar(o, "count", float32(len(s.stack)))}, nil)
	}
	return im.set(o, v)
}

// expand repeats dimensions of size one.
func (im *importer) expand(o *operator, a *attributes) error {
	if im.input(o, 0).image == "" {
		return im.expandComputed(o)
	}
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	c, err := im.input(o, 1).computed()
	if err != nil {
		return fmt.Errorf("shape: %w", err)
	}
	first := len(x.views()) - len(c.forms)
	if first < 0 {
		return fmt.Errorf("shape %v of more dimensions than the image is not supported", c.forms)
	}
	dims := slices.Clone(x.dims)
	for i, n := range c.forms {
		d := x.views()[first+i]
		switch {
		case n == constant(1):
		case d == inserted || d == merged:
			return fmt.Errorf("shape %v is not supported", c.forms)
		case n == x.dims[d]:
		case x.dims[d] == constant(1):
			dims[d] = n
		default:
			return fmt.Errorf("shape %v does not fit an image of %v", c.forms, x.dims)
		}
	}
	im.decided(c.forms...)
	if slices.Equal(dims, x.dims) {
		return im.set(o, x)
	}
	if dims[2] != x.dims[2] || dims[3] != x.dims[3] || dims[0] != x.dims[0] {
		if x.dims[2] != constant(1) || x.dims[3] != constant(1) || dims[0] != x.dims[0] || dims[1] != x.dims[1] {
			return fmt.Errorf("repeating an image of %v to %v is not supported", x.dims, dims)
		}
		return im.set(o, &value{image: x.image, dims: dims, view: x.view, spread: true})
	}
	k, _ := dims[1].integer()
	ones := make([]float32, k)
	for i := range ones {
		ones[i] = 1
	}
	return im.resized(o, "Mul", x, []string{im.tensor(o, "ones", []int{1, k, 1, 1}, ones)}, nil, dims)
}

// tile repeats the channels of an image.
func (im *importer) tile(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	times, err := im.input(o, 1).integers()
	if err != nil {
		return fmt.Errorf("repeats: %w", err)
	}
	if len(times) != len(x.views()) {
		return fmt.Errorf("repeats %v of %d dimensions", times, len(x.views()))
	}
	names := []string{x.image}
	dims := slices.Clone(x.dims)
	for i, k := range times {
		switch d := x.views()[i]; {
		case k == 1:
		case d != 1 || k < 1 || k > maxComputed:
			return fmt.Errorf("repeats %v: repeating channels is supported", times)
		default:
			names = slices.Repeat(names, k)
			dims[1] = dims[1].scale(float64(k))
		}
	}
	if len(names) == 1 {
		return im.set(o, x)
	}
	if err := im.emit(o, "Concat", names, nn.Attrs{"axis": int64(1)}, dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

// depthToSpace is DepthToSpace or SpaceToDepth.
func (im *importer) depthToSpace(o *operator, a *attributes, x *value) error {
	b := int(a.int("blocksize", 0, 1, maxWindow))
	if a.first != nil {
		return a.first
	}
	attrs := nn.Attrs{"blocksize": int64(b)}
	dims := slices.Clone(x.dims)
	c, _ := x.dims[1].integer()
	if o.Op == "SpaceToDepth" {
		a.oneOf("mode", "DCR") // opset 28
		dims[1] = constant(c * b * b)
		for d := 2; d < 4; d++ {
			q, err := floorDiv(x.dims[d], b)
			if err != nil {
				return err
			}
			if dims[d] = q; q.scale(float64(b)) != x.dims[d] {
				return fmt.Errorf("attribute \"blocksize\" = %d does not divide %v", b, x.dims[d])
			}
		}
		return im.emit(o, o.Op, []string{x.image}, attrs, dims)
	}
	if a.oneOf("mode", "DCR", "CRD") == "CRD" { // opset 11
		attrs["mode"] = "CRD"
	}
	if c%(b*b) != 0 {
		return fmt.Errorf("attribute \"blocksize\" = %d does not fit %d channels", b, c)
	}
	dims[1] = constant(c / (b * b))
	dims[2], dims[3] = dims[2].scale(float64(b)), dims[3].scale(float64(b))
	return im.emit(o, o.Op, []string{x.image}, attrs, dims)
}

func (im *importer) identity(o *operator, a *attributes) error {
	return im.set(o, im.input(o, 0))
}

// dropout does nothing outside training; during training refocus does not
// drop.
func (im *importer) dropout(o *operator, a *attributes) error {
	a.keep("ratio", "seed")
	if v := im.input(o, 2); v != nil {
		if k, ok := number(v.known()); !ok || k != 0 {
			return fmt.Errorf("input 2 (%q): %w", o.Inputs[2], errTraining)
		}
	}
	return im.set(o, im.input(o, 0))
}

// reshapeImage follows a Reshape that inserts or removes dimensions of size
// one, takes the pixels as one dimension, or takes channels in groups.
func (im *importer) reshapeImage(o *operator, x *value, want []form) error {
	sizes, err := x.sizes()
	flat := slices.Contains(x.views(), merged)
	if err != nil && !flat {
		return err
	}
	// −1 stands for what is left
	open := form{k: -1}
	is := func(t, n form) bool { return t == open || t == n }
	if !flat {
		if view := reviewed(x.views(), sizes, want, open); view != nil {
			im.decided(want...)
			return im.set(o, x.as(view))
		}
	}
	var k int // channels of the result
	known := func(t form) bool {
		var ok bool
		k, ok = t.integer()
		return ok && k > 0 && k <= maxChannel
	}
	c, fixed := x.dims[1].integer()
	if !fixed {
		return fmt.Errorf("reshaping an image of %v to %v is not supported", x.dims, want)
	}
	switch {
	case x.view == nil && len(want) == 3 && is(want[0], x.dims[0]) && known(want[1]) && c%k == 0:
		// [N,K,pixels of C/K channels]
		rest := want[2] == open
		if p, ok := x.dims[2].times(x.dims[3]); ok && !rest {
			rest = want[2].scale(float64(k)) == p.scale(float64(c))
		}
		if !rest {
			break
		}
		v, err := im.blocks(o, x, k)
		if err != nil {
			return err
		}
		im.decided(want...)
		return im.set(o, v.as([]int{0, 1, merged}))
	case slices.Equal(x.view, []int{0, 1, merged}) && len(want) == 4 && is(want[0], x.dims[0]),
		x.view == nil && len(want) == 4 && is(want[0], x.dims[0]):
		// [N,K,H,W], perhaps with channels divided or joined
		if want[1] == open {
			if want[3] != x.dims[3] || want[2] == open {
				break
			}
			r, ok := x.dims[2].scale(float64(c)).ratio(want[2])
			if !ok {
				break
			}
			k = r
		} else if !known(want[1]) {
			break
		}
		if !is(want[3], x.dims[3]) || want[2] != open && want[2].scale(float64(k)) != x.dims[2].scale(float64(c)) {
			break
		}
		dims, err := blockDims(x, k)
		if err != nil {
			return err
		}
		im.decided(want...)
		if k == c {
			return im.set(o, x.as(nil))
		}
		shape := im.same(im.input(o, 1), o, "shape", 0, int64(k), -1, 0)
		return im.emit(o, "Reshape", []string{x.image, shape}, nil, dims)
	}
	return fmt.Errorf("reshaping an image of %v to %v is not supported", x.dims, want)
}

// reviewed is the view after a Reshape that only inserts or removes dimensions
// of size one, nil where it does more.
func reviewed(view []int, sizes, want []form, open form) []int {
	one := constant(1)
	r := []int{}
	at := 0
	for i, t := range want {
		rest := 0 // dimensions that are still to come and not one
		for _, u := range want[i+1:] {
			if u != one {
				rest++
			}
		}
		for at < len(sizes) && sizes[at] == one && t != one && t != open {
			at++
		}
		switch {
		case at < len(sizes) && (t == sizes[at] || t == open && len(sizes)-at > rest):
			if t == open { // takes a dimension that is not one, if there is
				for at+1 < len(sizes) && sizes[at] == one && len(sizes)-at-1 > rest {
					at++
				}
			}
			r = append(r, view[at])
			at++
		case t == one || t == open:
			r = append(r, inserted)
		default:
			return nil
		}
	}
	for ; at < len(sizes); at++ {
		if sizes[at] != one {
			return nil
		}
	}
	return r
}
