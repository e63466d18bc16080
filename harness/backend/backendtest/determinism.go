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

// inParts trains on the same batches in one call of Train and in several, with the state
// asked for between them: runs are saved within an epoch, whenever it is time for it.
func (c *check) inParts() {
	g := unet(8)
	d := c.dataset(20, 4, 1, 48, 48, 2)
	bs := steps(6, d.n)
	whole, parts := c.session(g, backend.Options{}, d), c.session(g, backend.Options{}, d)
	one := c.train(whole, 1e-3, nil, bs...)
	var several []float64
	for first, n := 0, 1; first < len(bs); first, n = first+n, n+1 {
		several = append(several, c.train(parts, 1e-3, nil, bs[first:first+n]...)...)
		c.state(parts)
	}
	c.reproduced("training in several calls", one, several, c.state(whole), c.state(parts))
}
