package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// forwardPool appends a 2×2 maximum of an activation.
func (p *program) forwardPool(o *op) {
	in, out := p.tensors[o.parts[0].t], p.tensors[o.out]
	st := &p.norms[o.norm.position]
	const rows = 4
	s := newStrips(p.n, out.h, out.w, rows, maxCols)
	write := p.writer(o, s.count)
	p.need(rows*maxCols*lanes + 64)
	k := p.e.kernels
	p.add("forward", o, s.count, []*buffer{in.value, out.value}, func(w, i int) {
		n, y0, x0, rows, cols := s.at(i)
		px := kernel.Block{Data: p.scratch[w], Row: cols * lanes, Col: lanes}
		for b := range out.blocks {
			src := kernel.Block{Data: in.plane(in.value.data, n, b)[(2*y0*in.w+2*x0)*lanes:], Row: in.w * lanes, Col: lanes}
			k.Pool(px, src, rows, cols, &st.params[b])
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
	p.need(2*rows*maxCols*lanes + 64)
	k := p.e.kernels
	p.add("data gradient", o, s.count, []*buffer{in.value, out.grad, d}, func(w, i int) {
		n, y0, x0, rows, cols := s.at(i)
		px := kernel.Block{Data: p.scratch[w], Row: 2 * cols * lanes, Col: lanes}
		for b := range out.blocks {
			src := kernel.Block{Data: in.plane(in.value.data, n, b)[(2*y0*in.w+2*x0)*lanes:], Row: in.w * lanes, Col: lanes}
			g := kernel.Block{Data: out.plane(out.grad.data, n, b)[(y0*out.w+x0)*lanes:], Row: out.w * lanes, Col: lanes}
			k.Unpool(px, g, src, rows, cols, &st.params[b])
			mask(i, n, b, 2*y0, 2*x0, 2*rows, 2*cols, px)
		}
	})
}
