package reproduce_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

const spec = "../testdata/tiny.toml"

// files are those of the runs' folders by their names, and those of weights apart.
func runFiles(t *testing.T, r *reproduce.Resolved) (weights map[*reproduce.Node][]byte, histories [][]byte) {
	t.Helper()
	weights = map[*reproduce.Node][]byte{}
	for _, n := range r.Nodes {
		b, err := os.ReadFile(filepath.Join(r.Store.RunDir(n.Digest), store.WeightsFile))
		if err == nil {
			weights[n] = b
		} else if !r.Store.Dropped(n.Digest) {
			t.Errorf("%s: %v, and it was not dropped", n.Run.ID, err)
		}
		h, err := os.ReadFile(filepath.Join(r.Store.RunDir(n.Digest), store.HistoryFile))
		if err != nil {
			t.Fatal(err)
		}
		histories = append(histories, h)
		if bad := r.Store.Verify(n.Digest); len(bad) > 0 {
			t.Errorf("%s: %v", n.Run.ID, bad)
		}
	}
	return weights, histories
}

// kept is what a retention should leave of a finished study, found by looking at all
// histories.
func kept(t *testing.T, r *reproduce.Resolved) []*reproduce.Node {
	t.Helper()
	best := map[string]*reproduce.Node{}
	loss := func(n *reproduce.Node) float64 {
		h, err := r.Store.History(n.Digest)
		if err != nil {
			t.Fatal(err)
		}
		l, _ := h.BestLoss(n.Spec.Target)
		return l
	}
	var all []*reproduce.Node
	for _, n := range r.Nodes {
		b := best[n.Spec.Target]
		if n.Parent != nil && (b == nil || loss(n) < loss(b)) {
			best[n.Spec.Target] = n
		}
	}
	for _, n := range r.Nodes {
		if best[n.Spec.Target] == n {
			all = append(all, n)
		}
	}
	return all
}

// What stays of the weights changes no bit of what is trained and no address, and is
// what the study asks for; several processes at once come to the same.
func TestKeep(t *testing.T) {
	whole := tiny.Reproduced(t, spec)
	all, histories := runFiles(t, whole)
	if len(all) != len(whole.Nodes) {
		t.Fatalf("%d of %d runs have weights by default", len(all), len(whole.Nodes))
	}
	digest := func(r *reproduce.Resolved) string {
		m, err := r.Store.Manifest(r.Nodes[0].Digest)
		if err != nil {
			t.Fatal(err)
		}
		return m.StudyDigest
	}
	want := kept(t, whole)
	for _, processes := range []int{1, 3} {
		for keep, stay := range map[string]int{study.KeepWeights: len(whole.Nodes), study.KeepBest: len(want), study.KeepMetrics: 0} {
			r := tiny.Resolved(t, spec)
			r.Plan.Study.Keep = keep
			images, err := r.Generate(t.Context(), dataset.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range processes {
				wg.Go(func() {
					o := reproduce.TrainOptions{Launch: launch, Jobs: 1, Threads: 1, Harness: "test", Images: images, Wait: reproduce.WaitForAll}
					if failures, _, err := r.Train(t.Context(), o); err != nil || len(failures) > 0 {
						t.Error(err, failures)
					}
				})
			}
			wg.Wait()
			if n, _ := runFiles(t, r); processes == 1 && keep != study.KeepWeights && len(n) != len(want) {
				t.Errorf("keep = %q: while it was trained the weights of %d runs stayed, want %d", keep, len(n), len(want))
			}
			if err := r.Retain(nil); err != nil {
				t.Fatal(err)
			}
			got, h := runFiles(t, r)
			if len(got) != stay {
				t.Errorf("keep = %q: the weights of %d runs stay, want %d", keep, len(got), stay)
			}
			for i, n := range r.Nodes {
				if n.Digest != whole.Nodes[i].Digest || !bytes.Equal(h[i], histories[i]) {
					t.Errorf("keep = %q: %s is not what it was", keep, n.Run.ID)
				}
				w, stays := got[n]
				if stays && !bytes.Equal(w, all[whole.Nodes[i]]) {
					t.Errorf("keep = %q: %s has other weights", keep, n.Run.ID)
				}
				if keep == study.KeepBest && stays != slices.ContainsFunc(want, func(o *reproduce.Node) bool { return o.Digest == n.Digest }) {
					t.Errorf("keep = %q: of %s they stay: %v", keep, n.Run.ID, stays)
				}
			}
			if digest(r) != digest(whole) {
				t.Errorf("keep = %q makes it another study", keep)
			}
		}
	}
}

// A pretraining's weights stay until the last transfer is done.
func TestKeepWaitsForTransfers(t *testing.T) {
	r := tiny.Resolved(t, spec)
	r.Plan.Study.Keep = study.KeepMetrics
	images, err := r.Generate(t.Context(), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	parent := r.Nodes[0]
	for i := range r.Nodes {
		r2 := *r
		r2.Nodes = r.Nodes[:i+1]
		if failures, _, err := reproduce.Train(t.Context(), r.Store, r2.Nodes, reproduce.TrainOptions{Launch: launch, Jobs: 1, Threads: 1, Images: images}); err != nil || len(failures) > 0 {
			t.Fatal(err, failures)
		}
		if err := r.Retain(nil); err != nil {
			t.Fatal(err)
		}
		if last := i == len(r.Nodes)-1; r.Store.Dropped(parent.Digest) != last {
			t.Errorf("after %d of %d runs the pretraining's weights are dropped: %v", i+1, len(r.Nodes), !last)
		}
	}
}

// Weights that the backend could not come to again stay, whatever the study says.
func TestKeepWhatCannotBeRebuilt(t *testing.T) {
	r := tiny.Resolved(t, spec)
	r.Plan.Study.Keep = study.KeepMetrics
	r.Backend.Determinism = backend.DeterminismRun
	images, err := r.Generate(t.Context(), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var told progresstest.Recorder
	if _, _, err := r.Train(t.Context(), reproduce.TrainOptions{Launch: launch, Jobs: 1, Threads: 1, Images: images, Progress: &told}); err != nil {
		t.Fatal(err)
	}
	if n, _ := runFiles(t, r); len(n) != len(r.Nodes) {
		t.Errorf("the weights of %d of %d runs stay", len(n), len(r.Nodes))
	}
	if len(told.Messages) == 0 || !strings.Contains(told.Messages[0], "could not be rebuilt") {
		t.Errorf("told %q", told.Messages)
	}
}

// Dropped weights come back with the same bits, from the manifests alone, and so does
// what a transfer starts from; a rebuild that is interrupted goes on.
func TestRebuild(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	before, _ := runFiles(t, r)
	for _, n := range r.Nodes {
		if _, err := r.Store.Drop(n.Digest, "a test"); err != nil {
			t.Fatal(err)
		}
	}
	again := retrainer(t, r.Store, reproduce.RetrainOptions{})
	for _, i := range []int{2, 0} { // a transfer, whose parent stays dropped, then that
		n := r.Nodes[i]
		if did, err := again.Rebuild(t.Context(), n.Digest); err != nil || !did {
			t.Fatal(did, err)
		}
		if w, err := r.Store.Weights(n.Digest); err != nil || !bytes.Equal(w, before[n]) {
			t.Errorf("%s: other weights (%v)", n.Run.ID, err)
		}
		if did, err := again.Rebuild(t.Context(), n.Digest); err != nil || did {
			t.Errorf("rebuilding what is there: %v, %v", did, err)
		}
	}
	if n, _ := runFiles(t, r); len(n) != 2 {
		t.Errorf("%d runs have weights, want the two that were rebuilt", len(n))
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	n := r.Nodes[3]
	if _, err := again.Rebuild(ctx, n.Digest); !errors.Is(err, context.Canceled) || !r.Store.Dropped(n.Digest) {
		t.Errorf("interrupted: %v", err)
	}
	if a, err := r.Store.Last(n.Digest); err != nil || a.Outcome != store.OutcomeInterrupted || a.Parent != n.Parent.Digest {
		t.Errorf("the ledger says %+v, %v", a, err)
	}
	if did, err := again.Rebuild(t.Context(), n.Digest); err != nil || !did {
		t.Error(did, err)
	}
}

// A run that starts from dropped weights, as in another study that shares the
// pretraining, brings them back.
func TestTrainRebuildsParents(t *testing.T) {
	r := tiny.Reproduced(t, spec)
	before, _ := runFiles(t, r)
	for _, n := range r.Nodes[1:] {
		if err := os.RemoveAll(r.Store.RunDir(n.Digest)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Store.Drop(r.Nodes[0].Digest, "a test"); err != nil {
		t.Fatal(err)
	}
	images, err := r.Generate(t.Context(), dataset.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var told progresstest.Recorder
	failures, _, err := r.Train(t.Context(), reproduce.TrainOptions{Launch: launch, Jobs: 2, Threads: 1, Images: images, Progress: &told})
	if err != nil || len(failures) > 0 {
		t.Fatal(err, failures)
	}
	after, _ := runFiles(t, r)
	for _, n := range r.Nodes {
		if !bytes.Equal(before[n], after[n]) {
			t.Errorf("%s: other weights", n.Run.ID)
		}
	}
	if !slices.ContainsFunc(told.Messages, func(m string) bool { return strings.Contains(m, "are needed again") }) {
		t.Errorf("told %q", told.Messages)
	}
}
