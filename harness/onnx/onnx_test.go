package onnx_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/refocus-em/refocus/harness/internal/testnet"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
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
	info, err := onnx.Inspect(data)
	if err != nil {
		t.Fatal(err)
	}
	want := onnx.Info{onnx.IRVersion, nn.Opset, "refocus", "1", "doc", o.Metadata}
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
