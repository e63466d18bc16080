package plain

import (
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// loss computes each sample's mean loss and, where the logits' gradient is
// asked for, that of scale times the mean over the batch.
//
// With z the logits, p = softmax(z) and t the target, the loss of a pixel is
// −log p_t, or, on probabilities, −log q_t with q = softmax(p). Its derivative
// by z is p − t̂, or by p is g = q − t̂ and by z then p ⊙ (g − g·p).
func (e *Engine[T]) loss(labels []uint8, losses []float64, scale float64) {
	z := e.logits
	k, a := z.shape[1], area(z)
	scale /= float64(len(labels))
	e.parallel(len(losses), func(n int, _ *worker[T]) {
		p, q := make([]float64, k), make([]float64, k)
		base := n * k * a
		var total float64
		for i := range a {
			t := int(labels[n*a+i])
			for c := range k {
				p[c] = float64(z.data[base+c*a+i])
			}
			if e.opts.Loss != backend.LossOnProbabilities {
				total += normalise(p, t)
				p[t]--
			} else {
				normalise(p, t)
				copy(q, p)
				total += normalise(q, t)
				q[t]--
				var dot float64
				for c := range k {
					dot += float64(p[c] * q[c])
				}
				for c := range k {
					p[c] = float64(p[c] * (q[c] - dot))
				}
			}
			if z.grad != nil {
				for c := range k {
					z.grad[base+c*a+i] = T(p[c] * scale)
				}
			}
		}
		losses[n] = total / float64(a)
	})
}

// normalise replaces x by its softmax and returns −log of entry t.
func normalise(x []float64, t int) float64 {
	m := x[0]
	for _, v := range x[1:] {
		m = max(m, v)
	}
	target := x[t] - m
	var sum float64
	for i, v := range x {
		x[i] = pmath.Exp(v - m)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
	return pmath.Log(sum) - target
}

// Adam implements engine.Engine.
func (e *Engine[T]) Adam(step int, learningRate, scale float64, frozen []bool) error {
	b1, b2 := e.opts.Adam.Beta1, e.opts.Adam.Beta2
	rate := T(learningRate / (1 - pmath.Pow(b1, step)))
	root := T(math.Sqrt(1 - pmath.Pow(b2, step)))
	eps := T(e.opts.Adam.Epsilon)
	w1, w2, d2 := T(1-b1), T(1-b2), T(b2)
	unscale := T(1 / scale)
	for i, p := range e.params {
		if frozen[i] {
			continue
		}
		e.each(len(p.data), func(lo, hi int) {
			x, g, m, v := p.data[lo:hi], p.grad[lo:hi], p.m[lo:hi], p.v[lo:hi]
			for i := range x {
				d := T(g[i] * unscale)
				m[i] += T((d - m[i]) * w1)
				v[i] = T(v[i]*d2) + T(T(d*d)*w2)
				x[i] -= T(rate * (m[i] / (T(math.Sqrt(float64(v[i])))/root + eps)))
			}
		})
	}
	if e.opts.Stopped() {
		return engine.ErrInterrupted
	}
	return nil
}
