package fast

import (
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/plain"
)

// FuzzShapes trains and evaluates networks and batches of any shape against
// plain loops. Its tolerance leaves room for normalisations over few pixels, which
// magnify rounding: what it looks for is a wrong index.
func FuzzShapes(f *testing.F) {
	f.Add(uint8(1), uint8(2), uint8(0), uint8(1), uint8(2), uint8(0))
	f.Add(uint8(2), uint8(2), uint8(1), uint8(0), uint8(0), uint8(3))
	f.Add(uint8(4), uint8(3), uint8(0), uint8(4), uint8(0), uint8(1))
	f.Add(uint8(8), uint8(7), uint8(2), uint8(0), uint8(1), uint8(2))
	f.Fuzz(func(t *testing.T, width, classes, n, h, w, frozen uint8) {
		g, err := nn.UNet(nn.UNetOptions{Width: 2 + 2*int(width%9), Classes: 2 + int(classes%7)})
		if err != nil {
			t.Fatal(err)
		}
		g.Initialize(7, uint64(width))
		b := separated(t, g, 1+int(n%3), 16*(1+int(h%5)), 16*(1+int(w%5)))
		o := options(2)
		if classes%2 == 1 {
			o.Loss = backend.LossOnLogits
		}
		e := compiled(t, g, o)
		ref, err := plain.Compile[float32](g, o)
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Close()
		exact, err := plain.Compile[float64](g, o)
		if err != nil {
			t.Fatal(err)
		}
		defer exact.Close()
		for i := range b.Labels {
			b.Labels[i] = uint8(i*i%31) % (2 + classes%7)
		}
		fr := groups(g, []string{"", nn.Encoder, nn.Decoder}[frozen%3])
		got, err := e.Gradients(b, fr, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		want, err := ref.Gradients(b, fr, 1, true)
		if err != nil {
			t.Fatal(err)
		}
		if math.Abs(got-want) > 1e-5*want {
			t.Errorf("loss %v, want %v", got, want)
		}
		if _, err := exact.Gradients(batch64(b), fr, 1, true); err != nil {
			t.Fatal(err)
		}
		norm := func(x []float64) (n float64) {
			for _, v := range x {
				n = math.Hypot(n, v)
			}
			return n
		}
		largest := 0.0
		for _, p := range g.Parameters() {
			largest = max(largest, norm(get(t, ref, engine.Gradient, p.Name, p.Len())))
		}
		for i, p := range g.Parameters() {
			// The deepest normalisations over a handful of pixels magnify rounding
			// without bound.
			if fr[i] || len(b.Labels)/256 < 12 {
				continue
			}
			// A scale that a later normalisation undoes has a gradient of nought but
			// for ε and rounding: there only its size beside the others counts.
			got, want := get(t, e, engine.Gradient, p.Name, p.Len()), get(t, exact, engine.Gradient, p.Name, p.Len())
			d := distance(got, want)
			if d > 0.01 && d*norm(want) > 1e-7*largest {
				t.Errorf("gradient of %s differs by %g of %g", p.Name, d, norm(want))
			}
		}
		out, _ := forward(t, e, b, int(2+classes%7))
		wantOut, _ := forward(t, ref, b, int(2+classes%7))
		if d := distance(out, wantOut); d > 1e-4 {
			t.Errorf("probabilities differ by %g", d)
		}
	})
}

// Activations of every value of the graph, held or not.
func TestActivations(t *testing.T) {
	g := unet(t, 4)
	e := compiled(t, g, options(2))
	ref, err := plain.Compile[float64](g, options(1))
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	b := batch(2, 16, 32)
	for _, training := range []bool{false, true} {
		var names []string
		for _, n := range g.Nodes {
			names = append(names, n.Outputs[0])
		}
		got, want := activations(t, e, g, b, names, training), activations(t, ref, g, batch64(b), names, training)
		for _, n := range names {
			if d := distance(got[n], want[n]); d > 1e-5 {
				t.Errorf("training %v: %s differs by %g", training, n, d)
			}
		}
	}
	if err := e.Activations(b, false, []backend.NamedTensor{{Name: "nowhere"}}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("an unknown value: %v", err)
	}
}

// Graphs outside the family are refused by name, for the plain engine to take.
func TestUnsupported(t *testing.T) {
	node := func(g *nn.Graph, name string) *nn.Node {
		for _, n := range g.Nodes {
			if n.Name == name {
				return n
			}
		}
		t.Fatalf("no node %s", name)
		return nil
	}
	for name, change := range map[string]func(g *nn.Graph){
		"decoder.up1.conv2":  func(g *nn.Graph) { node(g, "decoder.up1.conv2").Attrs["dilations"] = []int64{2, 2} },
		"encoder.init.conv":  func(g *nn.Graph) { node(g, "encoder.init.conv").Attrs["pads"] = []int64{3, 3, 2, 3} },
		"encoder.init.pool":  func(g *nn.Graph) { node(g, "encoder.init.pool").Attrs["ceil_mode"] = int64(1) },
		"decoder.up2.resize": func(g *nn.Graph) { node(g, "decoder.up2.resize").Attrs["mode"] = "linear" },
		"softmax":            func(g *nn.Graph) { node(g, "softmax").Attrs["axis"] = int64(2) },
		"decoder.up4.relu2":  func(g *nn.Graph) { node(g, "decoder.up4.relu2").Op = "Sigmoid" },
		"encoder.down2.unit1.add": func(g *nn.Graph) {
			n := node(g, "encoder.down2.unit1.add")
			n.Inputs[1] = n.Inputs[0]
		},
	} {
		g := unet(t, 4)
		change(g)
		_, err := Compile(g, options(1))
		if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadCalls(t *testing.T) {
	e := compiled(t, unet(t, 4), options(2))
	good := batch(1, 16, 16)
	for name, change := range map[string]func(b *engine.Batch){
		"height":        func(b *engine.Batch) { b.Images.Shape = []int{1, 1, 24, 16} },
		"empty":         func(b *engine.Batch) { b.Images, b.Labels = backend.Tensor{Shape: []int{0, 1, 16, 16}}, nil },
		"negative":      func(b *engine.Batch) { b.Images.Shape = []int{-1, 1, -16, 16} },
		"few pixels":    func(b *engine.Batch) { b.Images.F32 = b.Images.F32[1:] },
		"few labels":    func(b *engine.Batch) { b.Labels = b.Labels[1:] },
		"unknown class": func(b *engine.Batch) { b.Labels = append([]uint8{2}, b.Labels[1:]...) },
	} {
		b := good
		change(&b)
		if _, err := e.Gradients(b, nil, 1, false); err == nil {
			t.Errorf("%s: trained", name)
		}
		if _, err := e.Forward(b, backend.Tensor{F32: make([]float32, 2*16*16)}); err == nil {
			t.Errorf("%s: evaluated", name)
		}
	}
	unlabelled := good
	unlabelled.Labels = nil
	if _, err := e.Gradients(unlabelled, nil, 1, false); err == nil {
		t.Error("trained without labels")
	}
	if _, err := e.Forward(good, backend.Tensor{F32: make([]float32, 5)}); err == nil {
		t.Error("evaluated into too short an array")
	}
	if err := e.Set(engine.Value, []backend.NamedTensor{room(e, "nowhere", 0)}); err == nil {
		t.Error("set an unknown tensor")
	}
	if err := e.Get(engine.FirstMoment, []backend.NamedTensor{room(e, "encoder.init.bn.running_mean", 4)}); err == nil {
		t.Error("got the moments of a statistic")
	}
}

// A step leaves nothing to collect but a few words.
func TestStepAllocates(t *testing.T) {
	e := compiled(t, unet(t, 4), options(2))
	b := batch(2, 32, 32)
	step := func() {
		if _, err := e.Gradients(b, nil, 1, true); err != nil {
			t.Fatal(err)
		}
		adam(t, e, 1, 1e-3, nil)
	}
	step()
	if n := testing.AllocsPerRun(5, step); n > 4 {
		t.Errorf("a step allocates %v times", n)
	}
}

func TestInterrupt(t *testing.T) {
	var stop atomic.Bool
	o := options(2)
	o.Stop = &stop
	e := compiled(t, unet(t, 4), o)
	stop.Store(true)
	if _, err := e.Gradients(batch(1, 16, 16), nil, 1, false); !errors.Is(err, engine.ErrInterrupted) {
		t.Errorf("a stopped engine says %v", err)
	}

	// In the middle of a step the rest of it is left out.
	stop.Store(false)
	b := batch(1, 32, 32)
	if _, err := e.Gradients(b, nil, 1, false); err != nil {
		t.Fatal(err)
	}
	for _, p := range e.programs {
		if p.h != 32 {
			continue
		}
		half := len(p.phases) / 2
		for i := range p.phases {
			f := p.phases[i].f
			p.phases[i].f = func(worker, task int) {
				switch {
				case i > half:
					t.Errorf("phase %d runs although phase %d of %d was interrupted", i, half, len(p.phases))
				case i == half:
					stop.Store(true)
				}
				f(worker, task)
			}
		}
	}
	if _, err := e.Gradients(b, nil, 1, false); !errors.Is(err, engine.ErrInterrupted) || !stop.Load() {
		t.Errorf("an engine stopped within a step says %v", err)
	}
}

// Weights survive packing, and nothing else fills the padding.
func TestSetGet(t *testing.T) {
	g := unet(t, 12)
	e := compiled(t, g, options(1))
	for _, p := range g.Tensors {
		if p.Role == nn.Constant {
			continue
		}
		for i, v := range get(t, e, engine.Value, p.Name, p.Len()) {
			if float32(v) != p.Data[i] {
				t.Fatalf("element %d of %s is %v, want %v", i, p.Name, v, p.Data[i])
			}
		}
	}
}

// Rounding per layer against float64: Winograd's forward pass stays within
// twice plain float32's error in every value, and its weight gradients too.
// -v prints the table.
func TestErrorPerLayer(t *testing.T) {
	g := unet(t, 16)
	b := separated(t, g, 2, 32, 48)
	o := options(2)
	e := compiled(t, g, o)
	exact, err := plain.Compile[float64](g, o)
	if err != nil {
		t.Fatal(err)
	}
	defer exact.Close()
	single, err := plain.Compile[float32](g, o)
	if err != nil {
		t.Fatal(err)
	}
	defer single.Close()
	var names []string
	for _, n := range g.Nodes {
		if n.Op == "Conv" && e.net.values[n.Outputs[0]] != nil || n.Op == "Add" {
			names = append(names, n.Outputs[0])
		}
	}
	values := func(e engine.Engine, b engine.Batch) map[string][]float64 {
		v := activations(t, e, g, b, names, true)
		if _, err := e.Gradients(b, groups(g, ""), 1, false); err != nil {
			t.Fatal(err)
		}
		for _, p := range g.Parameters() {
			if len(p.Shape) == 4 {
				v[p.Name] = get(t, e, engine.Gradient, p.Name, p.Len())
			}
		}
		return v
	}
	got, ref, want := values(e, b), values(single, b), values(exact, batch64(b))
	for _, p := range g.Parameters() {
		if len(p.Shape) == 4 {
			names = append(names, p.Name)
		}
	}
	for _, n := range names {
		d, r := distance(got[n], want[n]), distance(ref[n], want[n])
		t.Logf("%-36s %.2e, plain float32 %.2e, ratio %.2f", n, d, r, d/r)
		if d > 2*r+1e-7 {
			t.Errorf("%s is %g from float64, plain float32 %g", n, d, r)
		}
	}
}
