package plugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// Every method of a session passes through a real process and keeps every bit.
func TestRoundTrip(t *testing.T) {
	ctx := t.Context()
	c := launch(t, "fine")
	d, err := c.Describe(ctx)
	if err != nil || d.Name != "fake" || d.Version != "1.2.3" || d.Devices[0].Info != "imaginary" || d.Operators[0].Type != "Conv" || d.Notes[0] != "answers are made up" {
		t.Fatalf("description %+v, %v", d, err)
	}
	s := open(t, c, 100)

	batches := []backend.Batch{{{Dataset: "a", Index: 3, Dihedral: 1}, {Dataset: "a", Index: 99, Dihedral: 7}}, {{Dataset: "a"}}, {{Dataset: "a", Index: 7, Dihedral: 5}, {Dataset: "a", Index: 8}, {Dataset: "a", Index: 9, Dihedral: 2}}}
	var losses []float64
	err = s.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: 0.5}, func(p backend.Step) error {
		losses = append(losses, p.Loss)
		return nil
	})
	if want := []float64{51401, 1.5, 12352}; err != nil || !slices.Equal(losses, want) {
		t.Errorf("losses %v, %v, want %v", losses, err, want)
	}

	e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "a"})
	if err != nil || len(e.Loss) != 100 || e.Loss[77] != 78 || e.Confusion[99][1] != 99 || e.Classes != 2 {
		t.Errorf("evaluation of everything: %d losses, %v", len(e.Loss), err)
	}
	e, err = s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "a", Indices: []int{5, 2}})
	if err != nil || !slices.Equal(e.Loss, []float64{6, 3}) {
		t.Errorf("evaluation of two: %v, %v", e.Loss, err)
	}

	images := zeros([]int{1, 1, 1024, 1040}) // more than gRPC's usual 4 MiB
	for i := range images.F32 {
		images.F32[i] = float32(i) / 3
	}
	out, err := s.Predict(ctx, images)
	if err != nil || !slices.Equal(out.Shape, []int{1, 2, 1024, 1040}) || !slices.Equal(out.F32[:1024*1040], images.F32) {
		t.Errorf("prediction of shape %v, %v", out.Shape, err)
	}

	if _, ts, err := s.Gradients(ctx, batches[0], []string{"encoder"}); err != nil || !strings.HasPrefix(ts[0].Name, "decoder.") {
		t.Errorf("gradients: %v", err)
	}
	ts, err := s.Activations(ctx, batches[0], []string{"probabilities", "encoder.init.pool"}, true)
	if err != nil || !slices.Equal(ts[1].Shape, []int{2, 2, 8, 16}) {
		t.Errorf("activations: %v", err)
	}

	state, err := s.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SetState(ctx, state); err != nil {
		t.Fatal(err)
	}
	if again, err := s.State(ctx); err != nil || string(again) != string(state) {
		t.Errorf("the state changed on its way, %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.State(ctx); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("a closed session answered: %v", err)
	}
}

// Errors of a backend keep their text and their class.
func TestErrors(t *testing.T) {
	ctx := t.Context()
	c := launch(t, "refuses")
	_, err := c.Open(ctx, network(), backend.Options{})
	if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), `node "encoder.init.relu" (Relu): group 3`) {
		t.Errorf("refusal became %v", err)
	}
	s := open(t, launch(t, "fine"), 4)
	err = s.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{{{Dataset: "nope"}}}}, func(backend.Step) error { return nil })
	if err == nil || errors.Is(err, backend.ErrUnsupported) || err.Error() != `batch 0: dataset "nope" was not loaded` {
		t.Errorf("error became %v", err)
	}
	mine := errors.New("mine")
	err = s.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{{{Dataset: "a"}}, {{Dataset: "a"}}}}, func(backend.Step) error { return mine })
	if err != mine {
		t.Errorf("progress failed with %v", err)
	}
	if _, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: "a", Indices: []int{-1}}); err == nil {
		t.Error("index -1 was sent")
	}
	if _, err := s.State(ctx); err != nil {
		t.Errorf("after errors: %v", err)
	}
	_, err = launch(t, "huge error").Open(ctx, network(), backend.Options{})
	if err == nil || !strings.HasPrefix(err.Error(), "start xxx") {
		t.Errorf("a huge error became %.100v", err)
	}
}

// A node that the plugin's reader of networks does not know is refused like one
// that the backend does not know.
func TestUnknownNode(t *testing.T) {
	c := launch(t, "fine")
	for what, change := range map[string]func(*nn.Node){
		"Wavelet":  func(n *nn.Node) { n.Op = "Wavelet" },
		"wobbling": func(n *nn.Node) { n.Attrs = nn.Attrs{"wobbling": int64(1)} },
	} {
		g := network()
		n := g.Nodes[slices.IndexFunc(g.Nodes, func(n *nn.Node) bool { return n.Op == "Relu" })]
		change(n)
		_, err := c.Open(t.Context(), g, backend.Options{})
		if !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), n.Name) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A refusal is known as one after every method, however deep it was wrapped.
func TestUnsupported(t *testing.T) {
	s := open(t, launch(t, "refuses later"), 4)
	for method, err := range map[string]error{
		"Train":       s.Train(t.Context(), backend.TrainRequest{Batches: []backend.Batch{{{Dataset: "a"}}}}, keep),
		"Evaluate":    evaluate(s),
		"Predict":     predict(s),
		"State":       state(s),
		"SetState":    s.SetState(t.Context(), nil),
		"Gradients":   gradients(s),
		"Activations": activations(s),
	} {
		if !errors.Is(err, backend.ErrUnsupported) || err.Error() != errLater.Error() {
			t.Errorf("%s: the refusal became %v", method, err)
		}
	}
}

// A cancelled method ends, here and in the plugin, where it would never end by
// itself.
func TestCancel(t *testing.T) {
	s := open(t, launch(t, "waits"), 4)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := s.Train(ctx, backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 1000)}, func(backend.Step) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 3 {
		t.Errorf("%d steps, %v", n, err)
	}
	// The session would refuse to close were it still busy.
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func TestCrash(t *testing.T) {
	for _, c := range []struct{ behaviour, exit, words string }{
		{"crashes", "exit status 2", "error: out of imaginary memory wanted=12|panic: this is the end"},
		{"exits", "exit status 3", "warn: I have had enough"},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			s := open(t, launch(t, c.behaviour), 4)
			n := 0
			err := s.Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 9)}, func(backend.Step) error { n++; return nil })
			var crash *backend.CrashError
			if !errors.As(err, &crash) {
				t.Fatalf("got %v", err)
			}
			if crash.During != "Train" || crash.Exit != c.exit || n > 2 {
				t.Errorf("%d steps, then %+v", n, crash)
			}
			for w := range strings.SplitSeq(c.words, "|") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q among the last words:\n%v", w, err)
				}
			}
			if _, err := s.State(t.Context()); !errors.As(err, &crash) {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

// The end of a process whose device is lost is no crash, whichever language it is
// written in.
func TestDeviceLost(t *testing.T) {
	s := open(t, launch(t, "loses its device"), 4)
	err := s.Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 9)}, keep)
	var lost *backend.DeviceLostError
	if !errors.As(err, &lost) || !errors.Is(err, backend.ErrDeviceLost) || lost.During != "Train" {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "kernel 7") {
		t.Errorf("the error does not say why: %v", err)
	}
	if _, err := s.State(t.Context()); !errors.Is(err, backend.ErrDeviceLost) {
		t.Errorf("afterwards: %v", err)
	}
	if _, err := launchContext(t.Context(), t, "loses its device at once"); !errors.As(err, &lost) || lost.During != "start" {
		t.Errorf("at the start: %v", err)
	}
}

// What a device says about itself arrives, and a backend that cannot tell the memory
// of a session says so.
func TestDevices(t *testing.T) {
	c := launch(t, "well")
	got, err := c.Describe(t.Context())
	want, _ := (&fake{}).Describe(t.Context())
	if err != nil || !slices.Equal(got.Devices, want.Devices) {
		t.Errorf("%+v, %v; want %+v", got.Devices, err, want.Devices)
	}
	if n, err := c.Memory(t.Context(), network(), backend.Options{}, backend.MemoryRequest{Batch: 1, Height: 16, Width: 16}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("a session takes %d bytes, %v", n, err)
	}
}

// A plugin's log lines keep level, message and fields; what it prints is kept
// for its last words.
func TestLog(t *testing.T) {
	var log lockedBuffer
	c := launch(t, "exits", func(s *Spec) {
		s.Logger = hclog.New(&hclog.LoggerOptions{Name: "refocus", Output: &log, JSONFormat: true, Level: hclog.Warn})
	})
	open(t, c, 4).Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 9)}, keep)
	c.Close()
	var line struct {
		Level   string `json:"@level"`
		Module  string `json:"@module"`
		Message string `json:"@message"`
	}
	if err := json.Unmarshal(log.Bytes(), &line); err != nil || line.Level != "warn" || line.Module != "refocus.fake" || line.Message != "I have had enough" {
		t.Errorf("logged %s, %v", log.Bytes(), err)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

func TestRing(t *testing.T) {
	var r ring
	for i := range 100 {
		fmt.Fprintf(&r, "line %d\r\n", i)
	}
	io.WriteString(&r, strings.Repeat("x", 3*ringWidth)+"\n\n")
	io.WriteString(&r, `{"@level":"info","@message":"hello","b":2,"a":"x\u001b[31m"}`+"\n\x1b[1mpart")
	l := r.Lines()
	if len(l) != ringLines+1 || l[0] != "line 62" || len(l[ringLines-2]) != ringWidth ||
		l[ringLines-1] != "info: hello a=x\\x1b[31m b=2" || l[ringLines] != "\\x1b[1mpart" {
		t.Errorf("kept %d lines: %q", len(l), l)
	}
}

func TestHang(t *testing.T) {
	c := launch(t, "stalls", func(s *Spec) { s.StallTimeout = 3 * time.Second })
	s := open(t, c, 4)
	err := s.Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 9)}, func(backend.Step) error { return nil })
	var hang *backend.HangError
	if !errors.As(err, &hang) || hang.During != "Train" {
		t.Errorf("got %v", err)
	}
	<-c.Done() // it has been killed
}

func TestNonsense(t *testing.T) {
	ctx := t.Context()
	batches := slices.Repeat([]backend.Batch{{{Dataset: "a", Index: 1}}}, 5)
	for behaviour, c := range map[string]struct {
		ask   func(backend.Session) error
		where string
	}{
		"NaN loss":            {func(s backend.Session) error { return s.Train(ctx, backend.TrainRequest{Batches: batches}, keep) }, "loss of batch 2 is NaN"},
		"low loss":            {func(s backend.Session) error { return s.Train(ctx, backend.TrainRequest{Batches: batches}, keep) }, "loss of batch 2 is 0.3, below 0.313262"},
		"low evaluation":      {evaluate, "loss of sample 1 is 0.3, below 0.313262"},
		"skips a batch":       {func(s backend.Session) error { return s.Train(ctx, backend.TrainRequest{Batches: batches}, keep) }, "batch 3 after 2 of 5"},
		"stops early":         {func(s backend.Session) error { return s.Train(ctx, backend.TrainRequest{Batches: batches}, keep) }, "2 of 5 batches"},
		"loses pixels":        {evaluate, "sample 1 has 4 entries and counts 511 pixels"},
		"short evaluation":    {evaluate, "3 losses"},
		"infinite prediction": {predict, "element 1 of [1 2 16 16] is +Inf"},
		"flat prediction":     {predict, "has shape [512], must be [1 2 16 16]"},
		"thawed gradient":     {gradients, "tensors, must be"},
		"wrong activation":    {activations, `"encoder.init.pool" has shape [1], must be [1 2 8 16]`},
		"incomplete state":    {state, `tensor "encoder.init.conv.weight" is missing`},
		"truncated state":     {state, "truncated"},
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			err := c.ask(open(t, launch(t, behaviour), 4))
			var n *backend.NonsenseError
			if !errors.As(err, &n) || !strings.Contains(err.Error(), c.where) {
				t.Errorf("got %v, want it to say %q", err, c.where)
			}
		})
	}
	_, err := launchContext(t.Context(), t, "no numerics")
	var n *backend.NonsenseError
	if !errors.As(err, &n) {
		t.Errorf("a description without numerics: %v", err)
	}
}

func keep(backend.Step) error { return nil }

func evaluate(s backend.Session) error {
	_, err := s.Evaluate(context.Background(), backend.EvaluateRequest{Dataset: "a"})
	return err
}

func gradients(s backend.Session) error {
	_, _, err := s.Gradients(context.Background(), backend.Batch{{Dataset: "a"}}, []string{"encoder"})
	return err
}

func activations(s backend.Session) error {
	_, err := s.Activations(context.Background(), backend.Batch{{Dataset: "a"}}, []string{"encoder.init.pool"}, false)
	return err
}

func predict(s backend.Session) error {
	_, err := s.Predict(context.Background(), zeros([]int{1, 1, 16, 16}))
	return err
}

func state(s backend.Session) error {
	_, err := s.State(context.Background())
	return err
}

func TestLaunchErrors(t *testing.T) {
	for _, c := range []struct{ behaviour, want string }{
		{"version 7", "speaks version 7 of the backend protocol, the harness that started it version 1: update the harness"},
		{"version 0 of another language", "speaks version 0 of the backend protocol, this harness version 1: update the plugin"},
		{"no plugin", "is no backend plugin"},
		{"dies at once", "exit status 127); its last words:\n\tlibnothing.so.1"},
		{"no TLS", "ended during Describe (the connection broke: "},
		{"never speaks", "hung: nothing came from start"},
	} {
		t.Run(c.behaviour, func(t *testing.T) {
			t.Parallel()
			_, err := launchContext(t.Context(), t, c.behaviour, func(s *Spec) {
				if c.behaviour == "never speaks" {
					s.StartTimeout = time.Second
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want it to say %q", err, c.want)
			}
		})
	}
	_, err := launchContext(t.Context(), t, "fine", func(s *Spec) { s.Name = "other" })
	if err == nil || !strings.Contains(err.Error(), `calls itself backend "fake", not "other"`) {
		t.Errorf("a wrong name: %v", err)
	}
	_, err = launchContext(t.Context(), t, "fine", func(s *Spec) { s.SHA256 = strings.Repeat("0", 64) })
	if err == nil || !strings.Contains(err.Error(), "the file has changed") {
		t.Errorf("a changed file: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	// Its own time is a minute.
	_, err = launchContext(ctx, t, "never speaks")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a start that was given up: %v", err)
	}
}
