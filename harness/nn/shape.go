package nn

import (
	"fmt"
	"slices"
)

// Shapes infers the shape of every value for an input of the given shape
// [N,C,H,W]. It covers the operators of UNet and those of other U-Nets that
// package onnx imports; an error names the node.
func (g *Graph) Shapes(input []int) (map[string][]int, error) {
	if len(input) != len(g.Input.Shape) {
		return nil, fmt.Errorf("input shape %v: the network takes %d dimensions", input, len(g.Input.Shape))
	}
	for i, d := range g.Input.Shape {
		if input[i] < 1 || d != 0 && d != input[i] {
			return nil, fmt.Errorf("input shape %v does not fit the network's %v (0: any)", input, g.Input.Shape)
		}
	}
	if m := g.Multiple; m > 1 && len(input) == 4 && (input[2]%m != 0 || input[3]%m != 0) {
		return nil, fmt.Errorf("input shape %v: height and width must be multiples of %d", input, m)
	}
	shapes := map[string][]int{g.Input.Name: input}
	for _, t := range g.Tensors {
		shapes[t.Name] = t.Shape
	}
	for _, n := range g.Nodes {
		in := make([][]int, len(n.Inputs))
		for i, name := range n.Inputs {
			if name != "" {
				s, ok := shapes[name]
				if !ok {
					return nil, fmt.Errorf("node %q (%s): input %q has no shape", n.Name, n.Op, name)
				}
				in[i] = s
			}
		}
		out, err := g.infer(n, in)
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w", n.Name, n.Op, err)
		}
		shapes[n.Outputs[0]] = out
	}
	return shapes, nil
}

// inference has the output shape of every operator that has one, given the
// shapes of its inputs; the first is [N,C,H,W], that of an input left out nil.
var inference = map[string]func(g *Graph, n *Node, in [][]int) ([]int, error){
	"Relu":                  unchanged,
	"LeakyRelu":             unchanged,
	"PRelu":                 sloped,
	"Elu":                   unchanged,
	"Selu":                  unchanged,
	"Sigmoid":               unchanged,
	"HardSigmoid":           unchanged,
	"Tanh":                  unchanged,
	"Softplus":              unchanged,
	"Erf":                   unchanged,
	"Exp":                   unchanged,
	"Log":                   unchanged,
	"Sqrt":                  unchanged,
	"Neg":                   unchanged,
	"Abs":                   unchanged,
	"Reciprocal":            unchanged,
	"Round":                 unchanged,
	"Cast":                  unchanged,
	"Clip":                  clipped,
	"Softmax":               softmaxShape,
	"LogSoftmax":            softmaxShape,
	"ArgMax":                argMaxShape,
	"BatchNormalization":    normalisedBy(4),
	"InstanceNormalization": normalisedBy(2),
	"Add":                   elementwise,
	"Sub":                   elementwise,
	"Mul":                   elementwise,
	"Div":                   elementwise,
	"Max":                   elementwise,
	"Min":                   elementwise,
	"Conv":                  convShape,
	"ConvTranspose":         transposedShape,
	"MaxPool":               poolShape,
	"AveragePool":           poolShape,
	"ReduceMean":            reducedShape,
	"ReduceSum":             reducedShape,
	"ReduceMax":             reducedShape,
	"ReduceMin":             reducedShape,
	"Resize":                resizedShape,
	"Concat":                joined,
	"Pad":                   paddedShape,
	"Slice":                 slicedShape,
	"Reshape":               blocksShape,
	"DepthToSpace":          depthToSpaceShape,
	"SpaceToDepth":          spaceToDepthShape,
}

func (g *Graph) infer(n *Node, in [][]int) ([]int, error) {
	if len(in) == 0 || len(n.Outputs) == 0 || len(in[0]) != 4 && (len(in) != 2 || len(in[1]) != 4) {
		return nil, fmt.Errorf("needs one output and an input of shape [N,C,H,W]")
	}
	f := inference[n.Op]
	if f == nil {
		return nil, fmt.Errorf("operator has no shape inference")
	}
	if len(in[0]) != 4 && len(in[1]) == 4 && !n.broadcasts() {
		return nil, fmt.Errorf("its first input has shape %v, not [N,C,H,W]", in[0])
	}
	return f(g, n, in)
}

func unchanged(_ *Graph, _ *Node, in [][]int) ([]int, error) { return in[0], nil }

func softmaxShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	if a := n.Attrs.Int("axis", -1); a < -4 || a > 3 {
		return nil, fmt.Errorf("axis %d of 4 dimensions", a)
	}
	return in[0], nil
}

// normalisedBy is for operators that take so many values per channel.
func normalisedBy(tensors int) func(*Graph, *Node, [][]int) ([]int, error) {
	return func(_ *Graph, _ *Node, in [][]int) ([]int, error) {
		if len(in) != 1+tensors {
			return nil, fmt.Errorf("has %d inputs, needs %d", len(in), 1+tensors)
		}
		x := in[0]
		for i, s := range in[1:] {
			if len(s) != 1 || s[0] != x[1] {
				return nil, fmt.Errorf("input %d has shape %v for %d channels", i+1, s, x[1])
			}
		}
		return x, nil
	}
}

func convShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	if len(in) < 2 || len(in[1]) != 4 {
		return nil, fmt.Errorf("needs a weight of shape [M,C,kH,kW]")
	}
	x, w := in[0], in[1]
	if group := n.Attrs.Int("group", 1); group < 1 || w[1]*group != x[1] || w[0]%group != 0 {
		return nil, fmt.Errorf("weight %v with %d groups does not fit %d channels", w, group, x[1])
	}
	if err := n.weightFits(in, w[0]); err != nil {
		return nil, err
	}
	return n.window(x, w[0], w[2:])
}

// weightFits checks a convolution's bias and kernel_shape, where given, against
// its weight.
func (n *Node) weightFits(in [][]int, channels int) error {
	if len(in) > 2 && in[2] != nil && (len(in[2]) != 1 || in[2][0] != channels) {
		return fmt.Errorf("bias of shape %v for %d channels", in[2], channels)
	}
	kernel := in[1][2:]
	if k := n.Attrs.Ints("kernel_shape", kernel...); !slices.Equal(k, kernel) {
		return fmt.Errorf("kernel_shape %v differs from the weight's %v", k, kernel)
	}
	return nil
}

func poolShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	return n.window(in[0], in[0][1], n.Attrs.Ints("kernel_shape"))
}

func resizedShape(g *Graph, n *Node, in [][]int) ([]int, error) {
	x := in[0]
	t := g.Tensor(n.Inputs[len(n.Inputs)-1])
	if len(n.Inputs) != 3 || t == nil || len(t.Data) != 4 || t.Data[0] != 1 || t.Data[1] != 1 || !(t.Data[2] > 0) || !(t.Data[3] > 0) {
		return nil, fmt.Errorf("needs constant scales [1,1,sH,sW] of more than 0")
	}
	out := []int{x[0], x[1], int(float32(x[2]) * t.Data[2]), int(float32(x[3]) * t.Data[3])}
	return out, notEmpty(out)
}

func joined(g *Graph, n *Node, in [][]int) ([]int, error) {
	if a := n.Attrs.Int("axis", 0); a != 1 && a != -3 {
		return nil, fmt.Errorf("axis %d: only the channel axis 1 is supported", a)
	}
	out := slices.Clone(in[0])
	for _, s := range in[1:] {
		if len(s) != 4 || s[0] != out[0] || s[2] != out[2] || s[3] != out[3] {
			hint := ""
			if f, err := g.Field(); err == nil && f.Period > 1 {
				hint = fmt.Sprintf(" (height and width must be multiples of %d)", f.Period)
			}
			return nil, fmt.Errorf("shapes %v do not join along channels%s", in, hint)
		}
		out[1] += s[1]
	}
	return out, nil
}

// window is the output shape of a sliding window with explicit padding.
func (n *Node) window(x []int, channels int, kernel []int) ([]int, error) {
	if a := n.Attrs.Str("auto_pad", "NOTSET"); a != "NOTSET" {
		return nil, fmt.Errorf("auto_pad %s must be made explicit", a)
	}
	s, p := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0)
	d := n.Attrs.Ints("dilations", 1, 1)
	if len(kernel) != 2 || len(s) != 2 || len(p) != 4 || len(d) != 2 {
		return nil, fmt.Errorf("kernel %v, strides %v, pads %v, dilations %v are not those of a 2-D window", kernel, s, p, d)
	}
	out := []int{x[0], channels, 0, 0}
	for i := range 2 {
		if kernel[i] < 1 || s[i] < 1 || d[i] < 1 || p[i] < 0 || p[i+2] < 0 {
			return nil, fmt.Errorf("kernel %v, strides %v, pads %v, dilations %v are out of range", kernel, s, p, d)
		}
		room := x[2+i] + p[i] + p[i+2] - d[i]*(kernel[i]-1) - 1
		if room < 0 {
			return nil, fmt.Errorf("window %v is larger than the image %v", kernel, x[2:])
		}
		num := room
		if n.Op != "Conv" && n.Attrs.Int("ceil_mode", 0) == 1 {
			num += s[i] - 1
		}
		out[2+i] = num/s[i] + 1
	}
	return out, nil
}

// transposedShape is for explicit padding.
func transposedShape(_ *Graph, n *Node, in [][]int) ([]int, error) {
	if a := n.Attrs.Str("auto_pad", "NOTSET"); a != "NOTSET" {
		return nil, fmt.Errorf("auto_pad %s must be made explicit", a)
	}
	if len(in) < 2 || len(in[1]) != 4 {
		return nil, fmt.Errorf("needs a weight of shape [C,M,kH,kW]")
	}
	x, w := in[0], in[1]
	group := n.Attrs.Int("group", 1)
	if group < 1 || w[0] != x[1] || w[0]%group != 0 {
		return nil, fmt.Errorf("weight %v with %d groups does not fit %d channels", w, group, x[1])
	}
	channels, k := w[1]*group, w[2:]
	if err := n.weightFits(in, channels); err != nil {
		return nil, err
	}
	s, p := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0)
	d, more := n.Attrs.Ints("dilations", 1, 1), n.Attrs.Ints("output_padding", 0, 0)
	if len(s) != 2 || len(p) != 4 || len(d) != 2 || len(more) != 2 {
		return nil, fmt.Errorf("strides %v, pads %v, dilations %v, output_padding %v are not those of a 2-D window", s, p, d, more)
	}
	out := []int{x[0], channels, 0, 0}
	for i := range 2 {
		if k[i] < 1 || s[i] < 1 || d[i] < 1 || p[i] < 0 || p[i+2] < 0 || more[i] < 0 {
			return nil, fmt.Errorf("kernel %v, strides %v, pads %v, dilations %v, output_padding %v are out of range", k, s, p, d, more)
		}
		out[2+i] = s[i]*(x[2+i]-1) + d[i]*(k[i]-1) + 1 + more[i] - p[i] - p[i+2]
		if out[2+i] < 1 {
			return nil, fmt.Errorf("padding %v leaves nothing of the image %v", p, x[2:])
		}
	}
	return out, nil
}
