package backendtest

import (
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
)

// The tolerances of tf32 and bfloat16 against what rounding the operands of the
// reference's convolutions does to the suite's own networks: at least one and
// a half times as much, so that a backend may round elsewhere, too, and not more than
// 32 times.
func TestTolerancesOfRounding(t *testing.T) {
	for precision, bits := range mantissa {
		tol := tolerances[precision]
		var most tolerance
		for _, n := range networks {
			for seed := range uint64(2) {
				forward, gradient, loss := rounded(t, n, 2+seed, bits)
				t.Logf("%s, width %d, %d×%d×%d: forward %.2g, gradient %.2g, loss %.2g", precision, n.width, n.batch, n.h, n.w, forward, gradient, loss)
				most.forward, most.gradient, most.loss = max(most.forward, forward), max(most.gradient, gradient), max(most.loss, loss)
			}
		}
		for _, v := range []struct {
			what           string
			got, tolerance float64
		}{{"forward", most.forward, tol.forward}, {"gradient", most.gradient, tol.gradient}, {"loss", most.loss, tol.loss}} {
			if f := v.tolerance / v.got; !(f >= 1.5 && f <= 32) {
				t.Errorf("%s, %s: rounding makes %.2g, the tolerance is %.2g: %.1f times as much", precision, v.what, v.got, v.tolerance, f)
			}
		}
	}
}

// rounded is how far the reference with rounded operands is from itself: the
// largest distance of a value relative to its tensor's largest, and the relative
// distances of the whole gradient and of the loss.
func rounded(t *testing.T, n networkCase, seed uint64, bits int) (forward, gradient, loss float64) {
	t.Helper()
	g := unet(n.width)
	c := &check{suite: &suite{dir: t.TempDir()}}
	d := c.dataset(seed, n.batch+1, 1, n.h, n.w, 2)
	b := consecutive(1, n.batch)
	c.separate(g, d, b)
	var losses [2]float64
	var passes [2]*reference.Pass
	for i := range passes {
		r := reference.New(g, backend.LossOnProbabilities)
		if i > 0 {
			split := math.Ldexp(1, 52-bits) + 1 // Veltkamp's
			r.Operand = func(v float64) float64 { return v*split - (v*split - v) }
		}
		var err error
		if losses[i], passes[i], err = r.Gradients(d.batch(b)); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range g.Nodes {
		scale, most := 1e-3, 0.0
		for i, v := range passes[0].Values[n.Outputs[0]].Data {
			scale, most = max(scale, math.Abs(v)), max(most, math.Abs(v-passes[1].Values[n.Outputs[0]].Data[i]))
		}
		forward = max(forward, most/scale)
	}
	var want, got []float64
	for _, p := range g.Parameters() {
		want, got = append(want, passes[0].Gradient(p.Name).Data...), append(got, passes[1].Gradient(p.Name).Data...)
	}
	return forward, distance(got, want), math.Abs(losses[1]-losses[0]) / losses[0]
}
