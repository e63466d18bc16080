package store

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
)

// ErrBusy says that another process holds the claim.
var ErrBusy = errors.New("another process is working on this run")

// ErrDone says that the run is already finished.
var ErrDone = errors.New("run is finished")

// Claim is the exclusive right to produce one run.
type Claim struct {
	s      *Store
	digest string
	lock   *files.Lock
	path   string // of what was there, damaged
	why    error
}

// Claim takes the run for this process, or returns ErrBusy or ErrDone. The
// claim ends with Commit, Release or the death of the process. A finished run
// that is no longer whole is set aside, to be made again.
func (s *Store) Claim(digest string) (*Claim, error) {
	dir := s.workDir(digest)
	// The lock lies beside the directory, which Commit removes.
	l, err := files.TryLock(dir + ".lock")
	if errors.Is(err, files.ErrLocked) {
		return nil, ErrBusy
	}
	if err != nil {
		return nil, fmt.Errorf("claiming run %.12s (the store's file system must allow writing and locks): %w", digest, err)
	}
	c := &Claim{s: s, digest: digest, lock: l}
	if err := c.prepare(); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// SetAside takes a finished run, which is damaged, out of the way, to be made
// again, and returns where it is now.
func (s *Store) SetAside(digest string) (string, error) {
	l, err := files.TryLock(s.workDir(digest) + ".lock")
	if errors.Is(err, files.ErrLocked) {
		err = ErrBusy
	}
	if err != nil {
		return "", fmt.Errorf("setting run %.12s aside: %w", digest, err)
	}
	defer l.Release()
	return s.disk.SetAside(s.RunDir(digest), s.asideDir())
}

// prepare makes the work directory of a run that is not there.
func (c *Claim) prepare() error {
	dir := c.s.workDir(c.digest)
	err := c.s.whole(c.digest)
	if err == nil { // by another process, which may have died after publishing
		if err := c.s.disk.Settle(filepath.Dir(c.s.RunDir(c.digest))); err != nil {
			return err
		}
		c.s.disk.RemoveAll(dir)
		c.s.disk.RemoveAll(dir + ".new")
		return ErrDone
	}
	var damage *files.Damage
	if !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &damage) {
		return fmt.Errorf("looking at run %.12s: %w", c.digest, err)
	}
	if damage != nil {
		c.why = damage
		if c.path, err = c.s.disk.SetAside(c.s.RunDir(c.digest), c.s.asideDir()); err != nil {
			return fmt.Errorf("setting run %.12s aside, which is damaged (%v): %w", c.digest, c.why, err)
		}
	}
	err = c.s.disk.Mkdir(dir)
	if err == nil {
		err = files.Writable(dir) // and not only after an epoch
	}
	if err != nil {
		return fmt.Errorf("claiming run %.12s: %w", c.digest, err)
	}
	return nil
}

// Damaged returns where the run is now that stood in the place of this one, and
// what is wrong with it; an empty path where there was none.
func (c *Claim) Damaged() (path string, why error) { return c.path, c.why }

// Checkpoint returns the run's last checkpoint, or nil if there is none.
func (c *Claim) Checkpoint() ([]byte, error) {
	if err := c.s.disk.Settle(c.s.workDir(c.digest)); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(c.CheckpointPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SetCheckpoint replaces the run's checkpoint; after a crash at any moment
// either the old or the new one is there, whole.
func (c *Claim) SetCheckpoint(b []byte) error {
	return c.s.disk.Write(c.CheckpointPath(), b)
}

// CheckpointPath is the file of the run's checkpoint.
func (c *Claim) CheckpointPath() string {
	return filepath.Join(c.s.workDir(c.digest), checkpointFile)
}

// SetAside renames the run's checkpoint, which is damaged, and returns its new
// path. It stays there until the run is finished.
func (c *Claim) SetAside() (string, error) {
	path := filepath.Join(c.s.workDir(c.digest), damagedFile)
	return path, c.s.disk.Rename(c.CheckpointPath(), path)
}

// Commit publishes the run: the files and the manifest appear in RunDir, whole.
// It sets the manifest's Digest and Files, and ends the claim. Where it fails
// nothing is published, and the claim and the checkpoint remain.
func (c *Claim) Commit(m *Manifest, contents map[string][]byte) error {
	made := c.s.workDir(c.digest) + ".new"
	err := c.write(made, m, contents)
	if err == nil {
		err = c.s.disk.Rename(made, c.s.RunDir(c.digest))
	}
	if err != nil {
		c.s.disk.RemoveAll(made)
		return fmt.Errorf("publishing run %.12s: %w", c.digest, err)
	}
	c.s.disk.RemoveAll(c.s.workDir(c.digest)) // what should be left of it harms nobody
	return c.Release()
}

// write makes a run's directory.
func (c *Claim) write(dir string, m *Manifest, contents map[string][]byte) error {
	if err := c.s.disk.RemoveAll(dir); err != nil { // of a process that died
		return err
	}
	if err := c.s.disk.Mkdir(dir); err != nil {
		return err
	}
	m.Format = ManifestFormat
	m.Digest = c.digest
	m.Files = nil
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if err := c.s.disk.Write(filepath.Join(dir, name), contents[name]); err != nil {
			return err
		}
		m.Files = append(m.Files, files.Of(name, contents[name]))
	}
	b, err := files.SealJSON(m)
	if err != nil {
		return err
	}
	return c.s.disk.Write(filepath.Join(dir, ManifestFile), b)
}

// Release ends the claim and keeps the checkpoint.
func (c *Claim) Release() error { return c.lock.Release() }
