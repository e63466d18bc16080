package backendtest

import (
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// The reference's gradients are the slopes of its loss, for both losses.
func TestReferenceGradients(t *testing.T) {
	for _, loss := range []string{backend.LossOnProbabilities, backend.LossOnLogits} {
		g := unet(2)
		r := newReference(g, loss)
		b := batch{newArray(2, 1, 32, 48), make([]uint8, 2*32*48)}
		rnd := random.Stream(1, "test")
		for i := range b.labels {
			b.images.data[i] = rnd.NormFloat64()
			b.labels[i] = uint8(rnd.IntN(2))
		}
		_, p, err := r.gradients(b)
		if err != nil {
			t.Fatal(err)
		}
		for k, x := range g.Parameters() {
			if k%3 != 0 && k < 30 { // of the many of a kind
				continue
			}
			w, i := r.values[x.Name].data, rnd.IntN(x.Len())
			at, got := w[i], p.gradient(x.Name).data[i]
			const h = 1e-7
			w[i] = at + h
			up, _, _ := r.gradients(b)
			w[i] = at - h
			down, _, _ := r.gradients(b)
			w[i] = at
			// Central differences are off by rounding over h, and where a ReLU
			// switches within h.
			if want := (up - down) / (2 * h); math.Abs(got-want) > 1e-4*math.Abs(want)+1e-7 {
				t.Errorf("%s: gradient of %s[%d] is %g, the slope %g", loss, x.Name, i, got, want)
			}
		}
	}
}

func TestCPU(t *testing.T) { Test(t, cpu.New("test"), Options{}) }
