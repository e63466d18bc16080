package crosscheck

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// statistics judges the running statistics after one step by A's own
// activations: what they moved by, against the batch's mean and unbiased
// variance of the normalisation's input.
func (r *run) statistics(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	ts, err := r.a.Activations(ctx, r.batch, r.normalised(), true)
	if err != nil {
		return fmt.Errorf("activations of A: %w", err)
	}
	after, err := r.step(ctx, r.a, r.batch, r.in.Options.LearningRate, nil)
	if err != nil {
		return fmt.Errorf("a training step of A: %w", err)
	}
	for _, c := range r.movedStatistics(ts, r.first, after) {
		r.add(c)
	}
	return nil
}

// normalised are the values that a normalisation reads, without the image.
func (r *run) normalised() []string {
	var names []string
	for _, n := range r.g.Nodes {
		if n.Op == "BatchNormalization" && r.producer(n.Inputs[0]) != "" && !slices.Contains(names, n.Inputs[0]) {
			names = append(names, n.Inputs[0])
		}
	}
	return names
}

// movedStatistics judges the running statistics after a step of a batch by the
// activations before it.
func (r *run) movedStatistics(ts []backend.NamedTensor, before, after *state) []Check {
	values := map[string]backend.Tensor{}
	for _, t := range ts {
		values[t.Name] = t.Tensor
	}
	var checks []Check
	for _, n := range r.g.Nodes {
		x, ok := values[n.Inputs[0]]
		if n.Op != "BatchNormalization" || !ok {
			continue
		}
		of := r.arithmetic.moments(&reference.Array{Shape: x.Shape, Data: x.Float64s()})
		m := r.arithmetic.attribute(n.Attrs.Float("momentum", 0.9))
		for k := range 2 {
			checks = append(checks, r.statistic(n, of, k, m, before.values[n.Inputs[3+k]], after.values[n.Inputs[3+k]]))
		}
	}
	return checks
}

// statistic bounds the running mean (k = 0) or variance (k = 1) after a step: of the
// batch's channels the moments, kept with momentum m.
func (r *run) statistic(n *nn.Node, of []moments, k int, m float64, before, now []float64) Check {
	a := r.arithmetic
	want, bound, noise := make([]float64, len(of)), make([]float64, len(of)), make([]float64, len(of))
	for i, s := range of {
		batch, off, square := s.mean, s.meanBound, s.meanNoise
		if k == 1 {
			f := float64(s.count) / float64(s.count-1)
			batch, off, square = s.variance*f, s.varianceBound*f, s.varianceNoise*f*f
		}
		want[i] = m*before[i] + (1-m)*batch
		size := math.Abs(m*before[i]) + math.Abs((1-m)*batch)
		// 1−m may have been computed from m in the backend's precision.
		bound[i] = (1-m)*off + a.gamma(5)*size + a.unit*math.Abs(batch)
		noise[i] = (1-m)*(1-m)*square + 4*even(a.unit*size) + even(a.unit*batch)
	}
	c := Check{Stage: Statistics, Place: n.Inputs[3+k], Operator: n.Op, A: distance(now, want, 0)}
	c.bounded(now, want, bound, noise)
	if c.Share() > 1 {
		for i := range want {
			want[i] = (want[i] - m*before[i]) / (1 - m)
		}
		c.Note = explainStatistic(k, m, before, now, want, of[0].count)
	}
	return c
}

// explainStatistic tries the usual mistakes.
func explainStatistic(k int, m float64, before, now, want []float64, count int) string {
	near := func(f func(c int) float64) bool {
		expected := make([]float64, len(now))
		for c := range expected {
			expected[c] = f(c)
		}
		return distance(now, expected, 0).Relative < 1e-5
	}
	switch {
	case k == 1 && near(func(c int) float64 { return m*before[c] + (1-m)*want[c]*float64(count-1)/float64(count) }):
		return "the biased variance was used, not the unbiased one"
	case near(func(c int) float64 { return before[c] }):
		return "it did not move"
	case near(func(c int) float64 { return (1-m)*before[c] + m*want[c] }):
		return "the momentum is taken for its complement"
	}
	// A momentum that fits all channels?
	var num, den float64
	for c := range now {
		num += (now[c] - want[c]) * (before[c] - want[c])
		den += (before[c] - want[c]) * (before[c] - want[c])
	}
	if fit := num / den; near(func(c int) float64 { return fit*before[c] + (1-fit)*want[c] }) {
		return fmt.Sprintf("it moved as with momentum %.4g, the graph says %.4g", fit, m)
	}
	return ""
}
