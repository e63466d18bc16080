package dataset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/crashfs"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// generating makes two sets of images of one structure.
func generating(t *testing.T) func() crashfs.Work {
	want := newBench(t, 1)
	want.generate(t)
	good := map[string]string{} // exit waves may get lost; images are not made of them again
	for _, s := range want.sources {
		dir := filepath.Join("data", s.Digest())
		for name, b := range contents(t, filepath.Join(want.root, dir)) {
			good[filepath.Join(dir, name)] = b
		}
	}
	return func() crashfs.Work {
		b := newBench(t, 1)
		b.opt.Workers = 1
		var finished []Ready
		return crashfs.Work{
			Do: func(d files.Disk, root string) {
				opt := b.opt
				opt.disk = d
				finished, _ = Generate(context.Background(), root, b.sources, opt)
			},
			Check: func(d files.Disk, root string) error {
				for _, s := range b.sources {
					_, err := Find(root, s.Digest())
					if err == nil {
						err = damageOf(root, s.Digest())
					}
					if missing := errors.Is(err, os.ErrNotExist); err != nil && !missing || missing && len(finished) > 0 {
						return err
					}
				}
				opt := b.opt
				opt.disk = d
				if _, err := Generate(context.Background(), root, b.sources, opt); err != nil {
					return fmt.Errorf("going on: %w", err)
				}
				for name := range good {
					if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, []byte(good[name])) {
						return fmt.Errorf("going on gave another %s (%v)", name, err)
					}
				}
				return nil
			},
		}
	}
}

// A crash of the machine at any moment leaves no set that is not whole, loses none
// that was reported done, and the same bytes come of going on.
func TestCrash(t *testing.T) {
	crashes := 0
	for crash, err := range crashfs.Everywhere(t.TempDir, seed.Rand(t), crashfs.Sound, generating(t)) {
		if crashes++; err != nil {
			t.Errorf("%s: %v", crash, err)
		}
	}
	if crashes < 180 { // some 50 operations, four crashes at each
		t.Errorf("only %d crashes", crashes)
	}
}

// TestCrash would find that a sync is missing.
func TestCrashFindsMissingSyncs(t *testing.T) {
	for name, sabotage := range map[string]func(files.FS) files.FS{"files": crashfs.WithoutSync, "folders": crashfs.WithoutSyncDir} {
		found := false
		for crash, err := range crashfs.Everywhere(t.TempDir, seed.Rand(t), sabotage, generating(t)) {
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

// A crash at any moment of removing sets leaves each of them whole or gone, and they
// can be made again.
func TestCrashOfRemoving(t *testing.T) {
	work := func() crashfs.Work {
		b := newBench(t, 1)
		b.opt.Workers = 1
		var whole []string // sets, before any was removed
		return crashfs.Work{
			Do: func(d files.Disk, root string) {
				opt := b.opt
				opt.disk = d
				whole = nil
				if _, err := Generate(context.Background(), root, b.sources[:1], opt); err != nil {
					return
				}
				both := []string{b.sources[0].Digest(), b.sources[0].Specimens()}
				for _, digest := range both {
					if damageOf(root, digest) == nil {
						whole = append(whole, digest)
					}
				}
				for _, digest := range both {
					if remove(d, root, digest, 0) != nil {
						return
					}
				}
			},
			Check: func(d files.Disk, root string) error {
				sets, err := Sets(root)
				if err != nil {
					return err
				}
				for _, digest := range sets {
					// Exit waves that a kill left before they were described and synced may be half
					// there after a crash; Generate, below, makes them again.
					if err := damageOf(root, digest); err != nil && slices.Contains(whole, digest) && !strings.Contains(err.Error(), "nothing describes these exit waves") {
						return err
					}
				}
				left, err := Removed(root)
				if err != nil {
					return err
				}
				for _, path := range left {
					if err := os.RemoveAll(path); err != nil {
						return err
					}
				}
				opt := b.opt
				opt.disk = d
				if _, err := Generate(context.Background(), root, b.sources, opt); err != nil {
					return fmt.Errorf("making them again: %w", err)
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
	if crashes < 100 {
		t.Errorf("only %d crashes", crashes)
	}
}
