package onnx

import (
	"fmt"
	"slices"

	onnxgo "github.com/owulveryck/onnx-go"
	"gonum.org/v1/gonum/graph"
	"gonum.org/v1/gonum/graph/simple"
	"gorgonia.org/tensor"
)

// array is a constant of a file: an initialiser or a tensor attribute.
type array struct {
	shape []int
	f     []float32
	d     []float64
	i     []int64
}

func (a *array) len() int { return size(a.shape) }

// operator is one node of a file as the decoder passed it on.
type operator struct {
	*rawNode
	values map[string]any // int64, []int64, float32, []float32, string, *array
}

// file is a decoded model: the scan's structure with the decoder's data.
type file struct {
	*model
	operators []*operator
	constants map[string]*array // initialisers
}

// decode scans the bytes, decodes them with onnx-go and checks that both saw
// the same model.
func decode(data []byte) (*file, error) {
	m, err := scan(data)
	if err != nil {
		return nil, err
	}
	for _, t := range m.tensors {
		if t.dtype == typeHalf {
			return nil, fmt.Errorf("tensor %q has type float16, which only ONNX Runtime is to read; use the file with float32 weights", t.name)
		}
	}
	stripped, err := m.stripped()
	if err != nil {
		return nil, err
	}
	rec := &recorder{}
	if err := rec.decode(stripped); err != nil {
		return nil, fmt.Errorf("onnx-go: %w", err)
	}
	f := &file{model: m, constants: map[string]*array{}}
	tensors := rec.tensors()
	for _, t := range m.tensors {
		var a *array
		if t.len == 0 {
			a = &array{shape: t.dims}
		} else if a, err = newArray(t, tensors[t.name]); err != nil {
			return nil, err
		}
		f.constants[t.name] = a
	}
	calls := rec.calls
	for _, n := range m.nodes {
		o := &operator{n, map[string]any{}}
		f.operators = append(f.operators, o)
		if n.empty() {
			o.values[n.attrs[0].name] = &array{shape: n.attrs[0].tensor.dims}
			continue
		}
		if len(calls) == 0 || !calls[0].is(n) {
			return nil, fmt.Errorf("%s: onnx-go read another operator here", n.label())
		}
		c := calls[0]
		calls = calls[1:]
		for _, a := range n.attrs {
			v := c.attrs[a.name]
			if a.tensor != nil {
				t, _ := v.(tensor.Tensor)
				if v, err = newArray(a.tensor, t); err != nil {
					return nil, fmt.Errorf("%s: attribute %q: %w", n.label(), a.name, err)
				}
			}
			if x, ok := v.([]int64); ok && x == nil {
				v = []int64{}
			}
			o.values[a.name] = v
		}
	}
	return f, nil
}

// newArray takes the data of a tensor whose shape the scan has read; the
// decoder does not keep the shape of scalars.
func newArray(t *rawTensor, v tensor.Tensor) (*array, error) {
	a := &array{shape: t.dims}
	n := -1
	if v != nil {
		switch d := v.Data().(type) {
		case []float32:
			a.f, n = d, len(d)
		case []float64:
			a.d, n = d, len(d)
		case []int64:
			a.i, n = d, len(d)
		case []int32:
			for _, x := range d {
				a.i = append(a.i, int64(x))
			}
			n = len(d)
		case float32:
			a.f, n = []float32{d}, 1
		case float64:
			a.d, n = []float64{d}, 1
		case int64:
			a.i, n = []int64{d}, 1
		case int32:
			a.i, n = []int64{int64(d)}, 1
		}
	}
	if n != t.len {
		return nil, fmt.Errorf("tensor %q: onnx-go read %d values, the file has %d", t.name, n, t.len)
	}
	return a, nil
}

// recorder is the backend that onnx-go decodes into. It keeps every edge and
// operator in the order in which they come: a gonum graph would keep one edge
// per pair of nodes and so lose an input of an operator that uses one value
// twice. The embedded graph stays empty; it answers the methods that decoding
// does not use.
type recorder struct {
	*simple.WeightedDirectedGraph
	nodes []*recorded
	edges []string // inputs since the last operator
	calls []call
}

var _ onnxgo.Backend = (*recorder)(nil)

type call struct {
	op              string
	attrs           map[string]any
	inputs, outputs []string
}

// is reports whether the call is that of the node. The decoder gives a node
// without inputs an input of its own making.
func (c call) is(n *rawNode) bool {
	inputs := n.inputs
	if len(inputs) == 0 {
		inputs = []string{n.name + "/input"}
	}
	return c.op == n.op && len(c.attrs) == len(n.attrs) && slices.Equal(c.outputs, n.outputs) && slices.Equal(c.inputs, inputs)
}

// decode turns the decoder's panics into errors: its tensor library has more
// of them than the scan can know.
func (r *recorder) decode(data []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot decode the model: %v", p)
		}
	}()
	r.WeightedDirectedGraph = simple.NewWeightedDirectedGraph(0, 0)
	return onnxgo.NewModel(r).UnmarshalBinary(data)
}

// tensors maps names to the tensors that the decoder has set.
func (r *recorder) tensors() map[string]tensor.Tensor {
	ts := map[string]tensor.Tensor{}
	for _, n := range r.nodes {
		if n.t != nil {
			ts[n.name] = n.t
		}
	}
	return ts
}

func (r *recorder) NewNode() graph.Node {
	r.nodes = append(r.nodes, &recorded{id: int64(len(r.nodes))})
	return r.nodes[len(r.nodes)-1]
}

func (r *recorder) AddNode(graph.Node) {}

func (r *recorder) NewWeightedEdge(from, to graph.Node, w float64) graph.WeightedEdge {
	return simple.WeightedEdge{F: from, T: to, W: w}
}

func (r *recorder) SetWeightedEdge(e graph.WeightedEdge) {
	r.edges = append(r.edges, e.To().(*recorded).name)
}

func (r *recorder) ApplyOperation(o onnxgo.Operation, outputs ...graph.Node) error {
	c := call{op: o.Name, attrs: o.Attributes}
	for _, n := range outputs {
		c.outputs = append(c.outputs, n.(*recorded).name)
	}
	// the edges come once for every output
	c.inputs = r.edges[:len(r.edges)/len(outputs)]
	r.edges = nil
	r.calls = append(r.calls, c)
	return nil
}

// recorded is a value of the model.
type recorded struct {
	id   int64
	name string
	t    tensor.Tensor
}

var (
	_ onnxgo.Namer       = (*recorded)(nil)
	_ onnxgo.DataCarrier = (*recorded)(nil)
)

func (n *recorded) ID() int64                       { return n.id }
func (n *recorded) SetName(s string)                { n.name = s }
func (n *recorded) GetName() string                 { return n.name }
func (n *recorded) SetTensor(t tensor.Tensor) error { n.t = t; return nil }
func (n *recorded) GetTensor() tensor.Tensor        { return n.t }
