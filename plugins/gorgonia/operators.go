package gorgonia

import (
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// operators is what the backend executes.
var operators = engine.Operators{
	"Conv": {Inputs: [2]int{2, 3}, Attributes: []string{"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"},
		Note: "2-D, group 1, no dilation", Check: all(weightsAfter(1), undilated, fixed("group", 1))},
	"BatchNormalization": {Inputs: [2]int{5, 5}, Attributes: []string{"epsilon", "momentum", "training_mode"},
		Check: all(weightsAfter(1), fixed("training_mode", 0))},
	"Relu": {Inputs: [2]int{1, 1}, Check: computed},
	"MaxPool": {Inputs: [2]int{1, 1}, Attributes: []string{"auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "storage_order", "strides"},
		Note: "2-D, no dilation", Check: all(computed, undilated, fixed("storage_order", 0))},
	"Resize": {Inputs: [2]int{3, 3}, Attributes: []string{"coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside", "extrapolation_value", "mode", "nearest_mode"},
		Note: "nearest, asymmetric, floor, whole factors", Check: checkResize},
	"Concat":  {Inputs: [2]int{1, 1 << 10}, Attributes: []string{"axis"}, Note: "channels", Check: computed},
	"Add":     {Inputs: [2]int{2, 2}, Note: "equal shapes", Check: computed},
	"Softmax": {Inputs: [2]int{1, 1}, Attributes: []string{"axis"}, Note: "channels", Check: all(computed, checkSoftmax)},
}

// A check says what of a node is not supported.
type check = func(g *nn.Graph, n *nn.Node) error

// all makes one check of several.
func all(checks ...check) check {
	return func(g *nn.Graph, n *nn.Node) error {
		for _, c := range checks {
			if err := c(g, n); err != nil {
				return err
			}
		}
		return nil
	}
}

// computed wants all inputs to be computed from the image.
func computed(g *nn.Graph, n *nn.Node) error { return weightsAfter(len(n.Inputs))(g, n) }

// weightsAfter wants so many inputs to be computed from the image and the others
// to be parameters or statistics.
func weightsAfter(k int) check {
	return func(g *nn.Graph, n *nn.Node) error {
		for i, in := range n.Inputs {
			t := g.Tensor(in)
			switch {
			case i < k && (t != nil || in == ""):
				return fmt.Errorf("input %d (%q), which is not computed from the image", i, in)
			case i >= k && (t == nil || t.Data == nil && t.Len() > 0):
				return fmt.Errorf("input %d (%q), which is no floating-point tensor of the graph", i, in)
			case i >= k && t.Role == nn.Constant:
				return fmt.Errorf("input %d (%q), which has no role (nn.Graph.AssignRoles gives it)", i, in)
			}
		}
		return nil
	}
}

// fixed wants an attribute, which is optional, to have its default.
func fixed(name string, value int) check {
	return func(_ *nn.Graph, n *nn.Node) error {
		if v := n.Attrs.Int(name, value); v != value {
			return fmt.Errorf("attribute %s = %v (only %v)", name, v, value)
		}
		return nil
	}
}

func undilated(_ *nn.Graph, n *nn.Node) error {
	if d := n.Attrs.Ints("dilations", 1, 1); !slices.Equal(d, []int{1, 1}) {
		return fmt.Errorf("attribute dilations = %v (only [1 1])", d)
	}
	return nil
}

func checkResize(g *nn.Graph, n *nn.Node) error {
	// Its second input is a region of interest, of no use here.
	if err := computed(g, &nn.Node{Inputs: n.Inputs[:1]}); err != nil {
		return err
	}
	for _, a := range []struct{ name, missing, want string }{
		{"mode", "nearest", "nearest"},
		{"coordinate_transformation_mode", "half_pixel", "asymmetric"},
		{"nearest_mode", "round_prefer_floor", "floor"},
	} {
		if v := n.Attrs.Str(a.name, a.missing); v != a.want {
			return fmt.Errorf("attribute %s = %s (only %s)", a.name, v, a.want)
		}
	}
	scales := g.Tensor(n.Inputs[2])
	if scales == nil || scales.Data == nil {
		return fmt.Errorf("input 2 (%q), which is no floating-point tensor of the graph", n.Inputs[2])
	}
	for _, s := range scales.Data {
		if s != float32(int(s)) || s < 1 || s > 64 {
			return fmt.Errorf("scale %g (only whole numbers from 1 to 64)", s)
		}
	}
	return nil
}

func checkSoftmax(_ *nn.Graph, n *nn.Node) error {
	if v := n.Attrs.Int("axis", -1); v != 1 && v != -3 {
		return fmt.Errorf("attribute axis = %d (only 1, channels)", v)
	}
	return nil
}
