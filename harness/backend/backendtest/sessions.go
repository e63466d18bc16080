package backendtest

import (
	"sync"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// two trains different networks on different data at the same time.
func (c *check) two() {
	type job struct {
		g  *nn.Graph
		d  *dataset
		s  backend.Session
		l  []float64
		st state
	}
	jobs := []*job{{g: unet(4), d: c.dataset(19, 4, 1, 32, 32, 2)}, {g: unet(8), d: c.dataset(20, 4, 1, 32, 32, 2)}}
	bs := steps(4, 4)
	for _, j := range jobs { // one after the other
		s := c.session(j.g, backend.Options{}, j.d)
		j.l = c.train(s, 1e-3, nil, bs...)
		j.st = c.state(s)
		j.s = c.session(j.g, backend.Options{}, j.d)
	}
	losses, errs := make([][]float64, 2), make([]error, 2)
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			losses[i], errs[i] = train(c.ctx, j.s, backend.TrainRequest{Batches: bs, LearningRate: 1e-3})
		})
	}
	wg.Wait()
	for i, j := range jobs {
		c.must(errs[i], "Train in two sessions at once")
		c.reproduced("training beside another session", j.l, losses[i], j.st, c.state(j.s))
	}
}

// many opens and closes sessions, and uses one that is closed.
func (c *check) many() {
	g := unet(4)
	d := c.dataset(21, 2, 1, 32, 32, 2)
	for range 10 {
		s := c.session(g, backend.Options{}, d)
		c.train(s, 1e-3, nil, consecutive(0, 2))
		c.must(s.Close(), "Close")
		c.open = nil
		_, err := s.Predict(c.ctx, d.tensor(0, 1))
		c.refused(err, "a prediction by a closed session")
	}
}
