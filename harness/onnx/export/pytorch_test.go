package export

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// pytorchPackage writes a package and returns its path and what PyTorch made of its
// weights.
func pytorchPackage(t *testing.T, m Model) (string, Consumer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.zip")
	o := without
	o.Format, o.Consumers = BioImageIO, []consumer.Consumer{consumer.PyTorch}
	if _, err := Write(context.Background(), path, m, o); err != nil {
		t.Fatal(err)
	}
	return path, certificate(t, path).Consumers[0]
}

// PyTorch loads the state dict that is written without it, strictly and with nothing
// but weights allowed in it, and predicts what the backend does. A network that has no
// counterpart there has a package without.
func TestPyTorchWeights(t *testing.T) {
	need(t, consumer.PyTorch)
	m := model(t)
	// Two float32 evaluations of one network differ by a few 1e-6.
	if _, k := pytorchPackage(t, m); k.Outcome != Passed || k.Probabilities > 1e-5 {
		t.Errorf("%+v", k)
	} else {
		t.Logf("PyTorch %s differs by %.2g", k.Version, k.Probabilities)
	}
	m.Graph = m.Graph.Clone()
	first := m.Graph.Nodes[0]
	first.Inputs[0] = "same"
	block := func() nn.Attrs { return nn.Attrs{"blocksize": int64(2)} }
	m.Graph.Nodes = append([]*nn.Node{
		{Name: "to depth", Op: "SpaceToDepth", Inputs: []string{m.Graph.Input.Name}, Outputs: []string{"depth"}, Attrs: block()},
		{Name: "to space", Op: "DepthToSpace", Inputs: []string{"depth"}, Outputs: []string{"same"}, Attrs: block()}}, m.Graph.Nodes...)
	path, k := pytorchPackage(t, m)
	if k.Outcome != Refused || !strings.Contains(k.Detail, `node "to depth" (SpaceToDepth)`) {
		t.Errorf("%+v", k)
	}
	if files := unzip(t, path); files[torchWeights] != "" || strings.Contains(files["rdf.yaml"]+files["bioimageio.yaml"], "pytorch") {
		t.Error("the package names weights that it has not")
	}
}

// torchRun states a network in PyTorch, for a run of it there.
func torchRun(t *testing.T, g *nn.Graph, x backend.Tensor) (consumer.Run, error) {
	t.Helper()
	m, err := pyTorch(g, "test")
	if err != nil {
		return consumer.Run{}, err
	}
	weights, err := stateDict(m.state, time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, torchWeights)
	for name, data := range map[string][]byte{path: weights, filepath.Join(dir, torchSource): []byte(m.source)} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return consumer.Run{Model: path, Shape: x.Shape, Data: x.F32}, nil
}

// Networks from elsewhere, with the operators that they have, are stated rightly; a
// wrong weight shows.
func TestPyTorchForeign(t *testing.T) {
	need(t, consumer.PyTorch)
	paths, err := filepath.Glob("../testdata/foreign/*.onnx")
	if err != nil || len(paths) == 0 {
		t.Fatal(err)
	}
	var runs []consumer.Run
	var wants [][]float32
	var names []string
	for _, p := range paths {
		g, _, err := onnx.ReadFile(p, onnx.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		shape := []int{1, g.Input.Shape[1], 64, 96}
		for i, d := range g.Input.Shape {
			if d > 0 {
				shape[i] = d
			}
		}
		x := testnet.Noise(shape...)
		run, err := torchRun(t, g, x)
		if err != nil {
			t.Logf("%s: %v", filepath.Base(p), err)
			continue
		}
		runs, wants, names = append(runs, run), append(wants, testnet.Predict(t, g, x).F32), append(names, filepath.Base(p))
	}
	if 4*len(runs) < 3*len(paths) {
		t.Errorf("%d of %d networks are stated in PyTorch", len(runs), len(paths))
	}
	g := testnet.Trained(t)
	broken := g.Clone()
	broken.Tensor("encoder.down2.unit1.conv1.weight").Data[100] += 0.5
	x := testnet.Noise(1, 1, 32, 48)
	run, err := torchRun(t, broken, x)
	if err != nil {
		t.Fatal(err)
	}
	_, results, err := consumer.PyTorch.Predict(context.Background(), append(runs, run))
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if results[i].Err != nil {
			t.Errorf("%s: %v", name, results[i].Err)
			continue
		}
		// Two float32 evaluations; relative to the largest, for networks without a softmax.
		if d := difference(results[i].Data, wants[i]) / max(1, largest(wants[i])); !(d <= 1e-5) {
			t.Errorf("%s: PyTorch differs by %g", name, d)
		}
	}
	if d := difference(results[len(names)].Data, testnet.Predict(t, g, x).F32); d < 1e-3 {
		t.Errorf("a wrong weight changes the prediction by %g only", d)
	}
}

// What reads packages in Python, bioimageio.core, takes both descriptions and runs the
// weights of ONNX and of PyTorch on the test images. Of a whole package it takes rdf.yaml.
func TestBioImageCore(t *testing.T) {
	python := os.Getenv("REFOCUS_BIOIMAGEIO")
	peers.Need(t, python != "" && exec.Command(python, "-c", "import bioimageio.core, onnxruntime, torch").Run() == nil,
		"$REFOCUS_BIOIMAGEIO names no Python with bioimageio.core, onnxruntime and torch")
	m := model(t)
	m.Maintainers = nil // whom it would look for on the net
	path, folder := unpacked(t, m)
	out, err := exec.Command(python, filepath.Join("testdata", "run_bioimageio.py"), filepath.Join(folder, "bioimageio.yaml"), path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"0.5 onnx passed", "0.5 pytorch_state_dict passed", "0.4 onnx passed", "0.4 pytorch_state_dict passed"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}
