package gorgonia

import (
	"context"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/internal/torchtest"
)

// TestAgainstPyTorch trains ten Adam steps beside PyTorch in float32, with
// PyTorch in float64 as the judge of gradients: a float32 program may be twice
// as far from it as PyTorch's own.
func TestAgainstPyTorch(t *testing.T) {
	cases := []struct {
		name    string
		width   int
		n, h, w int
		loss    string
		frozen  []string
	}{
		{"all", 8, 3, 32, 48, backend.LossOnProbabilities, nil},
		{"encoder frozen", 8, 3, 32, 32, backend.LossOnProbabilities, []string{nn.Encoder}},
		{"decoder frozen", 8, 2, 48, 32, backend.LossOnProbabilities, []string{nn.Decoder}},
		{"logits", 12, 3, 48, 32, backend.LossOnLogits, nil},
	}
	const steps = 10
	var jobs []torchtest.Job
	for _, c := range cases {
		j := torchtest.Job{Width: c.width, Graph: unet(t, c.width), N: c.n, H: c.h, W: c.w, Loss: c.loss, LearningRate: 1e-4, Frozen: c.frozen}
		j.Images, j.Labels = disc(steps*c.n, c.h, c.w)
		jobs = append(jobs, j)
	}
	answers := torchtest.Train(t, jobs...)
	for i, c := range cases {
		t.Run(c.name, func(t *testing.T) { againstPyTorch(t, jobs[i], answers[i]) })
	}
}

func againstPyTorch(t *testing.T, job torchtest.Job, answer torchtest.Answer) {
	ctx := context.Background()
	torch, exact := answer.Float32, answer.Float64
	g, frozen, n, h, w := job.Graph, job.Frozen, job.N, job.H, job.W
	steps := len(torch.Loss)
	path, digest := save(t, steps*n, h, w, job.Images, job.Labels)
	s := open(t, g, backend.Options{Loss: job.Loss})
	if err := s.LoadDataset(ctx, "d", path, digest); err != nil {
		t.Fatal(err)
	}
	r := backend.TrainRequest{LearningRate: job.LearningRate, Frozen: frozen}
	for i := range steps {
		var b backend.Batch
		for j := range n {
			b = append(b, backend.Sample{Dataset: "d", Index: i*n + j})
		}
		r.Batches = append(r.Batches, b)
	}

	out, err := s.Predict(ctx, backend.Tensor{Shape: []int{n, 1, h, w}, F32: job.Images[:n*h*w]})
	if err != nil {
		t.Fatal(err)
	}
	if d := torchtest.Largest(out.F32, torch.Output); !(d <= 1e-5) {
		t.Errorf("inference differs by %g", d)
	}

	first, gradients, err := s.Gradients(ctx, r.Batches[0], frozen)
	if err != nil {
		t.Fatal(err)
	}
	if d := math.Abs(first - torch.Loss[0]); !(d <= 1e-6) {
		t.Errorf("loss differs by %g", d)
	}
	var names []string
	for _, p := range g.Parameters() {
		if !slices.Contains(frozen, nn.Group(p.Name)) {
			names = append(names, p.Name)
		}
	}
	if len(gradients) != len(names) || len(names) != len(exact.Gradients) {
		t.Fatalf("%d gradients, want %d; PyTorch has %d", len(gradients), len(names), len(exact.Gradients))
	}
	for i, v := range gradients {
		if v.Name != names[i] {
			t.Fatalf("gradient %d is of %q, want %q", i, v.Name, names[i])
		}
		// The floor is for gradients that cancel: float32's resolution of a
		// value of typical size, and tensors whose every element is noise.
		want := exact.Gradients[v.Name]
		allowed := max(2*torchtest.Distance(torch.Gradients[v.Name], want), 1e-5*torchtest.Norm(want), 1e-7)
		if d := torchtest.Distance(v.F32, want); !(d <= allowed) {
			t.Errorf("gradient of %s is %g from the exact one (of norm %g), PyTorch's %g", v.Name, d, torchtest.Norm(want), torchtest.Distance(torch.Gradients[v.Name], want))
		}
	}

	// A pre-activation within a rounding error of 0 sometimes falls on different
	// sides in different programs, PyTorch's own float32 and float64 among them.
	// The deepest layers see only 18 pixels per channel here, so one such flip
	// parts two trajectories for good: losses are held to 1e-4 of the nearer of
	// both, statistics to 1e-5 after one step and to 2e-3 after ten.
	train := func(from, to int) *safetensors.File {
		part := r
		part.Batches = r.Batches[from:to]
		err := s.Train(ctx, part, func(p backend.Step) error {
			i := from + p.Batch
			d := min(math.Abs(p.Loss-torch.Loss[i]), math.Abs(p.Loss-exact.Loss[i]))
			if !(d <= 1e-4) {
				t.Errorf("loss of step %d differs by %g", i, d)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Decode(state(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	after := train(0, 1)
	for _, p := range g.Statistics() {
		got, err := after.Float32(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		want := exact.First[p.Name]
		if d := torchtest.Distance(got, want); !(d <= 1e-5*max(1, torchtest.Norm(want))) {
			t.Errorf("%s differs by %g after one step", p.Name, d)
		}
	}
	after = train(1, steps)
	for _, p := range g.Tensors {
		if p.Role == nn.Constant {
			continue
		}
		got, err := after.Float32(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case p.Role == nn.Statistic:
			want := exact.State[p.Name]
			d := min(torchtest.Distance(got, want), torchtest.Distance(got, torch.State[p.Name]))
			if !(d <= 2e-3*max(1, torchtest.Norm(want))) {
				t.Errorf("%s differs by %g", p.Name, d)
			}
			if torchtest.Largest(got, p.Data) == 0 {
				t.Errorf("%s did not move", p.Name)
			}
		case slices.Contains(frozen, nn.Group(p.Name)):
			if torchtest.Largest(got, p.Data) != 0 {
				t.Errorf("frozen %s moved", p.Name)
			}
		case torchtest.Largest(got, p.Data) == 0:
			t.Errorf("%s did not move", p.Name)
		}
	}
}
