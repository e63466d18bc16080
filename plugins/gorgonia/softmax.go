package gorgonia

import (
	"math"

	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// softmax is ONNX's Softmax over the channels of [N,K,H,W].
//
// gorgonia.SoftMax is right, but it and LogSoftMax of the same node have the
// same hash (op_softmax.go:52), so that a graph with both computes one.
type softmax struct{ n, k, pixels int }

func (s softmax) compute(w *kernel.Workers, in [][]float32, out []float32) {
	s.images(w, func(lo, hi, stride int) {
		e := make([]float64, s.k)
		for i := lo; i < hi; i++ {
			total, _ := exponentials(e, in[0][i:], stride)
			for c, v := range e {
				out[i+c*stride] = float32(v / total)
			}
		}
	})
}

// images calls f with the range of first-channel indices of a piece of every
// image and the distance between channels.
func (s softmax) images(w *kernel.Workers, f func(lo, hi, stride int)) {
	pieces := (s.pixels + chunk - 1) / chunk
	w.Run(s.n*pieces, func(_, task int) {
		base := task / pieces * s.k * s.pixels
		lo := task % pieces * chunk
		f(base+lo, base+min(lo+chunk, s.pixels), s.pixels)
	})
}

// exponentials sets e[c] to exp(z[c·stride] − max) and returns their sum and
// the maximum.
func exponentials(e []float64, z []float32, stride int) (total, largest float64) {
	largest = math.Inf(-1)
	for c := range e {
		e[c] = float64(z[c*stride])
		largest = max(largest, e[c])
	}
	for c, v := range e {
		e[c] = exponential(v - largest)
		total += e[c]
	}
	return
}

func (s softmax) gradients(b *builder, o *op, in G.Nodes, output, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) {
		return b.apply(o.name, softmaxInput(s), in[0].Shape(), nil, output, grad)
	})
}

// softmaxInput computes softmax's gradient from output and output gradient.
type softmaxInput softmax

func (s softmaxInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	softmax(s).images(w, func(lo, hi, stride int) {
		y, dy := in[0], in[1]
		for i := lo; i < hi; i++ {
			var dot float64
			for j := i; j < i+s.k*stride; j += stride {
				dot += float64(float64(y[j]) * float64(dy[j]))
			}
			for j := i; j < i+s.k*stride; j += stride {
				out[j] = float32(float64(y[j]) * (float64(dy[j]) - dot))
			}
		}
	})
}
