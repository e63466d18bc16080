package nn

import "testing"

func TestField(t *testing.T) {
	g, err := UNet(UNetOptions{Width: 4, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	f, err := g.Field()
	if err != nil {
		t.Fatal(err)
	}
	if f.Period != 16 {
		t.Errorf("period %d, want 16: four halvings", f.Period)
	}
	// Two 3×3 convolutions per decoder level (at 1/8, 1/4, 1/2 and full size)
	// and per encoder unit, and the 7×7 stem, reach about
	//
	//	2·(8+4+2+1) + (2+4+4+4) + (4+8+8+8) + (8+16+16+16) + 3
	//
	// pixels; the position within a cell of the coarse grids adds up to 15.
	if f.Radius < 131 || f.Radius > 131+15 {
		t.Errorf("radius %d, want 131 to 146", f.Radius)
	}

	conv := &Graph{Input: Value{"x", []int{0, 1, 0, 0}}, Output: Value{"y", []int{0, 1, 0, 0}},
		Tensors: []*Tensor{{Name: "w", Shape: []int{1, 1, 5, 3}, Data: make([]float32, 15)}},
		Nodes:   []*Node{{Name: "n", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"y"}, Attrs: Attrs{"pads": []int64{4, 1, 4, 1}, "dilations": []int64{2, 1}}}}}
	if f, err := conv.Field(); err != nil || f != (Field{4, 1}) {
		t.Errorf("5×3 convolution with dilation 2: %+v, %v", f, err)
	}
	conv.Nodes[0].Attrs["strides"] = []int64{2, 2}
	if _, err := conv.Field(); err == nil {
		t.Error("accepted a network that halves the image")
	}
}
