package report

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
)

// What a store has of single validation images is drawn again; where a run of it has
// none, as those of earlier versions, nothing is, and the page says so.
func TestRedraw(t *testing.T) {
	r := tiny.Reproduced(t, "../testdata/tiny.toml")
	in, err := Gather(t.Context(), r, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, by := range []series.Metric{series.AsPublished, series.Kept} {
		s := in.Series(by)
		if s.Redraws != series.Redraws(len(in.Models)) {
			t.Fatalf("%d redraws", s.Redraws)
		}
		for _, o := range s.Transfers {
			for stage, of := range map[string]struct {
				losses  []float64
				redrawn [][]float32
			}{"before": {o.Before, o.BeforeRedrawn}, "after": {o.After, o.AfterRedrawn}} {
				for i, d := range s.Domains {
					// The loss is a mean of the images', as the redraws are of some of them.
					if v := of.redrawn[i]; len(v) != s.Redraws || !(float64(slices.Min(v)) < of.losses[i] && of.losses[i] < float64(slices.Max(v))) {
						t.Fatalf("%s, %s to %s, on %s %s transfer: %g, redrawn %v", by, o.Source, o.Target, d, stage, of.losses[i], v)
					}
				}
			}
		}
	}
	page := func() string {
		in, err := Gather(t.Context(), r, Options{})
		if err != nil {
			t.Fatal(err)
		}
		sum, err := Build(t.Context(), in, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(sum.Index)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const with, without = "the images of the validation sets are drawn again, 200 times", "The losses of single validation images are not stored of all these models"
	if p := page(); !strings.Contains(p, with) || strings.Contains(p, without) {
		t.Error("the page does not say that images are drawn again")
	}
	forget(t, r.Store, r.Nodes[0].Digest)
	if p := page(); strings.Contains(p, with) || !strings.Contains(p, without) {
		t.Error("the page does not say that images are not drawn again")
	}
	if bad := r.Store.Verify(r.Nodes[0].Digest); len(bad) > 0 {
		t.Errorf("a run of an earlier version: %v", bad)
	}
}

// forget makes a run one of an earlier version, which had no file of single losses.
func forget(t *testing.T, st *store.Store, digest string) {
	t.Helper()
	m, err := st.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	n := len(m.Files)
	m.Files = slices.DeleteFunc(m.Files, func(f files.File) bool { return f.Name == store.LossesFile })
	if len(m.Files) != n-1 {
		t.Fatalf("the manifest lists %v", m.Files)
	}
	b, err := files.SealJSON(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(st.RunDir(digest), store.ManifestFile), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(st.RunDir(digest), store.LossesFile)); err != nil {
		t.Fatal(err)
	}
}
