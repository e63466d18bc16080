package engine

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
)

// Dynamic loss scaling as in torch.cuda.amp.
const (
	initialScale = 65536
	growAfter    = 2000 // good steps
)

const (
	// maxElements bounds the images of one batch.
	maxElements = 1 << 31
	// maxEvaluated bounds how many images are evaluated at once. The results do
	// not depend on it, so a huge batch size need not be obeyed.
	maxEvaluated = 256
)

// session implements backend.Session.
type session struct {
	graph    *nn.Graph
	opts     backend.Options
	wide     bool         // the precision is float64
	params   []*nn.Tensor // the graph's, …
	values   []*nn.Tensor // … and with its statistics, in its order
	engine   Engine       // nil: closed
	datasets map[string]*dataset
	stop     atomic.Bool // Options.Stop

	step  int     // optimiser steps taken
	scale float64 // mixed precision: the loss scale
	good  int     // … and the steps since it last changed

	frozen []bool // per parameter, of the call under way
	images backend.Tensor
	labels []uint8
	output backend.Tensor

	normal [3]int // the last batch, height and width of a pass in training mode
	size   [3]int // channels, height and width of the last images …
	shape  []int  // … and the network's output for the smallest batch of them
}

func newSession(g *nn.Graph, o backend.Options) *session {
	s := &session{graph: g, opts: o, wide: o.Precision == backend.Float64, datasets: map[string]*dataset{}, scale: 1}
	s.params = g.Parameters()
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			s.values = append(s.values, t)
		}
	}
	s.frozen = make([]bool, len(s.params))
	if o.Precision == backend.Mixed {
		s.scale = initialScale
	}
	return s
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
	if errors.Is(err, ErrInterrupted) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// empty returns a tensor of zeros in the session's precision.
func (s *session) empty(shape []int) backend.Tensor { return s.fitted(backend.Tensor{}, shape) }

// fitted returns a tensor of the shape in the session's precision with
// unspecified contents, in the memory of t where that is large enough.
func (s *session) fitted(t backend.Tensor, shape []int) backend.Tensor {
	n := nn.Size(shape)
	t.Shape = append(t.Shape[:0], shape...)
	if s.wide {
		t.F64 = resized(t.F64, n)
	} else {
		t.F32 = resized(t.F32, n)
	}
	return t
}

// converted returns t in the session's precision: itself if it is.
func (s *session) converted(t backend.Tensor) backend.Tensor {
	switch {
	case s.wide && t.F64 == nil:
		t.F32, t.F64 = nil, convert(make([]float64, len(t.F32)), t.F32)
	case !s.wide && t.F32 == nil:
		t.F32, t.F64 = convert(make([]float32, len(t.F64)), t.F64), nil
	}
	return t
}

func convert[D, S float32 | float64](dst []D, src []S) []D {
	for i, v := range src {
		dst[i] = D(v)
	}
	return dst
}

// part is the images from first on, count of them, of a tensor [N,…].
func part(t backend.Tensor, first, count int) backend.Tensor {
	size := (len(t.F32) + len(t.F64)) / t.Shape[0]
	p := backend.Tensor{Shape: append([]int{count}, t.Shape[1:]...)}
	if t.F64 != nil {
		p.F64 = t.F64[first*size:][:count*size]
	} else {
		p.F32 = t.F32[first*size:][:count*size]
	}
	return p
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

// batch reads samples into the session's buffers. The last one is repeated until
// there are atLeast.
func (s *session) batch(samples []backend.Sample, atLeast int) (Batch, error) {
	if len(samples) == 0 {
		return Batch{}, errors.New("the batch is empty")
	}
	var first *dataset
	n := max(len(samples), atLeast)
	classes, area := 0, 0
	for i := range n {
		sample := samples[min(i, len(samples)-1)]
		d := s.datasets[sample.Dataset]
		if d == nil {
			return Batch{}, fmt.Errorf("unknown dataset %q (LoadDataset names them)", sample.Dataset)
		}
		if first == nil {
			first, area = d, d.h*d.w
			if n > maxElements/(d.c*area) {
				return Batch{}, fmt.Errorf("%d images of %d×%d are too many for one batch", n, d.h, d.w)
			}
			out, err := s.outputShape(d.c, d.h, d.w)
			if err != nil {
				return Batch{}, fmt.Errorf("dataset %q: %w", d.id, err)
			}
			if out[2] != d.h || out[3] != d.w {
				return Batch{}, fmt.Errorf("dataset %q: labels of %d×%d do not fit the network's output %d×%d", d.id, d.h, d.w, out[2], out[3])
			}
			classes = out[1]
			s.images, s.labels = s.fitted(s.images, []int{n, d.c, d.h, d.w}), resized(s.labels, n*area)
		}
		if d.h != first.h || d.w != first.w {
			return Batch{}, fmt.Errorf("dataset %q has images of %d×%d in a batch of %d×%d", d.id, d.h, d.w, first.h, first.w)
		}
		size, labels := d.c*area, s.labels[i*area:][:area]
		var err error
		if s.wide {
			err = read(d, sample, classes, s.images.F64[i*size:][:size], labels)
		} else {
			err = read(d, sample, classes, s.images.F32[i*size:][:size], labels)
		}
		if err != nil {
			return Batch{}, fmt.Errorf("dataset %q: %w", d.id, err)
		}
	}
	return Batch{s.images, s.labels}, nil
}

// fixed is the number of images that the graph takes at once, 0 for any.
func (s *session) fixed() int { return s.graph.Input.Shape[0] }

// outputShape is the shape [N,K,H,W] of the network's output for the smallest
// batch of images: of one, if the graph does not fix it.
func (s *session) outputShape(c, h, w int) ([]int, error) {
	if size := [3]int{c, h, w}; size != s.size || s.shape == nil {
		shapes, err := s.graph.Shapes([]int{max(1, s.fixed()), c, h, w})
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
func (s *session) trainingBatch(samples []backend.Sample) (Batch, error) {
	b, err := s.batch(samples, 0)
	if err != nil {
		return b, err
	}
	n, h, w := b.Size()
	if size := [3]int{n, h, w}; size != s.normal {
		shapes, err := s.graph.Shapes(b.Images.Shape)
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
	return b, nil
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

func (s *session) trainStep(b Batch, rate float64) (backend.Step, error) {
	scale := s.scale
	loss, err := s.engine.Gradients(b, s.frozen, scale, true)
	if err != nil {
		return backend.Step{}, err
	}
	step := backend.Step{Loss: loss}
	if s.opts.Precision == backend.Mixed {
		step.LossScale = scale
		finite, err := s.engine.Finite()
		if err != nil {
			return step, err
		}
		if !finite {
			step.Skipped = true
			s.scale, s.good = scale/2, 0
			return step, nil
		}
		if s.good++; s.good == growAfter {
			s.scale, s.good = scale*2, 0
		}
	}
	s.step++
	return step, s.engine.Adam(s.step, rate, scale, s.frozen)
}

// atOnce is how many images of a size go through the network at once, when only
// its output is asked for.
func (s *session) atOnce(h, w int) int {
	if n := s.fixed(); n > 0 {
		return n
	}
	return max(1, s.engine.BatchSize(h, w))
}

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
		size := min(r.BatchSize, maxEvaluated)
		if size == 0 || s.fixed() > 0 {
			size = s.atOnce(d.h, d.w)
		}
		indices := r.Indices
		if len(indices) == 0 {
			indices = make([]int, d.n)
			for i := range indices {
				indices[i] = i
			}
		}
		for chunk := range slices.Chunk(indices, size) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := s.evaluate(r.Dataset, chunk, &ev); err != nil {
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
func (s *session) evaluate(id string, indices []int, ev *backend.Evaluation) error {
	samples := make([]backend.Sample, len(indices))
	for i, index := range indices {
		samples[i] = backend.Sample{Dataset: id, Index: index}
	}
	b, err := s.batch(samples, s.fixed())
	if err != nil {
		return err
	}
	n, h, w := b.Size()
	k, area := s.shape[1], h*w
	s.output = s.fitted(s.output, []int{n, k, h, w})
	losses, err := s.engine.Forward(b, s.output)
	if err != nil {
		return err
	}
	ev.Classes = k
	ev.Loss = append(ev.Loss, losses[:len(samples)]...)
	for i := range samples {
		labels := b.Labels[i*area:][:area]
		if s.wide {
			ev.Confusion = append(ev.Confusion, confusion(s.output.F64[i*k*area:], labels, k))
		} else {
			ev.Confusion = append(ev.Confusion, confusion(s.output.F32[i*k*area:], labels, k))
		}
	}
	return nil
}

// confusion counts the pixels of an output [K,H,W] by label and most probable
// class, the first of equally probable ones.
func confusion[T float32 | float64](output []T, labels []uint8, k int) []int64 {
	counts := make([]int64, k*k)
	area := len(labels)
	for i, l := range labels {
		counts[int(l)*k+nn.MostProbable(output[:k*area], area, i)]++
	}
	return counts
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
		if n := s.fixed(); n > 0 && in[0]%n != 0 {
			return fmt.Errorf("%d images: the network takes %d at once, so their number must be a multiple of that", in[0], n)
		}
		out, err := s.outputShape(in[1], in[2], in[3])
		if err != nil {
			return err
		}
		size := s.atOnce(in[2], in[3])
		if src, dst := in[1]*in[2]*in[3], out[1]*out[2]*out[3]; max(src, dst) > maxElements/max(1, s.fixed()) {
			return fmt.Errorf("images of shape %v are too large to predict at once", in)
		}
		r = s.empty([]int{in[0], out[1], out[2], out[3]})
		for first := 0; first < in[0]; first += size {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(size, in[0]-first)
			b := Batch{Images: s.converted(part(images, first, n))}
			if _, err := s.engine.Forward(b, part(r, first, n)); err != nil {
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
		if loss, err = s.engine.Gradients(b, s.frozen, s.scale, false); err != nil {
			return err
		}
		var wanted []*nn.Tensor
		for i, p := range s.params {
			if !s.frozen[i] {
				wanted = append(wanted, p)
			}
		}
		grads = s.tensors(wanted)
		if err := s.engine.Get(Gradient, grads); err != nil {
			return err
		}
		if s.scale != 1 { // mixed precision, so float32
			for _, g := range grads {
				for i, v := range g.F32 {
					g.F32[i] = float32(float64(v) / s.scale)
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, nil, err
	}
	return loss, grads, nil
}

// Activations implements backend.Session.
func (s *session) Activations(ctx context.Context, samples backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	var r []backend.NamedTensor
	err := s.run(ctx, func() error {
		read := s.trainingBatch
		if !training {
			read = func(samples []backend.Sample) (Batch, error) { return s.batch(samples, 0) }
		}
		b, err := read(samples)
		if err != nil {
			return err
		}
		shapes, err := s.graph.Shapes(b.Images.Shape)
		if err != nil {
			return err
		}
		// Values are asked for together, and the graph's tensors together.
		var computed, held []backend.NamedTensor
		for _, name := range names {
			if shapes[name] == nil {
				return fmt.Errorf("the network has no value %q", name)
			}
			t := backend.NamedTensor{Name: name, Tensor: s.empty(shapes[name])}
			switch g := s.graph.Tensor(name); {
			case g == nil:
				computed = append(computed, t)
			case g.Role == nn.Constant:
				t.Tensor = s.constant(g)
			default:
				held = append(held, t)
			}
			r = append(r, t)
		}
		if len(computed) > 0 {
			if err := s.engine.Activations(b, training, computed); err != nil {
				return err
			}
		}
		if len(held) > 0 {
			return s.engine.Get(Value, held)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// constant is a constant of the graph in the session's precision.
func (s *session) constant(g *nn.Tensor) backend.Tensor {
	t := backend.Tensor{Shape: slices.Clone(g.Shape), F32: slices.Clone(g.Data)}
	if g.Ints != nil {
		t.F64 = make([]float64, len(g.Ints))
		for i, v := range g.Ints {
			t.F64[i] = float64(v)
		}
	}
	return s.converted(t)
}

// Close implements backend.Session.
func (s *session) Close() error {
	if s.engine == nil {
		return nil
	}
	errs := []error{s.engine.Close()}
	s.engine = nil
	for _, d := range s.datasets {
		errs = append(errs, d.file.Close())
	}
	s.datasets = nil
	return errors.Join(errs...)
}
