package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rates.json")
	for i, m := range []Measurement{
		{Backend: "cpu", Device: "cpu", Precision: "float32", Threads: 2, Width: 8, Size: 64, Batch: 16},
		{Backend: "cpu", Device: "cpu", Precision: "float32", Threads: 2, Width: 64, Size: 64, Batch: 16},
		{Backend: "cpu", Device: "cpu", Precision: "float32", Threads: 2, Width: 64, Size: 128, Batch: 16},
		{Backend: "torch", Device: "cuda:0", Precision: "mixed", Width: 16, Size: 64, Batch: 16},
		{Backend: "torch", Device: "cuda:0", Precision: "mixed", Width: 16, Size: 64, Batch: 16, Freeze: "encoder"},
		{Backend: "cpu", Device: "cpu", Precision: "float32", Threads: 2, Width: 8, Size: 64, Batch: 16}, // again
	} {
		m.Mode, m.GFLOPS = Train, float64(10*(i+1))
		if err := m.SaveRate(path); err != nil {
			t.Fatal(err)
		}
	}
	for width, want := range map[int]string{
		8:  "[cpu of cpu, float32, 2 threads 6e+10 measured at width 8, 64×64,] [cuda:0 of torch, mixed 4e+10 measured at width 16, 64×64,]",
		64: "[cpu of cpu, float32, 2 threads 3e+10 measured at width 64, 128×128,] [cuda:0 of torch, mixed 4e+10 measured at width 16, 64×64,]",
	} {
		rates, err := Rates(path, width)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range rates {
			got = append(got, fmt.Sprintf("[%s %g %s]", r.Name, r.FLOPs, r.From))
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("width %d: %s, want %s", width, s, want)
		}
	}
	for content, want := range map[string]string{
		"":                      "no file of rates",
		"[]":                    "holds no rate",
		`[{"mode": "predict"}]`: "measurement 1 is of no training rate",
	} {
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Rates(path, 64); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
}
