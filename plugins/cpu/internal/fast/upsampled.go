package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// A 3×3 convolution of an upsampled tensor of few channels is computed at the
// tensor's own resolution. Along one axis, output 2y sees pixel y−1 through tap
// 0 and pixel y through taps 1 and 2; output 2y+1 sees y through taps 0 and 1
// and y+1 through tap 2. Seen from pixel y, the outputs 2y−1 … 2y+2 see it
// through sums of taps: a 4×4 kernel of stride 2, of which each output takes
// 2×2, depending on its phase.

// spread lists the taps through which output 2y−1+i sees pixel y.
var spread = [4][]int{{2}, {1, 2}, {0, 1}, {0}}

// upsampled reports whether the convolution is computed this way.
func (o *op) upsampled() bool {
	return o.kernel == 3 && len(o.parts) == 1 && o.parts[0].up && o.inBlocks <= 2 && o.outChannels <= lanes
}

// spreadTap is element (i, j) of the 4×4 kernel of input channel c; weights are
// [c][dy][dx][8].
func spreadTap(weights []float32, i, j, c int) (sum [lanes]float32) {
	for _, dy := range spread[i] {
		for _, dx := range spread[j] {
			for l, w := range weights[(c*9+dy*3+dx)*lanes:][:lanes] {
				sum[l] += w
			}
		}
	}
	return sum
}

// sourceStrips divides the tensor that is upsampled into the rectangles of
// tasks.
func (p *program) sourceStrips(s *stored) strips {
	const rows, cols = 4, maxCols / 2
	return newStrips(p.n, s.h, s.w, rows, cols)
}

// forwardUpsampled appends the forward pass.
func (p *program) forwardUpsampled(o *op) {
	out, k := p.tensors[o.out], p.e.kernels
	in, uses := p.inputs(o)
	depth := o.depth()
	weights := p.weights(o.weight)
	u := p.buffer(16 * depth * lanes)
	p.add("forward", o, 1, []*buffer{u}, func(_, _ int) {
		// [phase][row][column][c][8]
		to := u.data
		for phase := range 4 {
			for at := range 4 {
				for c := range depth {
					t := spreadTap(weights, 3-phase/2-2*(at/2), 3-phase%2-2*(at%2), c)
					to = to[copy(to, t[:]):]
				}
			}
		}
	})
	st := p.sourceStrips(p.tensors[o.parts[0].t])
	stage, px := (st.rows+2)*(st.cols+2)*depth, 4*st.rows*st.cols*lanes
	p.need(stage + px + 64)
	write, plain := p.writer(o, st.count), p.plain(o)
	p.add("forward", o, st.count, append(uses, u, out.value), func(w, i int) {
		scratch := p.scratch[w]
		x, y := cut(&scratch, stage), cut(&scratch, px)
		n, y0, x0, rows, cols := st.at(i)
		inCols := cols + 2
		p.stageRows(x, in, n, y0-1, x0-1, rows+2, inCols)
		to := kernel.Block{Data: y, Row: 2 * cols * lanes, Col: lanes}
		if plain {
			to = out.at(out.value, n, 0, 2*y0, 2*x0)
		}
		for r := range 2 * rows {
			for c := range 2 {
				k.Conv8(to.Data[r*to.Row+c*lanes:], 2*lanes, x[((r/2+r%2)*inCols+c)*depth:], depth, 1, inCols*depth,
					u.data[(r%2*2+c)*4*depth*lanes:], lanes, 2*depth*lanes, cols, 2*depth, 2, false)
			}
		}
		if !plain {
			write(i, n, 0, 2*y0, 2*x0, 2*rows, 2*cols, to)
		}
	})
}

// stageSpread stages the gradient of the outputs that see rows×cols pixels from
// (y0, x0) on.
func (p *program) stageSpread(dst []float32, grads []reader, n, y0, x0, rows, cols int) {
	p.stageRows(dst, grads, n, 2*y0-1, 2*x0-1, 2*rows+2, 2*cols+2)
}

// backwardUpsampled appends the gradient with respect to the tensor's
// activation, masked by its ReLU, into d.
func (p *program) backwardUpsampled(o *op, d *buffer) {
	src, out, k := p.tensors[o.parts[0].t], p.tensors[o.out], p.e.kernels
	grads := p.gradReaders(out)
	weights := p.weights(o.weight)
	width := src.blocks * lanes
	u := p.buffer(16 * lanes * width)
	p.add("data gradient", o, 1, []*buffer{u}, func(_, _ int) {
		// [i][j][k][c]
		for at := range 16 {
			for c := range width {
				for l, t := range spreadTap(weights, at/4, at%4, c) {
					u.data[(at*lanes+l)*width+c] = t
				}
			}
		}
	})
	st := p.sourceStrips(src)
	stage, px := (2*st.rows+2)*(2*st.cols+2)*lanes, st.rows*st.cols*width
	p.need(stage + px + 64)
	mask := p.masker(o.norm, 0, st.count, d)
	p.add("data gradient", o, st.count, []*buffer{u, out.grad, src.value, d}, func(w, i int) {
		scratch := p.scratch[w]
		g, y := cut(&scratch, stage), cut(&scratch, px)
		n, y0, x0, rows, cols := st.at(i)
		p.stageSpread(g, grads, n, y0, x0, rows, cols)
		row := (2*cols + 2) * lanes
		for r := range rows {
			k.Conv(width)(y[r*cols*width:], width, g[2*r*row:], 2*lanes, 1, row, u.data, width, 4*lanes*width, cols, 4*lanes, 4, false)
		}
		for b := range src.blocks {
			mask(i, n, b, y0, x0, rows, cols, kernel.Block{Data: y[b*lanes:], Row: cols * width, Col: width})
		}
	})
}

// weightUpsampled appends the gradient of the weights: that of the 4×4 kernel,
// of which each tap sums four elements.
func (p *program) weightUpsampled(o *op) {
	src, out, k := p.tensors[o.parts[0].t], p.tensors[o.out], p.e.kernels
	in, uses := p.inputs(o)
	grads := p.gradReaders(out)
	depth := o.depth()
	st := p.sourceStrips(src)
	size := 16 * depth * lanes
	sum := p.newPartial(st.count, size)
	stage, gStage := st.rows*st.cols*depth, (2*st.rows+2)*(2*st.cols+2)*lanes
	p.need(stage + gStage + 64)
	p.addPartial(o, sum, append(uses, out.grad), func(w, i int, to []float32, more bool) {
		scratch := p.scratch[w]
		x, g := cut(&scratch, stage), cut(&scratch, gStage)
		n, y0, x0, rows, cols := st.at(i)
		p.stageRows(x, in, n, y0, x0, rows, cols)
		p.stageSpread(g, grads, n, y0, x0, rows, cols)
		row := (2*cols + 2) * lanes
		for at := range 16 {
			k.Conv8(to[at*depth*lanes:], lanes, x, 1, depth, cols*depth,
				g[at/4*row+at%4*lanes:], 2*lanes, 2*row, depth, cols, rows, more)
		}
	})
	dw := p.e.slice(p.e.grads, o.weight)
	p.add("weight gradient", o, 1, []*buffer{sum.total}, func(_, _ int) {
		clear(dw)
		for i, rows := range spread {
			for j, cols := range spread {
				for _, dy := range rows {
					for _, dx := range cols {
						for c := range depth {
							to := dw[(c*9+dy*3+dx)*lanes:][:lanes]
							for l, v := range sum.total.data[((i*4+j)*depth+c)*lanes:][:lanes] {
								to[l] += v
							}
						}
					}
				}
			}
		}
	})
}
