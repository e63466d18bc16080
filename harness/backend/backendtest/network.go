package backendtest

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// tolerance bounds distances to the reference, relative to the largest element
// of a tensor. Single precision loses about five digits on the way through a
// network's sums; a gradient loses more, for it is a sum over all pixels of terms
// that nearly cancel. A mistake in an operator shows as 1e-2 or more. No jump of
// the gradient is left room for: separate keeps values from there by more than
// the forward tolerance of float32.
//
// The precisions below float32 round the operands of convolutions to a few bits of
// mantissa, so each operand is off by up to u = 2^−(bits+1) of itself, and float32's
// own error does not count. Of the values of the suite's networks, whose twenty
// convolutions follow each other with normalisations between that enlarge small
// channels, that moves the largest by up to 24 u; of the loss, a mean in which
// errors of both signs meet, up to u/40. In the gradient it blocks or passes other
// pixels, a fraction of the order of u per layer, which makes √u of its length: up
// to 6 √u together. TestTolerancesOfRounding measures these figures on the
// reference. Allowed is more, since a backend may also keep what lies between
// convolutions in so few bits. An operator that is wrong shows in float32.
type tolerance struct {
	forward, gradient, loss float64
	whole                   bool // the gradient is compared as one vector: see same
}

var tolerances = map[string]tolerance{
	backend.Float32:  {3e-5, 3e-3, 1e-5, false},
	backend.Float64:  {1e-10, 1e-8, 1e-11, false},
	backend.Mixed:    {3e-2, 3e-1, 1e-2, true},
	backend.TF32:     rounding(mantissa[backend.TF32]),
	backend.BFloat16: rounding(mantissa[backend.BFloat16]),
}

// mantissa is the number of bits after the point to which a precision rounds.
var mantissa = map[string]int{backend.TF32: 10, backend.BFloat16: 7}

func rounding(bits int) tolerance {
	u := math.Ldexp(1, -bits-1)
	return tolerance{48 * u, 10 * math.Sqrt(u), u / 4, true}
}

type networkCase struct{ width, batch, h, w int }

// networks keep eight values or more per channel at the deepest level, where the
// image is sixteen times smaller: the statistics of two or three would make
// rounding errors large.
var networks = []networkCase{
	{2, 4, 32, 32},
	{4, 3, 32, 48}, // neither square nor a power of two, an odd batch
	{4, 1, 64, 48},
	{16, 2, 32, 32}, // wide enough for vector kernels
}

func (c *check) network(precision string, n networkCase) {
	c.offered(precision)
	g := unet(n.width)
	d := c.dataset(2, n.batch+1, 1, n.h, n.w, 2)
	b := consecutive(1, n.batch)
	c.separate(g, d, b)
	s := c.session(g, backend.Options{Precision: precision}, d)
	c.same(s, g, reference.New(g, backend.LossOnProbabilities), d, b, tolerances[precision])
}

func (c *check) logits() {
	if !slices.Contains(c.report.Description.Losses, backend.LossOnLogits) {
		c.skipf("loss %s", backend.LossOnLogits)
	}
	g := unet(2)
	d := c.dataset(3, 3, 1, 16, 16, 2)
	b := consecutive(0, 3)
	c.separate(g, d, b)
	s := c.session(g, backend.Options{Loss: backend.LossOnLogits}, d)
	c.same(s, g, reference.New(g, backend.LossOnLogits), d, b, tolerances[backend.Float32])
}

// dihedral checks each symmetry on the first convolution's output, which shows
// where each pixel went, and on the loss, which shows where the labels went.
func (c *check) dihedral() {
	g := unet(4)
	d := c.dataset(4, 3, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	r := reference.New(g, backend.LossOnProbabilities)
	tol := tolerances[backend.Float32]
	for op := range uint8(8) {
		b := backend.Batch{{Dataset: set, Index: 2, Dihedral: op}, {Dataset: set, Index: 0, Dihedral: 7 - op}}
		wantLoss, p, err := r.Gradients(d.batch(b))
		c.must(err, "the reference")
		first := g.Nodes[0].Outputs[0]
		values, err := s.Activations(c.ctx, b, []string{first}, true)
		c.must(err, "Activations under symmetry %d", op)
		if len(values) != 1 {
			c.failf("Activations returns %d values of 1", len(values))
		}
		c.near(fmt.Sprintf("%q under symmetry %d", first, op), values[0].Float64s(), p.Values[first].Data, tol.forward, 0)
		loss, _, err := s.Gradients(c.ctx, b, nil)
		c.must(err, "Gradients under symmetry %d", op)
		c.near(fmt.Sprintf("loss under symmetry %d", op), []float64{loss}, []float64{wantLoss}, tol.loss, 0)
	}
}

// same compares everything that a network computes from a batch with the
// reference: prediction, activations in both modes, loss, gradients.
func (c *check) same(s backend.Session, g *nn.Graph, r *reference.Network, d *dataset, b backend.Batch, tol tolerance) {
	images, labels := d.batch(b)
	inference, err := r.Forward(images, false)
	c.must(err, "the reference")
	wantLoss, p, err := r.Gradients(images, labels)
	c.must(err, "the reference")

	out, err := s.Predict(c.ctx, d.tensor(b[0].Index, len(b)))
	c.must(err, "Predict")
	want := inference.Values[g.Output.Name]
	if !slices.Equal(out.Shape, want.Shape) {
		c.failf("Predict returns shape %v, must be %v", out.Shape, want.Shape)
	}
	c.near("Predict", out.Float64s(), want.Data, tol.forward, 0)

	var names []string
	for _, n := range g.Nodes {
		names = append(names, n.Outputs[0])
	}
	for _, training := range []bool{false, true} {
		want := inference
		if training {
			want = p
		}
		values, err := s.Activations(c.ctx, b, names, training)
		c.must(err, "Activations")
		if len(values) != len(names) {
			c.failf("Activations returns %d values of %d", len(values), len(names))
		}
		for i, v := range values {
			w := want.Values[names[i]]
			if v.Name != names[i] || !slices.Equal(v.Shape, w.Shape) {
				c.failf("activation %d is %q with shape %v, must be %q with %v", i, v.Name, v.Shape, names[i], w.Shape)
			}
			c.near(fmt.Sprintf("activation %q (training: %v)", v.Name, training), v.Float64s(), w.Data, tol.forward, 1e-3)
		}
	}

	loss, gradients, err := s.Gradients(c.ctx, b, nil)
	c.must(err, "Gradients")
	c.near("loss", []float64{loss}, []float64{wantLoss}, tol.loss, 0)
	parameters := g.Parameters()
	if len(gradients) != len(parameters) {
		c.failf("%d gradients for %d parameters", len(gradients), len(parameters))
	}
	if tol.whole {
		// Where a fraction f of a layer's pixels is blocked or passed otherwise,
		// its gradient is off by about √f of its length; in half precision that
		// is several per cent per layer (√u of tolerance). Only the whole can be compared.
		var got, want []float64
		for i, t := range parameters {
			got, want = append(got, gradients[i].Float64s()...), append(want, p.Gradient(t.Name).Data...)
		}
		if d := distance(got, want); !(d <= tol.gradient) {
			c.failf("the gradient is off by %.2g of its length, allowed %.2g", d, tol.gradient)
		}
		return
	}
	floor := 0.0 // some true gradients are zero: a bias before a normalisation
	for _, t := range parameters {
		for _, v := range p.Gradient(t.Name).Data {
			floor = math.Max(floor, 1e-3*math.Abs(v))
		}
	}
	for i, t := range parameters {
		if gradients[i].Name != t.Name || !slices.Equal(gradients[i].Shape, t.Shape) {
			c.failf("gradient %d is %q with shape %v, must be %q with %v", i, gradients[i].Name, gradients[i].Shape, t.Name, t.Shape)
		}
		c.near(fmt.Sprintf("gradient of %q", t.Name), gradients[i].Float64s(), p.Gradient(t.Name).Data, tol.gradient, floor)
	}
}
