package backendtest

import (
	"bytes"
	"math"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

func (c *check) unknownOperator() {
	g := small(1, 2, func(b *builder) (string, int) {
		x := b.conv("first", "image", 1, 3, 3, window(3, 1, 1, 1, 1, 1), true)
		return b.node("the odd one", "Acosh", nil, x), 3
	})
	_, err := c.tryOpen(g, backend.Options{})
	c.unsupported(err, "the operator Acosh")
	if !strings.Contains(err.Error(), "the odd one") || !strings.Contains(err.Error(), "Acosh") {
		c.failf("the refusal names not both the node and its operator: %v", err)
	}
}

// unknownAttribute asks for an attribute that no version of ONNX has: who passes
// over it computes something else than the network.
func (c *check) unknownAttribute() {
	g := small(1, 2, func(b *builder) (string, int) {
		x := b.conv("first", "image", 1, 3, 3, window(3, 1, 1, 1, 1, 1), true)
		return b.node("the odd one", "Relu", nn.Attrs{"slant": int64(2)}, x), 3
	})
	_, err := c.tryOpen(g, backend.Options{})
	c.unsupported(err, "a Relu with the attribute slant")
	if !strings.Contains(err.Error(), "the odd one") || !strings.Contains(err.Error(), "slant") {
		c.failf("the refusal names not both the node and its attribute: %v", err)
	}
}

func (c *check) unknownOptions() {
	g := unet(2)
	open := func(o backend.Options) error {
		s, err := c.backend.Open(c.ctx, g, o.WithDefaults())
		if err == nil {
			c.open = append(c.open, s)
		}
		return err
	}
	device := c.options.Device
	c.unsupported(open(backend.Options{Device: device, Precision: "int3"}), "precision int3")
	c.unsupported(open(backend.Options{Device: device, Loss: "guesswork"}), "loss guesswork")
	c.unsupported(open(backend.Options{Device: "abacus:7"}), "device abacus:7")
	c.refused(open(backend.Options{Device: device, Adam: backend.Adam{Beta1: 1, Beta2: 0.999, Epsilon: 1e-8}}), "an Adam with β₁ 1")
	c.refused(open(backend.Options{Device: device, Adam: backend.Adam{Beta1: 0.9, Beta2: 0.999, Epsilon: math.NaN()}}), "an Adam with NaN ε")
}

func (c *check) badRequests() {
	g := unet(2)
	d := c.dataset(15, 3, 1, 16, 16, 2)
	s := c.session(g, backend.Options{}, d)
	square := c.dataset(16, 2, 1, 32, 16, 2)
	c.must(s.LoadDataset(c.ctx, "oblong", square.path, square.digest), "LoadDataset")
	classes := c.dataset(17, 2, 1, 16, 16, 9)
	before := c.state(s)
	want, err := s.Predict(c.ctx, d.tensor(0, 1))
	c.must(err, "Predict")

	ok := consecutive(0, 2)
	training := func(rate float64, b backend.Batch) func() error {
		return func() error {
			_, err := train(c.ctx, s, backend.TrainRequest{Batches: []backend.Batch{b}, LearningRate: rate})
			return err
		}
	}
	gradients := func(b backend.Batch) func() error {
		return func() error { _, _, err := s.Gradients(c.ctx, b, nil); return err }
	}
	for _, r := range []struct {
		what string
		ask  func() error
	}{
		{"an unknown dataset in Train", training(1e-3, backend.Batch{{Dataset: "nowhere"}})},
		{"an unknown dataset in Gradients", gradients(backend.Batch{{Dataset: "nowhere"}})},
		{"an unknown dataset in Evaluate", func() error {
			_, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: "nowhere"})
			return err
		}},
		{"index 3 of 3 images in Train", training(1e-3, consecutive(3, 1))},
		{"index 3 of 3 images in Gradients", gradients(consecutive(3, 1))},
		{"index 3 of 3 images in Evaluate", func() error {
			_, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, Indices: []int{0, 3}})
			return err
		}},
		{"an empty batch in Train", training(1e-3, nil)},
		{"an empty batch in Gradients", gradients(nil)},
		{"learning rate NaN", training(math.NaN(), ok)},
		{"learning rate ∞", training(math.Inf(1), ok)},
		{"learning rate −1", training(-1, ok)},
		{"images of two sizes in a batch", gradients(backend.Batch{{Dataset: set}, {Dataset: "oblong"}})},
		{"a quarter turn of an oblong image", gradients(backend.Batch{{Dataset: "oblong", Dihedral: 1}})},
		{"an unknown activation", func() error {
			_, err := s.Activations(c.ctx, ok, []string{"no such value"}, false)
			return err
		}},
		{"an image whose size is no multiple of 16", func() error {
			_, err := s.Predict(c.ctx, backend.Tensor{Shape: []int{1, 1, 20, 16}, F32: make([]float32, 320)})
			return err
		}},
		{"an image with two channels", func() error {
			_, err := s.Predict(c.ctx, backend.Tensor{Shape: []int{1, 2, 16, 16}, F32: make([]float32, 512)})
			return err
		}},
		{"a file that does not exist", func() error {
			return s.LoadDataset(c.ctx, "x", filepath.Join(c.dir, "nothing.safetensors"), d.digest)
		}},
		{"a folder for a file", func() error { return s.LoadDataset(c.ctx, "x", c.dir, d.digest) }},
		{"labels beyond the classes", func() error {
			// A backend may look at labels when loading or when using them.
			if err := s.LoadDataset(c.ctx, "many classes", classes.path, classes.digest); err != nil {
				return err
			}
			_, _, err := s.Gradients(c.ctx, backend.Batch{{Dataset: "many classes"}}, nil)
			return err
		}},
	} {
		c.refused(r.ask(), "%s", r.what)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s was refused, but the state changed", r.what)
		}
	}
	got, err := s.Predict(c.ctx, d.tensor(0, 1))
	c.must(err, "Predict after refusals")
	c.samePrediction(got.Float64s(), want.Float64s(), "the prediction after refused requests")
	c.train(s, 1e-3, nil, ok)
}
