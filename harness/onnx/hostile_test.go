package onnx

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
)

// A model built field by field, so that any of them can be wrong.
type builder struct {
	opset            uint64
	nodes            [][]byte
	tensors          [][]byte
	inputs, outputs  [][]byte
	graph, modelTail []byte // appended as they are
}

// valid is a convolution with a bias and a ReLU.
func valid() *builder {
	return &builder{
		opset: 13,
		nodes: [][]byte{
			rawNodeBytes("conv", "Conv", []string{"x", "w", "b"}, []string{"c"}),
			rawNodeBytes("relu", "Relu", []string{"c"}, []string{"y"}),
		},
		tensors: [][]byte{
			rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4*2*9), 2, 1, 3, 3),
			rawTensorBytes("b", uint64(wire.Float32), make([]byte, 4*2), 2),
		},
		inputs:  [][]byte{rawValueBytes("x", uint64(wire.Float32), -1, 1, -1, -1)},
		outputs: [][]byte{rawValueBytes("y", uint64(wire.Float32), -1, 2, -1, -1)},
	}
}

func (b *builder) bytes() []byte {
	var g, m message
	for i, list := range [][][]byte{b.nodes, b.tensors, b.inputs, b.outputs} {
		for _, x := range list {
			g.bytes([]protowire.Number{1, 5, 11, 12}[i], x)
		}
	}
	g.b = append(g.b, b.graph...)
	m.varint(1, IRVersion)
	m.bytes(7, g.b)
	if b.opset > 0 {
		var o message
		o.varint(2, b.opset)
		m.bytes(8, o.b)
	}
	return append(m.b, b.modelTail...)
}

func rawNodeBytes(name, op string, inputs, outputs []string, attrs ...[]byte) []byte {
	b, err := nodeBytes(&nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: outputs})
	if err != nil {
		panic(err)
	}
	m := message{b}
	for _, a := range attrs {
		m.bytes(5, a)
	}
	return m.b
}

func attr(name string, typ uint64, num protowire.Number, value []byte) []byte {
	var m message
	m.text(1, name)
	if value != nil {
		m.bytes(num, value)
	}
	m.varint(20, typ)
	return m.b
}

func intAttr(name string, v int64) []byte {
	var m message
	m.text(1, name)
	m.varint(3, uint64(v))
	m.varint(20, wire.AttrInt)
	return m.b
}

func rawTensorBytes(name string, dtype uint64, data []byte, dims ...int64) []byte {
	var m message
	m.bytes(1, varints(dims))
	m.varint(2, dtype)
	m.text(8, name)
	if data != nil {
		m.bytes(9, data)
	}
	return m.b
}

func rawValueBytes(name string, dtype uint64, dims ...int64) []byte {
	var shape, tensor, typ, m message
	for _, d := range dims {
		var dim message
		if d >= 0 {
			dim.varint(1, uint64(d))
		}
		shape.bytes(1, dim.b)
	}
	tensor.varint(1, dtype)
	tensor.bytes(2, shape.b)
	typ.bytes(1, tensor.b)
	m.text(1, name)
	m.bytes(2, typ.b)
	return m.b
}

func field1(n protowire.Number, b []byte) []byte {
	var m message
	m.bytes(n, b)
	return m.b
}

// refusal is a damaged or hostile model and what the error must say.
type refusal struct {
	name string
	make func(b *builder)
	want []string
}

func refusals() []refusal {
	conv := func(attrs ...[]byte) func(b *builder) {
		return func(b *builder) {
			b.nodes[0] = rawNodeBytes("conv", "Conv", []string{"x", "w", "b"}, []string{"c"}, attrs...)
		}
	}
	second := func(op string, inputs []string, attrs ...[]byte) func(b *builder) {
		return func(b *builder) { b.nodes[1] = rawNodeBytes("second", op, inputs, []string{"y"}, attrs...) }
	}
	transposed := func(attrs ...[]byte) func(b *builder) {
		return func(b *builder) {
			second("ConvTranspose", []string{"c", "t"}, attrs...)(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "t", Shape: []int{2, 2, 1, 1}, Data: make([]float32, 4)}))
		}
	}
	weight := func(tensor []byte) func(b *builder) {
		return func(b *builder) { b.tensors[0] = tensor }
	}
	external := func() []byte {
		var loc, m message
		loc.text(1, "location")
		loc.text(2, "../../../../etc/passwd")
		m.b = rawTensorBytes("w", uint64(wire.Float32), nil, 2, 1, 3, 3)
		m.bytes(13, loc.b)
		m.varint(14, 1)
		return m.b
	}
	deep := []byte{}
	for range 1000 {
		deep = field1(6, field1(1, field1(5, deep)))
	}
	return []refusal{
		{"no operator set", func(b *builder) { b.opset = 0 }, []string{"operator set"}},
		{"old operator set", func(b *builder) { b.opset = 6 }, []string{"operator set 6"}},
		{"new operator set", func(b *builder) { b.opset = 29 }, []string{"operator set 29"}},
		{"two graphs", func(b *builder) { b.modelTail = field1(7, nil) }, []string{"two graphs"}},
		{"functions", func(b *builder) { b.modelTail = field1(25, nil) }, []string{"functions"}},
		{"training", func(b *builder) { b.modelTail = field1(20, nil) }, []string{"training"}},
		{"sparse initializer", func(b *builder) { b.graph = field1(15, nil) }, []string{"sparse"}},
		{"operator set twice", func(b *builder) { b.modelTail = field1(8, []byte{0x10, 13}) }, []string{"twice"}},
		{"group in the wire format", func(b *builder) { b.modelTail = []byte{0x1b, 0x1c} }, []string{"wire type"}},
		{"no input", func(b *builder) {
			b.inputs = nil
			b.nodes[0] = rawNodeBytes("conv", "Conv", []string{"w", "w"}, []string{"c"})
		}, []string{"0 inputs"}},
		{"two inputs", func(b *builder) { b.inputs = append(b.inputs, rawValueBytes("x2", uint64(wire.Float32), 1)) }, []string{"2 inputs"}},
		{"input of wrong type", func(b *builder) { b.inputs[0] = rawValueBytes("x", uint64(wire.Uint8), -1, 1, -1, -1) }, []string{`"x"`, "uint8"}},
		{"input of wrong rank", func(b *builder) { b.inputs[0] = rawValueBytes("x", uint64(wire.Float32), -1, 1, -1) }, []string{`"x"`, "[N,C,H,W]"}},
		{"input that is a sequence", func(b *builder) { b.inputs[0] = append(field1(1, []byte("x")), field1(2, field1(4, nil))...) }, []string{`"x"`, "no tensor"}},
		{"output declared otherwise", func(b *builder) { b.outputs[0] = rawValueBytes("y", uint64(wire.Float32), -1, 3, -1, -1) }, []string{`"y"`, "declared"}},
		{"output that nobody makes", func(b *builder) { b.outputs[0] = rawValueBytes("z", uint64(wire.Float32), -1, 2, -1, -1) }, []string{`"z"`, "no node"}},
		{"cycle", func(b *builder) {
			b.nodes[0] = rawNodeBytes("conv", "Add", []string{"x", "y"}, []string{"c"})
		}, []string{`"conv"`, `"y"`, "cycle"}},
		{"a node reads itself", second("Add", []string{"c", "y"}), []string{`"second"`, `"y"`, "cycle"}},
		{"missing initializer", func(b *builder) { b.tensors = b.tensors[:1] }, []string{`"conv"`, `"b"`, "missing initializer"}},
		{"initializer twice", func(b *builder) { b.tensors[1] = b.tensors[0] }, []string{`"w"`, "already"}},
		{"node name twice", func(b *builder) { b.nodes[1] = rawNodeBytes("conv", "Relu", []string{"c"}, []string{"y"}) }, []string{`"conv"`, "two nodes"}},
		{"value made twice", func(b *builder) { b.nodes[1] = rawNodeBytes("relu", "Relu", []string{"c"}, []string{"c"}) }, []string{`"relu"`, `"c"`, "already"}},
		{"output named as the input", func(b *builder) { b.nodes[1] = rawNodeBytes("relu", "Relu", []string{"c"}, []string{"x"}) }, []string{`"relu"`, `"x"`, "already"}},
		{"initializer without name", weight(rawTensorBytes("", uint64(wire.Float32), make([]byte, 4), 1)), []string{"no name"}},
		{"giant tensor", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 8), 1<<30, 1<<30, 4, 4)), []string{`"w"`, "larger than any file"}},
		{"giant dimension", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 8), 1<<62)), []string{"initializer 0", "out of range"}},
		{"negative dimension", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 8), -2)), []string{"initializer 0", "out of range"}},
		{"many dimensions", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4), slices.Repeat([]int64{1}, 17)...)), []string{"initializer 0", "dimensions"}},
		{"too little data", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4*17), 2, 1, 3, 3)), []string{`"w"`, "do not fill"}},
		{"no data", weight(rawTensorBytes("w", uint64(wire.Float32), nil, 2, 1, 3, 3)), []string{`"w"`, "do not fill"}},
		{"external data", weight(external()), []string{`"w"`, "another file"}},
		{"segment", weight(append(rawTensorBytes("w", uint64(wire.Float32), nil, 2), field1(3, nil)...)), []string{`"w"`, "segments"}},
		{"data twice", weight(append(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 8), 2), field1(9, make([]byte, 8))...)), []string{`"w"`, "twice"}},
		{"raw and typed data", weight(append(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 8), 2), field1(4, make([]byte, 8))...)), []string{`"w"`, "both"}},
		{"typed data of another type", weight(append(rawTensorBytes("w", uint64(wire.Float32), nil, 2), field1(7, []byte{1, 2})...)), []string{`"w"`, "another type"}},
		{"string tensor", weight(rawTensorBytes("w", 8, make([]byte, 18), 2, 1, 3, 3)), []string{`"w"`, "string"}},
		{"bool weights", weight(rawTensorBytes("w", uint64(wire.Bool), make([]byte, 18), 2, 1, 3, 3)), []string{`"conv"`, `"w"`, "float32"}},
		{"float16 that is none", weight(append(rawTensorBytes("w", uint64(wire.Float16), nil, 1), field1(5, varints([]int64{1 << 17}))...)), []string{`"w"`, "no float16"}},
		{"integer out of range", weight(append(rawTensorBytes("w", uint64(wire.Int8), nil, 1), field1(5, varints([]int64{200}))...)), []string{`"w"`, "no int8"}},
		{"integer weights", weight(rawTensorBytes("w", uint64(wire.Int64), make([]byte, 8*18), 2, 1, 3, 3)), []string{`"conv"`, `"w"`, "float32"}},
		{"double weights", weight(rawTensorBytes("w", uint64(wire.Float64), make([]byte, 8*18), 2, 1, 3, 3)), []string{`"conv"`, `"w"`, "float32"}},
		{"empty weights", weight(rawTensorBytes("w", uint64(wire.Float32), []byte{}, 0, 1, 3, 3)), []string{`"conv"`, `"w"`}},
		{"weights of wrong rank", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4*18), 2, 1, 9)), []string{`"conv"`, `"w"`, "[2 1 9]"}},
		{"weights of wrong channels", weight(rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4*36), 2, 2, 3, 3)), []string{`"conv"`, "channels"}},
		{"unknown operator", second("NonMaxSuppression", []string{"c"}), []string{`"second"`, "NonMaxSuppression", "not supported"}},
		{"another domain", func(b *builder) {
			b.nodes[1] = append(rawNodeBytes("second", "Relu", []string{"c"}, []string{"y"}), field1(7, []byte("com.example"))...)
		}, []string{`"second"`, "com.example"}},
		{"unknown attribute", second("Relu", []string{"c"}, intAttr("slope", 1)), []string{`"second"`, "Relu", `"slope"`}},
		{"attribute twice", conv(intAttr("group", 1), intAttr("group", 1)), []string{`"conv"`, `"group"`, "twice"}},
		{"attribute of wrong type", conv(attr("strides", wire.AttrString, 4, []byte("2"))), []string{`"conv"`, `"strides"`, "string"}},
		{"attribute without type", conv(attr("group", 0, 0, nil)), []string{`"conv"`, `"group"`, "type"}},
		{"attribute without tensor", conv(attr("group", wire.AttrTensor, 0, nil)), []string{`"conv"`, `"group"`}},
		{"subgraph", conv(attr("body", 5, 6, nil)), []string{`"conv"`, `"body"`}},
		{"deep subgraphs", conv(attr("body", 5, 6, deep)), []string{`"conv"`, `"body"`}},
		{"zero stride", conv(attr("strides", wire.AttrInts, 8, varints([]int64{0, 1}))), []string{`"conv"`, `"strides"`, "[0 1]"}},
		{"giant stride", conv(attr("strides", wire.AttrInts, 8, varints([]int64{1 << 40, 1}))), []string{`"conv"`, `"strides"`}},
		{"one stride", conv(attr("strides", wire.AttrInts, 8, varints([]int64{1}))), []string{`"conv"`, `"strides"`}},
		{"negative pad", conv(attr("pads", wire.AttrInts, 8, varints([]int64{0, -1, 0, 0}))), []string{`"conv"`, `"pads"`}},
		{"zero groups", conv(intAttr("group", 0)), []string{`"conv"`, `"group"`}},
		{"groups that do not divide", conv(intAttr("group", 3)), []string{`"conv"`, "channels"}},
		{"kernel_shape of another kernel", conv(attr("kernel_shape", wire.AttrInts, 8, varints([]int64{5, 5}))), []string{`"conv"`, `"kernel_shape"`}},
		{"auto_pad unknown", conv(attr("auto_pad", wire.AttrString, 4, []byte("SAME"))), []string{`"conv"`, `"auto_pad"`, "SAME"}},
		{"auto_pad beside pads", conv(attr("auto_pad", wire.AttrString, 4, []byte("VALID")), attr("pads", wire.AttrInts, 8, varints([]int64{0, 1, 0, 1}))), []string{`"conv"`, `"auto_pad"`, `"pads"`, "contradicts"}},
		{"auto_pad beside pads of a transposed convolution", transposed(attr("auto_pad", wire.AttrString, 4, []byte("VALID")), attr("pads", wire.AttrInts, 8, varints([]int64{0, 1, 0, 1}))), []string{`"second"`, `"auto_pad"`, `"pads"`, "contradicts"}},
		{"giant output_padding", transposed(attr("output_padding", wire.AttrInts, 8, varints([]int64{1, 0}))), []string{`"second"`, "ConvTranspose", `"output_padding"`}},
		{"too many inputs", second("Relu", []string{"c", "b"}), []string{`"second"`, "Relu", "2 inputs"}},
		{"too few inputs", second("BatchNormalization", []string{"c", "b"}), []string{`"second"`, "BatchNormalization", "2 inputs"}},
		{"omitted input", second("Add", []string{"", "c"}), []string{`"second"`, "Add", "input 0"}},
		{"constant of another type", func(b *builder) {
			second("Add", []string{"c", "one"})(b)
			b.nodes = slices.Insert(b.nodes, 1, rawNodeBytes("one", "Constant", nil, []string{"one"}, intAttr("value_float", 1)))
		}, []string{`"one"`, "Constant", `"value_float"`, "float32"}},
		{"softmax over flattened axes", func(b *builder) { b.opset = 12; second("Softmax", []string{"c"}, intAttr("axis", 1))(b) }, []string{`"second"`, "Softmax", `"axis"`}},
		{"softmax default axis before 13", func(b *builder) { b.opset = 11; second("Softmax", []string{"c"})(b) }, []string{`"second"`, "Softmax", `"axis"`}},
		{"softmax axis", second("Softmax", []string{"c"}, intAttr("axis", 4)), []string{`"second"`, "Softmax", `"axis"`}},
		{"concat of batches", second("Concat", []string{"c", "c"}, intAttr("axis", 0)), []string{`"second"`, "Concat", `"axis"`}},
		{"add of different channels", second("Add", []string{"c", "x"}), []string{`"second"`, "Add", "different size"}},
		{"add of a constant", second("Add", []string{"c", "b"}), []string{`"second"`, "Add", "different size"}},
		{"pool without kernel", second("MaxPool", []string{"c"}), []string{`"second"`, "MaxPool", `"kernel_shape"`}},
		{"pool in the padding", second("MaxPool", []string{"c"}, attr("kernel_shape", wire.AttrInts, 8, varints([]int64{2, 2})), attr("pads", wire.AttrInts, 8, varints([]int64{2, 2, 2, 2}))), []string{`"second"`, "MaxPool", `"pads"`}},
		{"average beyond the padding", func(b *builder) {
			b.inputs[0] = rawValueBytes("x", uint64(wire.Float32), 1, 1, 9, 9)
			second("AveragePool", []string{"c"}, attr("kernel_shape", wire.AttrInts, 8, varints([]int64{2, 2})),
				attr("strides", wire.AttrInts, 8, varints([]int64{2, 2})), intAttr("ceil_mode", 1), intAttr("count_include_pad", 1))(b)
		}, []string{`"second"`, "AveragePool", `"ceil_mode"`, `"count_include_pad"`}},
		{"resize without scales", second("Resize", []string{"c", ""}), []string{`"second"`, "Resize", "scales"}},
		{"resize by another kernel", second("Resize", []string{"c", "", "b"}, attr("mode", wire.AttrString, 4, []byte("lanczos"))), []string{`"second"`, "Resize", `"mode"`, "lanczos"}},
		{"resize crop", second("Resize", []string{"c", "", "b"}, attr("coordinate_transformation_mode", wire.AttrString, 4, []byte("tf_crop_and_resize"))), []string{`"second"`, "Resize", "tf_crop_and_resize"}},
		{"resize by two scales", second("Resize", []string{"c", "", "b"}), []string{`"second"`, "Resize", "2 scales"}},
		{"resize by no fraction", func(b *builder) {
			second("Resize", []string{"c", "", "s"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 1.23456, 2}}))
		}, []string{`"second"`, "Resize", "1.23456"}},
		{"resize of channels", func(b *builder) {
			second("Resize", []string{"c", "", "s"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 2, 2, 2}}))
		}, []string{`"second"`, "Resize", "dimension 1"}},
		{"resize by a giant", func(b *builder) {
			second("Resize", []string{"c", "", "s"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 1e9, 2}}))
		}, []string{`"second"`, "Resize", "scale"}},
		{"padding of the batch", func(b *builder) {
			second("Pad", []string{"c", "p"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "p", Shape: []int{8}, Ints: []int64{1, 0, 0, 0, 0, 0, 0, 0}}))
		}, []string{`"second"`, "Pad", "batch"}},
		{"giant padding", func(b *builder) {
			second("Pad", []string{"c", "p"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "p", Shape: []int{8}, Ints: []int64{0, 0, 1 << 40, 0, 0, 0, 0, 0}}))
		}, []string{`"second"`, "Pad"}},
		{"padding that reflects channels", func(b *builder) {
			second("Pad", []string{"c", "p"}, attr("mode", wire.AttrString, 4, []byte("reflect")))(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "p", Shape: []int{8}, Ints: []int64{0, 1, 0, 0, 0, 0, 0, 0}}))
		}, []string{`"second"`, "Pad", `"mode"`}},
		{"slice to nothing", func(b *builder) {
			second("Slice", []string{"c", "z", "z", "one"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "z", Shape: []int{1}, Ints: []int64{0}}), tensorBytes(&nn.Tensor{Name: "one", Shape: []int{1}, Ints: []int64{1}}))
		}, []string{`"second"`, "Slice", "nothing"}},
		{"slice backwards", func(b *builder) {
			second("Slice", []string{"c", "s", "z", "s", "s"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "z", Shape: []int{1}, Ints: []int64{0}}), tensorBytes(&nn.Tensor{Name: "s", Shape: []int{1}, Ints: []int64{-1}}))
		}, []string{`"second"`, "Slice", "step -1"}},
		{"division by a constant of another rank", func(b *builder) {
			second("Div", []string{"c", "d"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "d", Shape: []int{1, 1, 2, 1, 1}, Data: make([]float32, 2)}))
		}, []string{`"second"`, "Div", "dimensions"}},
		{"power", func(b *builder) {
			second("Pow", []string{"c", "d"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "d", Shape: []int{}, Data: []float32{1.7}}))
		}, []string{`"second"`, "Pow", "1.7"}},
		{"mean of the batch", second("ReduceMean", []string{"c"}, attr("axes", wire.AttrInts, 8, varints([]int64{0}))), []string{`"second"`, "ReduceMean", "batch"}},
		{"pixels as channels", func(b *builder) {
			second("Reshape", []string{"c", "s"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{2}, Ints: []int64{0, -1}}))
		}, []string{`"second"`, "Reshape"}},
		{"quantised numbers", func(b *builder) {
			b.nodes[1] = rawNodeBytes("quant", "QuantizeLinear", []string{"c", "s"}, []string{"q"})
			b.nodes = append(b.nodes, rawNodeBytes("second", "Relu", []string{"q"}, []string{"y"}))
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{}, Data: []float32{1}}))
		}, []string{`"second"`, "Relu", "quantised"}},
		{"quantised by no scale", func(b *builder) {
			b.nodes = slices.Insert(b.nodes, 0, rawNodeBytes("d", "DequantizeLinear", []string{"q", "s"}, []string{"b"}))
			b.tensors[1] = rawTensorBytes("q", uint64(wire.Int8), []byte{1, 2}, 2)
			b.tensors = append(b.tensors, rawTensorBytes("s", uint64(wire.Float32), []byte{}, 0))
		}, []string{`"d"`, "DequantizeLinear", "no elements"}},
		{"nothing by nothing quantised", func(b *builder) {
			b.nodes = slices.Insert(b.nodes, 0, rawNodeBytes("n", "QuantizeLinear", []string{"f", "s"}, []string{"q"}),
				rawNodeBytes("d", "DequantizeLinear", []string{"q", "s"}, []string{"b"}))
			b.tensors[1] = rawTensorBytes("f", uint64(wire.Float32), make([]byte, 8), 2)
			b.tensors = append(b.tensors, rawTensorBytes("s", uint64(wire.Float32), make([]byte, 4)))
		}, []string{`"n"`, "QuantizeLinear", "element 0 is 0, its scale 0"}},
		{"layer normalised with the batch", second("LayerNormalization", []string{"c", "b"}, intAttr("axis", 0)), []string{`"second"`, "LayerNormalization", `"axis" = 0`}},
		{"layer normalised of another size", second("LayerNormalization", []string{"c", "b"}), []string{`"second"`, "LayerNormalization", `"b"`, "does not fit"}},
		{"matrix product of rows", func(b *builder) {
			second("MatMul", []string{"c", "m"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "m", Shape: []int{2, 2}, Data: make([]float32, 4)}))
		}, []string{`"second"`, "MatMul", "channels come last"}},
		{"drop-out in training", func(b *builder) {
			second("Dropout", []string{"c", "", "t"})(b)
			b.tensors = append(b.tensors, rawTensorBytes("t", uint64(wire.Bool), []byte{1}))
		}, []string{`"second"`, "Dropout", "model.eval()"}},
		{"convolution of a transposed image", func(b *builder) {
			b.nodes = slices.Insert(b.nodes, 1, rawNodeBytes("t", "Transpose", []string{"c"}, []string{"d"}))
			b.nodes[2] = rawNodeBytes("second", "MaxPool", []string{"d"}, []string{"y"}, attr("kernel_shape", wire.AttrInts, 8, varints([]int64{2, 2})))
		}, []string{`"second"`, "MaxPool", "transposed"}},
		{"height and width exchanged", second("Transpose", []string{"c"}, attr("perm", wire.AttrInts, 8, varints([]int64{0, 1, 3, 2}))), []string{`"y"`, "order"}},
		{"transposed and not", func(b *builder) {
			b.nodes = slices.Insert(b.nodes, 1, rawNodeBytes("t", "Transpose", []string{"c"}, []string{"d"}))
			b.nodes[2] = rawNodeBytes("second", "Add", []string{"c", "d"}, []string{"y"})
		}, []string{`"second"`, "Add", "orders"}},
		{"batch normalization in training mode", second("BatchNormalization", []string{"c", "b", "b", "b", "b"}, intAttr("training_mode", 1)), []string{`"second"`, "BatchNormalization", `"training_mode"`, "model.eval()"}},
		{"second output", func(b *builder) {
			b.nodes[1] = rawNodeBytes("second", "MaxPool", []string{"c"}, []string{"i", "y"}, attr("kernel_shape", wire.AttrInts, 8, varints([]int64{2, 2})))
		}, []string{`"second"`, "MaxPool", `"y"`}},
		{"sizes times sizes", func(b *builder) {
			b.nodes = slices.Insert(b.nodes, 1,
				rawNodeBytes("shape", "Shape", []string{"c"}, []string{"s"}),
				rawNodeBytes("square", "Mul", []string{"s", "s"}, []string{"q"}))
			b.nodes[3] = rawNodeBytes("second", "Resize", []string{"c", "", "", "q"}, []string{"y"})
		}, []string{`"second"`, "Resize", "Mul"}},
		{"constants without end", func(b *builder) {
			last := "w"
			b.tensors[0] = rawTensorBytes("w", uint64(wire.Float32), make([]byte, 4*2*9), 2, 1, 3, 3)
			for i := range 200 { // 18 numbers become 18·2²⁰⁰
				next := fmt.Sprint("w", i)
				b.nodes = append([][]byte{rawNodeBytes(next, "Concat", []string{last, last}, []string{next}, intAttr("axis", 0))}, b.nodes...)
				last = next
			}
			slices.Reverse(b.nodes[:200])
			b.nodes[200] = rawNodeBytes("conv", "Conv", []string{"x", last}, []string{"c"})
		}, []string{"Concat", "more constants"}},
		{"reduction of an image without dimensions", func(b *builder) {
			b.inputs[0] = rawValueBytes("x", uint64(wire.Float32), 1, 1, 1, 1)
			b.nodes[0] = rawNodeBytes("squeeze", "Squeeze", []string{"x"}, []string{"c"})
			second("ReduceSum", []string{"c", "axes"})(b)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "axes", Shape: []int{1}, Ints: []int64{0}}))
		}, []string{"ReduceSum", "axis 0 of 0 dimensions"}},
		{"reshaped weight of 2⁶⁴·7+18 numbers", func(b *builder) {
			b.inputs[0] = rawValueBytes("x", uint64(wire.Float32), -1, 130068215, -1, -1)
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "shape", Shape: []int{4}, Ints: []int64{163876739, 130068215, 233, 26}}))
			b.nodes = [][]byte{
				rawNodeBytes("reshape", "Reshape", []string{"w", "shape"}, []string{"r"}),
				rawNodeBytes("conv", "Conv", []string{"x", "r"}, []string{"y"}),
			}
			b.outputs[0] = rawValueBytes("y", uint64(wire.Float32), -1, -1, -1, -1)
		}, []string{"Reshape", "for 18 elements"}},
		{"chain of resizes", func(b *builder) {
			last := "c"
			b.nodes = b.nodes[:1]
			b.tensors = append(b.tensors, tensorBytes(&nn.Tensor{Name: "s", Shape: []int{4}, Data: []float32{1, 1, 200, 200}}))
			for i := range 40 {
				next := strings.Repeat("r", i+1)
				b.nodes = append(b.nodes, rawNodeBytes(next, "Resize", []string{last, "", "s"}, []string{next}))
				last = next
			}
			b.outputs[0] = rawValueBytes(last, uint64(wire.Float32), -1, 2, -1, -1)
		}, []string{"Resize", "out of range"}},
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Unmarshal(valid().bytes()); err != nil {
		t.Fatalf("the model that the cases spoil: %v", err)
	}
	for _, c := range refusals() {
		b := valid()
		c.make(b)
		data := b.bytes()
		before := allocated()
		_, err := Unmarshal(data)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %s", c.name, err, w)
			}
		}
		// a decoder that trusted a dimension would need gigabytes
		if used := allocated() - before; used > 1<<20+64*uint64(len(data)) {
			t.Errorf("%s: %d bytes allocated for a file of %d", c.name, used, len(data))
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// A shape that is stated for a value costs nothing.
func TestGiantValueInfo(t *testing.T) {
	b := valid()
	for range 3 {
		b.graph = append(b.graph, field1(13, rawValueBytes("c", uint64(wire.Float32), 1<<20, 1<<20, 1<<20))...)
	}
	b.inputs[0] = rawValueBytes("x", uint64(wire.Float32), 1<<30, 1, 1<<20, 1<<20)
	b.outputs[0] = rawValueBytes("y", uint64(wire.Float32), 1<<30, 2, -1, -1)
	before := allocated()
	Unmarshal(b.bytes()) // either answer will do
	if used := allocated() - before; used > 1<<20 {
		t.Errorf("%d bytes allocated", used)
	}
}

// A truncated file is refused, or nothing that matters is missing.
func TestTruncated(t *testing.T) {
	data := valid().bytes()
	whole, err := Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if g, err := Unmarshal(data[:n]); err == nil && !reflect.DeepEqual(g, whole) {
			t.Errorf("the first %d of %d bytes gave another network", n, len(data))
		}
	}
}

// What the importer accepts, it writes and reads again unchanged.
func FuzzUnmarshal(f *testing.F) {
	f.Add(valid().bytes())
	for _, c := range refusals() {
		b := valid()
		c.make(b)
		if data := b.bytes(); len(data) < 4096 {
			f.Add(data)
		}
	}
	for _, op := range Operators() { // most are refused, mutations of some are not
		for _, tensor := range []*nn.Tensor{
			{Name: "t", Shape: []int{}, Data: []float32{2}},
			{Name: "t", Shape: []int{1, 2, 1, 1}, Data: []float32{2, 3}},
			{Name: "t", Shape: []int{8}, Ints: []int64{0, 0, 1, 2, 0, 0, 3, 4}},
			{Name: "t", Shape: []int{4}, Ints: []int64{0, 1, -1, 0}},
			{Name: "t", Shape: []int{1}, Ints: []int64{1}},
		} {
			for _, inputs := range [][]string{{"c"}, {"c", "t"}, {"c", "t", "t"}, {"c", "t", "t", "t"}} {
				b := valid()
				b.nodes[1] = rawNodeBytes("second", op, inputs, []string{"y"})
				b.tensors = append(b.tensors, tensorBytes(tensor))
				b.outputs[0] = rawValueBytes("y", uint64(wire.Float32), -1, -1, -1, -1)
				f.Add(b.bytes())
			}
		}
	}
	foreign, err := filepath.Glob("testdata/foreign/*.onnx")
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range foreign {
		data, err := os.ReadFile(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		f.Fatal(err)
	}
	data, err := Marshal(g, MarshalOptions{Doc: "doc", Metadata: map[string]string{"k": "v"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := Unmarshal(data)
		if err != nil {
			return
		}
		if err := onnxgo.Check(data); err != nil && !errors.Is(err, onnxgo.ErrUnread) {
			t.Fatal(err)
		}
		g.Shapes([]int{1, max(1, g.Input.Shape[1]), 32, 32})
		first, err := Marshal(g, MarshalOptions{})
		if err != nil {
			t.Fatalf("imported and cannot be written: %v", err)
		}
		h, err := Unmarshal(first)
		if err != nil {
			t.Fatalf("written and cannot be read: %v", err)
		}
		second, err := Marshal(h, MarshalOptions{})
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("changed on the way: %v", err)
		}
	})
}
