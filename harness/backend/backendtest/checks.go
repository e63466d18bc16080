package backendtest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

func (s *suite) all(ctx context.Context) {
	s.run(ctx, "describe", s.describe)
	if s.report.Results[0].Outcome != Passed {
		return
	}
	for _, o := range operators {
		s.run(ctx, "operator/"+o.name, func(c *check) { c.operator(o) })
	}
	for _, precision := range backend.Precisions {
		for i, n := range networks {
			if precision == backend.Float64 && i != 1 || tolerances[precision].whole && i != 3 {
				continue // one is enough to see the precision
			}
			name := fmt.Sprintf("network/%s/width %d, %d×%d×%d", precision, n.width, n.batch, n.h, n.w)
			s.run(ctx, name, func(c *check) { c.network(precision, n) })
		}
	}
	s.run(ctx, "loss/on logits", (*check).logits)
	s.run(ctx, "dihedral", (*check).dihedral)
	s.run(ctx, "train/adam and statistics", (*check).adam)
	s.run(ctx, "train/frozen encoder", func(c *check) { c.frozen(nn.Encoder, nn.Decoder) })
	s.run(ctx, "train/frozen decoder", func(c *check) { c.frozen(nn.Decoder, nn.Encoder) })
	for _, precision := range backend.Precisions {
		if tolerances[precision].whole {
			s.run(ctx, "train/"+precision, func(c *check) { c.lowered(precision) })
		}
	}
	s.run(ctx, "train/in parts", (*check).inParts)
	s.run(ctx, "train/cancel", (*check).cancel)
	s.run(ctx, "evaluate", (*check).evaluate)
	s.run(ctx, "fixed batch", (*check).fixedBatch)
	s.run(ctx, "questions change nothing", (*check).readOnly)
	s.run(ctx, "state/round trip", (*check).roundTrip)
	s.run(ctx, "state/float64", (*check).wideState)
	s.run(ctx, "state/without moments", (*check).freshOptimiser)
	s.run(ctx, "state/damaged", (*check).damagedState)
	s.run(ctx, "refuse/operator", (*check).unknownOperator)
	s.run(ctx, "refuse/attribute", (*check).unknownAttribute)
	s.run(ctx, "refuse/options", (*check).unknownOptions)
	s.run(ctx, "refuse/requests", (*check).badRequests)
	s.run(ctx, "determinism/runs", func(c *check) { c.deterministic(0, 0) })
	s.run(ctx, "determinism/threads", func(c *check) { c.deterministic(1, 2) })
	s.run(ctx, "sessions/two at once", (*check).two)
	s.run(ctx, "sessions/many", (*check).many)
}

// dataset id under which checks load their data.
const set = "set"

// session opens a session with the dataset loaded.
func (c *check) session(g *nn.Graph, o backend.Options, d *dataset) backend.Session {
	s, err := c.tryOpen(g, o)
	c.must(err, "Open")
	c.must(s.LoadDataset(c.ctx, set, d.path, d.digest), "LoadDataset")
	return s
}

func (c *check) tryOpen(g *nn.Graph, o backend.Options) (backend.Session, error) {
	o.Device = c.options.Device
	s, err := c.backend.Open(c.ctx, g, o.WithDefaults())
	if err == nil {
		c.open = append(c.open, s)
	}
	return s, err
}

func (c *check) offered(precision string) {
	if !slices.Contains(c.report.Description.Precisions, precision) {
		c.skipf("precision %s", precision)
	}
}

// consecutive is a batch of consecutive samples.
func consecutive(first, n int) backend.Batch {
	var b backend.Batch
	for i := range n {
		b = append(b, backend.Sample{Dataset: set, Index: first + i})
	}
	return b
}

// steps is n batches of different sizes and symmetries.
func steps(n, samples int) []backend.Batch {
	var bs []backend.Batch
	for i := range n {
		var b backend.Batch
		for j := range 1 + (i+1)%3 {
			b = append(b, backend.Sample{Dataset: set, Index: (3*i + j) % samples, Dihedral: uint8((5*i + 3*j) % 8)})
		}
		bs = append(bs, b)
	}
	return bs
}

// train takes steps and returns their losses.
func (c *check) train(s backend.Session, rate float64, frozen []string, batches ...backend.Batch) []float64 {
	losses, err := train(c.ctx, s, backend.TrainRequest{Batches: batches, LearningRate: rate, Frozen: frozen})
	c.must(err, "Train")
	if len(losses) != len(batches) {
		c.failf("Train reported %d of %d batches", len(losses), len(batches))
	}
	return losses
}

func train(ctx context.Context, s backend.Session, r backend.TrainRequest) ([]float64, error) {
	var losses []float64
	err := s.Train(ctx, r, func(p backend.Step) error {
		if p.Batch != len(losses) {
			return fmt.Errorf("step %d reported as batch %d", len(losses), p.Batch)
		}
		losses = append(losses, p.Loss)
		return nil
	})
	return losses, err
}

// near fails unless got is within the tolerance of want, relative to want's
// largest element or floor.
func (c *check) near(what string, got, want []float64, tolerance, floor float64) {
	if len(got) != len(want) {
		c.failf("%s has %d elements, must have %d", what, len(got), len(want))
	}
	scale := floor
	for _, v := range want {
		scale = math.Max(scale, math.Abs(v))
	}
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= worst) { // also NaN
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*scale) {
		c.failf("%s: element %d is %g, must be %g: a distance of %.2g of the largest element, allowed %.2g",
			what, at, got[at], want[at], worst/scale, tolerance)
	}
}

// distance is the length of got − want relative to that of want.
func distance(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d, n := 0.0, 0.0
	for i, v := range want {
		d += (got[i] - v) * (got[i] - v)
		n += v * v
	}
	return math.Sqrt(d / n)
}

// reproduced compares two trainings: bit by bit if the backend claims that,
// else closely.
func (c *check) reproduced(what string, la, lb []float64, a, b state) {
	if c.report.Description.Determinism == backend.DeterminismNone {
		c.near(what+": losses", lb, la, 1e-4, 0)
		return
	}
	if !slices.Equal(la, lb) {
		c.failf("%s: the losses %v became %v", what, la, lb)
	}
	if !bytes.Equal(a.raw, b.raw) {
		for name, v := range a.data {
			if !slices.Equal(v, b.data[name]) {
				c.failf("%s: %q and perhaps others differ", what, name)
			}
		}
		c.failf("%s: the states' bytes differ", what)
	}
}
