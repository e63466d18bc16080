package adapt

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
	"github.com/refocus-em/refocus/harness/trained"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// inProcess is the cpu backend without a process of its own.
type inProcess struct{ backend.Backend }

func (inProcess) Close() error { return nil }

// options runs on the cpu backend, into a folder.
func options(t *testing.T, dir string, st *store.Store, images string) Options {
	t.Helper()
	b := inProcess{cpu.New("test")}
	desc, err := b.Describe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return Options{
		Dir: dir, Store: st, Images: []string{images}, Backend: desc,
		Train:  reproduce.TrainOptions{Launch: func(context.Context) (reproduce.Process, error) { return b, nil }, Jobs: 1, Threads: 1},
		Export: trained.ExportOptions{Options: export.Options{Consumers: []consumer.Consumer{}, Bare: true}},
	}
}

func score(t *testing.T, e *predict.Evaluation) float64 {
	t.Helper()
	if e == nil || e.All.Dice.Value == nil {
		t.Fatalf("no score: %+v", e)
	}
	return *e.All.Dice.Value
}

// The whole way, twice: a network that knows nothing is trained for 10 nm of
// underfocus and a high dose, by saying so; then brought to micrographs of 20 nm of overfocus
// at a sixteenth of the dose, which it is not told. On the labels of these, which
// nothing was trained on, the adapted model is better by a margin.
func TestAdapt(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	st, err := store.Open(filepath.Join(dir, "store"))
	if err != nil {
		t.Fatal(err)
	}
	const defocus, dose = 200, 100
	images, labels := micrographs(t, dir, 12, hrtem.Conditions{Defocus: defocus, DefocusStd: 15, Dose: dose}, 1)

	first, err := Open(model(t, dir, testnet.Random(t, 4), nil), st.Root(), predict.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	under := -100.0
	o := options(t, filepath.Join(dir, "first"), st, images)
	o.Given = Given{PixelSize: pixel, Dose: 1600, Defocus: &under}
	o.Training = Training{Images: 32, Epochs: 4, LearningRate: 2e-3}
	e, err := first.Estimate(ctx, []string{images}, o.Given, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Run(ctx, e, o); err != nil {
		t.Fatal(err)
	}

	m, err := Open(filepath.Join(o.Dir, ModelFile), st.Root(), predict.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Trained == nil || m.Trained.Conditions.Dose != 1600 || math.Abs(m.Trained.Conditions.Defocus-under) > 2*leastApart || m.Trained.Config.Crystal != "w_CdSe" {
		t.Fatalf("the exported model says of its training %+v", m.Trained)
	}
	o = options(t, filepath.Join(dir, "adapted"), st, images)
	o.Given = Given{PixelSize: pixel}
	o.Training = Training{Images: 32, Epochs: 4, LearningRate: 2e-3}
	o.Labels = []string{labels}
	e, err = m.Estimate(ctx, []string{images}, o.Given, nil)
	if err != nil {
		t.Fatal(err)
	}
	// at this dose the side of focus may be left open; then both are simulated
	if e.Defocus == nil || e.Dose == nil || math.Abs(e.Dose.Value-dose) > 5 || len(e.Warnings) != 2 ||
		math.Abs(e.Defocus.Value-defocus) > 30 && (e.OtherSide == nil || math.Abs(e.OtherSide.Value-defocus) > 30) {
		t.Fatalf("estimated %s", strings.Join(e.Lines(), "\n"))
	}
	r, err := m.Run(ctx, e, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", strings.Join(append(e.Lines(), r.Lines()...), "\n"))
	before, after := score(t, r.LabelledBefore), score(t, r.LabelledAfter)
	// twelve images of which the first model knows neither focus nor noise
	if after < before+0.1 || after < 0.6 {
		t.Errorf("Dice on the labels %.3f before and %.3f after", before, after)
	}
	if r.After < r.Before+0.1 {
		t.Errorf("Dice on simulated images %.3f before and %.3f after", r.Before, r.After)
	}
	if len(r.Written) != 1 || r.Written[0].Certificate == nil {
		t.Errorf("exported %+v", r.Written)
	}

	// again: everything is there, and the same
	again, err := m.Run(ctx, e, o)
	if err != nil {
		t.Fatal(err)
	}
	if again.Model.Digest != r.Model.Digest || again.After != r.After || again.Before != r.Before {
		t.Errorf("a second time: run %.12s with Dice %v, then %.12s with %v", r.Model.Digest, r.After, again.Model.Digest, again.After)
	}
	// the spec by itself gives the same run
	spec := filepath.Join(o.Dir, SpecFile)
	p, err := study.Load(spec, "")
	if err != nil {
		t.Fatal(err)
	}
	resolved, err := reproduce.Resolve(ctx, st, p, o.Backend)
	if err != nil {
		t.Fatal(err)
	}
	if len(resolved.Nodes) != 1 || resolved.Nodes[0].Digest != r.Model.Digest {
		t.Errorf("the spec has %d runs, the first %.12s; adapted was %.12s", len(resolved.Nodes), resolved.Nodes[0].Digest, r.Model.Digest)
	}
	// what a person has written there stays
	text, err := os.ReadFile(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(spec, append(text, "# mine\n"...), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Run(ctx, e, o); err == nil || !strings.Contains(err.Error(), "another folder") {
		t.Errorf("a spec that was changed is overwritten, or: %v", err)
	}
	if err := os.WriteFile(spec, text, 0o666); err != nil {
		t.Fatal(err)
	}
	other := *m // another network under the same spec
	s := *m.Segmenter
	s.Graph = s.Graph.Clone()
	s.Graph.Parameters()[0].Data[0]++
	other.Segmenter = &s
	if _, err := other.Run(ctx, e, o); err == nil || !strings.Contains(err.Error(), StartFile) {
		t.Errorf("the network of another adaptation is overwritten, or: %v", err)
	}
}
