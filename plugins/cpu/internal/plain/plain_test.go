package plain

import (
	"fmt"
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

var options = engine.Options{Options: backend.Options{Threads: 2}.WithDefaults()}

// unet returns a U-Net with initial weights and statistics that are not trivial.
func unet(t testing.TB, width int) *nn.Graph {
	g, err := nn.UNet(nn.UNetOptions{Width: width, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(1, 0)
	for _, s := range g.Tensors {
		if s.Role == nn.Statistic || s.Role == nn.Parameter && len(s.Shape) == 1 {
			r := random.Stream(2, s.Name)
			for i := range s.Data {
				s.Data[i] += float32(r.Float64() * 0.3)
			}
		}
	}
	return g
}

// batch returns images and labels that have something to do with each other.
func batch(n, h, w int) engine.Batch {
	r := random.Stream(3, "batch")
	b := engine.Batch{Images: backend.Tensor{Shape: []int{n, 1, h, w}, F32: make([]float32, n*h*w)}, Labels: make([]uint8, n*h*w)}
	for i := range b.Images.F32 {
		y, x := i/w%h, i%w
		inside := math.Hypot(float64(y)-float64(h)/2, float64(x)-float64(w)/2) < float64(h)/3
		b.Images.F32[i] = float32(r.NormFloat64())
		if inside {
			b.Labels[i] = 1
			b.Images.F32[i] += float32(math.Sin(float64(x)))
		}
	}
	return b
}

// batch64 is batch in float64.
func batch64(n, h, w int) engine.Batch {
	b := batch(n, h, w)
	b.Images = backend.Tensor{Shape: b.Images.Shape, F64: b.Images.Float64s()}
	return b
}

// Every parameter's gradient against central differences of the loss in
// float64. The step of 1e-5 leaves an error of about 1e-9 relative to the
// gradients' size, except across a kink of Relu or MaxPool, which a direction
// drawn at random all but never meets.
func TestGradientsByDifferences(t *testing.T) {
	for _, loss := range []string{backend.LossOnProbabilities, backend.LossOnLogits} {
		o := options
		o.Loss = loss
		e, err := Compile[float64](unet(t, 4), o)
		if err != nil {
			t.Fatal(err)
		}
		b := batch64(2, 32, 16)
		frozen := make([]bool, len(e.params))
		if _, err := e.Gradients(b, frozen, 1, false); err != nil {
			t.Fatal(err)
		}
		var grads [][]float64
		for _, p := range e.params {
			grads = append(grads, append([]float64(nil), p.grad...))
		}
		r := random.Stream(4, "test")
		for i, p := range e.params {
			j := r.IntN(len(p.data))
			const h = 1e-5
			at := func(d float64) float64 {
				x := p.data[j]
				p.data[j] = x + d
				l, err := e.Gradients(b, frozen, 1, false)
				p.data[j] = x
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			got, want := grads[i][j], (at(h)-at(-h))/(2*h)
			if math.Abs(got-want) > 1e-6*math.Abs(want)+1e-8 {
				t.Errorf("%s[%d]: gradient %.9g, difference quotient %.9g", p.name, j, got, want)
			}
		}
	}
}

// Ten steps of Adam on one batch must learn it.
func TestTrains(t *testing.T) {
	e, err := Compile[float32](unet(t, 8), options)
	if err != nil {
		t.Fatal(err)
	}
	b := batch(2, 32, 32)
	frozen := make([]bool, len(e.params))
	var first, last float64
	for i := 1; i <= 10; i++ {
		if last, err = e.Gradients(b, frozen, 1, true); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			first = last
		}
		if err := e.Adam(i, 1e-3, 1, frozen); err != nil {
			t.Fatal(err)
		}
	}
	if !(last < first-0.05) {
		t.Errorf("loss went from %.4f to %.4f", first, last)
	}
}

func BenchmarkStep(b *testing.B) {
	for _, c := range []struct{ width, size, batch int }{{16, 64, 16}, {64, 64, 2}} {
		b.Run(fmt.Sprintf("w%d-%d-b%d", c.width, c.size, c.batch), func(b *testing.B) {
			o := options
			o.Threads = 1
			g := unet(b, c.width)
			e, err := Compile[float32](g, o)
			if err != nil {
				b.Fatal(err)
			}
			x := batch(c.batch, c.size, c.size)
			frozen := make([]bool, len(e.params))
			macs, _ := g.MultiplyAdds([]int{c.batch, 1, c.size, c.size})
			b.ReportAllocs()
			for i := 1; b.Loop(); i++ {
				if _, err := e.Gradients(x, frozen, 1, true); err != nil {
					b.Fatal(err)
				}
				if err := e.Adam(i, 1e-3, 1, frozen); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(macs)*6*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOPS")
		})
	}
}
