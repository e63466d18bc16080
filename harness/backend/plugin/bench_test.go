package plugin

import (
	"os"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// What the process boundary costs: go test -run - -bench . ./harness/backend/plugin

func benchmarkClient(b *testing.B) *Client {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c, err := Launch(b.Context(), Spec{Name: "fake", Path: exe, Env: []string{behaviour + "=fine"}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// One start of a plugin, from nothing to the first answer, and its end.
func BenchmarkLaunch(b *testing.B) {
	for b.Loop() {
		benchmarkClient(b).Close()
	}
}

// One training step of no arithmetic, in an epoch of 256 batches of 16.
func BenchmarkStep(b *testing.B) {
	s, err := benchmarkClient(b).Open(b.Context(), network(), backend.Options{})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.LoadDataset(b.Context(), "a", datasetFile(b, 16), ""); err != nil {
		b.Fatal(err)
	}
	var batch backend.Batch
	for i := range 16 {
		batch = append(batch, backend.Sample{Dataset: "a", Index: i, Dihedral: uint8(i % 8)})
	}
	r := backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{batch}, 256), LearningRate: 1e-3}
	steps := 0
	for b.Loop() {
		if err := s.Train(b.Context(), r, func(backend.Step) error { steps++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(steps), "ns/step")
}

// The study's network in full: 14 million weights out, checked.
func BenchmarkState(b *testing.B) {
	g, err := nn.UNet(nn.UNetOptions{Width: 64, Classes: 2})
	if err != nil {
		b.Fatal(err)
	}
	s, err := benchmarkClient(b).Open(b.Context(), g, backend.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		state, err := s.State(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(state)))
	}
}
