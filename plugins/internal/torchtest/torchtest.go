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
	"strings"
	"testing"
	"time"

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
}

// Answer is a job's result in both precisions. Float64 is the judge; how far
// Float32 is from it says what can be asked of another float32 program.
type Answer struct{ Float32, Float64 Result }

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
		answers = append(answers, Answer{
			read(t, filepath.Join(dir, fmt.Sprintf("%d.torch.float32", i))),
			read(t, filepath.Join(dir, fmt.Sprintf("%d.torch.float64", i))),
		})
	}
	return answers
}

func read(t testing.TB, path string) Result {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := Result{Initial: map[string][]float64{}, Gradients: map[string][]float64{}, First: map[string][]float64{}, State: map[string][]float64{}}
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
