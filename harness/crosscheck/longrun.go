package crosscheck

import (
	"context"
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
)

// longRun judges every step of a run by A's own activations, gradients and moments,
// as the first steps are judged: a fault that begins late, or comes back every few
// steps, passes those. The rate changes every few steps.
func (r *run) longRun(ctx context.Context) error {
	s, err := r.session(ctx, r.in.A.Backend, r.in.Options.Device, r.in.Options.Precision, backend.DefaultAdam)
	if err != nil {
		return fmt.Errorf("opening a session of A: %w", err)
	}
	defer s.Close()
	if err := s.SetState(ctx, r.start); err != nil {
		return fmt.Errorf("setting the state of A: %w", err)
	}
	before := &state{values: r.first.values}
	rate, previous := r.in.Options.LearningRate, 0.0
	for k, batch := range r.batches(r.in.Options.Steps) {
		if k > 0 && k%5 == 0 {
			rate *= 0.7
		}
		ts, err := s.Activations(ctx, batch, r.normalised(), true)
		if err != nil {
			return fmt.Errorf("activations of A: %w", err)
		}
		grads, again, err := r.ownGradients(ctx, s, batch)
		if err != nil {
			return err
		}
		after, err := r.step(ctx, s, batch, rate, nil)
		if err != nil {
			return fmt.Errorf("a training step of A: %w", err)
		}
		worst := func(checks []Check) {
			var w *Check
			for i := range checks {
				if c := &checks[i]; w == nil || c.Share() > w.Share() {
					w = c
				}
			}
			if w != nil {
				w.Stage, w.Place = LongRun, fmt.Sprintf("step %d: %s", k+1, w.Place)
				r.add(*w)
			}
		}
		worst(r.movedStatistics(ts, before, after))
		var steps []Check
		scale := r.gradientScale(grads)
		for _, p := range r.g.Parameters() {
			if c, ok := r.adamStep(p.Name, backend.DefaultAdam, rate, previous, k+1, before, after, grads[p.Name], again[p.Name], scale); ok {
				steps = append(steps, c)
			}
		}
		worst(steps)
		before, previous = after, rate
	}
	return nil
}
