package onnx

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the enumerations in onnx.proto that this package uses.
const (
	attrFloat  = 1
	attrInt    = 2
	attrString = 3
	attrTensor = 4
	attrFloats = 6
	attrInts   = 7

	typeFloat  = 1
	typeInt32  = 6
	typeInt64  = 7
	typeHalf   = 10
	typeDouble = 11
)

var typeNames = map[int64]string{
	1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
	10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16",
}

// typeName names an element type for a person.
func typeName(t int64) string {
	if s := typeNames[t]; s != "" {
		return s
	}
	return fmt.Sprintf("element type %d", t)
}

// maxItems bounds the nodes, the initialisers and the names of one file. The
// largest U-Nets in use have a few hundred; without a bound a few bytes per
// item would become a few hundred in memory.
const maxItems = 100_000

// model is what the scan keeps of a file. Byte slices point into it.
type model struct {
	irVersion                      int64
	opset                          int64
	producer, producerVersion, doc string
	metadata                       map[string]string
	name                           string
	nodes                          []*rawNode
	tensors                        []*rawTensor
	inputs, outputs                []rawValue
	graph                          []byte // the GraphProto's bytes
}

type rawNode struct {
	name, op, domain string
	inputs, outputs  []string
	attrs            []rawAttr
}

// label names the node in messages; exporters may leave names out.
func (n *rawNode) label() string {
	name := n.name
	if name == "" && len(n.outputs) > 0 {
		name = n.outputs[0]
	}
	return fmt.Sprintf("node %q (%s)", name, n.op)
}

type rawAttr struct {
	name   string
	typ    int64
	tensor *rawTensor
}

type rawTensor struct {
	name  string
	dims  []int
	dtype int64
	len   int
}

type rawValue struct {
	name  string
	dtype int64
	dims  []int // 0: dynamic
	known bool  // the file states a shape
}

// scan reads the structure of a model from its bytes and refuses what a
// decoder cannot be trusted with.
func scan(data []byte) (*model, error) {
	m := &model{metadata: map[string]string{}}
	opsets := map[string]int64{}
	err := fields(data, func(f field) error {
		switch f.num {
		case 1:
			m.irVersion = int64(f.n)
		case 2:
			return f.text(&m.producer)
		case 3:
			return f.text(&m.producerVersion)
		case 6:
			return f.text(&m.doc)
		case 7:
			if m.graph != nil {
				return errors.New("has two graphs")
			}
			return f.message(&m.graph)
		case 8:
			domain, version, err := f.opset()
			if err != nil {
				return err
			}
			if domain == "ai.onnx" {
				domain = ""
			}
			if _, dup := opsets[domain]; dup {
				return fmt.Errorf("states the operator set of domain %q twice", domain)
			}
			opsets[domain] = version
		case 14:
			k, v, err := f.entry()
			if err != nil {
				return err
			}
			if _, dup := m.metadata[k]; dup {
				return fmt.Errorf("metadata key %q appears twice", k)
			}
			if len(m.metadata) == maxItems {
				return errors.New("has too much metadata")
			}
			m.metadata[k] = v
		case 20:
			return errors.New("has training information, which is not supported")
		case 25:
			return errors.New("defines functions, which are not supported")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if m.graph == nil {
		return nil, errors.New("has no graph (is it an ONNX file?)")
	}
	m.opset = opsets[""]
	if m.opset == 0 {
		return nil, errors.New("does not state its operator set")
	}
	if err := m.scanGraph(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *model) scanGraph() error {
	names := 0
	err := fields(m.graph, func(f field) error {
		switch f.num {
		case 1:
			n, err := f.node()
			if err != nil {
				return fmt.Errorf("node %d: %w", len(m.nodes), err)
			}
			names += len(n.inputs) + len(n.outputs) + len(n.attrs)
			m.nodes = append(m.nodes, n)
		case 2:
			return f.text(&m.name)
		case 5:
			t, err := f.tensor()
			if err != nil {
				return fmt.Errorf("initializer %d: %w", len(m.tensors), err)
			}
			if t.name == "" {
				return fmt.Errorf("initializer %d has no name", len(m.tensors))
			}
			m.tensors = append(m.tensors, t)
		case 11, 12:
			v, err := f.value()
			if err != nil {
				return fmt.Errorf("input or output %d: %w", len(m.inputs)+len(m.outputs), err)
			}
			if f.num == 11 {
				m.inputs = append(m.inputs, v)
			} else {
				m.outputs = append(m.outputs, v)
			}
		case 14:
			return errors.New("has quantization annotations, which are not supported")
		case 15:
			return errors.New("has sparse initializers, which are not supported")
		}
		if len(m.nodes) > maxItems || len(m.tensors) > maxItems || len(m.inputs)+len(m.outputs) > maxItems || names > 10*maxItems {
			return fmt.Errorf("has more than %d nodes, initializers or names", maxItems)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return m.checkNames()
}

// checkNames verifies that every name is defined once and before its use.
func (m *model) checkNames() error {
	defined := map[string]string{}
	define := func(name, what string) error {
		if old, dup := defined[name]; dup {
			return fmt.Errorf("%s: the name is already that of %s", what, old)
		}
		defined[name] = what
		return nil
	}
	for _, t := range m.tensors {
		if err := define(t.name, fmt.Sprintf("initializer %q", t.name)); err != nil {
			return err
		}
	}
	listed := map[string]bool{}
	inputs := m.inputs[:0:0]
	for _, v := range m.inputs {
		if v.name == "" || listed[v.name] {
			return fmt.Errorf("input %q: name missing or used twice", v.name)
		}
		listed[v.name] = true
		if _, ok := defined[v.name]; ok {
			continue // old files list their initializers among the inputs
		}
		if err := define(v.name, fmt.Sprintf("input %q", v.name)); err != nil {
			return err
		}
		inputs = append(inputs, v)
	}
	m.inputs = inputs
	nodes := map[string]bool{}
	for _, n := range m.nodes {
		if n.name != "" && nodes[n.name] {
			return fmt.Errorf("%s: the name is used by two nodes", n.label())
		}
		nodes[n.name] = true
		for _, in := range n.inputs {
			if _, ok := defined[in]; in != "" && !ok {
				return fmt.Errorf("%s: input %q is not defined before it (missing initializer, or a cycle)", n.label(), in)
			}
		}
		if len(n.outputs) == 0 || n.outputs[0] == "" {
			return fmt.Errorf("%s: has no output", n.label())
		}
		for _, out := range n.outputs {
			if out == "" {
				continue
			}
			if err := define(out, fmt.Sprintf("output %q of %s", out, n.label())); err != nil {
				return err
			}
		}
	}
	for _, v := range m.outputs {
		if _, ok := defined[v.name]; !ok {
			return fmt.Errorf("graph output %q is produced by no node", v.name)
		}
	}
	return nil
}

// stripped re-encodes the model for the decoder: nodes and initialisers as
// they are, inputs and outputs without types (the decoder would allocate
// their shapes), nothing else. A tensor without elements makes the decoder
// panic; the scan has such tensors, the stripped model has not.
func (m *model) stripped() ([]byte, error) {
	g := message{make([]byte, 0, len(m.graph))}
	nodes, tensors := 0, 0
	err := fields(m.graph, func(f field) error {
		switch f.num {
		case 1:
			if n := m.nodes[nodes]; !n.empty() {
				g.bytes(1, f.b)
			}
			nodes++
		case 5:
			if m.tensors[tensors].len > 0 {
				g.bytes(5, f.b)
			}
			tensors++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, v := range m.inputs {
		var b message
		b.text(1, v.name)
		g.bytes(11, b.b)
	}
	for _, v := range m.outputs {
		var b message
		b.text(1, v.name)
		g.bytes(12, b.b)
	}
	out := message{make([]byte, 0, len(g.b)+16)}
	out.bytes(7, g.b)
	return out.b, nil
}

// empty reports whether the node is a Constant without elements.
func (n *rawNode) empty() bool {
	return n.op == "Constant" && len(n.attrs) == 1 && n.attrs[0].tensor != nil && n.attrs[0].tensor.len == 0
}

// field is one field of a protobuf message.
type field struct {
	num protowire.Number
	typ protowire.Type
	n   uint64 // varint and fixed types
	b   []byte // bytes type
}

// fields calls f for every field of the message.
func fields(b []byte, f func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("damaged or truncated: %w", protowire.ParseError(n))
		}
		b = b[n:]
		v := field{num: num, typ: typ}
		switch typ {
		case protowire.VarintType:
			v.n, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v.n = uint64(x)
		case protowire.Fixed64Type:
			v.n, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			v.b, n = protowire.ConsumeBytes(b)
		default:
			return fmt.Errorf("damaged: field %d has wire type %d, which ONNX does not use", num, typ)
		}
		if n < 0 {
			return fmt.Errorf("damaged or truncated at field %d: %w", num, protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

func (f field) want(t protowire.Type) error {
	if f.typ != t {
		return fmt.Errorf("damaged: field %d has wire type %d instead of %d", f.num, f.typ, t)
	}
	return nil
}

func (f field) text(s *string) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	if !utf8.Valid(f.b) {
		return fmt.Errorf("damaged: field %d is not UTF-8", f.num)
	}
	*s = string(f.b)
	return nil
}

func (f field) message(b *[]byte) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	*b = f.b
	if *b == nil {
		*b = []byte{}
	}
	return nil
}

func (f field) int(n *int64) error {
	*n = int64(f.n)
	return f.want(protowire.VarintType)
}

func (f field) opset() (domain string, version int64, err error) {
	if err := f.want(protowire.BytesType); err != nil {
		return "", 0, err
	}
	err = fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&domain)
		case 2:
			return f.int(&version)
		}
		return nil
	})
	return
}

func (f field) entry() (k, v string, err error) {
	if err := f.want(protowire.BytesType); err != nil {
		return "", "", err
	}
	err = fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&k)
		case 2:
			return f.text(&v)
		}
		return nil
	})
	return
}

func (f field) node() (*rawNode, error) {
	if err := f.want(protowire.BytesType); err != nil {
		return nil, err
	}
	n := &rawNode{}
	err := fields(f.b, func(f field) error {
		var s string
		switch f.num {
		case 1:
			err := f.text(&s)
			n.inputs = append(n.inputs, s)
			return err
		case 2:
			err := f.text(&s)
			n.outputs = append(n.outputs, s)
			return err
		case 3:
			return f.text(&n.name)
		case 4:
			return f.text(&n.op)
		case 5:
			a, err := f.attr()
			if err != nil {
				return fmt.Errorf("attribute %d: %w", len(n.attrs), err)
			}
			for _, b := range n.attrs {
				if a.name == b.name {
					return fmt.Errorf("attribute %q appears twice", a.name)
				}
			}
			if len(n.attrs) == 100 { // no operator has nearly as many
				return errors.New("has more than 100 attributes")
			}
			n.attrs = append(n.attrs, a)
		case 7:
			return f.text(&n.domain)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%q (%s): %w", n.name, n.op, err)
	}
	if n.domain == "ai.onnx" {
		n.domain = ""
	}
	if n.domain != "" {
		return nil, fmt.Errorf("%q: operator %s of domain %q is not supported", n.name, n.op, n.domain)
	}
	return n, nil
}

func (f field) attr() (rawAttr, error) {
	var a rawAttr
	if err := f.want(protowire.BytesType); err != nil {
		return a, err
	}
	err := fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&a.name)
		case 2:
			return f.want(protowire.Fixed32Type)
		case 3:
			return f.want(protowire.VarintType)
		case 4:
			return f.want(protowire.BytesType)
		case 5:
			if a.tensor != nil {
				return errors.New("has two tensors")
			}
			var err error
			a.tensor, err = f.tensor()
			return err
		case 7:
			_, err := f.count(protowire.Fixed32Type, 4)
			return err
		case 8:
			_, err := f.count(protowire.VarintType, 0)
			return err
		case 20:
			return f.int(&a.typ)
		case 6, 9, 10, 11, 14, 15, 21, 22, 23:
			// subgraphs, lists of strings and tensors, types, references,
			// sparse tensors: nothing that is supported has them
			return fmt.Errorf("%q is of a kind that is not supported (field %d)", a.name, f.num)
		}
		return nil
	})
	if err != nil {
		return a, err
	}
	switch a.typ {
	case attrFloat, attrInt, attrString, attrFloats, attrInts:
		if a.tensor != nil {
			return a, fmt.Errorf("%q carries a tensor that its type does not announce", a.name)
		}
	case attrTensor:
		if a.tensor == nil {
			return a, fmt.Errorf("%q announces a tensor and has none", a.name)
		}
	default:
		return a, fmt.Errorf("%q has type %d, which is not supported", a.name, a.typ)
	}
	return a, nil
}

// count is the number of values in a packed or unpacked repeated field.
func (f field) count(elem protowire.Type, size int) (int, error) {
	if f.typ == elem {
		return 1, nil
	}
	if err := f.want(protowire.BytesType); err != nil {
		return 0, err
	}
	if size > 0 {
		if len(f.b)%size != 0 {
			return 0, fmt.Errorf("damaged: %d bytes in field %d are no whole number of values", len(f.b), f.num)
		}
		return len(f.b) / size, nil
	}
	n := 0
	for b := f.b; len(b) > 0; n++ {
		_, k := protowire.ConsumeVarint(b)
		if k < 0 {
			return 0, fmt.Errorf("damaged: field %d: %w", f.num, protowire.ParseError(k))
		}
		b = b[k:]
	}
	return n, nil
}

// maxRank is far above what an image network uses.
const maxRank = 16

func (f field) tensor() (*rawTensor, error) {
	if err := f.want(protowire.BytesType); err != nil {
		return nil, err
	}
	t := &rawTensor{}
	var raw, values, kinds int
	hasRaw := false
	err := fields(f.b, func(f field) error {
		add := func(elem protowire.Type, size int, dtype int64) error {
			n, err := f.count(elem, size)
			if values == 0 && n > 0 {
				kinds = int(dtype)
			} else if kinds != int(dtype) && n > 0 {
				kinds = -1
			}
			values += n
			return err
		}
		switch f.num {
		case 1:
			if f.typ == protowire.VarintType {
				return t.addDim(f.n)
			}
			if err := f.want(protowire.BytesType); err != nil {
				return err
			}
			for b := f.b; len(b) > 0; {
				v, n := protowire.ConsumeVarint(b)
				if n < 0 {
					return fmt.Errorf("damaged dimensions: %w", protowire.ParseError(n))
				}
				if err := t.addDim(v); err != nil {
					return err
				}
				b = b[n:]
			}
		case 2:
			return f.int(&t.dtype)
		case 3:
			return errors.New("is stored in segments, which are not supported")
		case 4:
			return add(protowire.Fixed32Type, 4, typeFloat)
		case 5:
			return add(protowire.VarintType, 0, typeInt32)
		case 7:
			return add(protowire.VarintType, 0, typeInt64)
		case 8:
			return f.text(&t.name)
		case 9:
			if hasRaw {
				return errors.New("has its data twice")
			}
			hasRaw = true
			raw = len(f.b)
			return f.want(protowire.BytesType)
		case 10:
			return add(protowire.Fixed64Type, 8, typeDouble)
		case 6, 11:
			return fmt.Errorf("has data in field %d, for an element type that is not supported", f.num)
		case 13:
			return errors.New("keeps its data in another file, which is not supported: save the model as one file")
		case 14:
			if f.n != 0 {
				return errors.New("keeps its data in another file, which is not supported: save the model as one file")
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("tensor %q: %w", t.name, err)
	}
	elem := map[int64]int{typeFloat: 4, typeInt32: 4, typeInt64: 8, typeDouble: 8, typeHalf: 2}[t.dtype]
	if elem == 0 {
		return nil, fmt.Errorf("tensor %q has type %s; float32, float64, int32 and int64 are supported", t.name, typeName(t.dtype))
	}
	t.len = 1
	for _, d := range t.dims {
		if d != 0 && t.len > math.MaxInt32/d {
			return nil, fmt.Errorf("tensor %q: shape %v is larger than any file can hold", t.name, t.dims)
		}
		t.len *= d
	}
	switch {
	case hasRaw && values > 0:
		return nil, fmt.Errorf("tensor %q has both raw and typed data", t.name)
	case hasRaw && raw != t.len*elem:
		return nil, fmt.Errorf("tensor %q: %d bytes do not fill shape %v of %s", t.name, raw, t.dims, typeName(t.dtype))
	case !hasRaw && values != t.len:
		return nil, fmt.Errorf("tensor %q: %d values do not fill shape %v", t.name, values, t.dims)
	case values > 0 && int64(kinds) != t.dtype:
		return nil, fmt.Errorf("tensor %q of %s has its data in the field of another type", t.name, typeName(t.dtype))
	}
	return t, nil
}

func (t *rawTensor) addDim(v uint64) error {
	if int64(v) < 0 || v > math.MaxInt32 {
		return fmt.Errorf("dimension %d is out of range", int64(v))
	}
	if len(t.dims) == maxRank {
		return fmt.Errorf("has more than %d dimensions", maxRank)
	}
	t.dims = append(t.dims, int(v))
	return nil
}

func (f field) value() (rawValue, error) {
	var v rawValue
	if err := f.want(protowire.BytesType); err != nil {
		return v, err
	}
	err := fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&v.name)
		case 2:
			return f.valueType(&v)
		}
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("%q: %w", v.name, err)
	}
	return v, nil
}

func (f field) valueType(v *rawValue) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	return fields(f.b, func(f field) error {
		switch f.num {
		case 1: // tensor type
			if err := f.want(protowire.BytesType); err != nil {
				return err
			}
			return fields(f.b, func(f field) error {
				switch f.num {
				case 1:
					return f.int(&v.dtype)
				case 2:
					return f.shape(v)
				}
				return nil
			})
		case 6: // denotation
			return nil
		}
		return errors.New("is no tensor")
	})
}

func (f field) shape(v *rawValue) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	v.known = true
	return fields(f.b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		if err := f.want(protowire.BytesType); err != nil {
			return err
		}
		dim := 0
		err := fields(f.b, func(f field) error {
			if f.num != 1 {
				return nil
			}
			if int64(f.n) < 0 || f.n > math.MaxInt32 {
				return fmt.Errorf("dimension %d is out of range", int64(f.n))
			}
			dim = int(f.n)
			return f.want(protowire.VarintType)
		})
		if len(v.dims) == maxRank {
			return fmt.Errorf("has more than %d dimensions", maxRank)
		}
		v.dims = append(v.dims, dim)
		return err
	})
}
