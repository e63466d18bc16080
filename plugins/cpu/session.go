package cpu

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// Dynamic loss scaling as in torch.cuda.amp.
const (
	initialScale = 65536
	growAfter    = 2000 // good steps
)

// maxElements bounds the images of one batch.
const maxElements = 1 << 31

// session implements backend.Session.
type session struct {
	graph    *nn.Graph
	opts     backend.Options
	params   []*nn.Tensor
	engine   engine.Engine
	datasets map[string]*dataset
	stop     atomic.Bool // polled by the engine

	step  int     // optimiser steps taken
	scale float64 // mixed precision: the loss scale
	good  int     // … and the steps since it last changed

	frozen []bool // per parameter, of the call under way
	images []float32
	labels []uint8
	output []float64

	normal [3]int // the last batch, height and width that Train or Gradients took
	size   [3]int // channels, height and width of the last images …
	shape  []int  // … and the network's output for one of them
}

// run calls f, which is interrupted when ctx is done.
func (s *session) run(ctx context.Context, f func() error) error {
	if s.engine == nil {
		return errors.New("the session is closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.stop.Store(false)
	set := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		s.stop.Store(true)
		close(set)
	})
	err := f()
	if !unhook() {
		<-set // or it could stop the next call
	}
	if errors.Is(err, engine.ErrInterrupted) {
		return ctx.Err()
	}
	return err
}

// LoadDataset implements backend.Session.
func (s *session) LoadDataset(ctx context.Context, id, path, digest string) error {
	return s.run(ctx, func() error {
		d, err := openDataset(ctx, id, path, digest)
		if err != nil {
			return fmt.Errorf("dataset %q: %w", id, err)
		}
		if c := s.graph.Input.Shape[1]; d.c != c {
			d.file.Close()
			return fmt.Errorf("dataset %q: %s has images of %d channels, the network takes %d", id, path, d.c, c)
		}
		if old := s.datasets[id]; old != nil {
			old.file.Close()
		}
		s.datasets[id] = d
		return nil
	})
}

// batch reads samples into the session's buffers.
func (s *session) batch(b []backend.Sample) (engine.Batch, error) {
	if len(b) == 0 {
		return engine.Batch{}, errors.New("the batch is empty")
	}
	var r engine.Batch
	classes := 0
	for i, sample := range b {
		d := s.datasets[sample.Dataset]
		if d == nil {
			return r, fmt.Errorf("unknown dataset %q (LoadDataset names them)", sample.Dataset)
		}
		if i == 0 {
			if len(b) > maxElements/(d.c*d.h*d.w) {
				return r, fmt.Errorf("%d images of %d×%d are too many for one batch", len(b), d.h, d.w)
			}
			out, err := s.outputShape(d.c, d.h, d.w)
			if err != nil {
				return r, fmt.Errorf("dataset %q: %w", d.id, err)
			}
			if out[2] != d.h || out[3] != d.w {
				return r, fmt.Errorf("dataset %q: labels of %d×%d do not fit the network's output %d×%d", d.id, d.h, d.w, out[2], out[3])
			}
			classes = out[1]
			r = engine.Batch{N: len(b), H: d.h, W: d.w}
			s.images, s.labels = resized(s.images, len(b)*d.c*d.h*d.w), resized(s.labels, len(b)*d.h*d.w)
		}
		if d.h != r.H || d.w != r.W {
			return r, fmt.Errorf("dataset %q has images of %d×%d in a batch of %d×%d", d.id, d.h, d.w, r.H, r.W)
		}
		n := d.c * d.h * d.w
		if err := d.read(sample, classes, s.images[i*n:][:n], s.labels[i*d.h*d.w:][:d.h*d.w]); err != nil {
			return r, fmt.Errorf("dataset %q: %w", d.id, err)
		}
	}
	r.Images, r.Labels = s.images, s.labels
	return r, nil
}

// outputShape is the shape [1,K,H,W] of the network's output for one image.
func (s *session) outputShape(c, h, w int) ([]int, error) {
	if size := [3]int{c, h, w}; size != s.size || s.shape == nil {
		shapes, err := s.graph.Shapes([]int{1, c, h, w})
		if err != nil {
			return nil, err
		}
		out := shapes[s.graph.Output.Name]
		if len(out) != 4 {
			return nil, fmt.Errorf("the network's output has shape %v, not [N,K,H,W]", out)
		}
		s.size, s.shape = size, out
	}
	return s.shape, nil
}

// trainingBatch reads samples for a pass in training mode.
func (s *session) trainingBatch(samples []backend.Sample) (engine.Batch, error) {
	b, err := s.batch(samples)
	if size := [3]int{b.N, b.H, b.W}; err == nil && size != s.normal {
		shapes, err := s.graph.Shapes([]int{b.N, s.graph.Input.Shape[1], b.H, b.W})
		if err != nil {
			return b, err
		}
		for _, n := range s.graph.Nodes {
			if x := shapes[n.Inputs[0]]; n.Op == "BatchNormalization" && x[0]*x[2]*x[3] < 2 {
				return b, fmt.Errorf("node %q (BatchNormalization): one value per channel has no variance; take more or larger images", n.Name)
			}
		}
		s.normal = size
	}
	return b, err
}

// freeze marks the parameters of the frozen groups.
func (s *session) freeze(groups []string) error {
	known := map[string]bool{}
	for i, p := range s.params {
		g := nn.Group(p.Name)
		known[g] = true
		s.frozen[i] = slices.Contains(groups, g)
	}
	for _, g := range groups {
		if !known[g] {
			var names []string
			for k := range known {
				names = append(names, k)
			}
			sort.Strings(names)
			return fmt.Errorf("frozen group %q: the network's parameters are in %s", g, strings.Join(names, ", "))
		}
	}
	return nil
}

// Train implements backend.Session.
func (s *session) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	if !(r.LearningRate >= 0) || math.IsInf(r.LearningRate, 1) {
		return fmt.Errorf("learning rate %v: must be finite and not negative", r.LearningRate)
	}
	if err := s.freeze(r.Frozen); err != nil {
		return err
	}
	return s.run(ctx, func() error {
		for i, samples := range r.Batches {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, err := s.trainingBatch(samples)
			if err != nil {
				return fmt.Errorf("batch %d: %w", i, err)
			}
			step, err := s.trainStep(b, r.LearningRate)
			if err == nil && s.stop.Load() { // Adam may have been cut short
				err = engine.ErrInterrupted
			}
			if err != nil {
				return fmt.Errorf("batch %d: %w", i, err)
			}
			step.Batch = i
			if err := progress(step); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *session) trainStep(b engine.Batch, rate float64) (backend.Step, error) {
	if s.opts.Precision != backend.Mixed {
		loss, err := s.engine.Gradients(b, s.frozen, 1, true)
		if err != nil {
			return backend.Step{}, err
		}
		s.step++
		s.engine.Adam(s.step, rate, 1, s.frozen)
		return backend.Step{Loss: loss}, nil
	}
	scale := s.scale
	loss, err := s.engine.Gradients(b, s.frozen, scale, true)
	if err != nil {
		return backend.Step{}, err
	}
	if !s.engine.Finite() {
		s.scale, s.good = s.scale/2, 0
		return backend.Step{Loss: loss, LossScale: scale, Skipped: true}, nil
	}
	s.step++
	s.engine.Adam(s.step, rate, scale, s.frozen)
	if s.good++; s.good == growAfter {
		s.scale, s.good = s.scale*2, 0
	}
	return backend.Step{Loss: loss, LossScale: scale}, nil
}

// chunk is how many images of a size go through the network at once, when
// only its output is asked for.
func chunk(h, w int) int { return min(64, max(1, 1<<16/(h*w))) }

// Evaluate implements backend.Session.
func (s *session) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	var ev backend.Evaluation
	err := s.run(ctx, func() error {
		d := s.datasets[r.Dataset]
		if d == nil {
			return fmt.Errorf("unknown dataset %q (LoadDataset names them)", r.Dataset)
		}
		if r.BatchSize < 0 {
			return fmt.Errorf("batch size %d is negative", r.BatchSize)
		}
		size := r.BatchSize
		if size == 0 {
			size = chunk(d.h, d.w)
		}
		indices := r.Indices
		if len(indices) == 0 {
			indices = make([]int, d.n)
			for i := range indices {
				indices[i] = i
			}
		}
		for len(indices) > 0 {
			n := min(size, len(indices))
			samples := make([]backend.Sample, n)
			for i := range samples {
				samples[i] = backend.Sample{Dataset: r.Dataset, Index: indices[i]}
			}
			indices = indices[n:]
			if err := s.evaluate(samples, &ev); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return backend.Evaluation{}, err
	}
	return ev, nil
}

// evaluate appends the results of one batch.
func (s *session) evaluate(samples []backend.Sample, ev *backend.Evaluation) error {
	b, err := s.batch(samples)
	if err != nil {
		return err
	}
	k, area := s.shape[1], b.H*b.W
	s.output = resized(s.output, b.N*k*area)
	losses, err := s.engine.Forward(b, engine.Output{F64: s.output})
	if err != nil {
		return err
	}
	ev.Classes = k
	ev.Loss = append(ev.Loss, losses...)
	for n := range b.N {
		confusion := make([]int64, k*k)
		out, labels := s.output[n*k*area:][:k*area], b.Labels[n*area:][:area]
		for i, l := range labels {
			best := 0
			for c := 1; c < k; c++ {
				if out[c*area+i] > out[best*area+i] {
					best = c
				}
			}
			confusion[int(l)*k+best]++
		}
		ev.Confusion = append(ev.Confusion, confusion)
	}
	return nil
}

// Predict implements backend.Session.
func (s *session) Predict(ctx context.Context, images backend.Tensor) (backend.Tensor, error) {
	var r backend.Tensor
	err := s.run(ctx, func() error {
		if err := images.Check(); err != nil {
			return fmt.Errorf("images: %w", err)
		}
		in := images.Shape
		if len(in) != 4 || len(images.F32)+len(images.F64) == 0 {
			return fmt.Errorf("images of shape %v: must be [N,C,H,W] with at least one pixel", in)
		}
		out, err := s.outputShape(in[1], in[2], in[3])
		if err != nil {
			return err
		}
		src, dst := in[1]*in[2]*in[3], out[1]*out[2]*out[3]
		if src > maxElements || dst > maxElements {
			return fmt.Errorf("images of shape %v are too large to predict at once", in)
		}
		r.Shape = append([]int{in[0]}, out[1:]...)
		wide := s.opts.Precision == backend.Float64
		if wide {
			r.F64 = make([]float64, in[0]*dst)
		} else {
			r.F32 = make([]float32, in[0]*dst)
		}
		size := chunk(in[2], in[3])
		for n := 0; n < in[0]; n += size {
			k := min(size, in[0]-n)
			b := engine.Batch{N: k, H: in[2], W: in[3]}
			switch {
			case images.F64 == nil:
				b.Images = images.F32[n*src:][:k*src]
			case wide:
				b.Images64 = images.F64[n*src:][:k*src]
			default:
				s.images = resized(s.images, k*src)
				for i, v := range images.F64[n*src:][:k*src] {
					s.images[i] = float32(v)
				}
				b.Images = s.images
			}
			var out engine.Output
			if wide {
				out.F64 = r.F64[n*dst:][:k*dst]
			} else {
				out.F32 = r.F32[n*dst:][:k*dst]
			}
			if _, err := s.engine.Forward(b, out); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return backend.Tensor{}, err
	}
	return r, nil
}

// Gradients implements backend.Session.
func (s *session) Gradients(ctx context.Context, samples backend.Batch, frozen []string) (loss float64, grads []backend.NamedTensor, err error) {
	err = s.run(ctx, func() error {
		if err := s.freeze(frozen); err != nil {
			return err
		}
		b, err := s.trainingBatch(samples)
		if err != nil {
			return err
		}
		scale := 1.0
		if s.opts.Precision == backend.Mixed {
			scale = s.scale
		}
		if loss, err = s.engine.Gradients(b, s.frozen, scale, false); err != nil {
			return err
		}
		for i, p := range s.params {
			if s.frozen[i] {
				continue
			}
			d := make([]float64, p.Len())
			if err := s.engine.Get(engine.Gradient, p.Name, d); err != nil {
				return err
			}
			for j := range d {
				d[j] /= scale // a power of two: exact
			}
			grads = append(grads, s.named(p.Name, p.Shape, d))
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return loss, grads, nil
}

// named makes a tensor of the session's precision.
func (s *session) named(name string, shape []int, d []float64) backend.NamedTensor {
	t := backend.NamedTensor{Name: name}
	t.Shape = slices.Clone(shape)
	if s.opts.Precision == backend.Float64 {
		t.F64 = d
	} else {
		t.F32 = narrow(d)
	}
	return t
}

func narrow(d []float64) []float32 {
	f := make([]float32, len(d))
	for i, v := range d {
		f[i] = float32(v)
	}
	return f
}

// Activations implements backend.Session.
func (s *session) Activations(ctx context.Context, samples backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	var r []backend.NamedTensor
	err := s.run(ctx, func() error {
		b, err := s.batch(samples)
		if err != nil {
			return err
		}
		shapes, err := s.graph.Shapes([]int{b.N, s.graph.Input.Shape[1], b.H, b.W})
		if err != nil {
			return err
		}
		computed := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return s.graph.Tensor(n) != nil })
		for _, name := range computed {
			if shapes[name] == nil {
				return fmt.Errorf("the network has no value %q", name)
			}
		}
		values, err := s.engine.Activations(b, computed, training)
		if errors.Is(err, engine.ErrUnsupported) {
			values, err = s.plainActivations(b, computed, training)
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			d, ok := values[name]
			if t := s.graph.Tensor(name); t != nil {
				if d, err = s.tensor(t); err != nil {
					return err
				}
			} else if !ok {
				return fmt.Errorf("the engine gives no value %q", name)
			}
			r = append(r, s.named(name, shapes[name], d))
		}
		return nil
	})
	return r, err
}

// plainActivations takes over where the fast engine is asked for a value that
// it never holds by itself, because it computes it together with the next one.
func (s *session) plainActivations(b engine.Batch, names []string, training bool) (map[string][]float64, error) {
	e, err := plain.Compile[float32](s.graph, s.engineOptions())
	if err != nil {
		return nil, err
	}
	defer e.Close()
	for _, t := range s.graph.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		d, err := s.tensor(t)
		if err != nil {
			return nil, err
		}
		if err := e.Set(engine.Value, t.Name, d); err != nil {
			return nil, err
		}
	}
	return e.Activations(b, names, training)
}

// tensor returns what a tensor of the graph holds now.
func (s *session) tensor(t *nn.Tensor) ([]float64, error) {
	d := make([]float64, t.Len())
	if t.Role != nn.Constant {
		return d, s.engine.Get(engine.Value, t.Name, d)
	}
	for i := range d {
		if t.Ints != nil {
			d[i] = float64(t.Ints[i])
		} else {
			d[i] = float64(t.Data[i])
		}
	}
	return d, nil
}

// Close implements backend.Session.
func (s *session) Close() error {
	if s.engine == nil {
		return nil
	}
	s.engine.Close()
	s.engine = nil
	var errs []error
	for _, d := range s.datasets {
		errs = append(errs, d.file.Close())
	}
	s.datasets = nil
	return errors.Join(errs...)
}
