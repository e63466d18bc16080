package backendtest

import (
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
)

// deterministic trains and predicts twice, with the given numbers of threads.
func (c *check) deterministic(threads1, threads2 int) {
	claim := c.report.Description.Determinism
	if claim == backend.DeterminismNone || threads1 != threads2 && claim == backend.DeterminismRun {
		c.skipf("determinism is %s", claim)
	}
	g := unet(8)
	d := c.dataset(18, 4, 1, 48, 48, 2)
	bs := steps(3, d.n)
	a, b := c.session(g, backend.Options{Threads: threads1}, d), c.session(g, backend.Options{Threads: threads2}, d)
	la, lb := c.train(a, 1e-3, nil, bs...), c.train(b, 1e-3, nil, bs...)
	c.reproduced("the same training again", la, lb, c.state(a), c.state(b))
	pa, err := a.Predict(c.ctx, d.tensor(0, 3))
	c.must(err, "Predict")
	pb, err := b.Predict(c.ctx, d.tensor(0, 3))
	c.must(err, "Predict")
	if !slices.Equal(pa.Float64s(), pb.Float64s()) {
		c.failf("the same prediction again differs")
	}
}
