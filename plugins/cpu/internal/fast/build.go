package fast

import (
	"slices"

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
	ops := p.e.net.ops
	b := &backward{program: p, frozen: frozen, needed: map[*tensor]bool{}}
	for _, o := range ops {
		b.needed[o.out] = b.needsInput(o) || o.weight != nil && b.trained(o.weight) || o.bias != nil && b.trained(o.bias) ||
			o.residual != nil && b.needed[o.residual]
	}
	for _, o := range slices.Backward(ops) {
		if !b.needed[o.out] {
			continue
		}
		if err := b.operator(o); err != nil {
			return err
		}
	}
	return nil
}

// backward is a backward pass while it is put together.
type backward struct {
	*program
	frozen []bool           // by index of the parameter
	needed map[*tensor]bool // gradients that a trained parameter needs
}

func (b *backward) trained(q *param) bool { return !(q.index < len(b.frozen) && b.frozen[q.index]) }

// needsInput reports whether the gradient of what the operator reads is needed.
func (b *backward) needsInput(o *op) bool {
	if m := o.norm; m != nil && (b.trained(m.scale) || b.trained(m.shift)) {
		return true
	}
	return slices.ContainsFunc(o.parts, func(pt part) bool { return b.needed[pt.t] })
}

// room is a buffer for a tensor's gradient, nil where that is not needed.
func (b *backward) room(t *tensor) *buffer {
	if !b.needed[t] {
		return nil
	}
	return b.buffer(b.tensors[t].value.size)
}

// operator hands an operator's gradient on to its parameters and to what it
// reads.
func (b *backward) operator(o *op) error {
	out := b.tensors[o.out]
	if out.grad == nil {
		return unsupported(o.node, "nothing that is trained reads it")
	}
	b.roundGradient(out)
	if o.residual != nil && b.needed[o.residual] {
		r := b.tensors[o.residual]
		if r.grad != nil {
			return unsupported(o.node, "its residual is read later than the sum")
		}
		r.grad = out.grad
	}
	if o.kind == convolution && b.trained(o.weight) {
		switch {
		case o.upsampled():
			b.weightUpsampled(o)
		case o.winograd():
			b.weightWinograd(o)
		default:
			b.weightDirect(o)
		}
	}
	if o.bias != nil && b.trained(o.bias) {
		b.biasGradient(o)
	}
	if !o.image && b.needsInput(o) {
		b.input(o)
	}
	return nil
}

// input appends the gradient of what the operator reads: together with that of
// the other readers of the same activation, when their first one is reached.
func (b *backward) input(o *op) {
	if o.norm == nil { // the head
		s := b.tensors[o.parts[0].t]
		s.grad = b.room(s.t)
		b.backwardHead(o, s.grad)
		return
	}
	if o != o.norm.readers[0] {
		return
	}
	d := make([]*buffer, len(o.parts))
	for i, pt := range o.parts {
		d[i] = b.room(pt.t)
	}
	switch {
	case o.kind == pooling:
		b.backwardPool(o, d[0])
	case o.upsampled():
		b.backwardUpsampled(o, d[0])
	case o.winograd():
		b.backwardWinograd(o, d)
	default:
		b.backwardDirect(o.norm.readers, o.norm, d[0])
	}
	b.differentiate(o.norm)
	for i := range o.parts {
		if d[i] != nil {
			b.contribute(o.norm, i, d[i])
		}
	}
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
