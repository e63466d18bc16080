//go:build cuda

package gorgonia

import (
	"errors"
	"fmt"
	"unsafe"

	"gorgonia.org/cu"
	cudnn "gorgonia.org/cu/dnn"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// cudaOp makes an operator a gorgonia.CUDADoer. Its derivatives are those of
// the operator, which come out as cudaOps too.
type cudaOp struct {
	*op
	described any // the operator's cuDNN descriptors, made on first use
}

var (
	_ G.CUDADoer = (*cudaOp)(nil)
	_ G.SDOp     = (*cudaOp)(nil)
)

// onDevice is arithmetic that can compute on a device. out is unset for
// scalars, whose value is returned instead.
type onDevice interface {
	run(d *device, o *cudaOp, in []span, out span) (scalar float32, err error)
}

func (o *cudaOp) CUDADo(extern G.External, _ G.Device, _ G.Value, inputs ...G.Value) (G.Value, error) {
	d, ok := extern.(*device)
	if !ok {
		return nil, fmt.Errorf("%v runs on this package's devices, not on a %T", o.op, extern)
	}
	a, ok := o.arithmetic.(onDevice)
	if !ok {
		return nil, fmt.Errorf("%v has no implementation on the device", o.op)
	}
	in := make([]span, len(inputs))
	for i, v := range inputs {
		in[i] = spanOf(v)
		if want := o.in[i].TotalSize(); in[i].n != want {
			return nil, fmt.Errorf("%v: input %d has %d values, built for %d", o.op, i, in[i].n, want)
		}
	}
	if o.out.IsScalar() {
		s, err := a.run(d, o, in, span{})
		return G.NewF32(s), err
	}
	out, err := d.lend(o.out, o.uses)
	if err != nil {
		return nil, err
	}
	_, err = a.run(d, o, in, spanOf(out))
	return out, err
}

// denseOf is a tensor in device memory.
func denseOf(shape tensor.Shape, p cu.DevicePtr) *tensor.Dense {
	return tensor.New(tensor.Of(tensor.Float32), tensor.WithShape(shape...), tensor.FromMemory(uintptr(p), uintptr(shape.TotalSize()*4)))
}

func pointerOf(v G.Value) cu.DevicePtr { return cu.DevicePtr(v.Uintptr()) }

func pointer(m tensor.Memory) cu.DevicePtr { return cu.DevicePtr(m.Uintptr()) }

// describe returns a packed float32 tensor's descriptor.
func describe(n, c, h, w int) (*cudnn.TensorDescriptor, error) {
	return cudnn.NewTensorDescriptor(cudnn.NCHW, cudnn.Float, []int{n, c, h, w}, nil)
}

// convDescriptors of a convolution and its derivatives.
type convDescriptors struct {
	x, y, bias *cudnn.TensorDescriptor
	w          *cudnn.Filter
	conv       *cudnn.Convolution
}

func (c conv) describe(o *cudaOp) (*convDescriptors, error) {
	if d, ok := o.described.(*convDescriptors); ok {
		return d, nil
	}
	s := c.shape
	var d convDescriptors
	var errs [5]error
	d.x, errs[0] = describe(s.N, s.C, s.H, s.W)
	d.y, errs[1] = describe(s.N, s.M, s.OH, s.OW)
	d.bias, errs[2] = describe(1, s.M, 1, 1)
	d.w, errs[3] = cudnn.NewFilter(cudnn.Float, cudnn.NCHW, []int{s.M, s.C, s.KH, s.KW})
	// FMAMath keeps to float32 where the default would take TF32.
	d.conv, errs[4] = cudnn.NewConvolution(cudnn.FmaMath, 1, []int{s.Top, s.Left}, []int{s.SH, s.SW}, []int{1, 1}, cudnn.CrossCorrelation, cudnn.Float)
	o.described = &d
	return &d, errors.Join(errs[:]...)
}

// Package cudnn cannot ask for the size of a convolution's workspace, so these
// are the algorithms that need none. Those of the derivatives add atomically:
// hence no claim of determinism.

func (c conv) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := c.describe(o)
	if err != nil {
		return 0, err
	}
	err = d.dnn.ConvolutionForward(1, k.x, in[0], k.w, in[1], k.conv, cudnn.ConvolutionFwdAlgoImplicitGemm, nothing, 0, 0, k.y, out)
	if err == nil && len(in) > 2 {
		err = d.dnn.AddTensor(1, k.bias, in[2], 1, k.y, out)
	}
	return 0, err
}

func (c convInput) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := conv(c).describe(o)
	if err != nil {
		return 0, err
	}
	return 0, d.dnn.ConvolutionBackwardData(1, k.w, in[0], k.y, in[1], k.conv, cudnn.ConvolutionBwdDataAlgo0, nothing, 0, 0, k.x, out)
}

func (c convWeights) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := conv(c).describe(o)
	if err != nil {
		return 0, err
	}
	return 0, d.dnn.ConvolutionBackwardFilter(1, k.x, in[0], k.y, in[1], k.conv, cudnn.ConvolutionBwdFilterAlgo0, nothing, 0, 0, k.w, out)
}

func (c convBias) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := conv(c).describe(o)
	if err != nil {
		return 0, err
	}
	return 0, d.dnn.ConvolutionBackwardBias(1, k.y, in[0], 0, k.bias, out)
}

// deviceStatistics of a BatchNormalization's last batch: mean and unbiased
// variance, and what cuDNN saves for the derivative.
type deviceStatistics struct{ mean, variance, savedMean, savedInverse span }

// normDescriptors of a BatchNormalization: its values and its channels.
type normDescriptors struct{ x, channels *cudnn.TensorDescriptor }

func (o *cudaOp) describeNorm(n, c, pixels int) (*normDescriptors, error) {
	if d, ok := o.described.(*normDescriptors); ok {
		return d, nil
	}
	var d normDescriptors
	var err1, err2 error
	d.x, err1 = describe(n, c, 1, pixels)
	d.channels, err2 = describe(1, c, 1, 1)
	o.described = &d
	return &d, errors.Join(err1, err2)
}

// run leaves the running statistics alone: with factor 1 cuDNN puts the batch's
// mean and unbiased variance where they would be.
func (b *batchNorm) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := o.describeNorm(b.n, b.c, b.pixels)
	if err != nil {
		return 0, err
	}
	s := b.batch.device.(*deviceStatistics)
	err = d.dnn.BatchNormalizationForwardTraining(cudnn.Spatial, 1, 0, k.x, in[0], k.x, out, k.channels, in[1], in[2],
		1, s.mean, s.variance, b.epsilon, s.savedMean, s.savedInverse)
	if err == nil && b.relu {
		err = d.launch("relu", out.n, out, out)
	}
	return 0, err
}

// backward computes all three derivatives, of which one caller drops dx and the
// other the sums: cuDNN has them in one call, Gorgonia's operators one result.
func (b *batchNorm) backward(d *device, o *cudaOp, x, y, dy, scale, dx, sums span) error {
	k, err := o.describeNorm(b.n, b.c, b.pixels)
	if err != nil {
		return err
	}
	s := b.batch.device.(*deviceStatistics)
	shift := span{DevicePtr: sums.DevicePtr + cu.DevicePtr(4*b.c), n: b.c}
	call := func(dy span) error {
		return d.dnn.BatchNormalizationBackward(cudnn.Spatial, 1, 0, 1, 0, k.x, x, k.x, dy, k.x, dx, k.channels, scale,
			sums, shift, b.epsilon, s.savedMean, s.savedInverse)
	}
	if !b.relu {
		return call(dy)
	}
	return d.temporary(dy.n, func(masked span) error {
		if err := d.launch("relu_input", dy.n, masked, y, dy); err != nil {
			return err
		}
		return call(masked)
	})
}

func (b *batchNormSums) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	return 0, d.temporary(in[0].n, func(dx span) error {
		n := (*batchNorm)(b)
		// The scale enters dx only, which is dropped.
		return n.backward(d, o, in[0], in[1], in[2], n.batch.device.(*deviceStatistics).savedInverse, dx, out)
	})
}

func (b *batchNormInput) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	return 0, d.temporary(2*b.c, func(sums span) error {
		return (*batchNorm)(b).backward(d, o, in[0], in[1], in[2], in[3], out, sums)
	})
}

func (r batchNormRow) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	from := in[0].DevicePtr + cu.DevicePtr(4*int(r)*out.n)
	return 0, cu.MemcpyDtoD(out.DevicePtr, from, int64(4*out.n))
}

func (b batchNormInference) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := o.describeNorm(b.n, b.c, b.pixels)
	if err != nil {
		return 0, err
	}
	err = d.dnn.BatchNormalizationForwardInference(cudnn.Spatial, 1, 0, k.x, in[0], k.x, out, k.channels, in[1], in[2], in[3], in[4], b.epsilon)
	if err == nil && b.relu {
		err = d.launch("relu", out.n, out, out)
	}
	return 0, err
}

func (relu) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("relu", out.n, out, in[0])
}

func (reluInput) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("relu_input", out.n, out, in[0], in[1])
}

// cuDNN's pooling does not say which of equal pixels gets the gradient.
func (p maxPool) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("max_pool", out.n, out, in[0], p.h, p.w, p.kh, p.kw, p.sh, p.sw, p.top, p.left, p.oh, p.ow)
}

func (p maxPoolInput) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("max_pool_input", out.n, out, in[0], in[1], p.h, p.w, p.kh, p.kw, p.sh, p.sw, p.top, p.left, p.oh, p.ow)
}

func (u upsample) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("upsample", out.n, out, in[0], u.h, u.w, u.fy, u.fx)
}

func (u upsampleInput) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("upsample_input", out.n, out, in[0], u.h, u.w, u.fy, u.fx)
}

func (c concat) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	for i, s := range c.sizes {
		start, total := c.offset(i)
		if err := d.launch("copy_rows", in[i].n, out, total, start, in[i], s, 0, s); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

func (c concatInput) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	start, total := c.offset(c.i)
	s := c.sizes[c.i]
	return 0, d.launch("copy_rows", out.n, out, s, 0, in[0], total, start, s)
}

func (add) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	return 0, d.launch("add", out.n, out, in[0], in[1])
}

func (s softmax) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := o.describeNorm(s.n, s.k, s.pixels)
	if err != nil {
		return 0, err
	}
	return 0, d.dnn.SoftmaxForward(cudnn.Accurate, cudnn.Channel, 1, k.x, in[0], 0, k.x, out)
}

func (s softmaxInput) run(d *device, o *cudaOp, in []span, out span) (float32, error) {
	k, err := o.describeNorm(s.n, s.k, s.pixels)
	if err != nil {
		return 0, err
	}
	return 0, d.dnn.SoftmaxBackward(cudnn.Accurate, cudnn.Channel, 1, k.x, in[0], k.x, in[1], 0, k.x, out)
}

// run sums each image's pixels in some hundred parts on the device and those in
// order here, so that the loss is reproducible and its sum in float64.
func (l crossEntropy) run(d *device, _ *cudaOp, in []span, _ span) (float32, error) {
	parts := min(l.pixels, 256)
	sums := make([]float64, l.n*parts)
	err := d.temporary(2*len(sums), func(s span) error {
		if err := d.launch("cross_entropy", len(sums), s, in[0], in[1], l.k, l.pixels, parts); err != nil {
			return err
		}
		return cu.MemcpyDtoH(unsafe.Pointer(&sums[0]), s.DevicePtr, int64(8*len(sums)))
	})
	*l.value = 0
	for _, v := range sums {
		*l.value += v
	}
	*l.value /= float64(l.n) * float64(l.pixels)
	return float32(*l.value), err
}

func (l crossEntropyInput) run(d *device, _ *cudaOp, in []span, out span) (float32, error) {
	n := l.n * l.pixels
	return 0, d.launch("cross_entropy_input", n, out, in[0], in[1], l.k, l.pixels, float64(in[2].scalar)/float64(n))
}
