package onnx_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// TestConsumerTable loads one exported model in every consumer, at two sizes
// and a batch of three, and compares with the backend's own prediction. Run
// with -v it prints the table of the documentation.
func TestConsumerTable(t *testing.T) {
	g := testnet.Trained(t)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{SamePadding: true})
	if err != nil {
		t.Fatal(err)
	}
	path := save(t, data)
	images := []backend.Tensor{testnet.Noise(1, 1, 64, 96), testnet.Noise(3, 1, 32, 48)}
	var runs []consumer.Run
	var want []backend.Tensor
	for _, x := range images {
		runs = append(runs, consumer.Run{Model: path, Shape: x.Shape, Data: x.F32})
		y := testnet.Predict(t, g, x)
		if lo, hi := slices.Min(y.F32), slices.Max(y.F32); lo > 0.1 || hi < 0.9 {
			t.Fatalf("probabilities from %g to %g would hide differences", lo, hi)
		}
		want = append(want, y)
	}
	table := "\n| consumer | version | loads | dynamic size | largest difference |\n|---|---|---|---|---|\n"
	for _, c := range consumer.All() {
		t.Run(c.Name, func(t *testing.T) {
			version, results, err := c.Predict(context.Background(), runs)
			peers.Need(t, !errors.Is(err, consumer.ErrMissing), fmt.Sprint(err))
			if err != nil {
				t.Fatal(err)
			}
			if v, place, err := c.Version(context.Background()); v != version || place == "" || err != nil {
				t.Errorf("asked for its version it says %q in %q, %v", v, place, err)
			}
			var d float64
			for i, r := range results {
				if r.Err != nil {
					t.Fatalf("images %v: %v", runs[i].Shape, r.Err)
				}
				if c.Predicts {
					d = max(d, testnet.Worst(r.Data, want[i].F32))
				}
			}
			// Two float32 evaluations of one network differ by a few 1e-6
			// (PyTorch's float32 is 0.6 to 1.9e-5 from its float64 before the softmax).
			if d > 1e-5 {
				t.Errorf("differs from the backend by %g", d)
			}
			agreement := "only checks"
			if c.Predicts {
				agreement = fmt.Sprintf("%.1g", d)
			}
			table += fmt.Sprintf("| %s | %s | yes | yes | %s |\n", c.Name, version, agreement)
		})
	}
	t.Log(table)
}

// A folder of a module's name is not taken for the module.
func TestFolderIsNoModule(t *testing.T) {
	dir := t.TempDir()
	for _, m := range []string{"onnxruntime", "numpy"} {
		if err := os.Mkdir(filepath.Join(dir, m), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	t.Setenv("REFOCUS_NODE_MODULES", dir)
	t.Setenv("PATH", t.TempDir())
	for _, v := range []string{"REFOCUS_PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX"} {
		t.Setenv(v, "")
	}
	python := "/usr/bin/python3"
	if exec.Command(python, "-c", "pass").Run() != nil {
		t.Skip("no " + python)
	}
	if exec.Command(python, "-c", "import sys; sys.path = [p for p in sys.path if p]; import onnxruntime").Run() == nil {
		t.Skip("ONNX Runtime is installed")
	}
	if err := consumer.ONNXRuntime.Installed(context.Background()); !errors.Is(err, consumer.ErrMissing) {
		t.Errorf("found in an empty folder: %v", err)
	}
}
