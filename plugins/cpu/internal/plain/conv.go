package plain

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// conv is a convolution with any strides, padding, dilations and groups.
type conv[T float] struct {
	x, w, bias, y *value[T]
	window
	groups int
}

// window is the geometry of a sliding window along both axes.
type window struct{ kernel, stride, pad, dilation [2]int }

func newWindow(n *nn.Node, kernel []int) (w window, err error) {
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	if len(kernel) != 2 || len(s) != 2 || len(p) != 4 || len(d) != 2 {
		return w, refuse(n, "kernel %v, strides %v, pads %v, dilations %v are not those of a 2-D window", kernel, s, p, d)
	}
	return window{[2]int(kernel), [2]int(s), [2]int(p), [2]int(d)}, nil
}

func newConv[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	if len(s.in) < 2 || len(s.in) > 3 || s.in[0] == nil || s.in[1] == nil || s.in[1].tensor == nil || len(s.in[1].shape) != 4 {
		return nil, refuse(s.node, "needs an input, a constant weight [M,C,kH,kW] and perhaps a bias")
	}
	c := &conv[T]{x: s.in[0], w: s.in[1], y: s.out, groups: s.node.Attrs.Int("group", 1)}
	if len(s.in) == 3 {
		c.bias = s.in[2]
	}
	if c.bias != nil && c.bias.tensor == nil {
		return nil, refuse(s.node, "the bias is not constant")
	}
	var err error
	c.window, err = newWindow(s.node, c.w.shape[2:])
	return c, err
}

func (c *conv[T]) forward(e *Engine[T]) {
	x, w, y := c.x, c.w.data, c.y
	if e.opts.Precision == backend.Mixed {
		w = e.pool.get(len(c.w.data))
		copy(w, c.w.data)
		e.round(w)
		defer e.pool.put(w)
	}
	m, k := y.shape[1]/c.groups, c.w.shape[1]*c.kernel[0]*c.kernel[1]
	e.product(c.groups, m, k, y.shape,
		func(g int) []T { return w[g*m*k:] },
		func(dst []T, g, n, k0, k1, p0, p1, ld int) {
			c.patches(dst, x.data[(n*c.groups+g)*c.w.shape[1]*area(x):], x.shape, y.shape, k0, k1, p0, p1, ld, 1)
		},
		func(g, i, n, p0 int, row []T) {
			ch := g*m + i
			dst := y.data[(n*y.shape[1]+ch)*area(y)+p0:][:len(row)]
			if c.bias == nil {
				copy(dst, row)
				return
			}
			b := c.bias.data[ch]
			for j, v := range row {
				dst[j] = v + b
			}
		})
}

// product computes, for every group, a·b where a is [m, k] and b's columns are
// the pixels of all samples of an image of the given shape. gather fills rows
// k0 to k1 of b for pixels p0 to p1 of one sample; store takes pixels of row i
// from p0 on.
func (e *Engine[T]) product(groups, m, k int, shape []int, a func(g int) []T,
	gather func(dst []T, g, n, k0, k1, p0, p1, ld int), store func(g, i, n, p0 int, row []T)) {
	pixels := shape[2] * shape[3]
	columns := shape[0] * pixels
	blocks := (columns + blockN - 1) / blockN
	e.parallel(groups*blocks, func(task int, w *worker[T]) {
		g, j0 := task/blocks, task%blocks*blockN
		n := min(blockN, columns-j0)
		w.tile, w.rows, w.patches = grow(w.tile, m*n), grow(w.rows, 2*n), grow(w.patches, blockK*n)
		clear(w.tile)
		for k0 := 0; k0 < k; k0 += blockK {
			k1 := min(k, k0+blockK)
			spans(j0, n, pixels, func(at, sample, p0, p1 int) {
				gather(w.patches[at:], g, sample, k0, k1, p0, p1, n)
			})
			accumulate(w.tile, a(g)[k0:], w.patches, w.rows, m, n, k1-k0, k)
		}
		for i := range m {
			spans(j0, n, pixels, func(at, sample, p0, p1 int) {
				store(g, i, sample, p0, w.tile[i*n+at:][:p1-p0])
			})
		}
	})
}

// spans splits the columns j0 to j0+n into runs within one sample's pixels.
func spans(j0, n, pixels int, f func(at, sample, p0, p1 int)) {
	for at := 0; at < n; {
		sample, p0 := (j0+at)/pixels, (j0+at)%pixels
		p1 := min(pixels, p0+n-at)
		f(at, sample, p0, p1)
		at += p1 - p0
	}
}

// patches gathers what the window sees: element (k, p), for k = (channel, ky,
// kx) and output pixel p, goes to dst[(k−k0)·dk + (p−p0)·dp].
func (c *conv[T]) patches(dst, x []T, in, out []int, k0, k1, p0, p1, dk, dp int) {
	h, w, ow := in[2], in[3], out[3]
	taps := c.kernel[0] * c.kernel[1]
	for k := k0; k < k1; k++ {
		ky, kx := k%taps/c.kernel[1], k%c.kernel[1]
		plane := x[k/taps*h*w:][:h*w]
		left := kx*c.dilation[1] - c.pad[1]
		d := dst[(k-k0)*dk:]
		for p := p0; p < p1; {
			oy, x0 := p/ow, p%ow
			x1 := min(ow, x0+p1-p)
			iy := oy*c.stride[0] - c.pad[0] + ky*c.dilation[0]
			at := (p - p0) * dp
			p += x1 - x0
			if iy < 0 || iy >= h {
				for i := range x1 - x0 {
					d[at+i*dp] = 0
				}
				continue
			}
			row := plane[iy*w:][:w]
			if c.stride[1] == 1 && dp == 1 {
				// Zeros, a run of the row, zeros.
				a := min(max(-left, x0), x1)
				b := max(min(w-left, x1), a)
				r := d[at:][:x1-x0]
				clear(r[:a-x0])
				if a < b {
					copy(r[a-x0:b-x0], row[a+left:])
				}
				clear(r[b-x0:])
				continue
			}
			for ox := x0; ox < x1; ox++ {
				var v T
				if ix := ox*c.stride[1] + left; ix >= 0 && ix < w {
					v = row[ix]
				}
				d[at] = v
				at += dp
			}
		}
	}
}

// reached gathers the output gradients that an input pixel reached: element
// (k, p), for k = (output channel, ky, kx) and input pixel p, goes to
// dst[(k−k0)·dk + p−p0].
func (c *conv[T]) reached(dst, dy []T, in, out []int, k0, k1, p0, p1, dk int) {
	w, oh, ow := in[3], out[2], out[3]
	taps := c.kernel[0] * c.kernel[1]
	for k := k0; k < k1; k++ {
		ky, kx := k%taps/c.kernel[1], k%c.kernel[1]
		plane := dy[k/taps*oh*ow:][:oh*ow]
		d := dst[(k-k0)*dk:]
		for p := p0; p < p1; {
			iy, x0 := p/w, p%w
			x1 := min(w, x0+p1-p)
			r := d[p-p0:][:x1-x0]
			p += x1 - x0
			clear(r)
			y := iy + c.pad[0] - ky*c.dilation[0]
			if y < 0 || y%c.stride[0] != 0 || y/c.stride[0] >= oh {
				continue
			}
			row := plane[y/c.stride[0]*ow:][:ow]
			// Input column ix reaches output column ox = (ix + right)/stride.
			right := c.pad[1] - kx*c.dilation[1]
			s := c.stride[1]
			ox := max(0, ceilDiv(x0+right, s))
			if s == 1 {
				if x := ox - right; x < x1 && ox < ow {
					copy(r[x-x0:], row[ox:])
				}
				continue
			}
			for ; ox < ow && ox*s-right < x1; ox++ {
				r[ox*s-right-x0] = row[ox]
			}
		}
	}
}

// ceilDiv is a/b rounded up, for b > 0.
func ceilDiv(a, b int) int {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}

func (c *conv[T]) backward(e *Engine[T]) {
	if c.w.needed {
		c.weightGradient(e)
	}
	if c.bias != nil && c.bias.needed {
		c.biasGradient(e)
	}
	if c.x.needed {
		c.inputGradient(e)
	}
}

func (c *conv[T]) inputGradient(e *Engine[T]) {
	x := c.x
	dx := e.gradient(x)
	c.spread(e, c.y.grad, func(ch, n, p0 int, row []T) {
		add(dx[(n*x.shape[1]+ch)*area(x)+p0:][:len(row)], row)
	})
}

// spread sends an image of y's shape back through the window to one of x's: a
// product with the weights transposed to [C, (M, kH, kW)]. store takes pixels of
// a channel from p0 on.
func (c *conv[T]) spread(e *Engine[T], src []T, store func(ch, n, p0 int, row []T)) {
	x, y := c.x, c.y
	cg, mg, taps := c.w.shape[1], y.shape[1]/c.groups, c.kernel[0]*c.kernel[1]
	k := mg * taps
	t := e.pool.get(len(c.w.data))
	defer e.pool.put(t)
	e.parallel(c.groups*mg, func(m int, _ *worker[T]) {
		for ch := range cg {
			copy(t[((m/mg*cg+ch)*mg+m%mg)*taps:][:taps], c.w.data[(m*cg+ch)*taps:])
		}
	})
	e.round(t)
	e.product(c.groups, cg, k, x.shape,
		func(g int) []T { return t[g*cg*k:] },
		func(dst []T, g, n, k0, k1, p0, p1, ld int) {
			c.reached(dst, src[(n*c.groups+g)*mg*area(y):], x.shape, y.shape, k0, k1, p0, p1, ld)
		},
		func(g, i, n, p0 int, row []T) { store(g*cg+i, n, p0, row) })
}

// weightGradient sums over the pixels of each sample in blocks, then over the
// samples. A task owns a block of columns (channel, ky, kx) of one group.
func (c *conv[T]) weightGradient(e *Engine[T]) {
	x, y := c.x, c.y
	cg, mg := c.w.shape[1], y.shape[1]/c.groups
	k, pixels := cg*c.kernel[0]*c.kernel[1], area(y)
	// Columns do not depend on one another: their division is free.
	width := min(blockN, max(8, k/4))
	blocks := (k + width - 1) / width
	e.parallel(c.groups*blocks, func(task int, w *worker[T]) {
		g, k0 := task/blocks, task%blocks*width
		k1 := min(k, k0+width)
		n := k1 - k0
		w.tile, w.rows, w.patches = grow(w.tile, mg*n), grow(w.rows, 2*n), grow(w.patches, blockK*n)
		clear(w.tile)
		for sample := range y.shape[0] {
			for p0 := 0; p0 < pixels; p0 += blockK {
				p1 := min(pixels, p0+blockK)
				c.patches(w.patches, x.data[(sample*c.groups+g)*cg*area(x):], x.shape, y.shape, k0, k1, p0, p1, 1, n)
				accumulate(w.tile, y.grad[(sample*c.groups+g)*mg*pixels+p0:], w.patches, w.rows, mg, n, p1-p0, pixels)
			}
			if e.opts.Stopped() {
				return
			}
		}
		for m := range mg {
			add(c.w.grad[(g*mg+m)*k+k0:][:n], w.tile[m*n:])
		}
	})
}

func (c *conv[T]) biasGradient(e *Engine[T]) {
	y := c.y
	e.parallel(y.shape[1], func(ch int, _ *worker[T]) {
		var s float64
		for n := range y.shape[0] {
			s += sum(y.grad[(n*y.shape[1]+ch)*area(y):][:area(y)])
		}
		c.bias.grad[ch] += T(s)
	})
}

// sum is a plane's sum in float64, in four interleaved chains.
func sum[T float](x []T) float64 {
	var s [4]float64
	i := 0
	for ; i+4 <= len(x); i += 4 {
		v := (*[4]T)(x[i:])
		s[0] += float64(v[0])
		s[1] += float64(v[1])
		s[2] += float64(v[2])
		s[3] += float64(v[3])
	}
	for ; i < len(x); i++ {
		s[0] += float64(x[i])
	}
	return (s[0] + s[1]) + (s[2] + s[3])
}

// area is the number of pixels of one plane of an image.
func area[T float](v *value[T]) int { return v.shape[2] * v.shape[3] }
