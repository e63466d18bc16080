package onnx

import (
	"fmt"

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
	return Info{m.IRVersion, m.Opset, m.Producer, m.ProducerVersion, m.Doc, m.Metadata}
}

// Unmarshal reads an ONNX model into a graph. Names, attributes and the bits
// of weights are kept; roles are those of nn.Graph.AssignRoles. A model that
// Marshal has written gives the graph it was written from.
func Unmarshal(data []byte) (*nn.Graph, error) {
	f, err := decode(data, nil)
	if err != nil {
		return nil, fmt.Errorf("ONNX model: %w", err)
	}
	g, err := f.importGraph()
	if err != nil {
		return nil, fmt.Errorf("ONNX model: %w", err)
	}
	return g, nil
}
