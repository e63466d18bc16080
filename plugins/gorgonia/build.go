package gorgonia

import (
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// builder turns an nn.Graph into Gorgonia's expression graph for one shape.
type builder struct {
	net    *nn.Graph
	exec   *executor
	graph  *G.ExprGraph
	salt   int // enters every operator's hash
	ops    []*op
	inputs map[*op]G.Nodes

	shapes   map[string][]int
	values   map[string]*G.Node
	weights  map[string]*tensor.Dense
	train    map[string]bool // parameters that get a gradient
	need     map[*G.Node]bool
	training bool
	norms    []norm
}

// norm is a BatchNormalization whose running statistics a training step moves.
type norm struct {
	node     *nn.Node
	batch    *batchStatistics
	momentum float64
}

// checkGraph refuses a graph that this backend cannot execute, before any shape
// is known, naming the node.
func checkGraph(g *nn.Graph) error {
	if err := operators.Check(g); err != nil {
		return err
	}
	reached := ancestors(g, g.Output.Name)
	for _, n := range g.Nodes {
		if !reached[n.Outputs[0]] {
			return fmt.Errorf("node %q (%s): its result does not reach the output", n.Name, n.Op)
		}
	}
	if !reached[g.Input.Name] {
		return fmt.Errorf("input %q does not reach the output", g.Input.Name)
	}
	for _, t := range g.Tensors {
		if t.Role != nn.Constant && !reached[t.Name] {
			return fmt.Errorf("%s %q does not reach the output", t.Role, t.Name)
		}
		if t.Role != nn.Constant && t.Len() == 0 {
			return fmt.Errorf("%s %q of shape %v is empty", t.Role, t.Name, t.Shape)
		}
	}
	// Weights that do not fit are found with any size that divides well.
	probe := slices.Clone(g.Input.Shape)
	for i, d := range []int{1, 1, 1024, 1024} {
		if probe[i] == 0 {
			probe[i] = d
		}
	}
	_, err := g.Shapes(probe)
	return err
}

func producer(g *nn.Graph, value string) *nn.Node {
	for _, n := range g.Nodes {
		if slices.Contains(n.Outputs, value) {
			return n
		}
	}
	return nil
}

// scored is the value that the loss is computed from: the network's softmax
// output for the study's loss, its logits for the usual one. A network that
// ends otherwise can be asked for predictions only.
func scored(g *nn.Graph, loss string) (string, error) {
	last := producer(g, g.Output.Name)
	switch {
	case last == nil || last.Op != "Softmax":
		return "", fmt.Errorf("output %q, which no Softmax computes, has no loss: %w", g.Output.Name, backend.ErrUnsupported)
	case loss == backend.LossOnProbabilities:
		return g.Output.Name, nil
	default:
		return last.Inputs[0], nil
	}
}

// ancestors are the values that the targets are computed from, and themselves.
func ancestors(g *nn.Graph, targets ...string) map[string]bool {
	reached := map[string]bool{}
	for _, t := range targets {
		reached[t] = true
	}
	for _, n := range slices.Backward(g.Nodes) {
		if reached[n.Outputs[0]] {
			for _, in := range n.Inputs {
				reached[in] = true
			}
		}
	}
	return reached
}

// forward adds the nodes that the targets are computed from. Targets keep their
// values; a BatchNormalization whose only reader is a Relu is fused with it.
func (b *builder) forward(image *G.Node, targets ...string) error {
	reached := ancestors(b.net, targets...)
	readers := map[string]int{}
	for _, n := range b.net.Nodes {
		for _, in := range n.Inputs {
			if reached[n.Outputs[0]] {
				readers[in]++
			}
		}
	}
	b.values = map[string]*G.Node{b.net.Input.Name: image}
	b.need = map[*G.Node]bool{}
	fused := map[string]bool{} // outputs of BatchNormalizations that include their ReLU
	for i, n := range b.net.Nodes {
		out := n.Outputs[0]
		if !reached[out] {
			continue
		}
		if n.Op == "Relu" && fused[n.Inputs[0]] {
			b.values[out] = b.values[n.Inputs[0]]
			continue
		}
		if n.Op == "BatchNormalization" && readers[out] == 1 && !slices.Contains(targets, out) {
			for _, m := range b.net.Nodes[i+1:] {
				fused[out] = fused[out] || m.Op == "Relu" && m.Inputs[0] == out && reached[m.Outputs[0]]
			}
		}
		node, err := b.node(n, fused[out])
		if err != nil {
			return fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		b.values[out] = node
	}
	return nil
}

// input returns the node of a node's input, adding weights as they are used.
func (b *builder) input(name string) *G.Node {
	if n := b.values[name]; n != nil {
		return n
	}
	d := b.weights[name]
	n := G.NewTensor(b.graph, tensor.Float32, d.Dims(), G.WithShape(d.Shape()...), G.WithName(name), G.WithValue(d))
	b.values[name] = n
	b.need[n] = b.train[name]
	return n
}

func (b *builder) node(n *nn.Node, relued bool) (*G.Node, error) {
	x, y := b.shapes[n.Inputs[0]], b.shapes[n.Outputs[0]]
	inputs := n.Inputs
	var a arithmetic
	switch n.Op {
	case "Conv":
		w := b.shapes[n.Inputs[1]]
		s, p := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0)
		if inputs[len(inputs)-1] == "" {
			inputs = inputs[:2]
		}
		a = conv{kernel.Conv{N: x[0], C: x[1], H: x[2], W: x[3], M: w[0], KH: w[2], KW: w[3],
			SH: s[0], SW: s[1], Top: p[0], Left: p[1], OH: y[2], OW: y[3]}}
	case "BatchNormalization":
		eps := float64(n.Attrs.Float("epsilon", 1e-5))
		if !b.training {
			a = batchNormInference{x[0], x[1], x[2] * x[3], eps, relued}
			break
		}
		inputs = inputs[:3]
		stats := &batchStatistics{mean: make([]float64, x[1]), variance: make([]float64, x[1]), count: x[0] * x[2] * x[3]}
		b.norms = append(b.norms, norm{n, stats, float64(n.Attrs.Float("momentum", 0.9))})
		a = &batchNorm{x[0], x[1], x[2] * x[3], eps, relued, stats}
	case "Relu":
		a = relu{}
	case "MaxPool":
		k, s := n.Attrs.Ints("kernel_shape"), n.Attrs.Ints("strides", 1, 1)
		p := n.Attrs.Ints("pads", 0, 0, 0, 0)
		if p[0] >= k[0] || p[1] >= k[1] || (y[2]-1)*s[0]-p[0] >= x[2] || (y[3]-1)*s[1]-p[1] >= x[3] {
			return nil, fmt.Errorf("pads %v leave a window of kernel %v outside the image %v", p, k, x[2:])
		}
		a = maxPool{x[0] * x[1], x[2], x[3], k[0], k[1], s[0], s[1], p[0], p[1], y[2], y[3]}
	case "Resize":
		inputs = inputs[:1]
		a = upsample{x[0] * x[1], x[2], x[3], y[2] / x[2], y[3] / x[3]}
	case "Concat":
		c := concat{n: x[0]}
		for _, in := range inputs {
			s := b.shapes[in]
			c.sizes = append(c.sizes, s[1]*s[2]*s[3])
		}
		a = c
	case "Add":
		if s := b.shapes[inputs[1]]; !slices.Equal(x, s) {
			return nil, fmt.Errorf("node %q (Add): operands of shapes %v and %v, equal ones are supported: %w", n.Name, x, s, backend.ErrUnsupported)
		}
		a = add{}
	case "Softmax":
		a = softmax{x[0], x[1], x[2] * x[3]}
	}
	nodes := make(G.Nodes, len(inputs))
	need := make([]bool, len(inputs))
	any := false
	for i, in := range inputs {
		nodes[i] = b.input(in)
		need[i] = b.need[nodes[i]]
		any = any || need[i]
	}
	out, err := b.apply(n.Name, a, y, need, nodes...)
	if err != nil {
		return nil, err
	}
	b.need[out] = any
	return out, nil
}
