package onnx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
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
		if last := len(x.views()) - 1; last >= 0 && x.views()[last] == merged && (k == -1 || k == int64(last)) {
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
