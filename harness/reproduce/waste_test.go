package reproduce_test

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

// found is the waste by kind, and the notes.
func found(t *testing.T, st *store.Store, studies ...*reproduce.Resolved) (map[string][]reproduce.Waste, string) {
	t.Helper()
	all, notes, err := reproduce.FindWaste(t.Context(), st, studies)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string][]reproduce.Waste{}
	for _, w := range all {
		kinds[w.Kind] = append(kinds[w.Kind], w)
	}
	return kinds, strings.Join(notes, "\n")
}

func remove(t *testing.T, waste []reproduce.Waste) {
	t.Helper()
	for _, w := range waste {
		if err := w.Remove(); err != nil {
			t.Errorf("%s: %v", w.Path, err)
		}
		if _, err := os.Lstat(w.Path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", w.Path)
		}
	}
}

// age makes all sets of data look as if nobody had asked for them for long.
func age(t *testing.T, st *store.Store) {
	t.Helper()
	long := time.Now().Add(-72 * time.Hour)
	manifests, err := filepath.Glob(filepath.Join(st.Data(), "*", "manifest.json"))
	if err != nil || len(manifests) == 0 {
		t.Fatal(manifests, err)
	}
	for _, m := range manifests {
		if err := os.Chtimes(m, long, long); err != nil {
			t.Fatal(err)
		}
	}
}

// whole makes sure that nothing in the store is damaged.
func whole(t *testing.T, st *store.Store) {
	t.Helper()
	v, err := reproduce.Verify(t.Context(), st, progress.Or(nil))
	if err != nil || len(v.Damaged) > 0 {
		t.Errorf("damaged: %v, %v", v.Damaged, err)
	}
}

func TestWasteOfWeights(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	if kinds, notes := found(t, r.Store, r); len(kinds) > 0 || notes != "" {
		t.Fatalf("a study that keeps everything has waste: %v, %s", kinds, notes)
	}
	before := tree(t, r.Store.Root())
	best := *r
	p, s := *r.Plan, *r.Plan.Study
	s.Keep, p.Study = study.KeepBest, &s
	best.Plan = &p
	kinds, _ := found(t, r.Store, &best)
	var total int64
	for _, w := range kinds[reproduce.WasteWeights] {
		st, err := os.Stat(w.Path)
		if err != nil || st.Size() != w.Bytes {
			t.Errorf("%s: %d bytes, %v", w.Path, w.Bytes, err)
		}
		total += w.Bytes
	}
	if n := len(kinds[reproduce.WasteWeights]); n != len(r.Nodes)-len(kept(t, r)) || len(kinds) != 1 {
		t.Errorf("%d weights are waste, and %d kinds", n, len(kinds))
	}
	// Another study keeps what this one does not.
	if kinds, _ := found(t, r.Store, &best, r); len(kinds) > 0 {
		t.Errorf("waste that another study keeps: %v", kinds)
	}
	if after := tree(t, r.Store.Root()); !maps.Equal(before, after) {
		t.Error("looking has changed the store")
	}
	// A transfer that some process trains needs its parent.
	late := slices.Index(r.Nodes, r.Nodes[1])
	if err := os.RemoveAll(r.Store.RunDir(r.Nodes[late].Digest)); err != nil {
		t.Fatal(err)
	}
	others := best
	others.Nodes = slices.Delete(slices.Clone(r.Nodes), late, late+1) // in another study
	parent := r.Nodes[0]
	drops := func() bool {
		kinds, _ := found(t, r.Store, &others)
		return slices.ContainsFunc(kinds[reproduce.WasteWeights], func(w reproduce.Waste) bool { return w.Digest == parent.Digest })
	}
	if !drops() {
		t.Error("the pretraining's weights are needed though no run of the study starts from them")
	}
	c, err := r.Store.Claim(r.Nodes[late].Digest)
	if err != nil {
		t.Fatal(err)
	}
	c.Update(func(a *store.Attempt) { a.Parent = parent.Digest })
	if drops() {
		t.Error("weights are waste from which a run is being trained")
	}
	c.Release()
	kinds, _ = found(t, r.Store, &others)
	remove(t, kinds[reproduce.WasteWeights])
	whole(t, r.Store)
}

func TestWasteOfAttempts(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	st := r.Store
	work := func(digest string, path ...string) string {
		return filepath.Join(append([]string{st.Root(), "runs", ".work", digest}, path...)...)
	}
	write := func(path, content string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	done, begun := r.Nodes[0].Digest, strings.Repeat("ab", 32)
	write(work(done, "1", "checkpoint.safetensors"), "of a finished run")
	for path, content := range map[string]string{
		"1/checkpoint.safetensors":         "old",
		"3/checkpoint.safetensors":         "newest",
		"3/new/weights.safetensors":        "half published",
		"3/damaged/checkpoint.safetensors": "damaged",
		"4/patches.safetensors":            "of an epoch",
	} {
		write(work(begun, filepath.FromSlash(path)), content)
	}
	c, err := st.Claim(begun)
	if err != nil {
		t.Fatal(err)
	}
	kinds, _ := found(t, st)
	if w := kinds[reproduce.WasteWork]; len(w) != 1 || w[0].Digest != done {
		t.Errorf("while a process works on the other run: %v", w)
	}
	c.Release()
	kinds, notes := found(t, st)
	var paths []string
	for _, w := range kinds[reproduce.WasteWork] {
		rel, err := filepath.Rel(filepath.Join(st.Root(), "runs", ".work"), w.Path)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, filepath.ToSlash(strings.NewReplacer(done, "done", begun, "begun").Replace(rel)))
	}
	slices.Sort(paths)
	if want := []string{"begun/1", "begun/3/damaged", "begun/3/new", "begun/4", "done"}; !slices.Equal(paths, want) {
		t.Errorf("waste is %v, want %v", paths, want)
	}
	if !strings.Contains(notes, "is not finished") {
		t.Errorf("notes %q: what a begun run needs is not known", notes)
	}
	remove(t, kinds[reproduce.WasteWork])
	c, err = st.Claim(begun)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if b, err := c.Checkpoint(); err != nil || string(b) != "newest" {
		t.Errorf("the run goes on from %q, %v", b, err)
	}
}

func TestWasteOfData(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	st := r.Store
	age(t, st)
	if kinds, notes := found(t, st); len(kinds) > 0 || notes != "" {
		t.Fatalf("all sets are used: %v, %s", kinds, notes)
	}
	for _, n := range r.Nodes {
		if err := os.RemoveAll(st.RunDir(n.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	if kinds, _ := found(t, st, r); len(kinds) > 0 {
		t.Errorf("a study that is named needs its sets: %v", kinds)
	}
	if kinds, notes := found(t, st); len(kinds) > 0 || !strings.Contains(notes, "data sets stay") {
		t.Errorf("a study that is not named may need them: %v, %q", kinds, notes)
	}
	if err := os.RemoveAll(filepath.Join(st.Root(), "runs", ".attempts")); err != nil {
		t.Fatal(err)
	}
	sets, err := dataset.Sets(st.Root())
	if err != nil {
		t.Fatal(err)
	}
	kinds, _ := found(t, st)
	if n := len(kinds[reproduce.WasteData]); n != len(sets) {
		t.Fatalf("%d of %d sets are waste", n, len(sets))
	}
	// Whoever asks for one meanwhile has it.
	if _, err := r.Generate(t.Context(), dataset.Options{}); err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, w := range kinds[reproduce.WasteData] {
		if err := w.Remove(); errors.Is(err, reproduce.ErrInUse) {
			asked++
		} else if err != nil {
			t.Error(err)
		}
	}
	if asked != len(r.Data.Simulated) {
		t.Errorf("%d sets were asked for and %d stay", len(r.Data.Simulated), asked)
	}
	whole(t, st)
	age(t, st)
	kinds, _ = found(t, st)
	remove(t, kinds[reproduce.WasteData])
	if left, err := dataset.Sets(st.Root()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := r.Generate(t.Context(), dataset.Options{}); err != nil {
		t.Errorf("making them again: %v", err)
	}
}

func TestWasteOfDamage(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	st := r.Store
	n, set := r.Nodes[1], r.Nodes[1].Spec.Validation[0].Digest
	keep, err := os.ReadFile(filepath.Join(st.RunDir(n.Digest), store.HistoryFile))
	if err != nil {
		t.Fatal(err)
	}
	path, err := st.SetAside(n.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dataset.Repair(t.Context(), st.Root(), set, nil); err != nil {
		t.Fatal(err)
	}
	kinds, notes := found(t, st, r)
	if len(kinds[reproduce.WasteDamaged]) > 0 || strings.Count(notes, "has not been made again") != 2 {
		t.Errorf("before it is made again: %v, %q", kinds, notes)
	}
	images, err := r.Generate(t.Context(), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Train(t.Context(), reproduce.TrainOptions{Launch: launch, Jobs: 1, Threads: 1, Images: images}); err != nil {
		t.Fatal(err)
	}
	kinds, _ = found(t, st, r)
	if w := kinds[reproduce.WasteDamaged]; len(w) != 2 || w[0].Path != path {
		t.Errorf("waste %v", w)
	}
	remove(t, kinds[reproduce.WasteDamaged])
	if h, err := os.ReadFile(filepath.Join(st.RunDir(n.Digest), store.HistoryFile)); err != nil || !bytes.Equal(h, keep) {
		t.Errorf("the run is another (%v)", err)
	}
	whole(t, st)
}
