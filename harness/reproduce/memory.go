package reproduce

import (
	"context"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// CheckMemory reports whether the runs on every device fit into its memory, as far as
// the device says what it has and the backend what a session of the study's takes.
func (r *Resolved) CheckMemory(ctx context.Context, b backend.Sizer, slots []backend.Device) error {
	runs, devices := map[string]int64{}, map[string]backend.Device{}
	for _, s := range slots {
		if s.Memory > 0 {
			runs[s.Name]++
			devices[s.Name] = s
		}
	}
	p, first := r.Plan, r.Nodes[0]
	size := p.ImageSize()
	g, err := first.Spec.Graph(first.Network)
	if err != nil {
		return err
	}
	for name, n := range runs {
		need, err := b.Memory(ctx, g, backend.Options{Precision: first.Spec.Backend.Precision, Loss: p.Study.Training.Loss, Device: name},
			backend.MemoryRequest{Batch: p.Study.Training.Batch, Height: size, Width: size, Training: true})
		if errors.Is(err, backend.ErrUnsupported) {
			return nil // it does not tell, or refuses when a session is opened
		}
		if err != nil {
			return fmt.Errorf("asking for the memory of a session: %w", err)
		}
		has := devices[name].Memory
		step := fmt.Sprintf("a step of %d images of %s takes %s", p.Study.Training.Batch, format.Size(size, size), format.Bytes(need))
		switch {
		case need > has:
			return fmt.Errorf("device %s: %s, it has %s: train smaller batches (training.batch) or on another device", name, step, format.Bytes(has))
		case need*n > has:
			return fmt.Errorf("device %s: %s, %d of them at once %s, it has %s: --jobs-per-device %d fits", name, step, n, format.Bytes(n*need), format.Bytes(has), has/need)
		}
	}
	return nil
}
