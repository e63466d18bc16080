package store

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/files"
)

type spec struct {
	Width int    `json:"width"`
	Name  string `json:"name"`
}

// commit puts a small run into a new store.
func commit(t *testing.T) (*Store, string) {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	sp := spec{8, "a<b"} // "<" is escaped in JSON: the digest must survive that
	digest, err := Digest("run", sp)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Claim(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetCheckpoint([]byte("half way")); err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(sp)
	h, _ := json.Marshal(History{Stage: "single", Target: "d", Best: 1, Epochs: []Epoch{{Validation: map[string]Score{"d": {Loss: 0.5}}}}})
	if err := c.Commit(&Manifest{Spec: raw, ID: "x"}, map[string][]byte{HistoryFile: h, WeightsFile: []byte("weights")}); err != nil {
		t.Fatal(err)
	}
	return s, digest
}

func TestCommit(t *testing.T) {
	s, digest := commit(t)
	if !s.HasRun(digest) {
		t.Fatal("run is not there")
	}
	if bad := s.Verify(digest); len(bad) > 0 {
		t.Errorf("a fresh run is damaged: %v", bad)
	}
	if b, err := s.Weights(digest); err != nil || string(b) != "weights" {
		t.Errorf("weights %q, %v", b, err)
	}
	if _, err := s.Claim(digest); !errors.Is(err, ErrDone) {
		t.Errorf("claiming a finished run: %v, want ErrDone", err)
	}
	if runs, err := s.Runs(); err != nil || len(runs) != 1 || runs[0] != digest {
		t.Errorf("runs %v, %v", runs, err)
	}
}

func TestVerifyNamesDamage(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(dir string) error
		want string
	}{
		"flipped byte": {func(d string) error { return os.WriteFile(filepath.Join(d, WeightsFile), []byte("weightz"), 0o644) }, WeightsFile},
		"truncated":    {func(d string) error { return os.Truncate(filepath.Join(d, WeightsFile), 3) }, "3 bytes"},
		"missing":      {func(d string) error { return os.Remove(filepath.Join(d, HistoryFile)) }, HistoryFile},
		"foreign file": {func(d string) error { return os.WriteFile(filepath.Join(d, "x"), nil, 0o644) }, "does not list"},
		"changed spec": {func(d string) error {
			p := filepath.Join(d, ManifestFile)
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, []byte(strings.Replace(string(b), `"width": 8`, `"width": 9`, 1)), 0o644)
		}, "its seal says"},
		"sealed again":    {func(d string) error { return rewrite(d, `"width": 8`, `"width": 9`, true) }, "does not hash"},
		"seal removed":    {func(d string) error { return rewrite(d, "", "", false) }, "lost its seal"},
		"another path":    {func(d string) error { return rewrite(d, `"name": "history.json"`, `"name": "../history.json"`, true) }, "lists a file"},
		"another format":  {func(d string) error { return rewrite(d, `"format": 2`, `"format": 3`, true) }, "newer refocus"},
		"broken manifest": {func(d string) error { return os.Truncate(filepath.Join(d, ManifestFile), 40) }, "unexpected EOF"},
	} {
		s, digest := commit(t)
		if err := c.harm(s.RunDir(digest)); err != nil {
			t.Fatal(err)
		}
		bad := s.Verify(digest)
		if len(bad) != 1 || !strings.Contains(bad[0].Path+" "+bad[0].Problem, c.want) {
			t.Errorf("%s: found %v, want one thing about %q", name, bad, c.want)
		}
	}
}

// rewrite replaces a part of the manifest in a run's folder.
func rewrite(dir, from, to string, seal bool) error {
	path := filepath.Join(dir, ManifestFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if b, _, err = files.Unseal(path, b); err != nil {
		return err
	}
	b = []byte(strings.Replace(string(b), from, to, 1))
	if seal {
		if b, err = files.SealJSON(json.RawMessage(b)); err != nil {
			return err
		}
	}
	return os.WriteFile(path, b, 0o644)
}

// Runs of the first version of the manifest, which had no seal, are read as before.
func TestFormat1(t *testing.T) {
	s, digest := commit(t)
	if err := rewrite(s.RunDir(digest), `"format": 2`, `"format": 1`, false); err != nil {
		t.Fatal(err)
	}
	if bad := s.Verify(digest); len(bad) > 0 || !s.HasRun(digest) {
		t.Errorf("damage %v", bad)
	}
}

func TestWeightsAreChecked(t *testing.T) {
	s, digest := commit(t)
	if err := os.WriteFile(filepath.Join(s.RunDir(digest), WeightsFile), []byte("weightz"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Weights(digest); err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "(remove "+s.RunDir(digest)+",") {
		t.Errorf("reading damaged weights: %v", err)
	}
	if err := os.WriteFile(filepath.Join(s.RunDir(digest), HistoryFile), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.History(digest); err == nil || !strings.Contains(err.Error(), "is damaged") || !strings.Contains(err.Error(), "(remove "+s.RunDir(digest)+",") {
		t.Errorf("reading a damaged history: %v", err)
	}
}

func TestClaimIsExclusive(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Claim("r"); !errors.Is(err, ErrBusy) {
		t.Fatalf("second claim: %v, want ErrBusy", err)
	}
	if err := a.SetCheckpoint([]byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := a.Release(); err != nil {
		t.Fatal(err)
	}
	b, err := s.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Checkpoint(); err != nil || string(got) != "1" {
		t.Errorf("checkpoint %q, %v", got, err)
	}
	aside, err := b.SetAside()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(aside); err != nil || string(got) != "1" {
		t.Errorf("set aside %q, %v", got, err)
	}
	if got, err := b.Checkpoint(); err != nil || got != nil {
		t.Errorf("checkpoint %q, %v after it was set aside", got, err)
	}
	b.Release()
}

// A process killed while publishing leaves a half-written directory under a
// temporary name; the next one must not be disturbed by it.
func TestCommitAfterCrash(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(s.Root(), "runs", ".work", "r.new")
	if err := os.MkdirAll(half, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, "rubbish"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if s.HasRun("r") {
		t.Error("a half-written run counts as finished")
	}
	if err := c.Commit(&Manifest{Spec: json.RawMessage("{}")}, map[string][]byte{HistoryFile: []byte("{}"), WeightsFile: nil}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.RunDir("r"), "rubbish")); err == nil {
		t.Error("rubbish of the crashed process was published")
	}
}

// What a run's directory should hold and does not is made again, and what it
// holds is kept beside.
func TestDamagedRunIsSetAside(t *testing.T) {
	for name, harm := range map[string]func(dir string) error{
		"manifest gone":       func(d string) error { return os.Remove(filepath.Join(d, ManifestFile)) },
		"manifest cut":        func(d string) error { return os.Truncate(filepath.Join(d, ManifestFile), 40) },
		"manifest empty":      func(d string) error { return os.Truncate(filepath.Join(d, ManifestFile), 0) },
		"weights gone":        func(d string) error { return os.Remove(filepath.Join(d, WeightsFile)) },
		"weights cut":         func(d string) error { return os.Truncate(filepath.Join(d, WeightsFile), 3) },
		"everything gone":     func(d string) error { return errors.Join(os.RemoveAll(d), os.Mkdir(d, 0o777)) },
		"link to nothing":     func(d string) error { return errors.Join(os.RemoveAll(d), os.Symlink("/nowhere", d)) },
		"a file in its place": func(d string) error { return errors.Join(os.RemoveAll(d), os.WriteFile(d, nil, 0o666)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, digest := commit(t)
			whole, err := s.Manifest(digest)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second finds a name taken
				if err := harm(s.RunDir(digest)); err != nil {
					t.Fatal(err)
				}
				if s.HasRun(digest) {
					t.Fatal("the run counts as finished")
				}
				c, err := s.Claim(digest)
				if err != nil {
					t.Fatal(err)
				}
				path, why := c.Damaged()
				if _, err := os.Lstat(path); err != nil || why == nil {
					t.Errorf("set aside to %q because of %v: %v", path, why, err)
				}
				if err := c.Commit(whole, map[string][]byte{HistoryFile: []byte("{}"), WeightsFile: []byte("weights")}); err != nil {
					t.Fatal(err)
				}
				if bad := s.Verify(digest); len(bad) > 0 {
					t.Errorf("made again, it is damaged: %v", bad)
				}
			}
			if runs, err := s.Runs(); err != nil || len(runs) != 1 {
				t.Errorf("runs %v, %v", runs, err)
			}
		})
	}
}

// A run may be kept elsewhere, with a link in its place.
func TestLinkedRun(t *testing.T) {
	s, digest := commit(t)
	elsewhere := filepath.Join(t.TempDir(), "run")
	if err := errors.Join(os.Rename(s.RunDir(digest), elsewhere), os.Symlink(elsewhere, s.RunDir(digest))); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.Runs(); err != nil || len(runs) != 1 || !s.HasRun(digest) || len(s.Verify(digest)) > 0 {
		t.Errorf("runs %v, %v, damage %v", runs, err, s.Verify(digest))
	}
	if err := os.RemoveAll(elsewhere); err != nil {
		t.Fatal(err)
	}
	if runs, err := s.Runs(); err != nil || len(runs) != 1 || len(s.Verify(digest)) != 1 {
		t.Errorf("a link to nothing: runs %v, %v, damage %v", runs, err, s.Verify(digest))
	}
}
