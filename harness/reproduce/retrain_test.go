package reproduce_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

func launch(ctx context.Context, _ io.Writer) (reproduce.Process, error) { return tiny.Launch(ctx) }

func retrainer(t *testing.T, st *store.Store, o reproduce.RetrainOptions) *reproduce.Retrainer {
	t.Helper()
	if o.Launch == nil {
		o.Launch = launch
	}
	r, err := reproduce.NewRetrainer(st, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// tree is the content of every file below a folder.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := files.Describe(path)
		all[path] = f.SHA256
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A run trained again from its manifest alone has the same bytes, from what the store
// holds as from what is made anew because it lacks it, and the store stays as it was.
func TestRetrain(t *testing.T) {
	study := tiny.Reproduced(t, "../testdata/tiny.toml")
	st := study.Store
	same := func(t *testing.T, r *reproduce.Retrainer, n *reproduce.Node) {
		t.Helper()
		got, err := r.Retrain(t.Context(), n.Digest, 0)
		if err != nil {
			t.Fatal(err)
		}
		m, err := st.Manifest(n.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Files(), m.Files) || got.Epochs != n.Spec.Epochs {
			t.Errorf("%s: trained again it has after %d epochs %v, the manifest lists %v", n.Run.ID, got.Epochs, got.Files(), m.Files)
		}
	}
	before := tree(t, st.Root())
	for _, anew := range []bool{false, true} {
		r := retrainer(t, st, reproduce.RetrainOptions{Anew: anew})
		for _, n := range study.Nodes[:3] {
			same(t, r, n)
		}
	}
	if after := tree(t, st.Root()); !maps.Equal(before, after) {
		t.Error("training again changes the store")
	}

	transfer := study.Nodes[slices.IndexFunc(study.Nodes, func(n *reproduce.Node) bool { return n.Parent != nil })]
	t.Run("epochs", func(t *testing.T) {
		whole, err := st.History(transfer.Digest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := retrainer(t, st, reproduce.RetrainOptions{}).Retrain(t.Context(), transfer.Digest, 1)
		if err != nil {
			t.Fatal(err)
		}
		var h store.History
		if err := json.Unmarshal(got.History, &h); err != nil {
			t.Fatal(err)
		}
		if got.Epochs != 1 || len(h.Epochs) != 1 || h.Best != 1 || !maps.Equal(h.Epochs[0].Validation, whole.Epochs[0].Validation) || h.Epochs[0].TrainLoss != whole.Epochs[0].TrainLoss {
			t.Errorf("the first epoch is %+v, was %+v", h, whole.Epochs[0])
		}
	})
	t.Run("others", func(t *testing.T) {
		o := reproduce.RetrainOptions{Launch: func(context.Context, io.Writer) (reproduce.Process, error) { return &fakebackend.Backend{}, nil }}
		_, err := retrainer(t, st, o).Retrain(t.Context(), transfer.Digest, 0)
		if err == nil || !strings.Contains(err.Error(), "fake-1") {
			t.Errorf("by another backend: %v", err)
		}
		o.OtherNumerics = true
		if got, err := retrainer(t, st, o).Retrain(t.Context(), transfer.Digest, 0); err != nil || got.Spec.Backend.Name != "fake" {
			t.Errorf("by another backend, allowed: %+v, %v", got, err)
		}
		for _, epochs := range []int{-1, 3} {
			if _, err := retrainer(t, st, reproduce.RetrainOptions{}).Retrain(t.Context(), transfer.Digest, epochs); err == nil || !strings.Contains(err.Error(), "it has 2") {
				t.Errorf("%d epochs: %v", epochs, err)
			}
		}
	})
	t.Run("lacking", func(t *testing.T) {
		set := filepath.Join(st.Data(), transfer.Spec.Data[0].Digest)
		for _, path := range []string{filepath.Join(set, "images.safetensors"), filepath.Join(st.RunDir(transfer.Parent.Digest), store.WeightsFile)} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		same(t, retrainer(t, st, reproduce.RetrainOptions{}), transfer)

		// A set of other settings is none of this run's, sealed or not.
		path := filepath.Join(set, "manifest.json")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if b, _, err = files.Unseal(path, b); err != nil {
			t.Fatal(err)
		}
		var m dataset.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		m.Seed++
		forged, err := files.SealJSON(m)
		if err != nil || bytes.Equal(forged, b) {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, forged, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := retrainer(t, st, reproduce.RetrainOptions{}).Retrain(t.Context(), transfer.Digest, 0); err == nil || !strings.Contains(err.Error(), "not its own") {
			t.Errorf("with the settings of another set: %v", err)
		}
	})
	t.Run("crash", func(t *testing.T) {
		var smooth *reproduce.Retrained
		for _, c := range []struct{ faults, restarts int }{{0, 0}, {2, 2}, {3, 2}} {
			left := c.faults
			o := reproduce.RetrainOptions{OtherNumerics: true, Restarts: c.restarts, Launch: func(context.Context, io.Writer) (reproduce.Process, error) {
				return &fakebackend.Backend{Fault: func(n int64) error {
					if n == 2 && left > 0 {
						left--
						return &backend.CrashError{Plugin: "fake", During: "Train"}
					}
					return nil
				}}, nil
			}}
			got, err := retrainer(t, st, o).Retrain(t.Context(), study.Nodes[0].Digest, 0)
			switch {
			case c.faults > c.restarts:
				var crash *backend.CrashError
				if !errors.As(err, &crash) {
					t.Errorf("%d crashes with %d restarts: %v", c.faults, c.restarts, err)
				}
			case err != nil:
				t.Fatal(err)
			case smooth == nil:
				smooth = got
			case !slices.Equal(got.Files(), smooth.Files()):
				t.Errorf("after %d crashes the result is another", c.faults)
			}
		}
	})
}
