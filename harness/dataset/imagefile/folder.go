package imagefile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// openFolder opens the files of a folder as one stack, in the order of their
// names. Hidden files and folders in it are left out; every other file must be
// read. Only the file in use is open.
func openFolder(dir string) (*Stack, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return nil, err
	}
	type page struct {
		path string
		i    int // in the file
	}
	var pages []page
	var infos []Info
	var first *Stack
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		path := filepath.Join(dir, e.Name())
		s, err := openFile(path)
		if err != nil {
			return nil, err
		}
		s.Close()
		if first == nil {
			first = s
		} else if s.H != first.H || s.W != first.W {
			return nil, fmt.Errorf("%s has %d×%d pixels, %s %d×%d: all images of a folder must be of one size", path, s.H, s.W, pages[0].path, first.H, first.W)
		}
		for i := range s.N {
			pages = append(pages, page{path, i})
			infos = append(infos, s.Info(i))
		}
	}
	if first == nil {
		return nil, fmt.Errorf("%s holds no files", dir)
	}
	f := new(openOne)
	s := &Stack{Format: "folder of " + first.Format, N: len(pages), H: first.H, W: first.W, file: f}
	s.image = func(i int, dst []float32) error { return f.at(pages[i].path, pages[i].i, dst) }
	s.name = func(i int) string { return pages[i].path }
	s.infos = func(i int) Info { return infos[i] }
	return s, nil
}

// openOne keeps the last file open, for those that hold many images.
type openOne struct {
	mu    sync.Mutex
	path  string
	stack *Stack
}

func (f *openOne) at(path string, i int, dst []float32) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path != path {
		if err := f.close(); err != nil {
			return err
		}
		s, err := openFile(path)
		if err != nil {
			return err
		}
		f.path, f.stack = path, s
	}
	if len(dst) != f.stack.H*f.stack.W {
		return errors.New("the file has changed")
	}
	return f.stack.At(i, dst)
}

func (f *openOne) close() error {
	s := f.stack
	f.path, f.stack = "", nil
	if s == nil {
		return nil
	}
	return s.Close()
}

// Close closes the file that is open.
func (f *openOne) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.close()
}
