package fast

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

func options(threads int) engine.Options {
	return engine.Options{Options: backend.Options{Threads: threads}.WithDefaults()}
}

func unet(t testing.TB, width int) *nn.Graph {
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	// Statistics and scales that are not all alike, as after some training.
	r := rand.New(rand.NewPCG(1, 1))
	for _, x := range g.Tensors {
		if len(x.Shape) == 1 && x.Role != nn.Constant {
			for i := range x.Data {
				x.Data[i] += float32(float64(r.Float64()-0.5) * 0.4)
			}
		}
	}
	return g
}

func compiled(t testing.TB, g *nn.Graph, o engine.Options) *Engine {
	e, err := Compile(g, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func batch(n, h, w int) engine.Batch {
	r := rand.New(rand.NewPCG(uint64(n)+3, uint64(h*w)))
	b := engine.Batch{Images: backend.Tensor{Shape: []int{n, 1, h, w}, F32: make([]float32, n*h*w)}, Labels: make([]uint8, n*h*w)}
	for i := range b.Images.F32 {
		b.Images.F32[i] = r.Float32()
		b.Labels[i] = uint8(r.IntN(2))
	}
	return b
}

// separated is a batch on which no value of the graph, whose biases it moves, is
// near where the gradient jumps. A ReLU that rounding switches changes gradients a
// thousand times more than rounding itself.
func separated(t testing.TB, g *nn.Graph, n, h, w int) engine.Batch {
	t.Helper()
	b := batch(n, h, w)
	if _, err := backendtest.Separate(g, b.Images); err != nil {
		t.Fatal(err)
	}
	return b
}

func batch64(b engine.Batch) engine.Batch {
	b.Images = backend.Tensor{Shape: b.Images.Shape, F64: b.Images.Float64s()}
	return b
}

// distance is the relative difference of two vectors by norm.
func distance(got, want []float64) float64 {
	var d, n float64
	for i := range want {
		d += (got[i] - want[i]) * (got[i] - want[i])
		n += want[i] * want[i]
	}
	return math.Sqrt(d) / (math.Sqrt(n) + 1e-30)
}

// room returns a tensor for an engine to fill.
func room(e engine.Engine, name string, shape ...int) backend.NamedTensor {
	x := backend.NamedTensor{Name: name, Tensor: backend.Tensor{Shape: shape}}
	if _, wide := e.(*plain.Engine[float64]); wide {
		x.F64 = make([]float64, nn.Size(shape))
	} else {
		x.F32 = make([]float32, nn.Size(shape))
	}
	return x
}

func get(t testing.TB, e engine.Engine, k engine.Kind, name string, n int) []float64 {
	t.Helper()
	x := room(e, name, n)
	if err := e.Get(k, []backend.NamedTensor{x}); err != nil {
		t.Fatal(err)
	}
	return x.Float64s()
}

// forward returns an inference's probabilities and losses.
func forward(t testing.TB, e engine.Engine, b engine.Batch, classes int) (out, losses []float64) {
	t.Helper()
	n, h, w := b.Size()
	x := room(e, "", n, classes, h, w)
	losses, err := e.Forward(b, x.Tensor)
	if err != nil {
		t.Fatal(err)
	}
	return x.Float64s(), losses
}

// activations returns values of the graph for one batch by their names.
func activations(t testing.TB, e engine.Engine, g *nn.Graph, b engine.Batch, names []string, training bool) map[string][]float64 {
	t.Helper()
	shapes, err := g.Shapes(b.Images.Shape)
	if err != nil {
		t.Fatal(err)
	}
	var ts []backend.NamedTensor
	for _, n := range names {
		ts = append(ts, room(e, n, shapes[n]...))
	}
	if err := e.Activations(b, training, ts); err != nil {
		t.Fatal(err)
	}
	r := map[string][]float64{}
	for _, x := range ts {
		r[x.Name] = x.Float64s()
	}
	return r
}

// adam takes a step of Adam.
func adam(t testing.TB, e engine.Engine, n int, rate float64, frozen []bool) {
	t.Helper()
	if err := e.Adam(n, rate, 1, frozen); err != nil {
		t.Fatal(err)
	}
}

// finite reports whether all gradients are.
func finite(t testing.TB, e engine.Engine) bool {
	t.Helper()
	ok, err := e.Finite()
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func groups(g *nn.Graph, group string) []bool {
	var frozen []bool
	for _, p := range g.Parameters() {
		frozen = append(frozen, nn.Group(p.Name) == group)
	}
	return frozen
}

// One step and one inference against the float64 plain loops.
func TestAgainstPlain(t *testing.T) {
	for _, c := range []struct {
		width, n, h, w int
		frozen         string
		logits         bool
	}{
		{4, 2, 32, 48, "", false},
		{8, 3, 32, 32, "", true},
		{12, 1, 48, 16, "", false},
		{16, 2, 16, 64, "", false},
		{4, 5, 1024, 16, "", false}, // more rectangles than maxPartials
		{8, 2, 32, 48, "encoder", false},
		{8, 2, 48, 32, "decoder", false},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			g := unet(t, c.width)
			b := separated(t, g, c.n, c.h, c.w)
			o := options(2)
			if c.logits {
				o.Loss = backend.LossOnLogits
			}
			e := compiled(t, g, o)
			ref, err := plain.Compile[float64](g, o)
			if err != nil {
				t.Fatal(err)
			}
			defer ref.Close()
			single, err := plain.Compile[float32](g, o)
			if err != nil {
				t.Fatal(err)
			}
			defer single.Close()
			frozen := groups(g, c.frozen)

			// Rounding does not switch a ReLU: in each layer the values are farther
			// from 0 than float32 is off, here in plain loops, which add one product
			// after another: most other orders are more exact.
			var names []string
			for _, n := range g.Nodes {
				if n.Op == "Relu" {
					names = append(names, n.Inputs[0])
				}
			}
			rounded, exact := activations(t, single, g, b, names, true), activations(t, ref, g, batch64(b), names, true)
			slack := math.Inf(1)
			for _, name := range names {
				margin, deviation := math.Inf(1), 0.0
				for i, v := range exact[name] {
					margin, deviation = min(margin, math.Abs(v)), max(deviation, math.Abs(rounded[name][i]-v))
				}
				slack = min(slack, margin/deviation)
			}
			t.Logf("values are %.0f times farther from 0 than float32 is off", slack)
			if !(slack >= 3) {
				t.Fatal("too near to tell rounding from a mistake")
			}

			out, losses := forward(t, e, b, 2)
			want, wantLosses := forward(t, ref, batch64(b), 2)
			if d := distance(out, want); d > 1e-5 {
				t.Errorf("probabilities differ by %g", d)
			}
			if d := distance(losses, wantLosses); d > 1e-6 {
				t.Errorf("losses differ by %g: %v, want %v", d, losses, wantLosses)
			}
			loss, err := e.Gradients(b, frozen, 1, true)
			if err != nil {
				t.Fatal(err)
			}
			wantLoss, err := ref.Gradients(batch64(b), frozen, 1, true)
			if err != nil {
				t.Fatal(err)
			}
			if math.Abs(loss-wantLoss) > 1e-6*wantLoss {
				t.Errorf("loss %v, want %v", loss, wantLoss)
			}
			if _, err := single.Gradients(b, frozen, 1, true); err != nil {
				t.Fatal(err)
			}
			worst := 0.0
			for i, p := range g.Parameters() {
				if frozen[i] {
					continue
				}
				got, want := get(t, e, engine.Gradient, p.Name, p.Len()), get(t, ref, engine.Gradient, p.Name, p.Len())
				d := distance(got, want)
				// The measure is what plain loops in float32 do; gradients whose
				// components cancel get a floor.
				own := distance(get(t, single, engine.Gradient, p.Name, p.Len()), want)
				worst = max(worst, d/(own+1e-5))
				if d > 3*own+3e-5 && p.Name != "decoder.head.bias" {
					t.Errorf("gradient of %s differs by %g, plain float32 by %g", p.Name, d, own)
				}
			}
			t.Logf("gradients differ at most %.2g times as much as plain float32's", worst)
			for _, p := range g.Statistics() {
				if d := distance(get(t, e, engine.Value, p.Name, p.Len()), get(t, ref, engine.Value, p.Name, p.Len())); d > 1e-5 {
					t.Errorf("%s differs by %g", p.Name, d)
				}
			}
			adam(t, e, 1, 1e-3, frozen)
			adam(t, ref, 1, 1e-3, frozen)
			for i, p := range g.Parameters() {
				v, r := get(t, e, engine.Value, p.Name, p.Len()), get(t, ref, engine.Value, p.Name, p.Len())
				if d := distance(v, r); d > 1e-2 {
					t.Errorf("%s after a step differs by %g", p.Name, d)
				}
				if frozen[i] {
					for j, x := range p.Data {
						if float64(x) != v[j] {
							t.Fatalf("frozen %s has changed", p.Name)
						}
					}
				}
			}
		})
	}
}

func BenchmarkStep(b *testing.B) {
	for _, c := range []struct{ width, size int }{{64, 64}, {64, 128}, {16, 64}} {
		for _, frozen := range []string{"", "encoder", "decoder"} {
			b.Run(fmt.Sprintf("%d/%d/%s", c.width, c.size, map[string]string{"": "none"}[frozen]+frozen), func(b *testing.B) {
				g := unet(b, c.width)
				e := compiled(b, g, options(runtime.GOMAXPROCS(0)))
				x := batch(16, c.size, c.size)
				macs, _ := g.MultiplyAdds([]int{16, 1, c.size, c.size})
				f := groups(g, frozen)
				n := 0
				step := func() {
					if _, err := e.Gradients(x, f, 1, true); err != nil {
						b.Fatal(err)
					}
					n++
					adam(b, e, n, 1e-3, f)
				}
				step() // builds the program
				cpu := cpuTime()
				for b.Loop() {
					step()
				}
				flops := 6*float64(macs) - 2*float64(16*c.size*c.size*c.width*49)
				b.ReportMetric(flops*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOPS")
				b.ReportMetric(flops*float64(b.N)/float64(cpuTime()-cpu), "GFLOPS/core")
				b.ReportMetric(float64(cpuTime()-cpu)/1e6/float64(b.N), "cpu-ms")
			})
		}
	}
}

// state is every array the engine keeps, after a few steps and an inference.
func state(t *testing.T, threads int, isa string, o func(*engine.Options), width, n, h, w, steps int) []float64 {
	t.Helper()
	t.Setenv("REFOCUS_ISA", isa)
	g := unet(t, width)
	opt := options(threads)
	if o != nil {
		o(&opt)
	}
	e := compiled(t, g, opt)
	b := batch(n, h, w)
	var all []float64
	for i := range steps {
		loss, err := e.Gradients(b, nil, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		adam(t, e, i+1, 1e-2, nil)
		all = append(all, loss)
	}
	out, losses := forward(t, e, b, 2)
	all = append(append(all, losses...), out...)
	for _, p := range g.Tensors {
		if p.Role == nn.Constant {
			continue
		}
		all = append(all, get(t, e, engine.Value, p.Name, p.Len())...)
		if p.Role == nn.Parameter {
			for _, k := range []engine.Kind{engine.Gradient, engine.FirstMoment, engine.SecondMoment} {
				all = append(all, get(t, e, k, p.Name, p.Len())...)
			}
		}
	}
	return all
}

func sameBits(t *testing.T, what string, got, want []float64) {
	t.Helper()
	for i := range want {
		if math.Float64bits(got[i]) != math.Float64bits(want[i]) {
			t.Fatalf("%s: number %d of %d is %v, want %v", what, i, len(want), got[i], want[i])
		}
	}
}

// Threads do not change a bit.
func TestThreads(t *testing.T) {
	want := state(t, 1, "", nil, 8, 2, 48, 32, 3)
	for _, threads := range []int{2, 3, 7} {
		sameBits(t, fmt.Sprint(threads, " threads"), state(t, threads, "", nil, 8, 2, 48, 32, 3), want)
	}
}

// Instruction sets do not change a bit, nor do architectures.
func TestInstructionSets(t *testing.T) {
	for _, c := range []struct {
		mixed  bool
		digest uint64
	}{{false, 0xb2f03e6e02b9355e}, {true, 0xbee7f16f3f16fe94}} {
		o := func(o *engine.Options) {
			if c.mixed {
				o.Precision = backend.Mixed
			}
		}
		portable := state(t, 2, "portable", o, 4, 2, 16, 32, 2)
		sameBits(t, fmt.Sprint("best, mixed ", c.mixed), state(t, 2, "", o, 4, 2, 16, 32, 2), portable)
		h := fnv.New64a()
		if err := binary.Write(h, binary.LittleEndian, portable); err != nil {
			t.Fatal(err)
		}
		// A change here is a change of the backend's numerics.
		if h.Sum64() != c.digest {
			t.Errorf("mixed %v: the digest of a training is %#x, was %#x", c.mixed, h.Sum64(), c.digest)
		}
	}
}

// Mixed precision is as far from exact arithmetic as the plain engine's, which
// rounds at nearly the same places.
func TestMixed(t *testing.T) {
	g := unet(t, 8)
	o := options(2)
	exact, err := plain.Compile[float64](g, o)
	if err != nil {
		t.Fatal(err)
	}
	defer exact.Close()
	o.Precision = backend.Mixed
	e := compiled(t, g, o)
	ref, err := plain.Compile[float32](g, o)
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	const n, h, w, scale = 2, 48, 32, 1024
	b := batch(n, h, w)
	out, _ := forward(t, e, b, 2)
	refOut, _ := forward(t, ref, b, 2)
	want, _ := forward(t, exact, batch64(b), 2)
	if d, r := distance(out, want), distance(refOut, want); d > 1.5*r || d < r/3 {
		t.Errorf("probabilities differ by %g, the plain engine's by %g", d, r)
	}
	if _, err := e.Gradients(b, nil, scale, true); err != nil {
		t.Fatal(err)
	}
	all := groups(g, "")
	if _, err := ref.Gradients(b, all, scale, true); err != nil {
		t.Fatal(err)
	}
	if _, err := exact.Gradients(batch64(b), all, scale, true); err != nil {
		t.Fatal(err)
	}
	ratio := 0.0
	for _, p := range g.Parameters() {
		want := get(t, exact, engine.Gradient, p.Name, p.Len())
		d, r := distance(get(t, e, engine.Gradient, p.Name, p.Len()), want), distance(get(t, ref, engine.Gradient, p.Name, p.Len()), want)
		ratio += d / r / float64(len(g.Parameters()))
		if d > 2*r+1e-3 {
			t.Errorf("gradient of %s differs by %g, the plain engine's by %g", p.Name, d, r)
		}
	}
	t.Logf("gradients differ on average %.2g times as much as the plain engine's", ratio)
	for _, p := range g.Statistics() {
		if d := distance(get(t, e, engine.Value, p.Name, p.Len()), get(t, ref, engine.Value, p.Name, p.Len())); d > 1e-3 {
			t.Errorf("%s differs by %g", p.Name, d)
		}
	}
	if !finite(t, e) {
		t.Error("gradients are not finite")
	}
	if _, err := e.Gradients(b, nil, 1e12, false); err != nil {
		t.Fatal(err)
	}
	if finite(t, e) {
		t.Error("a scale of 1e12 does not overflow")
	}
}

func BenchmarkForward(b *testing.B) {
	const width, size = 64, 512
	g := unet(b, width)
	e := compiled(b, g, options(runtime.GOMAXPROCS(0)))
	x := batch(1, size, size)
	x.Labels = nil
	out := room(e, "", 1, 2, size, size)
	macs, _ := g.MultiplyAdds([]int{1, 1, size, size})
	step := func() {
		if _, err := e.Forward(x, out.Tensor); err != nil {
			b.Fatal(err)
		}
	}
	step()
	cpu := cpuTime()
	for b.Loop() {
		step()
	}
	b.ReportMetric(2*float64(macs)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GFLOPS")
	b.ReportMetric(float64(cpuTime()-cpu)/1e6/float64(b.N), "cpu-ms")
}
