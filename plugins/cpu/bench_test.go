package cpu

import (
	"os"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
)

// The test's executable is also the plugin that BenchmarkRPC starts.
func TestMain(m *testing.M) {
	if os.Getenv("REFOCUS_CPU_TEST_PLUGIN") != "" {
		plugin.Serve(New("test"))
		return
	}
	os.Exit(m.Run())
}

// sixteen is a batch of the study's size.
func sixteen() backend.Batch {
	var b backend.Batch
	for i := range 16 {
		b = append(b, backend.Sample{Dataset: "d", Index: i, Dihedral: uint8(i % 8)})
	}
	return b
}

// BenchmarkSession trains the width that a study's quick profile uses.
func BenchmarkSession(b *testing.B) {
	path, digest, _, _ := writeDataset(b, 16, 64, 64)
	s := open(b, unet(b, 16), backend.Options{}, path, digest)
	r := backend.TrainRequest{Batches: []backend.Batch{sixteen()}, LearningRate: 1e-4}
	progress := func(backend.Step) error { return nil }
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Train(ctx, r, progress); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(16*b.N)/b.Elapsed().Seconds(), "images/s")
}

// BenchmarkRPC times steps of a network so small that little but the calls is
// left, in this process and in a plugin's. Their difference is what a step of
// any network pays for the plugin; compare it with BenchmarkSession's.
func BenchmarkRPC(b *testing.B) {
	path, digest, _, _ := writeDataset(b, 16, 32, 32)
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	client, err := plugin.Launch(ctx, plugin.Spec{Name: "cpu", Path: exe, Env: []string{"REFOCUS_CPU_TEST_PLUGIN=1"}})
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	const steps = 64
	r := backend.TrainRequest{LearningRate: 1e-4}
	for range steps {
		r.Batches = append(r.Batches, sixteen()[:1])
	}
	var perStep [2]time.Duration
	for b.Loop() {
		for i, be := range []backend.Backend{New("test"), client} {
			s, err := be.Open(ctx, unet(b, 2), backend.Options{Threads: 1})
			if err != nil {
				b.Fatal(err)
			}
			if err := s.LoadDataset(ctx, "d", path, digest); err != nil {
				b.Fatal(err)
			}
			start := time.Now()
			if err := s.Train(ctx, r, func(backend.Step) error { return nil }); err != nil {
				b.Fatal(err)
			}
			perStep[i] += time.Since(start)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	for i, name := range []string{"in-process-µs/step", "plugin-µs/step"} {
		b.ReportMetric(float64(perStep[i].Microseconds())/float64(b.N*steps), name)
	}
}
