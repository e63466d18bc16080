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
// as far from it as PyTorch's own. On no step is a value of the float64 run near
// a switch of a ReLU or a pool (torchtest.Answer), so it does not matter in what
// order a processor's kernels sum. At a rate of 1e-5 rounding errors of vanishing
// gradients, of which Adam makes whole steps, do not add up to a switch either.
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
		j := torchtest.Job{Width: c.width, Graph: unet(t, c.width), N: c.n, H: c.h, W: c.w, Loss: c.loss, LearningRate: 1e-5, Frozen: c.frozen}
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
	answer.Check(t)
	path, digest := save(t, steps*n, h, w, answer.Images, job.Labels)
	s := open(t, g, backend.Options{Loss: job.Loss})
	answer.Prepare(t, s, 0)
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

	out, err := s.Predict(ctx, backend.Tensor{Shape: []int{n, 1, h, w}, F32: answer.Images[:n*h*w]})
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
	worst := 0.0
	for i, v := range gradients {
		if v.Name != names[i] {
			t.Fatalf("gradient %d is of %q, want %q", i, v.Name, names[i])
		}
		// The floor is for gradients that cancel: float32's resolution of a
		// value of typical size, and tensors whose every element is noise.
		want := exact.Gradients[v.Name]
		allowed := max(2*torchtest.Distance(torch.Gradients[v.Name], want), 1e-5*torchtest.Norm(want), 1e-7)
		worst = max(worst, torchtest.Distance(v.F32, want)/allowed)
		if d := torchtest.Distance(v.F32, want); !(d <= allowed) {
			t.Errorf("gradient of %s is %g from the exact one (of norm %g), PyTorch's %g", v.Name, d, torchtest.Norm(want), torchtest.Distance(torch.Gradients[v.Name], want))
		}
	}

	t.Logf("gradients differ by at most %.2f of what is allowed", worst)

	decoded := func() *safetensors.File {
		f, err := safetensors.Decode(state(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	float32s := func(f *safetensors.File, name string) []float32 {
		x, err := f.Float32(name)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	statistics := func(f *safetensors.File, want map[string][]float64, bound float64) {
		t.Helper()
		for _, p := range g.Statistics() {
			if d := torchtest.Distance(float32s(f, p.Name), want[p.Name]); !(d <= bound*max(1, torchtest.Norm(want[p.Name]))) {
				t.Errorf("%s differs by %g", p.Name, d)
			}
		}
	}
	for i := range steps {
		answer.Prepare(t, s, i)
		before := decoded()
		part := r
		part.Batches = r.Batches[i : i+1]
		err := s.Train(ctx, part, func(p backend.Step) error {
			if d := math.Abs(p.Loss - exact.Loss[i]); !(d <= 1e-5) {
				t.Errorf("loss of step %d differs by %g", i, d)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		after := decoded()
		for _, p := range g.Tensors {
			if p.Role == nn.Constant {
				continue
			}
			still := p.Role == nn.Parameter && slices.Contains(frozen, nn.Group(p.Name))
			if moved := torchtest.Largest(float32s(after, p.Name), float32s(before, p.Name)) != 0; moved == still {
				t.Errorf("%s moves in step %d: %v", p.Name, i, moved)
			}
			// Ten steps of a weight whose gradient vanishes are noise; of all of a
			// tensor, the steps are within a few thousandths.
			want := exact.State[p.Name]
			if d, way := torchtest.Distance(float32s(after, p.Name), want), torchtest.Distance(p.Data, want); i == steps-1 && p.Role == nn.Parameter && !(d <= 2e-2*way) {
				t.Errorf("%s has moved by %g and is %g away from where it should be", p.Name, way, d)
			}
		}
		switch i {
		case 0:
			statistics(after, exact.First, 1e-5)
		case steps - 1:
			statistics(after, exact.State, 1e-4)
		}
	}
}
