package cpu

import (
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// The table of a step holds every convolution, and the work that the graph says.
func TestLayerTimes(t *testing.T) {
	g := unet(t, 8)
	layers, err := g.Layers([]int{2, 1, 32, 32})
	if err != nil {
		t.Fatal(err)
	}
	for _, frozen := range [][]string{nil, {nn.Encoder}, {nn.Decoder}} {
		rows, err := LayerTimes(ctx, g, backend.Options{Threads: 1}, 2, 32, frozen, 0)
		if err != nil {
			t.Fatal(err)
		}
		done := map[[2]string]int64{}
		for _, r := range rows {
			if r.Time < 0 {
				t.Errorf("%s %s took %v", r.Layer, r.Pass, r.Time)
			}
			done[[2]string{r.Layer, r.Pass}] += r.MultiplyAdds
		}
		for _, l := range layers {
			for _, pass := range []string{"forward", "weight gradient"} {
				want := l.MultiplyAdds
				if pass != "forward" && len(frozen) > 0 && strings.HasPrefix(l.Node.Name, frozen[0]+".") {
					want = 0
				}
				if got := done[[2]string{l.Node.Name, pass}]; got != want {
					t.Errorf("frozen %v: %s of %s is %d multiply-adds, want %d", frozen, pass, l.Node.Name, got, want)
				}
			}
		}
	}
	if _, err := LayerTimes(ctx, g, backend.Options{Precision: backend.Float64}, 1, 16, nil, 0); err == nil {
		t.Error("plain loops have no table")
	}
}
