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
			return fastEngine{e, g, o}, nil
		}
		if name == "fast" || !errors.Is(err, backend.ErrUnsupported) {
			return nil, err
		}
	}
	return plain.Compile[float32](g, o)
}

// fastEngine is the fast engine, for which plain loops take over where it is
// asked for a value that it never holds by itself, because it computes it
// together with the next one.
type fastEngine struct {
	*fast.Engine
	graph   *nn.Graph
	options engine.Options
}

// Activations implements engine.Engine.
func (e fastEngine) Activations(b engine.Batch, training bool, out []backend.NamedTensor) error {
	err := e.Engine.Activations(b, training, out)
	if !errors.Is(err, backend.ErrUnsupported) {
		return err
	}
	p, err := plain.Compile[float32](e.graph, e.options)
	if err != nil {
		return err
	}
	defer p.Close()
	var values []backend.NamedTensor
	for _, t := range e.graph.Tensors {
		if t.Role != nn.Constant {
			values = append(values, backend.NamedTensor{Name: t.Name, Tensor: backend.Tensor{Shape: t.Shape, F32: make([]float32, t.Len())}})
		}
	}
	if err := e.Get(engine.Value, values); err != nil {
		return err
	}
	if err := p.Set(engine.Value, values); err != nil {
		return err
	}
	return p.Activations(b, training, out)
}
