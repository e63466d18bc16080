package trained

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
	"github.com/refocus-em/refocus/plugins/cpu"
)

const spec = "../testdata/tiny.toml"

// history reads a run's history without the code under test.
func history(t *testing.T, r *reproduce.Resolved, digest string) (h struct {
	Best   int
	Epochs []struct {
		Validation map[string]struct{ Loss, Dice float64 }
	}
}) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.Store.RunDir(digest), "history.json"))
	if err == nil {
		err = json.Unmarshal(b, &h)
	}
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// All look at one reproduced study, and leave it as they found it.
func TestTrained(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	for name, test := range map[string]func(*testing.T, *reproduce.Resolved){
		"best": testBest, "find": testFind, "damaged": testOpenDamaged,
		"results": testResults, "export": testExport, "predictions": testPredictions,
	} {
		t.Run(name, func(t *testing.T) { test(t, r) })
	}
}

// without takes a folder away for as long as do lasts.
func without(t *testing.T, dir string, do func()) {
	t.Helper()
	away := filepath.Join(t.TempDir(), "away")
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	do()
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
}

func best(t *testing.T, r *reproduce.Resolved) *Model {
	t.Helper()
	m, err := Best(r.Store, r.Nodes, "")
	if err != nil || m == nil {
		t.Fatal(m, err)
	}
	return m
}

func testBest(t *testing.T, r *reproduce.Resolved) {
	m := best(t, r)
	lowest, digest := math.Inf(1), ""
	for _, n := range r.Nodes {
		if strings.HasPrefix(n.Run.ID, "pretrain") {
			continue
		}
		for _, e := range history(t, r, n.Digest).Epochs {
			if l := e.Validation[n.Run.Target.Key].Loss; l < lowest {
				lowest, digest = l, n.Digest
			}
		}
	}
	// The minimum of cross entropy on probabilities of two classes.
	if want := lowest - math.Log(1+math.Exp(-1)); m.Digest != digest || math.Abs(m.Loss()-want) > 1e-12 {
		t.Errorf("%s with loss %v, want %s with %v", m.Digest, m.Loss(), digest, want)
	}
	if want := fmt.Sprintf("%s, validation loss %.4g above its minimum on %s", m.Manifest.ID, m.Loss(), m.Spec.Target); m.String() != want {
		t.Errorf("%q, want %q", m, want)
	}
	// Of one target's models the best is one of them.
	for _, n := range r.Nodes {
		if n.Spec.Stage == "pretrain" {
			continue
		}
		if m, err := Best(r.Store, []*reproduce.Node{n}, ""); err != nil || m.Digest != n.Digest || m.Target().Name != n.Run.Target.Key {
			t.Errorf("best of %s alone: %v, %v", n.Run.ID, m, err)
		}
	}
	if m, err := Best(r.Store, r.Nodes[:1], ""); m != nil || err != nil {
		t.Errorf("best of a pretraining: %v, %v", m, err)
	}
	empty := tiny.Resolved(t, spec)
	if m, err := Best(empty.Store, empty.Nodes, ""); m != nil || err != nil {
		t.Errorf("best of nothing: %v, %v", m, err)
	}
	if err := NoModel(empty); !strings.Contains(err.Error(), "tiny, profile base, backend cpu") || !strings.Contains(err.Error(), empty.Store.Root()) {
		t.Errorf("%v", err)
	}
}

func testFind(t *testing.T, r *reproduce.Resolved) {
	for _, n := range r.Nodes {
		if m, err := Find(r.Store, strings.ToUpper(n.Digest[:12])); err != nil || m.Digest != n.Digest {
			t.Errorf("%.12s: %v, %v", n.Digest, m, err)
		}
	}
	for prefix, says := range map[string]string{"": "no finished run", "xyz": "no finished run"} {
		if _, err := Find(r.Store, prefix); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: error %v, want %q", prefix, err, says)
		}
	}
}

// Whatever of a run is damaged, opening it says what.
func testOpenDamaged(t *testing.T, r *reproduce.Resolved) {
	digest := best(t, r).Digest
	dir := r.Store.RunDir(digest)
	for _, c := range []struct{ name, old, new, says string }{
		{store.HistoryFile, `"best": `, `"best": 9`, "is damaged"},
		{store.ManifestFile, `"network"`, `"network": 5, "was"`, "its seal says"},
		{store.WeightsFile, "head", "haed", "is damaged"},
		{store.WeightsFile, "", "", "weights.safetensors"},
	} {
		path := filepath.Join(dir, c.name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		broken := bytes.Replace(whole, []byte(c.old), []byte(c.new), 1)
		if c.old == "" {
			broken = nil
		}
		if bytes.Equal(broken, whole) {
			t.Fatalf("%s has no %s", c.name, c.old)
		}
		if err := os.WriteFile(path, broken, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(r.Store, digest); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s with %q: error %v, want %q", c.name, c.new, err, c.says)
		}
		if err := os.WriteFile(path, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Open(r.Store, digest); err != nil {
		t.Error(err)
	}
}

func testResults(t *testing.T, r *reproduce.Resolved) {
	results, err := Results(r.Store, r.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	k := 0
	for _, n := range r.Nodes {
		if n.Parent == nil {
			continue // the pretraining
		}
		got := results[k]
		k++
		if got.Run != n.Run || got.Digest != n.Digest || got.TrainSeconds <= 0 {
			t.Errorf("%+v is not of %s", got, n.Run.ID)
		}
		for _, c := range []struct {
			digest string
			h      *store.History
		}{{n.Digest, got.Final}, {n.Parent.Digest, got.Pretrain}} {
			want := history(t, r, c.digest)
			if c.h.Best != want.Best || len(c.h.Epochs) != len(want.Epochs) || c.h.Epochs[0].Validation["0"].Loss != want.Epochs[0].Validation["0"].Loss {
				t.Errorf("%s: history %+v, want %+v", n.Run.ID, c.h, want)
			}
		}
	}
	if k != len(results) || k != 4 {
		t.Errorf("%d results of %d transfers", len(results), k)
	}
	// What is not finished is left out.
	without(t, r.Store.RunDir(results[1].Digest), func() {
		left, err := Results(r.Store, r.Nodes)
		if err != nil || len(left) != 3 || slices.ContainsFunc(left, func(x Result) bool { return x.Digest == results[1].Digest }) {
			t.Errorf("%d left, %v", len(left), err)
		}
	})
}

// The file holds the run's weights, and says where they come from.
func testExport(t *testing.T, r *reproduce.Resolved) {
	m := best(t, r)
	path := filepath.Join(t.TempDir(), "model.onnx")
	written, err := m.Export(t.Context(), cpu.New("test"), path, ExportOptions{})
	if err != nil || len(written) != 2 || written[0].Path != path || !written[1].Certificate.Standardizes {
		t.Fatal(written, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g, err := onnx.Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	// What the file that takes images as they are says of itself must be true of it.
	if b, err = os.ReadFile(written[1].Path); err != nil {
		t.Fatal(err)
	}
	if info, err := onnx.Inspect(b); err != nil || !strings.Contains(info.Doc, "background and nanoparticle") || strings.Contains(info.Doc, "zero mean") {
		t.Errorf("the standardising model is described as %q, %v", info.Doc, err)
	}
	for _, want := range m.Graph.Tensors {
		got := g.Tensor(want.Name)
		if got == nil || !slices.Equal(got.Data, want.Data) {
			t.Errorf("tensor %s differs", want.Name)
		}
	}
	e, err := m.Describe()
	if err != nil {
		t.Fatal(err)
	}
	nm := map[string]string{"-100": "−10 nm", "0": "0 nm", "100": "+10 nm"}[m.Spec.Target]
	if want := "HRTEM nanoparticle segmentation, w_CdSe, " + nm + ", 400 e⁻/Å²"; e.Title != want || e.RunDigest != m.Digest || e.PixelSize != 0.4 {
		t.Errorf("described as %q, run %s, %g Å per pixel; want %q", e.Title, e.RunDigest, e.PixelSize, want)
	}
	// The images that certify the model are those of the target's validation set.
	ready, err := dataset.Find(r.Store.Root(), m.Target().Digest)
	if err != nil {
		t.Fatal(err)
	}
	images, err := ready.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	if len(e.Holdout) != ready.Count || ready.Count != 2 {
		t.Fatalf("%d images of %d", len(e.Holdout), ready.Count)
	}
	for i, h := range e.Holdout {
		pixels, label := make([]float32, len(h.Data)), make([]uint8, len(h.Labels))
		if err := errors.Join(images.Image(i, pixels), images.Label(i, label)); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(pixels, h.Data) || !slices.Equal(label, h.Labels) {
			t.Errorf("image %d is another", i)
		}
	}

	o := ExportOptions{Options: export.Options{Format: export.BioImageIO}, Authors: []string{"A. Uthor"}, Maintainers: []string{"maintainer"}}
	if _, err := m.Export(t.Context(), cpu.New("test"), filepath.Join(t.TempDir(), "model.zip"), o); err != nil {
		t.Error(err)
	}
	without(t, filepath.Dir(ready.Path), func() {
		if _, err := m.Describe(); err == nil || !strings.Contains(err.Error(), "needed to certify") {
			t.Errorf("without the images: %v", err)
		}
	})
}

func testPredictions(t *testing.T, r *reproduce.Resolved) {
	m := best(t, r)
	ready, err := dataset.Find(r.Store.Root(), m.Target().Digest)
	if err != nil {
		t.Fatal(err)
	}
	tiles, err := m.Tiles(t.Context(), cpu.New("test"), ready, 5)
	if err != nil || len(tiles) != ready.Count {
		t.Fatalf("%d tiles of %d images: %v", len(tiles), ready.Count, err)
	}
	// The validation's Dice coefficient, from what is drawn.
	var both, either float64
	for _, x := range tiles {
		for i, p := range x.Prediction {
			both += 2 * float64(p*x.Label[i])
			either += float64(p) + float64(x.Label[i])
		}
	}
	if dice := both / max(either, 1); math.Abs(dice-m.Score().Dice) > 1e-12 && either > 0 {
		t.Errorf("what is drawn has the Dice coefficient %g, the validation found %g", dice, m.Score().Dice)
	}
	b, err := Predictions(t.Context(), cpu.New("test"), r, m)
	if err != nil {
		t.Fatal(err)
	}
	im, err := png.Decode(bytes.NewReader(b))
	if err != nil || im.Bounds().Dx() < 3*160 {
		t.Errorf("%v, %v", im.Bounds(), err)
	}
}
