package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// relu is ONNX's Relu. Its derivative at 0 is 0, as in PyTorch;
// gorgonia.Rectify's is 1.
type relu struct{}

// chunk is how many values a worker takes at a time in element-wise operators.
const chunk = 1 << 14

// elementwise calls f with the bounds of consecutive pieces of n values.
func elementwise(w *kernel.Workers, n int, f func(lo, hi int)) {
	w.Run((n+chunk-1)/chunk, func(_, i int) { f(i*chunk, min((i+1)*chunk, n)) })
}

func (relu) compute(w *kernel.Workers, in [][]float32, out []float32) {
	elementwise(w, len(out), func(lo, hi int) {
		for i, v := range in[0][lo:hi] {
			out[lo+i] = max(v, 0)
		}
	})
}

func (relu) gradients(b *builder, o *op, in G.Nodes, output, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) {
		return b.apply(o.name, reluInput{}, in[0].Shape(), nil, output, grad)
	})
}

// reluInput computes relu's gradient from output and output gradient.
type reluInput struct{}

func (reluInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	elementwise(w, len(out), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			out[i] = 0
			if in[0][i] > 0 {
				out[i] = in[1][i]
			}
		}
	})
}
