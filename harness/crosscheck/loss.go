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
	c := r.add(Check{Stage: Loss, Place: "loss of A's own output", A: d, Limit: r.in.Options.LocalFloor / 10})
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
