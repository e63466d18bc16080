package onnx

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// operator is one node of a file.
type operator struct {
	*wire.Node
	values map[string]any // attributes: int64, []int64, float32, []float32, string, *wire.Array
}

// file is a decoded model: its structure and its constants.
type file struct {
	*wire.Model
	operators []*operator
	constants map[string]*wire.Array // initialisers
}

// decode scans the bytes and decodes the tensors. read gives the bytes of
// external data, nil refuses them.
func decode(data []byte, read func(*wire.Tensor) ([]byte, error)) (*file, error) {
	m, err := wire.Scan(data)
	if err != nil {
		return nil, err
	}
	f := &file{Model: m, constants: map[string]*wire.Array{}}
	for _, t := range m.Tensors {
		if f.constants[t.Name], err = t.Array(read); err != nil {
			return nil, err
		}
	}
	for _, n := range m.Nodes {
		o := &operator{n, map[string]any{}}
		for _, a := range n.Attrs {
			o.values[a.Name] = a.Value
			if t, ok := a.Value.(*wire.Tensor); ok {
				if o.values[a.Name], err = t.Array(read); err != nil {
					return nil, fmt.Errorf("%s: attribute %q: %w", n.Label(), a.Name, err)
				}
			}
		}
		f.operators = append(f.operators, o)
	}
	return f, nil
}
