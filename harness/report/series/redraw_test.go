package series

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// TestRedrawImages draws sets of images again: as many as there are, each as likely as
// every other, the same for one set of structures and other ones for another.
func TestRedrawImages(t *testing.T) {
	const n, redraws = 8, 200
	a := RedrawImages("a", n, redraws)
	if len(a) != redraws || !slices.EqualFunc(a, RedrawImages("a", n, redraws), slices.Equal[[]int]) || slices.Equal(a[0], RedrawImages("b", n, redraws)[0]) {
		t.Fatal("redraws are not those of their structures")
	}
	times := make([]int, n)
	for _, images := range a {
		if len(images) != n {
			t.Fatalf("%d images of %d", len(images), n)
		}
		for _, i := range images {
			times[i]++
		}
	}
	// As often as redraws on average, with a binomial's deviation.
	if d := math.Sqrt(redraws * (1 - 1.0/n)); float64(slices.Max(times)) > redraws+5*d || float64(slices.Min(times)) < redraws-5*d {
		t.Errorf("drawn %v times, %d on average", times, redraws)
	}
	for k, m := range a.Means([]float64{1, 2, 3, 4, 5, 6, 7, 8}, 0.5) {
		sum := 0
		for _, i := range a[k] {
			sum += i + 1
		}
		if want := float32(sum)/n - 0.5; m != want { // eighths are exact
			t.Fatalf("mean %g, want %g", m, want)
		}
	}
}

// TestBootstrapOfImages compares the interval of a mean over models with its closed
// form. Losses are a model's part and an image's part; the images are the same for all
// models, so that more models do not narrow their share.
func TestBootstrapOfImages(t *testing.T) {
	const models, images = 30, 20
	r := random.Stream(1, "images")
	var model, image []float64
	for range models {
		model = append(model, 0.1*r.NormFloat64())
	}
	for range images {
		image = append(image, 5+r.NormFloat64())
	}
	s := &Series{Axis: AxisDefocus, Domains: []string{"-50", "0", "50"}, Redraws: Redraws(models)}
	drawn := RedrawImages("x", images, s.Redraws)
	for i := range models {
		losses := slices.Clone(image)
		for k := range losses {
			losses[k] += model[i]
		}
		mean := 0.0
		for _, l := range losses {
			mean += l / images
		}
		m := drawn.Means(losses, 0)
		s.Transfers = append(s.Transfers, Transfer{
			Config: Config{Source: "-50", Target: "50"}, Before: []float64{1, math.NaN(), mean}, After: []float64{2, 3, mean},
			BeforeRedrawn: [][]float32{m, nil, m}, AfterRedrawn: [][]float32{m, m, m},
		})
	}
	share := func(s *Series) stats.Statistic {
		var v stats.Sorted
		for i := range s.Transfers {
			v.Add(i, s.Final(&s.Transfers[i]))
		}
		return func(w []int, values []float64) { values[0] = v.Share(w) }
	}
	width := func(s *Series) float64 {
		i := s.Bootstrap(1, share)[0].Interval()
		return i[1] - i[0]
	}
	alone := *s
	alone.Redraws = 0
	of := func(v []float64) float64 { return stats.Deviation(v) / math.Sqrt(float64(len(v))) }
	for name, c := range map[string]struct{ got, want float64 }{
		"models":               {width(&alone), of(model)},
		"models and images":    {width(s), math.Hypot(of(model), of(image))},
		"of a part of domains": {width(s.Only(func(d string) bool { return d != "0" })), math.Hypot(of(model), of(image))},
	} {
		// 3.92 deviations of a normal distribution. An end is a quantile of 200 redraws:
		// its standard error is 0.19 deviations, that of the width 0.07 of it.
		if want := 3.92 * c.want; math.Abs(c.got-want) > 0.25*want {
			t.Errorf("%s: the interval is %g wide, want %g", name, c.got, want)
		}
	}
	if x := s.redrawn(-1); x != s {
		t.Error("as it is, a series is not itself")
	}
	x := s.redrawn(7)
	if o := x.Transfers[3]; fmt.Sprint(o.Before) != fmt.Sprint([]float64{float64(o.BeforeRedrawn[0][7]), math.NaN(), float64(o.BeforeRedrawn[2][7])}) || s.Transfers[3].Before[0] != 1 {
		t.Errorf("redrawn: %v", o.Before)
	}
}
