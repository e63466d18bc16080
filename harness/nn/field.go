package nn

import "fmt"

// Field says which part of the input an output pixel depends on, and on what
// grid the network treats all pixels alike.
type Field struct {
	// Radius is the largest distance, in pixels along either axis, from an
	// output pixel to an input pixel that it depends on.
	Radius int
	// Period is the translation, in pixels along either axis, under which the
	// network's output moves with its input: the product of its strides.
	Period int
}

// maxPeriod bounds the strides of a network that Field looks at.
const maxPeriod = 1024

// Field returns the receptive field of a network whose output has the size of
// its input. In inference mode a pixel of the output is then a function of the
// input within Radius alone, which is what makes prediction in tiles exact.
//
// It follows one axis at a time, from every output coordinate of one period
// back to the interval of input coordinates that it depends on.
func (g *Graph) Field() (Field, error) {
	f := Field{Period: 1}
	for axis := range 2 {
		period, err := g.period(axis)
		if err != nil {
			return f, err
		}
		f.Period = LCM(f.Period, period)
		for p := range period {
			lo, hi, err := g.reach(axis, p)
			if err != nil {
				return f, err
			}
			f.Radius = max(f.Radius, p-lo, hi-p)
		}
	}
	return f, nil
}

// scale is a value's size relative to the input's, as a fraction.
type scale struct{ num, den int }

// period is the smallest shift of the input that is a whole shift of every
// value inside.
func (g *Graph) period(axis int) (int, error) {
	scales := map[string]scale{g.Input.Name: {1, 1}}
	period := 1
	for _, n := range g.Nodes {
		var s scale
		for _, in := range n.Inputs { // the first image; the sum of two has the size of both
			if v, ok := scales[in]; ok {
				s = v
				break
			}
		}
		if s.den == 0 {
			return 0, fmt.Errorf("node %q (%s): reads no image", n.Name, n.Op)
		}
		switch n.Op {
		case "Conv", "MaxPool", "AveragePool":
			s.den *= n.Attrs.Ints("strides", 1, 1)[axis]
		case "ConvTranspose":
			s.num *= n.Attrs.Ints("strides", 1, 1)[axis]
		case "Resize":
			k, err := g.wholeScale(n, axis)
			if err != nil {
				return 0, err
			}
			s.num *= k
		case "DepthToSpace":
			s.num *= n.Attrs.Int("blocksize", 1)
		case "SpaceToDepth":
			s.den *= n.Attrs.Int("blocksize", 1)
		}
		d := GCD(s.num, s.den)
		s = scale{s.num / d, s.den / d}
		scales[n.Outputs[0]] = s
		if period = LCM(period, s.den); period > maxPeriod {
			return 0, fmt.Errorf("node %q (%s): the network's strides multiply to more than %d", n.Name, n.Op, maxPeriod)
		}
	}
	if s := scales[g.Output.Name]; s != (scale{1, 1}) {
		return 0, fmt.Errorf("the output has %d/%d of the input's size; networks that keep the size are supported", s.num, s.den)
	}
	return period, nil
}

// interval holds coordinates along an axis, both ends included.
type interval struct{ lo, hi int }

// reach is the interval of input coordinates that output coordinate p depends
// on.
func (g *Graph) reach(axis, p int) (lo, hi int, err error) {
	need := map[string]interval{g.Output.Name: {p, p}}
	for i := len(g.Nodes) - 1; i >= 0; i-- {
		n := g.Nodes[i]
		out, ok := need[n.Outputs[0]]
		if !ok {
			continue
		}
		in, err := g.behind(n, axis, out)
		if err != nil {
			return 0, 0, err
		}
		for _, name := range n.Inputs {
			if old, ok := need[name]; ok {
				need[name] = interval{min(old.lo, in.lo), max(old.hi, in.hi)}
			} else {
				need[name] = in
			}
		}
	}
	in, ok := need[g.Input.Name]
	if !ok {
		return 0, 0, fmt.Errorf("the output does not depend on the input")
	}
	return in.lo, in.hi, nil
}

// behind is the interval of a node's inputs that an interval of its output
// depends on.
func (g *Graph) behind(n *Node, axis int, out interval) (interval, error) {
	in := out
	switch n.Op {
	case "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Erf", "Exp", "Log", "Sqrt", "Neg", "Abs",
		"Reciprocal", "Round", "Cast", "Clip", "BatchNormalization", "Add", "Sub", "Mul", "Div", "Max", "Min", "Concat":
		for _, name := range n.Inputs {
			if t := g.Tensor(name); t != nil && len(t.Shape) > 2-axis && t.Shape[len(t.Shape)-2+axis] > 1 && n.broadcasts() {
				return in, fmt.Errorf("node %q (%s): every pixel has a constant of its own", n.Name, n.Op)
			}
		}
	case "ArgMax":
		if a := n.Attrs.Int("axis", 0); a != 1 && a != -3 {
			return in, fmt.Errorf("node %q (ArgMax): every pixel depends on the whole image", n.Name)
		}
	case "Softmax", "LogSoftmax":
		if a := n.Attrs.Int("axis", -1); a != 1 && a != -3 && a != 0 && a != -4 {
			return in, fmt.Errorf("node %q (%s): every pixel depends on the whole image", n.Name, n.Op)
		}
	case "Conv", "MaxPool", "AveragePool":
		k, err := g.kernel(n, axis)
		if err != nil {
			return in, err
		}
		s, d, pad := n.Attrs.Ints("strides", 1, 1)[axis], n.Attrs.Ints("dilations", 1, 1)[axis], n.Attrs.Ints("pads", 0, 0, 0, 0)[axis]
		in = interval{out.lo*s - pad, out.hi*s - pad + d*(k-1)}
	case "ConvTranspose":
		k, err := g.kernel(n, axis)
		if err != nil {
			return in, err
		}
		s, d, pad := n.Attrs.Ints("strides", 1, 1)[axis], n.Attrs.Ints("dilations", 1, 1)[axis], n.Attrs.Ints("pads", 0, 0, 0, 0)[axis]
		in = interval{-floorDiv(-(out.lo + pad - d*(k-1)), s), floorDiv(out.hi+pad, s)}
	case "DepthToSpace":
		b := n.Attrs.Int("blocksize", 1)
		in = interval{floorDiv(out.lo, b), floorDiv(out.hi, b)}
	case "SpaceToDepth":
		b := n.Attrs.Int("blocksize", 1)
		in = interval{out.lo * b, out.hi*b + b - 1}
	case "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin":
		axes, err := g.Reduced(n)
		if err != nil || len(axes) != 1 || axes[0] != 1 {
			return in, fmt.Errorf("node %q (%s): every pixel depends on the whole image", n.Name, n.Op)
		}
	case "Pad": // what is reflected lies no farther from the border than the padding
		before, _, err := g.Pads(n)
		if err != nil {
			return in, fmt.Errorf("node %q (Pad): %w", n.Name, err)
		}
		in = interval{out.lo - before[2+axis], out.hi - before[2+axis]}
	case "Slice":
		const large = 1 << 24 // cuts from both ends of an axis, however long
		cuts, err := g.Cuts(n, []int{1, large, large, large})
		if err != nil {
			return in, fmt.Errorf("node %q (Slice): %w", n.Name, err)
		}
		c := cuts[2+axis]
		if c.Step != 1 || c.Start > large/2 {
			return in, fmt.Errorf("node %q (Slice): where it begins depends on the size of the image", n.Name)
		}
		in = interval{out.lo + c.Start, out.hi + c.Start}
	case "Resize":
		k, err := g.wholeScale(n, axis)
		if err != nil {
			return in, err
		}
		switch n.Attrs.Str("coordinate_transformation_mode", "half_pixel") {
		case "asymmetric", "half_pixel":
			in = interval{floorDiv(out.lo, k), floorDiv(out.hi, k)}
			if n.Attrs.Str("mode", "nearest") != "nearest" || n.Attrs.Str("nearest_mode", "") != "floor" ||
				n.Attrs.Str("coordinate_transformation_mode", "") != "asymmetric" {
				in = interval{in.lo - 1, in.hi + 1} // a neighbour on either side at most
			}
			if n.Attrs.Str("mode", "") == "cubic" {
				in = interval{in.lo - 1, in.hi + 1}
			}
		default: // where a pixel lies depends on the size of the image
			return in, fmt.Errorf("node %q (Resize): every pixel depends on the size of the image", n.Name)
		}
	default:
		return in, fmt.Errorf("node %q (%s): every pixel may depend on the whole image", n.Name, n.Op)
	}
	return in, nil
}

// kernel is the size of a window along the axis.
func (g *Graph) kernel(n *Node, axis int) (int, error) {
	if k := n.Attrs.Ints("kernel_shape"); len(k) == 2 {
		return k[axis], nil
	}
	if len(n.Inputs) > 1 {
		if w := g.Tensor(n.Inputs[1]); w != nil && len(w.Shape) == 4 {
			return w.Shape[2+axis], nil
		}
	}
	return 0, fmt.Errorf("node %q (%s): the size of its window is not known", n.Name, n.Op)
}

// wholeScale is the factor of a Resize along the axis.
func (g *Graph) wholeScale(n *Node, axis int) (int, error) {
	if len(n.Inputs) == 3 {
		if t := g.Tensor(n.Inputs[2]); t != nil && len(t.Data) == 4 {
			if k := t.Data[2+axis]; k >= 1 && k <= maxPeriod && k == float32(int(k)) {
				return int(k), nil
			}
		}
	}
	return 0, fmt.Errorf("node %q (Resize): needs constant whole scales", n.Name)
}

// floorDiv rounds towards minus infinity.
func floorDiv(a, b int) int {
	q := a / b
	if a%b != 0 && (a < 0) != (b < 0) {
		q--
	}
	return q
}
