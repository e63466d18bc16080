package wire

import (
	"encoding/json"
	"os/exec"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// Tensors of every type, raw and typed, as the onnx package writes and reads
// them.
func TestTypes(t *testing.T) {
	python := peers.Python(t, "onnx", "numpy")
	out, err := exec.Command(python, "testdata/tensors.py").Output()
	if err != nil {
		t.Fatal(err)
	}
	var tensors []struct {
		Name   string
		Proto  []byte
		Shape  []int
		Values []float64
	}
	if err := json.Unmarshal(out, &tensors); err != nil {
		t.Fatal(err)
	}
	seen := map[Type]bool{}
	for _, c := range tensors {
		x, err := field{typ: 2, b: c.Proto}.tensor()
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		a, err := x.Array(nil)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		seen[a.Type] = true
		if a.Len() != len(c.Values) || len(a.Shape) != len(c.Shape) {
			t.Errorf("%s: shape %v with %d values, want %v with %d", c.Name, a.Shape, a.Len(), c.Shape, len(c.Values))
			continue
		}
		for i, want := range c.Values {
			var got float64
			switch {
			case a.F32 != nil:
				got = float64(a.F32[i])
			case a.F64 != nil:
				got = a.F64[i]
			default:
				got = float64(a.Ints[i])
			}
			if got != want {
				t.Errorf("%s, element %d: %v, want %v", c.Name, i, got, want)
			}
		}
	}
	for typ := range typeNames {
		if typ.bytes() > 0 && !seen[typ] {
			t.Errorf("no tensor of type %s", typ)
		}
	}
}
