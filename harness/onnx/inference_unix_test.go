//go:build unix

package onnx_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// BenchmarkInference compares the CPU backend with ONNX Runtime and OpenCV on
// one thread each, in CPU time of the second prediction, so that neither
// preparation nor other programs on the machine count. REFOCUS_BENCH_WIDTH
// (default 16) is the network's width.
//
//	go test -run '^$' -bench Inference -benchtime 1x ./harness/onnx
func BenchmarkInference(b *testing.B) {
	width := 16
	if s := os.Getenv("REFOCUS_BENCH_WIDTH"); s != "" {
		var err error
		if width, err = strconv.Atoi(s); err != nil {
			b.Fatal(err)
		}
	}
	g := testnet.Random(b, width)
	data, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		b.Fatal(err)
	}
	path := save(b, data)
	ctx := context.Background()
	for _, size := range []int{512, 2048} {
		x := testnet.Noise(1, 1, size, size)
		work, err := g.MultiplyAdds(x.Shape)
		if err != nil {
			b.Fatal(err)
		}
		report := func(b *testing.B, seconds float64) {
			b.ReportMetric(seconds, "cpu-s/image")
			b.ReportMetric(2*float64(work)/seconds/1e9, "GFLOP/s")
			b.ReportMetric(0, "ns/op")
		}
		b.Run(fmt.Sprintf("cpu/%d", size), func(b *testing.B) { report(b, backendSeconds(b, g, x, b.N)) })
		for _, c := range []consumer.Consumer{consumer.ONNXRuntime, consumer.OpenCV} {
			b.Run(fmt.Sprintf("%s/%d", c.Name, size), func(b *testing.B) {
				if err := c.Installed(ctx); err != nil {
					b.Skip(err)
				}
				runs := make([]consumer.Run, 1+b.N)
				for i := range runs {
					runs[i] = consumer.Run{Model: path, Shape: x.Shape, Data: x.F32}
				}
				_, results, err := c.Predict(ctx, runs)
				if err != nil {
					b.Fatal(err)
				}
				var seconds float64
				for _, r := range results[1:] {
					if r.Err != nil {
						b.Fatal(r.Err)
					}
					seconds += r.Seconds
				}
				report(b, seconds/float64(b.N))
			})
		}
	}
}

func backendSeconds(b *testing.B, g *nn.Graph, x backend.Tensor, n int) float64 {
	ctx := context.Background()
	s, err := cpu.New("bench").Open(ctx, g, backend.Options{Threads: 1})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var start float64
	for i := range n + 1 {
		if i == 1 {
			start = cpuSeconds(b)
		}
		if _, err := s.Predict(ctx, x); err != nil {
			b.Fatal(err)
		}
	}
	return (cpuSeconds(b) - start) / float64(n)
}

// cpuSeconds is the CPU time of this process so far.
func cpuSeconds(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
