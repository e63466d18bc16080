package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// droppedMark ends the name of the file that stands beside a finished run's weights
// when they are about to be dropped, and in their place when they are. Weights that are
// there are there, whatever stands beside them.
const droppedMark = ".dropped"

// dropped is what the mark says, for people.
type dropped struct {
	Why string    `json:"why"`
	At  time.Time `json:"at"`
}

// DroppedError says that the weights of a finished run were dropped, and how they come
// back. It matches fs.ErrNotExist.
type DroppedError struct {
	Digest, ID string
	Why        string
	Rebuild    string // the command
}

func (e *DroppedError) Error() string {
	return fmt.Sprintf("the weights of run %s (%.12s) were dropped (%s); '%s' trains it again, to the same bits", e.ID, e.Digest, e.Why, e.Rebuild)
}

func (e *DroppedError) Is(target error) bool { return target == fs.ErrNotExist }

func (s *Store) weightsPath(digest string) string {
	return filepath.Join(s.RunDir(digest), WeightsFile)
}

// Dropped reports whether the weights of a run were dropped.
func (s *Store) Dropped(digest string) bool { return isDropped(s.RunDir(digest), WeightsFile) }

func isDropped(dir, name string) bool {
	if name != WeightsFile {
		return false
	}
	if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	_, err := os.Lstat(filepath.Join(dir, name+droppedMark))
	return err == nil
}

// Drop removes the weights of a finished run, whose manifest goes on to say what they
// were, and returns how many bytes they took: 0 where they were dropped before. After a
// crash at any moment they are there or dropped. A run that a process works on, which
// is one that rebuilds it, is left alone with a *BusyError.
func (s *Store) Drop(digest, why string) (int64, error) {
	n, err := s.drop(digest, why)
	if err != nil && !errors.Is(err, ErrBusy) {
		return 0, fmt.Errorf("dropping the weights of run %.12s: %w", digest, err)
	}
	return n, err
}

func (s *Store) drop(digest, why string) (int64, error) {
	if err := s.whole(digest); err != nil {
		return 0, err
	}
	path := s.weightsPath(digest)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	a, err := s.Last(digest)
	if err == nil && a != nil {
		err = s.busy(a)
	}
	if err != nil {
		return 0, err
	}
	b, err := json.Marshal(dropped{why, time.Now().UTC()})
	if err != nil {
		return 0, err
	}
	if err := s.disk.Write(path+droppedMark, append(b, '\n')); err != nil {
		return 0, err
	}
	if err := s.disk.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	return st.Size(), nil
}

// droppedError is of a run whose weights were dropped.
func (s *Store) droppedError(m *Manifest) error {
	e := &DroppedError{Digest: m.Digest, ID: m.ID, Rebuild: fmt.Sprintf("refocus rebuild %.12s", m.Digest)}
	if m.Backend.Name != "cpu" {
		e.Rebuild += " --backend " + m.Backend.Name
	}
	if filepath.Clean(s.root) != "artifacts" {
		e.Rebuild += " --out " + s.root
	}
	var d dropped
	if b, err := os.ReadFile(s.weightsPath(m.Digest) + droppedMark); err == nil && json.Unmarshal(b, &d) == nil {
		e.Why = d.Why
	}
	return e
}

// ClaimDropped is Claim for a finished run whose weights were dropped, to rebuild it.
// Where they are there it is ErrDone. The claim ends with Restore.
func (s *Store) ClaimDropped(digest string) (*Claim, error) {
	if err := s.whole(digest); err != nil {
		return nil, fmt.Errorf("rebuilding run %.12s: %w", digest, err)
	}
	c, err := s.claim(digest)
	if err != nil {
		if errors.Is(err, ErrBusy) {
			return nil, err
		}
		return nil, fmt.Errorf("rebuilding run %.12s: %w", digest, err)
	}
	if !s.Dropped(digest) {
		c.abandon()
		return nil, ErrDone
	}
	if err := c.workplace(); err != nil {
		c.abandon()
		return nil, err
	}
	return c, nil
}

// Restore puts the weights of a run back that were dropped, and ends the claim. It
// refuses others than those that the run's manifest lists.
func (c *Claim) Restore(weights []byte) error {
	if c.Superseded() {
		return ErrSuperseded
	}
	if err := c.restore(weights); err != nil {
		return fmt.Errorf("rebuilding run %.12s: %w", c.digest, err)
	}
	c.end(func(a *Attempt) { a.Outcome, a.Done = OutcomeFinished, a.Total })
	c.s.disk.RemoveAll(c.s.workDir(c.digest))
	return nil
}

func (c *Claim) restore(weights []byte) error {
	m, err := c.s.Manifest(c.digest)
	if err != nil {
		return err
	}
	f, err := m.file(WeightsFile)
	if err != nil {
		return err
	}
	path := c.s.weightsPath(c.digest)
	if got := files.Of(WeightsFile, weights); got != f {
		return fmt.Errorf("trained again it came to other weights: %d bytes with SHA-256 %s, its manifest says %d bytes with %s", got.Size, got.SHA256, f.Size, f.SHA256)
	}
	if err := c.s.disk.Write(path, weights); err != nil {
		return err
	}
	c.s.disk.Remove(path + droppedMark) // says nothing beside the weights
	return nil
}

// file is what the manifest says of a file.
func (m *Manifest) file(name string) (files.File, error) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, nil
		}
	}
	return files.File{}, fmt.Errorf("the manifest of run %.12s does not list %s", m.Digest, name)
}
