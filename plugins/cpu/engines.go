package cpu

import (
	"errors"
	"fmt"
	"os"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/fast"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// EngineVariable names the environment variable that insists on an engine.
const EngineVariable = "REFOCUS_CPU_ENGINE"

// engineName is the engine insisted on, or "".
func engineName() (string, error) {
	name := os.Getenv(EngineVariable)
	if name != "" && name != "plain" && name != "fast" {
		return "", fmt.Errorf("%s=%s: must be plain or fast", EngineVariable, name)
	}
	return name, nil
}

// engineOptions are the session's, as an engine takes them.
func (s *session) engineOptions() engine.Options {
	return engine.Options{
		Threads:         s.opts.Threads,
		Stop:            &s.stop,
		OnProbabilities: s.opts.Loss == backend.LossOnProbabilities,
		Mixed:           s.opts.Precision == backend.Mixed,
		Beta1:           s.opts.Adam.Beta1,
		Beta2:           s.opts.Adam.Beta2,
		Epsilon:         s.opts.Adam.Epsilon,
	}
}

// compile makes the session's engine. The choice depends on the graph and the
// precision only, never on the machine.
func (s *session) compile() (engine.Engine, error) {
	name, err := engineName()
	if err != nil {
		return nil, err
	}
	if err := plain.Check(s.graph); err != nil {
		return nil, err
	}
	o := s.engineOptions()
	if s.opts.Precision == backend.Float64 {
		if name == "fast" {
			return nil, fmt.Errorf("%s=fast has no float64", EngineVariable)
		}
		return plain.Compile[float64](s.graph, o)
	}
	if name != "plain" {
		e, err := fast.Compile(s.graph, o)
		if err == nil || name == "fast" || !errors.Is(err, engine.ErrUnsupported) {
			return e, err
		}
	}
	return plain.Compile[float32](s.graph, o)
}
