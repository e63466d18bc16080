package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/crashfs"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// run is the digest and the manifest of a run.
func run(name string) (string, *Manifest) {
	sp := spec{8, name}
	digest, err := Digest("run", sp)
	if err != nil {
		panic(err)
	}
	raw, _ := json.Marshal(sp)
	return digest, &Manifest{Spec: raw, ID: name}
}

// training is what a harness does to its store: two checkpoints of a run, and the
// run.
func training() crashfs.Work {
	checkpoints := []string{"after an epoch", "after two epochs"}
	history, _ := json.Marshal(History{Best: 1, Epochs: make([]Epoch, 1)})
	digest, m := run("a")
	type report struct {
		kept     string // checkpoint
		finished bool
	}
	train := func(s *Store, done *report) error {
		c, err := s.Claim(digest)
		if errors.Is(err, ErrDone) {
			done.finished = true
			return nil
		}
		if err != nil {
			return err
		}
		defer c.Release()
		if path, why := c.Damaged(); path != "" {
			return fmt.Errorf("the run was damaged: %w", why)
		}
		last, err := c.Checkpoint()
		if err != nil {
			return err
		}
		if len(last) > 0 && !slices.Contains(checkpoints, string(last)) {
			return fmt.Errorf("the checkpoint is %q", last)
		}
		if string(last) < done.kept {
			return fmt.Errorf("the checkpoint is %q, %q was kept", last, done.kept)
		}
		for _, k := range checkpoints {
			if k > string(last) {
				if err := c.SetCheckpoint([]byte(k)); err != nil {
					return err
				}
				done.kept = k
			}
		}
		if err := c.Commit(m, map[string][]byte{HistoryFile: history, WeightsFile: []byte("weights")}); err != nil {
			return err
		}
		done.finished = true
		return nil
	}
	var reported report
	return crashfs.Work{
		Do: func(d files.Disk, root string) {
			if s, err := open(root, d); err == nil {
				train(s, &reported)
			}
		},
		Check: func(d files.Disk, root string) error {
			s, err := open(root, d)
			if err != nil {
				return err
			}
			if reported.finished && !s.HasRun(digest) {
				return errors.New("the run was finished and is not there")
			}
			again := reported
			if err := train(s, &again); err != nil { // whatever is there, another process goes on
				return err
			}
			if bad := s.Verify(digest); len(bad) > 0 {
				return &bad[0]
			}
			return nil
		},
	}
}

// A crash of the machine at any moment loses nothing that was reported done and
// leaves no run and no checkpoint that is not whole.
func TestCrash(t *testing.T) {
	crashes := 0
	for crash, err := range crashfs.Everywhere(t.TempDir, seed.Rand(t), crashfs.Sound, training) {
		if crashes++; err != nil {
			t.Errorf("%s: %v", crash, err)
		}
	}
	if crashes < 150 { // some 45 operations, four crashes at each
		t.Errorf("only %d crashes", crashes)
	}
}

// TestCrash would find that a sync is missing.
func TestCrashFindsMissingSyncs(t *testing.T) {
	for name, sabotage := range map[string]func(files.FS) files.FS{"files": crashfs.WithoutSync, "folders": crashfs.WithoutSyncDir} {
		found := false
		for crash, err := range crashfs.Everywhere(t.TempDir, seed.Rand(t), sabotage, training) {
			if found = err != nil; found {
				t.Logf("%s are not synced: %s: %v", name, crash, err)
				break
			}
		}
		if !found {
			t.Errorf("nobody notices that %s are not synced", name)
		}
	}
}
