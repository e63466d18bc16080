package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

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
	}
	a.get("value") // of no matter in the other modes
	if mode == "constant" {
		if fill, err = im.padValue(o, a); err != nil {
			return err
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

// padValue is the name of the number to pad with, "" for zero: an attribute before
// opset 11, an input since.
func (im *importer) padValue(o *operator, a *attributes) (string, error) {
	if im.Opset < 11 {
		if v := lookup(a, "value", float32(0)); v != 0 {
			return im.scalar(o, "value", v), nil
		}
		return "", nil
	}
	if im.input(o, 2) == nil {
		return "", nil
	}
	c := im.input(o, 2).known()
	v, ok := number(c)
	switch {
	case !ok:
		return "", fmt.Errorf("input 2 (%q) is no constant number", o.Inputs[2])
	case v == 0:
		return "", nil
	case len(c.Shape) == 0 && c.F32 != nil:
		name, _, err := im.weight(o, 2)
		return name, err
	}
	return im.scalar(o, "value", float32(v)), nil
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
