package onnxgo

import (
	"fmt"
	"slices"

	onnxgo "github.com/owulveryck/onnx-go"
	"gonum.org/v1/gonum/graph"
	"gonum.org/v1/gonum/graph/simple"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

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
func (c call) is(n *wire.Node) bool {
	inputs := n.Inputs
	if len(inputs) == 0 {
		inputs = []string{n.Name + "/input"}
	}
	return c.op == n.Op && len(c.attrs) == len(n.Attrs) && slices.Equal(c.outputs, n.Outputs) && slices.Equal(c.inputs, inputs)
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
