package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// The head is a 1×1 convolution with a bias of a tensor as it is: products of
// strips of whole rows, straight from and into memory.

// headRows is how many rows of an image a task takes.
const headRows = 16

// headStrips divides the images into strips.
func (p *program) headStrips(s *stored) (tasks int, at func(task int) (n, first, pixels int)) {
	perImage := (s.h + headRows - 1) / headRows
	return p.n * perImage, func(i int) (n, first, pixels int) {
		y := i % perImage * headRows
		return i / perImage, y * s.w, min(headRows, s.h-y) * s.w
	}
}

// forwardHead appends the logits.
func (p *program) forwardHead(o *op) {
	in, out, k := p.tensors[o.parts[0].t], p.tensors[o.out], p.e.kernels
	weights, bias := p.weights(o.weight), p.e.slice(p.e.values, o.bias)
	tasks, at := p.headStrips(out)
	plane := in.h * in.w * lanes
	p.add("forward", o, tasks, []*buffer{in.value, out.value}, func(_, i int) {
		n, first, pixels := at(i)
		dst := out.plane(out.value.data, n, 0)[first*lanes:][:pixels*lanes]
		k.Copy(flat(dst), kernel.Block{Data: bias}, 1, pixels)
		src := in.value.data[n*in.blocks*plane+first*lanes:]
		k.Conv8(dst, lanes, src, lanes, 1, plane, weights, lanes, lanes*lanes, pixels, lanes, in.blocks, true)
		p.round(flat(dst), 1, pixels)
	})
}

// backwardHead appends the gradient with respect to the head's input.
func (p *program) backwardHead(o *op, d *buffer) {
	in, out, k := p.tensors[o.parts[0].t], p.tensors[o.out], p.e.kernels
	weights := p.weights(o.weight)
	u := p.buffer(in.blocks * lanes * lanes)
	p.add("data gradient", o, 1, []*buffer{u}, func(_, _ int) {
		// [c][k] to [c/8][k][c%8]
		for b := range in.blocks {
			k.Transpose8(u.data[b*lanes*lanes:], lanes, 0, weights[b*lanes*lanes:], lanes, 0, 1)
		}
	})
	tasks, at := p.headStrips(in)
	p.add("data gradient", o, tasks, []*buffer{u, out.grad, d}, func(_, i int) {
		n, first, pixels := at(i)
		g := out.plane(out.grad.data, n, 0)[first*lanes:]
		for b := range in.blocks {
			k.Conv8(in.plane(d.data, n, b)[first*lanes:], lanes, g, lanes, 1, 0, u.data[b*lanes*lanes:], lanes, 0, pixels, lanes, 1, false)
		}
	})
}

// biasGradient appends the gradient of the head's bias: the sum over pixels, in
// float32 within strips and in float64 over strips in order.
func (p *program) biasGradient(head *op) {
	s := p.tensors[head.out]
	tasks, at := p.headStrips(s)
	sums := make([][lanes]float32, tasks)
	one := []float32{1}
	p.add("weight gradient", head, tasks, []*buffer{s.grad}, func(_, i int) {
		n, first, pixels := at(i)
		p.e.kernels.Gemm8(sums[i][:], lanes, one, 0, 0, s.plane(s.grad.data, n, 0)[first*lanes:], lanes, 1, pixels, false)
	})
	db := p.e.slice(p.e.grads, head.bias)
	p.add("weight gradient", head, 1, nil, func(_, _ int) {
		for l := range lanes {
			sum := 0.0
			for i := range sums {
				sum += float64(sums[i][l])
			}
			db[l] = float32(sum)
		}
	})
}
