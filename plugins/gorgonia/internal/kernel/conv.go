package kernel

// Conv is a convolution (cross-correlation, as in ONNX) of images [N,C,H,W]
// with weights [M,C,KH,KW]; padding is with zeros. Build it with the output
// size that ONNX's shape inference gives.
type Conv struct {
	N, C, H, W int
	M, KH, KW  int
	SH, SW     int // strides
	Top, Left  int // padding before
	OH, OW     int // output size
}

// depthBlock bounds the packed strip of sixteen pixels to 16 KiB, half of the
// smallest first-level cache around.
const depthBlock = 256

// stripsPerTask is how many strips of sixteen pixels a worker takes at a time.
const stripsPerTask = 4

// ChunkRows is how many rows of an image's output, of ow pixels, a chunk of the sum
// over pixels has that is a weight's gradient: at most 4096 pixels, at least a row.
func ChunkRows(ow int) int { return max(1, 4096/ow) }

// place says where a convolution's output pixels go: (oy, ox) to row
// oy·StepY+Top, column ox·StepX+Left of planes of H×W.
type place struct{ StepY, StepX, Top, Left, H, W int }

// Part is a share of the gradient for a convolution's images: those pixels whose
// rows and columns, with the padding, leave one remainder when divided by the
// strides. It is a convolution of stride 1 of dy with every SH-th row and SW-th
// column of the kernel turned round, from (KY, KX) backwards; without any the share is
// zeros.
type Part struct {
	Conv
	KY, KX                    int
	StepY, StepX, PTop, PLeft int // where its pixels lie in the images
}

// Parts divides the gradient for the images. Together they cover every pixel once.
func (c Conv) Parts() []Part {
	var parts []Part
	for ry := range c.SH {
		for rx := range c.SW {
			p := Part{Conv: Conv{N: c.N, C: c.M, H: c.OH, W: c.OW, M: c.C, SH: 1, SW: 1}, StepY: c.SH, StepX: c.SW}
			p.KH, p.KY, p.PTop, p.Top, p.OH = remainder(ry, c.KH, c.SH, c.Top, c.H)
			p.KW, p.KX, p.PLeft, p.Left, p.OW = remainder(rx, c.KW, c.SW, c.Left, c.W)
			if p.OH > 0 && p.OW > 0 {
				parts = append(parts, p)
			}
		}
	}
	return parts
}

// remainder is one dimension of Parts: how many elements of the kernel, from which
// backwards, belong to pixels first, first+stride, …, their padding and number.
func remainder(r, kernel, stride, pad, size int) (taps, last, first, top, count int) {
	taps = max(0, (kernel-r+stride-1)/stride)
	last = r + (taps-1)*stride
	first = ((r-pad)%stride + stride) % stride
	top = taps - 1 - (first+pad)/stride
	count = max(0, (size-first+stride-1)/stride)
	return
}

// Forward computes y [N,M,OH,OW] from x and the weights w. bias [M] may be nil.
func (c Conv) Forward(p *Workers, x, w, bias, y []float32) {
	k := c.KH * c.KW
	c.multiply(p, x, y, bias, place{1, 1, 0, 0, c.OH, c.OW}, func(m, depth int) float32 { return w[m*c.C*k+depth] })
}

// BackwardInput computes the gradient dx [N,C,H,W] for the images from the
// gradient dy [N,M,OH,OW].
func (c Conv) BackwardInput(p *Workers, dy, w, dx []float32) {
	for _, t := range c.Parts() {
		if t.KH == 0 || t.KW == 0 {
			p.Run(c.N*c.C, func(_, i int) {
				for y := t.PTop; y < c.H; y += t.StepY {
					for x := t.PLeft; x < c.W; x += t.StepX {
						dx[(i*c.H+y)*c.W+x] = 0
					}
				}
			})
			continue
		}
		k := t.KH * t.KW
		t.multiply(p, dy, dx, nil, place{t.StepY, t.StepX, t.PTop, t.PLeft, c.H, c.W}, func(m, depth int) float32 {
			o, y, x := depth/k, depth%k/t.KW, depth%t.KW
			return w[((o*c.C+m)*c.KH+t.KY-y*c.SH)*c.KW+t.KX-x*c.SW]
		})
	}
}

// imagesPerGroup bounds what is unfolded at a time to 16 MiB or one image.
func (c Conv) imagesPerGroup(floatsPerImage int) int {
	return min(c.N, max(1, 1<<22/floatsPerImage))
}

// padded is the image batch with what the windows see outside it, zeros, or x itself
// if they see nothing outside.
func (c Conv) padded(p *Workers, x []float32) (xp []float32, h, w int) {
	h, w = (c.OH-1)*c.SH+c.KH, (c.OW-1)*c.SW+c.KW
	if c.Top == 0 && c.Left == 0 && h <= c.H && w <= c.W {
		return x, c.H, c.W
	}
	xp = p.common(slotImages, c.N*c.C*h*w)
	// Columns before, of and after the image.
	before := min(max(c.Left, 0), w)
	after := max(before, min(w, c.Left+c.W))
	p.Run(c.N*c.C, func(_, i int) {
		src := x[i*c.H*c.W:][:c.H*c.W]
		for y := range h {
			row := xp[(i*h+y)*w:][:w]
			if y < c.Top || y-c.Top >= c.H {
				clear(row)
				continue
			}
			clear(row[:before])
			if after > before {
				copy(row[before:after], src[(y-c.Top)*c.W+before-c.Left:])
			}
			clear(row[after:])
		}
	})
	return xp, h, w
}

// multiply computes y[n][m][pixel] = Σ weight(m, depth)·window + bias[m], with
// depth running over (channel, ky, kx) in one chain of fused multiply-adds.
func (c Conv) multiply(p *Workers, x, y, bias []float32, to place, weight func(m, depth int) float32) {
	x, h, w := c.padded(p, x)
	depth := c.C * c.KH * c.KW
	tiles := (c.M + rows - 1) / rows
	a := p.common(slotWeights, tiles*depth*rows) // [block][tile][depth][row]
	p.Run(tiles, func(_, t int) {
		for d0 := 0; d0 < depth; d0 += depthBlock {
			d1 := min(d0+depthBlock, depth)
			dst := a[d0*tiles*rows+t*(d1-d0)*rows:][:(d1-d0)*rows]
			clear(dst)
			for d := d0; d < d1; d++ {
				for i := range min(rows, c.M-t*rows) {
					dst[(d-d0)*rows+i] = weight(t*rows+i, d)
				}
			}
		}
	})
	offsets := make([]int, depth) // of a window's elements
	for d := range offsets {
		k := d % (c.KH * c.KW)
		offsets[d] = d/(c.KH*c.KW)*h*w + k/c.KW*w + k%c.KW
	}
	pixels := c.OH * c.OW
	total := c.N * pixels
	strips := (total + columns - 1) / columns
	p.Run((strips+stripsPerTask-1)/stripsPerTask, func(worker, task int) {
		buf := p.own(worker, columns*(depthBlock+tiles*rows))
		b, acc := buf[:columns*depthBlock], buf[columns*depthBlock:]
		for s := task * stripsPerTask; s < min((task+1)*stripsPerTask, strips); s++ {
			first := s * columns
			count := min(columns, total-first)
			var at [columns]int // where each pixel's window starts
			for j := range at {
				q := min(first+j, total-1)
				n, r := q/pixels, q%pixels
				at[j] = n*c.C*h*w + r/c.OW*c.SH*w + r%c.OW*c.SW
			}
			row := at[columns-1] == at[0]+columns-1 && count == columns && c.SW == 1
			for d0 := 0; d0 < depth; d0 += depthBlock {
				d1 := min(d0+depthBlock, depth)
				if row {
					src := x[at[0]:]
					for d, o := range offsets[d0:d1] {
						*(*[columns]float32)(b[d*columns:]) = *(*[columns]float32)(src[o:])
					}
				} else {
					for d, o := range offsets[d0:d1] {
						dst := (*[columns]float32)(b[d*columns:])
						for j, q := range at {
							dst[j] = x[q+o]
						}
					}
				}
				for t := range tiles {
					tile(d1-d0, a[d0*tiles*rows+t*(d1-d0)*rows:], b, acc[t*rows*columns:], d0 > 0)
				}
			}
			n, r := first/pixels, first%pixels
			straight := to.StepX == 1 && to.StepY == 1 && to.H*to.W == pixels && r+count <= pixels
			if !straight {
				for j := range count {
					q := first + j
					n, r := q/pixels, q%pixels
					at[j] = n*c.M*to.H*to.W + (r/c.OW*to.StepY+to.Top)*to.W + r%c.OW*to.StepX + to.Left
				}
			}
			for m := range c.M {
				v := acc[m*columns:][:count]
				if bias != nil {
					for j := range v {
						v[j] += bias[m]
					}
				}
				if straight {
					copy(y[(n*c.M+m)*pixels+r:], v)
					continue
				}
				for j, v := range v {
					y[at[j]+m*to.H*to.W] = v
				}
			}
		}
	})
}

// BackwardBias computes the gradient db [M] for the bias.
func (c Conv) BackwardBias(p *Workers, dy, db []float32) {
	pixels := c.OH * c.OW
	p.Run(c.M, func(_, m int) {
		var total Total
		for n := range c.N {
			plane := dy[(n*c.M+m)*pixels:][:pixels]
			Pieces(pixels, func(lo, hi int) { total.Add(Sum(plane[lo:hi])) })
		}
		db[m] = float32(total.Value())
	})
}

// BackwardWeights computes the gradient dw [M,C,KH,KW] for the weights.
func (c Conv) BackwardWeights(p *Workers, x, dy, dw []float32) {
	if c.SH == 1 && c.SW == 1 && c.OW%lanes == 0 {
		c.weightsByRows(p, x, dy, dw)
		return
	}
	c.weightsByColumns(p, x, dy, dw)
}

// weightsByRows takes dot products of rows of dy with rows of the padded
// images, shifted by the kernel's position: nothing is copied.
func (c Conv) weightsByRows(p *Workers, x, dy, dw []float32) {
	x, h, w := c.padded(p, x)
	pixels, chunk := c.OH*c.OW, ChunkRows(c.OW)
	chunks := (c.OH + chunk - 1) / chunk
	p.Run(c.C*c.KH, func(_, task int) {
		ch, ky := task/c.KH, task%c.KH
		sums := make([]float64, c.M*c.KW)
		s := segments{inner: c.OW, strideA: c.OW, strideB: w}
		for n := range c.N {
			for i := range chunks {
				y := i * chunk
				s.outer = min(chunk, c.OH-y)
				s.a, s.channel = dy[n*c.M*pixels+y*c.OW:], pixels
				s.b, s.step = x[((n*c.C+ch)*h+y+ky)*w:], 1
				s.add(sums, c.M, c.KW)
			}
		}
		c.set(dw, sums, ch, ky*c.KW, c.KW)
	})
}

// weightsByColumns gathers the windows of one channel of some images first,
// filling each chunk's pixels up to a multiple of eight with zeros.
func (c Conv) weightsByColumns(p *Workers, x, dy, dw []float32) {
	pixels, chunk := c.OH*c.OW, ChunkRows(c.OW)*c.OW
	chunks := (pixels + chunk - 1) / chunk
	filled := (min(chunk, pixels) + lanes - 1) / lanes * lanes
	wide := chunks * filled
	if wide != pixels {
		src := dy
		dy = make([]float32, c.N*c.M*wide)
		p.Run(c.N*c.M, func(_, i int) {
			for j := range chunks {
				copy(dy[i*wide+j*filled:], src[i*pixels+j*chunk:][:min(chunk, pixels-j*chunk)])
			}
		})
	}
	k := c.KH * c.KW
	group := c.imagesPerGroup(k * wide)
	p.Run(c.C, func(worker, ch int) {
		sums := make([]float64, c.M*k)
		col := p.own(worker, group*k*wide)
		for first := 0; first < c.N; first += group {
			count := min(group, c.N-first)
			clear(col)
			for n := range count {
				plane := x[((first+n)*c.C+ch)*c.H*c.W:][:c.H*c.W]
				for t := range k {
					dst := col[(n*k+t)*wide:][:wide]
					for oy := range c.OH {
						y := oy*c.SH - c.Top + t/c.KW
						if y < 0 || y >= c.H {
							continue
						}
						row := dst[oy*c.OW/chunk*filled+oy*c.OW%chunk:][:c.OW]
						for ox := range row {
							if x := ox*c.SW - c.Left + t%c.KW; x >= 0 && x < c.W {
								row[ox] = plane[y*c.W+x]
							}
						}
					}
				}
			}
			s := segments{outer: 1, inner: filled, channel: wide, step: wide}
			for n := range count {
				for i := range chunks {
					s.a, s.b = dy[(first+n)*c.M*wide+i*filled:], col[n*k*wide+i*filled:]
					s.add(sums, c.M, k)
				}
			}
		}
		c.set(dw, sums, ch, 0, k)
	})
}

// set stores the gradients of count weights of input channel ch from position at on.
func (c Conv) set(dw []float32, sums []float64, ch, at, count int) {
	for i, v := range sums {
		dw[(i/count*c.C+ch)*c.KH*c.KW+at+i%count] = float32(v)
	}
}

// segments are rows of numbers: row i of a starts at channel·i, row j of b at step·j,
// and each consists of outer pieces of inner floats, strideA and strideB apart.
type segments struct {
	a, b             []float32
	channel, step    int
	outer, inner     int
	strideA, strideB int
}

// add adds to sums [m][count] the dot products of m rows of a with count rows of b.
func (s *segments) add(sums []float64, m, count int) {
	d := dotArgs{strideA: s.strideA * 4, strideB: s.strideB * 4, outer: s.outer, inner: s.inner}
	for i := 0; i < m; i += 4 {
		for r := range d.a {
			d.a[r] = &s.a[min(i+r, m-1)*s.channel]
		}
		for j := 0; j < count; j += 3 {
			for r := range d.b {
				d.b[r] = &s.b[min(j+r, count-1)*s.step]
			}
			dot(&d)
			for r := range min(4, m-i) {
				for l := range min(3, count-j) {
					sums[(i+r)*count+j+l] += float64(d.sum[3*r+l])
				}
			}
		}
	}
}
