package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
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
		if w[i].extent() == 1 { // never padded
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
	w, auto := a.windows(c.kernel, "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
	extra := slices.Clone(a.ints("output_padding", []int64{0, 0}, 2, 0, maxWindow))
	shape := lookup(a, "output_shape", []int64(nil))
	if a.first != nil {
		return a.first
	}
	if len(shape) == 4 {
		shape = shape[2:]
	}
	if shape != nil && len(shape) != 2 {
		return fmt.Errorf("attribute \"output_shape\" = %v has no two sizes", shape)
	}
	attrs := a.keep("kernel_shape", "strides", "pads", "dilations", "group", "output_padding")
	dims := []form{x.dims[0], constant(c.channels), {}, {}}
	explicit := shape == nil && auto != "SAME_UPPER" && auto != "SAME_LOWER"
	for i := range w {
		more := int(extra[i])
		if more > 0 && more >= max(w[i].stride, w[i].dilation) {
			return fmt.Errorf("attribute \"output_padding\" = %v must be smaller than the stride or the dilation", extra)
		}
		full := x.dims[2+i].scale(float64(w[i].stride)).add(constant(w[i].extent() - w[i].stride + more))
		if !explicit {
			want := x.dims[2+i].scale(float64(w[i].stride))
			if shape != nil {
				want = constant(int(min(max(shape[i], 0), math.MaxInt32)))
			}
			total, ok := full.sub(want).integer()
			if !ok || -total >= max(w[i].stride, w[i].dilation) {
				return fmt.Errorf("an output of %v needs a padding of %v, which is not supported", want, full.sub(want))
			}
			if total < 0 { // more than the windows reach
				extra[i] += int64(-total)
				full, total = want, 0
			}
			w[i].begin = total - total/2
			if auto == "SAME_UPPER" {
				w[i].begin = total / 2
			}
			w[i].end = total - w[i].begin
		}
		dims[2+i] = full.sub(constant(w[i].begin + w[i].end))
	}
	if !explicit {
		attrs["output_padding"] = extra
		attrs["pads"] = []int64{int64(w[0].begin), int64(w[1].begin), int64(w[0].end), int64(w[1].end)}
	}
	return im.emit(o, "ConvTranspose", c.inputs, attrs, dims)
}

// gemm is a product with a constant matrix of an image whose channels come last,
// or of one pixel, seen as a matrix [N,C]: a convolution by 1×1.
func (im *importer) gemm(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	_, w, err := im.weight(o, 1, -1, -1)
	if err != nil {
		return err
	}
	alpha, beta := float32(1), float32(1)
	transposed := int64(0)
	if o.Op == "Gemm" {
		alpha, beta = lookup(a, "alpha", alpha), lookup(a, "beta", beta)
		a.int("transA", 0, 0, 0)
		transposed = a.int("transB", 0, 0, 1)
	}
	if a.first != nil {
		return a.first
	}
	view := x.views()
	if len(view) < 2 || view[len(view)-1] != 1 || o.Op == "Gemm" && len(view) != 2 {
		return errors.New("a matrix product is supported only on images whose channels come last, as [N,H,W,C], or of one pixel, as a matrix [N,C]")
	}
	for d := range 4 {
		if k := slices.Contains(view, d) || d > 1 && slices.Contains(view, merged); !k && x.dims[d] != constant(1) {
			return fmt.Errorf("input 0 (%q) hides a dimension", o.Inputs[0])
		}
	}
	in, out := w.Shape[0], w.Shape[1]
	if transposed == 1 {
		in, out = out, in
	}
	if k, ok := x.dims[1].integer(); !ok || k != in {
		return fmt.Errorf("a matrix of shape %v does not fit %v channels", w.Shape, x.dims[1])
	}
	data := make([]float32, in*out)
	for m := range out {
		for c := range in {
			at := c*out + m
			if transposed == 1 {
				at = m*in + c
			}
			data[m*in+c] = alpha * w.F32[at]
		}
	}
	inputs := []string{x.image, im.tensor(o, "weight", []int{out, in, 1, 1}, data)}
	if im.input(o, 2) != nil {
		b := im.input(o, 2).known()
		if b == nil || b.F32 == nil || len(b.F32) != 1 && len(b.F32) != out || len(b.Shape) > 0 && len(b.F32) > 1 && b.Shape[len(b.Shape)-1] != out {
			return fmt.Errorf("input 2 (%q) is no constant with a number per column", o.Inputs[2])
		}
		bias := make([]float32, out)
		for i := range bias {
			bias[i] = beta * b.F32[i%len(b.F32)]
		}
		inputs = append(inputs, im.tensor(o, "bias", []int{out}, bias))
	}
	dims := slices.Clone(x.dims)
	dims[1] = constant(out)
	if err := im.emit(o, "Conv", inputs, nil, dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

func (im *importer) maxPool(o *operator, a *attributes, x *value) error {
	a.int("storage_order", 0, 0, 1) // concerns the second output only
	return im.pool(o, a, x, "kernel_shape", "strides", "pads", "dilations")
}

func (im *importer) averagePool(o *operator, a *attributes, x *value) error {
	a.int("count_include_pad", 0, 0, 1)
	a.ints("dilations", []int64{1, 1}, 2, 1, 1) // opset 19
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

// globalPool is a mean or a maximum over an image.
func (im *importer) globalPool(o *operator, a *attributes, x *value) error {
	op := "ReduceMean"
	if o.Op == "GlobalMaxPool" {
		op = "ReduceMax"
	}
	return im.emit(o, op, []string{x.image}, nn.Attrs{"axes": []int64{2, 3}, "keepdims": int64(1)}, []form{x.dims[0], x.dims[1], constant(1), constant(1)})
}
