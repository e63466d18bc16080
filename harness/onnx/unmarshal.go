package onnx

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// Info is what a file says beside its graph.
type Info struct {
	IRVersion       int64
	Opset           int64
	Producer        string
	ProducerVersion string
	Doc             string
	Metadata        map[string]string
	Outputs         []string // names
}

// Inspect reads a file's description without decoding its tensors.
func Inspect(data []byte) (Info, error) {
	m, err := wire.Scan(data)
	if err != nil {
		return Info{}, fmt.Errorf("ONNX model: %w", err)
	}
	return info(m), nil
}

func info(m *wire.Model) Info {
	i := Info{m.IRVersion, m.Opset, m.Producer, m.ProducerVersion, m.Doc, m.Metadata, nil}
	for _, v := range m.Outputs {
		i.Outputs = append(i.Outputs, v.Name)
	}
	return i
}

// ReadOptions says how a model is read.
type ReadOptions struct {
	Output string // name of the output that the graph is to have, "" for the first
}

// Unmarshal reads an ONNX model into a graph. Names, attributes and the bits
// of weights are kept; roles are those of nn.Graph.AssignRoles. A model that
// Marshal has written gives the graph it was written from. Of several outputs
// it takes the first. Tensors whose data lie in other files are refused; ReadFile
// reads them.
func Unmarshal(data []byte) (*nn.Graph, error) {
	g, _, err := read(data, ReadOptions{}, nil)
	return g, err
}

// maxFile bounds a model's size: ONNX allows no more in one file.
const maxFile = 2 << 30

// ReadFile reads an ONNX model and its description from a file. Data that the
// model keeps in other files are read from its folder and the folders in it,
// from nowhere else.
func ReadFile(path string, o ReadOptions) (*nn.Graph, Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Info{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, Info{}, err
	}
	if len(data) > maxFile {
		return nil, Info{}, fmt.Errorf("%s: more bytes than the %d that an ONNX file can have", path, maxFile)
	}
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, Info{}, err
	}
	defer root.Close()
	e := &external{root: root, files: map[string]*externalFile{}}
	defer e.close()
	g, i, err := read(data, o, e.read)
	if err != nil {
		return nil, Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return g, i, nil
}

func read(data []byte, o ReadOptions, external func(*wire.Tensor) ([]byte, error)) (*nn.Graph, Info, error) {
	f, err := decode(data, external)
	if err != nil {
		return nil, Info{}, fmt.Errorf("ONNX model: %w", err)
	}
	g, err := f.importGraph(o.Output)
	if err != nil {
		return nil, Info{}, fmt.Errorf("ONNX model: %w", err)
	}
	return g, info(f.Model), nil
}

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
		file, err := e.root.Open(filepath.FromSlash(x.Location))
		if err != nil {
			return nil, fmt.Errorf("its data: %w", err)
		}
		st, err := file.Stat()
		if err == nil && !st.Mode().IsRegular() {
			err = fmt.Errorf("%s is no file", x.Location)
		}
		if err != nil {
			file.Close()
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

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
