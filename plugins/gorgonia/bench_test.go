//go:build unix

package gorgonia

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/internal/torchtest"
)

// BenchmarkStep times a training step at width 16 on 16 images of 64×64 with two
// threads, interleaved with PyTorch's, and reports the ratio of the medians.
func BenchmarkStep(b *testing.B) {
	torch := torchtest.Clock(b, 16, 16, 64, 64, 2)
	s := open(b, unet(b, 16), backend.Options{Threads: 2})
	load(b, s, 16, 64, 64)
	r := backend.TrainRequest{Batches: batches(1, 16, 16), LearningRate: 1e-3}
	step := func() (wall, cpu time.Duration) {
		start, used := time.Now(), processorTime()
		if err := s.Train(context.Background(), r, noProgress); err != nil {
			b.Fatal(err)
		}
		return time.Since(start), processorTime() - used
	}
	for range 3 { // both warm up
		torch()
		step()
	}
	b.ReportAllocs()
	var times [4][]time.Duration
	for b.Loop() {
		times[0], times[1] = appendTwo(times[0], times[1], step)
		b.StopTimer()
		times[2], times[3] = appendTwo(times[2], times[3], torch)
		b.StartTimer()
	}
	median := func(i int) float64 {
		slices.Sort(times[i])
		return float64(times[i][len(times[i])/2])
	}
	b.ReportMetric(median(0)/1e6, "ms/step")
	b.ReportMetric(median(1)/1e6, "cpu-ms/step")
	b.ReportMetric(median(2)/1e6, "torch-ms/step")
	b.ReportMetric(median(3)/1e6, "torch-cpu-ms/step")
	b.ReportMetric(median(0)/median(2), "x-torch")
	b.ReportMetric(median(1)/median(3), "x-torch-cpu")
}

func appendTwo(a, b []time.Duration, f func() (time.Duration, time.Duration)) (_, _ []time.Duration) {
	x, y := f()
	return append(a, x), append(b, y)
}

// processorTime is the time that all threads of the process have used.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
