package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// maxEvaluated bounds how many images are evaluated at once. The results do not
// depend on it, so a huge batch size need not be obeyed.
const maxEvaluated = 256

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
	if len(losses) != n {
		return fmt.Errorf("the engine gave %d losses for %d images", len(losses), n)
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
