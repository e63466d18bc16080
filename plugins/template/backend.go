package main

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// template is the backend; it has no state of its own.
type template struct{}

// operators is what this backend executes, with restrictions for people. Open
// enforces them.
var operators = []backend.Operator{
	{Type: "Conv", Device: "cpu", Note: "no dilation, no groups"},
	{Type: "BatchNormalization", Device: "cpu"},
	{Type: "Relu", Device: "cpu"},
	{Type: "MaxPool", Device: "cpu", Note: "no padding, no dilation, no ceil_mode"},
	{Type: "Resize", Device: "cpu", Note: "nearest, integer factors"},
	{Type: "Concat", Device: "cpu", Note: "along channels"},
	{Type: "Add", Device: "cpu"},
	{Type: "Softmax", Device: "cpu", Note: "over channels, last"},
}

// Describe says what the harness may ask for. Numerics must change whenever the
// bits of a result may: it keeps old and new results apart.
func (template) Describe(context.Context) (backend.Description, error) {
	return backend.Description{
		Name: "template", Version: "1.0.0", Numerics: "template-1",
		// One thread always sums in the same order. On another kind of processor
		// the compiler may fuse multiplications with additions.
		Determinism: backend.DeterminismThreads,
		Devices:     []backend.Device{{Name: "cpu", Kind: "cpu", Info: "one thread"}},
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities},
		Operators:   operators,
		Notes:       []string{"an example to copy: correct and slow"},
	}, nil
}

// Open refuses what the backend cannot do, naming the node, and copies the
// weights: the graph is not ours to change.
func (template) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	refuse := func(format string, a ...any) error {
		return fmt.Errorf(format+": %w", append(a, backend.ErrUnsupported)...)
	}
	switch {
	case o.Precision != backend.Float32:
		return nil, refuse("precision %q", o.Precision)
	case o.Loss != backend.LossOnProbabilities:
		return nil, refuse("loss %q", o.Loss)
	case o.Device != "" && o.Device != "cpu":
		return nil, refuse("device %q", o.Device)
	case !(o.Adam.Beta1 >= 0 && o.Adam.Beta1 < 1 && o.Adam.Beta2 >= 0 && o.Adam.Beta2 < 1 && o.Adam.Epsilon > 0):
		return nil, fmt.Errorf("constants of Adam %+v are out of range", o.Adam)
	}
	for i, n := range g.Nodes {
		if err := supported(g, n); err != nil {
			return nil, refuse("node %q (%s): %v", n.Name, n.Op, err)
		}
		if last := i == len(g.Nodes)-1; last != (n.Op == "Softmax") {
			return nil, refuse("node %q (%s): the last node, and no other, must be a Softmax", n.Name, n.Op)
		}
	}
	s := &session{graph: g, adam: o.Adam, weights: map[string][]float64{}, m: map[string][]float64{}, v: map[string][]float64{}, datasets: map[string]*dataset{}}
	for _, t := range g.Tensors {
		w := make([]float64, len(t.Data))
		for i, x := range t.Data {
			w[i] = float64(x)
		}
		s.weights[t.Name] = w
	}
	s.forget()
	return s, nil
}

// supported reports what of a node this backend does not execute. nn.Shapes
// has its own checks of shapes, which come with each input.
func supported(g *nn.Graph, n *nn.Node) error {
	if !slices.ContainsFunc(operators, func(o backend.Operator) bool { return o.Type == n.Op }) {
		return fmt.Errorf("the operator is unknown")
	}
	if d := n.Attrs.Ints("dilations", 1, 1); !slices.Equal(d, []int{1, 1}) {
		return fmt.Errorf("dilations %v", d)
	}
	if group := n.Attrs.Int("group", 1); group != 1 {
		return fmt.Errorf("group %d", group)
	}
	if a := n.Attrs.Str("auto_pad", "NOTSET"); a != "NOTSET" {
		return fmt.Errorf("auto_pad %s", a)
	}
	switch n.Op {
	case "MaxPool":
		if p := n.Attrs.Ints("pads", 0, 0, 0, 0); slices.Max(p) > 0 || n.Attrs.Int("ceil_mode", 0) != 0 {
			return fmt.Errorf("pads %v with ceil_mode %d", p, n.Attrs.Int("ceil_mode", 0))
		}
	case "Resize":
		mode := [3]string{n.Attrs.Str("mode", "nearest"), n.Attrs.Str("coordinate_transformation_mode", "half_pixel"), n.Attrs.Str("nearest_mode", "round_prefer_floor")}
		if mode != [3]string{"nearest", "asymmetric", "floor"} {
			return fmt.Errorf("mode %v", mode)
		}
		for _, f := range g.Tensor(n.Inputs[2]).Data {
			if float64(f) != math.Trunc(float64(f)) {
				return fmt.Errorf("factor %v", f)
			}
		}
	case "Softmax":
		if a := n.Attrs.Int("axis", -1); a != 1 && a != -3 {
			return fmt.Errorf("axis %d", a)
		}
	}
	return nil
}
