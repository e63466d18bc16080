package nn

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestUNetCounts(t *testing.T) {
	for _, c := range []struct{ width, all, encoder int }{
		{64, 14147650, 11019584}, // the paper: about 14 million, almost 80 %
		{16, 886738, 0},
	} {
		g, err := UNet(UNetOptions{Width: c.width, Classes: 2})
		if err != nil {
			t.Fatal(err)
		}
		if n := g.Count(""); n != c.all {
			t.Errorf("width %d: %d parameters, want %d", c.width, n, c.all)
		}
		if n := g.Count(Encoder); c.encoder > 0 && n != c.encoder {
			t.Errorf("width %d: %d encoder parameters, want %d", c.width, n, c.encoder)
		}
		if g.Count(Encoder)+g.Count(Decoder) != g.Count("") {
			t.Errorf("width %d: a parameter is in neither group", c.width)
		}
	}
}

// study.md: 62.8 G multiply-adds forward at 512×512, width 64.
func TestUNetWork(t *testing.T) {
	g, _ := UNet(UNetOptions{Width: 64, Classes: 2})
	macs, err := g.MultiplyAdds([]int{1, 1, 512, 512})
	if err != nil {
		t.Fatal(err)
	}
	if got := float64(macs) / 1e9; math.Abs(got-62.8) > 0.1 {
		t.Errorf("%.2f G multiply-adds, want 62.8", got)
	}
}

func TestShapes(t *testing.T) {
	g, _ := UNet(UNetOptions{Width: 8, Classes: 2})
	s, err := g.Shapes([]int{3, 1, 32, 48})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]int{
		"encoder.init.pool":       {3, 8, 16, 24},
		"encoder.down3.unit2.add": {3, 64, 2, 3},
		"decoder.up1.concat":      {3, 96, 4, 6},
		"decoder.up4.conv2":       {3, 4, 32, 48},
		Probabilities:             {3, 2, 32, 48},
	} {
		if !slices.Equal(s[name], want) {
			t.Errorf("%s has shape %v, want %v", name, s[name], want)
		}
	}
	if _, err := g.Shapes([]int{1, 1, 40, 40}); err == nil {
		t.Error("accepted 40×40, which is no multiple of 16")
	}
	if _, err := g.Shapes([]int{1, 2, 32, 32}); err == nil {
		t.Error("accepted two channels")
	}
}

func TestInitialize(t *testing.T) {
	g, _ := UNet(UNetOptions{Width: 8, Classes: 2})
	g.Initialize(5, 0)
	w := g.Tensor("encoder.down1.unit1.conv1.weight")
	bound := 1 / math.Sqrt(8*9)
	var mean, square float64
	for _, v := range w.Data {
		if math.Abs(float64(v)) > bound {
			t.Fatalf("weight %g beyond ±%g", v, bound)
		}
		mean += float64(v)
		square += float64(v) * float64(v)
	}
	n := float64(len(w.Data))
	if std := math.Sqrt(square / n); math.Abs(std/(bound/math.Sqrt(3))-1) > 0.05 || math.Abs(mean/n) > bound*0.05 {
		t.Errorf("mean %g and spread %g are not those of U(±%g)", mean/n, std, bound)
	}
	if v := g.Tensor("encoder.init.bn.running_var").Data[0]; v != 1 {
		t.Errorf("running variance starts at %g", v)
	}
	h := g.Clone()
	h.Initialize(5, 1)
	if h.Tensor(w.Name).Data[0] == w.Data[0] {
		t.Error("two initialisations are the same")
	}
}

func TestAssignRoles(t *testing.T) {
	g, _ := UNet(UNetOptions{Width: 4, Classes: 2})
	h := g.Clone()
	for _, x := range h.Tensors {
		x.Role = Constant
	}
	h.AssignRoles()
	for i, x := range g.Tensors {
		if h.Tensors[i].Role != x.Role {
			t.Errorf("%s became %v, want %v", x.Name, h.Tensors[i].Role, x.Role)
		}
	}
}

// A skip connection that does not fit says what sizes would.
func TestJoinedShapes(t *testing.T) {
	scales := &Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 2, 2}}
	g := &Graph{Input: Value{"x", []int{0, 1, 0, 0}}, Output: Value{"y", []int{0, 2, 0, 0}}, Tensors: []*Tensor{scales},
		Nodes: []*Node{
			{Name: "pool", Op: "MaxPool", Inputs: []string{"x"}, Outputs: []string{"p"}, Attrs: Attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}},
			{Name: "up", Op: "Resize", Inputs: []string{"p", "", "s"}, Outputs: []string{"u"}, Attrs: Attrs{"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}},
			{Name: "join", Op: "Concat", Inputs: []string{"u", "x"}, Outputs: []string{"y"}, Attrs: Attrs{"axis": int64(1)}},
		}}
	if s, err := g.Shapes([]int{1, 1, 6, 4}); err != nil || !slices.Equal(s["y"], []int{1, 2, 6, 4}) {
		t.Errorf("shape %v, %v", s["y"], err)
	}
	if _, err := g.Shapes([]int{1, 1, 7, 4}); err == nil || !strings.Contains(err.Error(), "multiples of 2)") {
		t.Errorf("error %v", err)
	}
}

// The expected sizes are those that PyTorch's layers give.
func TestWindowShapes(t *testing.T) {
	for _, c := range []struct {
		op     string
		weight []int
		attrs  Attrs
		want   []int // from [2,4,9,12]
	}{
		{"Conv", []int{6, 2, 3, 5}, Attrs{"group": int64(2), "dilations": []int64{2, 1}, "pads": []int64{1, 0, 2, 3}, "strides": []int64{1, 2}}, []int{2, 6, 8, 6}},
		{"MaxPool", nil, Attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}, "ceil_mode": int64(1)}, []int{2, 4, 5, 6}},
		{"AveragePool", nil, Attrs{"kernel_shape": []int64{3, 3}, "strides": []int64{2, 3}, "pads": []int64{1, 1, 1, 1}}, []int{2, 4, 5, 4}},
		{"ConvTranspose", []int{4, 3, 3, 2}, Attrs{"group": int64(2), "strides": []int64{2, 3}, "pads": []int64{1, 0, 0, 1}, "output_padding": []int64{1, 0}, "dilations": []int64{1, 2}}, []int{2, 6, 19, 35}},
	} {
		g := &Graph{Input: Value{"x", []int{0, 4, 0, 0}}, Output: Value{"y", []int{0, 0, 0, 0}}}
		n := &Node{Name: "n", Op: c.op, Inputs: []string{"x"}, Outputs: []string{"y"}, Attrs: c.attrs}
		if c.weight != nil {
			n.Inputs = append(n.Inputs, "w")
			g.Tensors = []*Tensor{{Name: "w", Shape: c.weight, Data: make([]float32, Size(c.weight))}}
		}
		g.Nodes = []*Node{n}
		s, err := g.Shapes([]int{2, 4, 9, 12})
		if err != nil {
			t.Errorf("%s: %v", c.op, err)
		} else if !slices.Equal(s["y"], c.want) {
			t.Errorf("%s: shape %v, want %v", c.op, s["y"], c.want)
		}
	}
}

func TestMultiple(t *testing.T) {
	g := &Graph{Input: Value{"x", []int{0, 1, 0, 0}}, Output: Value{"y", []int{0, 1, 0, 0}}, Multiple: 4,
		Nodes: []*Node{{Name: "n", Op: "Relu", Inputs: []string{"x"}, Outputs: []string{"y"}}}}
	if _, err := g.Shapes([]int{1, 1, 8, 6}); err == nil {
		t.Error("accepted a width that is no multiple of 4")
	}
	if _, err := g.Clone().Shapes([]int{1, 1, 8, 4}); err != nil {
		t.Error(err)
	}
}

func TestTrainingWork(t *testing.T) {
	g, _ := UNet(UNetOptions{Width: 16, Classes: 2})
	in := []int{1, 1, 64, 64}
	forward, _ := g.MultiplyAdds(in)
	first := int64(64 * 64 * 16 * 49) // the first convolution's input is the image, which needs no gradient
	all, err := g.TrainingMultiplyAdds(in)
	if err != nil || all != 3*forward-first {
		t.Errorf("%d multiply-adds, want %d, %v", all, 3*forward-first, err)
	}
	encoder, _ := g.TrainingMultiplyAdds(in, Encoder)
	decoder, _ := g.TrainingMultiplyAdds(in, Decoder)
	both, _ := g.TrainingMultiplyAdds(in, Encoder, Decoder)
	if both != forward || encoder >= all || decoder >= all {
		t.Errorf("none %d, encoder %d, decoder %d, both %d frozen; forward %d", all, encoder, decoder, both, forward)
	}
	// A frozen decoder still passes the gradient on to the encoder.
	if all-decoder >= all-encoder {
		t.Errorf("freezing the decoder saves %d, the encoder %d", all-decoder, all-encoder)
	}
}

// Scales and shifts of normalisations are trained, however they are written; what
// prepares the input is not.
func TestRolesOfOthers(t *testing.T) {
	g := &Graph{Input: Value{"x", []int{0, 2, 0, 0}}, Output: Value{"y", []int{0, 2, 0, 0}}}
	tensor := func(name string, shape ...int) string {
		g.Tensors = append(g.Tensors, &Tensor{Name: name, Shape: shape, Data: make([]float32, Size(shape))})
		return name
	}
	for i, n := range []*Node{
		{Op: "InstanceNormalization", Inputs: []string{"x", tensor("standardize.scale", 2), tensor("standardize.shift", 2)}},
		{Op: "Mul", Inputs: []string{"0", tensor("gain", 2, 1, 1)}},
		{Op: "Conv", Inputs: []string{"1", tensor("conv", 2, 2, 1, 1)}},
		{Op: "InstanceNormalization", Inputs: []string{"2", tensor("scale", 2), tensor("shift", 2)}},
		{Op: "Mul", Inputs: []string{tensor("affine", 1, 2, 1, 1), "3"}},
		{Op: "Add", Inputs: []string{"4", tensor("offset", 2, 1, 1)}},
		{Op: "Mul", Inputs: []string{"5", tensor("half", 1)}},
		{Op: "Add", Inputs: []string{"6", "1"}},
		{Op: "Mul", Inputs: []string{"7", tensor("last", 2, 1, 1)}},
	} {
		n.Name, n.Outputs = strconv.Itoa(i), []string{strconv.Itoa(i)}
		g.Nodes = append(g.Nodes, n)
	}
	g.AssignRoles()
	var got []string
	for _, p := range g.Parameters() {
		got = append(got, p.Name)
	}
	if want := []string{"conv", "scale", "shift", "affine", "offset", "last"}; !slices.Equal(got, want) {
		t.Errorf("parameters %v, want %v", got, want)
	}
}
