package onnx

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// external reads tensors from the files beside a model.
type external struct {
	root  *os.Root
	files map[string]*externalFile
}

type externalFile struct {
	*os.File
	size int64
	used int64 // bytes that tensors have taken; they may not overlap
}

func (e *external) close() {
	for _, f := range e.files {
		f.Close()
	}
}

func (e *external) read(t *wire.Tensor) ([]byte, error) {
	x := t.External
	if !filepath.IsLocal(filepath.FromSlash(x.Location)) {
		return nil, fmt.Errorf("its data are in %q, outside the model's folder", x.Location)
	}
	f := e.files[x.Location]
	if f == nil {
		if len(e.files) == maxExternal {
			return nil, fmt.Errorf("its data are spread over more than %d files", maxExternal)
		}
		name := filepath.FromSlash(x.Location)
		st, err := e.root.Stat(name) // before opening, which waits at a named pipe
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", x.Location)
		}
		if err != nil {
			return nil, fmt.Errorf("its data: %w", err)
		}
		file, err := e.root.Open(name)
		if err != nil {
			return nil, fmt.Errorf("its data: %w", err)
		}
		f = &externalFile{File: file, size: st.Size()}
		e.files[x.Location] = f
	}
	n := t.Bytes()
	if x.Offset > f.size || n > f.size-x.Offset {
		return nil, fmt.Errorf("its data, %d bytes from %d on, are beyond the end of %q (%d bytes)", n, x.Offset, x.Location, f.size)
	}
	if f.used += n; f.used > f.size {
		return nil, fmt.Errorf("%q holds %d bytes, the tensors claim more", x.Location, f.size)
	}
	b := make([]byte, n)
	if _, err := f.ReadAt(b, x.Offset); err != nil && !(err == io.EOF && n == 0) {
		return nil, fmt.Errorf("its data in %q: %w", x.Location, err)
	}
	return b, nil
}

// maxExternal bounds the files that are open at once. Exporters write one.
const maxExternal = 256
