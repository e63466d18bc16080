package cpu

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu/internal/smoke"
)

var ctx = context.Background()

// unet returns a U-Net with initial weights and statistics that are not trivial.
func unet(t testing.TB, width int) *nn.Graph { return unetSeed(t, width, 1) }

func unetSeed(t testing.TB, width int, seed uint64) *nn.Graph {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(seed, 0)
	for _, s := range g.Tensors {
		if s.Role == nn.Statistic || s.Role == nn.Parameter && len(s.Shape) == 1 {
			r := random.Stream(2, s.Name)
			for i := range s.Data {
				s.Data[i] += float32(r.Float64() * 0.3)
			}
		}
	}
	return g
}

// writeDataset writes noisy discs and their labels.
func writeDataset(t testing.TB, n, h, w int) (path, digest string, images []float32, labels []uint8) {
	t.Helper()
	r := random.Stream(3, "dataset")
	images, labels = make([]float32, n*h*w), make([]uint8, n*h*w)
	for i := range images {
		y, x := i/w%h, i%w
		images[i] = float32(r.NormFloat64())
		if math.Hypot(float64(y)-float64(h)/2, float64(x)-float64(w)/3) < float64(h)/3 {
			labels[i] = 1
			images[i] += float32(math.Sin(float64(x)))
		}
	}
	path, digest = saveDataset(t, n, h, w, images, labels)
	return path, digest, images, labels
}

func saveDataset(t testing.TB, n, h, w int, images []float32, labels []uint8) (path, digest string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "data.safetensors")
	data, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{n, 1, h, w}, Data: images},
		{Name: "labels", Shape: []int{n, h, w}, Data: labels},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return path, hex.EncodeToString(sum[:])
}

// open opens a session with a dataset "d" loaded.
func open(t testing.TB, g *nn.Graph, o backend.Options, path, digest string) backend.Session {
	t.Helper()
	s, err := New("test").Open(ctx, g, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.LoadDataset(ctx, "d", path, digest); err != nil {
		t.Fatal(err)
	}
	return s
}

func samples(indices ...int) backend.Batch {
	var b backend.Batch
	for _, i := range indices {
		b = append(b, backend.Sample{Dataset: "d", Index: i, Dihedral: uint8(i % 8)})
	}
	return b
}

func train(t testing.TB, s backend.Session, frozen []string, batches ...backend.Batch) []backend.Step {
	t.Helper()
	var steps []backend.Step
	err := s.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: 1e-3, Frozen: frozen}, func(st backend.Step) error {
		steps = append(steps, st)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return steps
}

func state(t testing.TB, s backend.Session) []byte {
	t.Helper()
	b, err := s.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The backend trains the smoke network to the checked-in digest, whatever the
// number of threads; package smoke does so on other targets.
func TestDeterminism(t *testing.T) {
	for _, threads := range []int{1, 2, 3, 7} {
		g, err := smoke.Graph()
		if err != nil {
			t.Fatal(err)
		}
		images, labels := smoke.Data(smoke.Steps)
		path, digest := saveDataset(t, smoke.Steps*smoke.Batch, smoke.Height, smoke.Width, images, labels)
		s := open(t, g, backend.Options{Threads: threads}, path, digest)
		r := backend.TrainRequest{LearningRate: smoke.Rate}
		for i := range smoke.Steps {
			r.Batches = append(r.Batches, backend.Batch{{Dataset: "d", Index: 2 * i}, {Dataset: "d", Index: 2*i + 1}})
		}
		if err := s.Train(ctx, r, func(backend.Step) error { return nil }); err != nil {
			t.Fatal(err)
		}
		f, err := safetensors.Decode(state(t, s))
		if err != nil {
			t.Fatal(err)
		}
		got, err := smoke.Digest(g, func(x *nn.Tensor) ([]float32, error) { return f.Float32(x.Name) })
		if err != nil {
			t.Fatal(err)
		}
		if want := smoke.Digests["fast"]; got != want {
			t.Errorf("%d threads give %s, not %s", threads, got, want)
		}
	}
}

// A session that continues from another's state gives the same bits as one
// that never stopped.
func TestStateRoundTrip(t *testing.T) {
	path, digest, _, _ := writeDataset(t, 8, 32, 32)
	for _, precision := range []string{backend.Float32, backend.Float64, backend.Mixed} {
		t.Run(precision, func(t *testing.T) {
			o := backend.Options{Precision: precision, Threads: 2}
			a, b := open(t, unet(t, 4), o, path, digest), open(t, unet(t, 4), o, path, digest)
			train(t, a, nil, samples(0, 1, 2), samples(3, 4, 5))
			if err := b.SetState(ctx, state(t, a)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(state(t, a), state(t, b)) {
				t.Error("the state changed on its way")
			}
			train(t, a, []string{"encoder"}, samples(6, 7, 0))
			train(t, b, []string{"encoder"}, samples(6, 7, 0))
			if !bytes.Equal(state(t, a), state(t, b)) {
				t.Error("the next step differs")
			}
		})
	}
}

// Gradients, Activations, Evaluate and Predict leave the state as it was.
func TestQuestionsChangeNothing(t *testing.T) {
	path, digest, _, _ := writeDataset(t, 4, 32, 32)
	s := open(t, unet(t, 4), backend.Options{}, path, digest)
	before := state(t, s)
	if _, _, err := s.Gradients(ctx, samples(0, 1), nil); err != nil {
		t.Fatal(err)
	}
	for _, training := range []bool{false, true} {
		acts, err := s.Activations(ctx, samples(0, 1), []string{nn.Logits, "encoder.down1.unit1.conv2", nn.Image, "encoder.init.conv.weight", nn.Probabilities}, training)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range acts {
			if err := a.Check(); err != nil {
				t.Errorf("%s: %v", a.Name, err)
			}
		}
	}
	if _, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, state(t, s)) {
		t.Error("the state changed")
	}
}

// Frozen parameters stay; every BatchNormalization's running statistics move.
func TestFrozen(t *testing.T) {
	path, digest, _, _ := writeDataset(t, 4, 32, 32)
	for _, frozen := range []string{"encoder", "decoder"} {
		g := unet(t, 4)
		s := open(t, g, backend.Options{}, path, digest)
		train(t, s, []string{frozen}, samples(0, 1))
		f, err := safetensors.Decode(state(t, s))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range g.Tensors {
			if p.Role == nn.Constant {
				continue
			}
			d, err := f.Float32(p.Name)
			if err != nil {
				t.Fatal(err)
			}
			still := p.Role == nn.Parameter && nn.Group(p.Name) == frozen
			if slices.Equal(d, p.Data) != still {
				t.Errorf("%s frozen: %s moved: %v", frozen, p.Name, still)
			}
		}
		_, grads, err := s.Gradients(ctx, samples(0, 1), []string{frozen})
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range grads {
			if nn.Group(n.Name) == frozen {
				t.Errorf("gradient of frozen %s", n.Name)
			}
		}
	}
}

// Evaluate agrees with what Predict's probabilities say, whatever the batch
// size. 1e-6 allows for computing the loss from rounded probabilities.
func TestEvaluate(t *testing.T) {
	const n, h, w = 5, 32, 48
	path, digest, images, labels := writeDataset(t, n, h, w)
	s := open(t, unet(t, 4), backend.Options{}, path, digest)
	p, err := s.Predict(ctx, backend.Tensor{Shape: []int{n, 1, h, w}, F32: images})
	if err != nil {
		t.Fatal(err)
	}
	var first backend.Evaluation
	for _, size := range []int{0, 1, 2, 5} {
		ev, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "d", BatchSize: size, Indices: []int{4, 0, 1, 2}})
		if err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			first = ev
		}
		if !slices.Equal(ev.Loss, first.Loss) || !slices.EqualFunc(ev.Confusion, first.Confusion, slices.Equal) {
			t.Errorf("batch size %d gives another result", size)
		}
	}
	for k, i := range []int{4, 0, 1, 2} {
		var loss float64
		confusion := make([]int64, 4)
		for j := range h * w {
			p0, p1 := float64(p.F32[i*2*h*w+j]), float64(p.F32[i*2*h*w+h*w+j])
			l := labels[i*h*w+j]
			loss += math.Log(math.Exp(p0)+math.Exp(p1)) - []float64{p0, p1}[l]
			c := int(l) * 2
			if p1 > p0 {
				c++
			}
			confusion[c]++
		}
		if loss /= h * w; math.Abs(loss-first.Loss[k]) > 1e-6 {
			t.Errorf("sample %d: loss %.8f, want %.8f", i, first.Loss[k], loss)
		}
		if !slices.Equal(confusion, first.Confusion[k]) {
			t.Errorf("sample %d: confusion %v, want %v", i, first.Confusion[k], confusion)
		}
	}
}

// A call that is cancelled ends: both requests would take hours, so that the
// work cannot end first on any machine. That a step under way is left too the
// engine's TestInterrupt shows, and how soon the conformance suite.
func TestCancel(t *testing.T) {
	path, digest, _, _ := writeDataset(t, 2, 256, 256)
	s := open(t, unet(t, 32), backend.Options{Threads: 1}, path, digest)

	training, cancel := context.WithCancel(ctx)
	defer cancel()
	steps := 0
	err := s.Train(training, backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{samples(0, 1)}, 1<<16), LearningRate: 1e-3}, func(backend.Step) error {
		steps++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || steps != 1 {
		t.Errorf("Train took %d steps, cancelled in the first: %v", steps, err)
	}

	evaluation, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := s.Evaluate(evaluation, backend.EvaluateRequest{Dataset: "d", Indices: make([]int, 1<<20)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Evaluate: %v", err)
	}

	// The session goes on.
	train(t, s, nil, samples(0))
}

// Batches that the network does not take are refused, and leave the session
// usable.
func TestBadBatches(t *testing.T) {
	path, digest, _, _ := writeDataset(t, 2, 32, 48)
	s := open(t, unet(t, 4), backend.Options{}, path, digest)
	for id, size := range map[string]int{"tiny": 16, "odd": 40} {
		path, digest, _, _ := writeDataset(t, 1, size, size)
		if err := s.LoadDataset(ctx, id, path, digest); err != nil {
			t.Fatal(err)
		}
	}
	before := state(t, s)
	for id, want := range map[string]string{"odd": "multiples of 16", "tiny": "has no variance"} {
		r := backend.TrainRequest{Batches: []backend.Batch{{{Dataset: id}}}, LearningRate: 1e-3}
		if err := s.Train(ctx, r, func(backend.Step) error { return nil }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", id, err, want)
		}
	}
	if !bytes.Equal(before, state(t, s)) {
		t.Error("a refused batch changed the state")
	}
	train(t, s, nil, samples(0))
}

// What the engines cannot do is refused when a session is opened, by name.
func TestOpenRefuses(t *testing.T) {
	edit := func(f func(g *nn.Graph)) *nn.Graph {
		g := unet(t, 4)
		f(g)
		return g
	}
	for _, c := range []struct {
		want string
		g    *nn.Graph
		o    backend.Options
	}{
		{`precision "float16"`, unet(t, 4), backend.Options{Precision: "float16"}},
		{`loss "mse"`, unet(t, 4), backend.Options{Loss: "mse"}},
		{`device "cuda:0"`, unet(t, 4), backend.Options{Device: "cuda:0"}},
		{`node "encoder.init.relu" (Gelu)`, edit(func(g *nn.Graph) { g.Nodes[2].Op = "Gelu" }), backend.Options{}},
		{`node "encoder.init.conv" (Conv): attribute "mystery"`, edit(func(g *nn.Graph) { g.Nodes[0].Attrs["mystery"] = int64(1) }), backend.Options{}},
		{`auto_pad "SAME_UPPER"`, edit(func(g *nn.Graph) { g.Nodes[0].Attrs["auto_pad"] = "SAME_UPPER" }), backend.Options{}},
	} {
		for _, engine := range []string{"", "plain", "fast"} {
			t.Setenv(EngineVariable, engine)
			s, err := New("test").Open(ctx, c.g, c.o)
			if err == nil {
				s.Close()
			}
			if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("engine %q: error %v, want one with %q that wraps ErrUnsupported", engine, err, c.want)
			}
		}
	}
}

// The engine follows from the graph and the precision, or is insisted on.
func TestEngineChoice(t *testing.T) {
	leaky := func() *nn.Graph {
		g := unet(t, 4)
		g.Nodes[2].Op = "LeakyRelu"
		return g
	}
	for _, c := range []struct {
		variable, precision string
		g                   *nn.Graph
		want                string // the engine's package, or the error
	}{
		{"", backend.Float32, unet(t, 4), "fast"},
		{"", backend.Mixed, unet(t, 4), "fast"},
		{"", backend.Float64, unet(t, 4), "plain"},
		{"", backend.Float32, leaky(), "plain"},
		{"plain", backend.Float32, unet(t, 4), "plain"},
		{"fast", backend.Float32, leaky(), `node "encoder.init.relu" (LeakyRelu)`},
		{"fast", backend.Float64, unet(t, 4), "has no float64"},
		{"quick", backend.Float32, unet(t, 4), "must be plain or fast"},
	} {
		t.Setenv(EngineVariable, c.variable)
		e, err := compile(c.g, engine.Options{Options: backend.Options{Precision: c.precision}.WithDefaults()})
		got := fmt.Sprint(err)
		if err == nil {
			got = fmt.Sprintf("%T", e)
			e.Close()
		}
		if !strings.Contains(got, c.want) {
			t.Errorf("%s=%s, %s: %s, want %s", EngineVariable, c.variable, c.precision, got, c.want)
		}
	}
}

// A description names the kernels, and other numerics where an engine is
// insisted on.
func TestDescribe(t *testing.T) {
	for variable, want := range map[string]string{"": numerics, "plain": numerics + "-plain"} {
		t.Setenv(EngineVariable, variable)
		d, err := New("v1").Describe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d.Numerics != want || d.Version != "v1" || len(d.Operators) < 8 {
			t.Errorf("%s=%s: %+v", EngineVariable, variable, d)
		}
	}
	t.Setenv(EngineVariable, "")
	t.Setenv("REFOCUS_ISA", "sse9")
	if _, err := New("v1").Describe(ctx); err == nil || !strings.Contains(err.Error(), "REFOCUS_ISA=sse9") {
		t.Errorf("an instruction set that does not exist: %v", err)
	}
}
