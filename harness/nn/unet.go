package nn

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/random"
)

// UNetOptions configures UNet.
type UNetOptions struct {
	Width   int `json:"width,omitempty"`   // base width w; 64 in the study
	Classes int `json:"classes,omitempty"` // 2 in the study
}

// Names of the parameter groups, and of the values that a tool may ask for.
const (
	Encoder       = "encoder"
	Decoder       = "decoder"
	Image         = "image"         // [N,1,H,W]
	Logits        = "decoder.head"  // [N,K,H,W]
	Probabilities = "probabilities" // [N,K,H,W]
)

// Momentum is the ONNX momentum of every BatchNormalization (PyTorch's 0.1),
// Epsilon its ε.
const (
	Momentum = 0.9
	Epsilon  = 1e-5
)

// UNet builds the study's network: a U-Net with a pre-activation ResNet
// encoder, for single-channel images whose height and width are multiples of
// 16. Weights are zero until Initialize.
//
// At width 64 and two classes it has 14,147,650 parameters, 11,019,584 of them
// in the encoder.
func UNet(o UNetOptions) (*Graph, error) {
	g, err := UNetLayout(o)
	if err != nil {
		return nil, err
	}
	for _, t := range g.Tensors {
		if t.Role != Constant {
			t.Data = make([]float32, t.Len())
		}
	}
	return g, g.Check()
}

// UNetLayout is UNet without memory for the weights: enough for Shapes, Layers and
// the counts of work.
func UNetLayout(o UNetOptions) (*Graph, error) {
	if o.Width < 2 || o.Width%2 != 0 || o.Width > 1024 {
		return nil, fmt.Errorf("U-Net width %d: must be even, from 2 to 1024", o.Width)
	}
	if o.Classes < 2 || o.Classes > 255 {
		return nil, fmt.Errorf("U-Net with %d classes: must be from 2 to 255", o.Classes)
	}
	b := &builder{g: &Graph{
		Name:   fmt.Sprintf("unet%d", o.Width),
		Input:  Value{Image, []int{0, 1, 0, 0}},
		Output: Value{Probabilities, []int{0, o.Classes, 0, 0}},
	}}
	w := o.Width

	x := b.conv("encoder.init.conv", Image, 1, w, 7, 1, false)
	x = b.bnRelu("encoder.init.bn", "encoder.init.relu", x, w)
	x = b.node("encoder.init.pool", "MaxPool", Attrs{"kernel_shape": []int64{2, 2}, "strides": []int64{2, 2}}, x)
	skips := []string{x}
	in := w
	for i := 1; i <= 3; i++ {
		out := w << i
		for unit := 1; unit <= 2; unit++ {
			p := fmt.Sprintf("encoder.down%d.unit%d.", i, unit)
			shortcut, stride := x, 1
			a := b.bnRelu(p+"bn1", p+"relu1", x, in)
			if unit == 1 {
				stride = 2
				shortcut = b.conv(p+"shortcut", a, in, out, 1, 2, false)
			}
			y := b.conv(p+"conv1", a, in, out, 3, stride, false)
			y = b.bnRelu(p+"bn2", p+"relu2", y, out)
			y = b.conv(p+"conv2", y, out, out, 3, 1, false)
			x = b.node(p+"add", "Add", nil, y, shortcut)
			in = out
		}
		skips = append(skips, x)
	}
	skips = skips[:3] // the deepest level feeds the decoder directly
	b.g.Tensors = append(b.g.Tensors, &Tensor{Name: "resize.scales", Shape: []int{4}, Data: []float32{1, 1, 2, 2}})
	for i := 1; i <= 4; i++ {
		p := fmt.Sprintf("decoder.up%d.", i)
		x = b.node(p+"resize", "Resize", Attrs{
			"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
		}, x, "", "resize.scales")
		out := in / 2
		if i < 4 {
			skip := 3 - i // down 2, down 1, pool
			x = b.node(p+"concat", "Concat", Attrs{"axis": int64(1)}, x, skips[skip])
			in += w << skip
			out = w << skip
		}
		x = b.bnRelu(p+"bn1", p+"relu1", x, in)
		x = b.conv(p+"conv1", x, in, out, 3, 1, false)
		x = b.bnRelu(p+"bn2", p+"relu2", x, out)
		x = b.conv(p+"conv2", x, out, out, 3, 1, false)
		in = out
	}
	x = b.conv(Logits, x, in, o.Classes, 1, 1, true)
	b.g.Nodes = append(b.g.Nodes, &Node{"softmax", "Softmax", []string{x}, []string{Probabilities}, Attrs{"axis": int64(1)}})
	return b.g, nil
}

// builder names every value after the node that produces it.
type builder struct{ g *Graph }

func (b *builder) node(name, op string, attrs Attrs, inputs ...string) string {
	if attrs == nil {
		attrs = Attrs{}
	}
	b.g.Nodes = append(b.g.Nodes, &Node{name, op, inputs, []string{name}, attrs})
	return name
}

func (b *builder) tensor(name string, role Role, shape ...int) string {
	b.g.Tensors = append(b.g.Tensors, &Tensor{Name: name, Shape: shape, Role: role})
	return name
}

func (b *builder) conv(name, x string, in, out, kernel, stride int, bias bool) string {
	k, s, p := int64(kernel), int64(stride), int64(kernel/2)
	inputs := []string{x, b.tensor(name+".weight", Parameter, out, in, kernel, kernel)}
	if bias {
		inputs = append(inputs, b.tensor(name+".bias", Parameter, out))
	}
	return b.node(name, "Conv", Attrs{
		"kernel_shape": []int64{k, k}, "strides": []int64{s, s}, "pads": []int64{p, p, p, p},
	}, inputs...)
}

func (b *builder) bnRelu(bn, relu, x string, channels int) string {
	x = b.node(bn, "BatchNormalization", Attrs{"epsilon": float32(Epsilon), "momentum": float32(Momentum)}, x,
		b.tensor(bn+".weight", Parameter, channels), b.tensor(bn+".bias", Parameter, channels),
		b.tensor(bn+".running_mean", Statistic, channels), b.tensor(bn+".running_var", Statistic, channels))
	return b.node(relu, "Relu", nil, x)
}

// Initialize draws initial weights as PyTorch does by default: weights and biases
// of convolutions uniform in ±1/√fan_in, slopes of PRelu 0.25, scales of
// normalisations 1, shifts 0, running means 0 and variances 1. Each tensor has a
// random stream of its own, named by seed, index and the tensor's name, so that
// networks of one study differ only through (seed, index).
func (g *Graph) Initialize(seed, index uint64) {
	g.initialize(seed, index, func(*Tensor) bool { return true })
}

// InitializeGroup draws initial weights of one group of parameters as Initialize
// does, and leaves the others.
func (g *Graph) InitializeGroup(group string, seed, index uint64) {
	g.initialize(seed, index, func(t *Tensor) bool { return Group(t.Name) == group })
}

func (g *Graph) initialize(seed, index uint64, wanted func(*Tensor) bool) {
	fan := map[string]int{}
	initial := map[string]float32{}
	for _, n := range g.Nodes {
		switch n.Op {
		case "Conv", "ConvTranspose": // whose weights PyTorch counts alike: [M,C/group,…] and [C,M/group,…]
			w := g.Tensor(n.Inputs[1])
			for _, in := range n.Inputs[1:] {
				fan[in] = w.Len() / w.Shape[0]
			}
		case "BatchNormalization":
			initial[n.Inputs[1]] = 1
			initial[n.Inputs[4]] = 1
		case "InstanceNormalization":
			initial[n.Inputs[1]] = 1
		case "Mul":
			initial[n.Inputs[0]], initial[n.Inputs[1]] = 1, 1
		case "PRelu":
			initial[n.Inputs[1]] = 0.25
		}
	}
	for _, t := range g.Tensors {
		switch {
		case t.Role == Constant || !wanted(t):
		case fan[t.Name] > 0:
			r := random.Stream(seed, "weights/"+t.Name, index)
			bound := 1 / math.Sqrt(float64(fan[t.Name]))
			for i := range t.Data {
				u := r.Float64()
				t.Data[i] = float32(float64(float64(2*u)-1) * bound)
			}
		default:
			for i := range t.Data {
				t.Data[i] = initial[t.Name]
			}
		}
	}
}
