package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

// rule says how an operator is stated in the form of package nn, or how its
// computation is followed. It has from least to most inputs, of which the first
// least may not be omitted. An attribute that it does not ask for is refused.
type rule struct {
	least, most int
	apply       func(im *importer, o *operator, a *attributes) error
}

var rules = map[string]rule{
	"Conv":                  {2, 3, onImage((*importer).conv)},
	"ConvTranspose":         {2, 3, onImage((*importer).convTranspose)},
	"BatchNormalization":    {5, 5, onImage((*importer).normalization)},
	"InstanceNormalization": {3, 3, onImage((*importer).normalization)},
	"MaxPool":               {1, 1, onImage((*importer).maxPool)},
	"AveragePool":           {1, 1, onImage((*importer).averagePool)},
	"Resize":                {1, 4, onImage((*importer).resize)},
	"Pad":                   {2, 3, onImage((*importer).pad)},
	"Relu":                  {1, 1, onImage((*importer).activation)},
	"LeakyRelu":             {1, 1, onImage((*importer).activation)},
	"Sigmoid":               {1, 1, onImage((*importer).activation)},
	"Dropout":               {1, 3, onImage((*importer).dropout)},
	"Softmax":               {1, 1, (*importer).softmax},
	"Add":                   {2, 2, (*importer).arithmetic},
	"Sub":                   {2, 2, (*importer).arithmetic},
	"Mul":                   {2, 2, (*importer).arithmetic},
	"Div":                   {2, 2, (*importer).arithmetic},
	"Concat":                {1, maxChannel, (*importer).concat},
	"Transpose":             {1, 1, (*importer).transpose},
	"Identity":              {1, 1, (*importer).identity},
	"Cast":                  {1, 1, (*importer).cast},

	// computations with sizes
	"Constant":        {0, 0, (*importer).constantNode},
	"Shape":           {1, 1, (*importer).shapeOf},
	"Gather":          {2, 2, (*importer).gather},
	"Unsqueeze":       {1, 2, (*importer).unsqueeze},
	"Squeeze":         {1, 2, (*importer).squeeze},
	"Slice":           {3, 5, (*importer).slice},
	"Reshape":         {2, 2, (*importer).reshape},
	"ConstantOfShape": {1, 1, (*importer).constantOfShape},
	"Floor":           {1, 1, (*importer).round},
	"Ceil":            {1, 1, (*importer).round},
}

// onImage hands a rule the image that its operator's first input must be.
func onImage(f func(im *importer, o *operator, a *attributes, x *value) error) func(*importer, *operator, *attributes) error {
	return func(im *importer, o *operator, a *attributes) error {
		x, err := im.image(o, 0)
		if err != nil {
			return err
		}
		return f(im, o, a, x)
	}
}

// Bounds of attributes. They are far beyond any U-Net's and keep every product
// of sizes representable.
const (
	maxWindow  = 255
	maxChannel = 1 << 20
)

// window is a sliding window's geometry along one axis.
type window struct{ kernel, stride, dilation, begin, end int }

// windows reads the attributes of sliding windows with kernels of the given
// size. The first choice of auto_pad is "NOTSET".
func (a *attributes) windows(kernel []int64, autoPad ...string) (w [2]window, auto string) {
	strides := a.ints("strides", []int64{1, 1}, 2, 1, maxWindow)
	dilations := a.ints("dilations", []int64{1, 1}, 2, 1, maxWindow)
	pads := a.ints("pads", []int64{0, 0, 0, 0}, 4, 0, maxWindow)
	auto = a.oneOf("auto_pad", autoPad...)
	if auto != "NOTSET" && slices.ContainsFunc(pads, func(p int64) bool { return p != 0 }) {
		a.fail("attribute \"pads\" = %v contradicts \"auto_pad\" = %q", pads, auto)
	}
	for i := range w {
		w[i] = window{int(kernel[i]), int(strides[i]), int(dilations[i]), int(pads[i]), int(pads[i+2])}
	}
	return w, auto
}

// padded makes auto_pad explicit, in the attributes too.
func (im *importer) padded(w [2]window, auto string, x []form, attrs nn.Attrs) ([2]window, error) {
	if auto != "SAME_UPPER" && auto != "SAME_LOWER" {
		return w, nil
	}
	for i := range w {
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
	attrs["pads"] = []int64{int64(w[0].begin), int64(w[1].begin), int64(w[0].end), int64(w[1].end)}
	return w, nil
}

// extent is the window's size with dilation.
func (w window) extent() int { return w.dilation*(w.kernel-1) + 1 }

// output is the number of windows on an axis of the given size.
func (w window) output(in form) (form, error) {
	q, err := floorDiv(in.add(constant(w.begin+w.end-w.extent())), w.stride)
	return q.add(constant(1)), err
}

// convolution is what Conv and ConvTranspose have in common.
type convolution struct {
	inputs   []string // image, weight and, if there is one, bias
	channels int      // of the output
	kernel   []int64
}

// convolution reads the inputs and the attributes of the kernel. channels gives
// the numbers of channels that a weight of some shape takes and makes.
func (im *importer) convolution(o *operator, a *attributes, x *value, channels func(shape []int, group int) (in, out int)) (c convolution, err error) {
	weight, w, err := im.weight(o, 1, -1, -1, -1, -1)
	if err != nil {
		return c, err
	}
	group := int(a.int("group", 1, 1, maxChannel))
	c.kernel = a.ints("kernel_shape", []int64{int64(w.Shape[2]), int64(w.Shape[3])}, 2, 1, maxWindow)
	if a.first != nil {
		return c, a.first
	}
	in, out := channels(w.Shape, group)
	if int(c.kernel[0]) != w.Shape[2] || int(c.kernel[1]) != w.Shape[3] || out == 0 {
		return c, fmt.Errorf("attribute \"kernel_shape\" = %v does not fit the weight's shape %v", c.kernel, w.Shape)
	}
	if k, ok := x.dims[1].integer(); !ok || k != in || w.Shape[0]%group != 0 {
		return c, fmt.Errorf("weight of shape %v with \"group\" = %d does not fit %v channels", w.Shape, group, x.dims[1])
	}
	c.inputs, c.channels = []string{x.image, weight}, out
	if im.input(o, 2) != nil {
		bias, _, err := im.weight(o, 2, out)
		if err != nil {
			return c, err
		}
		c.inputs = append(c.inputs, bias)
	}
	return c, nil
}

func (im *importer) conv(o *operator, a *attributes, x *value) error {
	c, err := im.convolution(o, a, x, func(shape []int, group int) (in, out int) { return shape[1] * group, shape[0] })
	if err != nil {
		return err
	}
	w, auto := a.windows(c.kernel, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
	if a.first != nil {
		return a.first
	}
	attrs := a.keep("kernel_shape", "strides", "pads", "dilations", "group")
	if w, err = im.padded(w, auto, x.dims, attrs); err != nil {
		return err
	}
	dims := []form{x.dims[0], constant(c.channels), {}, {}}
	for i := range w {
		if dims[2+i], err = w[i].output(x.dims[2+i]); err != nil {
			return err
		}
	}
	return im.emit(o, "Conv", c.inputs, attrs, dims)
}

func (im *importer) convTranspose(o *operator, a *attributes, x *value) error {
	c, err := im.convolution(o, a, x, func(shape []int, group int) (in, out int) { return shape[0], shape[1] * group })
	if err != nil {
		return err
	}
	w, _ := a.windows(c.kernel, "NOTSET", "VALID")
	extra := a.ints("output_padding", []int64{0, 0}, 2, 0, maxWindow)
	if a.first != nil {
		return a.first
	}
	if a.get("output_shape") != nil {
		return errors.New("attribute \"output_shape\" is not supported; explicit pads are")
	}
	dims := []form{x.dims[0], constant(c.channels), {}, {}}
	for i, w := range w {
		more := int(extra[i])
		if more > 0 && more >= max(w.stride, w.dilation) {
			return fmt.Errorf("attribute \"output_padding\" = %v must be smaller than the stride or the dilation", extra)
		}
		dims[2+i] = x.dims[2+i].scale(float64(w.stride)).add(constant(w.extent() - w.stride + more - w.begin - w.end))
	}
	return im.emit(o, "ConvTranspose", c.inputs, a.keep("kernel_shape", "strides", "pads", "dilations", "group", "output_padding"), dims)
}

// normalization is BatchNormalization or InstanceNormalization: all inputs but
// the image are vectors of a number per channel.
func (im *importer) normalization(o *operator, a *attributes, x *value) error {
	c, _ := x.dims[1].integer()
	inputs := []string{x.image}
	for i := 1; i < len(o.Inputs); i++ {
		name, _, err := im.weight(o, i, c)
		if err != nil {
			return err
		}
		inputs = append(inputs, name)
	}
	keep := []string{"epsilon"}
	if e := lookup(a, "epsilon", float32(1e-5)); !(e > 0) || e > 1 {
		a.fail("attribute \"epsilon\" = %g is not supported (more than 0, at most 1 is)", e)
	}
	if o.Op == "BatchNormalization" {
		keep = append(keep, "momentum")
		if m := lookup(a, "momentum", float32(0.9)); !(m >= 0) || m > 1 {
			a.fail("attribute \"momentum\" = %g is not supported (from 0 to 1 is)", m)
		}
		a.int("training_mode", 0, 0, 0) // opset 14
	}
	return im.emit(o, o.Op, inputs, a.keep(keep...), x.dims)
}

func (im *importer) maxPool(o *operator, a *attributes, x *value) error {
	a.int("storage_order", 0, 0, 0) // concerns the second output only
	return im.pool(o, a, x, "kernel_shape", "strides", "pads", "dilations")
}

func (im *importer) averagePool(o *operator, a *attributes, x *value) error {
	a.int("count_include_pad", 0, 0, 1)
	if a.get("dilations") != nil { // opset 19
		return errors.New("attribute \"dilations\" is not supported")
	}
	return im.pool(o, a, x, "kernel_shape", "strides", "pads", "count_include_pad")
}

func (im *importer) pool(o *operator, a *attributes, x *value, keep ...string) error {
	if a.get("kernel_shape") == nil {
		return errors.New("attribute \"kernel_shape\" is missing")
	}
	kernel := a.ints("kernel_shape", []int64{1, 1}, 2, 1, maxWindow)
	ceil := a.int("ceil_mode", 0, 0, 1)
	win, auto := a.windows(kernel, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
	if a.first != nil {
		return a.first
	}
	attrs := a.keep(keep...)
	win, err := im.padded(win, auto, x.dims, attrs)
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
	return im.emit(o, o.Op, []string{x.image}, attrs, dims)
}

func (im *importer) resize(o *operator, a *attributes, x *value) error {
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
	if scales != nil && scales.array != nil && scales.array.Len() == 0 {
		scales = nil // opset 11 has no omitted inputs
	}
	if (scales == nil) == (sizes == nil) {
		return errors.New("needs either scales or sizes")
	}
	var factor [4]int
	given, what := scales, "scale"
	if scales == nil {
		given, what = sizes, "size"
	}
	c, err := given.computed()
	if err != nil {
		return fmt.Errorf("%ss: %w", what, err)
	}
	if len(c.forms) != 4 {
		return fmt.Errorf("%d %ss, needs 4", len(c.forms), what)
	}
	for i, s := range c.forms {
		var ok bool
		if scales != nil {
			if factor[i], ok = s.integer(); !ok {
				return fmt.Errorf("scale %v of dimension %d is not supported; whole numbers are", s, i)
			}
			continue
		}
		if factor[i], ok = s.ratio(x.dims[i]); !ok {
			return fmt.Errorf("size %v of dimension %d is no whole multiple of %v, which is not supported", s, i, x.dims[i])
		}
		im.decided(s)
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
		name = im.fresh(im.valueNames, o.Outputs[0]+".scales")
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
func (im *importer) pad(o *operator, a *attributes, x *value) error {
	a.oneOf("mode", "constant", "reflect", "edge")
	pads := im.input(o, 1)
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

func (im *importer) activation(o *operator, a *attributes, x *value) error {
	attrs := nn.Attrs{}
	if o.Op == "LeakyRelu" {
		if v := lookup(a, "alpha", float32(0.01)); v != v || math.IsInf(float64(v), 0) {
			a.fail("attribute \"alpha\" = %g is not supported", v)
		}
		attrs = a.keep("alpha")
	}
	return im.emit(o, o.Op, []string{x.image}, attrs, x.dims)
}

// softmax also takes a transposed image, the form in which PyTorch writes the
// channel softmax at opset 11 and 12.
func (im *importer) softmax(o *operator, a *attributes) error {
	x := im.input(o, 0)
	if x.image == "" {
		return errors.New("input 0 is no image computed from the network's input")
	}
	def := int64(-1)
	if im.Opset < 13 {
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
	if im.Opset < 13 {
		for _, p := range perm[axis+1:] {
			if x.dims[p] != constant(1) {
				return fmt.Errorf("attribute \"axis\" = %d flattens the axes after it at opset %d, which is not supported", axis, im.Opset)
			}
		}
	}
	if err := im.emit(o, "Softmax", []string{x.image}, nn.Attrs{"axis": int64(perm[axis])}, x.dims); err != nil {
		return err
	}
	im.values[o.Outputs[0]].perm = x.perm
	return nil
}

func (im *importer) transpose(o *operator, a *attributes) error {
	x := im.input(o, 0)
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
	x, y := im.input(o, 0), im.input(o, 1)
	if x.image == "" && y.image == "" {
		return im.set(o, combine(o.Op, x, y))
	}
	if x.image == "" || y.image == "" {
		return errors.New("combining an image with a constant is not supported")
	}
	if o.Op == "Div" {
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
	return im.emit(o, o.Op, names, nn.Attrs{}, x.dims)
}

func (im *importer) concat(o *operator, a *attributes) error {
	first := im.input(o, 0)
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
	for i := range o.Inputs {
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
	return im.set(o, im.input(o, 0))
}

// dropout does nothing outside training; during training refocus does not
// drop.
func (im *importer) dropout(o *operator, a *attributes, x *value) error {
	a.keep("ratio", "seed")
	if len(o.Inputs) == 3 {
		return errors.New("a training mode given as an input is not supported")
	}
	return im.set(o, x)
}
