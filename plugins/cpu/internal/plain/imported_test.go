package plain

import (
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// imported is a network with every operator that only other people's U-Nets
// have, in forms that exercise their attributes.
func imported(t *testing.T) *nn.Graph {
	g := &nn.Graph{Name: "imported", Input: nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "p", Shape: []int{0, 2, 0, 0}}}
	tensor := func(name string, shape ...int) string {
		v := &nn.Tensor{Name: name, Shape: shape, Data: make([]float32, nn.Size(shape))}
		r := random.Stream(6, name)
		for i := range v.Data {
			v.Data[i] = float32(r.NormFloat64() * 0.4)
		}
		g.Tensors = append(g.Tensors, v)
		return name
	}
	node := func(op string, attrs nn.Attrs, inputs ...string) string {
		name := op + "_" + string(rune('a'+len(g.Nodes)))
		g.Nodes = append(g.Nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{name}, Attrs: attrs})
		return name
	}
	x := node("Conv", nn.Attrs{"pads": []int64{1, 1, 1, 1}}, "x", tensor("w1", 4, 1, 3, 3), tensor("b1", 4))
	x = node("InstanceNormalization", nn.Attrs{"epsilon": float32(1e-3)}, x, tensor("g1", 4), tensor("s1", 4))
	x = node("LeakyRelu", nn.Attrs{"alpha": float32(0.2)}, x)
	skip := node("Sigmoid", nil, x)
	x = node("Mul", nil, x, skip)
	a := node("AveragePool", nn.Attrs{"kernel_shape": []int64{3, 2}, "strides": []int64{2, 2}, "pads": []int64{1, 0, 0, 0}, "count_include_pad": int64(1)}, x)
	b := node("AveragePool", nn.Attrs{"kernel_shape": []int64{3, 2}, "strides": []int64{2, 2}, "pads": []int64{1, 0, 0, 0}}, x)
	x = node("Sub", nil, a, b)
	x = node("Add", nil, x, b)
	x = node("ConvTranspose", nn.Attrs{"strides": []int64{2, 2}, "pads": []int64{1, 1, 1, 0}, "output_padding": []int64{1, 0}, "dilations": []int64{1, 1}, "group": int64(2)},
		x, tensor("w2", 4, 3, 3, 3), tensor("b2", 6))
	x = node("Concat", nn.Attrs{"axis": int64(1)}, x, skip, x)
	x = node("Conv", nil, x, tensor("w3", 2, 16, 1, 1), tensor("b3", 2))
	g.Nodes = append(g.Nodes, &nn.Node{Name: "softmax", Op: "Softmax", Inputs: []string{x}, Outputs: []string{"p"}, Attrs: nn.Attrs{"axis": int64(1)}})
	g.AssignRoles()
	for _, name := range []string{"g1", "s1"} { // AssignRoles leaves them constant
		g.Tensor(name).Role = nn.Parameter
	}
	if err := g.Check(); err != nil {
		t.Fatal(err)
	}
	return g
}

// As TestGradientsByDifferences, for every element of every parameter. Forward
// passes are compared with ONNX Runtime in harness/onnx.
func TestImportedGradientsByDifferences(t *testing.T) {
	e, err := Compile[float64](imported(t), options)
	if err != nil {
		t.Fatal(err)
	}
	b := batch64(3, 8, 6)
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
			const h = 1e-5
			p.data[j] = x + h
			up := loss()
			p.data[j] = x - h
			down := loss()
			p.data[j] = x
			got, want := grads[i][j], (up-down)/(2*h)
			if math.Abs(got-want) > 1e-6*math.Abs(want)+1e-9 {
				t.Errorf("%s[%d]: gradient %.9g, difference quotient %.9g", p.name, j, got, want)
			}
		}
	}
}
