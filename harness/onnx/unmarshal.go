package onnx

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/nn"
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
	m, err := scan(data)
	if err != nil {
		return Info{}, fmt.Errorf("ONNX model: %w", err)
	}
	return m.info(), nil
}

func (m *model) info() Info {
	return Info{m.irVersion, m.opset, m.producer, m.producerVersion, m.doc, m.metadata}
}

// Unmarshal reads an ONNX model into a graph. Names, attributes and the bits
// of weights are kept; roles are those of nn.Graph.AssignRoles. A model that
// Marshal has written gives the graph it was written from.
func Unmarshal(data []byte) (*nn.Graph, error) {
	f, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("ONNX model: %w", err)
	}
	g, err := f.importGraph()
	if err != nil {
		return nil, fmt.Errorf("ONNX model: %w", err)
	}
	return g, nil
}

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
