package onnx_test

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// A graph survives the way through a file with every name, attribute and bit.
func Example() {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	g.Initialize(1, 0)
	file, err := onnx.Marshal(g, onnx.MarshalOptions{
		Producer: "my-plugin", ProducerVersion: "0.1.0", Metadata: map[string]string{"trained on": "nothing"},
	})
	if err != nil {
		panic(err)
	}

	info, err := onnx.Inspect(file)
	if err != nil {
		panic(err)
	}
	fmt.Println(info.Producer, info.ProducerVersion, "opset", info.Opset, info.Metadata)
	back, err := onnx.Unmarshal(file)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(back.Nodes), "nodes;", back.Nodes[0].Op, back.Nodes[0].Name, back.Nodes[0].Attrs["strides"])
	fmt.Println(back.Tensor("decoder.head.bias").Data[0] == g.Tensor("decoder.head.bias").Data[0])
	// Output:
	// my-plugin 0.1.0 opset 13 map[trained on:nothing]
	// 82 nodes; Conv encoder.init.conv [1 1]
	// true
}

// What the reader does not know it refuses by name.
func ExampleUnmarshal_refused() {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		panic(err)
	}
	g.Nodes[2].Op = "Wavelet"
	file, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		panic(err)
	}
	_, err = onnx.Unmarshal(file)
	fmt.Println(err)
	// Output:
	// ONNX model: node "encoder.init.relu" (Wavelet): the operator is not supported
}
