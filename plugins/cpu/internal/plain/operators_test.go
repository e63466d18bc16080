package plain

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// image is an array [C,H,W] of one sample, for the definitions below.
type image struct {
	c, h, w int
	v       []float64
}

// at is zero outside.
func (m image) at(c, y, x int) float64 {
	if y < 0 || y >= m.h || x < 0 || x >= m.w {
		return 0
	}
	return m.v[(c*m.h+y)*m.w+x]
}

// convolve is the definition of a grouped convolution with bias.
func convolve(n *nn.Node, w, bias *nn.Tensor, x image, h, wd int) []float64 {
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	m, cg, kh, kw := w.Shape[0], w.Shape[1], w.Shape[2], w.Shape[3]
	mg := m / n.Attrs.Int("group", 1)
	var out []float64
	for o := range m {
		for y := range h {
			for xx := range wd {
				sum := float64(bias.Data[o])
				for c := range cg {
					for ky := range kh {
						for kx := range kw {
							sum += float64(w.Data[((o*cg+c)*kh+ky)*kw+kx]) * x.at(o/mg*cg+c, y*s[0]-p[0]+ky*d[0], xx*s[1]-p[1]+kx*d[1])
						}
					}
				}
				out = append(out, sum)
			}
		}
	}
	return out
}

// maxOver is the definition of a maximum over windows.
func maxOver(n *nn.Node, x image, h, wd int) []float64 {
	k, s, p, d := n.Attrs.Ints("kernel_shape"), n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	var out []float64
	for c := range x.c {
		for y := range h {
			for xx := range wd {
				m := math.Inf(-1)
				for ky := range k[0] {
					for kx := range k[1] {
						iy, ix := y*s[0]-p[0]+ky*d[0], xx*s[1]-p[1]+kx*d[1]
						if iy >= 0 && iy < x.h && ix >= 0 && ix < x.w {
							m = max(m, x.at(c, iy, ix))
						}
					}
				}
				out = append(out, m)
			}
		}
	}
	return out
}

// around puts a node between two convolutions, so that its own parameters and,
// through the first one's, its input are differentiated.
func around(n *nn.Node, channels int, tensors ...*nn.Tensor) *nn.Graph {
	g := &nn.Graph{Input: nn.Value{Name: "image", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "p", Shape: []int{0, 2, 0, 0}}}
	g.Tensors = append([]*nn.Tensor{
		{Name: "w0", Shape: []int{4, 1, 3, 3}}, {Name: "b0", Shape: []int{4}},
		{Name: "w1", Shape: []int{2, channels, 1, 1}}, {Name: "b1", Shape: []int{2}},
	}, tensors...)
	for _, t := range g.Tensors {
		if t.Data == nil && t.Ints == nil {
			t.Data = make([]float32, t.Len())
			r := random.Stream(7, t.Name)
			for i := range t.Data {
				t.Data[i] = float32(r.NormFloat64())
			}
		}
	}
	n.Name, n.Outputs, n.Inputs = "n", []string{"y"}, []string{"x"}
	for i, t := range tensors {
		if n.Op == "Resize" && i == 0 {
			n.Inputs = append(n.Inputs, "")
		}
		n.Inputs = append(n.Inputs, t.Name)
	}
	g.Nodes = []*nn.Node{
		{Name: "first", Op: "Conv", Inputs: []string{"image", "w0", "b0"}, Outputs: []string{"x"}, Attrs: nn.Attrs{"pads": []int64{1, 1, 1, 1}}},
		n,
		{Name: "last", Op: "Conv", Inputs: []string{"y", "w1", "b1"}, Outputs: []string{"z"}},
		{Name: "softmax", Op: "Softmax", Inputs: []string{"z"}, Outputs: []string{"p"}, Attrs: nn.Attrs{"axis": int64(1)}},
	}
	switch n.Op {
	case "Log", "Reciprocal", "Sqrt": // of positive numbers
		n.Inputs[0] = "positive"
		g.Nodes = slices.Insert(g.Nodes, 1, &nn.Node{Name: "exp", Op: "Exp", Inputs: []string{"x"}, Outputs: []string{"positive"}})
	}
	g.AssignRoles()
	for _, t := range tensors { // operands of arithmetic may be trained as well
		switch n.Op {
		case "Add", "Sub", "Mul", "Div", "Max", "Min":
			t.Role = nn.Parameter
		}
	}
	return g
}

// Operators with unusual attributes against their definitions in float64, where
// only the order of additions differs, and their gradients against difference
// quotients as in TestGradientsByDifferences.
func TestOperators(t *testing.T) {
	conv := func(m, cg, kh, kw int, attrs nn.Attrs) (*nn.Node, int, []*nn.Tensor) {
		return &nn.Node{Op: "Conv", Attrs: attrs}, m, []*nn.Tensor{{Name: "w", Shape: []int{m, cg, kh, kw}}, {Name: "b", Shape: []int{m}}}
	}
	maxPool := func(attrs nn.Attrs) (*nn.Node, int, []*nn.Tensor) {
		return &nn.Node{Op: "MaxPool", Attrs: attrs}, 4, nil
	}
	resize := func(mode, coordinates, nearest string, sh, sw float32) (*nn.Node, int, []*nn.Tensor) {
		a := nn.Attrs{"mode": mode, "coordinate_transformation_mode": coordinates}
		if nearest != "" {
			a["nearest_mode"] = nearest
		}
		return &nn.Node{Op: "Resize", Attrs: a}, 4, []*nn.Tensor{{Name: "scales", Shape: []int{4}, Data: []float32{1, 1, sh, sw}}}
	}
	type test struct {
		n        *nn.Node
		channels int
		tensors  []*nn.Tensor
	}
	var tests []test
	add := func(n *nn.Node, channels int, tensors []*nn.Tensor) {
		tests = append(tests, test{n, channels, tensors})
	}
	add(conv(3, 4, 1, 1, nil))
	add(conv(5, 4, 3, 3, nn.Attrs{"strides": []int64{2, 2}, "pads": []int64{1, 1, 1, 1}}))
	add(conv(5, 4, 1, 1, nn.Attrs{"strides": []int64{2, 2}}))
	add(conv(2, 4, 2, 3, nn.Attrs{"strides": []int64{1, 3}, "pads": []int64{0, 2, 3, 1}}))
	add(conv(6, 2, 3, 2, nn.Attrs{"group": int64(2), "dilations": []int64{2, 3}, "pads": []int64{2, 1, 1, 3}}))
	add(conv(4, 1, 3, 3, nn.Attrs{"group": int64(4), "strides": []int64{3, 2}, "dilations": []int64{1, 2}, "pads": []int64{0, 3, 1, 0}}))
	add(conv(1, 4, 7, 7, nn.Attrs{"pads": []int64{3, 3, 3, 3}}))
	add(maxPool(nn.Attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}))
	add(maxPool(nn.Attrs{"kernel_shape": []int64{3, 2}, "strides": []int64{2, 3}, "pads": []int64{1, 0, 2, 1}, "ceil_mode": int64(1)}))
	add(maxPool(nn.Attrs{"kernel_shape": []int64{2, 3}, "dilations": []int64{3, 2}, "pads": []int64{0, 2, 0, 1}}))
	for _, c := range []string{"asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"} {
		add(resize("linear", c, "", 2, 1.5))
		for _, r := range []string{"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"} {
			add(resize("nearest", c, r, 2, 3))
		}
	}
	// Functions of every element and operators that move elements: their values
	// are compared with ONNX Runtime and PyTorch in harness/onnx, here their
	// gradients.
	of := func(op string, attrs nn.Attrs, channels int, tensors ...*nn.Tensor) {
		for i, t := range tensors {
			t.Name = fmt.Sprint("t", i)
		}
		add(&nn.Node{Op: op, Attrs: attrs}, channels, tensors)
	}
	numbers := func(shape []int, x ...float32) *nn.Tensor { return &nn.Tensor{Shape: shape, Data: x} }
	integers := func(x ...int64) *nn.Tensor { return &nn.Tensor{Shape: []int{len(x)}, Ints: x} }
	column := func() *nn.Tensor { return numbers([]int{1, 4, 1, 1}, 0.5, -1.25, 2, 0.75) }
	for _, op := range []string{"Abs", "Erf", "Exp", "HardSigmoid", "Log", "Neg", "Reciprocal", "Selu", "Sigmoid", "Softplus", "Sqrt", "Tanh"} {
		of(op, nil, 4)
	}
	of("Elu", nn.Attrs{"alpha": float32(0.7)}, 4)
	of("HardSigmoid", nn.Attrs{"alpha": float32(0.3), "beta": float32(0.4)}, 4)
	of("LogSoftmax", nn.Attrs{"axis": int64(1)}, 4)
	of("LogSoftmax", nn.Attrs{"axis": int64(-1)}, 4)
	of("Clip", nil, 4, numbers([]int{}, -0.5), numbers([]int{}, 1))
	of("PRelu", nil, 4, &nn.Tensor{Shape: []int{4, 1, 1}, Data: []float32{0.1, 0.2, -0.3, 0.4}})
	of("PRelu", nil, 4, &nn.Tensor{Shape: []int{1}, Data: []float32{0.1}})
	for _, op := range []string{"Add", "Sub", "Mul", "Div", "Max", "Min"} {
		of(op, nil, 4, column())
		of(op, nil, 4, numbers([]int{}, 0.3))
		of(op, nil, 4, numbers([]int{10}, 1, 2, -3, 4, -5, 6, 7, 8, -9, 10))
	}
	for _, op := range []string{"ReduceMean", "ReduceMax", "ReduceMin"} {
		of(op, nn.Attrs{"axes": []int64{1}, "keepdims": int64(1)}, 1)
		of(op, nn.Attrs{"axes": []int64{2, 3}}, 4)
	}
	of("ReduceSum", nil, 4, integers(3))
	for _, mode := range []string{"constant", "edge", "reflect"} {
		of("Pad", nn.Attrs{"mode": mode}, 4, integers(0, 0, 2, 1, 0, 0, 3, -2))
	}
	of("Pad", nil, 6, integers(0, 1, 0, 0, 0, 1, 1, 0), numbers([]int{}, 0.7))
	of("Slice", nil, 2, integers(1, 2, -7), integers(3, math.MaxInt64, -1), integers(1, 2, 3))
	of("Slice", nil, 4, integers(1), integers(10), integers(3), integers(4))
	of("Reshape", nil, 2, integers(0, 2, -1, 0))
	of("DepthToSpace", nn.Attrs{"blocksize": int64(2)}, 1)
	of("DepthToSpace", nn.Attrs{"blocksize": int64(2), "mode": "CRD"}, 1)
	add(resize("cubic", "half_pixel", "", 2, 1.5))
	add(resize("cubic", "align_corners", "", 0.5, 2))
	add(resize("linear", "half_pixel", "", 0.5, 0.7))
	add(resize("nearest", "half_pixel", "round_prefer_floor", 0.5, 0.7))
	for _, c := range tests {
		t.Run(fmt.Sprint(c.n.Op, c.n.Attrs), func(t *testing.T) {
			const n, h, w = 2, 7, 10
			g := around(c.n, c.channels, c.tensors...)
			e, err := Compile[float64](g, options)
			if err != nil {
				t.Fatal(err)
			}
			shapes, err := g.Shapes([]int{n, 1, h, w})
			if err != nil {
				t.Fatal(err)
			}
			y := shapes["y"]
			b := batch64(n, h, w)
			b.Labels = make([]uint8, n*y[2]*y[3])
			for i := range b.Labels {
				b.Labels[i] = uint8(i % 3 & 1)
			}
			filled := func(name string) backend.NamedTensor {
				s := shapes[name]
				return backend.NamedTensor{Name: name, Tensor: backend.Tensor{Shape: s, F64: make([]float64, nn.Size(s))}}
			}
			acts := []backend.NamedTensor{filled("x"), filled("y")}
			if err := e.Activations(b, true, acts); err != nil {
				t.Fatal(err)
			}
			for i := range n {
				x := image{4, h, w, acts[0].F64[i*4*h*w:][:4*h*w]}
				var want []float64
				switch c.n.Op {
				case "Conv":
					want = convolve(c.n, c.tensors[0], c.tensors[1], x, y[2], y[3])
				case "MaxPool":
					want = maxOver(c.n, x, y[2], y[3])
				default: // compared with ONNX Runtime in harness/onnx
					continue
				}
				for j, v := range want {
					if got := acts[1].F64[i*len(want)+j]; math.Abs(got-v) > 1e-12 {
						t.Fatalf("sample %d, element %d: %v, want %v", i, j, got, v)
					}
				}
			}
			frozen := make([]bool, len(e.params))
			loss := func() float64 {
				l, err := e.Gradients(b, frozen, 1, false)
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			loss()
			var grads [][]float64
			for _, p := range e.params {
				grads = append(grads, append([]float64(nil), p.grad...))
			}
			for i, p := range e.params {
				for j, x := range p.data {
					const d = 1e-6
					p.data[j] = x + d
					up := loss()
					p.data[j] = x - d
					down := loss()
					p.data[j] = x
					if got, want := grads[i][j], (up-down)/(2*d); math.Abs(got-want) > 1e-6*math.Abs(want)+1e-8 {
						t.Errorf("%s[%d]: gradient %.9g, difference quotient %.9g", p.name, j, got, want)
					}
				}
			}
		})
	}
}
