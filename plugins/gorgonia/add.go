package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// add is ONNX's Add of two tensors of one shape. Gorgonia's Add is as good,
// but allocates its result in every step.
type add struct{}

func (add) compute(w *kernel.Workers, in [][]float32, out []float32) {
	elementwise(w, len(out), func(lo, hi int) {
		a, b := in[0][lo:hi], in[1][lo:hi]
		for i, v := range a {
			out[lo+i] = v + b[i]
		}
	})
}

func (add) gradients(_ *builder, _ *op, _ G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) { return grad, nil })
}
