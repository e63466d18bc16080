package kernel

import "unsafe"

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

// Forward computes y [N,M,OH,OW] from x and the weights w. bias [M] may be nil.
func (c Conv) Forward(p *Workers, x, w, bias, y []float32) {
	k := c.KH * c.KW
	c.multiply(p, x, y, bias, func(m, depth int) float32 { return w[m*c.C*k+depth] })
}

// BackwardInput computes the gradient dx [N,C,H,W] for the images from the
// gradient dy [N,M,OH,OW].
func (c Conv) BackwardInput(p *Workers, dy, w, dx []float32) {
	k := c.KH * c.KW
	if c.SH == 1 && c.SW == 1 && c.Top < c.KH && c.Left < c.KW {
		// With stride 1 this is a convolution of dy with the kernel turned round.
		t := Conv{N: c.N, C: c.M, H: c.OH, W: c.OW, M: c.C, KH: c.KH, KW: c.KW, SH: 1, SW: 1,
			Top: c.KH - 1 - c.Top, Left: c.KW - 1 - c.Left, OH: c.H, OW: c.W}
		t.multiply(p, dy, dx, nil, func(m, depth int) float32 {
			return w[(depth/k*c.C+m)*k+k-1-depth%k]
		})
		return
	}
	// Otherwise each output pixel's share of its window, then their sum.
	pixels := c.OH * c.OW
	group := c.imagesPerGroup(c.C * k * pixels)
	for first := 0; first < c.N; first += group {
		n := min(group, c.N-first)
		cols := p.common(slotImages, n*c.C*k*pixels) // free: a 1×1 convolution pads nothing
		t := Conv{N: n, C: c.M, H: c.OH, W: c.OW, M: c.C * k, KH: 1, KW: 1, SH: 1, SW: 1, OH: c.OH, OW: c.OW}
		t.multiply(p, dy[first*c.M*pixels:], cols, nil, func(m, depth int) float32 { return w[depth*c.C*k+m] })
		p.Run(n*c.C, func(_, i int) {
			plane := dx[(first*c.C+i)*c.H*c.W:][:c.H*c.W]
			clear(plane)
			for t := range k {
				col := cols[(i*k+t)*pixels:][:pixels]
				for oy := range c.OH {
					y := oy*c.SH - c.Top + t/c.KW
					if y < 0 || y >= c.H {
						continue
					}
					for ox := range c.OW {
						if x := ox*c.SW - c.Left + t%c.KW; x >= 0 && x < c.W {
							plane[y*c.W+x] += col[oy*c.OW+ox]
						}
					}
				}
			}
		})
	}
}

// imagesPerGroup bounds what is unfolded at a time to 16 MiB or one image.
func (c Conv) imagesPerGroup(floatsPerImage int) int {
	return min(c.N, max(1, 1<<22/floatsPerImage))
}

// padded is the image batch with its zero border, or x itself if none is needed.
func (c Conv) padded(p *Workers, x []float32) (xp []float32, h, w int) {
	h = max(c.H+c.Top, (c.OH-1)*c.SH+c.KH)
	w = max(c.W+c.Left, (c.OW-1)*c.SW+c.KW)
	if h == c.H && w == c.W {
		return x, h, w
	}
	xp = p.common(slotImages, c.N*c.C*h*w)
	p.Run(c.N*c.C, func(_, i int) {
		dst, src := xp[i*h*w:][:h*w], x[i*c.H*c.W:][:c.H*c.W]
		clear(dst[:c.Top*w])
		for y := range c.H {
			row := dst[(c.Top+y)*w:][:w]
			clear(row[:c.Left])
			copy(row[c.Left:], src[y*c.W:][:c.W])
			clear(row[c.Left+c.W:])
		}
		clear(dst[(c.Top+c.H)*w:])
	})
	return xp, h, w
}

// multiply computes y[n][m][pixel] = bias[m] + Σ weight(m, depth)·window, with
// depth running over (channel, ky, kx).
func (c Conv) multiply(p *Workers, x, y, bias []float32, weight func(m, depth int) float32) {
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
			for m := range c.M {
				v := acc[m*columns:][:count]
				if bias != nil {
					for j := range v {
						v[j] += bias[m]
					}
				}
				if r+count <= pixels {
					copy(y[(n*c.M+m)*pixels+r:], v)
					continue
				}
				for j := range v {
					q := first + j
					y[(q/pixels*c.M+m)*pixels+q%pixels] = v[j]
				}
			}
		}
	})
}

// BackwardBias computes the gradient db [M] for the bias.
func (c Conv) BackwardBias(p *Workers, dy, db []float32) {
	pixels := c.OH * c.OW
	p.Run(c.M, func(_, m int) {
		var s float64
		for n := range c.N {
			for _, v := range dy[(n*c.M+m)*pixels:][:pixels] {
				s += float64(v)
			}
		}
		db[m] = float32(s)
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
	depth := c.C * c.KH * c.KW
	pixels := c.OH * c.OW
	p.Run(c.C*c.KH, func(worker, task int) {
		ch, ky := task/c.KH, task%c.KH
		base := ky * w
		c.dots(dy, pixels, c.OW, c.N, c.OH, c.OW, c.KW,
			func(n, kx int) *float32 { return &x[(n*c.C+ch)*h*w+base+kx] }, w,
			func(m, kx int, v float32) { dw[m*depth+ch*c.KH*c.KW+ky*c.KW+kx] = v })
	})
}

// weightsByColumns gathers the windows of one channel of some images first,
// padding each image's pixels to a multiple of eight with zeros.
func (c Conv) weightsByColumns(p *Workers, x, dy, dw []float32) {
	pixels := c.OH * c.OW
	wide := (pixels + lanes - 1) / lanes * lanes
	if wide != pixels {
		src := dy
		dy = make([]float32, c.N*c.M*wide)
		p.Run(c.N*c.M, func(_, i int) { copy(dy[i*wide:], src[i*pixels:][:pixels]) })
	}
	k := c.KH * c.KW
	clear(dw)
	group := c.imagesPerGroup(k * wide)
	p.Run(c.C, func(worker, ch int) {
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
						for ox := range c.OW {
							if x := ox*c.SW - c.Left + t%c.KW; x >= 0 && x < c.W {
								dst[oy*c.OW+ox] = plane[y*c.W+x]
							}
						}
					}
				}
			}
			c.dots(dy[first*c.M*wide:], wide, c.M*wide, 1, count, wide, k,
				func(_, t int) *float32 { return &col[t*wide] }, k*wide,
				func(m, t int, v float32) { dw[(m*c.C+ch)*k+t] += v })
		}
	})
}

// dots calls set(m, j, Σ) with the dot products of every channel m of dy with
// count rows b. Rows consist of outer segments of inner floats; b's segments
// are strideB floats apart, those of dy strideA, its channels channel floats.
// This is repeated for groups images (of M channels each) and summed.
func (c Conv) dots(dy []float32, channel, strideA, groups, outer, inner, count int,
	b func(group, j int) *float32, strideB int, set func(m, j int, v float32)) {
	d := dotArgs{strideA: strideA * 4, strideB: strideB * 4, outer: outer, inner: inner}
	for m := 0; m < c.M; m += 4 {
		for j := 0; j < count; j += 3 {
			var sum [12]float64
			for g := range groups {
				for i := range 4 {
					d.a[i] = &dy[g*c.M*channel+min(m+i, c.M-1)*channel]
				}
				for i := range 3 {
					d.b[i] = b(g, min(j+i, count-1))
				}
				dot(&d)
				for i, v := range d.sum {
					sum[i] += float64(v)
				}
			}
			for i := range min(4, c.M-m) {
				for l := range min(3, count-j) {
					set(m+i, j+l, float32(sum[3*i+l]))
				}
			}
		}
	}
}

func tile(k int, a, b, c []float32, add bool) {
	if !fused {
		tilePortable(k, a, b, c, add)
		return
	}
	_, _, _ = a[k*rows-1], b[k*columns-1], c[rows*columns-1]
	n := 0
	if add {
		n = 1
	}
	tile4x16(k, &a[0], &b[0], &c[0], n)
}

func dot(p *dotArgs) {
	if fused {
		dot4x3(p)
		return
	}
	for i := range p.a {
		for j := range p.b {
			var sum [lanes]float32
			for o := range p.outer {
				a := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.a[i]), o*p.strideA)), p.inner)
				b := unsafe.Slice((*float32)(unsafe.Add(unsafe.Pointer(p.b[j]), o*p.strideB)), p.inner)
				for l := 0; l < len(a); l += lanes {
					x, y := (*[lanes]float32)(a[l:]), (*[lanes]float32)(b[l:])
					for q := range sum {
						sum[q] += x[q] * y[q]
					}
				}
			}
			p.sum[3*i+j] = sum[0] + sum[1] + sum[2] + sum[3] + (sum[4] + sum[5] + sum[6] + sum[7])
		}
	}
}
