package onnx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
// the newest. None may be wrong, and the table in README.md is what comes out:
// REFOCUS_UPDATE=1 writes it anew where both are there.
func TestNodeCases(t *testing.T) {
	// One case is imported at once: old releases make theirs with an old protobuf only.
	pythons := []string{peers.Python(t, "onnx", "numpy", "onnx.backend.test.case.node.argmax")}
	if p := os.Getenv("REFOCUS_ONNX_PYTHON"); p != "" {
		pythons = append(pythons, p)
	}
	var tables []nodeTable
	for _, p := range pythons {
		t.Run(filepath.Base(filepath.Dir(filepath.Dir(p))), func(t *testing.T) { tables = append(tables, nodeCases(t, p)) })
	}
	const file, begin, end = "README.md", "<!-- node tests -->\n", "<!-- end -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	i, j := strings.Index(text, begin), strings.Index(text, end)
	if i < 0 || j < i {
		t.Fatalf("%s has no place for the table", file)
	}
	if os.Getenv("REFOCUS_UPDATE") != "" && len(tables) == 2 {
		if err := os.WriteFile(file, []byte(text[:i]+begin+both(tables)+text[j:]), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	lines := strings.Split(text[i:j], "\n")
	for _, table := range tables {
		// the columns of this version, if the document has it
		header := strings.Split(lines[1], "|")
		at := slices.IndexFunc(header, func(s string) bool { return strings.Contains(s, "onnx "+table.version+",") })
		if at < 0 {
			continue
		}
		for _, line := range lines[3 : len(lines)-1] {
			f := strings.Split(line, "|")
			op := strings.TrimSpace(f[1])
			if n := table.counts[op]; strings.TrimSpace(f[at]) != fmt.Sprint(n.right) || strings.TrimSpace(f[at+1]) != fmt.Sprint(n.refused) {
				t.Errorf("%s: the table in %s is out of date: %s are right, %d are refused of onnx %s", op, file, fmt.Sprint(n.right), n.refused, table.version)
			}
		}
	}
}

type nodeCount struct{ right, refused int }

// nodeTable is what came of one version's tests, by operator.
type nodeTable struct {
	version string
	opset   int
	counts  map[string]nodeCount
}

// both is the document's table.
func both(tables []nodeTable) string {
	s := "| operator |"
	var sums [2]nodeCount
	for _, t := range tables {
		s += fmt.Sprintf(" onnx %s, operator set %d: right | refused |", t.version, t.opset)
	}
	s += "\n|---|---|---|---|---|\n"
	for _, op := range onnx.Operators() {
		row, n := "| "+op+" |", 0
		for i, t := range tables {
			c := t.counts[op]
			row += fmt.Sprintf(" %d | %d |", c.right, c.refused)
			n += c.right + c.refused
			sums[i].right += c.right
			sums[i].refused += c.refused
		}
		if n > 0 {
			s += row + "\n"
		}
	}
	s += "| all |"
	for _, c := range sums {
		s += fmt.Sprintf(" %d | %d |", c.right, c.refused)
	}
	return s + "\n"
}

func nodeCases(t *testing.T, python string) nodeTable {
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
	counts := map[string]nodeCount{}
	for _, c := range index.Cases {
		n := counts[c.Op]
		x, want := floats(t, filepath.Join(dir, c.Input)), floats(t, filepath.Join(dir, c.Output))
		y, err := runFile(filepath.Join(dir, c.File), c.Shape, x)
		switch {
		case err != nil:
			n.refused++
			t.Logf("%s %s: %v", c.Op, c.Name, strings.TrimPrefix(err.Error(), dir))
		default:
			n.right++
			// float32 arithmetic of one operator: the tests' own relative tolerance
			// is 1e-3. Ours computes float16 networks in float32.
			tolerance := 1e-4
			if c.Half {
				tolerance = 2e-3
			}
			if c.Name == "test_transpose_all_permutations_3" { // [2,3,4] becomes [3,4,2]: the graph's output is [N,K,H,W]
				want = transposed(want, 12, 2)
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
	all := nodeCount{}
	for _, n := range counts {
		all.right += n.right
		all.refused += n.refused
	}
	t.Logf("onnx %s, operator set %d: %d right, %d refused, none wrong", index.Version, index.Opset, all.right, all.refused)
	counts["all"] = all
	table := nodeTable{index.Version, index.Opset, counts}

	var runs []consumer.Run
	for _, w := range written {
		runs = append(runs, w.Run)
	}
	_, results, err := consumer.ONNXRuntime.Predict(context.Background(), runs)
	if errors.Is(err, consumer.ErrMissing) && os.Getenv("REFOCUS_PEERS") == "" {
		t.Logf("what was read is not written again for ONNX Runtime: %v", err)
		return table
	}
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
	return table
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
