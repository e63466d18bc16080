package plain

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
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
		{"Abs", newUnary(func(x T) T { return max(x, -x) }, func(x, y T) T {
			switch {
			case x > 0:
				return 1
			case x < 0:
				return -1
			}
			return 0
		}), 1, nil, ""},
		{"Add", newBinary(func(a, b T) T { return a + b }, func(a, b T) (T, T) { return 1, 1 }), 2, nil, ""},
		{"ArgMax", newArgMax[T], 1, []string{"axis", "keepdims", "select_last_index"}, "keepdims 1"},
		{"AveragePool", newAveragePool[T], 1, []string{"kernel_shape", "strides", "pads", "ceil_mode", "count_include_pad", "auto_pad"}, "2-D"},
		{"BatchNormalization", newBatchNorm[T], 5, []string{"epsilon", "momentum", "training_mode"}, "training_mode 0"},
		{"Cast", newUnary(func(x T) T { return x }, func(x, y T) T { return 1 }), 1, []string{"to"}, "to float32, of an ArgMax"},
		{"Clip", newClip[T], -1, nil, "between constants"},
		{"Concat", newConcat[T], -1, []string{"axis"}, "axis 1"},
		{"Conv", newConv[T], -1, []string{"kernel_shape", "strides", "pads", "dilations", "group", "auto_pad"}, "2-D"},
		{"ConvTranspose", newConvTranspose[T], -1, []string{"kernel_shape", "strides", "pads", "dilations", "group", "output_padding", "auto_pad"}, "2-D"},
		{"DepthToSpace", newDepthToSpace[T], 1, []string{"blocksize", "mode"}, ""},
		{"Div", newBinary(func(a, b T) T { return a / b }, func(a, b T) (T, T) { return 1 / b, -a / T(b*b) }), 2, nil, ""},
		{"Elu", newElu[T], 1, []string{"alpha"}, ""},
		{"Erf", newUnary(wide[T](pmath.Erf), func(x, y T) T { return T(2 / math.SqrtPi * pmath.Exp(-float64(x*x))) }), 1, nil, ""},
		{"Exp", newUnary(wide[T](pmath.Exp), func(x, y T) T { return y }), 1, nil, ""},
		{"HardSigmoid", newHardSigmoid[T], 1, []string{"alpha", "beta"}, ""},
		{"InstanceNormalization", newInstanceNorm[T], 3, []string{"epsilon"}, ""},
		{"LeakyRelu", newLeakyRelu[T], 1, []string{"alpha"}, ""},
		{"Log", newUnary(wide[T](pmath.Log), func(x, y T) T { return 1 / x }), 1, nil, ""},
		{"LogSoftmax", newLogSoftmax[T], 1, []string{"axis"}, ""},
		{"Max", newBinary(func(a, b T) T { return max(a, b) }, func(a, b T) (T, T) { return larger(a, b) }), 2, nil, ""},
		{"MaxPool", newMaxPool[T], 1, []string{"kernel_shape", "strides", "pads", "dilations", "ceil_mode", "auto_pad", "storage_order"}, "2-D"},
		{"Min", newBinary(func(a, b T) T { return min(a, b) }, func(a, b T) (T, T) { return larger(b, a) }), 2, nil, ""},
		{"Mul", newBinary(func(a, b T) T { return a * b }, func(a, b T) (T, T) { return b, a }), 2, nil, ""},
		{"Neg", newUnary(func(x T) T { return -x }, func(x, y T) T { return -1 }), 1, nil, ""},
		{"PRelu", newBinary(func(x, slope T) T {
			if x < 0 {
				return x * slope
			}
			return x
		}, func(x, slope T) (T, T) {
			if x < 0 {
				return slope, x
			}
			return 1, 0
		}), 2, nil, ""},
		{"Pad", newPad[T], -1, []string{"mode"}, "by constants: constant, reflect, edge"},
		{"Reciprocal", newUnary(func(x T) T { return 1 / x }, func(x, y T) T { return -T(y * y) }), 1, nil, ""},
		{"ReduceMax", newReduce[T], 1, []string{"axes", "keepdims"}, "keepdims 1"},
		{"ReduceMean", newReduce[T], 1, []string{"axes", "keepdims"}, "keepdims 1"},
		{"ReduceMin", newReduce[T], 1, []string{"axes", "keepdims"}, "keepdims 1"},
		{"ReduceSum", newReduce[T], -1, []string{"keepdims"}, "keepdims 1, constant axes"},
		{"Relu", newRelu[T], 1, nil, ""},
		{"Reshape", newReshape[T], -1, nil, "to [0, channels, -1, 0]"},
		{"Resize", newResize[T], -1, []string{"mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "extrapolation_value", "exclude_outside"}, "nearest, linear and cubic, by constant scales"},
		{"Round", newUnary(wide[T](math.RoundToEven), func(x, y T) T { return 0 }), 1, nil, ""},
		{"Selu", newElu[T], 1, []string{"alpha", "gamma"}, ""},
		{"Sigmoid", newUnary(wide[T](sigmoid), func(x, y T) T { return y * (1 - y) }), 1, nil, ""},
		{"Slice", newSlice[T], -1, nil, "by constants, forward"},
		{"Softmax", newSoftmax[T], 1, []string{"axis"}, ""},
		{"Softplus", newUnary(wide[T](softplus), func(x, y T) T { return T(sigmoid(float64(x))) }), 1, nil, ""},
		{"SpaceToDepth", newDepthToSpace[T], 1, []string{"blocksize"}, ""},
		{"Sqrt", newUnary(wide[T](math.Sqrt), func(x, y T) T { return 1 / (2 * y) }), 1, nil, ""},
		{"Sub", newBinary(func(a, b T) T { return a - b }, func(a, b T) (T, T) { return 1, -1 }), 2, nil, ""},
		{"Tanh", newUnary(wide[T](pmath.Tanh), func(x, y T) T { return 1 - T(y*y) }), 1, nil, ""},
	}
}

// larger gives one to the larger of two numbers, a half to each if they are
// equal.
func larger[T float](a, b T) (T, T) {
	switch {
	case a > b:
		return 1, 0
	case a < b:
		return 0, 1
	}
	return 0.5, 0.5
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
		if v != nil && v.tensor != nil && v.tensor.Ints != nil && m.inputs >= 0 {
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
