package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// conv is ONNX's Conv: inputs x, weights and optionally a bias.
//
// It stands in for gorgonia.Conv2d, which is right but unfolds the whole batch,
// returns a transposed view and costs several times as much.
type conv struct{ shape kernel.Conv }

func (c conv) compute(w *kernel.Workers, in [][]float32, out []float32) {
	var bias []float32
	if len(in) > 2 {
		bias = in[2]
	}
	c.shape.Forward(w, in[0], in[1], bias, out)
}

func (c conv) gradients(b *builder, o *op, in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(i int) (*G.Node, error) {
		switch i {
		case 0:
			return b.apply(o.name, convInput(c), in[0].Shape(), nil, in[1], grad)
		case 1:
			return b.apply(o.name, convWeights(c), in[1].Shape(), nil, in[0], grad)
		default:
			return b.apply(o.name, convBias(c), in[2].Shape(), nil, grad)
		}
	})
}

// convInput computes the gradient for a convolution's images from weights and
// output gradient.
type convInput conv

func (c convInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	c.shape.BackwardInput(w, in[1], in[0], out)
}

// convWeights computes the gradient for a convolution's weights from images and
// output gradient.
type convWeights conv

func (c convWeights) compute(w *kernel.Workers, in [][]float32, out []float32) {
	c.shape.BackwardWeights(w, in[0], in[1], out)
}

// convBias computes the gradient for a convolution's bias from the output
// gradient.
type convBias conv

func (c convBias) compute(w *kernel.Workers, in [][]float32, out []float32) {
	c.shape.BackwardBias(w, in[0], out)
}
