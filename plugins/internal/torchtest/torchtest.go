// Package torchtest trains the study's U-Net in PyTorch, as the oracle that the
// backends' tests compare themselves with. The network in unet.py is written
// from the paper's description and shares nothing with package nn but the names
// of the parameters.
package torchtest

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

//go:embed unet.py
var script []byte

// Job is a training run: len(Labels)/(N·H·W) steps from the graph's weights.
type Job struct {
	Width        int
	Graph        *nn.Graph // of nn.UNet with this width and two classes
	N, H, W      int       // of each batch
	Images       []float32 // [steps,N,1,H,W]
	Labels       []uint8   // [steps,N,H,W]
	Loss         string    // backend.LossOnProbabilities or backend.LossOnLogits
	LearningRate float64
	Frozen       []string
	Mixed        bool    // the float32 network rounds to half precision
	Scale        float64 // of the loss in the backward pass, 0 means 1
}

// Result is what PyTorch computed.
type Result struct {
	Initial   map[string][]float64 // parameters drawn by PyTorch, which the graph's replaced
	Output    []float64            // inference on the first batch before training
	Loss      []float64            // of each step
	Gradients map[string][]float64 // of the first step, without frozen groups
	First     map[string][]float64 // running statistics after the first step
	State     map[string][]float64 // parameters and statistics after the last step

	images, slack []float64
	biases        map[string][]float64 // [steps,C]
}

// Answer is a job's result in both precisions. Float64 is the judge; how far
// Float32 is from it says what can be asked of another float32 program.
//
// It can be asked only where no rounding error makes a gradient jump: a ReLU that
// switches in one program and not in another parts them by a thousand times their
// rounding errors. So PyTorch moves the biases before ReLUs and some pixels before
// each step until the float64 run is far from any switch: Images replaces the
// job's, and Prepare gives a session the biases.
type Answer struct {
	Float32, Float64 Result

	Images []float32 // [steps,N,1,H,W]
}

// Check fails the test unless on every step the values of Float64 are ten times
// farther from a switch than those of Float32 are from them, in each layer:
// another order of summation changes rounding errors by a factor of two or three.
func (a Answer) Check(t testing.TB) {
	t.Helper()
	least := slices.Min(a.Float32.slack)
	if !(least >= 10) {
		t.Fatalf("values are only %.2g times farther from a switch than PyTorch's float32 is off", least)
	}
	t.Logf("values are %.0f times farther from a switch than PyTorch's float32 is off", least)
}

// Prepare gives a session, whose state is otherwise its own, the biases with which
// the oracle makes a step, or the inference before step 0.
func (a Answer) Prepare(t testing.TB, s backend.Session, step int) {
	t.Helper()
	raw, err := s.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	var state []safetensors.Tensor
	for _, i := range f.Tensors() {
		x := safetensors.Tensor{Name: i.Name, Shape: i.Shape}
		if b := a.Float64.biases[i.Name]; b != nil {
			x.Data = narrow(b[step*i.Shape[0]:][:i.Shape[0]]) // exact
		} else if i.DType == safetensors.F64 {
			x.Data, err = f.Float64(i.Name)
		} else {
			x.Data, err = f.Float32(i.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
		state = append(state, x)
	}
	if raw, err = safetensors.Encode(state, f.Metadata); err == nil {
		err = s.SetState(t.Context(), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Train runs the jobs, in one process because importing torch takes seconds; it
// skips the test where there is no PyTorch.
func Train(t testing.TB, jobs ...Job) []Answer {
	t.Helper()
	python := peers.Python(t, "torch")
	dir := t.TempDir()
	write := func(name string, data []byte, err error) string {
		path := filepath.Join(dir, name)
		if err == nil {
			err = os.WriteFile(path, data, 0o666)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	var list []map[string]any
	for i, j := range jobs {
		steps := len(j.Labels) / (j.N * j.H * j.W)
		in := []safetensors.Tensor{
			{Name: "images", Shape: []int{steps, j.N, 1, j.H, j.W}, Data: j.Images},
			{Name: "labels", Shape: []int{steps, j.N, j.H, j.W}, Data: j.Labels},
		}
		for _, w := range j.Graph.Tensors {
			if w.Role != nn.Constant {
				in = append(in, safetensors.Tensor{Name: w.Name, Shape: w.Shape, Data: w.Data})
			}
		}
		data, err := safetensors.Encode(in, nil)
		write(fmt.Sprintf("%d.in", i), data, err)
		if j.Scale == 0 {
			j.Scale = 1
		}
		list = append(list, map[string]any{"width": j.Width, "loss": j.Loss, "learning_rate": j.LearningRate,
			"scale": j.Scale, "frozen": append([]string{}, j.Frozen...), "mixed": j.Mixed})
	}
	data, err := json.Marshal(list)
	write("jobs.json", data, err)
	if out, err := exec.Command(python, write("unet.py", script, nil), dir).CombinedOutput(); err != nil {
		t.Fatalf("PyTorch: %v\n%s", err, out)
	}
	var answers []Answer
	for i := range jobs {
		a := Answer{
			Float32: read(t, filepath.Join(dir, fmt.Sprintf("%d.torch.float32", i))),
			Float64: read(t, filepath.Join(dir, fmt.Sprintf("%d.torch.float64", i))),
		}
		a.Images = narrow(a.Float64.images)
		answers = append(answers, a)
	}
	return answers
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

func read(t testing.TB, path string) Result {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := Result{Initial: map[string][]float64{}, Gradients: map[string][]float64{}, First: map[string][]float64{}, State: map[string][]float64{},
		biases: map[string][]float64{}}
	for _, i := range f.Tensors() {
		v, err := f.Float64(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		of, name, _ := strings.Cut(i.Name, ".")
		switch of {
		case "initial":
			r.Initial[name] = v
		case "output":
			r.Output = v
		case "loss":
			r.Loss = v
		case "grad":
			r.Gradients[name] = v
		case "first":
			r.First[name] = v
		case "images":
			r.images = v
		case "bias":
			r.biases[name] = v
		case "slack":
			r.slack = v
		default:
			r.State[i.Name] = v
		}
	}
	return r
}

// Clock starts a PyTorch process that takes one training step (forward,
// backward, Adam) of the network per call of step, for timings interleaved with
// one's own. It skips the benchmark where there is no PyTorch.
func Clock(t testing.TB, width, n, h, w, threads int) (step func() (wall, cpu time.Duration)) {
	t.Helper()
	python := peers.Python(t, "torch")
	path := filepath.Join(t.TempDir(), "unet.py")
	if err := os.WriteFile(path, script, 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, path, fmt.Sprint(width), fmt.Sprint(n), fmt.Sprint(h), fmt.Sprint(w), fmt.Sprint(threads))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return func() (wall, cpu time.Duration) {
		t.Helper()
		var a, b float64
		fmt.Fprintln(in)
		if _, err := fmt.Fscan(out, &a, &b); err != nil {
			t.Fatalf("PyTorch: %v", err)
		}
		return time.Duration(a * 1e9), time.Duration(b * 1e9)
	}
}

// Distance is the Euclidean norm of a−b, infinite where their lengths differ.
func Distance[A, B float32 | float64](a []A, b []B) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var s float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		s += d * d
	}
	return math.Sqrt(s)
}

// Norm is the Euclidean norm of a.
func Norm(a []float64) float64 { return Distance(a, make([]float64, len(a))) }

// Largest is the largest |a−b|, infinite where their lengths differ.
func Largest[A, B float32 | float64](a []A, b []B) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var s float64
	for i := range a {
		s = max(s, math.Abs(float64(a[i])-float64(b[i])))
	}
	return s
}
