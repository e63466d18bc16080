package gorgonia

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

func noProgress(backend.Step) error { return nil }

func state(t testing.TB, s backend.Session) []byte {
	t.Helper()
	b, err := s.State(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bits depend neither on the number of threads, nor on what else the
// session does between steps, nor on a saved and restored state.
func TestReproducible(t *testing.T) {
	ctx := context.Background()
	train := func(s backend.Session, b []backend.Batch) {
		t.Helper()
		if err := s.Train(ctx, backend.TrainRequest{Batches: b, LearningRate: 1e-3}, noProgress); err != nil {
			t.Fatal(err)
		}
	}
	all := batches(4, 3, 6)
	var want []byte
	for _, threads := range []int{1, 2, 3, 7} {
		s := open(t, unet(t, 8), backend.Options{Threads: threads})
		load(t, s, 6, 32, 32)
		train(s, all)
		if got := state(t, s); want == nil {
			want = got
		} else if !bytes.Equal(got, want) {
			t.Errorf("another state with %d threads", threads)
		}
	}

	a := open(t, unet(t, 8), backend.Options{Threads: 2})
	load(t, a, 6, 32, 32)
	train(a, all[:2])
	half := state(t, a)
	g := unet(t, 8)
	g.Initialize(99, 1)
	b := open(t, g, backend.Options{Threads: 2})
	load(t, b, 6, 32, 32)
	train(b, all[:1]) // to be overwritten
	if err := b.SetState(ctx, half); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(state(t, b), half) {
		t.Error("State does not return what SetState was given")
	}
	for _, s := range []backend.Session{a, b} {
		train(s, all[2:3])
		before := state(t, s)
		if _, _, err := s.Gradients(ctx, all[0], []string{nn.Encoder}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Activations(ctx, all[0], []string{"encoder.init.bn", nn.Logits}, true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(state(t, s), before) {
			t.Error("asking questions changed the state")
		}
		train(s, all[3:])
		if !bytes.Equal(state(t, s), want) {
			t.Error("another state after a pause")
		}
	}
}

func TestEvaluate(t *testing.T) {
	ctx := context.Background()
	for _, loss := range []string{backend.LossOnProbabilities, backend.LossOnLogits} {
		s := open(t, unet(t, 4), backend.Options{Loss: loss})
		load(t, s, 5, 16, 32)
		var want backend.Evaluation
		for _, size := range []int{0, 1, 2, 5, 100} {
			e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", BatchSize: size})
			if err != nil {
				t.Fatal(err)
			}
			if size == 0 {
				want = e
			}
			if fmt.Sprint(e) != fmt.Sprint(want) {
				t.Errorf("batch size %d gives another evaluation", size)
			}
		}
		// The same from a prediction, in plain loops.
		pixels, labels := disc(5, 16, 32)
		p, err := s.Predict(ctx, backend.Tensor{Shape: []int{5, 1, 16, 32}, F32: pixels})
		if err != nil {
			t.Fatal(err)
		}
		const n = 16 * 32
		for i := range 5 {
			var sum float64
			counts := make([]int64, 4)
			for j := range n {
				y := []float64{float64(p.F32[2*i*n+j]), float64(p.F32[(2*i+1)*n+j])}
				l := labels[i*n+j]
				if loss == backend.LossOnLogits {
					sum -= math.Log(y[l])
				} else {
					sum -= math.Log(math.Exp(y[l]) / (math.Exp(y[0]) + math.Exp(y[1])))
				}
				if y[1] > y[0] {
					counts[2*l+1]++
				} else {
					counts[2*l]++
				}
			}
			// float32 probabilities near 1 leave a relative 1e-7 of the loss.
			if math.Abs(want.Loss[i]-sum/n) > 1e-6 || fmt.Sprint(want.Confusion[i]) != fmt.Sprint(counts) {
				t.Errorf("image %d: loss %g and counts %v, want %g and %v", i, want.Loss[i], want.Confusion[i], sum/n, counts)
			}
		}
		e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", Indices: []int{3, 1}})
		if err != nil || e.Loss[0] != want.Loss[3] || e.Loss[1] != want.Loss[1] {
			t.Errorf("chosen samples: %v, %v", e, err)
		}
	}
}

// Two hundred steps must not need more memory than ten.
func TestNoLeak(t *testing.T) {
	ctx := context.Background()
	s := open(t, unet(t, 4), backend.Options{})
	load(t, s, 8, 16, 16)
	r := backend.TrainRequest{Batches: batches(10, 4, 8), LearningRate: 1e-3}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before uint64
	for i := range 20 {
		if err := s.Train(ctx, r, noProgress); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"}); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			before = heap()
		}
	}
	// One step's values are about 1.5 MB; the allowance is a tenth of that.
	if after := heap(); after > before+150_000 {
		t.Errorf("the heap grew from %d to %d bytes over 190 steps", before, after)
	}
	// Other sizes come and go without staying.
	for _, h := range []int{16, 32, 48, 64, 80, 96, 112, 128, 16, 32, 48, 64, 80} {
		if _, err := s.Predict(ctx, backend.Tensor{Shape: []int{1, 1, h, 16}, F32: make([]float32, h*16)}); err != nil {
			t.Fatal(err)
		}
	}
}

// A network keeps few plans, whatever sizes come.
func TestPlans(t *testing.T) {
	e, err := compile(unet(t, 4), engine.Options{Options: backend.Options{Device: processor, Threads: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for h := 16; h <= 16*(maxPlans+2); h += 16 {
		b := engine.Batch{Images: backend.Tensor{Shape: []int{1, 1, h, 16}, F32: make([]float32, h*16)}}
		if _, err := e.Forward(b, backend.Tensor{Shape: []int{1, 2, h, 16}, F32: make([]float32, 2*h*16)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(e.(*network).plans); n != maxPlans {
		t.Errorf("%d plans are kept, want %d", n, maxPlans)
	}
}

// A cancelled training ends within its step: a thousand would take minutes. That
// it is within a second the conformance suite checks.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	s := open(t, unet(t, 16), backend.Options{})
	load(t, s, 16, 96, 96)
	time.AfterFunc(100*time.Millisecond, cancel)
	err := s.Train(ctx, backend.TrainRequest{Batches: batches(1000, 16, 16), LearningRate: 1e-3}, noProgress)
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	enough := errors.New("enough")
	steps := 0
	err = s.Train(context.Background(), backend.TrainRequest{Batches: batches(5, 1, 16), LearningRate: 1e-3}, func(backend.Step) error {
		steps++
		return enough
	})
	if !errors.Is(err, enough) || steps != 1 {
		t.Errorf("progress's error: %v after %d steps", err, steps)
	}
}

// Two sessions at once do not touch each other.
func TestTwoSessions(t *testing.T) {
	train := func() ([]byte, error) {
		s := open(t, unet(t, 4), backend.Options{Threads: 2})
		load(t, s, 4, 16, 16)
		if err := s.Train(context.Background(), backend.TrainRequest{Batches: batches(10, 2, 4), LearningRate: 1e-3}, noProgress); err != nil {
			return nil, err
		}
		return s.State(context.Background())
	}
	want, err := train()
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan []byte)
	for range 2 {
		go func() {
			b, err := train()
			if err != nil {
				t.Error(err)
			}
			results <- b
		}()
	}
	for range 2 {
		if !bytes.Equal(<-results, want) {
			t.Error("another result beside a second session")
		}
	}
}

func TestRefusals(t *testing.T) {
	ctx := context.Background()
	change := func(name string, f func(n *nn.Node)) *nn.Graph {
		g := unet(t, 4)
		for _, n := range g.Nodes {
			if n.Name == name {
				f(n)
			}
		}
		return g
	}
	for _, c := range []struct {
		want        []string
		g           *nn.Graph
		o           backend.Options
		unsupported bool
	}{
		{[]string{"encoder.init.relu", "LeakyRelu"}, change("encoder.init.relu", func(n *nn.Node) { n.Op = "LeakyRelu" }), backend.Options{}, true},
		{[]string{"encoder.init.conv", "dilations", "[2 2]"}, change("encoder.init.conv", func(n *nn.Node) { n.Attrs["dilations"] = []int64{2, 2} }), backend.Options{}, true},
		{[]string{"encoder.init.conv", "group"}, change("encoder.init.conv", func(n *nn.Node) { n.Attrs["group"] = int64(2) }), backend.Options{}, true},
		{[]string{"encoder.init.conv", "novelty"}, change("encoder.init.conv", func(n *nn.Node) { n.Attrs["novelty"] = int64(2) }), backend.Options{}, true},
		{[]string{"decoder.up1.resize", "linear"}, change("decoder.up1.resize", func(n *nn.Node) { n.Attrs["mode"] = "linear" }), backend.Options{}, true},
		{[]string{"softmax", "axis"}, change("softmax", func(n *nn.Node) { n.Attrs["axis"] = int64(2) }), backend.Options{}, true},
		{[]string{"decoder.up1.concat", "axis"}, change("decoder.up1.concat", func(n *nn.Node) { n.Attrs["axis"] = int64(2) }), backend.Options{}, false},
		{[]string{"float64"}, unet(t, 4), backend.Options{Precision: backend.Float64}, true},
		{[]string{"mixed"}, unet(t, 4), backend.Options{Precision: backend.Mixed}, true},
		{[]string{"hinge"}, unet(t, 4), backend.Options{Loss: "hinge"}, true},
		{[]string{"cuda:7"}, unet(t, 4), backend.Options{Device: "cuda:7"}, true},
		{[]string{"-1 threads"}, unet(t, 4), backend.Options{Threads: -1}, false},
		{[]string{"Adam"}, unet(t, 4), backend.Options{Adam: backend.Adam{Beta1: 1, Beta2: 0.9, Epsilon: 1}}, false},
	} {
		s, err := New("test").Open(ctx, c.g, c.o)
		if err == nil {
			s.Close()
			t.Errorf("%v: accepted", c.want)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q does not say %q", err, w)
			}
		}
		if errors.Is(err, backend.ErrUnsupported) != c.unsupported {
			t.Errorf("%q: ErrUnsupported is not %v", err, c.unsupported)
		}
	}
}

// A network that ends in no Softmax predicts, but has no loss.
func TestWithoutSoftmax(t *testing.T) {
	ctx := context.Background()
	g := unet(t, 4)
	g.Nodes = g.Nodes[:len(g.Nodes)-1]
	g.Output.Name = nn.Logits
	s, whole := open(t, g, backend.Options{}), open(t, unet(t, 4), backend.Options{})
	for _, s := range []backend.Session{s, whole} {
		load(t, s, 2, 16, 16)
	}
	pixels, _ := disc(2, 16, 16)
	z, err := s.Predict(ctx, backend.Tensor{Shape: []int{2, 1, 16, 16}, F32: pixels})
	if err != nil {
		t.Fatal(err)
	}
	b := batches(1, 2, 2)
	for i := range b[0] {
		b[0][i].Dihedral = 0
	}
	want, err := whole.Activations(ctx, b[0], []string{nn.Logits}, false)
	if err != nil || fmt.Sprint(z.F32) != fmt.Sprint(want[0].F32) {
		t.Errorf("other logits than inside the whole network (%v)", err)
	}
	if err := s.Train(ctx, backend.TrainRequest{Batches: b}, noProgress); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("training: %v", err)
	}
	if _, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("evaluation: %v", err)
	}
}
