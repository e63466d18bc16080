package cpu

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/internal/torchtest"
)

// oracleCase is one training run that PyTorch repeats in float32 and float64.
type oracleCase struct {
	name   string
	width  int
	seed   uint64 // of the weights
	loss   string
	frozen []string
	mixed  bool
	rate   float64

	graph        *nn.Graph
	answer       torchtest.Answer
	path, digest string // of the images and labels of all its steps
}

// On no step is a value of the float64 run near a switch of a ReLU or a pool
// (torchtest.Answer), so it does not matter in what order a processor's kernels
// sum. At a rate of 1e-5 rounding errors of vanishing gradients, of which Adam
// makes whole steps, do not add up to a switch either; "steep" takes longer steps
// in float64.
var oracleCases = []*oracleCase{
	{name: "all", width: 8, seed: 217, loss: backend.LossOnProbabilities, rate: 1e-5},
	{name: "encoder", width: 8, seed: 217, loss: backend.LossOnProbabilities, frozen: []string{nn.Encoder}, rate: 1e-5},
	{name: "decoder", width: 12, seed: 413, loss: backend.LossOnLogits, frozen: []string{nn.Decoder}, rate: 1e-5},
	{name: "logits", width: 12, seed: 413, loss: backend.LossOnLogits, rate: 1e-5},
	{name: "steep", width: 8, seed: 217, loss: backend.LossOnProbabilities, rate: 1e-3},
	{name: "mixed", width: 8, seed: 217, loss: backend.LossOnProbabilities, mixed: true, rate: 1e-5},
}

// The oracle's batches: each step takes the samples that follow those of the last.
const oracleSteps, oracleBatch, oracleH, oracleW = 10, 3, 32, 48

// oracle runs PyTorch on all the cases. It returns a network of width 16 as
// PyTorch initialises it.
func oracle(t *testing.T) (initial map[string][]float64) {
	_, _, x, y := writeDataset(t, oracleSteps*oracleBatch, oracleH, oracleW)
	var jobs []torchtest.Job
	for _, c := range oracleCases {
		c.graph = unetSeed(t, c.width, c.seed)
		j := torchtest.Job{Width: c.width, Graph: c.graph, N: oracleBatch, H: oracleH, W: oracleW, Images: x, Labels: y,
			Loss: c.loss, LearningRate: c.rate, Frozen: c.frozen, Mixed: c.mixed}
		if c.mixed {
			j.Scale = 65536
		}
		jobs = append(jobs, j)
	}
	const size = oracleH * oracleW
	jobs = append(jobs, torchtest.Job{Width: 16, Graph: unetSeed(t, 16, 1), N: 1, H: oracleH, W: oracleW, Images: x[:size], Labels: y[:size],
		Loss: backend.LossOnProbabilities, LearningRate: 1e-5})
	answers := torchtest.Train(t, jobs...)
	for i, c := range oracleCases {
		c.answer = answers[i]
		c.path, c.digest = saveDataset(t, oracleSteps*oracleBatch, oracleH, oracleW, c.answer.Images, y)
	}
	return answers[len(oracleCases)].Float32.Initial
}

// TestPyTorch compares every engine with PyTorch from the same weights and
// batches. In float32 each of our numbers may be off PyTorch's float64 result
// by the bounds of the end-to-end comparison; a gradient by twice what
// PyTorch's own float32 is off, in the Euclidean norm of each tensor, with a
// floor of 1e-7 of the whole gradient's norm for tensors whose true gradient
// vanishes. In float64 both sides do the same arithmetic in another order.
func TestPyTorch(t *testing.T) {
	initial := oracle(t)
	t.Run("mixed", compareMixed)
	t.Run("initialisation", func(t *testing.T) { compareInitialisation(t, initial) })
	type bounds struct{ output, loss, losses, statistics float64 }
	for _, e := range []struct {
		engine, precision string
		bounds
	}{
		{"fast", backend.Float32, bounds{1e-5, 1e-6, 1e-4, 1e-4}},
		{"plain", backend.Float32, bounds{1e-5, 1e-6, 1e-4, 1e-4}},
		{"plain", backend.Float64, bounds{1e-12, 1e-12, 1e-10, 1e-10}},
	} {
		for _, c := range oracleCases {
			if c.mixed || c.name == "steep" && e.precision == backend.Float32 {
				continue
			}
			t.Run(fmt.Sprintf("%s-%s/%s", e.engine, e.precision, c.name), func(t *testing.T) {
				t.Setenv(EngineVariable, e.engine)
				if e.precision == backend.Float32 {
					c.answer.Check(t)
				}
				want, peer := c.answer.Float64, c.answer.Float32
				got := ours(t, c, e.precision)

				worst := map[string]float64{}
				check := func(kind, name string, got, want, peer []float64, bound float64) {
					t.Helper()
					d := farthest(got, want)
					worst[kind] = max(worst[kind], d)
					if !(d <= bound) {
						t.Errorf("%s is off by %.3g, at most %.3g is allowed (PyTorch's float32: %.3g)", name, d, bound, farthest(peer, want))
					}
				}
				check("output", "output", got.Output, want.Output, peer.Output, e.output)
				check("losses", "losses", got.Loss, want.Loss, peer.Loss, e.losses)
				if d := math.Abs(got.Loss[0] - want.Loss[0]); !(d <= e.loss) {
					t.Errorf("loss is off by %.3g, at most %.3g is allowed", d, e.loss)
				}
				for _, st := range c.graph.Statistics() {
					check("statistics", st.Name, got.State[st.Name], want.State[st.Name], peer.State[st.Name], e.statistics)
				}
				whole := total(want.Gradients)
				for _, name := range names(t, got.Gradients, want.Gradients) {
					g, w := got.Gradients[name], want.Gradients[name]
					d, p, floor := torchtest.Distance(g, w), torchtest.Distance(peer.Gradients[name], w), 1e-7*whole
					if e.precision == backend.Float64 {
						p, floor = 1e-11*torchtest.Norm(w), 1e-14*whole
					}
					worst["gradient"] = max(worst["gradient"], d/(2*p+floor))
					if !(d <= 2*p+floor) {
						t.Errorf("gradient of %s is off by %.3g, PyTorch's float32 by %.3g, its size is %.3g", name, d, p, torchtest.Norm(w))
					}
				}
				t.Logf("output %.2g, losses %.2g, statistics %.2g, worst gradient %.2f of its bound", worst["output"], worst["losses"], worst["statistics"], worst["gradient"])
			})
		}
	}
}

// names are the tensors of want, which those of got must be too.
func names(t *testing.T, got, want map[string][]float64) []string {
	t.Helper()
	names := slices.Sorted(maps.Keys(want))
	if own := slices.Sorted(maps.Keys(got)); !slices.Equal(own, names) {
		t.Errorf("gradients of %q, PyTorch's of %q", own, names)
	}
	return names
}

// total is the Euclidean norm of all the tensors together.
func total(m map[string][]float64) float64 {
	var s float64
	for _, name := range slices.Sorted(maps.Keys(m)) {
		s = math.Hypot(s, torchtest.Norm(m[name]))
	}
	return s
}

// compareMixed compares mixed precision with PyTorch rounding at the same
// places. Where two float32 sums straddle a rounding boundary of half precision
// the results part by 2⁻¹¹ of a value and go on from there, so neither can be
// held to the other: each is held to the unrounded float64 result. Rounding to
// half precision also moves values past any margin; so many ReLUs switch that
// their effects average, in any order of summation. A tensor's gradient may be off
// by four times what PyTorch's is, and the whole one between half and 1.5 times:
// less would mean that something is not rounded. 3e-4 and 1e-4 are a few times the
// deviations of PyTorch's output and losses.
func compareMixed(t *testing.T) {
	for _, e := range []string{"fast", "plain"} {
		for _, c := range oracleCases {
			if !c.mixed {
				continue
			}
			t.Setenv(EngineVariable, e)
			want, peer := c.answer.Float64, c.answer.Float32
			got := ours(t, c, backend.Mixed)
			worst, whole, peerWhole := 0.0, 0.0, 0.0
			for _, name := range names(t, got.Gradients, want.Gradients) {
				w := want.Gradients[name]
				d, p := torchtest.Distance(got.Gradients[name], w), torchtest.Distance(peer.Gradients[name], w)
				worst = max(worst, d/(4*p))
				whole, peerWhole = math.Hypot(whole, d), math.Hypot(peerWhole, p)
				if !(d <= 4*p) {
					t.Errorf("%s: gradient of %s is off by %.3g, PyTorch's by %.3g, its size is %.3g", e, name, d, p, torchtest.Norm(w))
				}
			}
			if !(whole > peerWhole/2 && whole < 1.5*peerWhole) {
				t.Errorf("%s: the gradient is off by %.3g, PyTorch's by %.3g", e, whole, peerWhole)
			}
			output, losses := farthest(got.Output, want.Output), farthest(got.Loss, want.Loss)
			if !(output <= 3e-4 && losses <= 1e-4) {
				t.Errorf("%s: output is off by %.3g, losses by %.3g", e, output, losses)
			}
			t.Logf("%s: output %.2g (PyTorch %.2g), losses %.2g (%.2g), whole gradient %.2g (%.2g), worst gradient %.2f of its bound", e,
				output, farthest(peer.Output, want.Output), losses, farthest(peer.Loss, want.Loss), whole, peerWhole, worst)
		}
	}
}

// compareInitialisation compares the distribution of each initial weight tensor
// with what PyTorch's layers draw by default: the two-sample
// Kolmogorov-Smirnov statistic at a significance of 10⁻⁴.
func compareInitialisation(t *testing.T, want map[string][]float64) {
	g, err := nn.UNet(nn.UNetOptions{Width: 16, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	for _, p := range g.Parameters() {
		w := want[p.Name]
		if len(w) != p.Len() {
			t.Errorf("%s has %d elements, PyTorch's %d", p.Name, p.Len(), len(w))
			continue
		}
		x := backend.Tensor{F32: p.Data}.Float64s()
		x = append([]float64(nil), x...)
		if len(p.Shape) == 1 && p.Name != nn.Logits+".bias" {
			if farthest(x, w) != 0 {
				t.Errorf("%s starts at %v, PyTorch's at %v", p.Name, x[0], w[0])
			}
			continue
		}
		slices.Sort(x)
		slices.Sort(w)
		d, j := 0.0, 0
		for i, v := range x {
			for j < len(w) && w[j] <= v {
				j++
			}
			d = max(d, math.Abs(float64(i+1-j))/float64(len(x)))
		}
		if bound := 2.23 * math.Sqrt(2/float64(len(x))); d > bound {
			t.Errorf("%s is distributed otherwise than PyTorch's: Kolmogorov-Smirnov statistic %.3f, at most %.3f is allowed", p.Name, d, bound)
		}
	}
}

// ours runs a case through a session. Of the state it reads the statistics.
func ours(t *testing.T, c *oracleCase, precision string) torchtest.Result {
	t.Helper()
	s := open(t, c.graph, backend.Options{Precision: precision, Loss: c.loss, Threads: 2}, c.path, c.digest)
	got := torchtest.Result{Gradients: map[string][]float64{}, State: map[string][]float64{}}
	c.answer.Prepare(t, s, 0)
	p, err := s.Predict(ctx, backend.Tensor{Shape: []int{oracleBatch, 1, oracleH, oracleW}, F32: c.answer.Images[:oracleBatch*oracleH*oracleW]})
	if err != nil {
		t.Fatal(err)
	}
	got.Output = p.Float64s()
	for step := range oracleSteps {
		var b backend.Batch
		for i := range oracleBatch {
			b = append(b, backend.Sample{Dataset: "d", Index: step*oracleBatch + i})
		}
		if step == 0 {
			_, grads, err := s.Gradients(ctx, b, c.frozen)
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range grads {
				got.Gradients[g.Name] = g.Float64s()
			}
		}
		c.answer.Prepare(t, s, step)
		r := backend.TrainRequest{Batches: []backend.Batch{b}, LearningRate: c.rate, Frozen: c.frozen}
		if err := s.Train(ctx, r, func(st backend.Step) error {
			if st.Skipped {
				return fmt.Errorf("step %d was skipped", step)
			}
			got.Loss = append(got.Loss, st.Loss)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := safetensors.Decode(state(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for _, st := range c.graph.Statistics() {
		var x backend.Tensor
		if precision == backend.Float64 {
			x.F64, err = f.Float64(st.Name)
		} else {
			x.F32, err = f.Float32(st.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
		got.State[st.Name] = x.Float64s()
	}
	return got
}

// farthest is the largest deviation, relative to numbers above 1.
func farthest(a, b []float64) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var m float64
	for i := range a {
		d := math.Abs(a[i]-b[i]) / max(1, math.Abs(b[i]))
		if !(d <= m) {
			m = d
		}
	}
	return m
}
