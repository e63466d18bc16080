package onnx_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// TestImportTorch imports U-Nets that PyTorch has exported at opsets 11 to 17
// and compares PyTorch's own answers with those of the CPU backend and, after
// writing the imported graph again, of ONNX Runtime.
func TestImportTorch(t *testing.T) {
	python := peers.Python(t, "torch")
	dir := t.TempDir()
	if out, err := exec.Command(python, "testdata/torch_export.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("exporting from PyTorch: %v\n%s", err, out)
	}
	var models []struct {
		File            string
		Shapes          [][]int
		Inputs, Outputs []string
	}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &models); err != nil {
		t.Fatal(err)
	}
	opsets := map[string]bool{}
	var runs []consumer.Run
	var want [][]float32
	ctx := context.Background()
	for _, m := range models {
		name := strings.TrimSuffix(m.File, ".onnx")
		opsets[name[len(name)-2:]] = true
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join(dir, m.File))
			if err != nil {
				t.Fatal(err)
			}
			g, err := onnx.Unmarshal(data)
			if err != nil {
				t.Fatal(err)
			}
			if err := onnxgo.Check(data); err != nil {
				t.Error(err)
			}
			again, err := onnx.Marshal(g, onnx.MarshalOptions{})
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, name+".again.onnx")
			if err := os.WriteFile(path, again, 0o666); err != nil {
				t.Fatal(err)
			}
			for i, shape := range m.Shapes {
				runs = append(runs, consumer.Run{Model: path, Shape: shape, Data: floats(t, filepath.Join(dir, m.Inputs[i]))})
				want = append(want, floats(t, filepath.Join(dir, m.Outputs[i])))
			}
			s := testnet.Open(t, g)
			for i, shape := range m.Shapes {
				x, y := runs[len(runs)-len(m.Shapes)+i].Data, want[len(want)-len(m.Shapes)+i]
				got, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: x})
				if err != nil {
					t.Fatal(err)
				}
				if d := testnet.Worst(got.F32, y); d > tolerance(y) {
					t.Errorf("images %v: differs from PyTorch by %g", shape, d)
				}
			}
		})
	}
	if len(opsets) != 7 {
		t.Errorf("exports cover opsets %v, want all from 11 to 17", opsets)
	}
	t.Run("ONNX Runtime", func(t *testing.T) {
		_, results, err := consumer.ONNXRuntime.Predict(ctx, runs)
		peers.Need(t, !errors.Is(err, consumer.ErrMissing), fmt.Sprint(err))
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range results {
			if r.Err != nil {
				t.Errorf("%s: %v", filepath.Base(runs[i].Model), r.Err)
			} else if d := testnet.Worst(r.Data, want[i]); d > tolerance(want[i]) {
				t.Errorf("%s, images %v: differs from PyTorch by %g", filepath.Base(runs[i].Model), runs[i].Shape, d)
			}
		}
	})
}

// tolerance is 1e-5 of the largest value: some of the networks end in logits.
// Two float32 evaluations of these networks differ by a few 1e-6 of it.
func tolerance(y []float32) float64 {
	m := 1.0
	for _, v := range y {
		m = max(m, math.Abs(float64(v)))
	}
	return 1e-5 * m
}

func floats(t *testing.T, path string) []float32 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}
