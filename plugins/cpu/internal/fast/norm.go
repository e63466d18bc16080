package fast

import (
	"math"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// normState is what a BatchNormalization works with during a step.
type normState struct {
	// params are scale, shift and mean of each block: y = scale·x + shift.
	params []kernel.Params
	root   [][lanes]float64 // 1/√(variance + ε)
	// backward takes the masked gradient d of y to the gradient of x:
	// back₀·d + back₁·x + back₂.
	back []kernel.Params
	// sums of d and of d·(x − mean) per unit and block of each part.
	sums [][]kernel.Sums
	// ready says that params have been computed by an earlier phase.
	ready bool
}

// measure holds the sums of a tensor and its squares that its producer leaves,
// per unit (a rectangle of one image) and block.
type measure struct {
	sums  []kernel.Sums
	units int
}

// total adds up one lane's sums of a block over all units, in order.
func total(sums []kernel.Sums, units, blocks, block, which, lane int) float64 {
	s := 0.0
	for u := range units {
		s += float64(sums[u*blocks+block][which][lane])
	}
	return s
}

// normalise appends the phase that turns a norm's statistics into parameters.
func (p *program) normalise(m *norm) {
	st := &p.norms[m.position]
	if st.ready {
		return
	}
	st.ready = true
	st.params = make([]kernel.Params, m.blocks)
	st.root = make([][lanes]float64, m.blocks)
	e := p.e
	scale, shift := e.slice(e.values, m.scale), e.slice(e.values, m.shift)
	mean, variance := e.slice(e.values, m.mean), e.slice(e.values, m.variance)
	p.add("statistics", nil, m.blocks, nil, func(_, block int) {
		pt := m.part(block)
		s := p.tensors[pt.t]
		b := block - pt.first
		for l := range lanes {
			c := b*lanes + l
			if c >= pt.t.channels {
				continue
			}
			i := pt.firstChannel + c
			mu, v := float64(mean[i]), float64(variance[i])
			if p.training {
				q := s.measure
				n := float64(p.n * s.h * s.w)
				mu = total(q.sums, q.units, s.blocks, b, 0, l) / n
				v = max(0, total(q.sums, q.units, s.blocks, b, 1, l)/n-float64(mu*mu))
				if p.statistics {
					if pt.up {
						n *= 4
					}
					k := m.momentum
					mean[i] = float32(float64(k*float64(mean[i])) + float64((1-k)*mu))
					variance[i] = float32(float64(k*float64(variance[i])) + float64((1-k)*float64(v*(n/max(1, n-1)))))
				}
			}
			r := 1 / math.Sqrt(v+m.epsilon)
			a := float64(scale[i]) * r
			st.root[block][l] = r
			st.params[block][0][l] = float32(a)
			st.params[block][1][l] = float32(float64(shift[i]) - float64(mu*a))
			st.params[block][2][l] = float32(mu)
		}
	})
}

// part returns the part that holds a block.
func (m *norm) part(block int) part {
	i := len(m.parts) - 1
	for m.parts[i].first > block {
		i--
	}
	return m.parts[i]
}

// differentiate appends the phase that turns the sums of the masked gradient
// into the gradients of scale and shift and the constants of the backward map.
func (p *program) differentiate(m *norm) {
	st := &p.norms[m.position]
	st.back = make([]kernel.Params, m.blocks)
	e := p.e
	scale := e.slice(e.values, m.scale)
	dscale, dshift := e.slice(e.grads, m.scale), e.slice(e.grads, m.shift)
	p.add("statistics", nil, m.blocks, nil, func(_, block int) {
		k := 0
		for k+1 < len(m.parts) && m.parts[k+1].first <= block {
			k++
		}
		pt := m.parts[k]
		s := p.tensors[pt.t]
		b := block - pt.first
		units := len(st.sums[k]) / s.blocks
		n := float64(p.n * s.h * s.w)
		for l := range lanes {
			c := b*lanes + l
			if c >= pt.t.channels {
				continue
			}
			i := pt.firstChannel + c
			r := st.root[block][l]
			mu := float64(st.params[block][2][l])
			beta := total(st.sums[k], units, s.blocks, b, 0, l)
			gamma := total(st.sums[k], units, s.blocks, b, 1, l) * r
			dshift[i], dscale[i] = float32(beta), float32(gamma)
			a := float64(scale[i]) * r
			k1 := -a * r * gamma / n
			st.back[block][0][l] = float32(a)
			st.back[block][1][l] = float32(k1)
			st.back[block][2][l] = float32(-float64(a*beta)/n - float64(k1*mu))
		}
	})
}

// contribute appends the phase that takes the masked gradient d of an
// activation's part to the gradient of its tensor and adds it to what is there.
func (p *program) contribute(m *norm, k int, d *buffer) {
	pt := m.parts[k]
	s := p.tensors[pt.t]
	st := &p.norms[m.position]
	before := s.grad
	s.grad = d
	p.add("normalisation gradient", nil, p.n*s.blocks, []*buffer{d, s.value, before}, func(_, task int) {
		n, b := task/s.blocks, task%s.blocks
		at := func(x *buffer) kernel.Block {
			return kernel.Block{Data: s.plane(x.data, n, b), Row: s.w * lanes, Col: lanes}
		}
		g, back := at(d), &st.back[pt.first+b]
		if before == nil {
			p.e.kernels.Affine(g, g, at(s.value), s.h, s.w, back)
		} else {
			p.e.kernels.AffineAdd(g, g, at(s.value), at(before), s.h, s.w, back)
		}
	})
}
