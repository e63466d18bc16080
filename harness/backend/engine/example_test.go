package engine_test

import (
	"context"
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
)

// A backend is what describe says, what compile makes of a network, and nothing
// else. describe, compile and the engine that it makes are in pixels_test.go; a
// plugin's main function would hand the backend to plugin.Serve.
func ExampleNewBackend() {
	ctx := context.Background()
	pixels := engine.NewBackend(describe, compile)
	session, err := pixels.Open(ctx, network(1, 2), backend.Options{Loss: backend.LossOnLogits})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer session.Close()

	out, err := session.Predict(ctx, backend.Tensor{Shape: []int{1, 1, 1, 2}, F32: []float32{0, 2}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("probabilities %v: %.3f\n", out.Shape, out.F32)

	_, err = pixels.Open(ctx, network(1, 2), backend.Options{Loss: backend.LossOnProbabilities})
	fmt.Println(err)
	// Output:
	// probabilities [1 2 1 2]: [0.269 0.047 0.731 0.953]
	// loss "cross-entropy-on-probabilities": not supported by this backend; it has ["cross-entropy"]
}
