package crosscheck

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
)

// trajectory judges losses over many steps by how far one rounding of the
// initial weights drives the backends' own.
func (r *run) trajectory(ctx context.Context) error {
	var curves [3][]float64
	var final [3]float64
	for i, s := range r.sides() {
		var err error
		if curves[i], final[i], err = r.losses(ctx, s.s, r.start); err != nil {
			return fmt.Errorf("training %s: %w", s.name, err)
		}
	}
	names := []string{r.cert.A.Description.Name, r.cert.B.Description.Name, "oracle (float64)"}
	for i, c := range curves {
		r.cert.Trajectory = append(r.cert.Trajectory, Curve{names[i], c})
	}
	// One rounding of the weights, in A and in B: where a gradient is nothing but
	// rounding, Adam makes a full step of it, and how soon that happens depends
	// on how a backend rounds.
	envelope := make([]float64, r.in.Options.Steps)
	var finalEnvelope float64
	for k := range r.in.Options.Perturbations {
		b, err := encodeWeights(r.g, r.first.perturbed(r.g, uint64(k), bits[r.in.Options.Precision]))
		if err != nil {
			return err
		}
		for i, s := range r.sides()[:2] {
			c, f, err := r.losses(ctx, s.s, b)
			if err != nil {
				return fmt.Errorf("training %s from rounded weights: %w", s.name, err)
			}
			r.cert.Trajectory = append(r.cert.Trajectory, Curve{fmt.Sprintf("%s, weights rounded once (%d)", names[i], k+1), c})
			for t := range c {
				envelope[t] = max(envelope[t], math.Abs(c[t]-curves[i][t]))
			}
			finalEnvelope = max(finalEnvelope, math.Abs(f-final[i]))
		}
	}
	var largest, distanceB float64
	for t := range envelope {
		largest = max(largest, envelope[t])
		distanceB = max(distanceB, math.Abs(curves[1][t]-curves[2][t]))
		o := curves[2][t]
		r.add(r.measured(Trajectory, fmt.Sprintf("loss of step %d", t+1), "", distance(curves[0][t:t+1], curves[2][t:t+1], 0),
			Distance{Relative: distanceB / o}, largest/o, r.in.Options.LossFloor))
	}
	r.add(r.measured(Trajectory, "validation loss after the last step", "", distance(final[:1], final[2:], 0),
		distance(final[1:2], final[2:], 0), max(finalEnvelope, largest)/final[2], r.in.Options.LossFloor))
	return nil
}

// losses trains the trajectory's steps from a state and validates after them.
func (r *run) losses(ctx context.Context, s backend.Session, from []byte) (train []float64, validation float64, err error) {
	if err := s.SetState(ctx, from); err != nil {
		return nil, 0, err
	}
	err = s.Train(ctx, backend.TrainRequest{Batches: r.batches(r.in.Options.Steps), LearningRate: r.in.Options.LearningRate}, func(st backend.Step) error {
		train = append(train, st.Loss)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationSet})
	return train, e.MeanLoss(), err
}
