package plain

import "math"

// The operators in this file are not the study's; U-Nets from elsewhere have
// them.

// convTranspose is the transpose of a convolution from its output to its
// input: conv has the two exchanged, so that its gradients are this one's
// passes and the other way round.
type convTranspose[T float] struct {
	x, y       *value[T]
	conv       conv[T]
	big, small value[T] // what conv takes for its input and output
}

func newConvTranspose[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	if len(s.in) < 2 || len(s.in) > 3 || s.in[0] == nil || s.in[1] == nil || s.in[1].tensor == nil || len(s.in[1].shape) != 4 {
		return nil, refuse(s.node, "needs an input, a constant weight [C,M,kH,kW] and perhaps a bias")
	}
	t := &convTranspose[T]{x: s.in[0], y: s.out}
	t.conv = conv[T]{x: &t.big, w: s.in[1], y: &t.small, groups: s.node.Attrs.Int("group", 1)}
	if len(s.in) == 3 {
		t.conv.bias = s.in[2]
	}
	if t.conv.bias != nil && t.conv.bias.tensor == nil {
		return nil, refuse(s.node, "the bias is not constant")
	}
	var err error
	t.conv.window, err = newWindow(s.node, s.in[1].shape[2:])
	return t, err
}

func (t *convTranspose[T]) forward(e *Engine[T]) {
	t.big.shape, t.small.shape = t.y.shape, t.x.shape
	y, bias := t.y, t.conv.bias
	t.conv.spread(e, t.x.data, func(ch, n, p0 int, row []T) {
		dst := y.data[(n*y.shape[1]+ch)*area(y)+p0:][:len(row)]
		if bias == nil {
			copy(dst, row)
			return
		}
		b := bias.data[ch]
		for i, v := range row {
			dst[i] = v + b
		}
	})
}

func (t *convTranspose[T]) backward(e *Engine[T]) {
	c := t.conv
	c.bias = nil
	t.big.data = t.y.grad
	if c.w.needed {
		t.small.grad = t.x.data
		c.weightGradient(e)
	}
	if b := t.conv.bias; b != nil && b.needed {
		(&conv[T]{bias: b, y: t.y}).biasGradient(e)
	}
	if t.x.needed {
		dx := e.gradient(t.x)
		t.small.data = e.pool.get(len(dx))
		c.forward(e)
		e.each(len(dx), func(lo, hi int) { add(dx[lo:hi], t.small.data[lo:hi]) })
		e.pool.put(t.small.data)
	}
	t.big.data, t.small.data, t.small.grad = nil, nil, nil
}

// averagePool takes the mean of every window, over the pixels that lie in the
// image or, with padding, in the padded image.
type averagePool[T float] struct {
	x, y *value[T]
	window
	end    [2]int // padding at the end
	padded bool
}

func newAveragePool[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	w, err := newWindow(s.node, s.node.Attrs.Ints("kernel_shape"))
	if err != nil {
		return nil, err
	}
	p := s.node.Attrs.Ints("pads", 0, 0, 0, 0)
	return &averagePool[T]{s.in[0], s.out, w, [2]int{p[2], p[3]}, s.node.Attrs.Int("count_include_pad", 0) != 0}, nil
}

// each calls f with every output pixel of a plane, the rows and columns of its
// window that lie in the image, and the number to divide by.
func (a *averagePool[T]) each(f func(p, y0, y1, x0, x1 int, n T)) {
	var size, out [2]int
	copy(size[:], a.x.shape[2:])
	copy(out[:], a.y.shape[2:])
	for oy := range out[0] {
		for ox := range out[1] {
			var lo, hi [2]int
			n := 1
			for i, o := range [2]int{oy, ox} {
				start := o*a.stride[i] - a.pad[i]
				stop := min(start+a.kernel[i], size[i]+a.end[i])
				lo[i], hi[i] = max(start, 0), min(stop, size[i])
				if a.padded {
					n *= stop - start
				} else {
					n *= max(hi[i]-lo[i], 0)
				}
			}
			f(oy*out[1]+ox, lo[0], hi[0], lo[1], hi[1], T(n))
		}
	}
}

func (a *averagePool[T]) forward(e *Engine[T]) {
	in, out, w := area(a.x), area(a.y), a.x.shape[3]
	e.parallel(a.x.shape[0]*a.x.shape[1], func(i int, _ *worker[T]) {
		x, y := a.x.data[i*in:][:in], a.y.data[i*out:][:out]
		a.each(func(p, y0, y1, x0, x1 int, n T) {
			var s T
			for r := y0; r < y1; r++ {
				for c := x0; c < x1; c++ {
					s += x[r*w+c]
				}
			}
			if n > 0 { // a window beyond the image has the mean 0
				s /= n
			}
			y[p] = s
		})
	})
}

func (a *averagePool[T]) backward(e *Engine[T]) {
	in, out, w := area(a.x), area(a.y), a.x.shape[3]
	dx := e.gradient(a.x)
	e.parallel(a.x.shape[0]*a.x.shape[1], func(i int, _ *worker[T]) {
		dst, dy := dx[i*in:][:in], a.y.grad[i*out:][:out]
		a.each(func(p, y0, y1, x0, x1 int, n T) {
			for r := y0; r < y1; r++ {
				for c := x0; c < x1; c++ {
					dst[r*w+c] += dy[p] / n
				}
			}
		})
	})
}

// instanceNorm normalises every channel of every sample by its own statistics.
type instanceNorm[T float] struct {
	x, scale, shift, y *value[T]
	epsilon            float64
	mu, inv            []float64 // per sample and channel
}

func newInstanceNorm[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	for _, v := range s.in[1:] {
		if v.tensor == nil {
			return nil, refuse(s.node, "input %q is not constant", v.name)
		}
	}
	return &instanceNorm[T]{x: s.in[0], scale: s.in[1], shift: s.in[2], y: s.out,
		epsilon: decimal(s.node.Attrs.Float("epsilon", 1e-5))}, nil
}

func (o *instanceNorm[T]) forward(e *Engine[T]) {
	c, a := o.x.shape[1], area(o.x)
	planes := o.x.shape[0] * c
	o.mu, o.inv = grow(o.mu, planes), grow(o.inv, planes)
	e.parallel(planes, func(i int, _ *worker[T]) {
		src, dst := o.x.data[i*a:][:a], o.y.data[i*a:][:a]
		mu := sum(src) / float64(a)
		v := squares(src, mu) / float64(a)
		inv := 1 / math.Sqrt(v+o.epsilon)
		o.mu[i], o.inv[i] = mu, inv
		k, d := float64(inv*float64(o.scale.data[i%c])), float64(o.shift.data[i%c])
		for j, v := range src {
			dst[j] = T(float64((float64(v)-mu)*k) + d)
		}
	})
}

func (o *instanceNorm[T]) backward(e *Engine[T]) {
	c, a := o.x.shape[1], area(o.x)
	var dx []T
	if o.x.needed {
		dx = e.gradient(o.x)
	}
	e.parallel(c, func(ch int, _ *worker[T]) {
		for i := ch; i < len(o.mu); i += c {
			src, dy := o.x.data[i*a:][:a], o.y.grad[i*a:][:a]
			s, sx := slopes(src, dy, o.mu[i], o.inv[i])
			if o.scale.needed {
				o.scale.grad[ch] += T(sx)
			}
			if o.shift.needed {
				o.shift.grad[ch] += T(s)
			}
			if dx != nil {
				k := float64(o.inv[i] * float64(o.scale.data[ch]))
				normGradient(dx[i*a:][:a], src, dy, o.mu[i], o.inv[i], k, s/float64(a), sx/float64(a))
			}
		}
	})
}
