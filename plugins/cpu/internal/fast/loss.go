package fast

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// outputs appends softmax, loss and, in training, the gradient of the logits.
func (p *program) outputs(head *op) {
	s := p.tensors[head.out]
	classes := p.e.net.classes
	tasks, at := p.headStrips(s)
	partial := make([]float64, tasks)
	uses := []*buffer{s.value}
	if p.training {
		s.grad = p.buffer(s.value.size)
		uses = append(uses, s.grad)
	}
	onProbabilities := p.e.options.Loss == backend.LossOnProbabilities
	two := onProbabilities && classes == 2
	k := p.e.kernels
	p.add("loss", head, tasks, uses, func(_, task int) {
		n, first, pixels := at(task)
		z := s.plane(s.value.data, n, 0)
		var g []float32
		if p.training {
			g = s.plane(s.grad.data, n, 0)
		}
		unit := float64(p.scale) / float64(p.n*s.h*s.w)
		var sum float64
		if two {
			a, b := first, first+pixels
			if p.out != nil {
				o := p.out[2*n*s.h*s.w:]
				k.Softmax2(o[a:b], o[s.h*s.w:][a:b], z[a*lanes:b*lanes])
			}
			if p.labels != nil {
				if g != nil {
					g = g[a*lanes : b*lanes]
				}
				sum = k.Loss2(g, z[a*lanes:b*lanes], p.labels[n*s.h*s.w:][a:b], unit)
			}
			partial[task] = sum
			return
		}
		for i := first; i < first+pixels; i++ {
			var prob, again [lanes]float64
			logits := z[i*lanes : i*lanes+lanes]
			for k := range classes {
				prob[k] = float64(logits[k])
			}
			m, logSum := softmax(prob[:classes])
			if p.out != nil {
				for k := range classes {
					p.out[(n*classes+k)*s.h*s.w+i] = float32(prob[k])
				}
			}
			if p.labels == nil {
				continue
			}
			t := int(p.labels[n*s.h*s.w+i])
			q := &prob
			if onProbabilities {
				again = prob
				m, logSum = softmax(again[:classes])
				sum += logSum + (m - prob[t])
				q = &again
			} else {
				sum += logSum + (m - float64(logits[t]))
			}
			if g == nil {
				continue
			}
			var d [lanes]float64
			dot := 0.0
			for k := range classes {
				d[k] = q[k]
				if k == t {
					d[k]--
				}
				d[k] = float64(d[k] * unit)
				dot += float64(d[k] * prob[k])
			}
			for k := range classes {
				v := d[k]
				if onProbabilities {
					v = float64(prob[k] * (d[k] - dot))
				}
				g[i*lanes+k] = float32(v)
			}
			for k := classes; k < lanes; k++ {
				g[i*lanes+k] = 0
			}
		}
		partial[task] = sum
	})
	perImage := tasks / p.n
	pixels := float64(s.h * s.w)
	p.add("loss", head, 1, nil, func(_, _ int) {
		p.loss = 0
		for n := range p.n {
			sum := 0.0
			for _, v := range partial[n*perImage : (n+1)*perImage] {
				sum += v
			}
			if p.losses != nil {
				p.losses[n] = sum / pixels
			}
			p.loss += sum
		}
		p.loss /= pixels * float64(p.n)
	})
}

// softmax replaces x by its softmax and returns the maximum m and the logarithm
// of Σ exp(x−m).
func softmax(x []float64) (m, logSum float64) {
	m = x[0]
	for _, v := range x[1:] {
		m = max(m, v)
	}
	sum := 0.0
	for i, v := range x {
		x[i] = pmath.Exp(v - m)
		sum += x[i]
	}
	for i := range x {
		x[i] /= sum
	}
	return m, pmath.Log(sum)
}
