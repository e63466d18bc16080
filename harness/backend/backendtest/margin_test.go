package backendtest

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// Separate gives the margins it says, leaves every channel of a Relu passing some
// values and stopping others, and changes nothing but biases and a few pixels.
func TestSeparate(t *testing.T) {
	for _, c := range []struct{ width, n, h, w int }{{2, 3, 16, 16}, {4, 3, 32, 48}, {12, 2, 48, 32}} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			r := random.Stream(5, "separate")
			images := backend.Tensor{Shape: []int{c.n, 1, c.h, c.w}, F32: make([]float32, c.n*c.h*c.w)}
			for i := range images.F32 {
				images.F32[i] = float32(r.NormFloat64())
			}
			g, before := unet(c.width), slices.Clone(images.F32)
			m, err := Separate(g, images)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("margins %+v", m)
			// Half of a gap is about 1.5·ln(n)/n; the narrowest of all channels is less.
			n := float64(c.n * c.h * c.w)
			if !(m.Relu >= math.Log(n)/n/2) || !(m.Pool >= PoolMargin) {
				t.Errorf("margins of %+v", m)
			}

			p, err := reference.New(g, backend.LossOnProbabilities).Forward(&reference.Array{Shape: images.Shape, Data: images.Float64s()}, true)
			if err != nil {
				t.Fatal(err)
			}
			relu, pool := math.Inf(1), math.Inf(1)
			for _, n := range g.Nodes {
				x, y := p.Values[n.Inputs[0]], p.Values[n.Outputs[0]]
				switch n.Op {
				case "Relu":
					passed := make([]float64, x.Shape[1])
					reference.EachPixel(x, func(_, c, i int) {
						relu = min(relu, math.Abs(x.Data[i]))
						if x.Data[i] > 0 {
							passed[c] += float64(x.Shape[1]) / float64(len(x.Data))
						}
					})
					if lo, hi := slices.Min(passed), slices.Max(passed); lo < 0.25 || hi > 0.75 {
						t.Errorf("%s passes from %.2f to %.2f of a channel", n.Name, lo, hi)
					}
				case "MaxPool": // 2×2, of a Relu's output
					for i := range y.Data {
						row, w := i/y.Shape[3], x.Shape[3]
						at := 2*row*w + i%y.Shape[3]*2
						window := []float64{x.Data[at], x.Data[at+1], x.Data[at+w], x.Data[at+w+1]}
						slices.Sort(window)
						if window[3] > 0 {
							pool = min(pool, window[3]-window[2])
						}
					}
				}
			}
			if math.Abs(relu-m.Relu) > 1e-12 || math.Abs(pool-m.Pool) > 1e-12 {
				t.Errorf("margins of %+v, found %g and %g", m, relu, pool)
			}

			for i, x := range unet(c.width).Tensors {
				bias := x.Role == nn.Parameter && len(x.Shape) == 1 && x.Name[len(x.Name)-4:] == "bias"
				if !bias && !slices.Equal(x.Data, g.Tensors[i].Data) {
					t.Errorf("%s has changed", x.Name)
				}
			}
			changed := 0
			for i, v := range before {
				if v != images.F32[i] {
					changed++
				}
			}
			if changed > len(before)/50 {
				t.Errorf("%d of %d pixels have changed", changed, len(before))
			}
		})
	}
}

// Images on which a pool cannot be decided are refused.
func TestSeparateRefuses(t *testing.T) {
	g := small(1, 2, func(b *builder) (string, int) {
		// A window over one pixel twice: no image parts the two.
		x := b.node("larger", "Resize", nn.Attrs{
			"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
		}, "image", "", "scales")
		b.g.Tensors = append(b.g.Tensors, &nn.Tensor{Name: "scales", Shape: []int{4}, Data: []float32{1, 1, 2, 2}})
		return b.node("pool", "MaxPool", window(2, 2, 0, 0, 0, 0), x), 1
	})
	if _, err := Separate(g, backend.Tensor{Shape: []int{1, 1, 4, 4}, F32: make([]float32, 16)}); err == nil {
		t.Error("a pool of equal values was accepted")
	}
	if _, err := Separate(g, backend.Tensor{Shape: []int{1, 1, 4, 4}, F64: make([]float64, 16)}); err == nil {
		t.Error("float64 images, which cannot be changed in place as float32, were accepted")
	}
}
