package fast

import (
	"math"

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
		for i := y0 * s.w; i < y1*s.w; i++ {
			if two {
				label := -1
				if p.labels != nil {
					label = int(p.labels[n*s.h*s.w+i])
				}
				l, d, p0, p1 := studyLoss(float64(z[i*lanes+1])-float64(z[i*lanes]), label)
				sum += l
				if p.out != nil {
					at := 2*n*s.h*s.w + i
					p.out[at], p.out[at+s.h*s.w] = float64(float32(p0)), float64(float32(p1))
				}
				if g != nil {
					v := float32(d * unit)
					g[i*lanes], g[i*lanes+1] = -v, v
					clear(g[i*lanes+2 : i*lanes+lanes])
				}
				continue
			}
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

// studyLoss is the cross entropy of the softmax of the probabilities of two
// classes whose logits differ by d, its derivative with respect to d and the
// probabilities; without a label (−1) the loss is zero.
//
// With e the difference of the probabilities towards the label, the loss is
// ln(1+exp(−e)) = ln 2 + ln cosh(e/2) − e/2. As |e| ≤ 1, short Taylor series do:
// the first terms left out are below 10⁻⁹, a hundredth of float32's rounding.
func studyLoss(d float64, label int) (loss, derivative, p0, p1 float64) {
	// Beyond ±80 the smaller probability is nought in any sum.
	x := exp(-max(-80, min(80, d)))
	p1 = 1 / (1 + x)
	p0 = x * p1
	if label < 0 {
		return 0, 0, p0, p1
	}
	e, sign := p1-p0, 1.0
	if label == 0 {
		e, sign = -e, -1
	}
	w := float64(e * e)
	th, lc := polynomial(w, &tanhHalf), polynomial(w, &logCoshHalf)
	loss = math.Ln2 + (float64(lc*w) - float64(e/2))
	// The softmax of the probabilities gives the other class 1/2 − tanh(e/2)/2.
	other := 0.5 - float64(0.5*float64(th*e))
	return loss, -sign * 2 * float64(p0*p1) * other, p0, p1
}

// exp is eˣ for |x| ≤ 80 with a relative error below 10⁻⁹, several times faster
// than pmath's. It keeps NaN.
func exp(x float64) float64 {
	k := math.Floor(float64(x*(1/math.Ln2)) + 0.5)
	y := polynomial(x-float64(k*math.Ln2), &inverseFactorials)
	return y * math.Float64frombits(uint64(int64(k)+1023)<<52)
}

// polynomial evaluates c₀ + c₁x + … + c₉x⁹ in pairs of pairs, whose products do
// not wait for each other as Horner's do.
func polynomial(x float64, c *[10]float64) float64 {
	x2 := float64(x * x)
	x4 := float64(x2 * x2)
	a, b := c[0]+float64(c[1]*x), c[2]+float64(c[3]*x)
	d, e := c[4]+float64(c[5]*x), c[6]+float64(c[7]*x)
	f := c[8] + float64(c[9]*x)
	return (a + float64(b*x2)) + float64(((d+float64(e*x2))+float64(f*x4))*x4)
}

// Taylor coefficients of eˣ, and of tanh(e/2)/e and ln cosh(e/2)/e² in powers
// of e².
var (
	inverseFactorials = [10]float64{1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880}
	tanhHalf          = [10]float64{
		0.5, -0.041666666666666664, 0.004166666666666667, -0.00042162698412698415, 4.271384479717813e-05,
		-4.327751723585057e-06, 4.384921919644142e-07, -4.4428539643900096e-08, 4.501552131237686e-09, -4.5610258911810394e-10,
	}
	logCoshHalf = [10]float64{
		0.125, -0.005208333333333333, 0.00034722222222222224, -2.635168650793651e-05, 2.1356922398589067e-06,
		-1.803229884827107e-07, 1.5660435427300506e-08, -1.388391863871878e-09, 1.250431147566024e-10, -1.1402564727952599e-11,
	}
)

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
// sums per image.
func (p *program) biasGradient(head *op) {
	s := p.tensors[head.out]
	partial := make([][lanes]float64, p.n)
	p.add("weight gradient", head, p.n, []*buffer{s.grad}, func(_, n int) {
		var sum [lanes]float64
		g := s.plane(s.grad.data, n, 0)
		for i, v := range g {
			sum[i%lanes] += float64(v)
		}
		partial[n] = sum
	})
	db := p.e.slice(p.e.grads, head.bias)
	p.add("weight gradient", head, 1, nil, func(_, _ int) {
		for l := range lanes {
			sum := 0.0
			for n := range partial {
				sum += partial[n][l]
			}
			db[l] = float32(sum)
		}
	})
}
