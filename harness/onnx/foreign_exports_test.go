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

// TestForeignExports reads what PyTorch's exporters make of other people's
// networks, and compares with ONNX Runtime. It needs an interpreter with what few
// machines have, named by $REFOCUS_ONNX_PYTHON: torch, torchvision, onnxscript,
// monai, segmentation-models-pytorch and onnxruntime of today. With -v it prints
// the table of the documentation.
func TestForeignExports(t *testing.T) {
	python := os.Getenv("REFOCUS_ONNX_PYTHON")
	if python == "" || exec.Command(python, "-c", "import torch, torchvision, onnxscript, monai, segmentation_models_pytorch, onnxruntime").Run() != nil {
		t.Skip("$REFOCUS_ONNX_PYTHON names no Python with torch, torchvision, onnxscript, monai, segmentation-models-pytorch and onnxruntime")
	}
	type count struct{ right, all int }
	var exporters []string
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
			var index []struct {
				Net, Exporter, File, Error string
				Opset                      int
				Runs                       []struct {
					Shape         []int
					Input, Output string
				}
			}
			b, err := os.ReadFile(filepath.Join(dir, "index.json"))
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, &index); err != nil {
				t.Fatal(err)
			}
			for _, c := range index {
				if c.Error != "" {
					t.Logf("%s, %s: is not exported: %s", c.Net, c.Exporter, c.Error)
					continue
				}
				if !slices.Contains(exporters, c.Exporter) {
					exporters = append(exporters, c.Exporter)
				}
				opsets[c.Exporter] = c.Opset
				n := counts[family][c.Exporter]
				n.all++
				right := true
				for _, r := range c.Runs {
					y, err := runFile(filepath.Join(dir, c.File), r.Shape, floats(t, filepath.Join(dir, r.Input)))
					if err != nil {
						t.Logf("%s, %s: %v", c.Net, c.Exporter, strings.ReplaceAll(err.Error(), dir, ""))
						right = false
						break
					}
					if d := difference(y, floats(t, filepath.Join(dir, r.Output))); !(d <= 1e-4) {
						t.Errorf("%s, %s, images %v: WRONG, differs by %g", c.Net, c.Exporter, r.Shape, d)
						right = false
					}
				}
				if right {
					n.right++
				}
				counts[family][c.Exporter] = n
			}
		})
	}
	table := "\n| exporter | operator set | " + strings.Join(families, " | ") + " | all |\n|---|---|" + strings.Repeat("---|", len(families)+1) + "\n"
	for _, e := range exporters {
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
