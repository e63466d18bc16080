package onnx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// value is what a name in the file stands for: an image in the network, a
// constant, or a small tensor computed from sizes.
type value struct {
	image     string     // the nn value's name
	dims      []form     // of the image, [N,C,H,W]
	view      []int      // the image's dimension behind each of the file's; nil: the same four
	spread    bool       // the image has one pixel, which stands for all of dims
	integer   bool       // the file's element type is an integer's (of a computed tensor or an arg-max)
	quantized *quantized // the image holds quantised numbers less their zero point

	array    *wire.Array // constant
	constant string      // its name

	shape []int  // of a computed tensor
	forms []form // its elements

	broken string // a value that could not be followed, and why

	stack []*value // images along a dimension of their own, which only a reduction is followed on
	along int      // that dimension in the file
}

// Entries of a view that are no single dimension of the image.
const (
	inserted = -1 // a dimension of size one that the image has not
	merged   = 4  // height and width as one dimension, in the order of rows
)

// broken is a value that could not be followed. That is an error only where
// somebody needs it.
func broken(err error) *value { return &value{broken: err.Error()} }

// views lists the dimensions of the image in the order of the file.
func (v *value) views() []int {
	if v.view == nil {
		return []int{0, 1, 2, 3}
	}
	return v.view
}

// as returns the image seen in another order of its dimensions.
func (v *value) as(view []int) *value {
	w := *v
	w.view = view
	if slices.Equal(view, []int{0, 1, 2, 3}) {
		w.view = nil
	}
	return &w
}

// sizes are the image's dimensions in the file.
func (v *value) sizes() ([]form, error) {
	var r []form
	for _, d := range v.views() {
		switch d {
		case inserted:
			r = append(r, constant(1))
		case merged:
			p, ok := v.dims[2].times(v.dims[3])
			if !ok {
				return nil, errors.New("the number of pixels is used as a size, which is not supported")
			}
			r = append(r, p)
		default:
			r = append(r, v.dims[d])
		}
	}
	return r, nil
}

// axis is the image's dimension that a file calls by the number a, which may
// count from the end.
func (v *value) axis(a int64) (int, error) {
	view := v.views()
	i := a
	if i < 0 {
		i += int64(len(view))
	}
	if i < 0 || i >= int64(len(view)) {
		return 0, fmt.Errorf("axis %d of %d dimensions", a, len(view))
	}
	d := view[i]
	if d == inserted || d == merged {
		return 0, fmt.Errorf("axis %d, which is no dimension of an image, is not supported", a)
	}
	return d, nil
}

// input returns the operator's i-th input, nil where it is omitted.
func (im *importer) input(o *operator, i int) *value {
	if i >= len(o.Inputs) || o.Inputs[i] == "" {
		return nil
	}
	return im.values[o.Inputs[i]]
}

// picture returns the operator's i-th input, which must be an image in any
// view.
func (im *importer) picture(o *operator, i int) (*value, error) {
	v := im.input(o, i)
	switch {
	case v == nil:
		return nil, fmt.Errorf("input %d is missing", i)
	case v.broken != "":
		return nil, errors.New(v.broken)
	case v.image == "":
		return nil, fmt.Errorf("input %d (%q) is no image computed from the network's input", i, o.Inputs[i])
	case v.quantized != nil:
		return nil, fmt.Errorf("input %d (%q) is quantised; operators on dequantised numbers are supported", i, o.Inputs[i])
	case v.spread:
		return im.materialized(o, v)
	}
	return v, nil
}

// image returns the operator's i-th input, which must be an image [N,C,H,W].
func (im *importer) image(o *operator, i int) (*value, error) {
	v, err := im.picture(o, i)
	if err != nil {
		return nil, err
	}
	if v.view != nil {
		return nil, fmt.Errorf("input %d (%q) is transposed or reshaped (its dimensions are %v of [N,C,H,W]), which this operator is not supported on", i, o.Inputs[i], v.view)
	}
	return v, nil
}

// number returns an image of numbers, which an arg-max is not.
func (im *importer) number(o *operator, i int) (*value, error) {
	v, err := im.picture(o, i)
	if err == nil && v.integer {
		return nil, fmt.Errorf("input %d (%q) holds integers, which is not supported", i, o.Inputs[i])
	}
	return v, err
}

// materialized gives an image of one pixel the size that it stands for, that of
// another image: it is added to that image's zeros.
func (im *importer) materialized(o *operator, v *value) (*value, error) {
	like := im.sized[[3]form{v.dims[0], v.dims[2], v.dims[3]}]
	if like == nil {
		return nil, fmt.Errorf("enlarging one pixel to %v×%v is not supported: no image has that size", v.dims[2], v.dims[3])
	}
	dims := slices.Clone(like.dims)
	dims[1] = constant(1)
	plane := like.image
	if like.dims[1] != constant(1) {
		var err error
		plane, err = im.node(o, "Slice", []string{plane, im.ints(o, "starts", 0), im.ints(o, "ends", 1), im.ints(o, "axes", 1)}, nil, dims)
		if err != nil {
			return nil, err
		}
	}
	zero, err := im.node(o, "Sub", []string{plane, plane}, nil, dims)
	if err != nil {
		return nil, err
	}
	name, err := im.node(o, "Add", []string{v.image, zero}, nil, v.dims)
	if err != nil {
		return nil, err
	}
	w := *v
	w.image, w.spread = name, false
	return &w, nil
}

// known returns the value as a constant of the file or one that was computed
// from constants, nil where it is neither.
func (v *value) known() *wire.Array {
	if v == nil || v.broken != "" || v.image != "" {
		return nil
	}
	if v.array != nil {
		return v.array
	}
	a := &wire.Array{Shape: v.shape, Type: wire.Float32}
	for _, f := range v.forms {
		if !f.fixed() {
			return nil
		}
		if v.integer {
			a.Ints = append(a.Ints, int64(f.k))
		} else {
			a.F32 = append(a.F32, float32(f.k))
		}
	}
	if v.integer {
		a.Type = wire.Int64
	}
	return a
}

// weight returns the name and array of the operator's i-th input, a float32
// constant of the given shape (-1: any size).
func (im *importer) weight(o *operator, i int, shape ...int) (string, *wire.Array, error) {
	v := im.input(o, i)
	if v == nil {
		return "", nil, fmt.Errorf("input %d is missing", i)
	}
	a := v.known()
	if a == nil {
		if v.broken != "" {
			return "", nil, errors.New(v.broken)
		}
		return "", nil, fmt.Errorf("input %d (%q) is computed by the network; constants are supported", i, o.Inputs[i])
	}
	if a.F32 == nil {
		return "", nil, fmt.Errorf("input %d (%q) is not of type float32", i, o.Inputs[i])
	}
	ok := len(a.Shape) == len(shape)
	for j := range shape {
		ok = ok && (shape[j] == a.Shape[j] || shape[j] < 0)
	}
	if !ok {
		return "", nil, fmt.Errorf("input %d (%q) has shape %v, needs %v (-1: any)", i, o.Inputs[i], a.Shape, shape)
	}
	if v.constant == "" {
		v.array, v.constant = a, o.Inputs[i]
	}
	im.use(v)
	return v.constant, a, nil
}

// use marks a constant as needed by the graph.
func (im *importer) use(v *value) {
	if im.used[v.constant] {
		return
	}
	im.used[v.constant] = true
	if im.constants[v.constant] == nil {
		im.extra = append(im.extra, newTensor(v.constant, v.array))
	}
}

// tensor adds a float32 constant to the graph and returns its name.
func (im *importer) tensor(o *operator, what string, shape []int, data []float32) string {
	name := im.fresh(im.valueNames, o.Outputs[0]+"."+what)
	im.extra = append(im.extra, &nn.Tensor{Name: name, Shape: shape, Data: data})
	return name
}

// scalar adds a number to the graph and returns its name.
func (im *importer) scalar(o *operator, what string, x float32) string {
	return im.tensor(o, what, []int{}, []float32{x})
}

// ints adds integers to the graph and returns their name.
func (im *importer) ints(o *operator, what string, x ...int64) string {
	name := im.fresh(im.valueNames, o.Outputs[0]+"."+what)
	im.extra = append(im.extra, &nn.Tensor{Name: name, Shape: []int{len(x)}, Ints: x})
	return name
}

// fresh returns a name that is not taken yet.
func (im *importer) fresh(taken map[string]bool, name string) string {
	for taken[name] {
		name += "_"
	}
	taken[name] = true
	return name
}
