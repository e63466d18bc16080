package fast

import (
	"fmt"

	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
)

// Activations implements engine.Engine. Values that the engine never holds
// (normalised, upsampled, joined) are computed from those that it does.
func (e *Engine) Activations(b engine.Batch, names []string, training bool) (map[string][]float64, error) {
	if err := e.check(b); err != nil {
		return nil, err
	}
	for _, n := range names {
		if e.net.values[n] == nil {
			return nil, fmt.Errorf("value %q is not available from this engine: %w", n, engine.ErrUnsupported)
		}
	}
	p, err := e.program(key{n: b.N, h: b.H, w: b.W, training: training, keep: true}, nil)
	if err != nil {
		return nil, err
	}
	out := make([]float32, b.N*e.net.classes*b.H*b.W)
	p.out, p.scale, p.statistics = out, 1, false
	if err := e.run(p, b); err != nil {
		return nil, err
	}
	r := map[string][]float64{}
	for _, name := range names {
		switch v := e.net.values[name]; {
		case v.final:
			r[name] = widened(out)
		case name == e.net.graph.Input.Name:
			r[name] = widened(b.Images)
		default:
			r[name] = p.read(v)
		}
	}
	return r, nil
}

func widened(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// read returns a value as [N,C,H,W].
func (p *program) read(v *value) []float64 {
	parts := v.parts
	if v.head != nil {
		parts = []part{{t: v.head.out}}
	}
	scale := 1
	if parts[0].up {
		scale = 2
	}
	first := p.tensors[parts[0].t]
	h, w := first.h*scale, first.w*scale
	channels := 0
	for _, pt := range parts {
		channels += pt.t.channels
	}
	r := make([]float64, 0, p.n*channels*h*w)
	for n := range p.n {
		for _, pt := range parts {
			s := p.tensors[pt.t]
			scale := h / s.h
			for c := range pt.t.channels {
				plane := s.plane(s.value.data, n, c/lanes)
				for y := range h {
					for x := range w {
						z := plane[(y/scale*s.w+x/scale)*lanes+c%lanes]
						if v.norm != nil {
							a := &p.norms[v.norm.position].params[pt.first+c/lanes]
							z = float32(float32(z*a[0][c%lanes]) + a[1][c%lanes])
						}
						if v.relu {
							z = max(z, 0)
						}
						r = append(r, float64(z))
					}
				}
			}
		}
	}
	return r
}
