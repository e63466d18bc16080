package crosscheck

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
)

// compareLoss judges A's reported loss by the loss of its own output.
func (r *run) compareLoss(ctx context.Context, output []float64) error {
	reported, _, err := r.a.Gradients(ctx, r.batch, nil)
	if err != nil {
		return fmt.Errorf("the loss of A: %w", err)
	}
	classes := len(output) / len(r.labels)
	want := loss(output, r.labels, classes, r.in.Options.Batch, r.in.Loss)
	d := distance([]float64{reported}, []float64{want}, 0)
	check := Check{Stage: Loss, Place: "loss of A's own output", A: d}
	bound, noise := r.arithmetic.loss(output, classes, r.in.Options.Batch, r.in.Loss)
	check.bounded([]float64{reported}, []float64{want}, []float64{bound}, []float64{noise})
	c := r.add(check)
	if !c.Pass {
		c.Note = fmt.Sprintf("A reports %.7g, its output has the loss %.7g", reported, want)
		for _, other := range []string{backend.LossOnLogits, backend.LossOnProbabilities} {
			if l := loss(output, r.labels, classes, r.in.Options.Batch, other); other != r.in.Loss && math.Abs(l-reported) < 1e-4*math.Abs(l) {
				c.Note += "; it is " + other + " instead"
			}
		}
	}
	return nil
}

// loss bounds the mean loss of class probabilities [N,K,…], and gives the expected
// square of its error. A probability may have been rounded on its way out.
func (a arithmetic) loss(p []float64, classes, n int, kind string) (bound, noise float64) {
	count := len(p) / classes
	pixels := count / n
	var size float64
	for i := range n {
		for k := range pixels {
			var s float64
			for c := range classes {
				v := p[(i*classes+c)*pixels+k]
				if kind == backend.LossOnProbabilities {
					s += math.Exp(v)
				} else {
					size -= math.Log(v) / float64(classes) // either class may be the label
				}
			}
			if kind == backend.LossOnProbabilities {
				size += math.Log(s) + 1
			}
		}
	}
	size = size/float64(count) + 1
	return (a.gamma(count+10) + a.store) * size, (even(a.unit)*(float64(count)/3+10) + even(a.store)/float64(count)) * size * size
}

// loss of class probabilities [N,K,H,W] against labels [N,H,W].
func loss(p []float64, labels []uint8, classes, n int, kind string) float64 {
	pixels := len(labels) / n
	var sum float64
	for i := range n {
		for k := range pixels {
			at := func(c int) float64 { return p[(i*classes+c)*pixels+k] }
			target := at(int(labels[i*pixels+k]))
			if kind == backend.LossOnLogits {
				sum -= math.Log(target)
				continue
			}
			var s float64
			for c := range classes {
				s += math.Exp(at(c))
			}
			sum += math.Log(s) - target
		}
	}
	return sum / float64(len(labels))
}
