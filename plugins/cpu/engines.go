package cpu

import (
	"errors"
	"fmt"
	"os"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
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

// compile makes an engine: fast for what it executes, else plain. The choice
// depends on the graph and the precision only, never on the machine.
func compile(g *nn.Graph, o engine.Options) (engine.Engine, error) {
	name, err := engineName()
	if err != nil {
		return nil, err
	}
	if err := plain.Check(g); err != nil {
		return nil, err
	}
	if o.Precision == backend.Float64 {
		if name == "fast" {
			return nil, fmt.Errorf("%s=fast has no float64: %w", EngineVariable, backend.ErrUnsupported)
		}
		return plain.Compile[float64](g, o)
	}
	if name != "plain" {
		e, err := fast.Compile(g, o)
		if err == nil {
			return e, nil
		}
		if name == "fast" || !errors.Is(err, backend.ErrUnsupported) {
			return nil, err
		}
	}
	return plain.Compile[float32](g, o)
}

// memory is what an engine of the network takes, as far as it is planned before it runs.
func memory(g *nn.Graph, o engine.Options, r backend.MemoryRequest) (int64, error) {
	e, err := compile(g, o)
	if err != nil {
		return 0, err
	}
	defer e.Close()
	f, ok := e.(*fast.Engine)
	if !ok {
		return 0, fmt.Errorf("the memory of networks and precisions that run on plain loops: %w", backend.ErrUnsupported)
	}
	return f.Memory(r.Batch, r.Height, r.Width, r.Training)
}
