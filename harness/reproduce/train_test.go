package reproduce

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
	"github.com/refocus-em/refocus/harness/train"
)

// TestMain lets tests start this program as a plugin with devices that it loses.
func TestMain(m *testing.M) {
	fakebackend.Serve()
	os.Exit(m.Run())
}

const sha = "0000000000000000000000000000000000000000000000000000000000000000"

// small is two pretrainings with two transfers each, on blank images.
func small(t *testing.T) ([]*Node, map[string]train.Images) {
	t.Helper()
	b, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: []int{4, 1, 16, 16}, Data: make([]float32, 4*256)},
		{Name: "labels", Shape: []int{4, 16, 16}, Data: make([]uint8, 4*256)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "set.safetensors")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	files := map[string]train.Images{"x": {Train: dataset.Ready{Path: path, SHA256: sha}, Validation: dataset.Ready{Path: path, SHA256: sha}}}
	node := func(id string, parent *Node) *Node {
		n := &Node{Run: &study.Run{ID: id}, Parent: parent, Spec: train.Spec{
			Format: train.Format, Stage: study.PretrainRun, Network: nn.UNetOptions{Width: 4, Classes: 2},
			Loss: backend.LossOnProbabilities, Backend: train.Arithmetic{Name: "fake", Numerics: "fake-1", Precision: backend.Float32},
			Seed: 1, Stream: id,
			Data:       []train.Part{{Set: train.Set{Name: "x", Digest: "d", Images: 4}, Of: 4}},
			Validation: []train.Set{{Name: "x", Digest: "d", Images: 4}},
			Target:     "x", Epochs: 3, BatchSize: 8, Dihedral: true, LearningRate: 1e-3, Decay: 0.99,
		}}
		if parent != nil {
			n.Spec.Stage, n.Spec.Parent = study.TransferRun, parent.Digest
		}
		if n.Digest, err = n.Spec.Digest(); err != nil {
			t.Fatal(err)
		}
		return n
	}
	a, b2 := node("a", nil), node("b", nil)
	return []*Node{a, b2, node("a1", a), node("a2", a), node("b1", b2), node("b2", b2)}, files
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// options launches fake processes that fail as fault says.
func options(images map[string]train.Images, fault func(int64) error) TrainOptions {
	return TrainOptions{
		Launch: func(context.Context, io.Writer) (Process, error) { return &fakebackend.Backend{Fault: fault}, nil },
		Jobs:   2, Restarts: 2, Images: images,
	}
}

// results reads what the store holds of the nodes.
func results(t *testing.T, st *store.Store, nodes []*Node) [][]byte {
	t.Helper()
	var out [][]byte
	for _, n := range nodes {
		for _, f := range []string{store.WeightsFile, store.HistoryFile, store.LossesFile} {
			b, err := os.ReadFile(filepath.Join(st.RunDir(n.Digest), f))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, b)
		}
		if bad := st.Verify(n.Digest); len(bad) > 0 {
			t.Errorf("%s: %v", n.Run.ID, bad)
		}
	}
	return out
}

func equal(a, b [][]byte) bool {
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

func TestTrain(t *testing.T) {
	nodes, files := small(t)
	var want [][]byte
	for _, jobs := range []int{1, 2, 5} {
		st := openStore(t)
		o := options(files, nil)
		o.Jobs = jobs
		failures, _, err := Train(context.Background(), st, nodes, o)
		if err != nil || len(failures) > 0 {
			t.Fatal(err, failures)
		}
		got := results(t, st, nodes)
		if want == nil {
			want = got
		} else if !equal(got, want) {
			t.Errorf("%d jobs gave other results", jobs)
		}
		// A second call finds everything done.
		var told progresstest.Recorder
		o.Launch = func(context.Context, io.Writer) (Process, error) { return nil, errors.New("nothing should start") }
		o.Progress = &told
		o.Jobs = 1
		if failures, _, err := Train(context.Background(), st, nodes, o); err != nil || len(failures) > 0 || len(told.Phases) > 0 || len(told.Events) > 0 {
			t.Errorf("second call: %v, %v, told %+v", err, failures, &told)
		}
	}
}

// A backend that fails is started again and the run goes on with the same bits.
func TestRestart(t *testing.T) {
	nodes, files := small(t)
	clean := openStore(t)
	if _, _, err := Train(context.Background(), clean, nodes, options(files, nil)); err != nil {
		t.Fatal(err)
	}
	for name, cause := range map[string]error{
		"crash":    &backend.CrashError{Plugin: "fake", During: "Train", LastWords: []string{"help"}},
		"hang":     &backend.HangError{Plugin: "fake", During: "Train"},
		"nonsense": &backend.NonsenseError{Plugin: "fake", Method: "Train", What: "NaN"},
	} {
		st := openStore(t)
		var told progresstest.Recorder
		o := options(files, func(n int64) error {
			if n == 6 { // of every process, so each dies once in its second epoch or later
				return cause
			}
			return nil
		})
		o.Jobs = 1
		o.Restarts = 20
		o.Progress = &told
		failures, _, err := Train(context.Background(), st, nodes, o)
		if err != nil || len(failures) > 0 {
			t.Fatalf("%s: %v, %v", name, err, failures)
		}
		if len(told.Messages) == 0 || !strings.Contains(told.Messages[0], "restarting the backend") {
			t.Errorf("%s: nothing was restarted: told %q", name, told.Messages)
		}
		// Work that was lost and done again counts once.
		if p := told.Phases[0]; math.Abs(p.Done+p.Skipped-p.Total) > 1e-9 {
			t.Errorf("%s: told of %g and %g of %g units of work", name, p.Done, p.Skipped, p.Total)
		}
		if !equal(results(t, st, nodes), results(t, clean, nodes)) {
			t.Errorf("%s: restarted runs have other results", name)
		}
		m, err := st.Manifest(nodes[0].Digest)
		if err != nil || m.Restarts == 0 {
			t.Errorf("%s: the manifest counts %d restarts, %v", name, m.Restarts, err)
		}
	}
}

// A damaged checkpoint costs time and nothing else.
func TestDamagedCheckpoint(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	if failures, _, err := Train(context.Background(), st, nodes, options(files, nil)); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	want := results(t, st, nodes)

	st = openStore(t)
	claim, err := st.Claim(nodes[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := claim.SetCheckpoint([]byte("rubbish, long enough")); err != nil {
		t.Fatal(err)
	}
	claim.Release()
	o := options(files, nil)
	var told progresstest.Recorder
	o.Progress = &told
	aside := ""
	o.Jobs = 1
	o.Launch = func(context.Context, io.Writer) (Process, error) {
		return &fakebackend.Backend{Fault: func(n int64) error {
			if n > 1 {
				return nil
			}
			// The run goes on, and the damaged file is still there.
			kept, err := filepath.Glob(filepath.Join(st.Root(), "runs", ".work", nodes[0].Digest, "*", "damaged", "*"))
			if err != nil || len(kept) != 1 {
				t.Errorf("kept %v, %v", kept, err)
				return nil
			}
			aside = kept[0]
			if b, err := os.ReadFile(aside); err != nil || string(b) != "rubbish, long enough" {
				t.Errorf("%s: %q, %v", aside, b, err)
			}
			return nil
		}}, nil
	}
	if failures, _, err := Train(context.Background(), st, nodes, o); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	if len(told.Messages) != 1 || !strings.HasPrefix(told.Messages[0], "a: warning: its checkpoint is damaged") || !strings.Contains(told.Messages[0], aside) {
		t.Errorf("told %q, the damaged checkpoint was kept as %q", told.Messages, aside)
	}
	if !equal(results(t, st, nodes), want) {
		t.Error("beginning again gave other results")
	}
	left, err := filepath.Glob(filepath.Join(st.Root(), "runs", ".work", nodes[0].Digest, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A finished run that is no longer whole is made again, with a word.
func TestDamagedRun(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	if failures, _, err := Train(context.Background(), st, nodes, options(files, nil)); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	want := results(t, st, nodes)
	if err := errors.Join(
		os.Remove(filepath.Join(st.RunDir(nodes[0].Digest), store.ManifestFile)), // a pretraining
		os.Truncate(filepath.Join(st.RunDir(nodes[5].Digest), store.ManifestFile), 50),
	); err != nil {
		t.Fatal(err)
	}
	o := options(files, nil)
	var told progresstest.Recorder
	o.Progress = &told
	if failures, _, err := Train(context.Background(), st, nodes, o); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	if said := strings.Join(told.Messages, "\n"); strings.Count(said, "making the run again; what was there is kept as") != 2 {
		t.Errorf("told\n%s", said)
	}
	if !equal(results(t, st, nodes), want) {
		t.Error("made again, the runs have other results")
	}
}

// A run that fails for good takes its dependents with it, and no other.
func TestFailureIsContained(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	o := options(files, nil)
	var mu sync.Mutex
	attempts := 0
	o.Jobs = 1
	o.Launch = func(context.Context, io.Writer) (Process, error) {
		return &fakebackend.Backend{Fault: func(int64) error {
			mu.Lock()
			defer mu.Unlock()
			if state, _, err := st.State(nodes[0].Digest); err != nil {
				t.Error(err)
			} else if state == store.Running {
				attempts++
				return &backend.CrashError{Plugin: "fake", During: "Train", LastWords: []string{"out of memory"}}
			}
			return nil
		}}, nil
	}
	failures, _, err := Train(context.Background(), st, nodes, o)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, f := range failures {
		ids = append(ids, f.Node.Run.ID)
	}
	if got := strings.Join(ids, " "); got != "a a1 a2" {
		t.Errorf("failed runs %q, want a and its transfers", got)
	}
	if !strings.Contains(failures[0].Err.Error(), "out of memory") || !strings.Contains(failures[1].Err.Error(), "pretraining a failed") {
		t.Errorf("the failures do not say why: %v", failures)
	}
	if attempts != 3 {
		t.Errorf("%d attempts, want 1 and 2 restarts", attempts)
	}
	results(t, st, []*Node{nodes[1], nodes[4], nodes[5]})
}

// Two harnesses on one store share the work; each run is trained once.
func TestTwoHarnesses(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	var mu sync.Mutex
	trained := map[string]int{}
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			o := options(files, nil)
			o.Progress = &progresstest.Recorder{OnEvent: func(e progresstest.Event) {
				mu.Lock()
				defer mu.Unlock()
				trained[e.Fields["id"].(string)]++
			}}
			if failures, _, err := Train(context.Background(), st, nodes, o); err != nil || len(failures) > 0 {
				t.Error(err, failures)
			}
		}()
	}
	wg.Wait()
	if len(trained) != len(nodes) {
		t.Errorf("%d runs were trained, want %d", len(trained), len(nodes))
	}
	for id, n := range trained {
		if n != 1 {
			t.Errorf("%s was trained %d times", id, n)
		}
	}
	results(t, st, nodes)
}

func TestCancel(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	ctx, cancel := context.WithCancel(context.Background())
	o := options(files, func(n int64) error {
		if n == 7 {
			cancel()
		}
		return nil
	})
	if _, _, err := Train(ctx, st, nodes, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	// What was begun can be claimed again at once.
	o = options(files, nil)
	if failures, _, err := Train(context.Background(), st, nodes, o); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
}

// What one run cannot write ends that run. That the store has no room ends the work:
// no other run is begun. Too many failures in a row end it, too.
func TestUnusableStore(t *testing.T) {
	nodes, files := small(t)
	work := func(st *store.Store, name string) string { return filepath.Join(st.Root(), "runs", ".work", name) }
	run := func(breaker int, spoil func(st *store.Store)) (*store.Store, []Failure, error) {
		st := openStore(t)
		o := options(files, nil)
		o.Jobs, o.Breaker = 1, breaker
		o.Progress = &progresstest.Recorder{OnAdd: func(progresstest.Phase) { spoil(st) }}
		failures, _, err := Train(context.Background(), st, nodes, o)
		return st, failures, err
	}
	// Nothing can be written where no folder is.
	first := func(st *store.Store) { os.RemoveAll(work(st, nodes[0].Digest)) }
	every := func(st *store.Store) {
		for _, n := range nodes {
			os.RemoveAll(work(st, n.Digest))
		}
	}
	st, failures, err := run(0, first)
	if err != nil || len(failures) != 3 || !strings.Contains(failures[0].Err.Error(), "writing the checkpoint") {
		t.Errorf("one run's folder is gone: %v, %v", failures, err)
	}
	results(t, st, []*Node{nodes[1], nodes[4], nodes[5]})
	if a, err := st.Attempts(nodes[0].Digest); err != nil || len(a) != 1 || a[0].Outcome != store.OutcomeFailed || !strings.Contains(a[0].Error, "checkpoint") {
		t.Errorf("attempts %+v, %v", a, err)
	}
	_, failures, err = run(2, every)
	if err == nil || !strings.Contains(err.Error(), "2 runs in a row have failed") || !strings.Contains(err.Error(), "writing the checkpoint") {
		t.Errorf("%v, %v", failures, err)
	}
	if !noRoom(fmt.Errorf("a: %w", &storeError{fmt.Errorf("writing: %w", syscall.ENOSPC)})) || noRoom(syscall.ENOSPC) {
		t.Error("a full disk is not known")
	}
}

// A run that has failed as often as is allowed, in any process, is left alone until
// its failures are forgotten.
func TestMaxAttempts(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	broken := true
	var told progresstest.Recorder
	tries := 0
	again := func() ([]Failure, error) {
		o := options(files, func(int64) error {
			if broken {
				tries++
				return errors.New("a node has no kernel")
			}
			return nil
		})
		o.Jobs, o.MaxAttempts, o.Progress = 1, 2, &told
		failures, _, err := Train(context.Background(), st, nodes[:1], o)
		return failures, err
	}
	for i := range 4 {
		failures, err := again()
		if err != nil || len(failures) != 1 || tries != min(i+1, 2) {
			t.Errorf("attempt %d: %d tries, %v, %v", i+1, tries, failures, err)
		}
		var given *GivenUpError
		if errors.As(failures[0].Err, &given) != (i >= 2) || !strings.Contains(failures[0].Err.Error(), "no kernel") {
			t.Errorf("attempt %d: %v", i+1, failures[0].Err)
		}
		if state, a, err := st.State(nodes[0].Digest); state != store.Failed || a.Failures != tries || err != nil {
			t.Errorf("attempt %d: state %v, %+v, %v", i+1, state, a, err)
		}
	}
	failed := 0
	for _, e := range told.Events {
		if e.Name == "failure" && e.Fields["id"] == "a" && strings.Contains(e.Fields["error"].(string), "no kernel") {
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("told of %d failures: %v", failed, told.Events)
	}
	if had, err := st.Retry(nodes[0].Digest); !had || err != nil {
		t.Errorf("forgetting: %v, %v", had, err)
	}
	broken = false
	if failures, err := again(); err != nil || len(failures) > 0 {
		t.Error(failures, err)
	}
	if had, err := st.Retry(nodes[0].Digest); had || err != nil {
		t.Errorf("there is something to forget of a finished run: %v, %v", had, err)
	}
}

// A process leaves what others are working on, at once or when there is nothing that
// it could go on from, or stays to the end.
func TestWait(t *testing.T) {
	nodes, files := small(t)
	for wait, want := range map[Wait][2]string{ // claimed by another: a pretraining with its transfers, the last transfers
		WaitNever:   {"a a1 a2", "b1 b2"},
		WaitForWork: {"", "b1 b2"},
		WaitForAll:  {"", ""},
	} {
		for i, claimed := range [][]*Node{{nodes[0]}, {nodes[4], nodes[5]}} {
			st := openStore(t)
			var claims []*store.Claim
			for _, n := range claimed {
				c, err := st.Claim(n.Digest)
				if err != nil {
					t.Fatal(err)
				}
				claims = append(claims, c)
			}
			var free sync.Once
			release := func() {
				free.Do(func() {
					for _, c := range claims {
						c.Release()
					}
				})
			}
			o := options(files, nil)
			o.Wait = wait
			trained := 0
			o.Progress = &progresstest.Recorder{OnEvent: func(e progresstest.Event) {
				if e.Name == "run" {
					trained++
				}
				if trained == len(nodes)-len(claims)-2*(1-i) && want[i] == "" { // all that could be trained
					go release()
				}
			}}
			failures, elsewhere, err := Train(context.Background(), st, nodes, o)
			if err != nil || len(failures) > 0 || elsewhere != len(strings.Fields(want[i])) {
				t.Errorf("wait %d: %d left, want %q; %v, %v", wait, elsewhere, want[i], failures, err)
			}
			var left []string
			for _, n := range nodes {
				if !st.HasRun(n.Digest) {
					left = append(left, n.Run.ID)
				}
			}
			if got := strings.Join(left, " "); got != want[i] {
				t.Errorf("wait %d: left %q, want %q", wait, got, want[i])
			}
			release()
		}
	}
}

func TestReplacedBackendIsRefused(t *testing.T) {
	nodes, files := small(t)
	for _, n := range nodes {
		n.Spec.Backend.Numerics = "fake-0"
	}
	failures, _, err := Train(context.Background(), openStore(t), nodes[:1], options(files, nil))
	if err != nil || len(failures) != 1 || !strings.Contains(failures[0].Err.Error(), "replaced") {
		t.Errorf("%v, %v", err, failures)
	}
}

// The manifest's spec is the one that the digest hashes.
func TestManifestSpec(t *testing.T) {
	nodes, files := small(t)
	st := openStore(t)
	if _, _, err := Train(context.Background(), st, nodes[:1], options(files, nil)); err != nil {
		t.Fatal(err)
	}
	m, err := st.Manifest(nodes[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	var s train.Spec
	if err := json.Unmarshal(m.Spec, &s); err != nil {
		t.Fatal(err)
	}
	if d, _ := s.Digest(); d != nodes[0].Digest {
		t.Errorf("spec of the manifest hashes to %s: %s", d, fmt.Sprint(s))
	}
}

// While a run is trained, and after it has failed, its record tells how the training went:
// a loss for every step, the outcome of every epoch, as the history of the same run
// says them when nothing fails. A finished run leaves that to its history.
func TestRecordHasCurve(t *testing.T) {
	nodes, images := small(t)
	n := nodes[0]
	least := backend.LeastOnProbabilities
	clean := openStore(t)
	var told progresstest.Recorder
	o := options(images, nil)
	o.Progress = &told
	if failures, _, err := Train(context.Background(), clean, nodes[:1], o); err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	h, err := clean.History(n.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := clean.Last(n.Digest); err != nil || a.Curve != nil || a.Epochs != 3 || a.Target != "x" {
		t.Errorf("finished: %v, %+v", err, a)
	}
	if g := told.Gauges; len(g) < 2 || g[0].Name != "loss" || !(g[0].Value > 0) || !math.IsNaN(g[len(g)-1].Value) {
		t.Errorf("the meter was told of %v", g)
	}
	if v, want := told.Events[len(told.Events)-1].Fields["validation_loss"], h.Epochs[h.Best-1].Validation["x"].Loss-least; v != want {
		t.Errorf("the event has a loss of %v, not %v", v, want)
	}

	near := func(got, want float64) bool { return math.Abs(got-want) <= 1e-3*math.Abs(want) } // of four digits
	for stop := 1; stop <= n.Spec.Epochs*4; stop++ {
		st := openStore(t)
		fails := func(at int64) *store.Curve {
			t.Helper()
			_, _, err := Train(context.Background(), st, nodes[:1], options(images, func(step int64) error {
				if step == at {
					return errors.New("pulled the plug")
				}
				return nil
			}))
			if err != nil {
				t.Fatal(err)
			}
			a, err := st.Last(n.Digest)
			if err != nil || a.Outcome != store.OutcomeFailed {
				t.Fatalf("stopped at step %d: %v, %+v", stop, err, a)
			}
			if a.Curve == nil {
				return new(store.Curve)
			}
			return a.Curve
		}
		done := stop - 1
		validated := func(c *store.Curve) {
			t.Helper()
			if len(c.Validation) != done/4 {
				t.Fatalf("after %d steps there are %d epochs", done, len(c.Validation))
			}
			for e, v := range c.Validation {
				if want := h.Epochs[e].Validation["x"]; v[0] != float64(e+1) || !near(v[1], want.Loss-least) || !near(v[2], want.Dice) {
					t.Errorf("epoch %d: %v, the history says %+v", e+1, v, want)
				}
			}
		}
		c := fails(int64(stop))
		if len(c.Training) != done {
			t.Fatalf("after %d steps there is %v", done, c)
		}
		for e := range done / 4 {
			mean := 0.0
			for i, p := range c.Training[4*e:][:4] {
				mean += p[1] / 4
				if !near(p[0], float64(4*e+i+1)/4) {
					t.Errorf("step %d of epoch %d is at %v", i+1, e+1, p[0])
				}
			}
			if want := h.Epochs[e].TrainLoss - least; !near(mean, want) {
				t.Errorf("epoch %d: training loss %v, the history says %v", e+1, mean, want)
			}
		}
		validated(c)
		c = fails(1) // after what the checkpoint has
		if len(c.Training) != done/4 {
			t.Fatalf("going on after %d steps there is %v", done, c)
		}
		for e, p := range c.Training {
			if want := h.Epochs[e].TrainLoss - least; p[0] != float64(e+1) || !near(p[1], want) {
				t.Errorf("going on, epoch %d is %v, the history says %v", e+1, p, want)
			}
		}
		validated(c)
	}
}
