package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/testkit/tiny"
	"github.com/refocus-em/refocus/plugins/cpu"
)

const spec = "../testdata/tiny.toml"

// options audits everything on the cpu backend in this process.
func options() Options {
	return Options{
		Start: func(string) (Backend, error) {
			return Backend{Launch: func(ctx context.Context, _ io.Writer) (reproduce.Process, error) { return tiny.Launch(ctx) }}, nil
		},
		Threads: 1, Jobs: 2, Sample: Sample{Share: 1}, Images: 4, Seed: 1, Confidence: 0.95, Harness: "test",
	}
}

func audit(t *testing.T, st *store.Store, o Options) *Receipt {
	t.Helper()
	r, err := Audit(t.Context(), st, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// copied is a copy of a store, to be falsified.
func copied(t *testing.T, st *store.Store) *store.Store {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(st.Root())); err != nil {
		t.Fatal(err)
	}
	c, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// forge puts other content in place of a run's files, nil for none, and makes the
// manifest fit.
func forge(t *testing.T, st *store.Store, digest string, contents map[string][]byte) {
	t.Helper()
	m, err := st.Manifest(digest)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range contents {
		path := filepath.Join(st.RunDir(digest), name)
		at := slices.IndexFunc(m.Files, func(f files.File) bool { return f.Name == name })
		if b == nil {
			m.Files = slices.Delete(m.Files, at, at+1)
			err = os.Remove(path)
		} else {
			m.Files[at] = files.Of(name, b)
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	sealed, err := files.SealJSON(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(st.RunDir(digest), store.ManifestFile), sealed, 0o644); err != nil {
		t.Fatal(err)
	}
	if v, err := reproduce.Verify(t.Context(), st, nil); err != nil || len(v.Damaged) > 0 {
		t.Fatalf("the forgery is plain to see: %+v, %v", v, err)
	}
}

func read(t *testing.T, st *store.Store, digest, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(st.RunDir(digest), name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// falsified is a history whose every validation loss is better by the factor, which
// keeps the best epoch what it is, and the losses of single images that it is the mean
// of.
func falsified(t *testing.T, history, losses []byte, factor float64) map[string][]byte {
	t.Helper()
	var h store.History
	if err := json.Unmarshal(history, &h); err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Decode(losses)
	if err != nil {
		t.Fatal(err)
	}
	var ts []safetensors.Tensor
	for _, i := range f.Tensors() {
		v, err := f.Float64(i.Name)
		if err != nil {
			t.Fatal(err)
		}
		for k := range v {
			v[k] *= factor
		}
		for k := range h.Epochs {
			n := i.Shape[1]
			s := h.Epochs[k].Validation[i.Name]
			s.Loss = backend.Evaluation{Loss: v[k*n:][:n]}.MeanLoss()
			h.Epochs[k].Validation[i.Name] = s
		}
		ts = append(ts, safetensors.Tensor{Name: i.Name, Shape: i.Shape, Data: v})
	}
	if losses, err = safetensors.Encode(ts, nil); err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(h, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{store.HistoryFile: append(b, '\n'), store.LossesFile: losses}
}

// only is the outcome of a run.
func only(t *testing.T, r *Receipt, digest string) Run {
	t.Helper()
	for _, o := range r.Runs.Outcomes {
		if o.Digest == digest {
			return o
		}
	}
	t.Fatalf("run %s was not audited", digest)
	return Run{}
}

// An audit passes a store that was trained, finds every forgery in a run, whatever the
// manifests and seals say, and accuses no other run; by the arithmetic of the store's
// own backend and by another.
func TestAudit(t *testing.T) {
	study := tiny.Reproduced(t, spec)
	genuine := study.Store
	before, err := Inventory(genuine)
	if err != nil {
		t.Fatal(err)
	}
	r := audit(t, genuine, options())
	if r.Verdict != Genuine || r.Runs.Sample != len(study.Nodes) || r.Images.Sample != 4 || len(r.Failed()) > 0 {
		t.Errorf("of what was trained it says %s: %v", r.Verdict, r.Failed())
	}
	for _, o := range r.Runs.Outcomes {
		if o.Outcome != SameBits || o.Epochs != o.Of {
			t.Errorf("%+v", o)
		}
	}
	if after, err := Inventory(genuine); err != nil || files.Root(after) != files.Root(before) || r.Subject.Root != files.Root(before) {
		t.Errorf("the audit changed the store, or gives another root, %v", err)
	}

	// The same study with another seed, whose runs have other digests.
	b, err := os.ReadFile(spec)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tiny.toml")
	if err := os.WriteFile(path, bytes.Replace(b, []byte("seed  = 7"), []byte("seed  = 8"), 1), 0o644); err != nil {
		t.Fatal(err)
	}
	other := tiny.Reproduced(t, path)

	transfers := slices.DeleteFunc(slices.Clone(study.Nodes), func(n *reproduce.Node) bool { return n.Parent == nil })
	at := slices.Index(study.Nodes, transfers[0])
	victim, sibling := transfers[0].Digest, transfers[1].Digest
	forgeries := map[string]struct {
		do   func(st *store.Store)
		want string // in what is said
	}{
		"history": {func(st *store.Store) {
			forge(t, st, victim, falsified(t, read(t, st, victim, store.HistoryFile), read(t, st, victim, store.LossesFile), 0.98))
		}, "loss"},
		"history without losses": {func(st *store.Store) {
			f := falsified(t, read(t, st, victim, store.HistoryFile), read(t, st, victim, store.LossesFile), 0.98)
			f[store.LossesFile] = nil
			forge(t, st, victim, f)
		}, "loss"},
		"weights": {func(st *store.Store) {
			forge(t, st, victim, map[string][]byte{store.WeightsFile: read(t, st, sibling, store.WeightsFile)})
		}, "weights"},
		"seed": {func(st *store.Store) {
			f := map[string][]byte{}
			for _, name := range []string{store.HistoryFile, store.LossesFile, store.WeightsFile} {
				f[name] = read(t, other.Store, other.Nodes[at].Digest, name)
			}
			forge(t, st, victim, f)
		}, "loss"},
	}
	for _, engine := range []string{"", "plain"} {
		t.Run("engine "+engine, func(t *testing.T) {
			t.Setenv(cpu.EngineVariable, engine)
			o := options()
			o.Runs = []string{victim, sibling}
			r := audit(t, genuine, o)
			if r.Verdict != Genuine {
				t.Errorf("of what was trained it says %s: %v", r.Verdict, r.Failed())
			}
			for _, run := range r.Runs.Outcomes {
				if engine != "" && (run.Outcome != Within || run.Arithmetic == "" || !(run.Distance > 0) || !(run.Limit >= run.Distance) || run.Limit > 1e-2) {
					t.Errorf("by other arithmetic: %+v", run)
				}
			}
			for name, f := range forgeries {
				for _, epochs := range []int{0, 1} {
					st := copied(t, genuine)
					f.do(st)
					o.Epochs = epochs
					r := audit(t, st, o)
					got := only(t, r, victim)
					if r.Verdict != False || got.Outcome != Differs || !strings.Contains(strings.Join(got.Differences, "\n"), f.want) {
						t.Errorf("%s, %d epochs: %s: %+v", name, epochs, r.Verdict, got)
					}
					if only(t, r, sibling).Outcome == Differs {
						t.Errorf("%s: its sibling is accused too: %v", name, r.Failed())
					}
				}
			}
		})
	}

	t.Run("image", func(t *testing.T) {
		st := copied(t, genuine)
		set := study.Nodes[0].Spec.Validation[0].Digest
		tamper(t, st, set, func(pixels []float32, labels []uint8) {
			pixels[len(pixels)/2] = math.Nextafter32(pixels[len(pixels)/2], 9)
		})
		tamper(t, st, transfers[0].Spec.Data[0].Digest, func(pixels []float32, labels []uint8) { labels[0] ^= 1 })
		o := options()
		o.Images, o.Sample = 1000, Sample{}
		r := audit(t, st, o)
		if failed := r.Failed(); r.Verdict != False || len(failed) != 2 || !strings.Contains(strings.Join(failed, "\n"), "1 of its 1024 pixels") || !strings.Contains(strings.Join(failed, "\n"), "1 of its 1024 labels") {
			t.Errorf("%s: %v", r.Verdict, failed)
		}
	})
	t.Run("dropped", func(t *testing.T) {
		st := copied(t, genuine)
		parent := transfers[0].Parent.Digest
		for _, digest := range []string{victim, parent} {
			if _, err := st.Drop(digest, "a test"); err != nil {
				t.Fatal(err)
			}
		}
		o := options()
		o.Runs = []string{victim}
		if r := audit(t, st, o); r.Verdict != Genuine || r.Runs.Outcomes[0].Weights || r.Subject.Root != files.Root(before) {
			t.Errorf("without weights and those of its parent: %s, %+v", r.Verdict, r.Runs.Outcomes[0])
		}
		o.Epochs = 1
		if r := audit(t, st, o); r.Verdict != Genuine || !strings.Contains(strings.Join(r.Statements, "\n"), "weights of 1 of the runs were dropped") {
			t.Errorf("its first epoch, without weights: %s, %v", r.Verdict, r.Statements)
		}
		// Other arithmetic does not come to the weights that the run began with.
		t.Setenv(cpu.EngineVariable, "plain")
		if r := audit(t, st, o); r.Verdict != Incomplete {
			t.Errorf("by other arithmetic, without weights of its parent: %s, %+v", r.Verdict, r.Runs.Outcomes[0])
		}
	})
	t.Run("damage", func(t *testing.T) {
		st := copied(t, genuine)
		b := read(t, st, victim, store.HistoryFile)
		b[len(b)/2] ^= 1
		if err := os.WriteFile(filepath.Join(st.RunDir(victim), store.HistoryFile), b, 0o644); err != nil {
			t.Fatal(err)
		}
		var damaged *DamagedError
		if _, err := Audit(t.Context(), st, options()); !errors.As(err, &damaged) || !strings.Contains(err.Error(), victim) {
			t.Errorf("a damaged history: %v", err)
		}
	})
	t.Run("impossible", func(t *testing.T) {
		o := options()
		o.Runs = []string{victim}
		o.Start = func(string) (Backend, error) {
			return Backend{Launch: func(ctx context.Context, _ io.Writer) (reproduce.Process, error) {
				p, err := tiny.Launch(ctx)
				return refusing{p}, err
			}}, nil
		}
		if r := audit(t, genuine, o); r.Verdict != Incomplete || r.Runs.Outcomes[0].Outcome != NotAudited {
			t.Errorf("what cannot be trained is %s: %+v", r.Verdict, r.Runs.Outcomes)
		}
		empty, err := store.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Audit(t.Context(), empty, o); err == nil {
			t.Error("runs that are not there are audited")
		}
	})
}

// refusing is a backend that opens no session.
type refusing struct{ reproduce.Process }

func (refusing) Open(context.Context, *nn.Graph, backend.Options) (backend.Session, error) {
	return nil, errors.New("no session today")
}

// tamper changes image 0 of a set, and makes its manifest fit.
func tamper(t *testing.T, st *store.Store, digest string, change func(pixels []float32, labels []uint8)) {
	t.Helper()
	dir := filepath.Join(st.Data(), digest)
	f, err := safetensors.Open(filepath.Join(dir, "images.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, _ := f.Info("images")
	y, _ := f.Info("labels")
	pixels, err := f.Float32("images")
	if err != nil {
		t.Fatal(err)
	}
	labels := make([]uint8, y.Len())
	if err := f.ReadUint8("labels", 0, labels); err != nil {
		t.Fatal(err)
	}
	n := x.Len() / x.Shape[0]
	change(pixels[:n], labels[:n])
	b, err := safetensors.Encode([]safetensors.Tensor{
		{Name: "images", Shape: x.Shape, Data: pixels}, {Name: "labels", Shape: y.Shape, Data: labels},
	}, maps.Clone(f.Metadata))
	if err != nil {
		t.Fatal(err)
	}
	m, err := dataset.ReadManifest(st.Root(), digest)
	if err != nil {
		t.Fatal(err)
	}
	content := m.Files["images.safetensors"]
	content.SHA256 = files.Sum(b)
	m.Files["images.safetensors"] = content
	sealed, err := files.SealJSON(m)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"images.safetensors": b, "manifest.json": sealed} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if bad := dataset.Verify(t.Context(), st.Root(), digest, func(int64) {}); len(bad) > 0 {
		t.Fatalf("the forgery is plain to see: %v", bad)
	}
}
