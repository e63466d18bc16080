package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// servesPlugin makes the test binary a plugin: the CPU backend.
const servesPlugin = "REFOCUS_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(servesPlugin) != "" {
		plugin.Serve(cpu.New("test"))
		return
	}
	os.Exit(m.Run())
}

// The CPU backend conforms, through a real process.
func TestCPU(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c, err := plugin.Launch(t.Context(), plugin.Spec{Name: "cpu", Path: exe, Env: []string{servesPlugin + "=1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	Test(t, c, Options{})
}

// The reference's gradients are the slopes of its loss, for both losses.
func TestReferenceGradients(t *testing.T) {
	for _, loss := range []string{backend.LossOnProbabilities, backend.LossOnLogits} {
		g := unet(2)
		rnd := random.Stream(1, "test")
		images, labels := make([]float32, 2*32*48), make([]uint8, 2*32*48)
		for i := range labels {
			images[i] = float32(rnd.NormFloat64())
			labels[i] = uint8(rnd.IntN(2))
		}
		x := backend.Tensor{Shape: []int{2, 1, 32, 48}, F32: images}
		if _, err := Separate(g, x); err != nil {
			t.Fatal(err)
		}
		r := reference.New(g, loss)
		pixels := &reference.Array{Shape: x.Shape, Data: x.Float64s()}
		_, p, err := r.Gradients(pixels, labels)
		if err != nil {
			t.Fatal(err)
		}
		slope := func(w []float64, i int) float64 {
			at := w[i]
			defer func() { w[i] = at }()
			const h = 1e-7
			var l [2]float64
			for k := range l {
				w[i] = at + h*float64(1-2*k)
				p, err := r.Forward(pixels, true)
				if err != nil {
					t.Fatal(err)
				}
				l[k], _ = r.LossOf(p, labels, false)
			}
			return (l[0] - l[1]) / (2 * h)
		}
		for k, x := range g.Parameters() {
			if k%8 != 0 && k < 44 { // some of the many of a kind
				continue
			}
			i := rnd.IntN(x.Len())
			// Central differences are off by rounding over h; no ReLU switches
			// within h.
			if got, want := p.Gradient(x.Name).Data[i], slope(r.Values[x.Name].Data, i); math.Abs(got-want) > 1e-4*math.Abs(want)+1e-7 {
				t.Errorf("%s: gradient of %s[%d] is %g, the slope %g", loss, x.Name, i, got, want)
			}
		}
	}
}

// faulty is the CPU backend with one fault.
type faulty struct {
	backend.Backend
	graph   func(*nn.Graph) *nn.Graph
	options func(*backend.Options)
	refuse  func(error) error
	session func(backend.Session) backend.Session
}

func (f *faulty) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	if f.graph != nil {
		g = f.graph(g.Clone())
	}
	if f.options != nil {
		f.options(&o)
	}
	s, err := f.Backend.Open(ctx, g, o)
	if err != nil {
		if f.refuse != nil {
			err = f.refuse(err)
		}
		return nil, err
	}
	if f.session != nil {
		s = f.session(s)
	}
	return s, nil
}

// ownErrors is a backend whose refusals are right but for their class.
var ownErrors = &faulty{refuse: func(err error) error { return errors.New(err.Error()) }}

// hooked is a session with some methods replaced.
type hooked struct {
	backend.Session
	train     func(context.Context, backend.TrainRequest, func(backend.Step) error) error
	evaluate  func(context.Context, backend.EvaluateRequest) (backend.Evaluation, error)
	gradients func(context.Context, backend.Batch, []string) (float64, []backend.NamedTensor, error)
	setState  func(context.Context, []byte) error
	close     func() error
}

func (h *hooked) Train(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
	if h.train != nil {
		return h.train(ctx, r, p)
	}
	return h.Session.Train(ctx, r, p)
}

func (h *hooked) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	if h.evaluate != nil {
		return h.evaluate(ctx, r)
	}
	return h.Session.Evaluate(ctx, r)
}

func (h *hooked) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	if h.gradients != nil {
		return h.gradients(ctx, b, frozen)
	}
	return h.Session.Gradients(ctx, b, frozen)
}

func (h *hooked) SetState(ctx context.Context, state []byte) error {
	if h.setState != nil {
		return h.setState(ctx, state)
	}
	return h.Session.SetState(ctx, state)
}

func (h *hooked) Close() error {
	if h.close != nil {
		return h.close()
	}
	return h.Session.Close()
}

// attribute changes an attribute of all nodes of a type.
func attribute(op, name string, value any) func(*nn.Graph) *nn.Graph {
	return func(g *nn.Graph) *nn.Graph {
		for _, n := range g.Nodes {
			if n.Op == op {
				n.Attrs[name] = value
			}
		}
		return g
	}
}

// Each fault makes the check fail that is there for it, with words that lead
// to the fault.
func TestFaults(t *testing.T) {
	session := func(f func(s backend.Session, h *hooked)) *faulty {
		return &faulty{session: func(s backend.Session) backend.Session {
			h := &hooked{Session: s}
			f(s, h)
			return h
		}}
	}
	for name, c := range map[string]struct {
		fault       *faulty
		check, says string
	}{
		"flipped kernels": {&faulty{graph: func(g *nn.Graph) *nn.Graph {
			for _, n := range g.Nodes {
				if n.Op == "Conv" {
					w := g.Tensor(n.Inputs[1])
					k := w.Shape[2] * w.Shape[3]
					for i := 0; i < len(w.Data); i += k {
						for a, b := i, i+k-1; a < b; a, b = a+1, b-1 {
							w.Data[a], w.Data[b] = w.Data[b], w.Data[a]
						}
					}
				}
			}
			return g
		}}, "operator/Conv 3×3", `Predict`},
		"wrong ε in the normalisation": {&faulty{graph: attribute("BatchNormalization", "epsilon", float32(2e-2))}, "operator/BatchNormalization", "Predict"},
		"wrong momentum":               {&faulty{graph: attribute("BatchNormalization", "momentum", float32(0.8))}, "train/adam and statistics", "running_mean"},
		"the other loss":               {&faulty{options: func(o *backend.Options) { o.Loss = backend.LossOnLogits }}, "network/float32/width 2, 4×32×32", "loss"},
		"its own Adam":                 {&faulty{options: func(o *backend.Options) { o.Adam = backend.DefaultAdam }}, "train/adam and statistics", "after step 1"},
		"single precision for double": {&faulty{options: func(o *backend.Options) { o.Precision = backend.Float32 }},
			"network/float64/width 4, 3×32×48", "Predict"},
		"a refusal without a name":                          {&faulty{refuse: func(error) error { return fmt.Errorf("no: %w", backend.ErrUnsupported) }}, "refuse/operator", "names not both"},
		"a refusal of the operator by an error of its own":  {ownErrors, "refuse/operator", "does not wrap backend.ErrUnsupported"},
		"a refusal of the attribute by an error of its own": {ownErrors, "refuse/attribute", "does not wrap backend.ErrUnsupported"},
		"a refusal of the options by an error of its own":   {ownErrors, "refuse/options", "precision int3 was refused by an error that does not wrap"},
		"attributes that it does not know passed over": {&faulty{graph: func(g *nn.Graph) *nn.Graph {
			for _, n := range g.Nodes {
				delete(n.Attrs, "slant")
			}
			return g
		}}, "refuse/attribute", "was accepted"},
		"symmetries ignored": {session(func(s backend.Session, h *hooked) {
			h.gradients = func(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
				b = append(backend.Batch(nil), b...)
				for i := range b {
					b[i].Dihedral = 0
				}
				return s.Gradients(ctx, b, frozen)
			}
		}), "dihedral", "loss under symmetry"},
		"freezing ignored": {session(func(s backend.Session, h *hooked) {
			h.train = func(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
				r.Frozen = nil
				return s.Train(ctx, r, p)
			}
		}), "train/frozen encoder", "the frozen"},
		"deaf to cancelling": {session(func(s backend.Session, h *hooked) {
			h.train = func(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
				err := s.Train(ctx, r, p)
				time.Sleep(1100 * time.Millisecond)
				return err
			}
		}), "train/cancel", "allowed is a second"},
		"gradients that train": {session(func(s backend.Session, h *hooked) {
			h.gradients = func(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
				loss, g, err := s.Gradients(ctx, b, frozen)
				if err == nil {
					err = s.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{b}}, func(backend.Step) error { return nil })
				}
				return loss, g, err
			}
		}), "questions change nothing", "Gradients changes"},
		"evaluation that depends on the batch": {session(func(s backend.Session, h *hooked) {
			h.evaluate = func(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
				e, err := s.Evaluate(ctx, r)
				if r.BatchSize == 3 {
					e.Loss[1] = math.Nextafter(e.Loss[1], 9)
				}
				return e, err
			}
		}), "evaluate", "batch size 3"},
		"damaged states taken": {session(func(s backend.Session, h *hooked) {
			h.setState = func(ctx context.Context, state []byte) error {
				s.SetState(ctx, state)
				return nil
			}
		}), "state/damaged", "was accepted"},
		"moments kept": {session(func(s backend.Session, h *hooked) {
			h.setState = func(ctx context.Context, state []byte) error {
				if bytes.Contains(state, []byte("adam.")) {
					return s.SetState(ctx, state)
				}
				return nil
			}
		}), "state/without moments", "weights alone"},
		"any learning rate": {session(func(s backend.Session, h *hooked) {
			h.train = func(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
				if math.IsNaN(r.LearningRate) {
					r.LearningRate = 0
				}
				return s.Train(ctx, r, p)
			}
		}), "refuse/requests", "learning rate NaN was accepted"},
		"chance": {session(func(s backend.Session, h *hooked) {
			h.train = func(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
				return s.Train(ctx, r, func(step backend.Step) error {
					step.Loss *= 1 + 1e-12*float64(time.Now().UnixNano()%1e6)
					return p(step)
				})
			}
		}), "determinism/runs", "losses"},
		"a call of Train that is more than its steps": {session(func(s backend.Session, h *hooked) {
			h.train = func(ctx context.Context, r backend.TrainRequest, p func(backend.Step) error) error {
				r.LearningRate /= float64(len(r.Batches))
				return s.Train(ctx, r, p)
			}
		}), "train/in parts", "training in several calls"},
		"sessions that stay open": {session(func(s backend.Session, h *hooked) {
			h.close = func() error { return nil }
		}), "sessions/many", "closed session was accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			c.fault.Backend = cpu.New("test")
			r := Run(t.Context(), c.fault, Options{Only: c.check})
			got := r.Results[slices.IndexFunc(r.Results, func(x Result) bool { return x.Name == c.check })]
			if got.Outcome != Failed || !strings.Contains(got.Detail, c.says) {
				t.Errorf("the suite says: %s", got)
			}
			if r.OK() {
				t.Error("and the report is good")
			}
		})
	}
}

func TestReport(t *testing.T) {
	var r Report
	if r.OK() {
		t.Error("a report without results is good")
	}
	r.Description.Name, r.Description.Version = "x", "2"
	r.Results = []Result{{"one", Passed, "", 0}, {"two", NotOffered, "precision float64", 0}}
	if !r.OK() || r.Verdict() != "backend x 2 conforms: 1 passed, 0 failed, 1 not offered" {
		t.Error(r.Verdict())
	}
	r.Results = append(r.Results, Result{"three", Failed, "first\nsecond", 0})
	var b strings.Builder
	r.Print(&b)
	if r.OK() || !strings.Contains(b.String(), "does not conform: 1 passed, 1 failed") || !strings.Contains(b.String(), "FAIL         three") {
		t.Error(b.String())
	}
}

// A backend that is lost is restarted for the next check. Without that every later
// check says that there was none.
func TestLost(t *testing.T) {
	crash := &backend.CrashError{Plugin: "cpu", During: "Train"}
	f := &faulty{Backend: cpu.New("test"), session: func(s backend.Session) backend.Session {
		return &hooked{Session: s, train: func(context.Context, backend.TrainRequest, func(backend.Step) error) error { return crash }}
	}}
	r := Run(t.Context(), f, Options{Only: "sessions/"})
	if n := len(r.Results); n != 3 || r.Count(Failed) != 2 || !strings.Contains(r.Results[2].Detail, "the backend was lost") {
		t.Errorf("the suite says: %v", r.Results)
	}
	restarts := 0
	r = Run(t.Context(), f, Options{Only: "sessions/", Restart: func(context.Context) (backend.Backend, error) {
		restarts++
		return cpu.New("test"), nil
	}})
	if restarts != 1 || r.Results[1].Outcome != Failed || r.Results[2].Outcome != Passed {
		t.Errorf("after %d restarts the suite says: %v", restarts, r.Results)
	}
	r = Run(t.Context(), f, Options{Only: "sessions/", Restart: func(context.Context) (backend.Backend, error) {
		restarts++
		return nil, crash
	}})
	if restarts != 2 || r.Count(Failed) != 2 || !strings.Contains(r.Results[2].Detail, "the backend was lost") {
		t.Errorf("after %d restarts the suite says: %v", restarts, r.Results)
	}
}
