package gorgonia

import (
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// What is told of a run's memory is what the arena then lends, to the number.
func TestMemoryIsWhatTheArenaLends(t *testing.T) {
	g := unet(t, 4)
	o := engine.Options{Options: backend.Options{Loss: backend.LossOnProbabilities, Precision: backend.Float32, Adam: backend.DefaultAdam, Threads: 2}}
	z, err := scored(g, o.Loss)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]request{
		"training":       {training: true, scored: z},
		"encoder frozen": {training: true, scored: z, frozen: []string{nn.Encoder}},
		"inference":      {targets: []string{g.Output.Name}},
	} {
		t.Run(name, func(t *testing.T) {
			made, err := compile(g.Clone(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer made.Close()
			e := made.(*network)
			shape := []int{3, 1, 32, 48}
			b := engine.Batch{Images: backend.Tensor{Shape: shape, F32: make([]float32, 3*32*48)}, Labels: make([]uint8, 3*32*48)}
			p, err := e.run(b, r)
			if err != nil {
				t.Fatal(err)
			}
			e.exec.arena.reclaim()
			e.last = nil
			lent := int64(0)
			for size, idle := range e.exec.arena.free {
				lent += int64(size * len(idle))
			}
			if lent != p.lent || lent == 0 {
				t.Errorf("the arena lent %d numbers, %d were told", lent, p.lent)
			}
		})
	}
}

// A GPU takes what was told, and tables of some thousand numbers.
func TestMemoryIsWhatTheGPUTakes(t *testing.T) {
	made, err := compile(unet(t, 4), engine.Options{Options: backend.Options{Device: "cuda:0", Loss: backend.LossOnProbabilities, Precision: backend.Float32, Adam: backend.DefaultAdam, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	e := made.(*network)
	b := engine.Batch{Images: backend.Tensor{Shape: []int{2, 1, 32, 32}, F32: make([]float32, 2*32*32)}, Labels: make([]uint8, 2*32*32)}
	if _, err := e.Gradients(b, make([]bool, len(e.graph.Parameters())), 1, true); err != nil {
		t.Fatal(err)
	}
	tables := int64(0)
	for _, o := range e.last.ops {
		switch a := o.arithmetic.(type) {
		case conv:
			tables += 8 * int64(a.shape.C*a.shape.KH*a.shape.KW)
		case convWeights:
			tables += 8 * int64(a.shape.C*a.shape.KH*a.shape.KW)
		case convInput:
			for _, p := range a.shape.Parts() {
				tables += 8 * int64(p.C*p.KH*p.KW+1)
			}
		case *batchNorm:
			tables += 16 * int64(a.c)
		}
	}
	var taken int64
	if err := e.exec.do(func() error { taken = e.exec.gpu.Allocated(); return nil }); err != nil {
		t.Fatal(err)
	}
	// Sums of gradients overwrite one of them, which is not counted on.
	most := e.needs(e.last) + tables
	if least := most - 4*e.last.others; taken < least || taken > most {
		t.Errorf("%d bytes are taken, not from %d to %d", taken, least, most)
	}
}

// The study's own size is not refused for memory that it does not take: activations
// that are needed again, 5.4 kB a pixel, and weights with gradients and moments.
func TestMemoryOfTheStudy(t *testing.T) {
	b := New("1").(backend.Sizer)
	for _, device := range []string{processor, "cuda:0"} {
		n, err := b.Memory(t.Context(), unet(t, 64), backend.Options{Device: device}, backend.MemoryRequest{Batch: 16, Height: 512, Width: 512, Training: true})
		if err != nil {
			t.Fatal(err)
		}
		// The context of a GPU takes some hundred MiB besides.
		if gib := float64(n) / (1 << 30); gib < 15 || gib > 23 {
			t.Errorf("%s: width 64, 512×512, batch 16 takes %.1f GiB", device, gib)
		}
		t.Logf("%s: %.1f GiB", device, float64(n)/(1<<30))
	}
}

// What does not fit is refused with the figure, before anything is allocated.
func TestMemoryTooLarge(t *testing.T) {
	// Images that fit while their network's values do not, and images that do not.
	fit := int(math.Sqrt(float64(machineMemory())/100/4/64)) / 16 * 16
	for _, size := range []int{fit, 1 << 29} {
		made, err := compile(unet(t, 64), engine.Options{Options: backend.Options{Loss: backend.LossOnProbabilities, Threads: 1}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = made.(*network).plan(request{shape: []int{64, 1, size, size}, training: true, scored: producer(made.(*network).graph, made.(*network).graph.Output.Name).Inputs[0]})
		if err == nil || !strings.Contains(err.Error(), "GiB, this machine has") {
			t.Errorf("%d×%d: %v", size, size, err)
		}
		made.Close()
	}
}
