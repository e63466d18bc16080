package wire

import (
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of the attribute types in onnx.proto.
const (
	AttrFloat  = 1
	AttrInt    = 2
	AttrString = 3
	AttrTensor = 4
	AttrFloats = 6
	AttrInts   = 7
)

// maxItems bounds the nodes, the initialisers and the names of one file. The
// largest U-Nets in use have a few hundred; without a bound a few bytes per
// item would become a few hundred in memory.
const maxItems = 100_000

// Model is what the scan keeps of a file. Byte slices point into it.
type Model struct {
	IRVersion                      int64
	Opset                          int64 // of the default domain
	Producer, ProducerVersion, Doc string
	Metadata                       map[string]string
	Name                           string // of the graph
	Nodes                          []*Node
	Tensors                        []*Tensor // initialisers
	Inputs, Outputs                []Value   // without inputs that are initialisers
	graph                          []byte    // the GraphProto's bytes
}

// Node is an operator of the default domain.
type Node struct {
	Name, Op        string
	Inputs, Outputs []string // "" is an omitted one
	Attrs           []Attr
	Raw             []byte // the NodeProto

	domain string
}

// Attr is a node's attribute. Value is a float32, int64, string, *Tensor,
// []float32 or []int64, as Type says.
type Attr struct {
	Name  string
	Type  int64
	Value any
}

// Value is an input or output of the graph.
type Value struct {
	Name  string
	Type  Type
	Dims  []int // 0: dynamic
	Known bool  // the file states a shape
}

// Label names the node in messages; exporters may leave names out.
func (n *Node) Label() string {
	name := n.Name
	if name == "" && len(n.Outputs) > 0 {
		name = n.Outputs[0]
	}
	return fmt.Sprintf("node %q (%s)", name, n.Op)
}

// Scan reads the structure of a model from its bytes and refuses what a
// decoder cannot be trusted with.
func Scan(data []byte) (*Model, error) {
	m := &Model{Metadata: map[string]string{}}
	opsets := map[string]int64{}
	err := fields(data, func(f field) error {
		switch f.num {
		case 1:
			m.IRVersion = int64(f.n)
		case 2:
			return f.text(&m.Producer)
		case 3:
			return f.text(&m.ProducerVersion)
		case 6:
			return f.text(&m.Doc)
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
			if _, dup := m.Metadata[k]; dup {
				return fmt.Errorf("metadata key %q appears twice", k)
			}
			if len(m.Metadata) == maxItems {
				return errors.New("has too much metadata")
			}
			m.Metadata[k] = v
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
	m.Opset = opsets[""]
	if m.Opset == 0 {
		return nil, errors.New("does not state its operator set")
	}
	if err := m.scanGraph(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Model) scanGraph() error {
	names := 0
	err := fields(m.graph, func(f field) error {
		switch f.num {
		case 1:
			n, err := f.node()
			if err != nil {
				return fmt.Errorf("node %d: %w", len(m.Nodes), err)
			}
			names += len(n.Inputs) + len(n.Outputs) + len(n.Attrs)
			m.Nodes = append(m.Nodes, n)
		case 2:
			return f.text(&m.Name)
		case 5:
			t, err := f.tensor()
			if err != nil {
				return fmt.Errorf("initializer %d: %w", len(m.Tensors), err)
			}
			if t.Name == "" {
				return fmt.Errorf("initializer %d has no name", len(m.Tensors))
			}
			m.Tensors = append(m.Tensors, t)
		case 11, 12:
			v, err := f.value()
			if err != nil {
				return fmt.Errorf("input or output %d: %w", len(m.Inputs)+len(m.Outputs), err)
			}
			if f.num == 11 {
				m.Inputs = append(m.Inputs, v)
			} else {
				m.Outputs = append(m.Outputs, v)
			}
		case 15:
			return errors.New("has sparse initializers, which are not supported")
		}
		if len(m.Nodes) > maxItems || len(m.Tensors) > maxItems || len(m.Inputs)+len(m.Outputs) > maxItems || names > 10*maxItems {
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
func (m *Model) checkNames() error {
	defined := map[string]string{}
	define := func(name, what string) error {
		if old, dup := defined[name]; dup {
			return fmt.Errorf("%s: the name is already that of %s", what, old)
		}
		defined[name] = what
		return nil
	}
	for _, t := range m.Tensors {
		if err := define(t.Name, fmt.Sprintf("initializer %q", t.Name)); err != nil {
			return err
		}
	}
	listed := map[string]bool{}
	inputs := m.Inputs[:0:0]
	for _, v := range m.Inputs {
		if v.Name == "" || listed[v.Name] {
			return fmt.Errorf("input %q: name missing or used twice", v.Name)
		}
		listed[v.Name] = true
		if _, ok := defined[v.Name]; ok {
			continue // old files list their initializers among the inputs
		}
		if err := define(v.Name, fmt.Sprintf("input %q", v.Name)); err != nil {
			return err
		}
		inputs = append(inputs, v)
	}
	m.Inputs = inputs
	nodes := map[string]bool{}
	for _, n := range m.Nodes {
		if n.Name != "" && nodes[n.Name] {
			return fmt.Errorf("%s: the name is used by two nodes", n.Label())
		}
		nodes[n.Name] = true
		for _, in := range n.Inputs {
			if _, ok := defined[in]; in != "" && !ok {
				return fmt.Errorf("%s: input %q is not defined before it (missing initializer, or a cycle)", n.Label(), in)
			}
		}
		if len(n.Outputs) == 0 || n.Outputs[0] == "" {
			return fmt.Errorf("%s: has no output", n.Label())
		}
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if err := define(out, fmt.Sprintf("output %q of %s", out, n.Label())); err != nil {
				return err
			}
		}
	}
	for _, v := range m.Outputs {
		if _, ok := defined[v.Name]; !ok {
			return fmt.Errorf("graph output %q is produced by no node", v.Name)
		}
	}
	return nil
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

func (f field) node() (*Node, error) {
	if err := f.want(protowire.BytesType); err != nil {
		return nil, err
	}
	n := &Node{Raw: f.b}
	err := fields(f.b, func(f field) error {
		var s string
		switch f.num {
		case 1:
			err := f.text(&s)
			n.Inputs = append(n.Inputs, s)
			return err
		case 2:
			err := f.text(&s)
			n.Outputs = append(n.Outputs, s)
			return err
		case 3:
			return f.text(&n.Name)
		case 4:
			return f.text(&n.Op)
		case 5:
			a, err := f.attr()
			if err != nil {
				return fmt.Errorf("attribute %d: %w", len(n.Attrs), err)
			}
			for _, b := range n.Attrs {
				if a.Name == b.Name {
					return fmt.Errorf("attribute %q appears twice", a.Name)
				}
			}
			if len(n.Attrs) == 100 { // no operator has nearly as many
				return errors.New("has more than 100 attributes")
			}
			n.Attrs = append(n.Attrs, a)
		case 7:
			return f.text(&n.domain)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%q (%s): %w", n.Name, n.Op, err)
	}
	if n.domain == "ai.onnx" {
		n.domain = ""
	}
	if n.domain != "" {
		return nil, fmt.Errorf("%q: operator %s of domain %q is not supported", n.Name, n.Op, n.domain)
	}
	return n, nil
}

func (f field) attr() (Attr, error) {
	var a Attr
	if err := f.want(protowire.BytesType); err != nil {
		return a, err
	}
	var (
		number float32
		whole  int64
		text   []byte
		tensor *Tensor
		floats = []float32{}
		ints   = []int64{}
	)
	err := fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&a.Name)
		case 2:
			number = math.Float32frombits(uint32(f.n))
			return f.want(protowire.Fixed32Type)
		case 3:
			return f.int(&whole)
		case 4:
			return f.message(&text)
		case 5:
			if tensor != nil {
				return errors.New("has two tensors")
			}
			var err error
			tensor, err = f.tensor()
			return err
		case 7:
			return f.repeated(protowire.Fixed32Type, func(v uint64) error {
				floats = append(floats, math.Float32frombits(uint32(v)))
				return nil
			})
		case 8:
			return f.repeated(protowire.VarintType, func(v uint64) error {
				ints = append(ints, int64(v))
				return nil
			})
		case 20:
			return f.int(&a.Type)
		case 6, 11:
			return fmt.Errorf("%q is a subgraph, which is not supported", a.Name)
		case 9, 10, 14, 15, 21, 22, 23:
			// lists of strings and tensors, types, references, sparse tensors:
			// nothing that is supported has them
			return fmt.Errorf("%q is of a kind that is not supported (field %d)", a.Name, f.num)
		}
		return nil
	})
	if err != nil {
		return a, err
	}
	switch a.Type {
	case AttrFloat:
		a.Value = number
	case AttrInt:
		a.Value = whole
	case AttrString:
		a.Value = string(text)
	case AttrFloats:
		a.Value = floats
	case AttrInts:
		a.Value = ints
	case AttrTensor:
		if tensor == nil {
			return a, fmt.Errorf("%q announces a tensor and has none", a.Name)
		}
		a.Value = tensor
	default:
		return a, fmt.Errorf("%q has type %d, which is not supported", a.Name, a.Type)
	}
	if tensor != nil && a.Type != AttrTensor {
		return a, fmt.Errorf("%q carries a tensor that its type does not announce", a.Name)
	}
	return a, nil
}

func (f field) value() (Value, error) {
	var v Value
	if err := f.want(protowire.BytesType); err != nil {
		return v, err
	}
	err := fields(f.b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&v.Name)
		case 2:
			return f.valueType(&v)
		}
		return nil
	})
	if err != nil {
		return v, fmt.Errorf("%q: %w", v.Name, err)
	}
	return v, nil
}

func (f field) valueType(v *Value) error {
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
					var n int64
					err := f.int(&n)
					v.Type = Type(n)
					return err
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

func (f field) shape(v *Value) error {
	if err := f.want(protowire.BytesType); err != nil {
		return err
	}
	v.Known = true
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
		if len(v.Dims) == MaxRank {
			return fmt.Errorf("has more than %d dimensions", MaxRank)
		}
		v.Dims = append(v.Dims, dim)
		return err
	})
}
