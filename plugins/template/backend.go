package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// describe says what the harness may ask for. Numerics must change whenever the
// bits of a result may: it keeps old and new results apart.
func describe() (backend.Description, error) {
	return backend.Description{
		Name: "template", Version: "1.0.0", Numerics: "template-1",
		// One thread always sums in the same order. On another kind of processor
		// the compiler may fuse multiplications with additions.
		Determinism: backend.DeterminismThreads,
		Devices:     []backend.Device{{Name: "cpu", Kind: "cpu", Info: "one thread"}},
		Precisions:  []string{backend.Float32},
		Losses:      []string{backend.LossOnProbabilities},
		Operators:   operators.Describe("cpu"),
		Notes:       []string{"an example to copy: correct and slow"},
	}, nil
}

// operators is what this backend executes.
var operators = engine.Operators{
	"Conv": {Inputs: [2]int{2, 3}, Attributes: []string{"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
		Note: "no dilation, no groups", Check: checkConv},
	"BatchNormalization": {Inputs: [2]int{5, 5}, Attributes: []string{"epsilon", "momentum"}},
	"Relu":               {Inputs: [2]int{1, 1}},
	"MaxPool": {Inputs: [2]int{1, 1}, Attributes: []string{"kernel_shape", "pads", "strides"},
		Note: "no padding, no dilation, no ceil_mode", Check: checkMaxPool},
	"Resize": {Inputs: [2]int{3, 3}, Attributes: []string{"coordinate_transformation_mode", "mode", "nearest_mode"},
		Note: "nearest, integer factors", Check: checkResize},
	"Concat":  {Inputs: [2]int{1, math.MaxInt}, Attributes: []string{"axis"}, Note: "along channels"},
	"Add":     {Inputs: [2]int{2, 2}},
	"Softmax": {Inputs: [2]int{1, 1}, Attributes: []string{"axis"}, Note: "over channels, last", Check: checkSoftmax},
}

// The checks say what of a node is not supported. nn.Shapes has its own checks of
// shapes, which come with each input.

func checkConv(_ *nn.Graph, n *nn.Node) error {
	if d := n.Attrs.Ints("dilations", 1, 1); !slices.Equal(d, []int{1, 1}) {
		return fmt.Errorf("dilations %v", d)
	}
	if group := n.Attrs.Int("group", 1); group != 1 {
		return fmt.Errorf("group %d", group)
	}
	return nil
}

func checkMaxPool(_ *nn.Graph, n *nn.Node) error {
	if p := n.Attrs.Ints("pads", 0, 0, 0, 0); slices.Max(p) > 0 {
		return fmt.Errorf("pads %v", p)
	}
	return nil
}

func checkResize(g *nn.Graph, n *nn.Node) error {
	mode := [3]string{n.Attrs.Str("mode", "nearest"), n.Attrs.Str("coordinate_transformation_mode", "half_pixel"), n.Attrs.Str("nearest_mode", "round_prefer_floor")}
	if mode != [3]string{"nearest", "asymmetric", "floor"} {
		return fmt.Errorf("mode %v", mode)
	}
	scales := g.Tensor(n.Inputs[2])
	if scales == nil {
		return fmt.Errorf("a factor that is computed")
	}
	for _, f := range scales.Data {
		if float64(f) != math.Trunc(float64(f)) {
			return fmt.Errorf("factor %v", f)
		}
	}
	return nil
}

func checkSoftmax(g *nn.Graph, n *nn.Node) error {
	if a := n.Attrs.Int("axis", -1); a != 1 && a != -3 {
		return fmt.Errorf("axis %d", a)
	}
	if n.Outputs[0] != g.Output.Name {
		return fmt.Errorf("a Softmax that is not the last node")
	}
	return nil
}

// compile refuses what the backend cannot do, naming the node, and copies the
// weights.
func compile(g *nn.Graph, o engine.Options) (engine.Engine, error) {
	if err := operators.Check(g); err != nil {
		return nil, err
	}
	if n := g.Nodes[len(g.Nodes)-1]; n.Op != "Softmax" {
		return nil, fmt.Errorf("node %q (%s): the last node must be a Softmax: %w", n.Name, n.Op, backend.ErrUnsupported)
	}
	e := &loops{graph: g, options: o, weights: map[string][]float64{}, m: map[string][]float64{}, v: map[string][]float64{}}
	for _, t := range g.Tensors {
		w := make([]float64, len(t.Data))
		for i, x := range t.Data {
			w[i] = float64(x)
		}
		e.weights[t.Name] = w
		if t.Role == nn.Parameter {
			e.m[t.Name], e.v[t.Name] = make([]float64, t.Len()), make([]float64, t.Len())
		}
	}
	return e, nil
}
