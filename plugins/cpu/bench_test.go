package cpu

import (
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
)

// BenchmarkSession trains the width that a study's quick profile uses and reports
// the share of a step that reading and transforming its samples takes.
func BenchmarkSession(b *testing.B) {
	const n = 64
	path, digest, _, _ := writeDataset(b, n, 64, 64)
	s := open(b, unet(b, 16), backend.Options{}, path, digest).(*session)
	var batch backend.Batch
	for i := range 16 {
		batch = append(batch, backend.Sample{Dataset: "d", Index: i, Dihedral: uint8(i % 8)})
	}
	r := backend.TrainRequest{Batches: []backend.Batch{batch}, LearningRate: 1e-4}
	progress := func(backend.Step) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Train(ctx, r, progress); err != nil {
			b.Fatal(err)
		}
	}
	step := b.Elapsed() / time.Duration(b.N)
	start := time.Now()
	const reads = 50
	for range reads {
		if _, err := s.batch(batch); err != nil {
			b.Fatal(err)
		}
	}
	read := time.Since(start) / reads
	b.ReportMetric(100*float64(read)/float64(step), "read-%")
	b.ReportMetric(16/step.Seconds(), "images/s")
}
