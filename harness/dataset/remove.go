package dataset

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// ErrInUse says that somebody has asked for a set not long ago.
var ErrInUse = errors.New("the data set was made or asked for not long ago")

// goneDir holds sets that are being removed, hidden from all who look for sets.
func goneDir(root string) string { return filepath.Join(dataDir(root), ".removed") }

// Unused reports whether a finished set of simulated images, or of exit waves, was
// neither made nor asked for during the last while. What is not finished, and a user's
// own images, are never unused: the first is being made, the second only their owner
// could make again.
func Unused(root, digest string, during time.Duration) (bool, error) {
	m, err := ReadManifest(root, digest)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || m.Kind != Simulated && m.Kind != Waves {
		return false, err
	}
	return old(filepath.Join(dataDir(root), digest), during)
}

// old reports whether a set in a folder was neither made nor asked for during a while.
func old(dir string, during time.Duration) (bool, error) {
	at, err := files.Used(filepath.Join(dir, manifestFile))
	return err == nil && time.Since(at) >= during, err
}

// Remove removes a set that is unused, or returns ErrInUse. After a crash at any moment
// it is there or gone. One that somebody asks for in the moment in which it goes is
// made again.
func Remove(root, digest string, during time.Duration) error {
	err := remove(files.Disk{}, root, digest, during)
	if err != nil && !errors.Is(err, ErrInUse) {
		return fmt.Errorf("removing data set %.12s: %w", digest, err)
	}
	return err
}

func remove(disk files.Disk, root, digest string, during time.Duration) error {
	dir := filepath.Join(dataDir(root), digest)
	if ok, err := Unused(root, digest, during); err != nil {
		return err
	} else if !ok {
		return ErrInUse
	}
	gone, err := disk.SetAside(dir, goneDir(root))
	if err != nil {
		return err
	}
	if ok, err := old(gone, during); err == nil && !ok { // asked for in this moment
		if err := disk.Rename(gone, dir); err != nil {
			return err
		}
		return ErrInUse
	}
	return disk.RemoveAll(gone)
}

// Removed lists what was being removed when a process ended.
func Removed(root string) ([]string, error) {
	entries, err := os.ReadDir(goneDir(root))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []string
	for _, e := range entries {
		all = append(all, filepath.Join(goneDir(root), e.Name()))
	}
	return all, err
}

// Aside lists the folders of sets that were set aside as damaged, with their digests.
func Aside(root string) (map[string]string, error) {
	dir := filepath.Join(dataDir(root), ".damaged")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	all := map[string]string{}
	for _, e := range entries {
		if len(e.Name()) >= 64 {
			all[filepath.Join(dir, e.Name())] = e.Name()[:64]
		}
	}
	return all, err
}
