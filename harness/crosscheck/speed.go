package crosscheck

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
)

// time measures steps of A and B in turn.
func (r *run) time(ctx context.Context) error {
	const rounds = 7
	var took [2][]float64
	for range rounds {
		for i, s := range r.sides()[:2] {
			start := time.Now()
			if err := s.s.Train(ctx, backend.TrainRequest{Batches: r.batches(1), LearningRate: r.in.Options.LearningRate}, func(backend.Step) error { return nil }); err != nil {
				return fmt.Errorf("a training step of %s: %w", s.name, err)
			}
			took[i] = append(took[i], time.Since(start).Seconds())
		}
	}
	for i, id := range []*Identity{&r.cert.A, &r.cert.B} {
		slices.Sort(took[i])
		id.StepSeconds = took[i][rounds/2]
	}
	return nil
}
