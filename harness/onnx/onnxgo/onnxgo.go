package onnxgo

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// ErrUnread is wrapped by the error of a model that onnx-go does not decode.
var ErrUnread = errors.New("onnx-go does not read the model")

// Check decodes the model with onnx-go and compares every operator with its
// attributes, inputs and outputs, and every bit of every tensor, with the
// reading of package onnx. The error names the first difference; it wraps
// ErrUnread where onnx-go has no reading to compare.
func Check(data []byte) error {
	m, err := wire.Scan(data)
	if err != nil {
		return fmt.Errorf("ONNX model: %w", err)
	}
	stripped, err := strip(m)
	if err != nil {
		return err
	}
	rec := &recorder{}
	if err := rec.decode(stripped); err != nil {
		return fmt.Errorf("%w: %w", ErrUnread, err)
	}
	tensors := rec.tensors()
	for _, t := range m.Tensors {
		if t.Len > 0 {
			if err := sameTensor(t, tensors[t.Name]); err != nil {
				return err
			}
		}
	}
	calls := rec.calls
	for _, n := range m.Nodes {
		if empty(n) {
			continue
		}
		if len(calls) == 0 || !calls[0].is(n) {
			return fmt.Errorf("%s: onnx-go read another operator here", n.Label())
		}
		for _, a := range n.Attrs {
			if err := sameAttr(a, calls[0].attrs[a.Name]); err != nil {
				return fmt.Errorf("%s: attribute %q: %w", n.Label(), a.Name, err)
			}
		}
		calls = calls[1:]
	}
	if len(calls) > 0 {
		return fmt.Errorf("onnx-go read %d more operators", len(calls))
	}
	return nil
}

// strip re-encodes the model for onnx-go: nodes and initialisers as they are,
// inputs and outputs without types (it would allocate their shapes), nothing
// else. A tensor without elements would make it panic and is left out.
func strip(m *wire.Model) ([]byte, error) {
	var g []byte
	message := func(dst []byte, num protowire.Number, b []byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), b)
	}
	readable := func(t *wire.Tensor) error {
		switch {
		case t.External != nil:
			return fmt.Errorf("%w: tensor %q keeps its data in another file", ErrUnread, t.Name)
		case t.Type != wire.Float32 && t.Type != wire.Float64 && t.Type != wire.Int32 && t.Type != wire.Int64:
			return fmt.Errorf("%w: tensor %q has type %s", ErrUnread, t.Name, t.Type)
		}
		return nil
	}
	for _, n := range m.Nodes {
		for _, a := range n.Attrs {
			if t, ok := a.Value.(*wire.Tensor); ok {
				if err := readable(t); err != nil {
					return nil, err
				}
			}
		}
		if !empty(n) {
			g = message(g, 1, n.Raw)
		}
	}
	for _, t := range m.Tensors {
		if err := readable(t); err != nil {
			return nil, err
		}
		if t.Len > 0 {
			g = message(g, 5, t.Raw)
		}
	}
	for _, v := range m.Inputs {
		g = message(g, 11, message(nil, 1, []byte(v.Name)))
	}
	for _, v := range m.Outputs {
		g = message(g, 12, message(nil, 1, []byte(v.Name)))
	}
	return message(nil, 7, g), nil
}

// empty reports whether the node is a Constant without elements.
func empty(n *wire.Node) bool {
	if n.Op != "Constant" || len(n.Attrs) != 1 {
		return false
	}
	t, ok := n.Attrs[0].Value.(*wire.Tensor)
	return ok && t.Len == 0
}

func sameAttr(a wire.Attr, v any) error {
	switch want := a.Value.(type) {
	case *wire.Tensor:
		t, _ := v.(tensor.Tensor)
		return sameTensor(want, t)
	case float32:
		if got, ok := v.(float32); ok && math.Float32bits(got) == math.Float32bits(want) {
			return nil
		}
	case []float32:
		if got, ok := v.([]float32); ok && slices.EqualFunc(got, want, sameBits) {
			return nil
		}
	case []int64:
		if got, ok := v.([]int64); ok && slices.Equal(got, want) {
			return nil
		}
	default:
		if reflect.DeepEqual(v, want) {
			return nil
		}
	}
	return fmt.Errorf("onnx-go read %v, package onnx %v", v, a.Value)
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

// sameTensor compares the bits of all elements. onnx-go does not keep the shape
// of scalars.
func sameTensor(t *wire.Tensor, v tensor.Tensor) error {
	want, err := t.Array(nil)
	if err != nil {
		return err
	}
	if v == nil {
		return fmt.Errorf("tensor %q: onnx-go read none", t.Name)
	}
	if s := []int(v.Shape()); t.Len != 1 && !slices.Equal(s, t.Dims) {
		return fmt.Errorf("tensor %q: onnx-go read shape %v, the file has %v", t.Name, s, t.Dims)
	}
	ok := false
	switch d := v.Data().(type) {
	case []float32:
		ok = slices.EqualFunc(d, want.F32, sameBits)
	case float32:
		ok = len(want.F32) == 1 && sameBits(d, want.F32[0])
	case []float64:
		ok = slices.EqualFunc(d, want.F64, func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })
	case float64:
		ok = len(want.F64) == 1 && math.Float64bits(d) == math.Float64bits(want.F64[0])
	case []int64:
		ok = slices.Equal(d, want.Ints)
	case int64:
		ok = len(want.Ints) == 1 && d == want.Ints[0]
	case []int32:
		ok = slices.EqualFunc(d, want.Ints, func(a int32, b int64) bool { return int64(a) == b })
	case int32:
		ok = len(want.Ints) == 1 && int64(d) == want.Ints[0]
	}
	if !ok {
		return fmt.Errorf("tensor %q: onnx-go read other values", t.Name)
	}
	return nil
}
