package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// identity leaves what is not negative as it is.
var identity = func() (p kernel.Params) {
	for l := range lanes {
		p[0][l] = 1
	}
	return p
}()

// pooled returns what a pooling kernel reads for 2·rows×2·cols pixels: the
// tensor with its normalisation or, in mixed precision, staged rounded values,
// which may be equal where the tensor's are not.
func (p *program) pooled(stage []float32, s *stored, n, b, y, x, rows, cols int, a *kernel.Params) (kernel.Block, *kernel.Params) {
	src := kernel.Block{Data: s.plane(s.value.data, n, b)[(y*s.w+x)*lanes:], Row: s.w * lanes, Col: lanes}
	if !p.mixed {
		return src, a
	}
	to := kernel.Block{Data: stage, Row: cols * lanes, Col: lanes}
	p.e.kernels.Act(to, src, rows, cols, a)
	p.round(to, rows, cols)
	return to, &identity
}

// forwardPool appends a 2×2 maximum of an activation.
func (p *program) forwardPool(o *op) {
	in, out := p.tensors[o.parts[0].t], p.tensors[o.out]
	st := &p.norms[o.norm.position]
	const rows = 4
	s := newStrips(p.n, out.h, out.w, rows, maxCols)
	write := p.writer(o, s.count)
	const size = rows * maxCols * lanes
	p.need(size + 4*size)
	k := p.e.kernels
	p.add("forward", o, s.count, []*buffer{in.value, out.value}, func(w, i int) {
		n, y0, x0, rows, cols := s.at(i)
		px := kernel.Block{Data: p.scratch[w], Row: cols * lanes, Col: lanes}
		for b := range out.blocks {
			src, a := p.pooled(p.scratch[w][size:], in, n, b, 2*y0, 2*x0, 2*rows, 2*cols, &st.params[b])
			k.Pool(px, src, rows, cols, a)
			write(i, n, b, y0, x0, rows, cols, px)
		}
	})
}

// backwardPool appends the gradient of a 2×2 maximum with respect to its
// activation, masked by the ReLU, into d.
func (p *program) backwardPool(o *op, d *buffer) {
	in, out := p.tensors[o.parts[0].t], p.tensors[o.out]
	st := &p.norms[o.norm.position]
	const rows = 4
	s := newStrips(p.n, out.h, out.w, rows, maxCols/2)
	mask := p.masker(o.norm, 0, s.count, d)
	const size = 2 * rows * maxCols * lanes
	p.need(2 * size)
	k := p.e.kernels
	p.add("data gradient", o, s.count, []*buffer{in.value, out.grad, d}, func(w, i int) {
		n, y0, x0, rows, cols := s.at(i)
		px := kernel.Block{Data: p.scratch[w], Row: 2 * cols * lanes, Col: lanes}
		for b := range out.blocks {
			src, a := p.pooled(p.scratch[w][size:], in, n, b, 2*y0, 2*x0, 2*rows, 2*cols, &st.params[b])
			g := kernel.Block{Data: out.plane(out.grad.data, n, b)[(y0*out.w+x0)*lanes:], Row: out.w * lanes, Col: lanes}
			k.Unpool(px, g, src, rows, cols, a)
			mask(i, n, b, 2*y0, 2*x0, 2*rows, 2*cols, px)
		}
	})
}
