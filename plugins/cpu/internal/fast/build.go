package fast

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
)

// build lists the phases of one kind of call.
func (e *Engine) build(k key, frozen []bool) (*program, error) {
	p := &program{
		e: e, n: k.n, h: k.h, w: k.w, training: k.training, keep: k.keep, mixed: e.options.Precision == backend.Mixed,
		tensors: map[*tensor]*stored{}, norms: make([]normState, len(e.net.norms)),
	}
	for _, t := range e.net.tensors {
		s := &stored{t: t, h: k.h / t.reduce, w: k.w / t.reduce, blocks: blocks(t.channels)}
		s.value = p.buffer(k.n * s.blocks * s.h * s.w * lanes)
		p.tensors[t] = s
	}
	p.roundWeights()
	for _, o := range e.net.ops {
		if o.norm != nil {
			p.normalise(o.norm)
		}
		switch {
		case o.kind == pooling:
			p.forwardPool(o)
		case o.bias != nil:
			p.forwardHead(o)
		case o.upsampled():
			p.forwardUpsampled(o)
		case o.winograd():
			p.forwardWinograd(o)
		default:
			p.forwardDirect(o)
		}
	}
	p.outputs(e.net.ops[len(e.net.ops)-1])
	if k.training && !k.keep {
		if err := p.backward(frozen); err != nil {
			return nil, err
		}
	}
	p.allocate()
	return p, nil
}

// backward appends the backward pass: from the last operator to the first,
// leaving out every gradient that no trained parameter needs.
func (p *program) backward(frozen []bool) error {
	net := p.e.net
	trained := func(q *param) bool { return !(q.index < len(frozen) && frozen[q.index]) }
	trainedNorm := func(m *norm) bool { return m != nil && (trained(m.scale) || trained(m.shift)) }
	needed := map[*tensor]bool{}
	inputNeeded := func(o *op) bool {
		need := trainedNorm(o.norm)
		for _, pt := range o.parts {
			need = need || needed[pt.t]
		}
		return need
	}
	for _, o := range net.ops {
		needed[o.out] = inputNeeded(o) || o.weight != nil && trained(o.weight) || o.bias != nil && trained(o.bias) ||
			o.residual != nil && needed[o.residual]
	}
	room := func(t *tensor) *buffer {
		if !needed[t] {
			return nil
		}
		return p.buffer(p.tensors[t].value.size)
	}
	for i := len(net.ops) - 1; i >= 0; i-- {
		o := net.ops[i]
		out := p.tensors[o.out]
		if !needed[o.out] {
			continue
		}
		if out.grad == nil {
			return unsupported(o.node, "nothing that is trained reads it")
		}
		p.roundGradient(out)
		if o.residual != nil && needed[o.residual] {
			r := p.tensors[o.residual]
			if r.grad != nil {
				return unsupported(o.node, "its residual is read later than the sum")
			}
			r.grad = out.grad
		}
		if o.kind == convolution && trained(o.weight) {
			switch {
			case o.upsampled():
				p.weightUpsampled(o)
			case o.winograd():
				p.weightWinograd(o)
			default:
				p.weightDirect(o)
			}
		}
		if o.bias != nil && trained(o.bias) {
			p.biasGradient(o)
		}
		if o.image || !inputNeeded(o) {
			continue
		}
		if o.norm == nil { // the head
			s := p.tensors[o.parts[0].t]
			s.grad = room(s.t)
			p.backwardHead(o, s.grad)
			continue
		}
		if o != o.norm.readers[0] {
			continue // together with the other readers
		}
		d := make([]*buffer, len(o.parts))
		for i, pt := range o.parts {
			d[i] = room(pt.t)
		}
		switch {
		case o.kind == pooling:
			p.backwardPool(o, d[0])
		case o.upsampled():
			p.backwardUpsampled(o, d[0])
		case o.winograd():
			p.backwardWinograd(o, d)
		default:
			p.backwardDirect(o.norm.readers, o.norm, d[0])
		}
		p.differentiate(o.norm)
		for i := range o.parts {
			if d[i] != nil {
				p.contribute(o.norm, i, d[i])
			}
		}
	}
	return nil
}

// bind gives a program's buffers their places in the engine's arena.
func (p *program) bind() {
	e := p.e
	if len(e.arena) < p.total {
		e.arena = nil
		e.arena = aligned(p.total)
	}
	if p.bound == &e.arena[0] {
		return
	}
	p.bound = &e.arena[0]
	for _, b := range p.buffers {
		if b.first >= 0 {
			b.data = e.arena[b.offset : b.offset+b.size : b.offset+b.size]
		}
	}
	p.scratch = p.scratch[:0]
	private := (p.private + 15) / 16 * 16
	for w := range e.pool.threads {
		o := p.total - (w+1)*private
		p.scratch = append(p.scratch, e.arena[o:o+private:o+private])
	}
}

var _ engine.Engine = (*Engine)(nil)
