package files

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Disk writes files and folders. The zero value writes on the machine's file
// system, as the functions of the same names do. Its methods may be called
// concurrently, also from several processes, with the same paths.
type Disk struct{ fs FS }

// On is a Disk on another file system than the machine's. What it reads it reads
// from the machine's.
func On(fs FS) Disk { return Disk{fs} }

func (d Disk) sys() FS {
	if d.fs == nil {
		return OS{}
	}
	return d.fs
}

// Write calls Disk.Write for the machine's file system.
func Write(path string, content []byte) error { return Disk{}.Write(path, content) }

// Create calls Disk.Create for the machine's file system.
func Create(path string, write func(io.Writer) error) (File, error) {
	return Disk{}.Create(path, write)
}

// Mkdir calls Disk.Mkdir for the machine's file system.
func Mkdir(path string) error { return Disk{}.Mkdir(path) }

// Write makes or replaces the file at path.
func (d Disk) Write(path string, content []byte) error {
	_, err := d.Create(path, copyOf(content))
	return err
}

// WriteUnsynced is Write for what is not worth waiting for the disk: after a
// crash of the machine the file may be there with any content.
func (d Disk) WriteUnsynced(path string, content []byte) error {
	_, err := d.create(path, false, copyOf(content))
	return err
}

func copyOf(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// Create makes or replaces the file at path with what write writes.
func (d Disk) Create(path string, write func(io.Writer) error) (File, error) {
	return d.create(path, true, write)
}

func (d Disk) create(path string, sync bool, write func(io.Writer) error) (File, error) {
	f, err := d.replace(path, sync, write)
	if err != nil {
		return File{}, explain("writing", path, path, err)
	}
	return f, nil
}

func (d Disk) replace(path string, sync bool, write func(io.Writer) error) (File, error) {
	dir, base := filepath.Dir(path), filepath.Base(path)
	prefix := tempPrefix(base)
	temp := filepath.Join(dir, prefix+machine()+rand.Text())
	out, err := d.sys().Create(temp)
	if err != nil {
		return File{}, err
	}
	fail := func(err error) (File, error) {
		out.Close()
		d.sys().Remove(temp)
		return File{}, err
	}
	h := sha256.New()
	n := new(counter)
	b := bufio.NewWriterSize(io.MultiWriter(out, h, n), 1<<18)
	if err := write(b); err != nil {
		return fail(err)
	}
	if err := b.Flush(); err != nil {
		return fail(err)
	}
	if sync {
		if err := out.Sync(); err != nil {
			return fail(err)
		}
	}
	if err := out.Close(); err != nil {
		return fail(err)
	}
	if err := d.sys().Rename(temp, path); err != nil {
		// Since it was closed, another writer of the file may have finished and swept
		// it away, which is as if that one had come a moment later.
		if _, gone := os.Lstat(temp); !errors.Is(gone, fs.ErrNotExist) {
			return fail(err)
		}
		if _, absent := os.Lstat(path); absent != nil {
			return File{}, err
		}
	}
	if sync {
		if err := d.sys().SyncDir(dir); err != nil {
			return File{}, err
		}
	}
	d.sweepTemps(path, prefix)
	return File{base, int64(*n), hex.EncodeToString(h.Sum(nil))}, nil
}

const tempBegin = ".tmp-"

// tempPrefix begins the temporary names of the file called base.
func tempPrefix(base string) string {
	if len(base) > 200 { // file systems end at 255
		base = Sum([]byte(base))
	}
	return tempBegin + base + "-"
}

// Temporary reports whether a name is one of those that a Disk gives a file until it is
// whole. A killed writer leaves it; the next one of the file removes it.
func Temporary(name string) bool { return strings.HasPrefix(name, tempBegin) }

// sweepTemps removes the temporary files of path that killed writers left. Locks
// tell which those are on this machine, and need not tell of another machine's: its
// file is left until it is much older than the one just written. Both times are the
// file system's, whatever the machines' clocks say.
func (d Disk) sweepTemps(path, prefix string) {
	dir := filepath.Dir(path)
	d.sweep(dir, prefix, func(name string) bool {
		temp := filepath.Join(dir, name)
		if strings.HasPrefix(name[len(prefix):], machine()) {
			return !held(temp)
		}
		old, err := os.Lstat(temp)
		written, werr := os.Lstat(path)
		return err == nil && werr == nil && written.ModTime().Sub(old.ModTime()) > abandoned
	})
}

// abandoned is how long a file of another machine has not been written to when it
// counts as left behind.
const abandoned = time.Hour

// machine marks the temporary files of processes whose locks this one sees.
var machine = sync.OnceValue(func() string {
	p := Self()
	if p.Boot == "" {
		p.Boot = p.Host
	}
	kernel, _, _ := strings.Cut(p.Boot, " ")
	return Sum([]byte(kernel))[:8]
})

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Sweep removes the files of a folder whose names are the prefix and something
// without a dash and which no process holds: what killed ones left.
func (d Disk) Sweep(dir, prefix string) {
	d.sweep(dir, prefix, func(name string) bool { return !held(filepath.Join(dir, name)) })
}

func (d Disk) sweep(dir, prefix string, left func(name string) bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), prefix); ok && !strings.Contains(rest, "-") && left(e.Name()) {
			d.sys().Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// Mkdir makes a folder and those above it that are missing.
func (d Disk) Mkdir(path string) error {
	if err := d.mkdir(filepath.Clean(path)); err != nil {
		return explain("making the folder", path, path, err)
	}
	return nil
}

func (d Disk) mkdir(path string) error {
	parent := filepath.Dir(path)
	st, err := os.Stat(path)
	switch {
	case err == nil && !st.IsDir():
		return errors.New("not a directory")
	case errors.Is(err, fs.ErrNotExist):
		if parent != path {
			if err := d.mkdirMissing(parent); err != nil {
				return err
			}
		}
		if err := d.sys().Mkdir(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case err != nil:
		return err
	}
	// Also where it was there: whoever made it may have died before the sync.
	return d.sys().SyncDir(parent)
}

// mkdirMissing is mkdir for the folders above. Folders are made from the top down,
// so only the lowest one that is there can be one whose maker died before the sync.
// It may also be one that we could not have made: an error is none of ours.
func (d Disk) mkdirMissing(path string) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		d.sys().SyncDir(filepath.Dir(path))
		return nil
	}
	return d.mkdir(path)
}

// Rename moves a file or folder, durably.
func (d Disk) Rename(from, to string) error {
	if err := d.sys().Rename(from, to); err != nil {
		at := to
		for _, dir := range []string{from, filepath.Dir(from)} { // a folder that moves changes too
			if st, serr := os.Stat(dir); serr == nil && st.IsDir() && access(dir) != nil {
				at = dir
			}
		}
		return explain("moving "+from+" to", to, at, err)
	}
	for _, dir := range []string{filepath.Dir(to), filepath.Dir(from)} {
		if err := d.sys().SyncDir(dir); err != nil {
			return fmt.Errorf("moving %s to %s: %w", from, to, err)
		}
	}
	return nil
}

// SetAside moves a file or folder into the folder at aside, which it makes, under
// a name that is free, and returns the new path.
func (d Disk) SetAside(path, aside string) (string, error) {
	if err := d.Mkdir(aside); err != nil {
		return "", err
	}
	to := filepath.Join(aside, filepath.Base(path))
	for n, name := 2, to; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return to, d.Rename(path, to)
		}
		to = fmt.Sprintf("%s-%d", name, n)
	}
}

// Settle makes durable what another process wrote to a folder: it may have died
// between writing and syncing. Who goes on from a file found there calls it first.
func (d Disk) Settle(dir string) error {
	if err := d.sys().SyncDir(dir); err != nil {
		return fmt.Errorf("syncing the folder %s: %w", dir, err)
	}
	return nil
}

// Remove removes a file or an empty folder. It may come back in a crash of the
// machine.
func (d Disk) Remove(path string) error { return d.sys().Remove(path) }

// RemoveAll removes a folder with all it holds. All or some of it may come back
// in a crash of the machine.
func (d Disk) RemoveAll(path string) error {
	if err := d.sys().RemoveAll(path); err != nil {
		return explain("removing", path, path, err)
	}
	return nil
}

// secret is the machine's file system, on which others cannot read what is made.
type secret struct{ OS }

func (secret) Create(path string) (Handle, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// WriteSecret is Write for what nobody but the user may read.
func WriteSecret(path string, content []byte) error { return On(secret{}).Write(path, content) }

// DiskUse adds the sizes of the files at and below a path, links not followed; what
// cannot be read counts as nothing.
func DiskUse(path string) int64 {
	var n int64
	filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}
