//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Files and folders have the permissions that the umask leaves.
func TestUmask(t *testing.T) {
	for _, umask := range []int{0o002, 0o022, 0o077} {
		old := syscall.Umask(umask)
		dir := filepath.Join(t.TempDir(), "a", "b")
		err := errors.Join(
			Mkdir(dir),
			Write(filepath.Join(dir, "file"), nil),
			Disk{}.WriteUnsynced(filepath.Join(dir, "part"), nil))
		if lock, lerr := TryLock(filepath.Join(dir, "lock")); lerr == nil {
			lock.Release()
		} else {
			err = errors.Join(err, lerr)
		}
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		for path, mode := range map[string]int{filepath.Dir(dir): 0o777, dir: 0o777, filepath.Join(dir, "file"): 0o666, filepath.Join(dir, "part"): 0o666, filepath.Join(dir, "lock"): 0o666} {
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if want := fs.FileMode(mode &^ umask); st.Mode().Perm() != want {
				t.Errorf("umask %03o: %s has mode %v, want %v", umask, path, st.Mode().Perm(), want)
			}
		}
	}
}

// Whoever may not write is told whose folder it is.
func TestForeignFolder(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere; TestTwoUsers and TestForeignFolders of the command become others")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "below", "file")
	_, err := TryLock(filepath.Join(dir, "lock"))
	for what, err := range map[string]error{
		"asking":  Writable(path),
		"writing": Write(filepath.Join(dir, "file"), nil),
		"folder":  Mkdir(filepath.Dir(path)),
		"locking": err,
	} {
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir+" belongs to") || !strings.Contains(err.Error(), "with mode 0555") || !strings.Contains(err.Error(), "umask 002") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
