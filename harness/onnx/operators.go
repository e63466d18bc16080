package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

// rule states one operator in the form of package nn, or follows its
// computation. An attribute that it does not ask for is refused.
type rule func(im *importer, o *operator, a *attributes) error

var rules = map[string]rule{
	"Conv":                  (*importer).conv,
	"ConvTranspose":         (*importer).convTranspose,
	"BatchNormalization":    (*importer).batchNormalization,
	"InstanceNormalization": (*importer).instanceNormalization,
	"MaxPool":               (*importer).maxPool,
	"AveragePool":           (*importer).averagePool,
	"Resize":                (*importer).resize,
	"Pad":                   (*importer).pad,
	"Relu":                  (*importer).activation,
	"LeakyRelu":             (*importer).activation,
	"Sigmoid":               (*importer).activation,
	"Softmax":               (*importer).softmax,
	"Add":                   (*importer).arithmetic,
	"Sub":                   (*importer).arithmetic,
	"Mul":                   (*importer).arithmetic,
	"Div":                   (*importer).arithmetic,
	"Concat":                (*importer).concat,
	"Transpose":             (*importer).transpose,
	"Identity":              (*importer).identity,
	"Dropout":               (*importer).dropout,
	"Cast":                  (*importer).cast,

	// computations with sizes
	"Constant":        (*importer).constantNode,
	"Shape":           (*importer).shapeOf,
	"Gather":          (*importer).gather,
	"Unsqueeze":       (*importer).unsqueeze,
	"Squeeze":         (*importer).squeeze,
	"Slice":           (*importer).slice,
	"Reshape":         (*importer).reshape,
	"ConstantOfShape": (*importer).constantOfShape,
	"Floor":           (*importer).round,
	"Ceil":            (*importer).round,
}

// Bounds of attributes. They are far beyond any U-Net's and keep every product
// of sizes representable.
const (
	maxWindow  = 255
	maxChannel = 1 << 20
)

// window is a sliding window's geometry along one axis.
type window struct{ kernel, stride, dilation, begin, end int }

// windows reads the attributes of a sliding window. auto_pad becomes explicit.
func (im *importer) windows(a *attributes, x []form, kernel []int64, attrs nn.Attrs) ([2]window, error) {
	var w [2]window
	strides := a.ints("strides", []int64{1, 1}, 2, 1, maxWindow)
	dilations := a.ints("dilations", []int64{1, 1}, 2, 1, maxWindow)
	pads := a.ints("pads", []int64{0, 0, 0, 0}, 4, 0, maxWindow)
	auto := a.oneOf("auto_pad", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
	if a.first != nil {
		return w, a.first
	}
	if auto != "NOTSET" && slices.ContainsFunc(pads, func(p int64) bool { return p != 0 }) {
		return w, fmt.Errorf("attribute %q = %v contradicts \"auto_pad\" = %q", "pads", pads, auto)
	}
	for i := range w {
		w[i] = window{int(kernel[i]), int(strides[i]), int(dilations[i]), int(pads[i]), int(pads[i+2])}
		if auto != "SAME_UPPER" && auto != "SAME_LOWER" {
			continue
		}
		// the output has ⌈in/stride⌉ elements
		in := x[2+i]
		q, err := floorDiv(in.add(constant(w[i].stride-1)), w[i].stride)
		if err != nil {
			return w, err
		}
		need := q.sub(constant(1)).scale(float64(w[i].stride)).add(constant(w[i].extent())).sub(in)
		total, ok := need.integer()
		if !ok {
			return w, fmt.Errorf("attribute \"auto_pad\" = %q needs a padding of %v", auto, need)
		}
		if w[i].stride > 1 { // with stride 1 the padding is the same for every size
			im.decided(in)
		}
		total = max(total, 0)
		w[i].begin = total / 2
		if auto == "SAME_LOWER" {
			w[i].begin = total - total/2
		}
		w[i].end = total - w[i].begin
	}
	if auto == "SAME_UPPER" || auto == "SAME_LOWER" {
		attrs["pads"] = []int64{int64(w[0].begin), int64(w[1].begin), int64(w[0].end), int64(w[1].end)}
	}
	return w, nil
}

// extent is the window's size with dilation.
func (w window) extent() int { return w.dilation*(w.kernel-1) + 1 }

// output is the number of windows on an axis of the given size.
func (w window) output(in form) (form, error) {
	q, err := floorDiv(in.add(constant(w.begin+w.end-w.extent())), w.stride)
	return q.add(constant(1)), err
}

func (im *importer) conv(o *operator, a *attributes) error {
	if err := o.arity(2, 3); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	wName, w, err := im.weight(o, 1, -1, -1, -1, -1)
	if err != nil {
		return err
	}
	group := a.int("group", 1, 1, maxChannel)
	kernel := a.ints("kernel_shape", []int64{int64(w.shape[2]), int64(w.shape[3])}, 2, 1, maxWindow)
	if a.first != nil {
		return a.first
	}
	if int(kernel[0]) != w.shape[2] || int(kernel[1]) != w.shape[3] || w.shape[0] == 0 {
		return fmt.Errorf("attribute \"kernel_shape\" = %v does not fit the weight's shape %v", kernel, w.shape)
	}
	if c, ok := x.dims[1].integer(); !ok || c != w.shape[1]*int(group) || w.shape[0]%int(group) != 0 {
		return fmt.Errorf("weight of shape %v with \"group\" = %d does not fit %v channels", w.shape, group, x.dims[1])
	}
	inputs := []string{x.image, wName}
	if im.input(o, 2) != nil {
		b, _, err := im.weight(o, 2, w.shape[0])
		if err != nil {
			return err
		}
		inputs = append(inputs, b)
	}
	attrs := a.keep("kernel_shape", "strides", "pads", "dilations", "group")
	win, err := im.windows(a, x.dims, kernel, attrs)
	if err != nil {
		return err
	}
	dims := []form{x.dims[0], constant(w.shape[0]), {}, {}}
	for i := range win {
		if dims[2+i], err = win[i].output(x.dims[2+i]); err != nil {
			return err
		}
	}
	return im.emit(o, "Conv", inputs, attrs, dims)
}

func (im *importer) convTranspose(o *operator, a *attributes) error {
	if err := o.arity(2, 3); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	wName, w, err := im.weight(o, 1, -1, -1, -1, -1)
	if err != nil {
		return err
	}
	group := a.int("group", 1, 1, maxChannel)
	kernel := a.ints("kernel_shape", []int64{int64(w.shape[2]), int64(w.shape[3])}, 2, 1, maxWindow)
	strides := a.ints("strides", []int64{1, 1}, 2, 1, maxWindow)
	dilations := a.ints("dilations", []int64{1, 1}, 2, 1, maxWindow)
	pads := a.ints("pads", []int64{0, 0, 0, 0}, 4, 0, maxWindow)
	extra := a.ints("output_padding", []int64{0, 0}, 2, 0, maxWindow)
	a.oneOf("auto_pad", "NOTSET", "VALID")
	if a.first != nil {
		return a.first
	}
	if a.get("output_shape") != nil {
		return errors.New("attribute \"output_shape\" is not supported; explicit pads are")
	}
	if int(kernel[0]) != w.shape[2] || int(kernel[1]) != w.shape[3] || w.shape[1] == 0 {
		return fmt.Errorf("attribute \"kernel_shape\" = %v does not fit the weight's shape %v", kernel, w.shape)
	}
	if c, ok := x.dims[1].integer(); !ok || c != w.shape[0] || c%int(group) != 0 {
		return fmt.Errorf("weight of shape %v with \"group\" = %d does not fit %v channels", w.shape, group, x.dims[1])
	}
	channels := w.shape[1] * int(group)
	inputs := []string{x.image, wName}
	if im.input(o, 2) != nil {
		b, _, err := im.weight(o, 2, channels)
		if err != nil {
			return err
		}
		inputs = append(inputs, b)
	}
	dims := []form{x.dims[0], constant(channels), {}, {}}
	for i := range 2 {
		if extra[i] > 0 && extra[i] >= max(strides[i], dilations[i]) {
			return fmt.Errorf("attribute \"output_padding\" = %v must be smaller than the stride or the dilation", extra)
		}
		reach := dilations[i]*(kernel[i]-1) + 1 - strides[i] + extra[i] - pads[i] - pads[i+2]
		dims[2+i] = x.dims[2+i].scale(float64(strides[i])).add(constant(int(reach)))
	}
	return im.emit(o, "ConvTranspose", inputs, a.keep("kernel_shape", "strides", "pads", "dilations", "group", "output_padding"), dims)
}

func (im *importer) batchNormalization(o *operator, a *attributes) error {
	if err := o.arity(5, 5); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	c, _ := x.dims[1].integer()
	inputs := []string{x.image}
	for i := 1; i < 5; i++ {
		name, _, err := im.weight(o, i, c)
		if err != nil {
			return err
		}
		inputs = append(inputs, name)
	}
	a.int("training_mode", 0, 0, 0) // opset 14
	if e := lookup(a, "epsilon", float32(1e-5)); !(e > 0) || e > 1 {
		a.fail("attribute \"epsilon\" = %g is not supported (more than 0, at most 1 is)", e)
	}
	if m := lookup(a, "momentum", float32(0.9)); !(m >= 0) || m > 1 {
		a.fail("attribute \"momentum\" = %g is not supported (from 0 to 1 is)", m)
	}
	return im.emit(o, "BatchNormalization", inputs, a.keep("epsilon", "momentum"), x.dims)
}

func (im *importer) instanceNormalization(o *operator, a *attributes) error {
	if err := o.arity(3, 3); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	c, _ := x.dims[1].integer()
	inputs := []string{x.image}
	for i := 1; i < 3; i++ {
		name, _, err := im.weight(o, i, c)
		if err != nil {
			return err
		}
		inputs = append(inputs, name)
	}
	if e := lookup(a, "epsilon", float32(1e-5)); !(e > 0) || e > 1 {
		a.fail("attribute \"epsilon\" = %g is not supported (more than 0, at most 1 is)", e)
	}
	return im.emit(o, "InstanceNormalization", inputs, a.keep("epsilon"), x.dims)
}

func (im *importer) maxPool(o *operator, a *attributes) error {
	a.int("storage_order", 0, 0, 0) // concerns the second output only
	return im.pool(o, a, "kernel_shape", "strides", "pads", "dilations")
}

func (im *importer) averagePool(o *operator, a *attributes) error {
	a.int("count_include_pad", 0, 0, 1)
	if a.o.values["dilations"] != nil { // opset 19
		return errors.New("attribute \"dilations\" is not supported")
	}
	return im.pool(o, a, "kernel_shape", "strides", "pads", "count_include_pad")
}

func (im *importer) pool(o *operator, a *attributes, keep ...string) error {
	if err := o.arity(1, 1); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	kernel := a.ints("kernel_shape", nil, 2, 1, maxWindow)
	ceil := a.int("ceil_mode", 0, 0, 1)
	if a.first != nil {
		return a.first
	}
	if kernel == nil {
		return errors.New("attribute \"kernel_shape\" is missing")
	}
	attrs := a.keep(keep...)
	win, err := im.windows(a, x.dims, kernel, attrs)
	if err != nil {
		return err
	}
	dims := []form{x.dims[0], x.dims[1], {}, {}}
	up := false
	for i, w := range win {
		// A window that lies wholly in the padding has no maximum. PyTorch
		// demands half of the kernel at most.
		if w.begin >= w.extent() || w.end >= w.extent() {
			return fmt.Errorf("attribute \"pads\" = %v: a window of %d would see only padding", a.o.values["pads"], w.extent())
		}
		in := x.dims[2+i]
		out, err := w.output(in)
		if err != nil {
			return err
		}
		if ceil == 1 {
			more, err := floorDiv(in.add(constant(w.begin+w.end-w.extent()+w.stride-1)), w.stride)
			if err != nil {
				return err
			}
			if more = more.add(constant(1)); more != out {
				// The versions of the specification differ on a last window
				// that begins beyond the image.
				start := more.sub(constant(1)).scale(float64(w.stride)).sub(in).sub(constant(w.begin))
				if s, ok := start.integer(); !ok || s >= 0 {
					return fmt.Errorf("attribute \"ceil_mode\" = 1 gives a window that begins in the padding (image of %v), which is not supported", in)
				}
				if a.int("count_include_pad", 0, 0, 1) == 1 {
					return errors.New("attributes \"ceil_mode\" = 1 and \"count_include_pad\" = 1 together give a window beyond the padding, for which programs divide by different numbers")
				}
				up, out = true, more
			}
			im.decided(in)
		}
		dims[2+i] = out
	}
	if up {
		attrs["ceil_mode"] = int64(1)
	}
	return im.emit(o, o.op, []string{x.image}, attrs, dims)
}

func (im *importer) resize(o *operator, a *attributes) error {
	if err := o.arity(2, 4); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	mode := a.oneOf("mode", "nearest", "linear")
	transform := a.oneOf("coordinate_transformation_mode", "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
	rounding := a.oneOf("nearest_mode", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
	a.int("exclude_outside", 0, 0, 0)
	// without effect in these modes
	lookup(a, "cubic_coeff_a", float32(0))
	lookup(a, "extrapolation_value", float32(0))
	if a.first != nil {
		return a.first
	}
	scales, sizes := im.input(o, 2), im.input(o, 3)
	if scales != nil && scales.array != nil && scales.array.len() == 0 {
		scales = nil // opset 11 has no omitted inputs
	}
	var factor [4]int
	switch {
	case scales != nil && sizes == nil:
		if c, err := scales.computed(); err != nil {
			return fmt.Errorf("scales: %w", err)
		} else if len(c.forms) != 4 {
			return fmt.Errorf("%d scales, needs 4", len(c.forms))
		} else {
			for i, s := range c.forms {
				k, ok := s.integer()
				if !ok {
					return fmt.Errorf("scale %v of dimension %d is not supported; whole numbers are", s, i)
				}
				factor[i] = k
			}
		}
	case sizes != nil && scales == nil:
		if c, err := sizes.computed(); err != nil {
			return fmt.Errorf("sizes: %w", err)
		} else if len(c.forms) != 4 {
			return fmt.Errorf("%d sizes, needs 4", len(c.forms))
		} else {
			for i, s := range c.forms {
				k, ok := s.ratio(x.dims[i])
				if !ok {
					return fmt.Errorf("size %v of dimension %d is no whole multiple of %v, which is not supported", s, i, x.dims[i])
				}
				factor[i] = k
				im.decided(s)
			}
		}
	default:
		return errors.New("needs either scales or sizes")
	}
	dims := slices.Clone(x.dims)
	for i, k := range factor {
		if k < 1 || k > maxWindow || i < 2 && k != 1 {
			return fmt.Errorf("scale %d of dimension %d is not supported", k, i)
		}
		dims[i] = dims[i].scale(float64(k))
	}
	attrs := nn.Attrs{"mode": mode, "coordinate_transformation_mode": transform}
	if transform == "pytorch_half_pixel" {
		// differs from half_pixel only where the output has one element, which
		// a whole scale gives only for an input of one: both read that one
		attrs["coordinate_transformation_mode"] = "half_pixel"
	}
	if mode == "nearest" {
		attrs["nearest_mode"] = rounding
		if repeats(transform, rounding, factor[2]) && repeats(transform, rounding, factor[3]) {
			attrs["coordinate_transformation_mode"], attrs["nearest_mode"] = "asymmetric", "floor"
		}
	}
	name := ""
	if scales != nil && scales.constant != "" {
		im.use(scales)
		name = scales.constant
	} else {
		name = im.fresh(im.valueNames, o.outputs[0]+".scales")
		im.extra = append(im.extra, &nn.Tensor{Name: name, Shape: []int{4}, Data: []float32{1, 1, float32(factor[2]), float32(factor[3])}})
	}
	return im.emit(o, "Resize", []string{x.image, "", name}, attrs, dims)
}

// repeats reports whether nearest-neighbour interpolation by a whole factor
// repeats every pixel k times, as asymmetric with floor does.
func repeats(transform, rounding string, k int) bool {
	for i := range k { // one period; index 0 of the input must be read
		var x float64
		switch transform {
		case "asymmetric":
			x = float64(i) / float64(k)
		case "half_pixel", "pytorch_half_pixel":
			x = (float64(i)+0.5)/float64(k) - 0.5
		default:
			return false // align_corners depends on the size
		}
		switch rounding {
		case "floor":
			x = math.Floor(x)
		case "ceil":
			x = math.Ceil(x)
		case "round_prefer_floor":
			x = math.Ceil(x - 0.5)
		case "round_prefer_ceil":
			x = math.Floor(x + 0.5)
		}
		if x != 0 {
			return false
		}
	}
	return true
}

// pad follows the padding that exporters insert to match sizes; it must come
// out as none.
func (im *importer) pad(o *operator, a *attributes) error {
	if err := o.arity(2, 3); err != nil {
		return err
	}
	a.oneOf("mode", "constant", "reflect", "edge")
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	pads := im.input(o, 1)
	if pads == nil {
		return errors.New("pads are missing")
	}
	c, err := pads.computed()
	if err != nil {
		return fmt.Errorf("pads: %w", err)
	}
	if len(c.forms) != 8 {
		return fmt.Errorf("%d pads, needs 8", len(c.forms))
	}
	for i, p := range c.forms {
		if p != (form{}) {
			return fmt.Errorf("pad %d is %v; only padding that comes out as zero is supported (pads of the convolution are)", i, p)
		}
	}
	if pads.array == nil {
		im.decided(x.dims...)
	}
	return im.set(o, x)
}

func (im *importer) activation(o *operator, a *attributes) error {
	if err := o.arity(1, 1); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	attrs := nn.Attrs{}
	if o.op == "LeakyRelu" {
		if v := lookup(a, "alpha", float32(0.01)); v != v || math.IsInf(float64(v), 0) {
			a.fail("attribute \"alpha\" = %g is not supported", v)
		}
		attrs = a.keep("alpha")
	}
	return im.emit(o, o.op, []string{x.image}, attrs, x.dims)
}

// softmax also takes a transposed image, the form in which PyTorch writes the
// channel softmax at opset 11 and 12.
func (im *importer) softmax(o *operator, a *attributes) error {
	if err := o.arity(1, 1); err != nil {
		return err
	}
	x := im.input(o, 0)
	if x == nil || x.image == "" {
		return errors.New("input 0 is no image computed from the network's input")
	}
	def := int64(-1)
	if im.opset < 13 {
		def = 1
	}
	axis := a.int("axis", def, -4, 3)
	if axis < 0 {
		axis += 4
	}
	perm := x.perm
	if perm == nil {
		perm = []int{0, 1, 2, 3}
	}
	// Before opset 13 Softmax runs over all axes from this one on.
	if im.opset < 13 {
		for _, p := range perm[axis+1:] {
			if x.dims[p] != constant(1) {
				return fmt.Errorf("attribute \"axis\" = %d flattens the axes after it at opset %d, which is not supported", axis, im.opset)
			}
		}
	}
	if err := im.emit(o, "Softmax", []string{x.image}, nn.Attrs{"axis": int64(perm[axis])}, x.dims); err != nil {
		return err
	}
	im.values[o.outputs[0]].perm = x.perm
	return nil
}

func (im *importer) transpose(o *operator, a *attributes) error {
	if err := o.arity(1, 1); err != nil {
		return err
	}
	x := im.input(o, 0)
	if x == nil {
		return errors.New("input 0 is missing")
	}
	rank := 4
	var c *value
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
	seen := make([]bool, rank)
	for _, p := range perm {
		if seen[p] {
			return fmt.Errorf("attribute \"perm\" = %v is no permutation", perm)
		}
		seen[p] = true
	}
	if x.image == "" {
		return im.set(o, c.transposed(perm))
	}
	v := &value{image: x.image, dims: x.dims}
	identity := true
	for i, p := range perm {
		q := int(p)
		if x.perm != nil {
			q = x.perm[p]
		}
		v.perm = append(v.perm, q)
		identity = identity && q == i
	}
	if identity {
		v.perm = nil
	}
	return im.set(o, v)
}

// arithmetic is an operator on two images of one shape, or on computed
// numbers.
func (im *importer) arithmetic(o *operator, a *attributes) error {
	if err := o.arity(2, 2); err != nil {
		return err
	}
	x, y := im.input(o, 0), im.input(o, 1)
	if x == nil || y == nil {
		return errors.New("an input is missing")
	}
	if x.image == "" && y.image == "" {
		return im.set(o, combine(o.op, x, y))
	}
	if x.image == "" || y.image == "" {
		return errors.New("combining an image with a constant is not supported")
	}
	if o.op == "Div" {
		return errors.New("dividing images is not supported")
	}
	var names []string
	for i := range 2 {
		v, err := im.image(o, i)
		if err != nil {
			return err
		}
		names = append(names, v.image)
	}
	for i := range 4 {
		if x.dims[i] != y.dims[i] {
			return fmt.Errorf("images of different size (%v and %v in dimension %d) are not supported", x.dims[i], y.dims[i], i)
		}
	}
	return im.emit(o, o.op, names, nn.Attrs{}, x.dims)
}

func (im *importer) concat(o *operator, a *attributes) error {
	if err := o.arity(1, maxChannel); err != nil {
		return err
	}
	first := im.input(o, 0)
	if first == nil {
		return errors.New("input 0 is missing")
	}
	if first.image == "" {
		return im.concatComputed(o, a)
	}
	if a.get("axis") == nil {
		return errors.New("attribute \"axis\" is missing")
	}
	if axis := lookup(a, "axis", int64(0)); axis != 1 && axis != -3 {
		return fmt.Errorf("attribute \"axis\" = %d is not supported; joining channels (1) is", axis)
	}
	var names []string
	dims := slices.Clone(first.dims)
	dims[1] = form{}
	for i := range o.inputs {
		v, err := im.image(o, i)
		if err != nil {
			return err
		}
		for _, d := range []int{0, 2, 3} {
			if v.dims[d] != dims[d] {
				return fmt.Errorf("images of different size (%v and %v in dimension %d)", dims[d], v.dims[d], d)
			}
		}
		dims[1] = dims[1].add(v.dims[1])
		names = append(names, v.image)
	}
	return im.emit(o, "Concat", names, nn.Attrs{"axis": int64(1)}, dims)
}

func (im *importer) identity(o *operator, a *attributes) error {
	if err := o.arity(1, 1); err != nil {
		return err
	}
	x := im.input(o, 0)
	if x == nil {
		return errors.New("input 0 is missing")
	}
	return im.set(o, x)
}

// dropout does nothing outside training; during training refocus does not
// drop.
func (im *importer) dropout(o *operator, a *attributes) error {
	if err := o.arity(1, 3); err != nil {
		return err
	}
	x, err := im.image(o, 0)
	if err != nil {
		return err
	}
	a.keep("ratio", "seed")
	if len(o.inputs) == 3 {
		return errors.New("a training mode given as an input is not supported")
	}
	return im.set(o, x)
}
