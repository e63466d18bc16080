package onnx

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// IRVersion is the version of the file format that Marshal writes. It is the
// one that came with opset 13; later ones are refused by older checkers.
const IRVersion = 7

// multipleKey is the metadata key of nn.Graph.Multiple, which no ONNX field can
// hold.
const multipleKey = "refocus.size_multiple"

// MarshalOptions holds what a file says beside the graph. Everything is
// optional.
type MarshalOptions struct {
	Producer        string // default "refocus"
	ProducerVersion string
	Doc             string // of the model
	InputDoc        string
	OutputDoc       string
	Metadata        map[string]string // written in the order of the keys

	// SamePadding writes 1×1 convolutions with strides as auto_pad SAME_UPPER, which
	// for their kernels is no padding at any size. OpenCV 4.8 to 4.14 infer shapes
	// with a height and a width of nothing; by that formula, and not by the one for
	// explicit padding, both branches of a residual unit then have the same size.
	SamePadding bool
	// HalfWeights stores convolution weights as float16, each with a Cast to
	// float32 before its use: half the size, float32 arithmetic. ONNX Runtime
	// and this package read such files; OpenCV 4.6 does not.
	HalfWeights bool
}

// Marshal encodes the graph as an ONNX model. The same arguments give the same
// bytes.
func Marshal(g *nn.Graph, o MarshalOptions) ([]byte, error) {
	if err := g.Check(); err != nil {
		return nil, fmt.Errorf("graph %q cannot be written as ONNX: %w", g.Name, err)
	}
	if o.Producer == "" {
		o.Producer = "refocus"
	}
	body, err := graphBytes(g, o)
	if err != nil {
		return nil, fmt.Errorf("graph %q cannot be written as ONNX: %w", g.Name, err)
	}
	if len(body) > math.MaxInt32-1<<20 {
		return nil, fmt.Errorf("graph %q of %d bytes is larger than the 2 GiB that ONNX allows in one file", g.Name, len(body))
	}
	var m message
	m.varint(1, IRVersion)
	m.text(2, o.Producer)
	m.text(3, o.ProducerVersion)
	m.text(6, o.Doc)
	m.b = slices.Grow(m.b, len(body)+1024)
	m.bytes(7, body)
	var opset message
	opset.b = protowire.AppendTag(opset.b, 1, protowire.BytesType) // the default domain, present although empty
	opset.b = protowire.AppendString(opset.b, "")
	opset.varint(2, nn.Opset)
	m.bytes(8, opset.b)
	metadata := maps.Clone(o.Metadata)
	if g.Multiple > 1 {
		if metadata == nil {
			metadata = map[string]string{}
		}
		metadata[multipleKey] = strconv.Itoa(g.Multiple)
	}
	for _, k := range slices.Sorted(maps.Keys(metadata)) {
		var e message
		e.text(1, k)
		e.text(2, metadata[k])
		m.bytes(14, e.b)
	}
	return m.b, nil
}

func graphBytes(g *nn.Graph, o MarshalOptions) ([]byte, error) {
	size := 0
	for _, t := range g.Tensors {
		size += 8*len(t.Ints) + 4*len(t.Data) + 256
	}
	m := message{make([]byte, 0, size+256*len(g.Nodes))}
	half := map[string]bool{}
	if o.HalfWeights {
		var err error
		if half, err = halfWeights(g); err != nil {
			return nil, err
		}
		for _, t := range g.Tensors {
			if half[t.Name] {
				b, err := nodeBytes(&nn.Node{Name: t.Name + ".cast", Op: "Cast", Inputs: []string{t.Name + ".half"},
					Outputs: []string{t.Name}, Attrs: nn.Attrs{"to": int64(wire.Float32)}})
				if err != nil {
					return nil, err
				}
				m.bytes(1, b)
			}
		}
	}
	for _, n := range g.Nodes {
		if o.SamePadding && picks(n) {
			n = samePadded(n)
		}
		b, err := nodeBytes(n)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		m.bytes(1, b)
	}
	m.text(2, g.Name)
	for _, t := range g.Tensors {
		if t.Len() == 0 {
			return nil, fmt.Errorf("tensor %q of shape %v is empty, which several consumers refuse", t.Name, t.Shape)
		}
		if half[t.Name] {
			b, err := halfBytes(t)
			if err != nil {
				return nil, err
			}
			m.bytes(5, b)
			continue
		}
		m.bytes(5, tensorBytes(t))
	}
	m.bytes(11, valueBytes(g.Input, o.InputDoc))
	m.bytes(12, valueBytes(g.Output, o.OutputDoc))
	return m.b, nil
}

// picks reports whether a node is a convolution that takes single pixels at
// distances of its strides.
func picks(n *nn.Node) bool {
	one := func(x int) bool { return x == 1 }
	return n.Op == "Conv" && !slices.ContainsFunc(n.Attrs.Ints("kernel_shape", 0, 0), func(x int) bool { return x != 1 }) &&
		!slices.ContainsFunc(n.Attrs.Ints("pads", 0, 0, 0, 0), func(x int) bool { return x != 0 }) &&
		!slices.ContainsFunc(n.Attrs.Ints("strides", 1, 1), one)
}

func samePadded(n *nn.Node) *nn.Node {
	c := *n
	c.Attrs = maps.Clone(n.Attrs)
	delete(c.Attrs, "pads")
	c.Attrs["auto_pad"] = "SAME_UPPER"
	return &c
}

func nodeBytes(n *nn.Node) ([]byte, error) {
	var m message
	for _, s := range n.Inputs {
		m.b = protowire.AppendTag(m.b, 1, protowire.BytesType) // "" means an omitted input
		m.b = protowire.AppendString(m.b, s)
	}
	for _, s := range n.Outputs {
		m.b = protowire.AppendTag(m.b, 2, protowire.BytesType)
		m.b = protowire.AppendString(m.b, s)
	}
	m.text(3, n.Name)
	m.text(4, n.Op)
	for _, k := range slices.Sorted(maps.Keys(n.Attrs)) {
		var a message
		a.text(1, k)
		switch v := n.Attrs[k].(type) {
		case float32:
			a.b = protowire.AppendTag(a.b, 2, protowire.Fixed32Type)
			a.b = protowire.AppendFixed32(a.b, math.Float32bits(v))
			a.varint(20, uint64(wire.AttrFloat))
		case int64:
			a.b = protowire.AppendTag(a.b, 3, protowire.VarintType)
			a.b = protowire.AppendVarint(a.b, uint64(v))
			a.varint(20, uint64(wire.AttrInt))
		case string:
			a.bytes(4, []byte(v))
			a.varint(20, uint64(wire.AttrString))
		case []float32:
			a.bytes(7, floatBytes(v))
			a.varint(20, uint64(wire.AttrFloats))
		case []int64:
			a.bytes(8, varints(v))
			a.varint(20, uint64(wire.AttrInts))
		default:
			return nil, fmt.Errorf("attribute %q has type %T, which ONNX does not have", k, v)
		}
		m.bytes(5, a.b)
	}
	return m.b, nil
}

// halfWeights names the tensors that HalfWeights concerns and checks that the
// names it needs are free.
func halfWeights(g *nn.Graph) (map[string]bool, error) {
	half, nodes, values := map[string]bool{}, map[string]bool{}, map[string]bool{g.Input.Name: true}
	for _, t := range g.Tensors {
		values[t.Name] = true
	}
	for _, n := range g.Nodes {
		nodes[n.Name] = true
		for _, out := range n.Outputs {
			values[out] = true
		}
		if n.Op == "Conv" || n.Op == "ConvTranspose" {
			half[n.Inputs[1]] = g.Tensor(n.Inputs[1]) != nil
		}
	}
	for name := range half {
		if nodes[name+".cast"] || values[name+".half"] {
			return nil, fmt.Errorf("tensor %q cannot be written as float16: the names it would need are taken", name)
		}
	}
	return half, nil
}

func halfBytes(t *nn.Tensor) ([]byte, error) {
	m := message{make([]byte, 0, 2*len(t.Data)+len(t.Name)+64)}
	m.shape(t.Shape)
	m.varint(2, uint64(wire.Float16))
	m.text(8, t.Name+".half")
	m.b = protowire.AppendTag(m.b, 9, protowire.BytesType)
	m.b = protowire.AppendVarint(m.b, uint64(2*len(t.Data)))
	for i, v := range t.Data {
		h, err := toHalf(v)
		if err != nil {
			return nil, fmt.Errorf("tensor %q, element %d: %w", t.Name, i, err)
		}
		m.b = binary.LittleEndian.AppendUint16(m.b, h)
	}
	return m.b, nil
}

func tensorBytes(t *nn.Tensor) []byte {
	m := message{make([]byte, 0, 4*len(t.Data)+8*len(t.Ints)+len(t.Name)+64)}
	m.shape(t.Shape)
	if t.Ints != nil {
		m.varint(2, uint64(wire.Int64))
	} else {
		m.varint(2, uint64(wire.Float32))
	}
	m.text(8, t.Name)
	m.b = protowire.AppendTag(m.b, 9, protowire.BytesType)
	m.b = protowire.AppendVarint(m.b, uint64(4*len(t.Data)+8*len(t.Ints)))
	for _, v := range t.Data {
		m.b = binary.LittleEndian.AppendUint32(m.b, math.Float32bits(v))
	}
	for _, v := range t.Ints {
		m.b = binary.LittleEndian.AppendUint64(m.b, uint64(v))
	}
	return m.b
}

// valueBytes describes the graph's input or output. A dynamic batch is named,
// a dynamic height or width is an empty Dimension: with any other form of
// dynamic size some consumer does not load the file.
func valueBytes(v nn.Value, doc string) []byte {
	var shape message
	for i, d := range v.Shape {
		var dim message
		switch {
		case d > 0:
			dim.varint(1, uint64(d))
		case i == 0:
			dim.text(2, "N")
		}
		shape.bytes(1, dim.b)
	}
	var tensor, typ, m message
	tensor.varint(1, uint64(wire.Float32))
	tensor.bytes(2, shape.b)
	typ.bytes(1, tensor.b)
	m.text(1, v.Name)
	m.bytes(2, typ.b)
	m.text(3, doc)
	return m.b
}

// message appends protobuf fields, leaving out those with a default value.
type message struct{ b []byte }

func (m *message) varint(n protowire.Number, v uint64) {
	if v != 0 {
		m.b = protowire.AppendTag(m.b, n, protowire.VarintType)
		m.b = protowire.AppendVarint(m.b, v)
	}
}

func (m *message) text(n protowire.Number, s string) {
	if s != "" {
		m.b = protowire.AppendTag(m.b, n, protowire.BytesType)
		m.b = protowire.AppendString(m.b, s)
	}
}

// shape appends a tensor's dimensions; a scalar has none.
func (m *message) shape(shape []int) {
	if len(shape) == 0 {
		return
	}
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = int64(d)
	}
	m.bytes(1, varints(dims))
}

// bytes appends a submessage or packed field, also an empty one.
func (m *message) bytes(n protowire.Number, b []byte) {
	m.b = protowire.AppendTag(m.b, n, protowire.BytesType)
	m.b = protowire.AppendBytes(m.b, b)
}

func varints(v []int64) []byte {
	var b []byte
	for _, x := range v {
		b = protowire.AppendVarint(b, uint64(x))
	}
	return b
}

func floatBytes(v []float32) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}
