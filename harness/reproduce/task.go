package reproduce

import (
	"context"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/study"
)

// Task is what one process that carries out a study takes of a machine.
type Task struct {
	Runs        int   `json:"runs_at_once"`
	Threads     int   `json:"threads"` // of each
	GPUs        int   `json:"gpus"`
	MemoryBytes int64 `json:"memory_bytes"` // of the machine, not of its GPUs
	Estimated   bool  `json:"estimated"`    // the backend does not tell what a session takes
}

// What was measured of memory, with room: peak of 'refocus data' at the study's size 435
// MiB with one structure at a time, 720 MiB with two.
const (
	programBytes     = 256 << 20 // of the harness, and of a backend's process
	bytesPerSample   = 256       // of the electron wave's samples, of a structure that is simulated
	acceleratorBytes = 4 << 30   // of a process with CUDA's and PyTorch's libraries loaded
	copiesOfState    = 8         // of weights and moments, while a checkpoint is made, in both processes
)

// NewTask estimates what one process takes that trains a run in every slot, with so many
// threads, on the processor or on GPUs: of memory whichever is more, of simulating on all
// threads and of training.
func NewTask(ctx context.Context, p *study.Plan, b backend.Sizer, slots []backend.Device, threads, gpus int) (Task, error) {
	t := Task{Runs: len(slots), Threads: threads, GPUs: gpus}
	simulation := int64(0)
	for _, d := range p.Domains {
		if d.Own == nil {
			n := int64(d.Simulation.Grid)
			simulation = max(simulation, n*n*bytesPerSample*int64(len(slots)*threads))
		}
	}
	session := int64(acceleratorBytes)
	if gpus == 0 {
		for _, t := range p.Network.Tensors { // a plan has no values
			if len(t.Data) == 0 {
				t.Data = make([]float32, t.Len())
			}
		}
		size := p.ImageSize()
		options := backend.Options{Precision: p.Study.Training.Precision, Loss: p.Study.Training.Loss, Threads: threads}
		n, err := b.Memory(ctx, p.Network, options, backend.MemoryRequest{Batch: p.Study.Training.Batch, Height: size, Width: size, Training: true})
		if errors.Is(err, backend.ErrUnsupported) {
			t.Estimated = true
			n, err = activations(p, size)
		}
		if err != nil {
			return Task{}, fmt.Errorf("asking for the memory of a session: %w", err)
		}
		session = n + programBytes
	}
	state := p.Estimate().ModelBytes / int64(max(1, len(p.Runs))) * 3
	training := int64(len(slots)) * (session + copiesOfState*state)
	t.MemoryBytes = programBytes + max(simulation, training)
	return t, nil
}

// activations is the memory of a training step in which every value and its gradient is
// kept, and once more for what an operator needs meanwhile.
func activations(p *study.Plan, size int) (int64, error) {
	rows, err := p.Network.Layers([]int{p.Study.Training.Batch, 1, size, size})
	if err != nil {
		return 0, err
	}
	n := int64(0)
	for _, r := range rows {
		values := int64(4 * 3)
		for _, k := range r.Shape {
			values *= int64(k)
		}
		n += values
	}
	return n, nil
}
