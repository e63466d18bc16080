package crosscheck

import (
	"context"
	"fmt"
	"math"
)

// statistics judges the running statistics after one step by A's own
// activations: what they moved by, against the batch's mean and unbiased
// variance of the normalisation's input.
func (r *run) statistics(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	ts, err := r.a.Activations(ctx, r.batch, r.values(), true)
	if err != nil {
		return fmt.Errorf("activations of A: %w", err)
	}
	values := byName(ts)
	shapes := map[string][]int{}
	for _, t := range ts {
		shapes[t.Name] = t.Shape
	}
	after, err := r.step(ctx, r.a, r.in.Options.LearningRate, nil)
	if err != nil {
		return fmt.Errorf("a training step of A: %w", err)
	}
	for _, n := range r.g.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		x, ok := values[n.Inputs[0]]
		if !ok {
			continue // normalises the image
		}
		mean, variance, count := channelStatistics(x, shapes[n.Inputs[0]])
		m := float64(n.Attrs.Float("momentum", 0.9))
		for k, want := range [][]float64{mean, variance} {
			name := n.Inputs[3+k]
			before, now := r.first.values[name], after.values[name]
			got, expected := make([]float64, len(want)), make([]float64, len(want))
			for c := range want {
				got[c] = now[c]
				expected[c] = m*before[c] + (1-m)*want[c]
			}
			// The floor applies to the batch's own statistic, which enters with
			// the weight 1−m.
			scale := (1 - m) * rms(want)
			d := distance(got, expected, 0)
			d.Relative *= rms(expected) / max(scale, 1e-30)
			limit := r.in.Options.LocalFloor
			if k == 0 {
				// A mean may be the small difference of large values.
				limit *= max(1, math.Sqrt(rms(variance))/max(rms(mean), 1e-30))
			}
			// Rounding of the stored value itself.
			limit += 2e-7 * rms(expected) / max(scale, 1e-30)
			c := r.add(Check{Stage: Statistics, Place: name, Operator: n.Op, A: d, Limit: limit})
			if !c.Pass {
				c.Note = explainStatistic(k, m, before, now, want, count)
			}
		}
	}
	return nil
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

// channelStatistics are the mean and the unbiased variance over N, H and W.
func channelStatistics(x []float64, shape []int) (mean, variance []float64, count int) {
	n, channels, pixels := shape[0], shape[1], shape[2]*shape[3]
	mean, variance = make([]float64, channels), make([]float64, channels)
	count = n * pixels
	for c := range channels {
		var s, q float64
		for i := range n {
			for _, v := range x[(i*channels+c)*pixels : (i*channels+c+1)*pixels] {
				s += v
			}
		}
		mean[c] = s / float64(count)
		for i := range n {
			for _, v := range x[(i*channels+c)*pixels : (i*channels+c+1)*pixels] {
				q += (v - mean[c]) * (v - mean[c])
			}
		}
		variance[c] = q / float64(count-1)
	}
	return mean, variance, count
}
