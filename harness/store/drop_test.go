package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/crashfs"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// Dropped weights are no damage: the run stays finished, its manifest says what they
// were, and those alone come back.
func TestDrop(t *testing.T) {
	s, digest := commit(t)
	manifest := filepath.Join(s.RunDir(digest), ManifestFile)
	before, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ClaimDropped(digest); !errors.Is(err, ErrDone) {
		t.Errorf("rebuilding what is there: %v, want ErrDone", err)
	}
	for i, want := range []int64{int64(len("weights")), 0} {
		if n, err := s.Drop(digest, "a test"); err != nil || n != want {
			t.Fatalf("dropping for the %d. time: %d bytes, %v; want %d", i+1, n, err, want)
		}
	}
	if !s.Dropped(digest) || !s.HasRun(digest) {
		t.Errorf("dropped %v, finished %v", s.Dropped(digest), s.HasRun(digest))
	}
	if bad := s.Verify(digest); len(bad) > 0 {
		t.Errorf("it counts as damaged: %v", bad)
	}
	if after, err := os.ReadFile(manifest); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the manifest has changed (%v)", err)
	}
	if _, err := s.Claim(digest); !errors.Is(err, ErrDone) {
		t.Errorf("training it again: %v, want ErrDone", err)
	}
	if _, err := s.History(digest); err != nil {
		t.Error(err)
	}
	var d *DroppedError
	if _, err := s.Weights(digest); !errors.As(err, &d) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "(a test); 'refocus rebuild "+digest[:12]+" ") {
		t.Errorf("reading them: %v", err)
	}

	c, err := s.ClaimDropped(digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ClaimDropped(digest); !errors.Is(err, ErrBusy) {
		t.Errorf("rebuilding twice at once: %v", err)
	}
	if err := c.Restore([]byte("weightz")); err == nil || !strings.Contains(err.Error(), "came to other weights") || !s.Dropped(digest) {
		t.Errorf("other weights: %v", err)
	}
	if err := c.Restore([]byte("weights")); err != nil {
		t.Fatal(err)
	}
	if b, err := s.Weights(digest); err != nil || string(b) != "weights" || s.Dropped(digest) || len(s.Verify(digest)) > 0 {
		t.Errorf("rebuilt: %q, %v, %v", b, err, s.Verify(digest))
	}
	if entries, err := os.ReadDir(s.RunDir(digest)); err != nil || len(entries) != 3 {
		t.Errorf("left in the run's folder: %v, %v", entries, err)
	}
	if a, err := s.Last(digest); err != nil || a.Number != 2 || a.Outcome != OutcomeFinished {
		t.Errorf("the ledger says %+v, %v", a, err)
	}
}

// What was lost without having been dropped is damage, and so is what is half there.
func TestLostIsNotDropped(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"removed":             func(p string) error { return os.Remove(p) },
		"truncated":           func(p string) error { return os.Truncate(p, 2) },
		"truncated with mark": func(p string) error { return errors.Join(os.Truncate(p, 2), os.WriteFile(p+droppedMark, nil, 0o644)) },
	} {
		s, digest := commit(t)
		if err := harm(s.weightsPath(digest)); err != nil {
			t.Fatal(err)
		}
		if s.Dropped(digest) || s.HasRun(digest) || len(s.Verify(digest)) != 1 {
			t.Errorf("%s: dropped %v, finished %v, damage %v", name, s.Dropped(digest), s.HasRun(digest), s.Verify(digest))
		}
		var damage *files.Damage
		if n, err := s.Drop(digest, "a test"); n != 0 || !errors.As(err, &damage) {
			t.Errorf("%s: dropping it: %d, %v", name, n, err)
		}
	}
}

// A run that is being rebuilt is left alone by those who drop.
func TestDropLeavesRebuildersAlone(t *testing.T) {
	s, digest := commit(t)
	if _, err := s.Drop(digest, "a test"); err != nil {
		t.Fatal(err)
	}
	c, err := s.ClaimDropped(digest)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	// The moment at which the weights are back and the claim has not ended.
	if err := c.restore([]byte("weights")); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Drop(digest, "a test"); !errors.Is(err, ErrBusy) || n != 0 || s.Dropped(digest) {
		t.Errorf("dropped: %d, %v", n, err)
	}
}

// A crash at any moment of dropping and rebuilding leaves the weights there or dropped,
// and the run finished.
func TestCrashOfDropping(t *testing.T) {
	history, _ := json.Marshal(History{Best: 1, Epochs: make([]Epoch, 1)})
	digest, m := run("a")
	// What was reported done.
	type report struct{ dropped, back bool }
	do := func(s *Store, done *report) error {
		c, err := s.Claim(digest)
		if err == nil {
			err = c.Commit(m, map[string][]byte{HistoryFile: history, WeightsFile: []byte("weights")})
			c.Release()
		}
		if err != nil && !errors.Is(err, ErrDone) {
			return err
		}
		if !done.dropped {
			if _, err := s.Drop(digest, "a test"); err != nil {
				return err
			}
			done.dropped = true
		}
		c, err = s.ClaimDropped(digest)
		if err == nil {
			err = c.Restore([]byte("weights"))
			c.Release()
		}
		if err != nil && !errors.Is(err, ErrDone) {
			return err
		}
		done.back = true
		return nil
	}
	work := func() crashfs.Work {
		var reported report
		return crashfs.Work{
			Do: func(d files.Disk, root string) {
				if s, err := open(root, d); err == nil {
					do(s, &reported)
				}
			},
			Check: func(d files.Disk, root string) error {
				s, err := open(root, d)
				if err != nil {
					return err
				}
				if reported.back && s.Dropped(digest) {
					return errors.New("the weights were rebuilt and are gone")
				}
				if reported.dropped && !s.HasRun(digest) {
					return errors.New("the run was finished and is not there")
				}
				if s.HasRun(digest) {
					if bad := s.Verify(digest); len(bad) > 0 {
						return &bad[0]
					}
					if b, err := s.Weights(digest); (err == nil) == s.Dropped(digest) || err == nil && string(b) != "weights" {
						return fmt.Errorf("weights %q, %v, dropped %v", b, err, s.Dropped(digest))
					}
				}
				again := reported
				if err := do(s, &again); err != nil {
					return fmt.Errorf("going on: %w", err)
				}
				if b, err := s.Weights(digest); err != nil || string(b) != "weights" {
					return fmt.Errorf("at the end the weights are %q, %w", b, err)
				}
				return nil
			},
		}
	}
	crashes := 0
	for crash, err := range crashfs.Everywhere(t.TempDir, seed.Rand(t), crashfs.Sound, work) {
		if crashes++; err != nil {
			t.Errorf("%s: %v", crash, err)
		}
	}
	if crashes < 150 {
		t.Errorf("only %d crashes", crashes)
	}
}
