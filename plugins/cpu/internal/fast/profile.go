package fast

import (
	"time"

	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// Phase is one pass over one layer.
type Phase struct {
	Layer        string // the node; "" for what belongs to none
	Pass         string // "forward", "data gradient", "weight gradient", …
	MultiplyAdds int64  // of the convolution computed directly, in one pass
	Time         time.Duration
}

// Profile is Gradients without statistics, phase by phase, after one that is not
// timed. clock is any clock: of the wall, or of the processor time of the thread
// where the engine has one.
func (e *Engine) Profile(b engine.Batch, frozen []bool, clock func() time.Duration) ([]Phase, error) {
	if _, err := e.Gradients(b, frozen, 1, false); err != nil {
		return nil, err
	}
	n, h, w := b.Size()
	p := e.programs[key{n: n, h: h, w: w, training: true, frozen: mask(frozen)}]
	p.images, p.labels, p.scale, p.statistics = b.Images.F32, b.Labels, 1, false
	defer func() { p.images, p.labels = nil, nil }()
	var phases []Phase
	for i := range p.phases {
		ph := &p.phases[i]
		start := clock()
		e.pool.run(ph.tasks, ph.f)
		took := clock() - start
		r := Phase{Pass: ph.name, Time: took}
		if o := ph.op; o != nil {
			r.Layer = o.node.Name
			if o.kind == convolution {
				s := p.tensors[o.out]
				r.MultiplyAdds = int64(p.n*s.h*s.w) * int64(o.outChannels*o.inChannels*o.taps())
			}
		}
		// Phases of one pass of a layer follow each other.
		if k := len(phases) - 1; k >= 0 && phases[k].Layer == r.Layer && phases[k].Pass == r.Pass {
			phases[k].Time += took
			continue
		}
		phases = append(phases, r)
	}
	return phases, nil
}

// Peak measures the fused multiply-adds of all threads together, in
// operations per second (a multiply-add is two). It is zero on the portable
// kernels, which emulate them.
func (e *Engine) Peak() float64 {
	if e.kernels.Peak == nil {
		return 0
	}
	const n, tries = 200000, 20
	best := 0.0
	for range tries {
		start := time.Now()
		e.pool.run(e.pool.threads, func(_, _ int) { e.kernels.Peak(n) })
		best = max(best, float64(e.pool.threads)*n*kernel.PeakFlops/time.Since(start).Seconds())
	}
	return best
}
