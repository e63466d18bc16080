package plugin

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// checkDescription reports whether a description makes sense.
func checkDescription(d backend.Description) error {
	wrong := func(format string, a ...any) error {
		return &backend.NonsenseError{Plugin: d.Name, Method: "Describe", What: fmt.Sprintf(format, a...)}
	}
	switch {
	case d.Name == "":
		return wrong("no name")
	case d.Version == "" || d.Numerics == "":
		return wrong("no version or no numerics")
	case !slices.Contains([]string{backend.DeterminismNone, backend.DeterminismRun, backend.DeterminismThreads, backend.DeterminismMachine}, d.Determinism):
		return wrong("unknown determinism %q", d.Determinism)
	case len(d.Devices) == 0 || len(d.Precisions) == 0 || len(d.Losses) == 0 || len(d.Operators) == 0:
		return wrong("a device, a precision, a loss and an operator are needed; it names %d, %d, %d and %d",
			len(d.Devices), len(d.Precisions), len(d.Losses), len(d.Operators))
	}
	return nil
}

// Checked wraps a session so that answers which cannot be right become a
// *backend.NonsenseError: numbers that are not finite, wrong shapes, names and
// counts, a state that misses tensors. Client does so for every session.
func Checked(s backend.Session, plugin string, g *nn.Graph, o backend.Options) backend.Session {
	return &checked{Session: s, plugin: plugin, graph: g, options: o, datasets: map[string][]int{}}
}

type checked struct {
	backend.Session
	plugin   string
	graph    *nn.Graph
	options  backend.Options
	datasets map[string][]int // shapes of the images, where known
}

func (s *checked) wrong(method, format string, a ...any) error {
	return &backend.NonsenseError{Plugin: s.plugin, Method: method, What: fmt.Sprintf(format, a...)}
}

func (s *checked) LoadDataset(ctx context.Context, id, path, digest string) error {
	if err := s.Session.LoadDataset(ctx, id, path, digest); err != nil {
		return err
	}
	shape, err := imagesShape(path)
	if err != nil {
		return s.wrong("LoadDataset", "accepted a file that cannot be read: %v", err)
	}
	s.datasets[id] = shape
	return nil
}

func (s *checked) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	n := 0
	err := s.Session.Train(ctx, r, func(p backend.Step) error {
		switch {
		case p.Batch != n || n >= len(r.Batches):
			return s.wrong("Train", "reported batch %d after %d of %d batches", p.Batch, n, len(r.Batches))
		case p.Skipped && s.options.Precision != backend.Mixed:
			return s.wrong("Train", "skipped the step of batch %d in precision %s", p.Batch, s.options.Precision)
		}
		if err := s.loss(p.Loss); err != nil && !p.Skipped { // a skipped step may have overflowed
			return s.wrong("Train", "the loss of batch %d is %v", p.Batch, err)
		}
		n++
		return progress(p)
	})
	if err == nil && n != len(r.Batches) {
		return s.wrong("Train", "reported %d of %d batches", n, len(r.Batches))
	}
	return err
}

// loss returns an error if v cannot be a mean loss of the session.
func (s *checked) loss(v float64) error {
	return backend.CheckLoss(v, s.options.Loss, s.graph.Output.Shape[1], s.options.Precision)
}

func (s *checked) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	e, err := s.Session.Evaluate(ctx, r)
	if err != nil {
		return e, err
	}
	data := s.datasets[r.Dataset] // nil if unknown: a backend should have refused
	n := len(r.Indices)
	if n == 0 && data != nil {
		n = data[0]
	}
	classes := s.graph.Output.Shape[1]
	switch {
	case data == nil:
		return e, s.wrong("Evaluate", "evaluated dataset %q, which was never loaded", r.Dataset)
	case len(e.Loss) != n || len(e.Confusion) != n:
		return e, s.wrong("Evaluate", "%d losses and %d confusion matrices for %d samples", len(e.Loss), len(e.Confusion), n)
	case e.Classes != classes:
		return e, s.wrong("Evaluate", "%d classes, the network has %d", e.Classes, classes)
	}
	for i := range n {
		if err := s.loss(e.Loss[i]); err != nil {
			return e, s.wrong("Evaluate", "the loss of sample %d is %v", i, err)
		}
		sum := int64(0)
		for _, c := range e.Confusion[i] {
			if c < 0 {
				return e, s.wrong("Evaluate", "sample %d has a negative confusion count", i)
			}
			sum += c
		}
		if pixels := int64(data[2]) * int64(data[3]); len(e.Confusion[i]) != classes*classes || sum != pixels {
			return e, s.wrong("Evaluate", "the confusion matrix of sample %d has %d entries and counts %d pixels, must be %d and %d",
				i, len(e.Confusion[i]), sum, classes*classes, pixels)
		}
	}
	return e, nil
}

func (s *checked) Predict(ctx context.Context, images backend.Tensor) (backend.Tensor, error) {
	out, err := s.Session.Predict(ctx, images)
	if err != nil {
		return out, err
	}
	shape, err := s.predicted(images.Shape)
	if err != nil {
		return out, s.wrong("Predict", "accepted an input that the network does not take: %v", err)
	}
	if err := s.tensor(out, shape); err != nil {
		return out, s.wrong("Predict", "output: %v", err)
	}
	return out, nil
}

// predicted is the shape of a prediction from images [N,C,H,W]. A graph that
// fixes its batch predicts several of them.
func (s *checked) predicted(images []int) ([]int, error) {
	batch := slices.Clone(images)
	if n := s.graph.Input.Shape[0]; n > 0 && len(images) > 0 && images[0] > 0 && images[0]%n == 0 {
		batch[0] = n
	}
	shapes, err := s.graph.Shapes(batch)
	if err != nil {
		return nil, err
	}
	out := slices.Clone(shapes[s.graph.Output.Name])
	out[0] = images[0]
	return out, nil
}

// tensor checks a tensor's shape and values. A network in mixed precision may
// overflow without being wrong.
func (s *checked) tensor(t backend.Tensor, shape []int) error {
	return checkTensor(t, shape, s.options.Precision != backend.Mixed)
}

func checkTensor(t backend.Tensor, shape []int, finite bool) error {
	if err := t.Check(); err != nil {
		return err
	}
	if !slices.Equal(t.Shape, shape) {
		return fmt.Errorf("has shape %v, must be %v", t.Shape, shape)
	}
	if !finite {
		return nil
	}
	for i, v := range t.F32 {
		if v-v != 0 {
			return fmt.Errorf("element %d of %v is %v", i, shape, v)
		}
	}
	for i, v := range t.F64 {
		if v-v != 0 {
			return fmt.Errorf("element %d of %v is %v", i, shape, v)
		}
	}
	return nil
}

// named checks tensors against the wanted names, in order, and their shapes.
func (s *checked) named(ts []backend.NamedTensor, names []string, shape func(string) []int) error {
	if len(ts) != len(names) {
		return fmt.Errorf("%d tensors, must be %d", len(ts), len(names))
	}
	for i, t := range ts {
		if t.Name != names[i] {
			return fmt.Errorf("tensor %d is %q, must be %q", i, t.Name, names[i])
		}
		if err := s.tensor(t.Tensor, shape(t.Name)); err != nil {
			return fmt.Errorf("%q %w", t.Name, err)
		}
	}
	return nil
}

func (s *checked) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	loss, ts, err := s.Session.Gradients(ctx, b, frozen)
	if err != nil {
		return loss, ts, err
	}
	if err := s.loss(loss); err != nil && s.options.Precision != backend.Mixed {
		return loss, ts, s.wrong("Gradients", "the loss is %v", err)
	}
	var names []string
	for _, p := range s.graph.Parameters() {
		if !slices.Contains(frozen, nn.Group(p.Name)) {
			names = append(names, p.Name)
		}
	}
	if err := s.named(ts, names, func(name string) []int { return s.graph.Tensor(name).Shape }); err != nil {
		return loss, ts, s.wrong("Gradients", "%v", err)
	}
	return loss, ts, nil
}

func (s *checked) Activations(ctx context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	ts, err := s.Session.Activations(ctx, b, names, training)
	if err != nil {
		return ts, err
	}
	var input []int
	if len(b) > 0 {
		input = slices.Clone(s.datasets[b[0].Dataset])
	}
	if input == nil {
		return ts, s.wrong("Activations", "used a batch without samples of a loaded dataset")
	}
	input[0] = len(b)
	shapes, err := s.graph.Shapes(input)
	if err != nil {
		return ts, s.wrong("Activations", "accepted an input that the network does not take: %v", err)
	}
	if err := s.named(ts, names, func(name string) []int { return shapes[name] }); err != nil {
		return ts, s.wrong("Activations", "%v", err)
	}
	return ts, nil
}

func (s *checked) State(ctx context.Context) ([]byte, error) {
	state, err := s.Session.State(ctx)
	if err != nil {
		return nil, err
	}
	if err := CheckState(s.graph, state); err != nil {
		return nil, s.wrong("State", "%v", err)
	}
	return state, nil
}

// CheckState reports whether state is a complete state of a session with the
// graph: all parameters and statistics, the optimiser's moments for all
// parameters or none, finite values, a step number.
func CheckState(g *nn.Graph, state []byte) error {
	f, err := safetensors.Decode(state)
	if err != nil {
		return err
	}
	moments := 0
	read := func(name string, shape []int) error {
		t, ok := f.Info(name)
		if !ok {
			return fmt.Errorf("tensor %q is missing", name)
		}
		v := backend.Tensor{Shape: t.Shape}
		if t.DType == safetensors.F64 {
			v.F64, err = f.Float64(name)
		} else {
			v.F32, err = f.Float32(name)
		}
		if err != nil {
			return err
		}
		if err := checkTensor(v, shape, true); err != nil {
			return fmt.Errorf("tensor %q: %w", name, err)
		}
		return nil
	}
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		if err := read(t.Name, t.Shape); err != nil {
			return err
		}
		if t.Role != nn.Parameter {
			continue
		}
		for _, m := range []string{backend.FirstMoment, backend.SecondMoment} {
			if _, ok := f.Info(m + t.Name); ok {
				moments++
				if err := read(m+t.Name, t.Shape); err != nil {
					return err
				}
			}
		}
	}
	if want := 2 * len(g.Parameters()); moments != 0 && moments != want {
		return fmt.Errorf("%d of the optimiser's %d moments", moments, want)
	}
	if step, err := strconv.ParseInt(f.Metadata[backend.StepKey], 10, 64); err != nil || step < 0 {
		return fmt.Errorf("metadata %q is %q, must be a decimal number", backend.StepKey, f.Metadata[backend.StepKey])
	}
	return nil
}
