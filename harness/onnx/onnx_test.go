package onnx

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// trained is a U-Net whose weights and statistics look like those of a trained
// one: nothing is zero, one, or symmetric.
func trained(t testing.TB, width int) *nn.Graph {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	perturb(g)
	return g
}

// perturb gives BatchNormalization scales, shifts and statistics the spread of
// a trained network's.
func perturb(g *nn.Graph) {
	for _, n := range g.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		for k, in := range n.Inputs[1:] {
			r := random.Stream(2, in)
			for i, d := 0, g.Tensor(in).Data; i < len(d); i++ {
				u := float32(r.Float64())
				d[i] = [...]float32{0.5 + u, u - 0.5, (u - 0.5) / 4, 0.2 + u}[k]
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	g := trained(t, 6)
	o := MarshalOptions{ProducerVersion: "1", Doc: "doc", Metadata: map[string]string{"b": "2", "a": "1", "c": ""}}
	data, err := Marshal(g, o)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Marshal(g.Clone(), o)
	if !bytes.Equal(data, again) {
		t.Error("the same graph gave other bytes")
	}
	h, err := Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, h) {
		t.Error("the graph changed on the way through ONNX")
	}
	info, err := Inspect(data)
	if err != nil {
		t.Fatal(err)
	}
	want := Info{IRVersion, nn.Opset, "refocus", "1", "doc", o.Metadata}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("description %+v, want %+v", info, want)
	}
}
