package gorgonia

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/gpu"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/standin"
)

// part is what a multiprocessor of a GPU does in a cycle, in instructions of warps, and how
// many it has.
type part struct {
	name       string
	processors float64
	gigahertz  float64
	fma, issue float64 // fused multiply-adds; instructions of any kind
	shared     float64 // passes over the banks of shared memory
}

// From NVIDIA's architecture papers: A100 and H100 SXM, boost clocks.
var parts = []part{
	{"sm_80 (A100)", 108, 1.41, 2, 4, 1},
	{"sm_90 (H100)", 132, 1.98, 4, 4, 1},
}

const countsFile = "cuda/counts.md"

// What the convolutions' kernels execute is what counts.md says: exact counts of the PTX,
// and from them how long a layer of the study would take if one limit alone held. A change of the
// kernels shows here; REFOCUS_UPDATE=1 writes the table anew.
func TestKernelCounts(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# What the convolutions' kernels execute

Counted by the interpreter (TestKernelCounts), which executes the PTX; a device executes
what its driver's assembler makes of that, which is less by addresses that it folds and
more by moves. Convolutions of 3×3, stride 1, of the shape named; "useful" are the
multiply-adds of the definition, of those executed. Passes are those over the banks of shared memory
per instruction of a warp that is a fused multiply-add; bytes are asked of global memory, before
caches, per multiply-add of a thread.

The last columns are **predictions, not measurements**: milliseconds that a layer of 16 images
of 512×512 pixels with the same channels would take if nothing but the named limit held,
extrapolated by the ratio of useful multiply-adds. No GPU has run these kernels yet.

`)
	b.WriteString("| kernel | channels, pixels | useful | share of fma | passes | bytes |")
	rule := "|---|---|---|---|---|---|"
	for _, p := range parts {
		fmt.Fprintf(&b, " %s: fma | issue | shared |", p.name)
		rule += "---|---|---|"
	}
	b.WriteString("\n" + rule + "\n")
	for _, c := range []struct {
		kernel string
		a      func(kernel.Conv) arithmetic
		conv   kernel.Conv
	}{
		{"conv_32", func(c kernel.Conv) arithmetic { return conv{c} }, kernel.Conv{N: 1, C: 32, H: 32, W: 32, M: 32}},
		{"conv_64", func(c kernel.Conv) arithmetic { return conv{c} }, kernel.Conv{N: 1, C: 32, H: 32, W: 32, M: 64}},
		{"conv_128", func(c kernel.Conv) arithmetic { return conv{c} }, kernel.Conv{N: 1, C: 32, H: 32, W: 32, M: 128}},
		{"conv_weights_32", func(c kernel.Conv) arithmetic { return convWeights{c} }, kernel.Conv{N: 1, C: 32, H: 32, W: 32, M: 32}},
		{"conv_weights_64", func(c kernel.Conv) arithmetic { return convWeights{c} }, kernel.Conv{N: 1, C: 32, H: 32, W: 32, M: 64}},
	} {
		s := c.conv
		s.KH, s.KW, s.SH, s.SW, s.Top, s.Left, s.OH, s.OW = 3, 3, 1, 1, 1, 1, s.H, s.W
		d := standin.New(standin.Options{NoRaces: true, Count: true, Misuse: func(err error) { t.Error(err) }})
		api := d.API()
		api.Init(0)
		device, err := gpu.Open(api, 0, kernelsPTX)
		if err != nil {
			t.Fatal(err)
		}
		err = device.Run(func() error {
			o := &operatorBench{d: device, r: rand.New(rand.NewPCG(1, 2)), w: kernel.NewWorkers(1, nil)}
			x, w, dy := upload(o, o.numbers(s.N*s.C*s.H*s.W)), upload(o, o.numbers(s.M*s.C*9)), upload(o, o.numbers(s.N*s.M*s.OH*s.OW))
			if strings.Contains(c.kernel, "weights") {
				o.device(c.a(s), w.n, x, dy)
			} else {
				o.device(c.a(s), dy.n, x, w)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := device.Close(); err != nil {
			t.Fatal(err)
		}
		n := d.Counts()[c.kernel]
		if n == nil {
			t.Fatalf("%s was not launched", c.kernel)
		}
		useful := float64(s.N * s.M * s.C * 9 * s.OH * s.OW)
		fma, warps := float64(n.Threads["fma.rn.f32"]), float64(n.Warps["fma.rn.f32"])
		fmt.Fprintf(&b, "| %s | %d→%d, %d×%d | %.1f %% | %.1f %% | %.3f | %.3f |", c.kernel, s.C, s.M, s.H, s.W,
			100*useful/fma, 100*warps/float64(n.Issued()), float64(n.SharedPasses)/warps, float64(n.LoadedBytes+n.StoredBytes)/fma)
		scale := 16 * 512 * 512 / float64(s.N*s.H*s.W)
		for _, p := range parts {
			cycles := scale / p.processors / p.gigahertz / 1e6 // per millisecond
			fmt.Fprintf(&b, " %.2f | %.2f | %.2f |", warps/p.fma*cycles, float64(n.Issued())/p.issue*cycles, float64(n.SharedPasses)/p.shared*cycles)
		}
		b.WriteString("\n")
	}
	if os.Getenv("REFOCUS_UPDATE") == "1" {
		if err := os.WriteFile(countsFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(countsFile)
	if err != nil || string(kept) != b.String() {
		t.Errorf("%s is not what is counted (%v): REFOCUS_UPDATE=1 writes it anew\n%s", countsFile, err, b.String())
	}
}
