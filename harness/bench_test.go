package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/onnx"
)

func TestBench(t *testing.T) {
	small := []string{"--width", "8", "--size", "32", "--batch", "2", "--threads", "1", "--seconds", "0", "--json"}
	out, errs, code := output(t, append([]string{"bench", "train", "--layers"}, small...)...)
	var r struct {
		StepMS     float64 `json:"step_ms"`
		ImagesPerS float64 `json:"images_per_s"`
		GFLOPS     float64
		Layers     []struct{ Share float64 }
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("%v, exit %d: %s", err, code, errs)
	}
	if r.StepMS <= 0 || r.GFLOPS <= 0 || math.Abs(r.ImagesPerS*r.StepMS/2000-1) > 1e-9 {
		t.Errorf("result %+v", r)
	}
	share := 0.0
	for _, l := range r.Layers {
		share += l.Share
	}
	if math.Abs(share-1) > 1e-9 {
		t.Errorf("the shares of %d passes add up to %g", len(r.Layers), share)
	}

	model := filepath.Join(t.TempDir(), "net.onnx")
	if _, errs, code := output(t, append([]string{"bench", "predict", "--save", model}, small...)...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	b, err := os.ReadFile(model)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := onnx.Unmarshal(b); err != nil {
		t.Error(err)
	}

	for _, args := range [][]string{
		{"train", "--size", "40"},
		{"train", "--batch", "0"},
		{"train", "--freeze", "head"},
		{"train", "--layers", "--backend", "gorgonia"},
	} {
		if _, errs, code := output(t, append([]string{"bench"}, args...)...); code != cli.ExitUsage {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
}
