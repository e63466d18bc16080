package files

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Record is a small file that tells others what the process that made it is doing.
// Its maker alone rewrites it, in place, so that what becomes of its name is for
// others to decide: where they have given the name to another file, the maker
// disturbs nobody, and finds out. A reader may see half of a change; it reads again.
type Record struct {
	f    *os.File
	path string
	size int
}

// CreateRecord makes the record at path, with room for size bytes. An error that
// matches fs.ErrExist says that there is a file of the name: of all processes, on
// all machines, that make one name one makes it, on network file systems too.
func CreateRecord(path string, size int, content []byte) (*Record, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, explain("making", path, path, err)
	}
	r := &Record{f, path, size}
	if err := r.Write(content); err != nil {
		r.Close()
		os.Remove(path)
		return nil, err
	}
	return r, nil
}

// Write replaces what the record says, and fills its room with space.
func (r *Record) Write(content []byte) error {
	if len(content) >= r.size {
		return fmt.Errorf("writing %s: %d bytes in a record for %d", r.path, len(content), r.size)
	}
	b := append(bytes.Clone(content), bytes.Repeat([]byte{' '}, r.size-len(content))...)
	b[r.size-1] = '\n'
	if _, err := r.f.WriteAt(b, 0); err != nil {
		return fmt.Errorf("writing %w", err)
	}
	if err := r.f.Sync(); err != nil { // another machine sees what its server has
		return fmt.Errorf("writing %w", err)
	}
	return nil
}

// Replaced reports whether the record's name certainly leads to another file now,
// or nowhere.
func (r *Record) Replaced() bool {
	there, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	own, ownErr := r.f.Stat()
	return err == nil && ownErr == nil && !os.SameFile(there, own)
}

// Close ends the writing. The file stays.
func (r *Record) Close() error { return r.f.Close() }
