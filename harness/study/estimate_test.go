package study

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
)

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
		s := *expand(t, "baseline", "paper").Study
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
	e := expand(t, "defocus", "paper").Estimate()
	for name, c := range map[string]struct{ got, want int64 }{
		"structures":        {int64(e.Structures), 640},
		"images":            {int64(e.Images), 11 * 640},
		"image-steps":       {e.ImageSteps, 7200*512*8*10 + 7200/4*(64+128+256+512)*8*10},
		"validation images": {e.ValidationImages, 2 * 7200 * 10 * 11 * 128},
		"bytes":             {e.ImageBytes, 11 * 640 * 512 * 512 * (4 + 1)},
		"bytes of waves":    {e.WaveBytes, 640 * (8*640*640*8 + 512*512)},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, want %d", name, c.got, c.want)
		}
	}
	if e := expand(t, "structure", "paper").Estimate(); e.Structures != 18*640 {
		t.Errorf("structure series simulates %d structures, want %d", e.Structures, 18*640)
	}
	if e := expand(t, "noise", "paper").Estimate(); e.Structures != 640 {
		t.Errorf("noise series simulates %d structures, want 640", e.Structures)
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"30T":       {"a device", 30e12, "stated"},
		"H100=60T":  {"H100", 60e12, "stated"},
		"290G":      {"a device", 290e9, "stated"},
		"a =2.5e13": {"a", 2.5e13, "stated"},
		"node=0.5P": {"node", 0.5e15, "stated"},
		"":          {},
		"T":         {},
		"-3T":       {},
		"nan":       {},
		"inf":       {},
		"0":         {},
		"=3T":       {},
		"30 apples": {},
		"1e30":      {},
	} {
		if got, err := ParseRate(text); got != want || (err == nil) != (want != Rate{}) {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
}

// What a plan says of its cost: time by rates, weights, and what would make a large one
// affordable.
func TestPlanCost(t *testing.T) {
	paper := expand(t, "defocus", "paper")
	var b strings.Builder
	if err := WritePlan(&b, paper, PlanOptions{Rates: []Rate{{"a slow one", 1e9, "stated"}, {"H100", 60e12, "stated"}}}); err != nil {
		t.Fatal(err)
	}
	e := paper.Estimate()
	// 14,147,650 parameters, and the means and variances of the normalisations.
	if per := e.ModelBytes / int64(len(paper.Runs)); per < 4*14_147_650 || per > 4*14_200_000 {
		t.Errorf("%d bytes a model", per)
	}
	for _, want := range []string{
		"at 60 TFLOP/s, stated for H100",
		"more than 292 years to train at 1 GFLOP/s, stated for a slow one",
		`pretrain_sharing = "seed" leaves ` + format.Count(int64(e.PretrainingsShared)) + " pretrainings of 7,200",
		"a week takes ",
		"the profile workstation",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	// The promise for a store of the study's own size.
	if total := e.StoreBytes() + 8*e.CheckpointBytes; total > 60e9 {
		t.Errorf("the store takes %d bytes, more than 60 GB", total)
	}
	if !strings.Contains(b.String(), `(keep = "best": of 11 of 14,400 runs, 54 MiB each; all would be 759 GiB)`) {
		t.Errorf("not what is kept of the weights in\n%s", &b)
	}
	for keep, models := range map[string]int{KeepWeights: 14_400, KeepBest: 11, KeepMetrics: 0} {
		paper.Study.Keep = keep
		if k := paper.Estimate(); k.KeptModels != models || k.KeptBytes != int64(models)*e.ModelBytes/14_400 || k.ModelBytes != e.ModelBytes {
			t.Errorf("keep = %q: %d models, %d bytes", keep, k.KeptModels, k.KeptBytes)
		}
	}
	if advice := expand(t, "defocus", "quick").afford(expand(t, "defocus", "quick").Estimate(), DefaultRates(8)); advice != nil {
		t.Errorf("advice for a quick run: %q", advice)
	}
}

// A workstation's profile is the study's own images, network and protocol, and a day of
// one GPU at the stated rate.
func TestWorkstationIsADay(t *testing.T) {
	for series, models := range map[string]int{"defocus": 576, "baseline": 108, "noise": 180, "structure": 396} {
		p, paper := expand(t, series, "workstation"), expand(t, series, "paper").Study
		if n := p.Models(); n != models {
			t.Errorf("%s: %d models, want %d", series, n, models)
		}
		if took := p.Estimate().TrainingTime(StatedGPURate); took > 24*time.Hour {
			t.Errorf("%s takes %v", series, took)
		}
		s := *p.Study
		// What may differ: which part of the design, and how much of it.
		s.Profile, s.Keep, s.Grid, s.Source = paper.Profile, paper.Keep, paper.Grid, paper.Source
		s.Transfer.Images, s.Training.Initialisations, s.Training.PretrainSharing = paper.Transfer.Images, paper.Training.Initialisations, paper.Training.PretrainSharing
		if !reflect.DeepEqual(s, *paper) {
			t.Errorf("%s differs from the study in more than its design:\n%+v\n%+v", series, s, *paper)
		}
		if g := p.Study.Grid; g.TrainImages != paper.Grid.TrainImages || g.ValidationImages != paper.Grid.ValidationImages {
			t.Errorf("%s has fewer images of a domain", series)
		}
	}
}
