package backendtest

import (
	"math"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// unet is a small network of the study's kind with trained-looking weights:
// every scale, shift and running statistic differs from its initial value.
func unet(width int) *nn.Graph {
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		panic(err) // the width is a constant of this package
	}
	g.Initialize(11, 0)
	roughen(g)
	return g
}

// roughen disturbs all one-dimensional tensors with a role.
func roughen(g *nn.Graph) {
	for _, t := range g.Tensors {
		if t.Role == nn.Constant || len(t.Shape) != 1 {
			continue
		}
		r := random.Stream(12, "conformance weights/"+t.Name)
		for i := range t.Data {
			t.Data[i] += float32(0.3 * (r.Float64() - 0.5)) // a variance stays positive
		}
	}
}

// small is a network around a few nodes: f adds them between the input
// "image" and a value that a 1×1 convolution and a softmax turn into classes.
func small(channels, classes int, f func(b *builder) (out string, outChannels int)) *nn.Graph {
	b := &builder{&nn.Graph{Name: "small", Input: nn.Value{Name: "image", Shape: []int{0, channels, 0, 0}}}}
	x, ch := f(b)
	x = b.conv("head", x, ch, classes, 1, nn.Attrs{"kernel_shape": []int64{1, 1}}, true)
	b.node("softmax", "Softmax", nn.Attrs{"axis": int64(1)}, x)
	b.g.Output = nn.Value{Name: "softmax", Shape: []int{0, classes, 0, 0}}
	b.g.AssignRoles()
	if err := b.g.Check(); err != nil {
		panic(err) // the graph is a constant of this package
	}
	return b.g
}

type builder struct{ g *nn.Graph }

func (b *builder) node(name, op string, attrs nn.Attrs, inputs ...string) string {
	if attrs == nil {
		attrs = nn.Attrs{}
	}
	b.g.Nodes = append(b.g.Nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{name}, Attrs: attrs})
	return name
}

// tensor adds random values of the given spread around a centre.
func (b *builder) tensor(name string, centre, spread float64, shape ...int) string {
	t := &nn.Tensor{Name: name, Shape: shape}
	t.Data = make([]float32, t.Len())
	r := random.Stream(13, "conformance weights/"+name)
	for i := range t.Data {
		t.Data[i] = float32(centre + spread*(2*r.Float64()-1))
	}
	b.g.Tensors = append(b.g.Tensors, t)
	return name
}

// conv adds a convolution from in channels (of one group) to out.
func (b *builder) conv(name, x string, in, out, kernel int, attrs nn.Attrs, bias bool) string {
	inputs := []string{x, b.tensor(name+".weight", 0, 1/math.Sqrt(float64(in*kernel*kernel)), out, in, kernel, kernel)}
	if bias {
		inputs = append(inputs, b.tensor(name+".bias", 0, 0.5, out))
	}
	return b.node(name, "Conv", attrs, inputs...)
}

func (b *builder) norm(name, x string, ch int) string {
	return b.node(name, "BatchNormalization", nn.Attrs{"epsilon": float32(1e-3), "momentum": float32(0.7)}, x,
		b.tensor(name+".weight", 1, 0.4, ch), b.tensor(name+".bias", 0, 0.4, ch),
		b.tensor(name+".running_mean", 0, 0.4, ch), b.tensor(name+".running_var", 1, 0.4, ch))
}

func (b *builder) enlarge(name, x string, h, w float32) string {
	b.g.Tensors = append(b.g.Tensors, &nn.Tensor{Name: "scales", Shape: []int{4}, Data: []float32{1, 1, h, w}})
	return b.node(name, "Resize", nn.Attrs{
		"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
	}, x, "", "scales")
}
