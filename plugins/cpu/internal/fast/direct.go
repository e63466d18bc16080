package fast

import (
	"github.com/refocus-em/refocus/harness/half"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// Convolutions other than 3×3 of stride 1 are matrix products on staged rows of
// pixels: all channels of a pixel are adjacent, so that a row of the kernel is
// one product of depth kernel×channels.

// directBudget is how many bytes of staged rows a task may hold.
const directBudget = 256 << 10

// maxCols is how many output pixels of a row a task takes.
const maxCols = 64

// strips divides n images of h×w into rectangles of rows×cols.
type strips struct {
	h, w, rows, cols, perCol, perImage, count int
}

func newStrips(n, h, w, rows, cols int) strips {
	s := strips{h: h, w: w, rows: min(max(rows, 1), h), cols: min(cols, w)}
	s.perCol = (h + s.rows - 1) / s.rows
	s.perImage = s.perCol * ((w + s.cols - 1) / s.cols)
	s.count = n * s.perImage
	return s
}

func (s *strips) at(i int) (n, y, x, rows, cols int) {
	n, i = i/s.perImage, i%s.perImage
	y, x = i%s.perCol*s.rows, i/s.perCol*s.cols
	return n, y, x, min(s.rows, s.h-y), min(s.cols, s.w-x)
}

// stageRows stages rows×cols pixels from (y0, x0) on with all channels of a
// pixel adjacent.
func (p *program) stageRows(dst []float32, in []reader, n, y0, x0, rows, cols int) {
	depth := len(in) * lanes
	for b := range in {
		plane, a := p.source(&in[b], n)
		p.fill(kernel.Block{Data: dst[b*lanes:], Row: cols * depth, Col: depth}, plane, in[b].s.h, in[b].s.w, y0, x0, rows, cols, a)
	}
}

// stageImage is stageRows for the image, which has no padding of its channels.
func (p *program) stageImage(dst []float32, n, y0, x0, rows, cols int) {
	c := p.e.net.inputs
	if c == 1 && !p.mixed {
		xa, xb := max(0, -x0), min(cols, p.w-x0)
		for i := range rows {
			to := dst[i*cols : (i+1)*cols]
			y := y0 + i
			if y < 0 || y >= p.h || xa >= xb {
				clear(to)
				continue
			}
			clear(to[:xa])
			copy(to[xa:xb], p.images[(n*p.h+y)*p.w+x0+xa:])
			clear(to[xb:])
		}
		return
	}
	for i := range rows {
		for j := range cols {
			for k := range c {
				v := float32(0)
				if y, x := y0+i, x0+j; y >= 0 && y < p.h && x >= 0 && x < p.w {
					v = p.images[((n*c+k)*p.h+y)*p.w+x]
				}
				if p.mixed {
					v = half.Round(v)
				}
				dst[(i*cols+j)*c+k] = v
			}
		}
	}
}

// stageInput stages what a convolution reads.
func (p *program) stageInput(o *op, in []reader, dst []float32, n, y0, x0, rows, cols int) {
	if o.image {
		p.stageImage(dst, n, y0, x0, rows, cols)
	} else {
		p.stageRows(dst, in, n, y0, x0, rows, cols)
	}
}

// inputs lists the blocks that a convolution reads and the buffers they are in.
func (p *program) inputs(o *op) (in []reader, uses []*buffer) {
	if o.image {
		return nil, nil
	}
	for _, pt := range o.parts {
		uses = append(uses, p.tensors[pt.t].value)
	}
	return p.readers(o), uses
}

// forwardDirect appends the forward pass of a convolution.
func (p *program) forwardDirect(o *op) {
	out, k := p.tensors[o.out], p.e.kernels
	in, uses := p.inputs(o)
	depth, kk, s := o.depth(), o.kernel, o.stride
	cols := min(maxCols, out.w)
	inCols := (cols-1)*s + kk
	rows := directBudget / 4 / (inCols * depth * s)
	st := newStrips(p.n, out.h, out.w, min(rows, 16), cols)
	pan := panels(0, out.blocks, 0, false)
	weights := p.weights(o.weight)
	size := kk * kk * depth // per lane
	u := p.buffer(len(pan) * size * 16)
	p.add("forward", o, len(pan), []*buffer{u}, func(_, i int) {
		for half := range pan[i].width / lanes {
			// [c][tap][8] to [tap][c][16]
			k.Copy(kernel.Block{Data: u.data[i*size*16+half*lanes:], Row: depth * pan[i].width, Col: pan[i].width},
				kernel.Block{Data: weights[(pan[i].first+half)*size*lanes:], Row: lanes, Col: kk * kk * lanes}, kk*kk, depth)
		}
	})
	inRows := (st.rows-1)*s + kk
	stage, px := inRows*inCols*depth, st.rows*cols*16
	p.need(stage + px + 64)
	uses = append(uses, u, out.value)
	if o.residual != nil {
		uses = append(uses, p.tensors[o.residual].value)
	}
	write, plain := p.writer(o, st.count), p.plain(o)
	p.add("forward", o, st.count, uses, func(w, i int) {
		scratch := p.scratch[w]
		x, y := cut(&scratch, stage), cut(&scratch, px)
		n, y0, x0, rows, cols := st.at(i)
		inCols := (cols-1)*s + kk
		p.stageInput(o, in, x, n, y0*s-o.pad, x0*s-o.pad, (rows-1)*s+kk, inCols)
		for j, pn := range pan {
			conv := k.Conv(pn.width)
			to, row := y, cols*pn.width
			place := plain && pn.width == lanes
			if place {
				b := out.at(out.value, n, pn.first, y0, x0)
				to, row = b.Data, b.Row
			}
			for r := range rows {
				conv(to[r*row:], pn.width, x[r*s*inCols*depth:], s*depth, 1, inCols*depth, u.data[j*size*16:], pn.width, kk*depth*pn.width, cols, kk*depth, kk, false)
			}
			if place {
				continue
			}
			for half := range pn.width / lanes {
				write(i, n, pn.first+half, y0, x0, rows, cols, kernel.Block{Data: y[half*lanes:], Row: cols * pn.width, Col: pn.width})
			}
		}
	})
}

// backwardDirect appends the gradient with respect to an activation that the
// convolutions ops read, all of one stride, masked by the ReLU of m.
func (p *program) backwardDirect(ops []*op, m *norm, d *buffer) {
	k := p.e.kernels
	in := p.tensors[ops[0].parts[0].t]
	s := ops[0].stride
	cols := min(maxCols, in.w)
	type source struct {
		o              *op
		readers        []reader
		depth, kk      int
		u              *buffer
		stage, offset  int // floats of staged rows, and where
		halo, inCols   int // columns on each side
		weights        []float32
		size, inBlocks int
	}
	var sources []*source
	pan := panels(0, in.blocks, 0, false)
	uses := []*buffer{d, in.value}
	perRow := 0
	for _, o := range ops {
		out := p.tensors[o.out]
		c := &source{o: o, readers: p.gradReaders(out), depth: out.blocks * lanes, kk: o.kernel, halo: (o.kernel - 1) / s}
		c.inCols = cols/s + 2*c.halo + 1
		c.size = c.kk * c.kk * c.depth
		c.u = p.buffer(len(pan) * c.size * 16)
		c.weights = p.weights(o.weight)
		c.inBlocks = o.inBlocks
		perRow += c.inCols * c.depth
		sources = append(sources, c)
		uses = append(uses, c.u, out.grad)
		p.add("data gradient", ops[len(ops)-1], len(pan), []*buffer{c.u}, func(_, i int) {
			// [k/8][c][tap][k%8] to [tap reversed][k][c]
			taps := c.kk * c.kk
			for half := range pan[i].width / lanes {
				for b := range c.depth / lanes {
					k.Transpose8(c.u.data[i*c.size*16+b*lanes*pan[i].width+half*lanes:], pan[i].width, c.depth*pan[i].width,
						c.weights[(b*c.inBlocks+pan[i].first+half)*lanes*taps*lanes:], taps*lanes, lanes, taps)
				}
			}
		})
	}
	rows := min(max(directBudget/4/perRow, 1)*s, 16)
	st := newStrips(p.n, in.h, in.w, max(rows/s*s, s), cols)
	offset := 0
	for _, c := range sources {
		c.offset = offset
		c.stage = (st.rows/s + c.kk) * c.inCols * c.depth
		offset += (c.stage + 15) / 16 * 16
	}
	px := st.rows * cols * 16
	p.need(offset + px + 64)
	mask := p.masker(m, 0, st.count, d)
	p.add("data gradient", ops[len(ops)-1], st.count, uses, func(w, i int) {
		scratch := p.scratch[w]
		x, y := cut(&scratch, offset), cut(&scratch, px)
		n, y0, x0, rows, cols := st.at(i)
		for _, c := range sources {
			// The rows of the output that reach rows y0… of the input.
			first := floorDiv(y0+c.o.pad-(c.kk-1), s)
			p.stageRows(x[c.offset:], c.readers, n, first, x0/s-c.halo, floorDiv(y0+rows-1+c.o.pad, s)-first+1, cols/s+2*c.halo+1)
		}
		for j, pn := range pan {
			gemm := k.Gemm(pn.width)
			clear(y[:rows*cols*pn.width])
			for _, c := range sources {
				inCols := cols/s + 2*c.halo + 1
				first := floorDiv(y0+c.o.pad-(c.kk-1), s)
				if s == 1 {
					conv := k.Conv(pn.width)
					for r := range rows {
						conv(y[r*cols*pn.width:], pn.width, x[c.offset+(r*inCols+c.o.pad)*c.depth:], c.depth, 1, inCols*c.depth,
							c.u.data[j*c.size*16:], pn.width, c.kk*c.depth*pn.width, cols, c.kk*c.depth, c.kk, true)
					}
					continue
				}
				for r := range rows {
					for dy := range c.kk {
						oy := y0 + r + c.o.pad - dy
						if oy%s != 0 {
							continue
						}
						oy = oy/s - first
						// Every s-th pixel of the row sees the same taps.
						for phase := range s {
							for dx := range c.kk {
								ox := phase + c.o.pad - dx
								if ox%s != 0 {
									continue
								}
								ox = ox/s + c.halo
								tap := c.kk*c.kk - 1 - (dy*c.kk + dx)
								gemm(y[(r*cols+phase)*pn.width:], s*pn.width, x[c.offset+(oy*inCols+ox)*c.depth:], c.depth, 1,
									c.u.data[j*c.size*16+tap*c.depth*pn.width:], pn.width, cols/s, c.depth, true)
							}
						}
					}
				}
			}
			for half := range pn.width / lanes {
				mask(i, n, pn.first+half, y0, x0, rows, cols, kernel.Block{Data: y[half*lanes:], Row: cols * pn.width, Col: pn.width})
			}
		}
	})
}

// floorDiv rounds towards −∞.
func floorDiv(a, b int) int {
	if a < 0 {
		return -((-a + b - 1) / b)
	}
	return a / b
}

// partialBudget is how many floats the weights may have whose gradient every
// task sums up on its own.
const partialBudget = 8 << 10

// weightDirect appends the gradient of a convolution's weights: products over
// pixels. Where the weights are few, each task takes a rectangle of an image and
// its sums are added up in order; where they are many, tasks are ranges of the
// weights, over all pixels of the batch.
func (p *program) weightDirect(o *op) {
	if o.taps()*o.depth()*blocks(o.outChannels)*lanes <= partialBudget {
		p.weightByPixels(o)
	} else {
		p.weightByRanges(o)
	}
}

func (p *program) weightByPixels(o *op) {
	out, k := p.tensors[o.out], p.e.kernels
	in, uses := p.inputs(o)
	depth, kk, s := o.depth(), o.kernel, o.stride
	pan := panels(0, out.blocks, 0, false)
	const rows = 16
	st := newStrips(p.n, out.h, out.w, rows, maxCols)
	// Sums lie as [panel][dy][dx][c][8 or 16].
	row := kk * depth
	size := kk * row * out.blocks * lanes
	part := p.newPartial(st.count, size)
	inRows, inCols := (st.rows-1)*s+kk, (st.cols-1)*s+kk
	stage, pairs := inRows*inCols*depth, st.rows*st.cols*2*lanes
	p.need(stage + pairs + 64)
	uses = append(uses, out.grad)
	p.addPartial(o, part, uses, func(w, i int, sum []float32, more bool) {
		scratch := p.scratch[w]
		x, pair := cut(&scratch, stage), cut(&scratch, pairs)
		n, y0, x0, rows, cols := st.at(i)
		inCols := (cols-1)*s + kk
		p.stageInput(o, in, x, n, y0*s-o.pad, x0*s-o.pad, (rows-1)*s+kk, inCols)
		for _, pn := range pan {
			g := out.at(out.grad, n, pn.first, y0, x0)
			if pn.width == 16 {
				g = kernel.Block{Data: pair, Row: cols * 16, Col: 16}
				for half := range 2 {
					k.Copy(kernel.Block{Data: pair[half*lanes:], Row: g.Row, Col: g.Col}, out.at(out.grad, n, pn.first+half, y0, x0), rows, cols)
				}
			}
			for dy := range kk {
				k.Conv(pn.width)(sum, pn.width, x[dy*inCols*depth:], 1, s*depth, s*inCols*depth, g.Data, g.Col, g.Row, row, cols, rows, more)
				sum = sum[row*pn.width:]
			}
		}
	})
	dw := p.e.slice(p.e.grads, o.weight)
	p.add("weight gradient", o, 1, []*buffer{part.total}, func(_, _ int) {
		sum := part.total.data
		for _, pn := range pan {
			for dy := range kk {
				p.unpackRow(o, dw, sum, pn, dy)
				sum = sum[row*pn.width:]
			}
		}
	})
}

// maxPartials bounds how many sums of tasks there are, and with it the memory
// they take where images are large.
const maxPartials = 256

// partial holds sums over rectangles: of a few rectangles each, and their total.
type partial struct {
	each, total            *buffer
	size                   int // floats of a sum
	rectangles, per, tasks int
}

func (p *program) newPartial(rectangles, size int) partial {
	per := (rectangles + maxPartials - 1) / maxPartials
	tasks := (rectangles + per - 1) / per
	return partial{p.buffer(tasks * size), p.buffer(size), size, rectangles, per, tasks}
}

// addPartial appends the sums that f makes of a rectangle, or adds to where there
// are more than one for a task, and their total, in order.
func (p *program) addPartial(o *op, s partial, uses []*buffer, f func(worker, rectangle int, sum []float32, more bool)) {
	p.add("weight gradient", o, s.tasks, append(uses, s.each), func(w, i int) {
		for r := i * s.per; r < min((i+1)*s.per, s.rectangles); r++ {
			f(w, r, s.each.data[i*s.size:], r > i*s.per)
		}
	})
	const perTask = 1 << 10
	one := []float32{1}
	p.add("weight gradient", o, (s.size+perTask-1)/perTask, []*buffer{s.each, s.total}, func(_, i int) {
		for j := i * perTask; j < min((i+1)*perTask, s.size); j += lanes {
			p.e.kernels.Gemm8(s.total.data[j:], lanes, one, 0, 0, s.each.data[j:], s.size, 1, s.tasks, false)
		}
	})
}

// unpackRow takes the gradients of a row of the kernel from [dx][c][8 or 16] to
// [c][dy][dx][8].
func (p *program) unpackRow(o *op, dw, sum []float32, pn panel, dy int) {
	kk, depth := o.kernel, o.depth()
	for half := range pn.width / lanes {
		p.e.kernels.Copy(kernel.Block{Data: dw[(pn.first+half)*kk*kk*depth*lanes+dy*kk*lanes:], Row: lanes, Col: kk * kk * lanes},
			kernel.Block{Data: sum[half*lanes:], Row: depth * pn.width, Col: pn.width}, kk, depth)
	}
}

func (p *program) weightByRanges(o *op) {
	out, k := p.tensors[o.out], p.e.kernels
	in, uses := p.inputs(o)
	grads := p.gradReaders(out)
	depth, kk, s := o.depth(), o.kernel, o.stride
	pan := panels(0, out.blocks, 0, false)
	inRows, inCols := (out.h-1)*s+kk, (out.w-1)*s+kk
	perImage := inRows*inCols*depth + out.h*out.w*len(pan)*16
	chunk := min(max(1, gradientBudget/4/perImage), p.n) // images
	x := p.buffer(chunk * inRows * inCols * depth)
	y := p.buffer(chunk * out.h * out.w * len(pan) * 16)
	row := kk * depth * 16 // products of one row of the kernel
	sum := p.buffer(len(pan) * kk * row)
	uses = append(uses, x, y, sum, out.grad)
	dw := p.e.slice(p.e.grads, o.weight)
	for first := 0; first < p.n; first += chunk {
		images := min(chunk, p.n-first)
		const rowsPerTask = 8
		tasks := (out.h + rowsPerTask - 1) / rowsPerTask
		p.add("weight gradient", o, images*tasks, uses, func(_, i int) {
			n, y0 := i/tasks, i%tasks*rowsPerTask
			rows := min(rowsPerTask, out.h-y0)
			// Each task stages the input rows from its first output row to that
			// of the next task.
			inY, inN := y0*s, rows*s
			if y0+rows == out.h {
				inN = inRows - inY
			}
			p.stageInput(o, in, x.data[(n*inRows+inY)*inCols*depth:], first+n, inY-o.pad, -o.pad, inN, inCols)
			for b := range grads {
				plane, _ := p.source(&grads[b], first+n)
				dst := y.data[((b/2*chunk+n)*out.h+y0)*out.w*16+b%2*lanes:]
				p.fill(kernel.Block{Data: dst, Row: out.w * 16, Col: 16}, plane, out.h, out.w, y0, 0, rows, out.w, nil)
			}
		})
		p.add("weight gradient", o, len(pan)*kk, uses, func(_, i int) {
			pn, dy := pan[i/kk], i%kk
			conv := k.Conv(pn.width)
			acc := sum.data[i*row:]
			for n := range images {
				conv(acc, pn.width, x.data[(n*inRows+dy)*inCols*depth:], 1, s*depth, s*inCols*depth,
					y.data[(i/kk*chunk+n)*out.h*out.w*16:], 16, out.w*16, kk*depth, out.w, out.h, first > 0 || n > 0)
			}
			if first+images < p.n {
				return
			}
			p.unpackRow(o, dw, acc, pn, dy)
		})
	}
}
