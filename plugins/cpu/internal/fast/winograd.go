package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// dead reports whether a point of an n×n transform is at −1 in either
// direction, where upsampled signals vanish.
func dead(point, n int) bool { return point/n == 2 || point%n == 2 }

// grid divides images into tiles of m×m outputs, and these into segments of
// rows×cols tiles, which are staged at once and are the units of statistics.
// It depends on the problem only.
type grid struct {
	m, th, tw          int // tile size, tiles per image
	rows, cols         int
	segRows, segCols   int
	segments           int // of the batch
	perGroup, groups   int // segments per group, groups of the batch
	groupTiles, pixels int // tiles of a full group, staged pixels of a segment
}

// maxTiles bounds a segment's width, maxRows its height, so that its staged
// pixels stay in the first-level cache.
const maxTiles, maxRows = 16, 8

// newGrid makes groups of about tiles tiles.
func newGrid(n, h, w, m, tiles int) grid {
	g := grid{m: m, th: (h + m - 1) / m, tw: (w + m - 1) / m}
	g.segCols = (g.tw + maxTiles - 1) / maxTiles
	g.cols = (g.tw + g.segCols - 1) / g.segCols
	g.rows = min(max(tiles/g.cols, 1), g.th, maxRows)
	g.segRows = (g.th + g.rows - 1) / g.rows
	g.rows = (g.th + g.segRows - 1) / g.segRows
	g.segments = n * g.segRows * g.segCols
	g.perGroup = max(1, tiles/(g.rows*g.cols))
	g.groups = (g.segments + g.perGroup - 1) / g.perGroup
	g.groupTiles = g.perGroup * g.rows * g.cols
	g.pixels = (g.m*g.rows + 2) * (g.m*g.cols + 2)
	return g
}

// segment is a rectangle of tiles of image n.
type segment struct{ index, n, ty, tx, rows, cols int }

func (g *grid) segment(i int) segment {
	per := g.segRows * g.segCols
	s := segment{index: i, n: i / per}
	s.ty, s.tx = i%per/g.segCols*g.rows, i%g.segCols*g.cols
	s.rows, s.cols = min(g.rows, g.th-s.ty), min(g.cols, g.tw-s.tx)
	return s
}

// fill stages rows×cols pixels of a plane of h×w from (y0, x0) on, with zeros
// outside, through the activation a if there is one. The pixels of a row of dst
// are dst.Col apart.
func (p *program) fill(dst kernel.Block, plane []float32, h, w, y0, x0, rows, cols int, a *kernel.Params) {
	ya, yb := max(0, -y0), min(rows, h-y0)
	xa, xb := max(0, -x0), min(cols, w-x0)
	zero := func(r, c, n int) {
		for i := range n {
			o := r*dst.Row + (c+i)*dst.Col
			clear(dst.Data[o : o+lanes])
		}
	}
	if ya >= yb || xa >= xb {
		ya, yb, xa, xb = rows, rows, cols, cols
	}
	for r := range rows {
		if r < ya || r >= yb {
			zero(r, 0, cols)
			continue
		}
		zero(r, 0, xa)
		zero(r, xb, cols-xb)
	}
	if ya >= yb {
		return
	}
	to := kernel.Block{Data: dst.Data[ya*dst.Row+xa*dst.Col:], Row: dst.Row, Col: dst.Col}
	from := kernel.Block{Data: plane[((y0+ya)*w+x0+xa)*lanes:], Row: w * lanes, Col: lanes}
	if a == nil {
		p.e.kernels.Copy(to, from, yb-ya, xb-xa)
	} else {
		p.e.kernels.Act(to, from, yb-ya, xb-xa, a)
		p.round(to, yb-ya, xb-xa)
	}
}

// reader gives the blocks of an activation or gradient.
type reader struct {
	s     *stored
	data  *buffer
	block int // of the tensor
	up    bool
	norm  *norm
	at    int // block of the norm
}

// readers lists the blocks that a convolution reads.
func (p *program) readers(o *op) []reader {
	var rs []reader
	for _, pt := range o.parts {
		s := p.tensors[pt.t]
		for b := range s.blocks {
			rs = append(rs, reader{s: s, data: s.value, block: b, up: pt.up, norm: o.norm, at: pt.first + b})
		}
	}
	return rs
}

// gradReaders lists the blocks of the gradient of a tensor.
func (p *program) gradReaders(s *stored) []reader {
	var rs []reader
	for b := range s.blocks {
		rs = append(rs, reader{s: s, data: s.grad, block: b})
	}
	return rs
}

func (p *program) source(r *reader, n int) ([]float32, *kernel.Params) {
	var a *kernel.Params
	if r.norm != nil {
		a = &p.norms[r.norm.position].params[r.at]
	}
	return r.s.plane(r.data.data, n, r.block), a
}

// transformInput takes a segment of one block to points: point ξ of tile t is at
// dst[ξ*point + t*tile].
func (p *program) transformInput(g *grid, r *reader, s segment, stage, dst []float32, point, tile int) {
	plane, a := p.source(r, s.n)
	k := p.e.kernels
	m := g.m
	h, w := r.s.h, r.s.w
	y0, x0, rows, cols, step := m*s.ty-1, m*s.tx-1, m*s.rows+2, m*s.cols+2, m
	f := k.Input2
	if m == 4 {
		f = k.Input4
	}
	if r.up {
		step = m / 2
		y0, x0, rows, cols = step*s.ty-1, step*s.tx-1, step*s.rows+2, step*s.cols+2
		f = k.InputUp2
		if m == 4 {
			f = k.InputUp4
		}
	}
	row := cols * lanes
	p.fill(kernel.Block{Data: stage, Row: row, Col: lanes}, plane, h, w, y0, x0, rows, cols, a)
	for i := range s.rows {
		f(dst[i*s.cols*tile:], point, tile, stage[i*step*row:], row, step*lanes, s.cols)
	}
}

// panel is a range of output blocks computed together.
type panel struct {
	first, width int // block; 8 or 16 channels
	down         bool
	part         int
}

// panels divides blocks into pairs.
func panels(first, n, part int, down bool) []panel {
	var ps []panel
	for b := 0; b < n; b += 2 {
		ps = append(ps, panel{first + b, min(2, n-b) * lanes, down, part})
	}
	return ps
}

// contraction is a 3×3 convolution of stride 1 as F(2,3): forward, or the
// gradient with respect to the input.
type contraction struct {
	name    string
	op      *op
	h, w    int
	in      []reader
	uses    []*buffer
	up      int // leading blocks of in that are upsampled
	panels  []panel
	pack    func(scratch, dst []float32, pn panel, row int, from, to int)
	scratch int // floats for pack
	finish  func(s segment, pn panel, block int, px kernel.Block)
	// place, if set, gives the memory where finish would only copy a segment to.
	place func(s segment, block int) (kernel.Block, bool)
}

// Sizes in bytes that choose between the two orders of loops: they do not
// change a bit.
const (
	tileBudget   = 400 << 10 // transformed tiles of a group, within the second-level cache
	weightBudget = 4 << 20   // transformed weights that stay in the third-level cache
	inputBudget  = 20 << 20  // transformed input of a whole layer
)

func gridFor(n, h, w, m, depth int) grid {
	return newGrid(n, h, w, m, min(max(tileBudget/(4*(m+2)*(m+2)*depth), 8), 48))
}

// contract appends a contraction's phases. The sums over input channels are
// matrix products, one per point of the transform. Either groups of tiles are
// the tasks, each reading all transformed weights; or, where images are small
// and weights are many, panels of output channels are, each transforming its
// weights in its own cache and reading the transformed tiles of the batch.
func (p *program) contract(c contraction) {
	const points = 16
	k := p.e.kernels
	depth := len(c.in) * lanes
	g := gridFor(p.n, c.h, c.w, 2, depth)
	row := depth + 16 // apart from powers of two, which share cache sets
	group := points * g.groupTiles * row
	mPoint := g.groupTiles*16 + 16
	outputs := 0
	for _, pn := range c.panels {
		outputs += pn.width
	}
	byPanel := 4*points*depth*outputs > weightBudget && 4*group*g.groups <= inputBudget || g.groups < 8 && len(c.panels) > g.groups

	transform := func(stage, v []float32, gi, from, to int) {
		for b := from; b < to; b++ {
			t := 0
			for i := gi * g.perGroup; i < min((gi+1)*g.perGroup, g.segments); i++ {
				s := g.segment(i)
				p.transformInput(&g, &c.in[b], s, stage, v[t*row+b*lanes:], g.groupTiles*row, row)
				t += s.rows * s.cols
			}
		}
	}
	multiply := func(v, u, m, px []float32, gi int, pn panel) {
		first, last := gi*g.perGroup, min((gi+1)*g.perGroup, g.segments)
		tiles := 0
		for i := first; i < last; i++ {
			s := g.segment(i)
			tiles += s.rows * s.cols
		}
		gemm := k.Gemm(pn.width)
		for x := range points {
			lo := 0
			if dead(x, 4) {
				if pn.down {
					continue
				}
				lo = c.up * lanes
			}
			gemm(m[x*mPoint:], pn.width, v[x*g.groupTiles*row+lo:], row, 1, u[(x*depth+lo)*pn.width:], pn.width, tiles, depth-lo, false)
		}
		f, step := k.Output2, 2
		if pn.down {
			f, step = k.OutputDown2, 1
		}
		for half := range pn.width / lanes {
			t := 0
			for i := first; i < last; i++ {
				s := g.segment(i)
				out := kernel.Block{Data: px, Row: step * s.cols * lanes, Col: lanes}
				placed := false
				if c.place != nil {
					if to, ok := c.place(s, pn.first+half); ok {
						out, placed = to, true
					}
				}
				for r := range s.rows {
					f(out.Data[r*step*out.Row:], out.Row, step*lanes, m[t*pn.width+half*lanes:], mPoint, pn.width, s.cols)
					t += s.cols
				}
				if !placed {
					c.finish(s, pn, pn.first+half, out)
				}
			}
		}
	}

	const chunk = 8 // blocks of depth per task, where tasks are divided by depth
	stageSize, pxSize, mSize := g.pixels*lanes, 4*g.rows*g.cols*lanes, points*mPoint
	panelSize := points * depth * 16
	if byPanel {
		v := p.buffer(group * g.groups)
		p.need(max(stageSize, panelSize+mSize+pxSize+c.scratch) + 64)
		per := (len(c.in) + chunk - 1) / chunk
		p.add(c.name, c.op, g.groups*per, append([]*buffer{v}, c.uses...), func(w, i int) {
			from := i % per * chunk
			transform(p.scratch[w], v.data[i/per*group:], i/per, from, min(from+chunk, len(c.in)))
		})
		p.add(c.name, c.op, len(c.panels), append([]*buffer{v}, c.uses...), func(w, i int) {
			s := p.scratch[w]
			u, m, px := cut(&s, panelSize), cut(&s, mSize), cut(&s, pxSize)
			pn := c.panels[i]
			c.pack(s, u, pn, depth*pn.width, 0, len(c.in))
			for gi := range g.groups {
				multiply(v.data[gi*group:], u, m, px, gi, pn)
			}
		})
		return
	}
	u := p.buffer(points * depth * outputs)
	chunks := (len(c.in) + chunk - 1) / chunk
	offset := make([]int, len(c.panels))
	for i := 1; i < len(offset); i++ {
		offset[i] = offset[i-1] + points*depth*c.panels[i-1].width
	}
	p.need(max(c.scratch, group+mSize+pxSize+stageSize) + 64)
	p.add(c.name, c.op, len(c.panels)*chunks, []*buffer{u}, func(w, i int) {
		pn, from := c.panels[i/chunks], i%chunks*chunk
		c.pack(p.scratch[w], u.data[offset[i/chunks]:], pn, depth*pn.width, from, min(from+chunk, len(c.in)))
	})
	p.add(c.name, c.op, g.groups, append([]*buffer{u}, c.uses...), func(w, i int) {
		s := p.scratch[w]
		v, m, px, stage := cut(&s, group), cut(&s, mSize), cut(&s, pxSize), cut(&s, stageSize)
		transform(stage, v, i, 0, len(c.in))
		for j, pn := range c.panels {
			multiply(v, u.data[offset[j]:], m, px, i, pn)
		}
	})
}

// forwardWinograd appends the forward pass of a 3×3 convolution of stride 1.
func (p *program) forwardWinograd(o *op) {
	out := p.tensors[o.out]
	c := contraction{name: "forward", op: o, h: out.h, w: out.w, in: p.readers(o), panels: panels(0, out.blocks, 0, false)}
	for _, pt := range o.parts {
		c.uses = append(c.uses, p.tensors[pt.t].value)
		if pt.up {
			c.up = p.tensors[pt.t].blocks
		}
	}
	c.uses = append(c.uses, out.value)
	if o.residual != nil {
		c.uses = append(c.uses, p.tensors[o.residual].value)
	}
	weights, k := p.weights(o.weight), p.e.kernels
	kernelSize := o.depth() * 9 * lanes
	c.pack = func(_, dst []float32, pn panel, row, from, to int) {
		for half := range pn.width / lanes {
			k.Weight2(dst[from*lanes*pn.width+half*lanes:], row, pn.width,
				weights[(pn.first+half)*kernelSize+from*lanes*72:], 24, 72, (to-from)*lanes)
		}
	}
	g := gridFor(p.n, c.h, c.w, 2, len(c.in)*lanes)
	write := p.writer(o, g.segments)
	c.finish = func(s segment, _ panel, block int, px kernel.Block) {
		write(s.index, s.n, block, 2*s.ty, 2*s.tx, 2*s.rows, 2*s.cols, px)
	}
	if p.plain(o) {
		c.place = func(s segment, block int) (kernel.Block, bool) {
			return out.at(out.value, s.n, block, 2*s.ty, 2*s.tx), 2*(s.ty+s.rows) <= out.h && 2*(s.tx+s.cols) <= out.w
		}
	}
	p.contract(c)
}

// plain reports whether a convolution's output is stored as it is computed.
func (p *program) plain(o *op) bool {
	return !(o.out.measured && p.training) && o.residual == nil && !p.mixed
}

// writer returns the function that stores a rectangle of a convolution's output
// and, in training, its statistics.
func (p *program) writer(o *op, units int) func(unit, n, block, y, x, rows, cols int, px kernel.Block) {
	out, k := p.tensors[o.out], p.e.kernels
	var res *stored
	if o.residual != nil {
		res = p.tensors[o.residual]
	}
	var sums []kernel.Sums
	if o.out.measured && p.training || res != nil {
		sums = make([]kernel.Sums, units*out.blocks)
		out.measure = &measure{sums, units}
	}
	return func(unit, n, block, y, x, rows, cols int, px kernel.Block) {
		rows, cols = min(rows, out.h-y), min(cols, out.w-x)
		p.round(px, rows, cols)
		dst := out.at(out.value, n, block, y, x)
		if sums == nil {
			k.Copy(dst, px, rows, cols)
			return
		}
		s := &sums[unit*out.blocks+block]
		*s = kernel.Sums{}
		if res == nil {
			k.Stats(dst, px, rows, cols, s)
			return
		}
		other := res.at(res.value, n, block, y, x)
		if !p.mixed {
			k.AddStats(dst, px, other, rows, cols, s)
			return
		}
		k.AddStats(px, px, other, rows, cols, s)
		p.round(px, rows, cols)
		*s = kernel.Sums{} // those of the rounded sum count
		k.Stats(dst, px, rows, cols, s)
	}
}

// masker returns the function that masks a rectangle of the gradient of an
// activation with its ReLU, sums it for its normalisation and stores it in d,
// unless d is nil.
func (p *program) masker(m *norm, part int, units int, d *buffer) func(unit, n, block, y, x, rows, cols int, px kernel.Block) {
	s, k := p.tensors[m.parts[part].t], p.e.kernels
	first := m.parts[part].first
	st := &p.norms[m.position]
	if st.sums == nil {
		st.sums = make([][]kernel.Sums, len(m.parts))
	}
	sums := make([]kernel.Sums, units*s.blocks)
	st.sums[part] = sums
	return func(unit, n, block, y, x, rows, cols int, px kernel.Block) {
		rows, cols = min(rows, s.h-y), min(cols, s.w-x)
		p.round(px, rows, cols)
		dst := px
		if d != nil {
			dst = s.at(d, n, block, y, x)
		}
		q := &sums[unit*s.blocks+block]
		*q = kernel.Sums{}
		k.Mask(dst, px, s.at(s.value, n, block, y, x), rows, cols, &st.params[first+block], q)
	}
}

// backwardWinograd appends the gradient with respect to the input of a 3×3
// convolution of stride 1, masked by the input's ReLU, into d (one buffer per
// part, nil where nothing needs it).
func (p *program) backwardWinograd(o *op, d []*buffer) {
	out := p.tensors[o.out]
	c := contraction{name: "data gradient", op: o, h: out.h, w: out.w, in: p.gradReaders(out), uses: []*buffer{out.grad}}
	g := gridFor(p.n, c.h, c.w, 2, len(c.in)*lanes)
	masks := make([]func(unit, n, block, y, x, rows, cols int, px kernel.Block), len(o.parts))
	for i, pt := range o.parts {
		s := p.tensors[pt.t]
		c.panels = append(c.panels, panels(pt.first, s.blocks, i, pt.up)...)
		c.uses = append(c.uses, d[i], s.value)
		masks[i] = p.masker(o.norm, i, g.segments, d[i])
	}
	weights, k := p.weights(o.weight), p.e.kernels
	inputs := o.inBlocks
	c.scratch = 8 * 72
	c.pack = func(scratch, dst []float32, pn panel, row, from, to int) {
		for half := range pn.width / lanes {
			for b := from; b < to; b++ {
				k.Transpose8(scratch, 72, 8, weights[(b*inputs+pn.first+half)*lanes*72:], 72, 8, 9)
				k.Weight2(dst[b*lanes*pn.width+half*lanes:], row, pn.width, scratch, 24, 72, lanes)
			}
		}
	}
	c.finish = func(s segment, pn panel, block int, px kernel.Block) {
		step := 2
		if pn.down {
			step = 1
		}
		masks[pn.part](s.index, s.n, block-o.parts[pn.part].first, step*s.ty, step*s.tx, step*s.rows, step*s.cols, px)
	}
	p.contract(c)
}

// gradientBudget is how many bytes of transformed tiles one chunk of a weight
// gradient may take.
const gradientBudget = 3 << 20

// weightWinograd appends the gradient of the weights of a 3×3 convolution of
// stride 1 as F(4,3): per point a product over all tiles of the batch, in
// chunks that stay in the cache.
func (p *program) weightWinograd(o *op) {
	const points, width = 36, 16
	const rangeBlocks = 6 // of input channels per task
	out, k := p.tensors[o.out], p.e.kernels
	in, grads := p.readers(o), p.gradReaders(out)
	depth := len(in) * lanes
	row := depth + 16
	g := newGrid(p.n, out.h, out.w, 4, 16)
	pan := panels(0, out.blocks, 0, false)
	perTile := points * (row + len(pan)*width)
	chunk := max(1, gradientBudget/4/perTile/(g.rows*g.cols)) // segments
	chunks := (g.segments + chunk - 1) / chunk
	chunk = (g.segments + chunks - 1) / chunks
	tiles := chunk * g.rows * g.cols

	type span struct{ first, n int } // blocks
	var spans []span
	up := 0
	for _, pt := range o.parts {
		n := p.tensors[pt.t].blocks
		if pt.up {
			up = n
		}
		for b := 0; b < n; b += rangeBlocks {
			spans = append(spans, span{pt.first + b, min(rangeBlocks, n-b)})
		}
	}
	const product = points * rangeBlocks * lanes * width
	v := p.buffer(points * tiles * row)
	y := p.buffer(len(pan) * points * tiles * width)
	// Few products are divided by points, so that all threads have some.
	divided := 1
	if len(pan)*len(spans) < 24 {
		divided = 6
	}
	var sum *buffer // across chunks
	if chunks > 1 || divided > 1 {
		sum = p.buffer(len(pan) * len(spans) * product)
	}
	stage := g.pixels * lanes
	p.need(max(product, stage) + 64)
	uses := []*buffer{v, y, sum, out.grad}
	for _, pt := range o.parts {
		uses = append(uses, p.tensors[pt.t].value)
	}
	dw := p.e.slice(p.e.grads, o.weight)
	size := depth * 9 * lanes
	finish := func(i int, acc []float32) {
		pn, sp := pan[i/len(spans)], spans[i%len(spans)]
		f := k.WeightGradient4
		if sp.first < up {
			f = k.WeightGradientUp4
		}
		for half := range pn.width / lanes {
			f(dw[(pn.first+half)*size+sp.first*lanes*72:], 24, 72, acc[half*lanes:], rangeBlocks*lanes*width, width, sp.n*lanes)
		}
	}
	for c := range chunks {
		first, last := c*chunk, min((c+1)*chunk, g.segments)
		if first >= last {
			break
		}
		// Segments at the edge are smaller: count tiles from the start.
		start := make([]int, last-first+1)
		for i := first; i < last; i++ {
			s := g.segment(i)
			start[i-first+1] = start[i-first] + s.rows*s.cols
		}
		count := start[last-first]
		// Tasks over (segment, group of blocks), so that few segments still
		// keep all threads busy.
		const perTask = 16
		inTasks, outTasks := (len(in)+perTask-1)/perTask, (len(grads)+perTask-1)/perTask
		per := inTasks + outTasks
		p.add("weight gradient", o, (last-first)*per, uses, func(w, i int) {
			s, part := g.segment(first+i/per), i%per
			t := start[i/per]
			if part < inTasks {
				for b := part * perTask; b < min((part+1)*perTask, len(in)); b++ {
					p.transformInput(&g, &in[b], s, p.scratch[w], v.data[t*row+b*lanes:], tiles*row, row)
				}
				return
			}
			part -= inTasks
			for b := part * perTask; b < min((part+1)*perTask, len(grads)); b++ {
				plane, _ := p.source(&grads[b], s.n)
				st := p.scratch[w]
				cols := 4 * s.cols * lanes
				p.fill(kernel.Block{Data: st, Row: cols, Col: lanes}, plane, out.h, out.w, 4*s.ty, 4*s.tx, 4*s.rows, 4*s.cols, nil)
				dst := y.data[b/2*points*tiles*width+t*width+b%2*lanes:]
				for r := range s.rows {
					k.Gradient4(dst[r*s.cols*width:], tiles*width, width, st[4*r*cols:], cols, 4*lanes, s.cols)
				}
			}
		})
		p.add("weight gradient", o, len(pan)*len(spans)*divided, uses, func(w, i int) {
			i, part := i/divided, i%divided
			pn, sp := i/len(spans), spans[i%len(spans)]
			acc := p.scratch[w]
			if sum != nil {
				acc = sum.data[i*product:]
			}
			for x := part * points / divided; x < (part+1)*points/divided; x++ {
				if sp.first < up && dead(x, 6) {
					continue
				}
				b := y.data[(pn*points+x)*tiles*width:]
				a := v.data[x*tiles*row+sp.first*lanes:]
				d := acc[x*rangeBlocks*lanes*width:]
				k.Gemm(pan[pn].width)(d, width, a, 1, row, b, width, sp.n*lanes, count, c > 0)
			}
			if divided == 1 && (c == chunks-1 || last == g.segments) {
				finish(i, acc)
			}
		})
	}
	if divided > 1 {
		p.add("weight gradient", o, len(pan)*len(spans), uses, func(_, i int) { finish(i, sum.data[i*product:]) })
	}
}
