package fast

import (
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// lossRows is how many rows of an image a task of the loss takes.
const lossRows = 16

// outputs appends softmax, loss and, in training, the gradient of the logits.
func (p *program) outputs(head *op) {
	s := p.tensors[head.out]
	classes := p.e.net.classes
	perImage := (s.h + lossRows - 1) / lossRows
	partial := make([]float64, p.n*perImage)
	uses := []*buffer{s.value}
	if p.training {
		s.grad = p.buffer(s.value.size)
		uses = append(uses, s.grad)
	}
	onProbabilities := p.e.options.OnProbabilities
	two := onProbabilities && classes == 2
	k := p.e.kernels
	p.add("loss", head, len(partial), uses, func(_, task int) {
		n, y0 := task/perImage, task%perImage*lossRows
		y1 := min(y0+lossRows, s.h)
		z := s.plane(s.value.data, n, 0)
		var g []float32
		if p.training {
			g = s.plane(s.grad.data, n, 0)
		}
		unit := float64(p.scale) / float64(p.n*s.h*s.w)
		var sum float64
		if two {
			a, b := y0*s.w, y1*s.w
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
		for i := y0 * s.w; i < y1*s.w; i++ {
			var prob, again [lanes]float64
			logits := z[i*lanes : i*lanes+lanes]
			for k := range classes {
				prob[k] = float64(logits[k])
			}
			m, logSum := softmax(prob[:classes])
			if p.out != nil {
				for k := range classes {
					p.out[(n*classes+k)*s.h*s.w+i] = float64(float32(prob[k]))
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

// biasGradient appends the gradient of the head's bias: the sum over pixels, in
// float32 within strips and in float64 over strips in order.
func (p *program) biasGradient(head *op) {
	s := p.tensors[head.out]
	perImage := (s.h + lossRows - 1) / lossRows
	partial := make([][lanes]float32, p.n*perImage)
	one := []float32{1}
	p.add("weight gradient", head, len(partial), []*buffer{s.grad}, func(_, task int) {
		n, y0 := task/perImage, task%perImage*lossRows
		pixels := min(lossRows, s.h-y0) * s.w
		p.e.kernels.Gemm8(partial[task][:], lanes, one, 0, 0, s.plane(s.grad.data, n, 0)[y0*s.w*lanes:], lanes, 1, pixels, false)
	})
	db := p.e.slice(p.e.grads, head.bias)
	p.add("weight gradient", head, 1, nil, func(_, _ int) {
		for l := range lanes {
			sum := 0.0
			for i := range partial {
				sum += float64(partial[i][l])
			}
			db[l] = float32(sum)
		}
	})
}
