package plain

import (
	"math"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// batchNorm normalises every channel: with the batch's statistics in training,
// with the running ones in inference.
type batchNorm[T float] struct {
	x, scale, shift, mean, variance, y *value[T]
	epsilon, momentum                  float64
	mu, inv                            []float64 // of the batch: mean and 1/√(variance + ε)
}

func newBatchNorm[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	for _, v := range s.in[1:] {
		if v.tensor == nil {
			return nil, refuse(s.node, "input %q is not constant", v.name)
		}
	}
	if s.node.Attrs.Int("training_mode", 0) != 0 {
		return nil, refuse(s.node, "training_mode is not supported: a session decides the mode")
	}
	c := len(s.in[1].data)
	return &batchNorm[T]{
		s.in[0], s.in[1], s.in[2], s.in[3], s.in[4], s.out,
		decimal(s.node.Attrs.Float("epsilon", 1e-5)), decimal(s.node.Attrs.Float("momentum", 0.9)),
		make([]float64, c), make([]float64, c),
	}, nil
}

func (b *batchNorm[T]) forward(e *Engine[T]) {
	x, y := b.x, b.y
	c, a := x.shape[1], area(x)
	e.parallel(c, func(ch int, _ *worker[T]) {
		mu, v := float64(b.mean.data[ch]), float64(b.variance.data[ch])
		if e.train {
			mu, v = b.statistics(e, ch)
		}
		inv := 1 / math.Sqrt(v+b.epsilon)
		b.mu[ch], b.inv[ch] = mu, inv
		k, d := float64(inv*float64(b.scale.data[ch])), float64(b.shift.data[ch])
		for n := range x.shape[0] {
			o := (n*c + ch) * a
			src, dst := x.data[o:][:a], y.data[o:][:a]
			for i, v := range src {
				dst[i] = T(float64((float64(v)-mu)*k) + d)
			}
		}
	})
}

// statistics returns a channel's mean and biased variance over the batch, and
// moves the running statistics.
func (b *batchNorm[T]) statistics(e *Engine[T], ch int) (mu, v float64) {
	x := b.x
	c, a := x.shape[1], area(x)
	count := float64(x.shape[0] * a)
	for n := range x.shape[0] {
		mu += sum(x.data[(n*c+ch)*a:][:a])
	}
	mu /= count
	for n := range x.shape[0] {
		v += squares(x.data[(n*c+ch)*a:][:a], mu)
	}
	if e.update {
		m := b.momentum
		b.mean.data[ch] = T(float64(m*float64(b.mean.data[ch])) + float64((1-m)*mu))
		b.variance.data[ch] = T(float64(m*float64(b.variance.data[ch])) + float64((1-m)*(v/(count-1))))
	}
	return mu, v / count
}

func (b *batchNorm[T]) backward(e *Engine[T]) {
	x, y := b.x, b.y
	c, a := x.shape[1], area(x)
	count := float64(x.shape[0] * a)
	var dx []T
	if x.needed {
		dx = e.gradient(x)
	}
	e.parallel(c, func(ch int, _ *worker[T]) {
		mu, inv := b.mu[ch], b.inv[ch]
		var s, sx float64 // Σ dy and Σ dy·x̂
		for n := range x.shape[0] {
			o := (n*c + ch) * a
			t, tx := slopes(x.data[o:][:a], y.grad[o:][:a], mu, inv)
			s += t
			sx += tx
		}
		if b.scale.needed {
			b.scale.grad[ch] += T(sx)
		}
		if b.shift.needed {
			b.shift.grad[ch] += T(s)
		}
		if dx == nil {
			return
		}
		k := float64(inv * float64(b.scale.data[ch]))
		for n := range x.shape[0] {
			o := (n*c + ch) * a
			normGradient(dx[o:][:a], x.data[o:][:a], y.grad[o:][:a], mu, inv, k, s/count, sx/count)
		}
	})
}

// squares is Σ (x−mu)².
func squares[T float](x []T, mu float64) float64 {
	var s [2]float64
	for i, v := range x {
		d := float64(v) - mu
		s[i&1] += float64(d * d)
	}
	return s[0] + s[1]
}

// slopes returns Σ dy and Σ dy·x̂ with x̂ = (x−mu)·inv.
func slopes[T float](x, dy []T, mu, inv float64) (s, sx float64) {
	var t, tx [2]float64
	for i, g := range dy {
		t[i&1] += float64(g)
		tx[i&1] += float64(float64(g) * float64((float64(x[i])-mu)*inv))
	}
	return t[0] + t[1], tx[0] + tx[1]
}

// normGradient adds the gradient of a normalisation by the values' own
// statistics: k·(dy − s − x̂·sx), where s and sx are the means of slopes.
func normGradient[T float](dst, x, dy []T, mu, inv, k, s, sx float64) {
	for i, g := range dy {
		xh := float64((float64(x[i]) - mu) * inv)
		dst[i] += T(float64(k * (float64(g) - s - float64(xh*sx))))
	}
}

type relu[T float] struct{ x, y *value[T] }

func newRelu[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	return &relu[T]{s.in[0], s.out}, nil
}

func (r *relu[T]) forward(e *Engine[T]) {
	e.each(len(r.y.data), func(lo, hi int) {
		dst := r.y.data[lo:hi]
		for i, v := range r.x.data[lo:hi] {
			if v < 0 { // leaves NaN
				v = 0
			}
			dst[i] = v
		}
	})
}

func (r *relu[T]) backward(e *Engine[T]) {
	dx := e.gradient(r.x)
	e.each(len(dx), func(lo, hi int) {
		dy, dst := r.y.grad[lo:hi], dx[lo:hi]
		for i, v := range r.y.data[lo:hi] {
			if v > 0 {
				dst[i] += dy[i]
			}
		}
	})
}

type maxPool[T float] struct {
	x, y *value[T]
	window
}

func newMaxPool[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	if s.node.Attrs.Int("storage_order", 0) != 0 {
		return nil, refuse(s.node, "storage_order 1 is not supported")
	}
	w, err := newWindow(s.node, s.node.Attrs.Ints("kernel_shape"))
	return &maxPool[T]{s.in[0], s.out, w}, err
}

// each calls f with every output pixel of a plane and the first input pixel of
// its window that holds the maximum, or a NaN.
func (m *maxPool[T]) each(x []T, f func(p, at int)) {
	h, w, oh, ow := m.x.shape[2], m.x.shape[3], m.y.shape[2], m.y.shape[3]
	for oy := range oh {
		for ox := range ow {
			at := -1
			for ky := range m.kernel[0] {
				iy := oy*m.stride[0] - m.pad[0] + ky*m.dilation[0]
				if iy < 0 || iy >= h {
					continue
				}
				for kx := range m.kernel[1] {
					ix := ox*m.stride[1] - m.pad[1] + kx*m.dilation[1]
					if ix < 0 || ix >= w {
						continue
					}
					if v := x[iy*w+ix]; at < 0 || v > x[at] || v != v {
						at = iy*w + ix
					}
				}
			}
			f(oy*ow+ox, at)
		}
	}
}

func (m *maxPool[T]) forward(e *Engine[T]) {
	a, oa := area(m.x), area(m.y)
	e.parallel(m.x.shape[0]*m.x.shape[1], func(i int, _ *worker[T]) {
		x, y := m.x.data[i*a:][:a], m.y.data[i*oa:][:oa]
		m.each(x, func(p, at int) {
			y[p] = T(math.Inf(-1))
			if at >= 0 {
				y[p] = x[at]
			}
		})
	})
}

func (m *maxPool[T]) backward(e *Engine[T]) {
	a, oa := area(m.x), area(m.y)
	dx := e.gradient(m.x)
	e.parallel(m.x.shape[0]*m.x.shape[1], func(i int, _ *worker[T]) {
		dy, dst := m.y.grad[i*oa:][:oa], dx[i*a:][:a]
		m.each(m.x.data[i*a:][:a], func(p, at int) {
			if at >= 0 {
				dst[at] += dy[p]
			}
		})
	})
}

// concat joins along the channels.
type concat[T float] struct {
	x []*value[T]
	y *value[T]
}

func newConcat[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	if axis(s.node, 0) != 1 {
		return nil, refuse(s.node, "axis %d: only the channel axis 1 is supported", axis(s.node, 0))
	}
	for i, v := range s.in {
		if v == nil || v.tensor != nil {
			return nil, refuse(s.node, "input %d is omitted or constant", i)
		}
	}
	return &concat[T]{s.in, s.out}, nil
}

// each calls f with every run that one sample of one input has in the output.
func (c *concat[T]) each(f func(x *value[T], at, n, to int)) {
	total := c.y.shape[1] * area(c.y)
	for sample := range c.y.shape[0] {
		to := sample * total
		for _, x := range c.x {
			n := x.shape[1] * area(x)
			f(x, sample*n, n, to)
			to += n
		}
	}
}

func (c *concat[T]) forward(e *Engine[T]) {
	c.each(func(x *value[T], at, n, to int) { copy(c.y.data[to:][:n], x.data[at:]) })
}

func (c *concat[T]) backward(e *Engine[T]) {
	c.each(func(x *value[T], at, n, to int) {
		if x.needed {
			add(e.gradient(x)[at:][:n], c.y.grad[to:])
		}
	})
}

// softmax normalises exponentials along one axis; its logarithm and the index of
// the largest element go along the same lines.
type softmax[T float] struct {
	x, y *value[T]
	axis int
}

// exponentials returns the largest element of a line and the sum of exponentials
// of the differences from it.
func exponentials[T float](x []T, stride, n int) (m T, sum float64) {
	m = x[0]
	for i := 1; i < n; i++ {
		m = max(m, x[i*stride])
	}
	for i := range n {
		sum += pmath.Exp(float64(x[i*stride]) - float64(m))
	}
	return m, sum
}

type logSoftmax[T float] struct{ softmax[T] }

func newLogSoftmax[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	o, err := newSoftmax(e, s)
	if err != nil {
		return nil, err
	}
	return &logSoftmax[T]{*o.(*softmax[T])}, nil
}

func (s *logSoftmax[T]) forward(e *Engine[T]) {
	s.lines(e, func(at, stride, n int) {
		x, y := s.x.data[at:], s.y.data[at:]
		m, sum := exponentials(x, stride, n)
		l := pmath.Log(sum)
		for i := range n {
			y[i*stride] = T(float64(x[i*stride]) - float64(m) - l)
		}
	})
}

func (s *logSoftmax[T]) backward(e *Engine[T]) {
	dx := e.gradient(s.x)
	s.lines(e, func(at, stride, n int) {
		y, dy, dst := s.y.data[at:], s.y.grad[at:], dx[at:]
		var sum float64
		for i := range n {
			sum += float64(dy[i*stride])
		}
		for i := range n {
			dst[i*stride] += T(float64(dy[i*stride]) - float64(pmath.Exp(float64(y[i*stride]))*sum))
		}
	})
}

// argMax gives indices as numbers; it has no gradient.
type argMax[T float] struct {
	softmax[T]
	last bool // of equal elements
}

func newArgMax[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	a := axis(s.node, 0)
	if a < 0 || a > 3 || s.node.Attrs.Int("keepdims", 1) != 1 {
		return nil, refuse(s.node, "axis %d of 4 dimensions, keepdims %d", s.node.Attrs.Int("axis", 0), s.node.Attrs.Int("keepdims", 1))
	}
	return &argMax[T]{softmax[T]{s.in[0], s.out, a}, s.node.Attrs.Int("select_last_index", 0) != 0}, nil
}

func (s *argMax[T]) forward(e *Engine[T]) {
	s.lines(e, func(at, stride, n int) {
		best := 0
		for i := 1; i < n; i++ {
			if v, m := s.x.data[at+i*stride], s.x.data[at+best*stride]; v > m || s.last && v == m {
				best = i
			}
		}
		s.y.data[at/(stride*n)*stride+at%stride] = T(best)
	})
}

func (s *argMax[T]) backward(*Engine[T]) {}

func newSoftmax[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	a := axis(s.node, -1)
	if a < 0 || a > 3 {
		return nil, refuse(s.node, "axis %d of 4 dimensions", s.node.Attrs.Int("axis", -1))
	}
	return &softmax[T]{s.in[0], s.out, a}, nil
}

// lines calls f with the offset of every line along the axis, whose elements
// are stride apart.
func (s *softmax[T]) lines(e *Engine[T], f func(at, stride, n int)) {
	n, stride := s.x.shape[s.axis], nn.Size(s.x.shape[s.axis+1:])
	e.each(len(s.x.data)/n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			f(i/stride*stride*n+i%stride, stride, n)
		}
	})
}

func (s *softmax[T]) forward(e *Engine[T]) {
	s.lines(e, func(at, stride, n int) {
		x, y := s.x.data[at:], s.y.data[at:]
		m, sum := exponentials(x, stride, n)
		for i := range n {
			y[i*stride] = T(pmath.Exp(float64(x[i*stride])-float64(m)) / sum)
		}
	})
}

func (s *softmax[T]) backward(e *Engine[T]) {
	dx := e.gradient(s.x)
	s.lines(e, func(at, stride, n int) {
		y, dy, dst := s.y.data[at:], s.y.grad[at:], dx[at:]
		var dot float64
		for i := range n {
			dot += float64(float64(y[i*stride]) * float64(dy[i*stride]))
		}
		for i := range n {
			dst[i*stride] += T(float64(y[i*stride]) * (float64(dy[i*stride]) - dot))
		}
	})
}
