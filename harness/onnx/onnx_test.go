package onnx_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
	"github.com/refocus-em/refocus/harness/testkit/testnet"
)

func TestRoundTrip(t *testing.T) {
	g := testnet.Random(t, 6)
	o := onnx.MarshalOptions{ProducerVersion: "1", Doc: "doc", Metadata: map[string]string{"b": "2", "a": "1", "c": ""}}
	data, err := onnx.Marshal(g, o)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := onnx.Marshal(g.Clone(), o)
	if !bytes.Equal(data, again) {
		t.Error("the same graph gave other bytes")
	}
	h, err := onnx.Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(g, h) {
		t.Error("the graph changed on the way through ONNX")
	}
	if err := onnxgo.Check(data); err != nil {
		t.Error(err)
	}
	info, err := onnx.Inspect(data)
	if err != nil {
		t.Fatal(err)
	}
	want := onnx.Info{onnx.IRVersion, nn.Opset, "refocus", "1", "doc", o.Metadata, []string{g.Output.Name}}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("description %+v, want %+v", info, want)
	}
}

// save writes a model to a file of its own.
func save(t testing.TB, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	if err := os.WriteFile(path, data, 0o666); err != nil {
		t.Fatal(err)
	}
	return path
}

// The bytes of a small graph, fixed: no process, machine or version of Go may
// give others.
func TestBytes(t *testing.T) {
	g := &nn.Graph{
		Name:   "small",
		Input:  nn.Value{Name: "x", Shape: []int{0, 1, 0, 0}},
		Output: nn.Value{Name: "y", Shape: []int{0, 1, 0, 0}},
		Nodes: []*nn.Node{{Name: "conv", Op: "Conv", Inputs: []string{"x", "w", "b"}, Outputs: []string{"c"}, Attrs: nn.Attrs{"pads": []int64{0, 1, 0, 1}, "kernel_shape": []int64{1, 3}}},
			{Name: "leaky", Op: "LeakyRelu", Inputs: []string{"c"}, Outputs: []string{"y"}, Attrs: nn.Attrs{"alpha": float32(0.25)}}},
		Tensors: []*nn.Tensor{{Name: "w", Shape: []int{1, 1, 1, 3}, Data: []float32{1, -2, 0.5}}, {Name: "b", Shape: []int{1}, Data: []float32{float32(math.Copysign(0, -1))}}},
	}
	data, err := onnx.Marshal(g, onnx.MarshalOptions{ProducerVersion: "1", Doc: "d", InputDoc: "i", OutputDoc: "o", Metadata: map[string]string{"z": "1", "a": "2", "m": "3"}})
	if err != nil {
		t.Fatal(err)
	}
	const want = "f4fb1f4028408a9e1f521cb2b37477b73d7a020d231d443dfc28b70724ee3a0d"
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != want {
		t.Errorf("SHA-256 %s, want %s", got, want)
	}
}
