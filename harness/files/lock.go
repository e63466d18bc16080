package files

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/gofrs/flock"
)

// ErrLocked says that another process holds a lock.
var ErrLocked = errors.New("another process holds the lock")

// Lock is an exclusive right between processes. The system ends it with the
// process, whatever kills that.
type Lock struct{ f *flock.Flock }

// newLock is the lock of the file at path, which is everybody's as far as the
// umask allows.
func newLock(path string) *flock.Flock { return flock.New(path, flock.SetPermissions(0o666)) }

// TryLock takes the lock of the file at path, which it makes, or returns
// ErrLocked.
func TryLock(path string) (*Lock, error) {
	l := newLock(path)
	ok, err := l.TryLock()
	switch {
	case err != nil:
		return nil, explain("locking", path, path, err)
	case !ok:
		return nil, ErrLocked
	}
	return &Lock{l}, nil
}

// WaitLock is TryLock, but waits for the lock until ctx is done.
func WaitLock(ctx context.Context, path string) (*Lock, error) {
	l := newLock(path)
	if _, err := l.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		return nil, explain("locking", path, path, err)
	}
	return &Lock{l}, nil
}

// Release ends the right. The file stays: were it removed, a process that waits
// on the removed file and one that makes a new file could both believe that they
// hold the lock. Releasing again does nothing.
func (l *Lock) Release() error { return l.f.Unlock() }

// Remove removes the file and ends the right, for locks that only save doing
// something twice.
func (l *Lock) Remove() error { return errors.Join(os.Remove(l.f.Path()), l.f.Unlock()) }
