package cpu

import (
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// compile chooses the engine for a session.
func compile(g *nn.Graph, o backend.Options, stop *atomic.Bool) (engine.Engine, error) {
	eo := engine.Options{
		Threads:         o.Threads,
		Stop:            stop,
		OnProbabilities: o.Loss == backend.LossOnProbabilities,
		Mixed:           o.Precision == backend.Mixed,
		Beta1:           o.Adam.Beta1,
		Beta2:           o.Adam.Beta2,
		Epsilon:         o.Adam.Epsilon,
	}
	if o.Precision == backend.Float64 {
		return plain.Compile[float64](g, eo)
	}
	return plain.Compile[float32](g, eo)
}
