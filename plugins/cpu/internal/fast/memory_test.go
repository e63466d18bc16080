package fast

import (
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// What is told of an engine's memory is what it holds after a step.
func TestMemory(t *testing.T) {
	g, err := nn.UNet(nn.UNetOptions{Width: 8, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	o := engine.Options{Options: backend.Options{Loss: backend.LossOnProbabilities, Precision: backend.Float32, Adam: backend.DefaultAdam, Threads: 2}}
	e, err := Compile(g, o)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	told, err := e.Memory(3, 32, 48, true)
	if err != nil {
		t.Fatal(err)
	}
	n := 3 * 32 * 48
	b := engine.Batch{Images: backend.Tensor{Shape: []int{3, 1, 32, 48}, F32: make([]float32, n)}, Labels: make([]uint8, n)}
	if _, err := e.Gradients(b, make([]bool, len(g.Parameters())), 1, true); err != nil {
		t.Fatal(err)
	}
	held := 4 * int64(len(e.arena)+len(e.values)+len(e.grads)+len(e.moment1)+len(e.moment2))
	if told != held || told < int64(4*4*g.Count("")) {
		t.Errorf("told %d bytes, it holds %d", told, held)
	}
}
