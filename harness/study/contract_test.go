package study_test

import (
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/study"
)

func plan(t *testing.T, series, profile string) *study.Plan {
	t.Helper()
	f, err := study.Find(series)
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Study(profile)
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Expand()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The simulator accepts every simulated domain of every shipped spec, and the
// paper profile of the defocus series is what the simulator calls the paper's.
func TestSimulator(t *testing.T) {
	for _, series := range study.Series() {
		for _, profile := range []string{"smoke", "quick", "paper"} {
			if series == "own-data" {
				continue
			}
			for _, d := range plan(t, series, profile).Domains {
				c := hrtem.Config(d.Simulation)
				if err := c.Validate(); err != nil {
					t.Errorf("%s %s: %s: %v", series, profile, d.Name, err)
				}
				if profile != "paper" {
					continue
				}
				want := hrtem.Paper(d.Simulation.Crystal)
				if series == "structure" {
					want.Radius = map[string][2]float64{"small": {10, 20}, "large": {25, 35}}[d.Size]
				}
				if c != want {
					t.Errorf("%s: %s is simulated with\n%+v, want\n%+v", series, d.Name, c, want)
				}
			}
		}
	}
}

// Specs and the simulator know the same crystals.
func TestCrystals(t *testing.T) {
	want := slices.Sorted(slices.Values(crystal.Names()))
	if got := study.Crystals(); !slices.Equal(got, want) {
		t.Errorf("crystals %v, the simulator has %v", got, want)
	}
}

// Specs and backends speak of the same things by the same names.
func TestBackendNames(t *testing.T) {
	for got, want := range map[string]string{
		study.LossOnProbabilities: backend.LossOnProbabilities,
		study.LossOnLogits:        backend.LossOnLogits,
		study.Float32:             backend.Float32,
		study.Float64:             backend.Float64,
		study.Mixed:               backend.Mixed,
		study.FreezeEncoder:       nn.Encoder,
		study.FreezeDecoder:       nn.Decoder,
	} {
		if got != want {
			t.Errorf("%q is %q to a backend", got, want)
		}
	}
	if a := study.Defaults().Training.Adam; a != study.Adam(backend.DefaultAdam) {
		t.Errorf("Adam's constants are %v", a)
	}
}

// The estimate's FLOPs are those of the network's own graph.
func TestEstimateFLOPs(t *testing.T) {
	for _, c := range []struct{ width, crop int }{{64, 512}, {16, 64}, {8, 64}, {2, 16}} {
		g, err := nn.UNet(nn.UNetOptions{Width: c.width, Classes: 2})
		if err != nil {
			t.Fatal(err)
		}
		macs, err := g.MultiplyAdds([]int{1, 1, c.crop, c.crop})
		if err != nil {
			t.Fatal(err)
		}
		s := *plan(t, "baseline", "paper").Study
		s.Network.Width, s.Simulation.Crop = c.width, c.crop
		s.Training.Initialisations = 1
		p, err := s.Expand()
		if err != nil {
			t.Fatal(err)
		}
		e := p.Estimate()
		// The first convolution has no input gradient.
		first := 49 * float64(c.width) * float64(c.crop*c.crop)
		want := float64(e.ImageSteps)*(6*float64(macs)-2*first) + float64(e.ValidationImages)*2*float64(macs)
		if math.Abs(e.FLOPs/want-1) > 1e-9 { // rounding of sums
			t.Errorf("width %d, %d pixels: %g FLOP, the graph has %g", c.width, c.crop, e.FLOPs, want)
		}
	}
}

// Counts of the paper profile, worked out by hand.
func TestEstimateCounts(t *testing.T) {
	e := plan(t, "defocus", "paper").Estimate()
	for name, c := range map[string]struct{ got, want int64 }{
		"structures":        {int64(e.Structures), 640},
		"images":            {int64(e.Images), 11 * 640},
		"image-steps":       {e.ImageSteps, 7200*512*8*10 + 7200/4*(64+128+256+512)*8*10},
		"validation images": {e.ValidationImages, 2 * 7200 * 10 * 11 * 128},
		"bytes":             {e.DataBytes, 11*640*512*512*4 + 640*(8*640*640*8+512*512)},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	if e := plan(t, "structure", "paper").Estimate(); e.Structures != 18*640 {
		t.Errorf("structure series simulates %d structures, want %d", e.Structures, 18*640)
	}
	if e := plan(t, "noise", "paper").Estimate(); e.Structures != 640 {
		t.Errorf("noise series simulates %d structures, want 640", e.Structures)
	}
}
