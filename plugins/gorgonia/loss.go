package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// crossEntropy is the mean over all pixels of −log softmax(z)[label]. Inputs z
// [N,K,H,W] and labels [N,H,W] as numbers. The study's loss feeds it the
// network's softmax output as z; the usual one the logits.
//
// Gorgonia has no such operator, and composing it of LogSoftMax, masks and
// means takes several passes over the image.
type crossEntropy struct {
	softmax
	value *float64 // the loss of the last run, unrounded
}

func (l crossEntropy) compute(w *kernel.Workers, in [][]float32, out []float32) {
	losses := make([]float64, l.n)
	w.Run(l.n, func(_, n int) {
		losses[n] = imageLoss(in[0][n*l.k*l.pixels:][:l.k*l.pixels], in[1][n*l.pixels:][:l.pixels], l.k)
	})
	*l.value = meanLoss(losses)
	out[0] = float32(*l.value)
}

// meanLoss is the loss of a batch from those of its images.
func meanLoss(images []float64) (mean float64) {
	for _, v := range images {
		mean += v / float64(len(images))
	}
	return mean
}

// imageLoss is the mean cross entropy over one image's pixels for z [K,H,W]: sums of
// pieces of 1024 pixels, added in order. Pixel q of a piece is in lane q mod 32.
func imageLoss[T float32 | uint8](z []float32, labels []T, k int) float64 {
	e := make([]float64, k)
	pixels := len(labels)
	var s float64
	kernel.Pieces(pixels, func(lo, hi int) {
		var lanes [32]float64
		for i, label := range labels[lo:hi] {
			total, largest := exponentials(e, z[lo+i:], pixels)
			lanes[i%32] += logarithm(total) - (float64(z[lo+i+int(label)*pixels]) - largest)
		}
		s += kernel.Fold64(lanes)
	})
	return s / float64(pixels)
}

func (l crossEntropy) gradients(b *builder, o *op, in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) {
		return b.apply(o.name, crossEntropyInput(l), in[0].Shape(), nil, in[0], in[1], grad)
	})
}

// crossEntropyInput computes the gradient for z from z, labels and the loss's
// own gradient (1).
type crossEntropyInput crossEntropy

func (l crossEntropyInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	share := float64(in[2][0]) / float64(l.n*l.pixels)
	l.images(w, func(lo, hi, stride int) {
		e := make([]float64, l.k)
		for i := lo; i < hi; i++ {
			total, _ := exponentials(e, in[0][i:], stride)
			n := i / (l.k * l.pixels)
			label := int(in[1][n*l.pixels+i-n*l.k*l.pixels])
			for c, v := range e {
				p := v / total
				if c == label {
					p--
				}
				out[i+c*stride] = float32(p * share)
			}
		}
	})
}
