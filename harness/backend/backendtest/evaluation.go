package backendtest

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
)

func (c *check) evaluate() {
	g := unet(4)
	d := c.dataset(9, 7, 1, 32, 48, 2)
	s := c.session(g, backend.Options{}, d)
	r := reference.New(g, backend.LossOnProbabilities)
	images, _ := d.batch(consecutive(0, d.n))
	p, err := r.Forward(images, false)
	c.must(err, "the reference")
	_, want := r.LossOf(p, d.labels, false)
	z := p.Values[g.Output.Name]

	all, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set})
	c.must(err, "Evaluate")
	if len(all.Loss) != d.n || len(all.Confusion) != d.n || all.Classes != 2 {
		c.failf("%d losses and %d confusion matrices of %d classes for %d images of 2", len(all.Loss), len(all.Confusion), all.Classes, d.n)
	}
	c.near("losses", all.Loss, want, 1e-5, 0)
	pixels := d.h * d.w
	for i := range d.n {
		var counts [4]int64
		close := int64(0) // pixels whose classes are equal to within rounding
		for q := range pixels {
			p0, p1 := z.Data[2*i*pixels+q], z.Data[(2*i+1)*pixels+q]
			if math.Abs(p0-p1) < 1e-4 {
				close++
			}
			k := 2 * int(d.labels[i*pixels+q])
			if p1 > p0 {
				k++
			}
			counts[k]++
		}
		for k, n := range counts {
			if got := all.Confusion[i][k]; max(got-n, n-got) > close {
				c.failf("image %d: %d pixels with label %d and prediction %d, must be %d", i, got, k/2, k%2, n)
			}
		}
	}
	for _, size := range []int{1, 2, 3, 100} {
		e, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, BatchSize: size})
		c.must(err, "Evaluate with batch size %d", size)
		c.sameEvaluation(e, all, "batch size %d", size)
	}
	order := []int{5, 0, 5, 6}
	e, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, Indices: order})
	c.must(err, "Evaluate of some")
	if len(e.Loss) != len(order) || len(e.Confusion) != len(order) {
		c.failf("%d losses for %d indices", len(e.Loss), len(order))
	}
	for i, index := range order {
		if !c.sameImage(e, i, all, index) {
			c.failf("image %d evaluated in the order %v differs from itself among all", index, order)
		}
	}
}

// sameEvaluation fails the check unless two evaluations are the same: see sameImage.
func (c *check) sameEvaluation(got, want backend.Evaluation, what string, a ...any) {
	same := len(got.Loss) == len(want.Loss) && len(got.Confusion) == len(want.Confusion)
	for i := 0; same && i < len(want.Loss); i++ {
		same = c.sameImage(got, i, want, i)
	}
	if !same {
		c.failf("with %s the losses are %v and the counts %v, otherwise %v and %v", fmt.Sprintf(what, a...), got.Loss, got.Confusion, want.Loss, want.Confusion)
	}
}

// exact reports whether the backend claims that the images beside one do not
// matter to it: see backend.EvaluateRequest.
func (c *check) exact() bool {
	claim := c.report.Description.Determinism
	return claim == backend.DeterminismThreads || claim == backend.DeterminismMachine
}

// batched is by how much the loss of an image may depend on those beside it, where
// the backend does not claim that it does not: the same float32 numbers are added
// up in another order, which moves a pixel's loss by a few 1e-7 of it and the mean
// over an image's by less. Distances of PyTorch's are 1e-9.
const batched = 1e-6

// sameImage reports whether image i of an evaluation is image j of another: to the
// bit if the backend claims that, else up to rounding, which may decide
// between the classes of one pixel in a hundred.
func (c *check) sameImage(a backend.Evaluation, i int, b backend.Evaluation, j int) bool {
	if c.exact() {
		return a.Loss[i] == b.Loss[j] && slices.Equal(a.Confusion[i], b.Confusion[j])
	}
	var moved, pixels int64
	if len(a.Confusion[i]) != len(b.Confusion[j]) {
		return false
	}
	for k, n := range b.Confusion[j] {
		moved += max(n-a.Confusion[i][k], a.Confusion[i][k]-n)
		pixels += n
	}
	return math.Abs(a.Loss[i]-b.Loss[j]) <= batched*b.Loss[j] && moved <= 2*(pixels/100)
}

// samePrediction is sameImage for predictions of one image.
func (c *check) samePrediction(got, want []float64, what string, a ...any) {
	if c.exact() {
		if !slices.Equal(got, want) {
			c.failf("%s differs", fmt.Sprintf(what, a...))
		}
		return
	}
	c.near(fmt.Sprintf(what, a...), got, want, tolerances[backend.Float32].forward, 0)
}

// fixedBatch asks a network whose graph takes two images at once.
func (c *check) fixedBatch() {
	g := unet(2)
	d := c.dataset(22, 5, 1, 16, 32, 2)
	free := c.session(g, backend.Options{}, d)
	fixed := g.Clone()
	fixed.Input.Shape[0], fixed.Output.Shape[0] = 2, 2
	s := c.session(fixed, backend.Options{}, d)
	for _, n := range []int{2, 4} {
		got, err := s.Predict(c.ctx, d.tensor(0, n))
		c.must(err, "Predict of %d images by a network of a fixed batch of 2", n)
		for i := range n {
			want, err := free.Predict(c.ctx, d.tensor(i, 1))
			c.must(err, "Predict")
			k := len(want.Float64s())
			c.samePrediction(got.Float64s()[i*k:][:k], want.Float64s(), "image %d of %d by a network of a fixed batch, beside itself alone,", i, n)
		}
	}
	_, err := s.Predict(c.ctx, d.tensor(0, 3))
	c.refused(err, "a prediction of 3 images by a network of a fixed batch of 2")
	for _, size := range []int{0, 1, 3} {
		r := backend.EvaluateRequest{Dataset: set, BatchSize: size}
		got, err := s.Evaluate(c.ctx, r)
		c.must(err, "Evaluate of %d images by a network of a fixed batch of 2", d.n)
		want, err := free.Evaluate(c.ctx, r)
		c.must(err, "Evaluate")
		c.sameEvaluation(got, want, "a fixed batch of 2 and batch size %d", size)
	}
	c.train(s, 1e-3, nil, consecutive(0, 2))
	_, err = train(c.ctx, s, backend.TrainRequest{Batches: []backend.Batch{consecutive(0, 3)}})
	c.refused(err, "a step of 3 images by a network of a fixed batch of 2")
}

func (c *check) readOnly() {
	g := unet(4)
	d := c.dataset(10, 4, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, steps(2, d.n)...)
	before := c.state(s)
	b := consecutive(0, 2)
	for name, ask := range map[string]func() error{
		"Gradients":   func() error { _, _, err := s.Gradients(c.ctx, b, nil); return err },
		"Activations": func() error { _, err := s.Activations(c.ctx, b, []string{"decoder.head"}, true); return err },
		"Evaluate":    func() error { _, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set}); return err },
		"Predict":     func() error { _, err := s.Predict(c.ctx, d.tensor(0, 1)); return err },
	} {
		c.must(ask(), "%s", name)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s changes the session's state", name)
		}
	}
}
