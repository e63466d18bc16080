package onnx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// epsilon checks the attribute that all normalisations have.
func (a *attributes) epsilon() {
	if e := lookup(a, "epsilon", float32(1e-5)); !(e > 0) || e > 1 {
		a.fail("attribute \"epsilon\" = %g is not supported (more than 0, at most 1 is)", e)
	}
}

// perChannel reads inputs that are vectors of a number per channel.
func (im *importer) perChannel(o *operator, x *value) ([]string, error) {
	c, _ := x.dims[1].integer()
	inputs := []string{x.image}
	for i := 1; i < len(o.Inputs); i++ {
		name, _, err := im.weight(o, i, c)
		if err != nil {
			return nil, err
		}
		inputs = append(inputs, name)
	}
	return inputs, nil
}

// errTraining is the error of a network that normalises with the statistics
// of its batch, or drops values.
var errTraining = errors.New("exported in training mode: call model.eval() before exporting")

func (im *importer) batchNormalization(o *operator, a *attributes, x *value) error {
	if lookup(a, "training_mode", int64(0)) != 0 { // opset 14
		return fmt.Errorf("attribute \"training_mode\": %w", errTraining)
	}
	if slices.ContainsFunc(o.Outputs[1:], func(s string) bool { return s != "" }) {
		return errTraining // the outputs are the batch's statistics
	}
	a.int("spatial", 1, 1, 1) // opset 7
	a.epsilon()
	if m := lookup(a, "momentum", float32(0.9)); !(m >= 0) || m > 1 {
		a.fail("attribute \"momentum\" = %g is not supported (from 0 to 1 is)", m)
	}
	inputs, err := im.perChannel(o, x)
	if err != nil {
		return err
	}
	return im.emit(o, o.Op, inputs, a.keep("epsilon", "momentum"), x.dims)
}

// instanceNormalization also takes an image with its pixels in one dimension.
func (im *importer) instanceNormalization(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	if x.view != nil && !slices.Equal(x.view, []int{0, 1, merged}) {
		return fmt.Errorf("input 0 (%q) is transposed or reshaped, which is not supported", o.Inputs[0])
	}
	a.epsilon()
	inputs, err := im.perChannel(o, x)
	if err != nil {
		return err
	}
	if err := im.emit(o, o.Op, inputs, a.keep("epsilon"), x.dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

// groupNormalization is an instance normalisation of an image whose channels
// are groups, one below the other, and a scale and a shift of every channel.
func (im *importer) groupNormalization(o *operator, a *attributes, x *value) error {
	a.epsilon()
	a.int("stash_type", 1, 1, 1)
	c, _ := x.dims[1].integer()
	groups := int(a.int("num_groups", 0, 1, maxChannel))
	if a.first != nil {
		return a.first
	}
	if c%groups != 0 {
		return fmt.Errorf("attribute \"num_groups\" = %d does not divide %d channels", groups, c)
	}
	blocks, err := im.blocks(o, x, groups)
	if err != nil {
		return err
	}
	perGroup := im.Opset < 21 // the numbers are a group's until then, a channel's since
	n := c
	if perGroup {
		n = groups
	}
	var names []string
	var arrays []*wire.Array
	for i := 1; i < 3; i++ {
		name, w, err := im.weight(o, i, n)
		if err != nil {
			return err
		}
		names, arrays = append(names, name), append(arrays, w)
	}
	if !perGroup {
		one, zero := make([]float32, groups), make([]float32, groups)
		for i := range one {
			one[i] = 1
		}
		names = []string{im.tensor(o, "one", []int{groups}, one), im.tensor(o, "zero", []int{groups}, zero)}
	}
	normal, err := im.node(o, "InstanceNormalization", []string{blocks.image, names[0], names[1]}, a.keep("epsilon"), blocks.dims)
	if err != nil {
		return err
	}
	v := *blocks
	v.image = normal
	if perGroup {
		back, err := im.blocks(o, &v, c)
		if err != nil {
			return err
		}
		return im.set(o, back)
	}
	back, err := im.blocks(o, &v, c)
	if err != nil {
		return err
	}
	column := []int{1, c, 1, 1}
	scaled, err := im.node(o, "Mul", []string{back.image, im.tensor(o, "scale", column, arrays[0].F32)}, nil, x.dims)
	if err != nil {
		return err
	}
	return im.emit(o, "Add", []string{scaled, im.tensor(o, "shift", column, arrays[1].F32)}, nil, x.dims)
}

// layerNormalization is stated by means: of the channels of an image in the order
// [N,H,W,C], or of any of its last dimensions.
func (im *importer) layerNormalization(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	a.epsilon()
	a.int("stash_type", 1, 1, 1)
	view := x.views()
	rank := int64(len(view))
	axis := a.int("axis", -1, -rank, rank-1)
	if a.first != nil {
		return a.first
	}
	if axis < 0 {
		axis += rank
	}
	var axes []int64
	dims := slices.Clone(x.dims)
	for _, d := range view[axis:] {
		switch d {
		case inserted:
			continue
		case 0, merged:
			return fmt.Errorf("attribute \"axis\" = %d of dimensions %v of [N,C,H,W] is not supported", axis, view)
		}
		axes = append(axes, int64(d))
		dims[d] = constant(1)
	}
	if len(axes) == 0 {
		return fmt.Errorf("attribute \"axis\" = %d: there is only one number to normalise", axis)
	}
	slices.Sort(axes)
	mean := func(of string) (string, error) {
		return im.node(o, "ReduceMean", []string{of}, nn.Attrs{"axes": slices.Clone(axes), "keepdims": int64(1)}, dims)
	}
	last, err := mean(x.image)
	step := func(op string, dims []form, inputs ...string) {
		if err == nil {
			last, err = im.node(o, op, inputs, nil, dims)
		}
	}
	step("Sub", x.dims, x.image, last)
	centred := last
	step("Mul", x.dims, centred, centred)
	if err == nil {
		last, err = mean(last)
	}
	step("Add", dims, last, im.scalar(o, "epsilon", lookup(a, "epsilon", float32(1e-5))))
	step("Sqrt", dims, last)
	step("Div", x.dims, centred, last)
	for i, op := range []string{"Mul", "Add"} {
		if im.input(o, 1+i) == nil {
			continue
		}
		if err != nil {
			return err
		}
		c := im.input(o, 1+i).known()
		if c == nil {
			return fmt.Errorf("input %d (%q) is no constant", 1+i, o.Inputs[1+i])
		}
		name, size, err := im.operand(o, 1+i, view)
		if err != nil {
			return err
		}
		for d := range size {
			if size[d] != constant(1) && (size[d] != x.dims[d] || !slices.Contains(axes, int64(d))) {
				return fmt.Errorf("input %d (%q) of shape %v does not fit dimensions %v of %v", 1+i, o.Inputs[1+i], c.Shape, axes, x.dims)
			}
		}
		if last, err = im.node(o, op, []string{last, name}, nil, x.dims); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	return im.set(o, &value{image: last, dims: x.dims, view: x.view})
}

// blocks reshapes an image to k channels: channels that become one lie one
// below the other.
func (im *importer) blocks(o *operator, x *value, k int) (*value, error) {
	dims, err := blockDims(x, k)
	if err != nil || slices.Equal(dims, x.dims) {
		return x, err
	}
	name, err := im.node(o, "Reshape", []string{x.image, im.ints(o, "shape", 0, int64(k), -1, 0)}, nil, dims)
	if err != nil {
		return nil, err
	}
	return &value{image: name, dims: dims}, nil
}

// blockDims are the dimensions of an image that is reshaped to k channels.
func blockDims(x *value, k int) ([]form, error) {
	c, _ := x.dims[1].integer()
	dims := slices.Clone(x.dims)
	dims[1] = constant(k)
	h, err := floorDiv(x.dims[2].scale(float64(c)), k)
	if err != nil {
		return nil, err
	}
	if dims[2] = h; h.scale(float64(k)) != x.dims[2].scale(float64(c)) {
		return nil, fmt.Errorf("an image of %d channels and height %v does not divide into %d channels", c, x.dims[2], k)
	}
	return dims, nil
}
