package nn

import (
	"fmt"
	"slices"
)

// MultiplyAdds counts the multiply-adds of the graph's convolutions, computed
// directly, for one forward pass over an input of the given shape. A training
// step costs about three times as many.
func (g *Graph) MultiplyAdds(input []int) (int64, error) {
	rows, err := g.Layers(input)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, r := range rows {
		n += r.MultiplyAdds
	}
	return n, nil
}

// Layer is one row of a layer table.
type Layer struct {
	Node         *Node
	Shape        []int // of the output
	Parameters   int
	MultiplyAdds int64
}

// Layers lists every node with its output shape, parameters and work.
func (g *Graph) Layers(input []int) ([]Layer, error) {
	shapes, err := g.Shapes(input)
	if err != nil {
		return nil, err
	}
	var rows []Layer
	for _, n := range g.Nodes {
		r := Layer{Node: n, Shape: shapes[n.Outputs[0]]}
		for _, in := range n.Inputs {
			if t := g.Tensor(in); t != nil && t.Role == Parameter {
				r.Parameters += t.Len()
			}
		}
		if n.Op == "Conv" || n.Op == "ConvTranspose" {
			w := g.Tensor(n.Inputs[1])
			if w == nil {
				return nil, fmt.Errorf("node %q (%s): weight %q is not a constant of the graph", n.Name, n.Op, n.Inputs[1])
			}
			each := r.Shape // whose every element meets the weights of one channel
			if n.Op == "ConvTranspose" {
				each = shapes[n.Inputs[0]]
			}
			r.MultiplyAdds = int64(Size(each)) * int64(w.Len()/w.Shape[0])
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// TrainingMultiplyAdds counts the multiply-adds of the convolutions of one
// training step over an input of the given shape, computed directly: the forward
// pass, the weight gradient of every convolution outside the frozen groups, and
// the input gradient of every convolution with something to train before it.
func (g *Graph) TrainingMultiplyAdds(input []int, frozen ...string) (int64, error) {
	rows, err := g.Layers(input)
	if err != nil {
		return 0, err
	}
	trained := map[string]bool{} // values whose gradient is needed
	for _, t := range g.Parameters() {
		trained[t.Name] = !slices.Contains(frozen, Group(t.Name))
	}
	var n int64
	for _, r := range rows {
		needed := false
		for _, in := range r.Node.Inputs {
			needed = needed || trained[in]
		}
		for _, out := range r.Node.Outputs {
			trained[out] = needed
		}
		if r.MultiplyAdds == 0 {
			continue
		}
		n += r.MultiplyAdds
		for _, in := range r.Node.Inputs[:2] { // the image, then the weight
			if trained[in] {
				n += r.MultiplyAdds
			}
		}
	}
	return n, nil
}
