package nn_test

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/nn"
)

// The study's network, and what a training stage may freeze of it.
func ExampleUNet() {
	g, err := nn.UNet(nn.UNetOptions{Width: 64, Classes: 2})
	if err != nil {
		panic(err)
	}
	g.Initialize(1, 0)
	fmt.Println(g.Count(""), "parameters,", g.Count(nn.Encoder), "of them in the encoder")
	_, err = g.Shapes([]int{1, 1, 100, 100})
	fmt.Println(err)
	// Output:
	// 14147650 parameters, 11019584 of them in the encoder
	// node "decoder.up1.concat" (Concat): shapes [[1 512 14 14] [1 256 13 13]] do not join along channels (height and width must be multiples of 16)
}

// A backend walks the nodes in order. Each input is the image, the output of an
// earlier node or a constant tensor; attributes that a node leaves out have
// ONNX's defaults, which the caller of Int and its like states.
func Example_walk() {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	shapes, err := g.Shapes([]int{1, 1, 32, 48})
	if err != nil {
		panic(err)
	}
	for _, n := range g.Nodes[:4] {
		fmt.Print(n.Op, " to ", shapes[n.Outputs[0]])
		if n.Op == "Conv" {
			fmt.Print(", strides ", n.Attrs.Ints("strides", 1, 1), ", group ", n.Attrs.Int("group", 1))
		}
		for _, in := range n.Inputs {
			if t := g.Tensor(in); t != nil {
				fmt.Print(", ", t.Name, " ", t.Shape, " ", t.Role)
			}
		}
		fmt.Println()
	}
	// Output:
	// Conv to [1 2 32 48], strides [1 1], group 1, encoder.init.conv.weight [2 1 7 7] parameter
	// BatchNormalization to [1 2 32 48], encoder.init.bn.weight [2] parameter, encoder.init.bn.bias [2] parameter, encoder.init.bn.running_mean [2] statistic, encoder.init.bn.running_var [2] statistic
	// Relu to [1 2 32 48]
	// MaxPool to [1 2 16 24]
}

// A training step's gradients are wanted for the parameters outside the frozen
// groups, in the graph's order.
func ExampleGroup() {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	frozen := map[string]bool{nn.Encoder: true}
	first := ""
	trained := 0
	for _, p := range g.Parameters() {
		if frozen[nn.Group(p.Name)] {
			continue
		}
		if first == "" {
			first = p.Name
		}
		trained += p.Len()
	}
	fmt.Println(trained, "numbers from", first)
	fmt.Println(trained == g.Count(nn.Decoder))
	// Output:
	// 3173 numbers from decoder.up1.bn1.weight
	// true
}
