package engine

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// Dynamic loss scaling as in torch.cuda.amp.
const (
	initialScale = 65536
	growAfter    = 2000 // good steps
)

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
			return fmt.Errorf("frozen group %q: the network's parameters are in %s", g, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
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
