package nn

import (
	"fmt"
	"math"
)

// broadcasts reports whether the operator repeats dimensions of size one of its
// two operands, of which one may be a constant of fewer dimensions.
func (n *Node) broadcasts() bool {
	switch n.Op {
	case "Add", "Sub", "Mul", "Div", "Max", "Min":
		return true
	}
	return false
}

// Broadcast is the shape [N,C,H,W] that two operands have together, dimensions
// of size one repeated. A shape of fewer dimensions has ones before them.
func Broadcast(a, b []int) ([]int, error) {
	if len(a) > 4 || len(b) > 4 {
		return nil, fmt.Errorf("shapes %v and %v have more than 4 dimensions", a, b)
	}
	p, q := Aligned(a), Aligned(b)
	out := make([]int, 4)
	for i := range out {
		switch {
		case q[i] == 1 || p[i] == q[i]:
			out[i] = p[i]
		case p[i] == 1:
			out[i] = q[i]
		default:
			return nil, fmt.Errorf("shapes %v and %v differ", a, b)
		}
	}
	return out, nil
}

// Aligned is a shape of up to four dimensions with ones before them.
func Aligned(s []int) [4]int {
	out := [4]int{1, 1, 1, 1}
	copy(out[4-len(s):], s)
	return out
}

func elementwise(_ *Graph, _ *Node, in [][]int) ([]int, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("has %d inputs, needs 2", len(in))
	}
	return Broadcast(in[0], in[1])
}

// sloped is for a slope that is repeated over the image.
func sloped(_ *Graph, _ *Node, in [][]int) ([]int, error) {
	if len(in) != 2 {
		return nil, fmt.Errorf("has %d inputs, needs 2", len(in))
	}
	out, err := Broadcast(in[0], in[1])
	if err == nil && Aligned(out) != Aligned(in[0]) {
		err = fmt.Errorf("a slope of shape %v does not fit an image of %v", in[1], in[0])
	}
	return out, err
}

func clipped(_ *Graph, _ *Node, in [][]int) ([]int, error) {
	for _, s := range in[1:] {
		if len(s) != 0 {
			return nil, fmt.Errorf("a bound has shape %v, not that of a number", s)
		}
	}
	return in[0], nil
}

// along resolves the axis of an operator on [N,C,H,W].
func (n *Node) along(def int) (int, error) {
	a := n.Attrs.Int("axis", def)
	if a < -4 || a > 3 {
		return 0, fmt.Errorf("axis %d of 4 dimensions", a)
	}
	return (a + 4) % 4, nil
}

func argMaxShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	a, err := n.along(0)
	if err != nil {
		return nil, err
	}
	if n.Attrs.Int("keepdims", 1) != 1 {
		return nil, fmt.Errorf("keepdims must be 1")
	}
	out := append([]int(nil), in[0]...)
	out[a] = 1
	return out, nil
}

// Reduced lists the axes of a reduction: an attribute, of ReduceSum an input.
func (g *Graph) Reduced(n *Node) ([]int, error) {
	axes := n.Attrs.Ints("axes")
	if n.Op == "ReduceSum" {
		t, err := g.constant(n, 1, 0)
		if err != nil {
			return nil, err
		}
		axes = nil
		for _, a := range t.Ints {
			axes = append(axes, int(a))
		}
	}
	if len(axes) == 0 || n.Attrs.Int("keepdims", 1) != 1 {
		return nil, fmt.Errorf("needs axes, and keepdims 1")
	}
	for _, a := range axes {
		if a < 1 || a > 3 {
			return nil, fmt.Errorf("axes %v: 1 to 3 are supported", axes)
		}
	}
	return axes, nil
}

func reducedShape(g *Graph, n *Node, in [][]int) ([]int, error) {
	axes, err := g.Reduced(n)
	if err != nil {
		return nil, err
	}
	out := append([]int(nil), in[0]...)
	for _, a := range axes {
		out[a] = 1
	}
	return out, nil
}

// constant is the node's i-th input, integers of the graph (n of them, or any
// number of them if n is 0).
func (g *Graph) constant(node *Node, i, n int) (*Tensor, error) {
	if i < len(node.Inputs) {
		if t := g.Tensor(node.Inputs[i]); t != nil && t.Ints != nil && len(t.Shape) == 1 && (n == 0 || len(t.Ints) == n) {
			return t, nil
		}
	}
	return nil, fmt.Errorf("input %d is no constant list of integers of the right length", i)
}

// Pads returns the padding of a Pad node before and after every dimension;
// negative numbers crop.
func (g *Graph) Pads(n *Node) (before, after [4]int, err error) {
	t, err := g.constant(n, 1, 8)
	if err != nil {
		return before, after, err
	}
	for i := range 4 {
		before[i], after[i] = int(t.Ints[i]), int(t.Ints[4+i])
	}
	return before, after, nil
}

func paddedShape(g *Graph, n *Node, in [][]int) ([]int, error) {
	before, after, err := g.Pads(n)
	if err != nil {
		return nil, err
	}
	mode := n.Attrs.Str("mode", "constant")
	out := make([]int, 4)
	for i, d := range in[0] {
		out[i] = d + before[i] + after[i]
		if mode == "reflect" && max(before[i], after[i]) >= d {
			return nil, fmt.Errorf("padding %v, %v reflects more than an image of %v has", before, after, in[0])
		}
	}
	return out, notEmpty(out)
}

func notEmpty(shape []int) error {
	for _, d := range shape {
		if d < 1 || d > math.MaxInt32 {
			return fmt.Errorf("an output of shape %v is out of range", shape)
		}
	}
	return nil
}

// Cut is what a Slice node takes of a dimension of some size: Count elements
// from Start on, Step apart.
type Cut struct{ Start, Count, Step int }

// Cuts returns what a Slice node takes of an image of the given shape.
func (g *Graph) Cuts(n *Node, shape []int) ([4]Cut, error) {
	var cuts [4]Cut
	for i, d := range shape {
		cuts[i] = Cut{0, d, 1}
	}
	var p [4][]int64 // starts, ends, axes, steps
	for i := range p {
		if i == 3 && len(n.Inputs) < 5 {
			p[3] = make([]int64, len(p[0]))
			for k := range p[3] {
				p[3][k] = 1
			}
			continue
		}
		t, err := g.constant(n, 1+i, len(p[0]))
		if err != nil {
			return cuts, err
		}
		p[i] = t.Ints
	}
	for i, a := range p[2] {
		if a < 0 || a > 3 || p[3][i] < 1 || p[3][i] > math.MaxInt32 {
			return cuts, fmt.Errorf("axis %d, step %d are not supported", a, p[3][i])
		}
		d := int64(shape[a])
		at := func(v int64) int { // a position, from the end where negative
			if v < 0 {
				v = max(v, -d) + d
			}
			return int(min(v, d))
		}
		from, to, step := at(p[0][i]), at(p[1][i]), int(p[3][i])
		cuts[a] = Cut{from, max(0, to-from+step-1) / step, step}
	}
	return cuts, nil
}

func slicedShape(g *Graph, n *Node, in [][]int) ([]int, error) {
	cuts, err := g.Cuts(n, in[0])
	if err != nil {
		return nil, err
	}
	out := make([]int, 4)
	for i, c := range cuts {
		out[i] = c.Count
	}
	return out, notEmpty(out)
}

// blocksShape is that of a Reshape to another number of channels: the height
// changes so that the number of elements stays, batch and width are kept.
func blocksShape(g *Graph, n *Node, in [][]int) ([]int, error) {
	t, err := g.constant(n, 1, 4)
	if err != nil {
		return nil, err
	}
	x, k := in[0], int(t.Ints[1])
	if t.Ints[0] != 0 || k < 1 || t.Ints[2] != -1 || t.Ints[3] != 0 {
		return nil, fmt.Errorf("shape %v: [0, channels, -1, 0] is supported", t.Ints)
	}
	if x[1]*x[2]%k != 0 {
		return nil, fmt.Errorf("an image of %v does not divide into %d channels", x, k)
	}
	return []int{x[0], k, x[1] * x[2] / k, x[3]}, nil
}

func depthToSpaceShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	x, b := in[0], n.Attrs.Int("blocksize", 0)
	if b < 1 || b > math.MaxInt16 || x[1]%(b*b) != 0 {
		return nil, fmt.Errorf("blocksize %d does not fit %d channels", b, x[1])
	}
	out := []int{x[0], x[1] / (b * b), x[2] * b, x[3] * b}
	return out, notEmpty(out)
}

func spaceToDepthShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	x, b := in[0], n.Attrs.Int("blocksize", 0)
	if b < 1 || b > math.MaxInt16 || x[2]%b != 0 || x[3]%b != 0 {
		return nil, fmt.Errorf("blocksize %d does not divide an image of %v", b, x)
	}
	return []int{x[0], x[1] * b * b, x[2] / b, x[3] / b}, nil
}
