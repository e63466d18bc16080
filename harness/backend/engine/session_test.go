package engine_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

var ctx = context.Background()

// set is a dataset in a file.
type set struct {
	path, digest string
	images       []float32
	labels       []uint8
}

// newSet writes n images of one channel with labels below classes.
func newSet(t testing.TB, n, h, w, classes int) set {
	t.Helper()
	r := random.Stream(1, "set", uint64(n*h*w))
	s := set{images: make([]float32, n*h*w), labels: make([]uint8, n*h*w)}
	for i := range s.images {
		s.images[i], s.labels[i] = float32(r.NormFloat64()), uint8(r.IntN(classes))
	}
	return s.save(t, n, h, w)
}

func (s set) save(t testing.TB, n, h, w int) set {
	t.Helper()
	data := encode(t, []safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, h, w}, Data: s.images},
		{Name: "labels", Shape: []int{n, h, w}, Data: s.labels},
	}, nil)
	sum := sha256.Sum256(data)
	s.path, s.digest = filepath.Join(t.TempDir(), "data.safetensors"), hex.EncodeToString(sum[:])
	if err := os.WriteFile(s.path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

func encode(t testing.TB, ts []safetensors.Tensor, meta map[string]string) []byte {
	t.Helper()
	b, err := safetensors.Encode(ts, meta)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// open opens a session on an engine that the test can see, with the set as "d".
func open(t testing.TB, g *nn.Graph, precision string, s set) (backend.Session, *pixels) {
	t.Helper()
	var e *pixels
	b := engine.NewBackend(describe, func(g *nn.Graph, o engine.Options) (engine.Engine, error) {
		made, err := compile(g, o)
		if err == nil {
			e = made.(*pixels)
		}
		return made, err
	})
	v, err := b.Open(ctx, g, backend.Options{Loss: backend.LossOnLogits, Precision: precision, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	load(t, v, "d", s)
	return v, e
}

func load(t testing.TB, v backend.Session, id string, s set) {
	t.Helper()
	if err := v.LoadDataset(ctx, id, s.path, s.digest); err != nil {
		t.Fatal(err)
	}
}

func samples(indices ...int) backend.Batch {
	var b backend.Batch
	for _, i := range indices {
		b = append(b, backend.Sample{Dataset: "d", Index: i})
	}
	return b
}

func state(t testing.TB, v backend.Session) []byte {
	t.Helper()
	b, err := v.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func train(v backend.Session, rate float64, frozen []string, batches ...backend.Batch) ([]backend.Step, error) {
	var steps []backend.Step
	err := v.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: rate, Frozen: frozen}, func(s backend.Step) error {
		steps = append(steps, s)
		return nil
	})
	return steps, err
}

func (e *pixels) called(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(e.calls, want) {
		t.Errorf("the engine was asked for\n\t%s\nwant\n\t%s", strings.Join(e.calls, "\n\t"), strings.Join(want, "\n\t"))
	}
	e.calls = nil
}

// What a request comes to at the engine.
func TestTrain(t *testing.T) {
	v, e := open(t, network(1, 2), "", newSet(t, 4, 8, 8, 2))
	steps, err := train(v, 0.25, []string{"encoder"}, samples(0, 1), samples(2))
	if err != nil {
		t.Fatal(err)
	}
	e.called(t,
		"gradients of 2, frozen [true false], scale 1, statistics true", "step 1 at 0.25, scale 1, frozen [true false]",
		"gradients of 1, frozen [true false], scale 1, statistics true", "step 2 at 0.25, scale 1, frozen [true false]")
	if len(steps) != 2 || steps[1].Batch != 1 || steps[1].Loss <= 0 {
		t.Errorf("steps %+v", steps)
	}
	before := state(t, v)
	loss, grads, err := v.Gradients(ctx, samples(0, 3), []string{"encoder"})
	if err != nil || loss <= 0 || len(grads) != 1 || grads[0].Name != "decoder.bias" || !slices.Equal(grads[0].Shape, []int{2}) {
		t.Errorf("loss %v, gradients %+v, %v", loss, grads, err)
	}
	e.called(t, "gradients of 2, frozen [true false], scale 1, statistics false")
	if !bytes.Equal(before, state(t, v)) {
		t.Error("asking for gradients changed the state")
	}
	enough := errors.New("enough")
	err = v.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{samples(0), samples(1)}}, func(backend.Step) error { return enough })
	if !errors.Is(err, enough) {
		t.Errorf("progress's error: %v", err)
	}
	e.called(t, "gradients of 1, frozen [false false], scale 1, statistics true", "step 3 at 0, scale 1, frozen [false false]")
}

// Evaluations are those of each image, whatever the batch size, in the batches
// asked for or the engine's.
func TestEvaluate(t *testing.T) {
	const n, area, k = 5, 8 * 8, 3
	s := newSet(t, n, 8, 8, k)
	for _, precision := range []string{backend.Float32, backend.Float64} {
		v, e := open(t, network(1, k), precision, s)
		p, err := v.Predict(ctx, backend.Tensor{Shape: []int{n, 1, 8, 8}, F32: s.images})
		if err != nil {
			t.Fatal(err)
		}
		want := p.Float64s()
		e.calls = nil
		for _, c := range []struct {
			size  int
			calls []string
		}{
			{0, []string{"forward 3, labels true", "forward 1, labels true"}},
			{1, slices.Repeat([]string{"forward 1, labels true"}, 4)},
			{2, slices.Repeat([]string{"forward 2, labels true"}, 2)},
			{1 << 30, []string{"forward 4, labels true"}},
		} {
			indices := []int{4, 0, 1, 2}
			ev, err := v.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", Indices: indices, BatchSize: c.size})
			if err != nil {
				t.Fatal(err)
			}
			e.called(t, c.calls...)
			if len(ev.Loss) != len(indices) || len(ev.Confusion) != len(indices) || ev.Classes != k {
				t.Fatalf("%d losses and %d confusions for %d images, %d classes", len(ev.Loss), len(ev.Confusion), len(indices), ev.Classes)
			}
			for j, i := range indices {
				loss, counts := 0.0, make([]int64, k*k)
				for x := range area {
					at := func(class int) float64 { return want[(i*k+class)*area+x] }
					best := 0
					for class := range k {
						if at(class) > at(best) {
							best = class
						}
					}
					label := int(s.labels[i*area+x])
					counts[label*k+best]++
					loss -= math.Log(at(label)) / area
				}
				// Rounding probabilities to float32 moves a logarithm by 1e-7.
				if math.Abs(loss-ev.Loss[j]) > 1e-6 || !slices.Equal(counts, ev.Confusion[j]) {
					t.Errorf("%s, batch size %d, image %d: loss %v and counts %v, want %v and %v", precision, c.size, i, ev.Loss[j], ev.Confusion[j], loss, counts)
				}
			}
		}
		if ev, err := v.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"}); err != nil || len(ev.Loss) != n {
			t.Errorf("no indices: %d losses, %v", len(ev.Loss), err)
		}
	}
}

// Predictions come in the session's precision, from images of any.
func TestPredict(t *testing.T) {
	s := newSet(t, 5, 8, 8, 2)
	wide := backend.Tensor{F32: s.images}.Float64s()
	for _, precision := range []string{backend.Float32, backend.Float64, backend.Mixed} {
		v, e := open(t, network(1, 2), precision, s)
		var first []float64
		for _, images := range []backend.Tensor{{F32: s.images}, {F64: wide}} {
			images.Shape = []int{5, 1, 8, 8}
			p, err := v.Predict(ctx, images)
			if err != nil {
				t.Fatal(err)
			}
			e.called(t, "forward 3, labels false", "forward 2, labels false")
			if err := p.Check(); err != nil || !slices.Equal(p.Shape, []int{5, 2, 8, 8}) || (p.F64 != nil) != (precision == backend.Float64) {
				t.Fatalf("%s: output of shape %v, float64 %v: %v", precision, p.Shape, p.F64 != nil, err)
			}
			if first == nil {
				first = p.Float64s()
			}
			if !slices.Equal(first, p.Float64s()) {
				t.Errorf("%s: another prediction from float64", precision)
			}
		}
		for i := range s.images {
			at := i/64*128 + i%64
			if math.Abs(first[at]+first[at+64]-1) > 1e-6 {
				t.Fatalf("%s: pixel %d: probabilities %v and %v", precision, i, first[at], first[at+64])
			}
		}
	}
}

// A network of a fixed batch size predicts multiples of it, evaluates any number
// and trains on just that.
func TestFixedBatch(t *testing.T) {
	s := newSet(t, 5, 8, 8, 2)
	g := network(1, 2)
	free, _ := open(t, g, "", s)
	g.Input.Shape[0], g.Output.Shape[0] = 2, 2
	v, e := open(t, g, "", s)
	images := func(n int) backend.Tensor {
		return backend.Tensor{Shape: []int{n, 1, 8, 8}, F32: s.images[:n*64]}
	}
	for n := 1; n <= 5; n++ {
		got, err := v.Predict(ctx, images(n))
		if n%2 != 0 {
			if err == nil || !strings.Contains(err.Error(), "the network takes 2 at once") {
				t.Errorf("%d images: %v", n, err)
			}
			continue
		}
		want, err2 := free.Predict(ctx, images(n))
		if err != nil || err2 != nil || !slices.Equal(got.F32, want.F32) {
			t.Errorf("%d images: another output (%v, %v)", n, err, err2)
		}
		e.called(t, slices.Repeat([]string{"forward 2, labels false"}, n/2)...)
	}
	for _, size := range []int{0, 1, 3} {
		got, err := v.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", BatchSize: size})
		want, err2 := free.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", BatchSize: size})
		if err != nil || err2 != nil || !slices.Equal(got.Loss, want.Loss) || !slices.EqualFunc(got.Confusion, want.Confusion, slices.Equal) {
			t.Errorf("batch size %d: another evaluation (%v, %v)", size, err, err2)
		}
		e.called(t, slices.Repeat([]string{"forward 2, labels true"}, 3)...)
	}
	if _, err := train(v, 1e-3, nil, samples(0, 1)); err != nil {
		t.Error(err)
	}
	if _, err := train(v, 1e-3, nil, samples(0, 1, 2)); err == nil || !strings.Contains(err.Error(), "does not fit the network's [2 1 0 0]") {
		t.Errorf("a batch of 3: %v", err)
	}
}

// Symmetries reach the network as backend.Dihedral defines them.
func TestDihedral(t *testing.T) {
	const n = 8
	s := newSet(t, 3, n, n, 2)
	for _, precision := range []string{backend.Float32, backend.Float64} {
		v, _ := open(t, network(1, 2), precision, s)
		for op := range uint8(8) {
			a, err := v.Activations(ctx, backend.Batch{{Dataset: "d", Index: 2, Dihedral: op}}, []string{nn.Image}, false)
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range a[0].Float64s() {
				y, x := backend.Dihedral(op, n, i/n, i%n)
				if want := float64(s.images[(2*n+y)*n+x]); got != want {
					t.Fatalf("%s, symmetry %d, pixel %d: %v, want %v", precision, op, i, got, want)
				}
			}
		}
	}
	// A label that goes another way than its pixel would show in the loss.
	for i := range s.labels {
		s.labels[i] = 0
		if s.images[i] > 0 {
			s.labels[i] = 1
		}
	}
	v, _ := open(t, network(1, 2), "", s.save(t, 3, n, n))
	var first float64
	for op := range uint8(8) {
		loss, _, err := v.Gradients(ctx, backend.Batch{{Dataset: "d", Dihedral: op}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if op == 0 {
			first = loss
		}
		// The sum over pixels is taken in another order.
		if math.Abs(loss-first) > 1e-12 {
			t.Errorf("symmetry %d: loss %v, want %v", op, loss, first)
		}
	}
}

// Values that are computed, parameters and the input come in the order asked for.
func TestActivations(t *testing.T) {
	g := network(1, 2)
	g.Tensors = append(g.Tensors, &nn.Tensor{Name: "scales", Shape: []int{2}, Role: nn.Constant, Ints: []int64{1, 2}})
	v, e := open(t, g, "", newSet(t, 2, 8, 8, 2))
	names := []string{nn.Logits, "scales", "decoder.bias", nn.Image, nn.Probabilities}
	a, err := v.Activations(ctx, samples(0, 1), names, true)
	if err != nil {
		t.Fatal(err)
	}
	e.called(t, "3 activations, training true")
	for i, x := range a {
		if err := x.Check(); err != nil || x.Name != names[i] {
			t.Errorf("value %d is %q: %v", i, x.Name, err)
		}
	}
	if !slices.Equal(a[1].F32, []float32{1, 2}) || !slices.Equal(a[2].F32, g.Tensor("decoder.bias").Data) {
		t.Errorf("constant %v, bias %v", a[1].F32, a[2].F32)
	}
	if _, err := v.Activations(ctx, samples(0), []string{"decoder.bias"}, false); err != nil {
		t.Error(err)
	}
	e.called(t)
}

// What only training cannot do is refused there.
func TestNoVariance(t *testing.T) {
	g := network(1, 2)
	for _, name := range []string{"scale", "shift", "mean", "variance"} {
		g.Tensors = append(g.Tensors, &nn.Tensor{Name: name, Shape: []int{2}, Data: make([]float32, 2), Role: nn.Constant})
	}
	g.Nodes[1].Inputs[0] = "normal"
	g.Nodes = slices.Insert(g.Nodes, 1, &nn.Node{Name: "bn", Op: "BatchNormalization", Inputs: []string{nn.Logits, "scale", "shift", "mean", "variance"}, Outputs: []string{"normal"}})
	b := engine.NewBackend(describe, func(*nn.Graph, engine.Options) (engine.Engine, error) { return &pixels{}, nil })
	v, err := b.Open(ctx, g, backend.Options{Loss: backend.LossOnLogits})
	if err != nil {
		t.Fatal(err)
	}
	load(t, v, "d", newSet(t, 1, 1, 1, 2))
	_, err = train(v, 1e-3, nil, samples(0))
	_, err2 := v.Activations(ctx, samples(0), []string{nn.Logits}, true)
	for _, err := range []error{err, err2} {
		if err == nil || !strings.Contains(err.Error(), `node "bn" (BatchNormalization): one value per channel has no variance`) {
			t.Errorf("error %v", err)
		}
	}
}

// Bad requests are refused with what is wrong, and leave the session usable.
func TestBadRequests(t *testing.T) {
	g := network(1, 2)
	g.Multiple = 4
	d, square, odd := newSet(t, 2, 8, 12, 2), newSet(t, 2, 8, 8, 2), newSet(t, 1, 6, 6, 2)
	many := newSet(t, 2, 8, 8, 3)
	infinite := newSet(t, 1, 8, 8, 2)
	infinite.images[9] = float32(math.Inf(1))
	v, _ := open(t, g, "", d)
	for id, s := range map[string]set{"square": square, "odd": odd, "many": many, "infinite": infinite.save(t, 1, 8, 8)} {
		load(t, v, id, s)
	}
	flat := filepath.Join(t.TempDir(), "flat.safetensors")
	data := encode(t, []safetensors.Tensor{{Name: "images", Shape: []int{2, 8}, Data: make([]float32, 16)}}, nil)
	if err := os.WriteFile(flat, data, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	training := func(rate float64, frozen []string, b ...backend.Sample) func() error {
		return func() error { _, err := train(v, rate, frozen, b); return err }
	}
	evaluate := func(r backend.EvaluateRequest) func() error {
		return func() error { _, err := v.Evaluate(ctx, r); return err }
	}
	predict := func(n int, shape ...int) func() error {
		return func() error {
			_, err := v.Predict(ctx, backend.Tensor{Shape: shape, F32: make([]float32, n)})
			return err
		}
	}
	activations := func(name string, b ...backend.Sample) func() error {
		return func() error { _, err := v.Activations(ctx, b, []string{name}, false); return err }
	}
	loading := func(path, digest string) func() error {
		return func() error { return v.LoadDataset(ctx, "x", path, digest) }
	}
	before := state(t, v)
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name, want string
		ask        func() error
	}{
		{"unknown dataset", `unknown dataset "e"`, training(1e-3, nil, backend.Sample{Dataset: "e"})},
		{"index", "sample 2: the dataset has 2", training(1e-3, nil, samples(2)...)},
		{"negative index", "sample -1", training(1e-3, nil, samples(-1)...)},
		{"symmetry", "from 0 to 7", training(1e-3, nil, backend.Sample{Dataset: "d", Dihedral: 8})},
		{"not square", "not square", training(1e-3, nil, backend.Sample{Dataset: "d", Dihedral: 1})},
		{"empty batch", "batch 0: the batch is empty", training(1e-3, nil)},
		{"NaN rate", "learning rate NaN", training(math.NaN(), nil, samples(0)...)},
		{"infinite rate", "learning rate +Inf", training(math.Inf(1), nil, samples(0)...)},
		{"negative rate", "learning rate -1", training(-1, nil, samples(0)...)},
		{"group", "decoder, encoder", training(1e-3, []string{"head"}, samples(0)...)},
		{"mixed sizes", "8×8 in a batch of 8×12", training(1e-3, nil, backend.Sample{Dataset: "d"}, backend.Sample{Dataset: "square"})},
		{"multiple", "multiples of 4", training(1e-3, nil, backend.Sample{Dataset: "odd"})},
		{"labels", "label 2 at row", training(1e-3, nil, backend.Sample{Dataset: "many"}, backend.Sample{Dataset: "many", Index: 1})},
		{"not finite", "value +Inf at row 1, column 1", training(1e-3, nil, backend.Sample{Dataset: "infinite"})},
		{"gradients", "the batch is empty", func() error { _, _, err := v.Gradients(ctx, nil, nil); return err }},
		{"gradients' group", "frozen group", func() error { _, _, err := v.Gradients(ctx, samples(0), []string{"x"}); return err }},
		{"evaluate unknown", `unknown dataset "e"`, evaluate(backend.EvaluateRequest{Dataset: "e"})},
		{"evaluate index", "sample 7", evaluate(backend.EvaluateRequest{Dataset: "d", Indices: []int{7}})},
		{"batch size", "negative", evaluate(backend.EvaluateRequest{Dataset: "d", BatchSize: -1})},
		{"predict shape", "do not fill", predict(7, 1, 1, 8, 8)},
		{"predict channels", "does not fit", predict(128, 1, 2, 8, 8)},
		{"predict rank", "must be [N,C,H,W]", predict(64, 8, 8)},
		{"predict nothing", "at least one pixel", predict(0, 0, 1, 8, 8)},
		{"predict multiple", "multiples of 4", predict(60, 1, 1, 6, 10)},
		{"activation", `no value "x"`, activations("x", samples(0)...)},
		{"activation of nothing", "the batch is empty", activations(nn.Logits)},
		{"digest", "has changed or is another file", loading(d.path, odd.digest)},
		{"path", "no such file", loading(d.path+"x", d.digest)},
		{"layout", `needs a tensor "images" of F32 [N,C,H,W]`, loading(flat, hex.EncodeToString(sum[:]))},
		{"state", "safetensors", func() error { return v.SetState(ctx, before[:100]) }},
		{"cancelled already", "canceled", func() error { return v.SetState(cancelled, before) }},
	} {
		if err := c.ask(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if !bytes.Equal(before, state(t, v)) {
			t.Fatalf("%s: a refused request changed the state", c.name)
		}
	}
	if steps, err := train(v, 1e-3, nil, samples(0)); err != nil || len(steps) != 1 {
		t.Errorf("the session cannot go on: %v", err)
	}
}

// edited returns a state with tensors left out or changed, and other metadata.
func edited(t *testing.T, state []byte, meta map[string]string, edit func(*safetensors.Tensor) bool) []byte {
	t.Helper()
	f, err := safetensors.Decode(state)
	if err != nil {
		t.Fatal(err)
	}
	var ts []safetensors.Tensor
	for _, i := range f.Tensors() {
		x := safetensors.Tensor{Name: i.Name, Shape: i.Shape}
		if i.DType == safetensors.F64 {
			x.Data, err = f.Float64(i.Name)
		} else {
			x.Data, err = f.Float32(i.Name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if edit == nil || edit(&x) {
			ts = append(ts, x)
		}
	}
	return encode(t, ts, meta)
}

func metadata(t *testing.T, state []byte) map[string]string {
	t.Helper()
	f, err := safetensors.Decode(state)
	if err != nil {
		t.Fatal(err)
	}
	return f.Metadata
}

// States that do not fit change nothing; those without moments start afresh.
func TestSetState(t *testing.T) {
	v, _ := open(t, network(1, 2), "", newSet(t, 2, 8, 8, 2))
	fresh := state(t, v)
	if _, err := train(v, 1e-3, nil, samples(0, 1)); err != nil {
		t.Fatal(err)
	}
	before := state(t, v)
	meta := metadata(t, before)
	without := func(prefix string) func(*safetensors.Tensor) bool {
		return func(x *safetensors.Tensor) bool { return !strings.HasPrefix(x.Name, prefix) }
	}
	bias := func(shape []int, data any) func(*safetensors.Tensor) bool {
		return func(x *safetensors.Tensor) bool {
			if x.Name == "decoder.bias" {
				x.Shape, x.Data = shape, data
			}
			return true
		}
	}
	for _, c := range []struct {
		name, want string
		state      []byte
	}{
		{"no weight", `lacks "encoder.weight", of shape [2 1 1 1]`, edited(t, before, meta, without("encoder.weight"))},
		{"nothing", "lacks", encode(t, nil, nil)},
		{"half the moments", "2 of the optimiser's 4 moments", edited(t, before, meta, without(backend.SecondMoment))},
		{"no step", "step", edited(t, before, nil, nil)},
		{"negative step", "step", edited(t, before, map[string]string{backend.StepKey: "-1"}, nil)},
		{"wrong shape", "belongs to another network", edited(t, before, meta, bias([]int{3}, make([]float32, 3)))},
		{"wrong type", "not F32 or F64", edited(t, before, meta, bias([]int{2}, []uint8{1, 2}))},
	} {
		if err := v.SetState(ctx, c.state); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.want)
		}
		if !bytes.Equal(before, state(t, v)) {
			t.Fatalf("%s: the state changed", c.name)
		}
	}
	wide := edited(t, before, meta, func(x *safetensors.Tensor) bool {
		x.Data = backend.Tensor{F32: x.Data.([]float32)}.Float64s()
		return true
	})
	if err := v.SetState(ctx, wide); err != nil || !bytes.Equal(before, state(t, v)) {
		t.Errorf("the float64 form of the state is not taken as the same: %v", err)
	}
	// A float64 session takes it too, and gives float64.
	w, _ := open(t, network(1, 2), backend.Float64, newSet(t, 2, 8, 8, 2))
	if err := w.SetState(ctx, before); err != nil || !bytes.Equal(wide, state(t, w)) {
		t.Errorf("a float64 session does not give the float64 form of a float32 state: %v", err)
	}
	// Weights alone: the optimiser starts afresh.
	if err := v.SetState(ctx, edited(t, fresh, nil, without("adam."))); err != nil || !bytes.Equal(fresh, state(t, v)) {
		t.Errorf("the initial weights do not give the initial state: %v", err)
	}
}

// A session that continues from another's state gives the bits of one that
// never stopped.
func TestStateRoundTrip(t *testing.T) {
	s := newSet(t, 4, 8, 8, 2)
	for _, precision := range []string{backend.Float32, backend.Float64, backend.Mixed} {
		a, _ := open(t, network(1, 2), precision, s)
		b, _ := open(t, network(1, 2), precision, s)
		if _, err := train(a, 1e-3, nil, samples(0, 1), samples(2, 3)); err != nil {
			t.Fatal(err)
		}
		if err := b.SetState(ctx, state(t, a)); err != nil {
			t.Fatal(err)
		}
		for _, v := range []backend.Session{a, b} {
			if _, err := train(v, 1e-3, []string{"encoder"}, samples(3, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(state(t, a), state(t, b)) {
			t.Errorf("%s: the next step differs", precision)
		}
	}
}

// An overflow skips the step and halves the loss scale; gradients that are
// handed out are free of it.
func TestLossScale(t *testing.T) {
	v, e := open(t, network(1, 2), backend.Mixed, newSet(t, 2, 8, 8, 2))
	get := func(key string) string { return metadata(t, state(t, v))[key] }
	set := func(pairs ...string) {
		t.Helper()
		before := state(t, v)
		meta := metadata(t, before)
		for i := 0; i < len(pairs); i += 2 {
			meta[pairs[i]] = pairs[i+1]
		}
		if err := v.SetState(ctx, edited(t, before, meta, nil)); err != nil {
			t.Fatal(err)
		}
	}
	step := func() backend.Step {
		t.Helper()
		s, err := train(v, 1e-3, nil, samples(0, 1))
		if err != nil {
			t.Fatal(err)
		}
		return s[0]
	}
	if st := step(); st.Skipped || st.LossScale != 65536 || get(backend.GoodStepsKey) != "1" {
		t.Errorf("first step %+v, good steps %s", st, get(backend.GoodStepsKey))
	}
	e.called(t, "gradients of 2, frozen [false false], scale 65536, statistics true", "finite", "step 1 at 0.001, scale 65536, frozen [false false]")
	set(backend.LossScaleKey, "1e+60")
	if st := step(); !st.Skipped || st.LossScale != 1e60 || get(backend.LossScaleKey) != "5e+59" || get(backend.StepKey) != "1" || get(backend.GoodStepsKey) != "0" {
		t.Errorf("overflowing step %+v, metadata %v", st, metadata(t, state(t, v)))
	}
	set(backend.LossScaleKey, "1024", backend.GoodStepsKey, "1999")
	if st := step(); st.Skipped || get(backend.LossScaleKey) != "2048" || get(backend.GoodStepsKey) != "0" || get(backend.StepKey) != "2" {
		t.Errorf("step 2000 %+v, metadata %v", st, metadata(t, state(t, v)))
	}
	_, scaled, err := v.Gradients(ctx, samples(0, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	single, _ := open(t, network(1, 2), backend.Float32, newSet(t, 2, 8, 8, 2))
	if err := single.SetState(ctx, state(t, v)); err != nil {
		t.Fatal(err)
	}
	_, want, err := single.Gradients(ctx, samples(0, 1), nil)
	if err != nil || fmt.Sprint(scaled) != fmt.Sprint(want) { // 2048 is a power of two
		t.Errorf("gradients %v, without a scale %v, %v", scaled, want, err)
	}
	for _, c := range [][2]string{{backend.LossScaleKey, "0"}, {backend.LossScaleKey, "+Inf"}, {backend.GoodStepsKey, "2000"}, {backend.GoodStepsKey, "-1"}} {
		before := state(t, v)
		meta := maps.Clone(metadata(t, before))
		meta[c[0]] = c[1]
		if err := v.SetState(ctx, edited(t, before, meta, nil)); err == nil || !strings.Contains(err.Error(), c[0]) {
			t.Errorf("%s %s: %v", c[0], c[1], err)
		}
	}
}

// What a session cannot do is refused when it is opened, by name.
func TestOpenRefuses(t *testing.T) {
	edit := func(f func(g *nn.Graph)) *nn.Graph {
		g := network(1, 2)
		f(g)
		return g
	}
	good := backend.Options{Loss: backend.LossOnLogits}
	with := func(f func(o *backend.Options)) backend.Options {
		o := good
		f(&o)
		return o
	}
	for _, c := range []struct {
		want        string
		unsupported bool
		g           *nn.Graph
		o           backend.Options
	}{
		{`precision "bfloat16"`, true, network(1, 2), with(func(o *backend.Options) { o.Precision = "bfloat16" })},
		{`loss "mse"`, true, network(1, 2), with(func(o *backend.Options) { o.Loss = "mse" })},
		{`device "cuda:0"`, true, network(1, 2), with(func(o *backend.Options) { o.Device = "cuda:0" })},
		{`node "conv" (Gelu)`, true, edit(func(g *nn.Graph) { g.Nodes[0].Op = "Gelu" }), good},
		{`node "conv" (Conv): attribute "mystery"`, true, edit(func(g *nn.Graph) { g.Nodes[0].Attrs = nn.Attrs{"mystery": int64(1)} }), good},
		{`node "conv" (Conv): 2 inputs, from 3 to 3 are`, true, edit(func(g *nn.Graph) { g.Nodes[0].Inputs = g.Nodes[0].Inputs[:2] }), good},
		{`node "softmax" (Softmax): outputs`, true, edit(func(g *nn.Graph) { g.Nodes[1].Outputs = append(g.Nodes[1].Outputs, "more") }), good},
		{`node "conv" (Conv): a kernel of more than one pixel`, true, edit(func(g *nn.Graph) { g.Tensors[0].Shape = []int{1, 1, 2, 1} }), good},
		{"-1 threads", false, network(1, 2), with(func(o *backend.Options) { o.Threads = -1 })},
		{"1025 threads", false, network(1, 2), with(func(o *backend.Options) { o.Threads = 1025 })},
		{"of Adam", false, network(1, 2), with(func(o *backend.Options) { o.Adam = backend.Adam{Beta1: 1, Beta2: 0.9, Epsilon: 1e-8} })},
		{"input of shape", false, edit(func(g *nn.Graph) { g.Input.Shape = []int{0, 0} }), good},
		{"is not defined before it", false, edit(func(g *nn.Graph) { g.Nodes = g.Nodes[1:] }), good},
		{"it has no nodes", false, edit(func(g *nn.Graph) { g.Nodes, g.Output = nil, g.Input }), good},
	} {
		v, err := engine.NewBackend(describe, compile).Open(ctx, c.g, c.o)
		if err == nil {
			v.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one with %q", err, c.want)
		}
		if errors.Is(err, backend.ErrUnsupported) != c.unsupported {
			t.Errorf("%v: ErrUnsupported is not %v", err, c.unsupported)
		}
	}
}

// The graph that the session was opened with stays the caller's.
func TestGraphIsCopied(t *testing.T) {
	g := network(1, 2)
	v, _ := open(t, g, "", newSet(t, 1, 8, 8, 2))
	before := state(t, v)
	g.Tensors[0].Data[0], g.Nodes[0].Op = 99, "Gelu"
	if !bytes.Equal(before, state(t, v)) {
		t.Error("a change to the caller's graph changed the session's")
	}
}

// A call that computes without end returns when it is cancelled, and the session
// goes on.
func TestCancel(t *testing.T) {
	v, e := open(t, network(1, 2), "", newSet(t, 2, 8, 8, 2))
	for name, ask := range map[string]func(context.Context) error{
		"Train": func(ctx context.Context) error {
			return v.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{samples(0)}}, func(backend.Step) error { return nil })
		},
		"Gradients": func(ctx context.Context) error { _, _, err := v.Gradients(ctx, samples(0), nil); return err },
		"Evaluate": func(ctx context.Context) error {
			_, err := v.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"})
			return err
		},
		"Activations": func(ctx context.Context) error {
			_, err := v.Activations(ctx, samples(0), []string{nn.Logits}, false)
			return err
		},
		"Predict": func(ctx context.Context) error {
			_, err := v.Predict(ctx, backend.Tensor{Shape: []int{1, 1, 8, 8}, F32: make([]float32, 64)})
			return err
		},
	} {
		// The engine itself ends the wait for its call.
		cancelled, cancel := context.WithCancel(ctx)
		e.hang = true
		go cancel()
		if err := ask(cancelled); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		e.hang = false
		if err := ask(ctx); err != nil {
			t.Errorf("%s after it was cancelled: %v", name, err)
		}
	}
}

// What fails in an engine is the call's error; a closed session says so.
func TestEngineErrors(t *testing.T) {
	v, e := open(t, network(1, 2), backend.Mixed, newSet(t, 2, 8, 8, 2))
	lost := errors.New("the device is lost")
	e.fail = lost
	_, err1 := train(v, 1e-3, nil, samples(0))
	_, err2 := v.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"})
	_, err3 := v.Activations(ctx, samples(0), []string{nn.Logits}, false)
	for _, err := range []error{err1, err2, err3, v.Close()} {
		if !errors.Is(err, lost) {
			t.Errorf("error %v", err)
		}
	}
	if err := v.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	if _, err := v.State(ctx); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed session: %v", err)
	}
}
