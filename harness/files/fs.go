package files

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"syscall"
)

// FS is what a Disk changes a file system by. OS is the machine's; tests have one
// that loses what was not synced.
type FS interface {
	// Create makes a file that does not exist and opens it for writing.
	Create(path string) (Handle, error)
	Rename(from, to string) error
	Mkdir(path string) error
	Remove(path string) error
	RemoveAll(path string) error
	// SyncDir makes what was created, renamed and removed in a folder durable.
	SyncDir(path string) error
}

// Handle is a file being written.
type Handle interface {
	io.Writer
	Sync() error // makes the file's bytes durable, not its name
	Close() error
}

// OS is the file system of the machine.
type OS struct{}

// Create also locks the file, which tells Sweep that its writer lives.
func (OS) Create(path string) (Handle, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err
	}
	hold(f) // where the file system has no locks, a file may be swept from under its writer
	return f, nil
}

func (OS) Rename(from, to string) error { return os.Rename(from, to) }
func (OS) Mkdir(path string) error      { return os.Mkdir(path, 0o777) }
func (OS) Remove(path string) error     { return os.Remove(path) }
func (OS) RemoveAll(path string) error  { return os.RemoveAll(path) }

// SyncDir does nothing where folders cannot be synced.
func (OS) SyncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if errors.Is(err, fs.ErrPermission) {
		return nil // one may write to it and not list it
	}
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		return nil
	}
	return err
}
