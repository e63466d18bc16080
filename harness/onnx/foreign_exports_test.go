package onnx_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// exportTolerance bounds the difference from ONNX Runtime relative to the largest
// value: float32 rounding of a few dozen layers, which add in another order.
const exportTolerance = 1e-4

// export is an entry of the index that testdata/foreign_exports.py writes.
type export struct {
	Net, Exporter, File, Error string
	Opset                      int
	Runs                       []struct {
		Shape         []int
		Input, Output string
	}
}

func exports(t *testing.T, dir string) []export {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index []export
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	return index
}

// run is the largest difference of the network's answers from ONNX Runtime's.
func (c *export) run(t *testing.T, dir string) (worst float64, err error) {
	t.Helper()
	for _, r := range c.Runs {
		y, err := runFile(filepath.Join(dir, c.File), r.Shape, floats(t, filepath.Join(dir, r.Input)))
		if err != nil {
			return 0, err
		}
		worst = max(worst, difference(y, floats(t, filepath.Join(dir, r.Output))))
	}
	return worst, nil
}

// TestSmallExports is TestForeignExports for checked-in files, which need no other
// program: a narrow network for every kind of graph that PyTorch's default exporter
// makes, at a fixed size with its weights in a second file, and where it has few
// weights also at any size. All of them are read.
func TestSmallExports(t *testing.T) {
	answers(t, "testdata/foreign/torch", nil)
}

// TestForeignCases runs the files of testdata/foreign_cases.py: forms of operators,
// and ways of storing weights, that are of newer operator sets or other exporters.
func TestForeignCases(t *testing.T) {
	answers(t, "testdata/foreign/cases", map[string]string{ // by attribute
		"resize-not-larger": `"keep_aspect_ratio_policy" = "not_larger"`,
		"resize-antialias":  `"antialias" = 1`,
		"pad-wrap":          `"mode" = "wrap"`,
	})
}

// answers compares the files of a folder with the answers of ONNX Runtime beside
// them. Those in refused are to be refused with these words.
func answers(t *testing.T, folder string, refused map[string]string) {
	dir := filepath.FromSlash(folder)
	index := exports(t, dir)
	for _, c := range index {
		t.Run(strings.TrimSuffix(c.File, ".onnx"), func(t *testing.T) {
			if c.Error != "" || len(c.Runs) == 0 {
				t.Fatalf("there are no answers of ONNX Runtime: %s", c.Error)
			}
			worst, err := c.run(t, dir)
			if words, ok := refused[c.Net]; ok {
				if err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("error %v does not say %s", err, words)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !(worst <= exportTolerance) {
				t.Errorf("differs by %g", worst)
			}
			t.Logf("differs by %.1g", worst)
		})
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.onnx"))
	if err != nil || len(files) == 0 || len(files) != len(index) {
		t.Errorf("%d files, %d entries in the index (%v)", len(files), len(index), err)
	}
}

// TestForeignExports reads what PyTorch's exporters make of other people's
// networks, and compares with ONNX Runtime. It needs an interpreter with what few
// machines have, named by $REFOCUS_ONNX_PYTHON: torch, torchvision, onnxscript,
// monai, segmentation-models-pytorch and onnxruntime of today. With -v it prints
// the table of the documentation.
func TestForeignExports(t *testing.T) {
	python := exportPython(t)
	type count struct{ right, all int }
	var names []string
	opsets := map[string]int{}
	counts := map[string]map[string]count{}
	families := []string{"plain", "monai", "smp", "torchvision"}
	for _, family := range families {
		counts[family] = map[string]count{}
		t.Run(family, func(t *testing.T) {
			dir := t.TempDir()
			if out, err := exec.Command(python, "testdata/foreign_exports.py", dir, family).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, c := range exports(t, dir) {
				if c.Error != "" {
					t.Logf("%s, %s: is not exported: %s", c.Net, c.Exporter, c.Error)
					continue
				}
				if !slices.Contains(names, c.Exporter) {
					names = append(names, c.Exporter)
				}
				opsets[c.Exporter] = c.Opset
				n := counts[family][c.Exporter]
				n.all++
				switch worst, err := c.run(t, dir); {
				case err != nil:
					t.Logf("%s, %s: %v", c.Net, c.Exporter, strings.ReplaceAll(err.Error(), dir, ""))
				case !(worst <= exportTolerance):
					t.Errorf("%s, %s: WRONG, differs by %g", c.Net, c.Exporter, worst)
				default:
					n.right++
				}
				counts[family][c.Exporter] = n
			}
		})
	}
	table := "\n| exporter | operator set | " + strings.Join(families, " | ") + " | all |\n|---|---|" + strings.Repeat("---|", len(families)+1) + "\n"
	for _, e := range names {
		row, sum := fmt.Sprintf("| %s | %d |", e, opsets[e]), count{}
		for _, f := range families {
			n := counts[f][e]
			row += fmt.Sprintf(" %d of %d |", n.right, n.all)
			sum.right += n.right
			sum.all += n.all
		}
		table += fmt.Sprintf("%s %d of %d |\n", row, sum.right, sum.all)
		if 10*sum.right < 9*sum.all {
			t.Errorf("of the exporter %q %d of %d networks run; nine in ten are to", e, sum.right, sum.all)
		}
	}
	t.Log(table)
}

// TestQuantizedExports runs networks that ONNX Runtime's quantiser has made, beside
// ONNX Runtime with its integer kernels and without. It needs what
// TestForeignExports needs.
//
// A sum that is rounded to float32 in another order falls on the other side of half
// a step here and there, and what follows is off by a step: 1/255 of the largest
// value of a layer, by which ONNX Runtime's two ways differ as well. The bound is
// several such steps; a wrong zero point or axis is of the order of one.
func TestQuantizedExports(t *testing.T) {
	python := exportPython(t)
	dir := t.TempDir()
	if out, err := exec.Command(python, "testdata/foreign_exports.py", dir, "quantised").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	index := exports(t, dir)
	agree, most := map[string]int{}, map[string]float64{}
	count := func(what string, d float64) {
		if d <= exportTolerance {
			agree[what]++
		}
		most[what] = max(most[what], d)
	}
	for i, c := range index {
		d, err := c.run(t, dir)
		if err != nil {
			t.Errorf("%s: %v", c.Net, err)
			continue
		}
		t.Logf("%s, ONNX Runtime %s: differs by %.1g", c.Net, c.Exporter, d)
		if !(d <= 0.1) {
			t.Errorf("%s, ONNX Runtime %s: differs by %g", c.Net, c.Exporter, d)
		}
		count(c.Exporter, d)
		if i%2 == 1 { // the same file as the one before
			count("itself", difference(floats(t, filepath.Join(dir, c.Runs[0].Output)), floats(t, filepath.Join(dir, index[i-1].Runs[0].Output))))
		}
	}
	for _, what := range []string{"as written", "optimised", "itself"} {
		t.Logf("%s: %d of %d agree to %g, the largest difference is %.2g", what, agree[what], len(index)/2, exportTolerance, most[what])
	}
}

// exportPython is the Python that has what foreign networks are made by.
func exportPython(t *testing.T) string {
	t.Helper()
	python := os.Getenv("REFOCUS_ONNX_PYTHON")
	if python == "" || exec.Command(python, "-c", "import torch, torchvision, onnxscript, monai, segmentation_models_pytorch, onnxruntime").Run() != nil {
		t.Skip("$REFOCUS_ONNX_PYTHON names no Python with torch, torchvision, onnxscript, monai, segmentation-models-pytorch and onnxruntime")
	}
	return python
}
