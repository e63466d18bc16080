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

// Read is Unmarshal with options and the file's description.
func Read(data []byte, o ReadOptions) (*nn.Graph, Info, error) { return read(data, o, nil) }

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
