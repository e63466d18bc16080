package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/files"
)

// OwnershipError refuses a plugin or a lock file that others could have put there or
// could change.
type OwnershipError struct {
	Path   string // of the executable or the lock file
	Folder string // to allow
	Reason string // "/tmp belongs to user 1001"
}

func (e *OwnershipError) Error() string {
	return fmt.Sprintf("%s is not safe to use: %s; if you trust whoever can write there, allow it with `refocus backends allow %s`", e.Path, e.Reason, e.Folder)
}

// safe returns an *OwnershipError if another user could have put the file at path there,
// could change it or could put another in its place: what leads to it, links included,
// must belong to this user or to root and must not be writable by others, except for
// folders that are sticky. Folders that the user has allowed are left aside.
func safe(path string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	allowed, err := allowedFolders()
	if err != nil {
		return err
	}
	for _, p := range slices.Compact([]string{path, real}) {
		if slices.ContainsFunc(allowed, func(folder string) bool { return below(p, folder) }) {
			continue
		}
		for at := p; ; at = filepath.Dir(at) {
			// Of the folders above, those that links stand for have been looked at
			// where they lead to.
			if reason := dubious(at, at == p || at == filepath.Dir(p)); reason != "" {
				return &OwnershipError{Path: path, Folder: filepath.Dir(p), Reason: reason}
			}
			if filepath.Dir(at) == at {
				break
			}
		}
	}
	return nil
}

func below(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

// allowedFile lists the folders that the user allows, one a line.
func allowedFile() (string, error) {
	folder, err := os.UserConfigDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(folder, "refocus", "allowed-folders"), nil
}

func allowedFolders() ([]string, error) {
	path, err := allowedFile()
	if err != nil {
		return nil, nil // without a home nothing is allowed
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the allowed folders: %w", err)
	}
	var folders []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); filepath.IsAbs(line) {
			folders = append(folders, line)
		}
	}
	return folders, nil
}

// Allow lets plugins and lock files below a folder be used although others can write to
// it, and returns its absolute path.
func Allow(folder string) (string, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return "", err
	}
	if st, err := os.Stat(folder); err != nil {
		return "", err
	} else if !st.IsDir() {
		return "", fmt.Errorf("%s is not a folder", folder)
	}
	all, err := allowedFolders()
	if err != nil {
		return "", err
	}
	path, err := allowedFile()
	if err != nil || slices.Contains(all, folder) {
		return folder, err
	}
	if err := files.Mkdir(filepath.Dir(path)); err != nil {
		return "", err
	}
	return folder, files.Write(path, []byte(strings.Join(append(all, folder), "\n")+"\n"))
}
