package nn_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// foreign is a U-Net as other people export it: nodes that prepare its input, of
// so many channels, and the nodes after its logits.
func foreign(t *testing.T, channels int, prepare bool, ends ...*nn.Node) *nn.Graph {
	t.Helper()
	g := testnet.Random(t, 2)
	if channels > 1 {
		w := g.Tensor("encoder.init.conv.weight")
		area := 49
		var data []float32
		for o := range w.Shape[0] {
			for c := range channels {
				for _, v := range w.Data[o*area:][:area] {
					data = append(data, v*float32(1+c)/4)
				}
			}
		}
		w.Shape, w.Data = []int{w.Shape[0], channels, 7, 7}, data
		g.Input.Shape = []int{0, channels, 0, 0}
	}
	if prepare {
		mean := &nn.Tensor{Name: "mean", Shape: []int{1, channels, 1, 1}}
		for c := range channels {
			mean.Data = append(mean.Data, float32(c)/2)
		}
		g.Tensors = append(g.Tensors, mean)
		g.Nodes[0].Inputs[0] = "centred"
		g.Nodes = slices.Insert(g.Nodes, 0, &nn.Node{Name: "centre", Op: "Sub", Inputs: []string{nn.Image, "mean"}, Outputs: []string{"centred"}, Attrs: nn.Attrs{}})
	}
	g.Nodes = g.Nodes[:len(g.Nodes)-1] // the softmax
	last := nn.Logits
	for _, n := range ends {
		n.Name, n.Inputs, n.Outputs = n.Op, []string{last}, []string{n.Op}
		last = n.Op
		g.Nodes = append(g.Nodes, n)
	}
	g.Output.Name = last
	g.AssignRoles()
	return g
}

// oneChannel leaves one of the two logits.
func oneChannel(g *nn.Graph) *nn.Graph {
	w, b := g.Tensor("decoder.head.weight"), g.Tensor("decoder.head.bias")
	w.Shape, w.Data = []int{1, w.Shape[1], 1, 1}, w.Data[:w.Shape[1]]
	b.Shape, b.Data = []int{1}, b.Data[:1]
	g.Output.Shape = []int{0, 1, 0, 0}
	return g
}

// What is trained computes what the network computed, whatever it ended in.
func TestRetargetKeepsTheFunction(t *testing.T) {
	over := func(op string) *nn.Node { return &nn.Node{Op: op, Attrs: nn.Attrs{"axis": int64(1)}} }
	sigmoid := func() *nn.Node { return &nn.Node{Op: "Sigmoid", Attrs: nn.Attrs{}} }
	each := func(f func(float64) float64) func([]float32) []float64 {
		return func(y []float32) []float64 {
			p := make([]float64, len(y))
			for i, v := range y {
				p[i] = f(float64(v))
			}
			return p
		}
	}
	single := func(f func(float64) float64) func([]float32) []float64 {
		return func(y []float32) []float64 {
			p := each(f)(y)
			background := each(func(z float64) float64 { return 1 - f(z) })(y)
			return append(background, p...)
		}
	}
	logistic := func(z float64) float64 { return 1 / (1 + math.Exp(-z)) }
	same := func(v float64) float64 { return v }
	softmax := func(z []float32) []float64 {
		n := len(z) / 2
		p := make([]float64, len(z))
		for i := range n {
			d := float64(z[n+i]) - float64(z[i])
			p[i], p[n+i] = logistic(-d), logistic(d)
		}
		return p
	}
	for _, c := range []struct {
		name  string
		graph *nn.Graph
		want  func([]float32) []float64 // the probabilities of an image, of what the network returns for it
	}{
		{"softmax", foreign(t, 1, false, over("Softmax")), each(same)},
		{"log-softmax", foreign(t, 1, false, over("LogSoftmax")), each(math.Exp)},
		{"logits", foreign(t, 1, false), softmax},
		{"sigmoid", oneChannel(foreign(t, 1, false, sigmoid())), single(same)},
		{"logit", oneChannel(foreign(t, 1, false)), single(logistic)},
		{"three channels", foreign(t, 3, false, over("Softmax")), each(same)},
		{"three channels, prepared", foreign(t, 3, true, over("Softmax")), each(same)},
	} {
		x := testnet.Noise(2, 1, 32, 48)
		y := testnet.Predict(t, c.graph, repeated(x, c.graph.Input.Shape[1]))
		var want []float64
		for image := range slices.Chunk(y.F32, len(y.F32)/x.Shape[0]) {
			want = append(want, c.want(image)...)
		}
		if err := c.graph.Retarget(2, false); err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		last := c.graph.Nodes[len(c.graph.Nodes)-1]
		if last.Op != "Softmax" || !slices.Equal(c.graph.Input.Shape, []int{0, 1, 0, 0}) || !slices.Equal(c.graph.Output.Shape, []int{0, 2, 0, 0}) {
			t.Errorf("%s: ends in %s, from %v to %v", c.name, last.Op, c.graph.Input.Shape, c.graph.Output.Shape)
		}
		got := testnet.Predict(t, c.graph, x).F32
		if len(got) != len(want) {
			t.Errorf("%s: %d values, want %d", c.name, len(got), len(want))
			continue
		}
		for i := range got {
			// float32 arithmetic in another order, through some twenty layers
			if d := math.Abs(float64(got[i]) - want[i]); !(d < 1e-5) {
				t.Errorf("%s: value %d is %g, was %g", c.name, i, got[i], want[i])
				break
			}
		}
	}
}

// repeated gives every image so many equal channels.
func repeated(x backend.Tensor, channels int) backend.Tensor {
	n, area := x.Shape[0], x.Shape[2]*x.Shape[3]
	y := backend.Tensor{Shape: []int{n, channels, x.Shape[2], x.Shape[3]}}
	for i := range n {
		for range channels {
			y.F32 = append(y.F32, x.F32[i*area:][:area]...)
		}
	}
	return y
}

// Of a network that returns classes, what they were chosen by is trained.
func TestRetargetArgMax(t *testing.T) {
	want := testnet.Random(t, 2)
	g := foreign(t, 1, false, &nn.Node{Op: "ArgMax", Attrs: nn.Attrs{"axis": int64(1)}}, &nn.Node{Op: "Cast", Attrs: nn.Attrs{"to": int64(1)}})
	g.Output.Shape = []int{0, 1, 0, 0}
	if err := g.Retarget(2, false); err != nil {
		t.Fatal(err)
	}
	x := testnet.Noise(1, 1, 32, 32)
	if d := testnet.Worst(testnet.Predict(t, g, x).F32, testnet.Predict(t, want, x).F32); d != 0 {
		t.Errorf("the probabilities differ by %g", d)
	}
}

// A new head has as many outputs as there are classes, and weights of its own;
// all others stay.
func TestRetargetNewHead(t *testing.T) {
	before := foreign(t, 1, false, &nn.Node{Op: "Sigmoid", Attrs: nn.Attrs{}})
	g := before.Clone()
	if err := g.Retarget(5, true); err != nil {
		t.Fatal(err)
	}
	g.InitializeGroup(nn.NewHead, 1, 2)
	if n := g.Count(nn.NewHead); n != 5*2/2+5 {
		t.Errorf("the new head has %d parameters", n)
	}
	for _, p := range g.Parameters() {
		old := before.Tensor(p.Name)
		if drawn := slices.ContainsFunc(p.Data, func(v float32) bool { return v != 0 }); nn.Group(p.Name) == nn.NewHead && (old != nil || !drawn) ||
			nn.Group(p.Name) != nn.NewHead && (old == nil || !slices.Equal(old.Data, p.Data)) {
			t.Errorf("tensor %q is not what it should be", p.Name)
		}
	}
	if g.Tensor("decoder.head.weight") != nil {
		t.Error("the old head is still there")
	}
	// once more: what was a new head is an old one then
	if err := g.Retarget(3, true); err != nil {
		t.Fatal(err)
	}
	if y := testnet.Predict(t, g, testnet.Noise(1, 1, 32, 32)); !slices.Equal(y.Shape, []int{1, 3, 32, 32}) {
		t.Errorf("predictions of shape %v", y.Shape)
	}
}

func TestRetargetRefuses(t *testing.T) {
	smaller := foreign(t, 1, false)
	smaller.Nodes[0].Attrs["pads"] = []int64{2, 2, 2, 2}
	smaller.Nodes = smaller.Nodes[:1]
	smaller.Output.Name = smaller.Nodes[0].Outputs[0]
	for _, c := range []struct {
		graph   *nn.Graph
		classes int
		head    bool // whether a new head would do
		want    string
	}{
		{foreign(t, 1, false), 3, true, "2 output channels"},
		{foreign(t, 1, false, &nn.Node{Op: "Sigmoid", Attrs: nn.Attrs{}}), 2, true, "overlap"},
		{foreign(t, 1, false, &nn.Node{Op: "Relu", Attrs: nn.Attrs{}}), 3, true, "2 output channels"},
		{smaller, 2, false, "510×510"},
		{&nn.Graph{Input: nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}}, Output: nn.Value{Name: "y", Shape: []int{0, 1, 0, 0}},
			Nodes: []*nn.Node{{Name: "n", Op: "Relu", Inputs: []string{"x"}, Outputs: []string{"y"}}}}, 2, false, "convolution"},
	} {
		if err := c.graph.Retarget(c.classes, false); err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, nn.ErrHead) != c.head {
			t.Errorf("error %v, want one with %q, a new head would do: %v", err, c.want, c.head)
		}
	}
}
