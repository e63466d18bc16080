package onnx_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	stream "github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

// single is a network of one operator on an image of four channels.
func single(op string, attrs nn.Attrs, tensors ...*nn.Tensor) *nn.Graph {
	n := &nn.Node{Name: "it", Op: op, Inputs: []string{"x"}, Outputs: []string{"y"}, Attrs: attrs}
	g := &nn.Graph{
		Name:   "single",
		Input:  nn.Value{Name: "x", Shape: []int{0, 4, 0, 0}},
		Output: nn.Value{Name: "y", Shape: []int{0, 0, 0, 0}},
		Nodes:  []*nn.Node{n},
	}
	if op == "Resize" {
		n.Inputs = append(n.Inputs, "")
	}
	for i, t := range tensors {
		t.Name = fmt.Sprintf("t%d", i)
		if t.Data == nil && t.Ints == nil {
			r := stream.Stream(9, op, uint64(i))
			for range t.Len() {
				t.Data = append(t.Data, float32(0.1+r.Float64()))
			}
		}
		n.Inputs = append(n.Inputs, t.Name)
	}
	g.Tensors = tensors
	return g
}

func shaped(shape ...int) *nn.Tensor { return &nn.Tensor{Shape: shape} }

func ints(v ...int64) []int64 { return v }

// marshal writes the graph at an opset of its own.
func marshal(t testing.TB, g *nn.Graph, opset byte) []byte {
	t.Helper()
	data, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	entry := []byte{0x42, 4, 0x0a, 0, 0x10, nn.Opset}
	if bytes.Count(data, entry) != 1 {
		t.Fatal("the operator set's entry is not where it was")
	}
	return bytes.Replace(data, entry, []byte{0x42, 4, 0x0a, 0, 0x10, opset}, 1)
}

type operatorCase struct {
	name  string
	opset byte
	graph *nn.Graph
	shape []int
}

func operatorCases() []operatorCase {
	var cs []operatorCase
	add := func(name string, opset byte, g *nn.Graph, shape ...int) {
		cs = append(cs, operatorCase{name, opset, g, shape})
	}
	conv := func(attrs nn.Attrs, k0, k1 int) *nn.Graph {
		return single("Conv", attrs, shaped(6, 4, k0, k1), shaped(6))
	}
	add("conv without attributes", 13, conv(nil, 3, 2), 2, 4, 7, 9)
	add("conv strides pads dilations", 13, conv(nn.Attrs{"strides": ints(2, 1), "pads": ints(1, 0, 2, 3), "dilations": ints(1, 2)}, 3, 3), 1, 4, 8, 9)
	add("conv groups", 13, single("Conv", nn.Attrs{"group": int64(2)}, shaped(6, 2, 3, 3)), 2, 4, 7, 9)
	for _, auto := range []string{"SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"} {
		add("conv auto_pad "+auto, 13, conv(nn.Attrs{"auto_pad": auto}, 4, 3), 1, 4, 8, 9)
		add("conv auto_pad stride "+auto, 13, conv(nn.Attrs{"auto_pad": auto, "strides": ints(2, 2)}, 3, 4), 1, 4, 8, 12)
		add("pool auto_pad "+auto, 13, single("MaxPool", nn.Attrs{"kernel_shape": ints(3, 2), "strides": ints(2, 2), "auto_pad": auto}), 1, 4, 8, 12)
	}
	fixed := conv(nn.Attrs{"auto_pad": "SAME_LOWER", "strides": ints(3, 2)}, 4, 3)
	fixed.Input.Shape = []int{1, 4, 11, 9}
	add("conv auto_pad fixed odd size", 13, fixed, 1, 4, 11, 9)
	add("pool dilations", 13, single("MaxPool", nn.Attrs{"kernel_shape": ints(2, 3), "dilations": ints(2, 1), "pads": ints(1, 1, 0, 1)}), 1, 4, 8, 9)
	for _, op := range []string{"MaxPool", "AveragePool"} {
		g := single(op, nn.Attrs{"kernel_shape": ints(3, 3), "strides": ints(2, 2), "pads": ints(1, 1, 1, 1), "ceil_mode": int64(1)})
		g.Input.Shape = []int{1, 4, 8, 9}
		add(op+" ceil_mode fixed size", 13, g, 1, 4, 8, 9)
		add(op+" ceil_mode any size", 13, single(op, nn.Attrs{"kernel_shape": ints(2, 2), "strides": ints(2, 2), "ceil_mode": int64(1)}), 1, 4, 8, 6)
	}
	add("average with padding counted", 13, single("AveragePool", nn.Attrs{"kernel_shape": ints(3, 2), "pads": ints(1, 1, 1, 0), "count_include_pad": int64(1)}), 2, 4, 5, 6)
	add("average with padding not counted", 13, single("AveragePool", nn.Attrs{"kernel_shape": ints(3, 2), "pads": ints(1, 1, 1, 0)}), 2, 4, 5, 6)
	add("transposed conv", 13, single("ConvTranspose", nn.Attrs{"strides": ints(2, 3), "pads": ints(1, 0, 0, 1), "output_padding": ints(1, 0), "dilations": ints(1, 2), "group": int64(2)}, shaped(4, 3, 3, 2), shaped(6)), 2, 4, 5, 6)
	bn := []*nn.Tensor{shaped(4), shaped(4), shaped(4), shaped(4)}
	add("batch normalization", 13, single("BatchNormalization", nil, bn...), 2, 4, 5, 6)
	add("batch normalization epsilon", 15, single("BatchNormalization", nn.Attrs{"epsilon": float32(0.1), "training_mode": int64(0)}, shaped(4), shaped(4), shaped(4), shaped(4)), 2, 4, 5, 6)
	for _, axis := range []int64{-3, 0, 1, 2, 3} {
		add(fmt.Sprint("softmax axis ", axis), 13, single("Softmax", nn.Attrs{"axis": axis}), 2, 4, 3, 5)
	}
	add("softmax default axis", 13, single("Softmax", nil), 2, 4, 3, 5)
	add("softmax last axis opset 11", 11, single("Softmax", nn.Attrs{"axis": int64(3)}), 2, 4, 3, 5)
	column := single("Softmax", nil)
	column.Input.Shape = []int{0, 4, 1, 1}
	add("softmax default axis opset 12", 12, column, 3, 4, 1, 1)
	add("leaky relu", 13, single("LeakyRelu", nil), 1, 4, 3, 5)
	add("leaky relu alpha", 13, single("LeakyRelu", nn.Attrs{"alpha": float32(0.3)}), 1, 4, 3, 5)
	add("sigmoid", 13, single("Sigmoid", nil), 1, 4, 3, 5)
	add("identity", 13, func() *nn.Graph {
		g := single("Relu", nil)
		g.Nodes = append(g.Nodes, &nn.Node{Name: "id", Op: "Identity", Inputs: []string{"y"}, Outputs: []string{"z"}})
		g.Output.Name = "z"
		return g
	}(), 1, 4, 3, 5)
	for _, op := range []string{"Add", "Sub", "Mul"} {
		g := single("Relu", nil)
		g.Nodes = append(g.Nodes, &nn.Node{Name: "two", Op: op, Inputs: []string{"x", "y"}, Outputs: []string{"z"}},
			&nn.Node{Name: "same", Op: op, Inputs: []string{"z", "z"}, Outputs: []string{"q"}},
			&nn.Node{Name: "join", Op: "Concat", Inputs: []string{"q", "q", "x"}, Outputs: []string{"out"}, Attrs: nn.Attrs{"axis": int64(-3)}})
		g.Output.Name = "out"
		add(op+" and concat of one value twice", 13, g, 2, 4, 3, 5)
	}
	for _, mode := range []string{"nearest", "linear"} {
		for _, transform := range []string{"half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"} {
			roundings := []string{"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}
			if mode == "linear" {
				roundings = roundings[:1]
			}
			for _, rounding := range roundings {
				attrs := nn.Attrs{"mode": mode, "coordinate_transformation_mode": transform, "nearest_mode": rounding}
				add(fmt.Sprint("resize ", mode, " ", transform, " ", rounding), 13,
					single("Resize", attrs, &nn.Tensor{Shape: []int{4}, Data: []float32{1, 1, 2, 3}}), 2, 4, 3, 5)
			}
		}
	}
	add("resize default", 11, func() *nn.Graph {
		g := single("Resize", nil, &nn.Tensor{Shape: []int{4}, Data: []float32{1, 1, 2, 2}})
		// opset 11 has no omitted inputs: give some region, which is not used
		g.Tensors = append(g.Tensors, &nn.Tensor{Name: "roi", Shape: []int{8}, Data: make([]float32, 8)})
		g.Nodes[0].Inputs[1] = "roi"
		return g
	}(), 1, 4, 3, 5)
	return cs
}

// TestOperatorSemantics runs networks of one operator, in every form that the
// importer accepts, in ONNX Runtime: as the file has it, and as the importer
// states it. The CPU backend must give the same.
func TestOperatorSemantics(t *testing.T) {
	dir := t.TempDir()
	var runs []consumer.Run
	cases := operatorCases()
	ctx := context.Background()
	graphs := make([]*nn.Graph, len(cases))
	for i, c := range cases {
		data := marshal(t, c.graph, c.opset)
		g, err := onnx.Unmarshal(data)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		again, err := onnx.Marshal(g, onnx.MarshalOptions{})
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		graphs[i] = g
		x := testnet.Noise(c.shape...)
		for k, b := range [][]byte{data, again} {
			path := filepath.Join(dir, fmt.Sprintf("%d-%d.onnx", i, k))
			if err := os.WriteFile(path, b, 0o666); err != nil {
				t.Fatal(err)
			}
			runs = append(runs, consumer.Run{Model: path, Shape: c.shape, Data: x.F32})
		}
	}
	_, results, err := consumer.ONNXRuntime.Predict(ctx, runs)
	peers.Need(t, !errors.Is(err, consumer.ErrMissing), fmt.Sprint(err))
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range cases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			file, imported := results[2*i], results[2*i+1]
			if file.Err != nil {
				t.Fatalf("ONNX Runtime refuses the case: %v", file.Err)
			}
			if imported.Err != nil {
				t.Fatalf("ONNX Runtime refuses the import: %v", imported.Err)
			}
			if d := testnet.Worst(imported.Data, file.Data); d > 1e-6 {
				t.Errorf("the import differs by %g", d)
			}
			s := testnet.Open(t, graphs[i])
			y, err := s.Predict(ctx, backend.Tensor{Shape: c.shape, F32: runs[2*i].Data})
			if err != nil {
				t.Fatal(err)
			}
			if d := testnet.Worst(y.F32, file.Data); d > 1e-5 { // sums of up to 64 products of order one
				t.Errorf("the CPU backend differs by %g", d)
			}
		})
	}
}

// A 1×1 convolution with strides is the same with SAME padding, at every size, and
// is read back as it was.
func TestSamePadding(t *testing.T) {
	g := &nn.Graph{Name: "pick", Input: nn.Value{Name: "x", Shape: []int{0, 2, 0, 0}}, Output: nn.Value{Name: "y", Shape: []int{0, 3, 0, 0}},
		Nodes: []*nn.Node{{Name: "y", Op: "Conv", Inputs: []string{"x", "w"}, Outputs: []string{"y"},
			Attrs: nn.Attrs{"kernel_shape": []int64{1, 1}, "strides": []int64{2, 3}, "pads": []int64{0, 0, 0, 0}}}},
		Tensors: []*nn.Tensor{{Name: "w", Shape: []int{3, 2, 1, 1}, Data: make([]float32, 6), Role: nn.Parameter}}}
	plain, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same, err := onnx.Marshal(g, onnx.MarshalOptions{SamePadding: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(same, []byte("SAME_UPPER")) || bytes.Contains(plain, []byte("auto_pad")) {
		t.Error("the padding is not written as asked")
	}
	h, err := onnx.Unmarshal(same)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, h) {
		t.Errorf("read back as %+v, multiple %d", h.Nodes[0], h.Multiple)
	}
}
