// Package torchtest trains the study's U-Net in PyTorch, as the oracle that the
// backends' tests compare themselves with. The network in unet.py is written
// from the paper's description and shares nothing with package nn but the names
// of the parameters.
package torchtest

import (
	_ "embed"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/peers"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
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
	Probability  bool      // the study's loss instead of the usual one
	LearningRate float64
	Frozen       []string
	Float64      bool
}

// Result is what PyTorch computed.
type Result struct {
	Output    []float64            // inference on the first batch before training
	Loss      []float64            // of each step
	Gradients map[string][]float64 // of the first step, without frozen groups
	State     map[string][]float64 // after the last step; "adam.m.", "adam.v." + name too
}

// Train runs the job, or skips the test where there is no PyTorch.
func Train(t testing.TB, j Job) Result {
	t.Helper()
	python := peers.Python(t, "torch")
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		return path
	}
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
	if err != nil {
		t.Fatal(err)
	}
	if j.Frozen == nil {
		j.Frozen = []string{}
	}
	job, err := json.Marshal(map[string]any{"width": j.Width, "on_probabilities": j.Probability, "learning_rate": j.LearningRate,
		"frozen": j.Frozen, "float64": j.Float64, "threads": 1})
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "out")
	if out, err := exec.Command(python, write("unet.py", script), string(job), write("in", data), target).CombinedOutput(); err != nil {
		t.Fatalf("PyTorch: %v\n%s", err, out)
	}
	f, err := safetensors.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := Result{Gradients: map[string][]float64{}, State: map[string][]float64{}}
	for _, i := range f.Tensors() {
		v, err := f.Float64(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i.Name == "output":
			r.Output = v
		case i.Name == "loss":
			r.Loss = v
		case strings.HasPrefix(i.Name, "grad."):
			r.Gradients[strings.TrimPrefix(i.Name, "grad.")] = v
		default:
			r.State[i.Name] = v
		}
	}
	return r
}

// Distance is the Euclidean norm of a−b.
func Distance[A, B float32 | float64](a []A, b []B) float64 {
	var s float64
	for i := range a {
		d := float64(a[i]) - float64(b[i])
		s += d * d
	}
	return math.Sqrt(s)
}

// Norm is the Euclidean norm of a.
func Norm(a []float64) float64 { return Distance(a, make([]float64, len(a))) }

// Largest is the largest |a−b|.
func Largest[A, B float32 | float64](a []A, b []B) float64 {
	var s float64
	for i := range a {
		s = max(s, math.Abs(float64(a[i])-float64(b[i])))
	}
	return s
}
