package gorgonia

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// maxPlans is how many compiled plans a session keeps. A training stage uses
// four: full and last batch, of training and of validation.
const maxPlans = 6

// session implements backend.Session.
type session struct {
	net      *nn.Graph
	options  backend.Options
	exec     *executor
	weights  map[string]*tensor.Dense // parameters and statistics, shared by all plans
	adam     *adam
	datasets map[string]*dataset
	plans    []*cached // most recently used first
	scratch  scratch
	labels   []uint8
	closed   bool
}

type cached struct {
	key  string
	plan *plan
}

// plan returns the compiled plan for a request.
func (s *session) plan(r request) (*plan, error) {
	key := fmt.Sprintf("%v", r)
	for i, c := range s.plans {
		if c.key == key {
			copy(s.plans[1:i+1], s.plans[:i])
			s.plans[0] = c
			return c.plan, nil
		}
	}
	p, err := newPlan(s.net, s.exec, s.weights, r)
	if err != nil {
		return nil, err
	}
	s.plans = slices.Insert(s.plans, 0, &cached{key, p})
	if len(s.plans) > maxPlans {
		s.plans[maxPlans].plan.machine.Close()
		s.plans = s.plans[:maxPlans]
		// The memory lent to the plan's values may fit no other plan.
		s.exec.arena.release()
		s.exec.workers.Release()
	}
	return p, nil
}

// usable says why a method cannot start.
func (s *session) usable(ctx context.Context) error {
	if s.closed {
		return errors.New("the session is closed")
	}
	return ctx.Err()
}

func (s *session) LoadDataset(ctx context.Context, id, path, digest string) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	d, err := openDataset(ctx, path, digest, s.net.Input.Shape[1])
	if err != nil {
		return fmt.Errorf("dataset %q: %w", id, err)
	}
	if old := s.datasets[id]; old != nil {
		old.file.Close()
	}
	s.datasets[id] = d
	return nil
}

// shape is the input shape of a batch.
func (s *session) shape(b []backend.Sample) ([]int, error) {
	if len(b) == 0 {
		return nil, errors.New("the batch is empty")
	}
	var first *dataset
	for _, v := range b {
		d := s.datasets[v.Dataset]
		if d == nil {
			return nil, fmt.Errorf("dataset %q has not been loaded", v.Dataset)
		}
		if first == nil {
			first = d
		}
		if d.c != first.c || d.h != first.h || d.w != first.w {
			return nil, fmt.Errorf("a batch mixes images of %d×%d (dataset %q) and %d×%d (dataset %q)",
				first.h, first.w, b[0].Dataset, d.h, d.w, v.Dataset)
		}
	}
	return []int{len(b), first.c, first.h, first.w}, nil
}

// fill reads a batch into a plan's inputs; the labels are left in s.labels.
func (s *session) fill(p *plan, b []backend.Sample) error {
	images := p.images.Data().([]float32)
	size := len(images) / len(b)
	pixels := size / p.images.Shape()[1]
	if len(s.labels) < len(b)*pixels {
		s.labels = make([]uint8, len(b)*pixels)
	}
	for i, v := range b {
		label := s.labels[i*pixels:][:pixels]
		if err := s.datasets[v.Dataset].sample(v, p.classes, images[i*size:][:size], label, &s.scratch); err != nil {
			return err
		}
	}
	if p.labels != nil {
		numbers := p.labels.Data().([]float32)
		for i := range numbers {
			numbers[i] = float32(s.labels[i])
		}
	}
	return nil
}

// differentiate runs a batch forwards and backwards. The caller must call done.
func (s *session) differentiate(ctx context.Context, b backend.Batch, frozen []string) (*plan, error) {
	for _, f := range frozen {
		if s.net.Count(f) == 0 || f == "" {
			return nil, fmt.Errorf("frozen group %q has no parameters", f)
		}
	}
	shape, err := s.shape(b)
	if err != nil {
		return nil, err
	}
	z, err := scored(s.net, s.options.Loss)
	if err != nil {
		return nil, err
	}
	frozen = slices.Clone(frozen)
	slices.Sort(frozen)
	p, err := s.plan(request{shape: shape, training: true, scored: z, frozen: slices.Compact(frozen)})
	if err != nil {
		return nil, err
	}
	if err := s.fill(p, b); err != nil {
		return nil, err
	}
	if err := p.run(ctx); err != nil {
		p.done()
		return nil, err
	}
	return p, nil
}

func (s *session) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if !(r.LearningRate >= 0) || math.IsInf(r.LearningRate, 0) {
		return fmt.Errorf("learning rate %g: must be a number of at least 0", r.LearningRate)
	}
	s.adam.rate = r.LearningRate
	for i, b := range r.Batches {
		p, err := s.differentiate(ctx, b, r.Frozen)
		if err != nil {
			return fmt.Errorf("batch %d: %w", i, err)
		}
		err = s.step(p)
		p.done()
		if err == nil {
			err = progress(backend.Step{Batch: i, Loss: p.loss})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// step moves the running statistics and the parameters after a run.
func (s *session) step(p *plan) error {
	if s.exec.device != nil {
		return s.exec.device.step(p, s.adam)
	}
	p.commit(s.weights)
	model := make([]G.ValueGrad, len(p.grads))
	for j, n := range p.grads {
		model[j] = trained{p.parameters[j], s.weights[p.parameters[j]], n.Value()}
	}
	return s.adam.Step(model)
}

func (s *session) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	if err := s.usable(ctx); err != nil {
		return 0, nil, err
	}
	p, err := s.differentiate(ctx, b, frozen)
	if err != nil {
		return 0, nil, err
	}
	defer p.done()
	var g []backend.NamedTensor
	for i, n := range p.grads {
		name := p.parameters[i]
		v, err := p.value(n)
		if err != nil {
			return 0, nil, err
		}
		g = append(g, backend.NamedTensor{Name: name, Tensor: backend.Tensor{
			Shape: slices.Clone(s.net.Tensor(name).Shape), F32: slices.Clone(v)}})
	}
	return p.loss, g, nil
}

// perRun is how many images of a size go through inference together: enough to
// occupy the workers, few enough to stay in memory.
func perRun(h, w int) int { return max(1, min(16, 1<<18/(h*w))) }

func (s *session) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	var e backend.Evaluation
	if err := s.usable(ctx); err != nil {
		return e, err
	}
	d := s.datasets[r.Dataset]
	if d == nil {
		return e, fmt.Errorf("dataset %q has not been loaded", r.Dataset)
	}
	indices := r.Indices
	if len(indices) == 0 {
		for i := range d.n {
			indices = append(indices, i)
		}
	}
	size := r.BatchSize
	if size < 0 {
		return e, fmt.Errorf("batch size %d: must be at least 0", size)
	}
	// The result does not depend on the size, so a huge one need not be obeyed.
	size = min(max(size, 0), 256)
	if size == 0 {
		size = perRun(d.h, d.w)
	}
	output := s.net.Output.Name
	z, err := scored(s.net, s.options.Loss)
	if err != nil {
		return e, err
	}
	for chunk := range slices.Chunk(indices, size) {
		b := make([]backend.Sample, len(chunk))
		for i, index := range chunk {
			b[i] = backend.Sample{Dataset: r.Dataset, Index: index}
		}
		p, err := s.plan(request{shape: []int{len(b), d.c, d.h, d.w}, targets: []string{output, z}})
		if err != nil {
			return e, err
		}
		if err := p.pixelwise(); err != nil {
			return e, err
		}
		if err := s.fill(p, b); err != nil {
			return e, err
		}
		if err := p.run(ctx); err != nil {
			p.done()
			return e, err
		}
		pixels := d.h * d.w
		y, err := p.value(p.values[output])
		if err != nil {
			p.done()
			return e, err
		}
		zs, err := p.value(p.values[z])
		if err != nil {
			p.done()
			return e, err
		}
		k := p.classes
		first := len(e.Loss)
		e.Classes = k
		e.Loss = append(e.Loss, make([]float64, len(b))...)
		e.Confusion = append(e.Confusion, make([][]int64, len(b))...)
		s.exec.workers.Run(len(b), func(_, i int) {
			label := s.labels[i*pixels:][:pixels]
			e.Loss[first+i] = imageLoss(zs[i*k*pixels:][:k*pixels], label, k)
			e.Confusion[first+i] = confusion(y[i*k*pixels:][:k*pixels], label, k)
		})
		p.done()
		if err := ctx.Err(); err != nil {
			return e, err
		}
	}
	return e, nil
}

// confusion counts the pixels of [K,H,W] by label and most probable class, the
// first of equally probable ones.
func confusion(y []float32, label []uint8, k int) []int64 {
	counts := make([]int64, k*k)
	pixels := len(label)
	for i, l := range label {
		best := 0
		for c := 1; c < k; c++ {
			if y[c*pixels+i] > y[best*pixels+i] {
				best = c
			}
		}
		counts[int(l)*k+best]++
	}
	return counts
}

func (s *session) Predict(ctx context.Context, images backend.Tensor) (backend.Tensor, error) {
	var out backend.Tensor
	if err := s.usable(ctx); err != nil {
		return out, err
	}
	if err := images.Check(); err != nil {
		return out, err
	}
	if len(images.Shape) != 4 {
		return out, fmt.Errorf("images of shape %v: must be [N,C,H,W]", images.Shape)
	}
	n, c, h, w := images.Shape[0], images.Shape[1], images.Shape[2], images.Shape[3]
	if n < 1 || c < 1 || h < 1 || w < 1 {
		return out, fmt.Errorf("images of shape %v are empty", images.Shape)
	}
	size := c * h * w
	for first := 0; first < n; {
		count := min(perRun(h, w), n-first)
		p, err := s.plan(request{shape: []int{count, c, h, w}, targets: []string{s.net.Output.Name}})
		if err != nil {
			return out, err
		}
		dst := p.images.Data().([]float32)
		if images.F32 != nil {
			copy(dst, images.F32[first*size:])
		} else {
			for i := range dst {
				dst[i] = float32(images.F64[first*size+i])
			}
		}
		if err := p.run(ctx); err != nil {
			p.done()
			return out, err
		}
		y, err := p.value(p.values[s.net.Output.Name])
		out.F32 = append(out.F32, y...)
		out.Shape = append([]int{n}, p.output[1:]...)
		p.done()
		if err != nil {
			return out, err
		}
		first += count
	}
	return out, nil
}

func (s *session) Activations(ctx context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	shape, err := s.shape(b)
	if err != nil {
		return nil, err
	}
	// Anything but the input and the weights is the result of a node. Without
	// any, the image is still read, to be refused if it is broken.
	var targets []string
	for _, name := range names {
		switch {
		case producer(s.net, name) != nil:
			targets = append(targets, name)
		case name != s.net.Input.Name && s.weights[name] == nil:
			return nil, fmt.Errorf("the network has no value %q", name)
		}
	}
	if targets == nil {
		targets = []string{s.net.Nodes[0].Outputs[0]}
	}
	slices.Sort(targets)
	p, err := s.plan(request{shape: shape, training: training, targets: slices.Compact(targets)})
	if err != nil {
		return nil, err
	}
	if err := s.fill(p, b); err != nil {
		return nil, err
	}
	defer p.done()
	if err := p.run(ctx); err != nil {
		return nil, err
	}
	if err := s.fetch(); err != nil {
		return nil, err
	}
	var out []backend.NamedTensor
	for _, name := range names {
		v := backend.NamedTensor{Name: name}
		switch {
		case name == s.net.Input.Name:
			v.Shape, v.F32 = p.images.Shape(), p.images.Data().([]float32)
		case s.weights[name] != nil:
			v.Shape, v.F32 = s.weights[name].Shape(), s.weights[name].Data().([]float32)
		default:
			v.Shape = p.values[name].Shape()
			if v.F32, err = p.value(p.values[name]); err != nil {
				return nil, err
			}
		}
		v.Shape, v.F32 = slices.Clone(v.Shape), slices.Clone(v.F32)
		out = append(out, v)
	}
	return out, nil
}

const (
	moment1 = "adam.m."
	moment2 = "adam.v."
	stepKey = "step"
)

// fetch brings the weights and moments back from where they are trained.
func (s *session) fetch() error {
	if s.exec.device == nil {
		return nil
	}
	return s.exec.device.download(s)
}

func (s *session) State(ctx context.Context) ([]byte, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	if err := s.fetch(); err != nil {
		return nil, err
	}
	var ts []safetensors.Tensor
	for _, t := range s.net.Tensors {
		if w := s.weights[t.Name]; w != nil {
			ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: w.Data()})
		}
	}
	for _, t := range s.net.Parameters() {
		ts = append(ts, safetensors.Tensor{Name: moment1 + t.Name, Shape: t.Shape, Data: s.adam.m[t.Name]},
			safetensors.Tensor{Name: moment2 + t.Name, Shape: t.Shape, Data: s.adam.v[t.Name]})
	}
	return safetensors.Encode(ts, map[string]string{stepKey: strconv.Itoa(s.adam.step)})
}

func (s *session) SetState(ctx context.Context, state []byte) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	f, err := safetensors.Decode(state)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	// Everything is read before anything is changed.
	weights := map[string][]float32{}
	for _, t := range s.net.Tensors {
		if s.weights[t.Name] == nil {
			continue
		}
		if weights[t.Name], err = readFloats(f, t.Name, t.Shape); err != nil {
			return fmt.Errorf("state: %w", err)
		}
	}
	next := &adam{Adam: s.adam.Adam, workers: s.adam.workers}
	next.reset(s.net.Parameters())
	if text, ok := f.Metadata[stepKey]; ok {
		if next.step, err = strconv.Atoi(text); err != nil || next.step < 0 {
			return fmt.Errorf("state: step %q is not a number of steps", text)
		}
	}
	moments := 0
	for _, t := range f.Tensors() {
		if len(t.Name) > len(moment1) && (t.Name[:len(moment1)] == moment1 || t.Name[:len(moment2)] == moment2) {
			moments++
		}
	}
	if next.step > 0 || moments > 0 {
		if _, ok := f.Metadata[stepKey]; !ok {
			return fmt.Errorf("state: has Adam's moments but no step")
		}
		for _, t := range s.net.Parameters() {
			if next.m[t.Name], err = readFloats(f, moment1+t.Name, t.Shape); err != nil {
				return fmt.Errorf("state: %w", err)
			}
			if next.v[t.Name], err = readFloats(f, moment2+t.Name, t.Shape); err != nil {
				return fmt.Errorf("state: %w", err)
			}
		}
	}
	for name, v := range weights {
		copy(s.weights[name].Data().([]float32), v)
	}
	s.adam = next
	if s.exec.device != nil {
		return s.exec.device.upload(s)
	}
	return nil
}

// readFloats reads a tensor of either floating-point type.
func readFloats(f *safetensors.File, name string, shape []int) ([]float32, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, fmt.Errorf("tensor %q is missing", name)
	}
	if !slices.Equal(info.Shape, shape) {
		return nil, fmt.Errorf("tensor %q has shape %v, the network's has %v", name, info.Shape, shape)
	}
	switch info.DType {
	case safetensors.F32:
		return f.Float32(name)
	case safetensors.F64:
		v, err := f.Float64(name)
		r := make([]float32, len(v))
		for i := range v {
			r[i] = float32(v[i])
		}
		return r, err
	}
	return nil, fmt.Errorf("tensor %q is %s, must be F32 or F64", name, info.DType)
}

func (s *session) Close() error {
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for _, d := range s.datasets {
		errs = append(errs, d.file.Close())
	}
	for _, c := range s.plans {
		errs = append(errs, c.plan.machine.Close())
	}
	if s.exec.device != nil {
		errs = append(errs, s.exec.device.close())
	}
	s.plans, s.weights, s.adam, s.exec = nil, nil, nil, nil
	return errors.Join(errs...)
}
