package crosscheck

import (
	"context"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

// freezing judges that frozen weights do not move by one bit while their
// normalisations' statistics do.
func (r *run) freezing(ctx context.Context) error {
	for _, frozen := range r.groups() {
		if err := r.a.SetState(ctx, r.start); err != nil {
			return fmt.Errorf("setting the state of A: %w", err)
		}
		after, err := r.step(ctx, r.a, r.batch, r.in.Options.LearningRate, []string{frozen})
		if err != nil {
			return fmt.Errorf("a training step of A with %s frozen: %w", frozen, err)
		}
		for _, t := range r.g.Tensors {
			if t.Role == nn.Constant {
				continue
			}
			before, now := r.first.values[t.Name], after.values[t.Name]
			moved := !slices.Equal(before, now)
			should := t.Role == nn.Statistic || nn.Group(t.Name) != frozen
			c := Check{Stage: Freezing, Place: t.Name, Judged: Exactly}
			if moved != should {
				c.A.Relative = max(distance(now, before, 0).Relative, 1)
				c.Note = fmt.Sprintf("with %s frozen it moved by %.2g, it should not", frozen, distance(now, before, 0).Relative)
				if should {
					c.Note = fmt.Sprintf("with %s frozen it did not move, it should", frozen)
				}
			}
			r.add(c)
		}
	}
	return nil
}
