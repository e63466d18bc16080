// Package crashfs is a file system for tests that can be cloned at a crash of the
// machine, after the strict mode of pebble's vfs.MemFS: the clone has what was
// synced, and of the rest nothing or a random part.
//
// What is written goes to a real folder as well, from which it is read; the
// package keeps account of what the disk would hold. It is harsher than any
// common file system: every folder is synced for itself, entries get lost in any
// order, and a file that was not synced may be empty, cut short or full of zeros.
package crashfs

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/harness/files"
)

// ErrOff is the error of every operation after the last one.
var ErrOff = errors.New("the process has ended")

// FS is a files.FS below one folder.
type FS struct {
	root string

	mu      sync.Mutex
	left    int // operations until the process ends
	tree    *node
	pending []change // of folders, in order
	last    string   // operation
}

// node is a file or a folder.
type node struct {
	dir bool
	// Entries of a folder: as the process sees them, and as they are on disk.
	now, disk map[string]*node
	// Content of a file: likewise.
	data, synced []byte
}

// change is what one operation does to entries; it is kept or lost as a whole.
type change []entry

type entry struct {
	dir  *node
	name string
	node *node // nil: removed
}

func folder() *node { return &node{dir: true, now: map[string]*node{}, disk: map[string]*node{}} }

// New is an empty file system in the empty folder root, whose process ends after
// a number of operations.
func New(root string, operations int) *FS {
	return &FS{root: root, left: operations, tree: folder()}
}

// Revive starts another process, which ends after a number of operations.
func (f *FS) Revive(operations int) { f.left = operations }

// Off reports whether the process has ended.
func (f *FS) Off() bool { return f.left <= 0 }

// do carries out an operation, unless the process has ended, and if it succeeds
// takes account of it.
func (f *FS) do(name, path string, operation func() error, account func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left <= 0 {
		return ErrOff
	}
	f.left--
	f.last = name + " " + strings.TrimPrefix(path, f.root)
	if err := operation(); err != nil {
		return err
	}
	account()
	return nil
}

// find is the node at a path, nil where the file system has none.
func (f *FS) find(path string) *node {
	rel, err := filepath.Rel(f.root, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return nil
	}
	n := f.tree
	for _, name := range strings.Split(rel, string(filepath.Separator)) {
		if n != nil && name != "." {
			n = n.now[name]
		}
	}
	return n
}

// at is the entry of a node at a path.
func (f *FS) at(path string, n *node) entry {
	return entry{f.find(filepath.Dir(path)), filepath.Base(path), n}
}

// change makes a change of entries that is not on disk yet.
func (f *FS) change(c ...entry) {
	for _, e := range c {
		e.set(e.dir.now)
	}
	f.pending = append(f.pending, c)
}

func (e entry) set(entries map[string]*node) {
	if e.node == nil {
		delete(entries, e.name)
	} else {
		entries[e.name] = e.node
	}
}

func (f *FS) Create(path string) (files.Handle, error) {
	var h *handle
	err := f.do("create", path, func() error {
		real, err := files.OS{}.Create(path)
		h = &handle{f, path, real, &node{}}
		return err
	}, func() { f.change(f.at(path, h.node)) })
	return h, err
}

func (f *FS) Rename(from, to string) error {
	return f.do("rename", to, func() error { return os.Rename(from, to) }, func() {
		n := f.find(from)
		f.change(f.at(from, nil), f.at(to, n))
	})
}

func (f *FS) Mkdir(path string) error {
	return f.do("mkdir", path, func() error { return files.OS{}.Mkdir(path) }, func() { f.change(f.at(path, folder())) })
}

func (f *FS) Remove(path string) error {
	return f.do("remove", path, func() error { return os.Remove(path) }, func() { f.remove(path) })
}

func (f *FS) RemoveAll(path string) error {
	return f.do("remove all", path, func() error { return os.RemoveAll(path) }, func() { f.remove(path) })
}

// remove takes an entry away, after those of the folder that it may be.
func (f *FS) remove(path string) {
	n := f.find(path)
	if n == nil {
		return // nothing, or a lock, which is none of ours
	}
	for _, name := range slices.Sorted(maps.Keys(n.now)) {
		f.remove(filepath.Join(path, name))
	}
	f.change(f.at(path, nil))
}

func (f *FS) SyncDir(path string) error {
	return f.do("sync folder", path, func() error { return nil }, func() {
		n := f.find(path)
		f.pending = slices.DeleteFunc(f.pending, func(c change) bool {
			if !slices.ContainsFunc(c, func(e entry) bool { return e.dir == n }) {
				return false
			}
			c.persist()
			return true
		})
	})
}

func (c change) persist() {
	for _, e := range c {
		e.set(e.dir.disk)
	}
}

type handle struct {
	f    *FS
	path string
	real files.Handle
	node *node
}

func (h *handle) Write(b []byte) (n int, err error) {
	err = h.f.do("write", h.path, func() error {
		n, err = h.real.Write(b)
		h.node.data = append(h.node.data, b[:n]...)
		return err
	}, func() {})
	return n, err
}

func (h *handle) Sync() error {
	return h.f.do("sync", h.path, func() error { return nil }, func() { h.node.synced = slices.Clone(h.node.data) })
}

func (h *handle) Close() error {
	err := h.real.Close()
	if h.f.Off() {
		return ErrOff
	}
	return err
}

// Crash writes to the folder to what is on the disk now. Of what was not synced
// nothing is there, or, where rng is not nil, a random part.
func (f *FS) Crash(to string, rng *rand.Rand) error {
	disk := map[*node]map[string]*node{}
	var read func(n *node)
	read = func(n *node) {
		if n.dir && disk[n] == nil {
			disk[n] = maps.Clone(n.disk)
			for _, c := range n.disk {
				read(c)
			}
			for _, c := range n.now {
				read(c)
			}
		}
	}
	read(f.tree)
	for _, c := range f.pending {
		for _, e := range c {
			read(e.dir)
			if e.node != nil {
				read(e.node)
			}
		}
		if rng != nil && rng.IntN(2) == 0 {
			for _, e := range c {
				e.set(disk[e.dir])
			}
		}
	}
	var write func(n *node, path string) error
	write = func(n *node, path string) error {
		if !n.dir {
			return os.WriteFile(path, n.content(rng), 0o666)
		}
		if err := os.MkdirAll(path, 0o777); err != nil {
			return err
		}
		for name, c := range disk[n] {
			if err := write(c, filepath.Join(path, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return write(f.tree, to)
}

// content is what a crash leaves of a file.
func (n *node) content(rng *rand.Rand) []byte {
	if rng == nil || len(n.data) == len(n.synced) {
		return n.synced
	}
	kept := len(n.synced) + rng.IntN(len(n.data)-len(n.synced)+1)
	b := slices.Clone(n.data[:kept])
	if rng.IntN(2) == 0 {
		b = append(b, make([]byte, len(n.data)-kept)...)
	}
	return b
}

// Work is done on a file system that may stop at any operation. It keeps what was
// reported done, for Check.
type Work struct {
	// Do works below root until it is done, or the process has ended.
	Do func(d files.Disk, root string)
	// Check says what is wrong below root after a crash.
	Check func(d files.Disk, root string) error
}

// Everywhere does a work again and again and has the machine crash at each of its
// operations in turn. It yields for every crash which it was and what was wrong
// after it. Every second time the work is begun by a process that is killed and
// gone on with by another, with which the machine crashes. sabotage stands
// between the work and the file system. scratch makes empty folders.
func Everywhere(scratch func() string, rng *rand.Rand, sabotage func(files.FS) files.FS, begin func() Work) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for operations := 0; ; operations++ {
			for _, killed := range []bool{false, true} {
				w, root := begin(), scratch()
				f := New(root, operations)
				after1 := -1 // operations of the process that was killed
				if killed {
					after1 = rng.IntN(operations + 1)
					f.Revive(after1)
					w.Do(files.On(sabotage(f)), root)
					f.Revive(operations)
				}
				w.Do(files.On(sabotage(f)), root)
				for _, lost := range []*rand.Rand{nil, rng} {
					after := scratch()
					err := f.Crash(after, lost)
					if err == nil {
						err = w.Check(files.On(WithoutSync(WithoutSyncDir(files.OS{}))), after)
					}
					if !yield(fmt.Sprintf("crash after %d operations, the last %q (killed before: after %d, lost all that was not synced: %v)", operations, f.last, after1, lost == nil), err) {
						return
					}
				}
				if !f.Off() && !killed {
					return
				}
			}
		}
	}
}

// Sound sabotages nothing.
func Sound(f files.FS) files.FS { return f }

// WithoutSync forgets to sync files.
func WithoutSync(f files.FS) files.FS { return withoutSync{f} }

type withoutSync struct{ files.FS }

func (f withoutSync) Create(path string) (files.Handle, error) {
	h, err := f.FS.Create(path)
	return unsynced{h}, err
}

type unsynced struct{ files.Handle }

func (unsynced) Sync() error { return nil }

// WithoutSyncDir forgets to sync folders.
func WithoutSyncDir(f files.FS) files.FS { return withoutSyncDir{f} }

type withoutSyncDir struct{ files.FS }

func (withoutSyncDir) SyncDir(string) error { return nil }
