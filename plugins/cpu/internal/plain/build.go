package plain

import (
	"maps"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/nn"
)

// maker knows how to make one operator.
type maker[T float] struct {
	op         string
	make       func(*Engine[T], *step[T]) (operator[T], error)
	inputs     int // how many it needs, -1: it checks them itself
	attributes []string
	note       string
}

func makers[T float]() []maker[T] {
	return []maker[T]{
		{"Add", newAdd[T], 2, nil, ""},
		{"AveragePool", newAveragePool[T], 1, []string{"kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad", "auto_pad"}, "2-D"},
		{"BatchNormalization", newBatchNorm[T], 5, []string{"epsilon", "momentum", "training_mode"}, "training_mode 0"},
		{"Concat", newConcat[T], -1, []string{"axis"}, "axis 1"},
		{"Conv", newConv[T], -1, []string{"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"}, "2-D"},
		{"ConvTranspose", newConvTranspose[T], -1, []string{"kernel_shape", "strides", "pads", "dilations", "group", "output_padding", "auto_pad"}, "2-D"},
		{"InstanceNormalization", newInstanceNorm[T], 3, []string{"epsilon"}, ""},
		{"LeakyRelu", newLeakyRelu[T], 1, []string{"alpha"}, ""},
		{"MaxPool", newMaxPool[T], 1, []string{"kernel_shape", "strides", "pads", "dilations", "ceil_mode", "auto_pad", "storage_order"}, "2-D"},
		{"Mul", newMul[T], 2, nil, "of one shape"},
		{"Relu", newRelu[T], 1, nil, ""},
		{"Resize", newResize[T], -1, []string{"mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "extrapolation_value", "exclude_outside"}, "nearest and linear, by scales of at least 1"},
		{"Sigmoid", newSigmoid[T], 1, nil, ""},
		{"Softmax", newSoftmax[T], 1, []string{"axis"}, ""},
		{"Sub", newSub[T], 2, nil, "of one shape"},
	}
}

// Operator is an operator that Compile accepts.
type Operator struct{ Type, Note string }

// Operators lists them by name.
func Operators() []Operator {
	var r []Operator
	for _, m := range makers[float32]() {
		r = append(r, Operator{m.op, m.note})
	}
	return r
}

// Check refuses a graph for its operators and their attributes, naming the
// node. What only the shapes tell is left to Compile.
func Check(g *nn.Graph) error {
	for _, n := range g.Nodes {
		if _, err := find[float32](n); err != nil {
			return err
		}
	}
	return nil
}

// find returns a node's maker. A maker lists the attributes that it heeds, so
// that one it does not know of is refused and not passed over.
func find[T float](n *nn.Node) (maker[T], error) {
	all := makers[T]()
	i := slices.IndexFunc(all, func(m maker[T]) bool { return m.op == n.Op })
	if i < 0 {
		return maker[T]{}, refuse(n, "this backend has no such operator")
	}
	for _, a := range slices.Sorted(maps.Keys(n.Attrs)) {
		if !slices.Contains(all[i].attributes, a) {
			return maker[T]{}, refuse(n, "attribute %q is not supported", a)
		}
	}
	if a := n.Attrs.Str("auto_pad", "NOTSET"); a != "NOTSET" {
		return maker[T]{}, refuse(n, "auto_pad %q must be made explicit", a)
	}
	return all[i], nil
}

// build makes a node's operator.
func build[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	m, err := find[T](s.node)
	if err != nil {
		return nil, err
	}
	if m.inputs >= 0 && len(s.in) != m.inputs || len(s.in) == 0 {
		return nil, refuse(s.node, "has %d inputs, not %d", len(s.in), max(1, m.inputs))
	}
	for i, v := range s.in {
		if v == nil && m.inputs >= 0 {
			return nil, refuse(s.node, "input %d is omitted", i)
		}
		if v != nil && v.tensor != nil && v.tensor.Ints != nil {
			return nil, refuse(s.node, "input %q is an integer tensor", v.name)
		}
	}
	return m.make(e, s)
}

// decimal is the shortest decimal that a float32 attribute stands for: the
// 0.9 or 1e-5 that its author wrote, where float64 arithmetic can tell.
func decimal(x float32) float64 {
	d, _ := strconv.ParseFloat(strconv.FormatFloat(float64(x), 'g', -1, 32), 64)
	return d
}

// axis resolves a node's axis, counted from the end where negative.
func axis(n *nn.Node, def int) int {
	a := n.Attrs.Int("axis", def)
	if a < 0 {
		a += 4
	}
	return a
}
