package gorgonia

import (
	"context"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"

	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// Name of the backend, as in refocus-backend-gorgonia.
const Name = "gorgonia"

// numerics changes whenever the bits of a result may change; what else they
// depend on is appended.
const numerics = "gorgonia-1"

// maxThreads bounds what a session may ask for.
const maxThreads = 1024

// New returns the backend. version is the software's version, for people.
func New(version string) backend.Backend { return engine{version} }

type engine struct{ version string }

func (e engine) Describe(context.Context) (backend.Description, error) {
	p := here()
	d := backend.Description{
		Name:        Name,
		Version:     e.version,
		Numerics:    numerics + "-" + p.numerics,
		Determinism: p.determinism,
		Devices:     p.devices,
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities, backend.LossOnLogits},
		Notes:       []string{p.note},
	}
	for _, op := range slices.Sorted(maps.Keys(known)) {
		d.Operators = append(d.Operators, backend.Operator{Type: op, Device: p.kind, Note: notes[op]})
	}
	return d, nil
}

// notes are the operators' restrictions.
var notes = map[string]string{
	"Conv":    "2-D, group 1, no dilation",
	"MaxPool": "2-D, no dilation",
	"Resize":  "nearest, asymmetric, floor, whole factors",
	"Concat":  "channels",
	"Softmax": "channels",
	"Add":     "equal shapes",
}

func (e engine) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	o = o.WithDefaults()
	if o.Precision != backend.Float32 {
		return nil, fmt.Errorf("precision %q: %w, only %s", o.Precision, backend.ErrUnsupported, backend.Float32)
	}
	if o.Loss != backend.LossOnProbabilities && o.Loss != backend.LossOnLogits {
		return nil, fmt.Errorf("loss %q: %w", o.Loss, backend.ErrUnsupported)
	}
	p := here()
	if o.Device == "" && len(p.devices) > 0 {
		o.Device = p.devices[0].Name
	}
	if !slices.ContainsFunc(p.devices, func(d backend.Device) bool { return d.Name == o.Device }) {
		return nil, fmt.Errorf("device %q: %w here; %s", o.Device, backend.ErrUnsupported, p.note)
	}
	if o.Threads < 0 || o.Threads > maxThreads {
		return nil, fmt.Errorf("%d threads: must be from 0 (all processors) to %d", o.Threads, maxThreads)
	}
	if a := o.Adam; !(a.Beta1 >= 0 && a.Beta1 < 1 && a.Beta2 >= 0 && a.Beta2 < 1 && a.Epsilon > 0 && !math.IsInf(a.Epsilon, 0)) {
		return nil, fmt.Errorf("Adam with β %g, %g and ε %g: β must lie in [0, 1), ε above 0", a.Beta1, a.Beta2, a.Epsilon)
	}
	if err := check(g); err != nil {
		return nil, err
	}
	if o.Threads == 0 {
		o.Threads = runtime.GOMAXPROCS(0)
	}
	s := &session{
		net:      g.Clone(),
		options:  o,
		exec:     &executor{workers: kernel.NewWorkers(o.Threads), arena: newArena()},
		weights:  map[string]*tensor.Dense{},
		datasets: map[string]*dataset{},
	}
	for _, t := range s.net.Tensors {
		if t.Role != nn.Constant {
			s.weights[t.Name] = tensor.New(tensor.WithShape(t.Shape...), tensor.WithBacking(t.Data))
		}
	}
	s.adam = &adam{Adam: o.Adam, workers: s.exec.workers}
	s.adam.reset(s.net.Parameters())
	if p.open == nil {
		return s, nil
	}
	device, err := p.open(o.Device)
	if err != nil {
		return nil, fmt.Errorf("device %q: %w", o.Device, err)
	}
	s.exec.device = device
	if err = device.supports(g); err == nil {
		err = device.upload(s)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}
