package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Worked lists the digests of the runs that have a work folder.
func (s *Store) Worked() ([]string, error) { return folders(filepath.Join(s.root, "runs", ".work")) }

// folders lists the folders in one, none where there is none.
func folders(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var all []string
	for _, e := range entries {
		if e.IsDir() {
			all = append(all, e.Name())
		}
	}
	return all, err
}

// Leftovers lists what attempts at a run have left in its work folder and no later one
// would go on from: everything of a finished run, of another one all but its newest
// checkpoint. Of a run that a process works on it is nothing, with a *BusyError.
func (s *Store) Leftovers(digest string) ([]string, error) {
	a, err := s.Last(digest)
	if err == nil && a != nil {
		err = s.busy(a)
	}
	if err != nil {
		return nil, err
	}
	return s.leftovers(digest)
}

func (s *Store) leftovers(digest string) ([]string, error) {
	work := s.workDir(digest)
	if s.HasRun(digest) && !s.Dropped(digest) {
		return []string{work}, nil
	}
	newest := ""
	checkpoints, err := s.checkpoints(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, path := range checkpoints {
		if _, err := os.Lstat(path); err == nil {
			newest = path
			break
		}
	}
	if newest == "" {
		return []string{work}, nil
	}
	var left []string
	for _, dir := range slices.Compact([]string{work, filepath.Dir(newest)}) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if path != newest && path != filepath.Dir(newest) {
				left = append(left, path)
			}
		}
	}
	return left, nil
}

// Sweep removes a run's leftovers, with the run claimed so that no attempt begins
// meanwhile; a *BusyError says that one is going on.
func (s *Store) Sweep(digest string) error {
	c, err := s.claim(digest)
	if err != nil {
		return err
	}
	defer c.abandon()
	left, err := s.leftovers(digest)
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := s.disk.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

// Aside lists the folders of runs that were set aside as damaged, by their names, with
// the digests of the runs.
func (s *Store) Aside() (map[string]string, error) {
	names, err := folders(s.asideDir())
	all := map[string]string{}
	for _, name := range names {
		if len(name) >= 64 {
			all[filepath.Join(s.asideDir(), name)] = name[:64]
		}
	}
	return all, err
}

// RemoveAside removes a folder that Aside lists.
func (s *Store) RemoveAside(path string) error { return s.disk.RemoveAll(path) }
