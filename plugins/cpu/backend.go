package cpu

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// numerics is the version of the bits: it changes with every change of the
// digests in testdata.
const numerics = "cpu-2"

// maxThreads bounds what a session may ask for.
const maxThreads = 1024

type cpu struct{ version string }

// New returns the CPU backend of the given software version.
func New(version string) backend.Backend { return cpu{version} }

// Describe implements backend.Backend.
func (c cpu) Describe(ctx context.Context) (backend.Description, error) {
	name, err := engineName()
	if err != nil {
		return backend.Description{}, err
	}
	kernels, err := kernel.Select("")
	if err != nil {
		return backend.Description{}, err
	}
	d := backend.Description{
		Name:        "cpu",
		Version:     c.version,
		Numerics:    numerics,
		Determinism: backend.DeterminismMachine,
		Devices: []backend.Device{{
			Name: "cpu", Kind: "cpu",
			Info: fmt.Sprintf("%d threads, %s", runtime.GOMAXPROCS(0), kernels.Name),
		}},
		Precisions: []string{backend.Float32, backend.Float64, backend.Mixed},
		Losses:     []string{backend.LossOnProbabilities, backend.LossOnLogits},
	}
	d.Notes = append(d.Notes, "networks outside the study's U-Net family, and float64, run on plain loops: correct, but many times slower")
	for _, o := range plain.Operators() {
		d.Operators = append(d.Operators, backend.Operator{Type: o.Type, Device: "cpu", Note: o.Note})
	}
	if name != "" {
		d.Numerics += "-" + name
		d.Notes = append(d.Notes, EngineVariable+" insists on the "+name+" engine")
	}
	return d, nil
}

// Open implements backend.Backend.
func (c cpu) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	o = o.WithDefaults()
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	switch {
	case !slices.Contains([]string{backend.Float32, backend.Float64, backend.Mixed}, o.Precision):
		return nil, fmt.Errorf("precision %q: the cpu backend has float32, float64 and mixed", o.Precision)
	case o.Loss != backend.LossOnProbabilities && o.Loss != backend.LossOnLogits:
		return nil, fmt.Errorf("loss %q: the cpu backend has %q and %q", o.Loss, backend.LossOnProbabilities, backend.LossOnLogits)
	case o.Device != "" && o.Device != "cpu":
		return nil, fmt.Errorf("device %q: the cpu backend has only \"cpu\"", o.Device)
	case o.Threads < 1 || o.Threads > maxThreads:
		return nil, fmt.Errorf("%d threads: must be from 1 to %d, or 0 for one per processor", o.Threads, maxThreads)
	case !(o.Adam.Beta1 >= 0 && o.Adam.Beta1 < 1 && o.Adam.Beta2 >= 0 && o.Adam.Beta2 < 1 && o.Adam.Epsilon > 0 && o.Adam.Epsilon < 1):
		return nil, fmt.Errorf("constants %+v of Adam: β must be in [0, 1), ε in (0, 1)", o.Adam)
	}
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("network %q: %w", g.Name, err)
	}
	if len(g.Input.Shape) != 4 || g.Input.Shape[1] < 1 {
		return nil, fmt.Errorf("network %q: input of shape %v, not images [N,C,H,W] with a fixed number of channels", g.Name, g.Input.Shape)
	}
	s := &session{graph: g.Clone(), opts: o, datasets: map[string]*dataset{}}
	s.params = s.graph.Parameters()
	s.frozen = make([]bool, len(s.params))
	if o.Precision == backend.Mixed {
		s.scale = initialScale
	}
	var err error
	if s.engine, err = s.compile(); err != nil {
		return nil, fmt.Errorf("network %q: %w", g.Name, err)
	}
	return s, nil
}
