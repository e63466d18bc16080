package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Writable returns an error if files could not be made in the folder at path, or,
// where it does not exist, if it could not be made. It says whose folder it is.
func Writable(path string) error {
	folder, err := existing(path)
	if err != nil {
		return err
	}
	if err := access(folder); err != nil {
		return explain("writing to", path, folder, &fs.PathError{Op: "access", Path: folder, Err: err})
	}
	return nil
}

// existing is the folder at path or the nearest one above it that exists.
func existing(path string) (string, error) {
	for {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || filepath.Dir(path) == path {
			return path, err
		}
		path = filepath.Dir(path)
	}
}

// explain says what was being done to path, and where permission is missing at a
// path whose folder that is and what would give it.
func explain(doing, path, at string, err error) error {
	err = fmt.Errorf("%s %s: %w", doing, path, err)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	folder, other := existing(at)
	if st, serr := os.Stat(folder); other == nil && serr == nil && !st.IsDir() || access(folder) == nil {
		folder = filepath.Dir(folder)
	}
	if whose := owner(folder); whose != "" {
		return fmt.Errorf("%w; %s", err, whose)
	}
	return err
}
