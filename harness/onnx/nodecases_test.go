package onnx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// TestNodeCases runs onnx's official tests of every operator that is read, as
// networks of that operator: in the installed onnx package (Debian's ends at
// operator set 17), and in the one of the interpreter $REFOCUS_ONNX_PYTHON, for
// the newest. None may be wrong; with -v it prints the table of the
// documentation.
func TestNodeCases(t *testing.T) {
	pythons := map[string]string{"Debian": peers.Python(t, "onnx", "numpy")}
	if p := os.Getenv("REFOCUS_ONNX_PYTHON"); p != "" {
		pythons["newest"] = p
	}
	for _, name := range slices.Sorted(maps.Keys(pythons)) {
		t.Run(name, func(t *testing.T) { nodeCases(t, pythons[name]) })
	}
}

func nodeCases(t *testing.T, python string) {
	dir := t.TempDir()
	cmd := exec.Command(python, append([]string{"testdata/node_cases.py", dir}, onnx.Operators()...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var index struct {
		Version string
		Opset   int
		Cases   []struct {
			Op, Name, File string
			Shape          []int
			Input, Output  string
			Half           bool
		}
		Others map[string]int
	}
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	type again struct {
		consumer.Run
		name      string
		want      []float32
		tolerance float64
	}
	var written []again // what was read, written again, for ONNX Runtime
	type count struct{ right, refused int }
	counts := map[string]count{}
	var total count
	for _, c := range index.Cases {
		n := counts[c.Op]
		x, want := floats(t, filepath.Join(dir, c.Input)), floats(t, filepath.Join(dir, c.Output))
		y, err := runFile(filepath.Join(dir, c.File), c.Shape, x)
		switch {
		case err != nil:
			n.refused++
			total.refused++
			t.Logf("%s %s: %v", c.Op, c.Name, strings.TrimPrefix(err.Error(), dir))
		default:
			n.right++
			total.right++
			// float32 arithmetic of one operator: the tests' own relative tolerance
			// is 1e-3. Ours computes float16 networks in float32.
			tolerance := 1e-4
			if c.Half {
				tolerance = 2e-3
			}
			if d := difference(y, want); !(d <= tolerance) {
				t.Errorf("%s %s: WRONG, differs by %g", c.Op, c.Name, d)
			}
			path := filepath.Join(dir, c.File)
			rewrite(t, path, path+".again.onnx")
			written = append(written, again{consumer.Run{Model: path + ".again.onnx", Shape: c.Shape, Data: x}, c.Op + " " + c.Name, want, tolerance})
		}
		counts[c.Op] = n
	}
	table := fmt.Sprintf("\nonnx %s, operator set %d: %d right, %d refused, none wrong\n\n| operator | right | refused | not of an image |\n|---|---|---|---|\n", index.Version, index.Opset, total.right, total.refused)
	for _, op := range slices.Sorted(slices.Values(onnx.Operators())) {
		table += fmt.Sprintf("| %s | %d | %d | %d |\n", op, counts[op].right, counts[op].refused, index.Others[op])
	}
	t.Log(table)

	var runs []consumer.Run
	for _, w := range written {
		runs = append(runs, w.Run)
	}
	_, results, err := consumer.ONNXRuntime.Predict(context.Background(), runs)
	peers.Need(t, !errors.Is(err, consumer.ErrMissing), fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if w := written[i]; r.Err != nil {
			t.Errorf("%s, written again: %v", w.name, r.Err)
		} else if d := difference(r.Data, w.want); !(d <= w.tolerance) {
			t.Errorf("%s, written again: ONNX Runtime's answer differs by %g", w.name, d)
		}
	}
}

// rewrite writes the network of a file again, which reads as the same network.
func rewrite(t *testing.T, from, to string) {
	t.Helper()
	g, _, err := onnx.ReadFile(from, onnx.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Errorf("%s: imported and cannot be written: %v", from, err)
		return
	}
	h, err := onnx.Unmarshal(first)
	if err != nil {
		t.Errorf("%s: written and cannot be read: %v", from, err)
		return
	}
	if second, err := onnx.Marshal(h, onnx.MarshalOptions{}); err != nil || !bytes.Equal(first, second) {
		t.Errorf("%s: changed on the way (%v)", from, err)
	}
	if err := onnxgo.Check(first); err != nil {
		t.Errorf("%s: %v", from, err)
	}
	if err := os.WriteFile(to, first, 0o600); err != nil {
		t.Fatal(err)
	}
}

// runFile predicts with the network in a file on the CPU backend.
func runFile(path string, shape []int, x []float32) ([]float32, error) {
	g, _, err := onnx.ReadFile(path, onnx.ReadOptions{})
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	s, err := cpu.New("test").Open(ctx, g, backend.Options{})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	y, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: x})
	return y.F32, err
}

// difference is the largest relative to the largest value; infinite if one is
// not finite, or misses, where the other is.
func difference(got, want []float32) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d, m := 0.0, 0.0
	for i, w := range want {
		g, w := float64(got[i]), float64(w)
		switch {
		case g == w || g != g && w != w:
		case math.IsInf(g, 0) || math.IsInf(w, 0) || g != g || w != w:
			return math.Inf(1)
		default:
			d = max(d, math.Abs(g-w))
		}
		if !math.IsInf(w, 0) && w == w {
			m = max(m, math.Abs(w))
		}
	}
	if d == 0 {
		return 0
	}
	return d / m
}
