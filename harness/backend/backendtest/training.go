package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// adam checks every optimiser step against the textbook one, fed with the
// backend's own gradients, so that their rounding does not matter; and the
// running statistics against the reference, fed with the backend's weights.
// The constants differ from the usual ones enough to show whether ε stands
// outside the root and the corrections are there.
func (c *check) adam() {
	g := unet(4)
	d := c.dataset(5, 6, 1, 32, 32, 2)
	o := backend.Options{Adam: backend.Adam{Beta1: 0.8, Beta2: 0.95, Epsilon: 1e-3}}
	s := c.session(g, o, d)
	oracle := newAdam(o.Adam)
	before := c.state(s)
	for i, b := range steps(5, d.n) {
		what := func(name string) string { return fmt.Sprintf("%q after step %d", name, i+1) }
		rate := 2e-3 / float64(i+1)
		loss, list, err := s.Gradients(c.ctx, b, nil)
		c.must(err, "Gradients")
		gradients := map[string][]float64{}
		for _, t := range list {
			gradients[t.Name] = t.Float64s()
		}
		trained := c.train(s, rate, nil, b)
		c.near(fmt.Sprintf("loss of step %d", i+1), trained, []float64{loss}, 1e-6, 0)

		after := c.state(s)
		if after.step != strconv.Itoa(i+1) {
			c.failf("the state's step is %q after %d steps", after.step, i+1)
		}
		r := reference.New(g, backend.LossOnProbabilities)
		for name := range r.Values {
			if v, ok := before.data[name]; ok {
				r.Values[name].Data = slices.Clone(v)
			}
		}
		images, _ := d.batch(b)
		p, err := r.Forward(images, true)
		c.must(err, "the reference")
		r.MoveStatistics(p)
		for _, t := range g.Statistics() {
			c.near(what(t.Name), after.data[t.Name], r.Values[t.Name].Data, 1e-5, 1e-2)
		}

		want := map[string][]float64{}
		for name := range gradients {
			want[name] = slices.Clone(before.data[name])
		}
		oracle.update(rate, want, gradients)
		for _, t := range g.Parameters() {
			// A weight may be off by its own rounding and by a small part of
			// the step, which at most is the rate.
			c.near(what(t.Name), after.data[t.Name], want[t.Name], 3e-7+2e-3*rate, 1)
			c.near(what("adam.m."+t.Name), after.data["adam.m."+t.Name], oracle.m[t.Name], 1e-5, 1e-9)
			c.near(what("adam.v."+t.Name), after.data["adam.v."+t.Name], oracle.v[t.Name], 1e-5, 1e-12)
		}
		before = after
	}
}

func (c *check) frozen(frozen, free string) {
	g := unet(4)
	d := c.dataset(6, 6, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	bs := steps(4, d.n)
	c.train(s, 1e-3, nil, bs[:2]...)
	before := c.state(s)
	_, gradients, err := s.Gradients(c.ctx, bs[2], []string{frozen})
	c.must(err, "Gradients")
	for _, t := range gradients {
		if nn.Group(t.Name) == frozen {
			c.failf("there is a gradient for the frozen %q", t.Name)
		}
	}
	c.train(s, 1e-3, []string{frozen}, bs[2:]...)
	after := c.state(s)
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		moved := !slices.Equal(before.data[t.Name], after.data[t.Name])
		switch group := nn.Group(t.Name); {
		case t.Role == nn.Parameter && group == frozen && moved:
			c.failf("the frozen %q moved", t.Name)
		case t.Role == nn.Parameter && group == free && !moved:
			c.failf("%q did not move although only %s is frozen", t.Name, frozen)
		case t.Role == nn.Statistic && !moved:
			c.failf("the running statistic %q did not move; those of frozen groups do too", t.Name)
		}
	}
	// The statistics moved as the reference says, through frozen layers.
	s2 := c.session(g, backend.Options{}, d)
	c.train(s2, 1e-3, []string{frozen}, bs[0])
	r := reference.New(g, backend.LossOnProbabilities)
	images, _ := d.batch(bs[0])
	p, err := r.Forward(images, true)
	c.must(err, "the reference")
	r.MoveStatistics(p)
	got := c.state(s2)
	for _, t := range g.Statistics() {
		c.near(fmt.Sprintf("%q", t.Name), got.data[t.Name], r.Values[t.Name].Data, 1e-5, 1e-2)
	}
}

// lowered checks that training in a precision below float32 learns, that weights
// are nevertheless kept in float32, and that mixed precision keeps its scale.
func (c *check) lowered(precision string) {
	c.offered(precision)
	g := unet(16)
	d := c.dataset(7, 2, 1, 32, 32, 2)
	s := c.session(g, backend.Options{Precision: precision}, d)
	start := c.state(s)
	for _, t := range g.Parameters() {
		if got := start.data[t.Name]; !slices.EqualFunc(got, t.Data, func(a float64, b float32) bool { return a == float64(b) }) {
			c.failf("%q is not kept in float32", t.Name)
		}
	}
	losses := c.train(s, 3e-3, nil, slices.Repeat([]backend.Batch{consecutive(0, 2)}, 12)...)
	if !(losses[11] < losses[0]) {
		c.failf("twelve steps on one batch did not lower the loss: %v", losses)
	}
	raw, err := s.State(c.ctx)
	c.must(err, "State")
	if precision == backend.Mixed && (!bytes.Contains(raw, []byte(`"loss_scale"`)) || !bytes.Contains(raw, []byte(`"good_steps"`))) {
		c.failf("the state has no metadata loss_scale and good_steps")
	}
	c.detail = fmt.Sprintf("loss %.4f to %.4f", losses[0], losses[11])
}

func (c *check) cancel() {
	g := unet(4)
	d := c.dataset(8, 8, 1, 64, 64, 2)
	s := c.session(g, backend.Options{}, d)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	n := 0
	var asked time.Time
	err := s.Train(ctx, backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{consecutive(0, 8)}, 10000), LearningRate: 1e-3}, func(backend.Step) error {
		if n++; n == 2 {
			asked = time.Now()
			cancel()
		}
		return nil
	})
	took := time.Since(asked)
	if err == nil || !errors.Is(err, context.Canceled) {
		c.failf("a cancelled Train returned %v", err)
	}
	if took > time.Second {
		c.failf("Train returned %v after it was cancelled, allowed is a second", took)
	}
	begin := time.Now()
	c.must(s.Close(), "closing a session after its Train was cancelled")
	if took := time.Since(begin); took > time.Second {
		c.failf("closing took %v after Train was cancelled, allowed is a second", took)
	}
	c.open = nil
	s = c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, consecutive(0, 1))
	c.detail = fmt.Sprintf("%.0f ms", 1e3*took.Seconds())
}
