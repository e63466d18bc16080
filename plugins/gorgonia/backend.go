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

// numerics changes whenever the bits of a result may change; the kernels'
// instruction set is appended, which they depend on too.
const numerics = "gorgonia-1"

// processor is the name and the kind of the device that is always there.
const processor = "cpu"

// maxThreads bounds what a session may ask for.
const maxThreads = 1024

// New returns the backend. version is the software's version, for people.
func New(version string) backend.Backend { return engine{version} }

type engine struct{ version string }

func (e engine) Describe(context.Context) (backend.Description, error) {
	d := backend.Description{
		Name:        Name,
		Version:     e.version,
		Numerics:    numerics + "-" + kernel.ISA(),
		Determinism: backend.DeterminismThreads,
		Devices:     []backend.Device{{Name: processor, Kind: processor, Info: fmt.Sprintf("%d threads, %s", runtime.GOMAXPROCS(0), kernel.ISA())}},
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities, backend.LossOnLogits},
	}
	kinds := []string{processor}
	c := cuda()
	if len(c.devices) > 0 {
		// A device, where there is one, is the default, and what the claims are
		// about.
		d.Devices = append(c.devices, d.Devices...)
		d.Numerics = numerics + "-" + c.numerics
		d.Determinism = backend.DeterminismNone
		kinds = []string{c.devices[0].Kind, processor}
	}
	for _, op := range slices.Sorted(maps.Keys(known)) {
		for _, kind := range kinds {
			d.Operators = append(d.Operators, backend.Operator{Type: op, Device: kind, Note: notes[op]})
		}
	}
	if c.note != "" {
		d.Notes = append(d.Notes, c.note)
	}
	return d, nil
}

// notes are the operators' restrictions.
var notes = map[string]string{
	"Conv":    "2-D, group 1, no dilation",
	"MaxPool": "2-D, no dilation",
	"Resize":  "nearest, asymmetric, floor, whole factors",
	"Concat":  "channels",
	"Softmax": "channels; the last operator",
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
	c := cuda()
	names := []string{processor}
	for i, d := range c.devices {
		names = slices.Insert(names, i, d.Name)
	}
	if o.Device == "" {
		o.Device = names[0]
	}
	if !slices.Contains(names, o.Device) {
		return nil, fmt.Errorf("device %q: %w here, only %q", o.Device, backend.ErrUnsupported, names)
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
	if o.Device == processor {
		return s, nil
	}
	device, err := c.open(o.Device)
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
