package fast

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// Activations implements engine.Engine. Values that the engine never holds
// (normalised, upsampled, joined, a convolution inside a residual sum) are computed
// from those that it does.
func (e *Engine) Activations(b engine.Batch, training bool, values []backend.NamedTensor) error {
	if err := e.check(b); err != nil {
		return err
	}
	for _, t := range values {
		if e.net.values[t.Name] == nil {
			return fmt.Errorf("value %q is not available from this engine: %w", t.Name, backend.ErrUnsupported)
		}
	}
	n, h, w := b.Size()
	p, err := e.program(key{n: n, h: h, w: w, training: training, keep: true}, nil)
	if err != nil {
		return err
	}
	out := make([]float32, n*e.net.classes*h*w)
	p.out, p.scale, p.statistics = out, 1, false
	if err := e.run(p, b); err != nil {
		return err
	}
	for _, t := range values {
		switch v := e.net.values[t.Name]; {
		case v.final:
			copy(t.F32, out)
		case t.Name == e.net.graph.Input.Name:
			copy(t.F32, b.Images.F32)
		default:
			p.read(v, t.F32)
		}
	}
	return nil
}

// read fills dst with a value as [N,C,H,W].
func (p *program) read(v *value, dst []float32) {
	parts := v.parts
	if v.head != nil {
		parts = []part{{t: v.head.out}}
	}
	scale := 1
	if parts[0].up {
		scale = 2
	}
	var residual *stored
	if v.minus != nil {
		residual = p.tensors[v.minus]
	}
	first := p.tensors[parts[0].t]
	h, w := first.h*scale, first.w*scale
	r := dst[:0]
	for n := range p.n {
		for _, pt := range parts {
			s := p.tensors[pt.t]
			scale := h / s.h
			for c := range pt.t.channels {
				plane := s.plane(s.value.data, n, c/lanes)
				for y := range h {
					for x := range w {
						at := (y/scale*s.w+x/scale)*lanes + c%lanes
						z := plane[at]
						if residual != nil {
							z -= residual.plane(residual.value.data, n, c/lanes)[at]
						}
						if v.norm != nil {
							a := &p.norms[v.norm.position].params[pt.first+c/lanes]
							z = kernel.FMA(z, a[0][c%lanes], a[1][c%lanes])
						}
						if v.relu {
							z = max(z, 0)
						}
						r = append(r, z)
					}
				}
			}
		}
	}
}
