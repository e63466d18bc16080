package claims

import (
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// TestFindingsOnPublished pins what the rules make of the published tables.
func TestFindingsOnPublished(t *testing.T) {
	want := map[string]string{
		series.AxisDefocus: "HHHHHHHHHHUU",
		// The noise series has one number of images and one pair of rates: for
		// findings 1 and 3 the defocus series stands in.
		series.AxisDose: "HHHHHHHHHHUU",
	}
	letter := map[string]string{Holds: "H", Fails: "F", Unjudged: "U"}
	for axis, want := range want {
		got := ""
		for _, f := range findings {
			j, err := f.onPublished(axis)
			if err != nil {
				t.Fatal(err)
			}
			got += letter[j.Outcome]
			for _, p := range j.Parts {
				if p.Outcome != Holds {
					t.Logf("%s %d: %s %s %v", axis, f.number, p.Text, p.Reason, p.Numbers)
				}
			}
		}
		if got != want {
			t.Errorf("%s: %s, want %s", axis, got, want)
		}
	}
}

// TestFindingsCanFail turns the published defocus table around, one finding
// after the other: a rule that cannot fail checks nothing.
func TestFindingsCanFail(t *testing.T) {
	published, err := series.PublishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	singles, err := series.PublishedBaseline()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		number int
		spoil  func(o *series.Transfer)
	}{
		{1, func(o *series.Transfer) { o.Images = 640 - o.Images }}, // 64 and 512 change places, and so on
		{2, func(o *series.Transfer) {
			switch o.Frozen {
			case nn.Encoder:
				o.Frozen = study.FreezeNone
			case study.FreezeNone:
				o.Frozen = nn.Encoder
			}
		}},
		{3, func(o *series.Transfer) { o.Rate = 1.1e-4 - o.Rate }},
		{4, func(o *series.Transfer) { // −25 nm becomes as hard
			o.After[0] *= 10
		}},
		{5, func(o *series.Transfer) { // the source goes on to matter
			if o.Source == "100" {
				scale(o.After, 3)
			}
		}},
		{6, func(o *series.Transfer) {
			if o.Source == "0" {
				scale(o.Before, 30)
			}
		}},
		{7, func(o *series.Transfer) { copy(o.After, o.Before) }},
		{8, func(o *series.Transfer) {
			if o.Source == "0" {
				scale(o.After, 10)
			}
		}},
		{9, func(o *series.Transfer) { scale(o.After, 2) }},
	} {
		s := *published
		s.Transfers = nil
		for _, o := range published.Transfers {
			o.Before, o.After = append([]float64(nil), o.Before...), append([]float64(nil), o.After...)
			c.spoil(&o)
			s.Transfers = append(s.Transfers, o)
		}
		f := findings[c.number-1]
		if got := f.on(Evidence{&s, singles}, series.AxisDefocus, "spoilt").Outcome; got != Fails {
			t.Errorf("finding %d on a spoilt table %s", c.number, got)
		}
	}
}

func scale(v []float64, by float64) {
	for i := range v {
		v[i] *= by
	}
}

// TestDoseFinding judges finding 10 on small made-up series.
func TestDoseFinding(t *testing.T) {
	make := func(loss func(from, to int) float64) *series.Series {
		s := &series.Series{Axis: series.AxisDose, Domains: []string{"30", "75", "150"}}
		for i, from := range s.Domains {
			for j, to := range s.Domains {
				if i == j {
					continue
				}
				o := series.Transfer{Config: series.Config{Source: from, Target: to}}
				for k := range s.Domains {
					o.Before, o.After = append(o.Before, 1+float64(i*k)), append(o.After, loss(i, k))
				}
				s.Transfers = append(s.Transfers, o)
			}
		}
		return s
	}
	for name, c := range map[string]struct {
		loss func(from, to int) float64
		want string
	}{
		"as published": {func(from, to int) float64 {
			if to == 0 && from == 1 {
				return 2
			}
			return 3 / math.Pow(4, float64(to))
		}, Holds},
		"the source decides": {func(from, to int) float64 { return 1/(1+float64(from)) + 0.001/(1+float64(to)) }, Fails},
		"low dose is better": {func(_, to int) float64 { return 1 + float64(to) }, Fails},
	} {
		if j := findings[9].on(Evidence{make(c.loss), nil}, series.AxisDose, ""); j.Outcome != c.want {
			t.Errorf("%s: %s, want %s: %+v", name, j.Outcome, c.want, j.Parts)
		}
	}
}

// TestStructureFinding judges finding 11 likewise.
func TestStructureFinding(t *testing.T) {
	make := func(same, other float64) *series.Series {
		s := &series.Series{Axis: series.AxisStructure, Domains: []string{
			"fcc_Cu_small", "fcc_Cu_large", "fcc_Ag_small", "fcc_Ag_large", "w_ZnS_small", "w_ZnS_large", "w_CdSe_small", "w_CdSe_large",
		}}
		for i, from := range s.Domains {
			for j, to := range s.Domains {
				if i == j {
					continue
				}
				o := series.Transfer{Config: series.Config{Source: from, Target: to}}
				for k, d := range s.Domains {
					v := other
					if kind(d) == kind(from) {
						v = same
					}
					o.Before, o.After = append(o.Before, v), append(o.After, 1+float64(k))
				}
				s.Transfers = append(s.Transfers, o)
			}
		}
		return s
	}
	if j := findings[10].on(Evidence{make(1, 2), nil}, series.AxisStructure, ""); j.Outcome != Holds {
		t.Errorf("%+v", j)
	}
	if j := findings[10].on(Evidence{make(2, 1), nil}, series.AxisStructure, ""); j.Outcome != Fails {
		t.Errorf("the other type is better, and it %s", j.Outcome)
	}
}

// TestTimesFinding judges finding 12 by measured times.
func TestTimesFinding(t *testing.T) {
	for _, c := range []struct {
		none, encoder float64
		want          string
	}{{10, 8, Holds}, {10, 9.5, Fails}, {10, 5, Fails}, {0, 0, Unjudged}} {
		s := &series.Series{Axis: series.AxisDefocus, Domains: []string{"0"}}
		for images := range stats.LeastPairs {
			s.Transfers = append(s.Transfers,
				series.Transfer{Config: series.Config{Images: images, Frozen: study.FreezeNone}, Seconds: c.none},
				series.Transfer{Config: series.Config{Images: images, Frozen: nn.Encoder}, Seconds: c.encoder})
		}
		if j := findings[11].on(Evidence{s, nil}, series.AxisDefocus, ""); j.Outcome != c.want {
			t.Errorf("%g s against %g s: %s, want %s", c.encoder, c.none, j.Outcome, c.want)
		}
	}
}

// TestDecided checks when paired comparisons are enough for a judgement.
func TestDecided(t *testing.T) {
	many := func(v ...float64) []float64 { return append(append(v, v...), v...) }
	for name, c := range map[string]struct {
		tests []test
		want  string
	}{
		"all below":       {[]test{below(1, "a", many(0.7, 0.8, 0.9))}, Holds},
		"all above":       {[]test{below(1, "a", many(1.1, 1.2, 1.3))}, Fails},
		"undecided":       {[]test{below(1, "a", many(0.8, 1.01, 1.3))}, Unjudged},
		"too few":         {[]test{below(1, "a", []float64{0.5, 0.5})}, Unjudged},
		"none":            {[]test{below(1, "a", nil)}, Unjudged},
		"one of two":      {[]test{below(1, "a", many(0.7, 0.8, 0.9)), above(1, "b", many(0.8, 0.7, 0.9))}, Fails},
		"fails after all": {[]test{below(1, "a", many(0.8, 1.01, 1.3)), below(1, "b", many(1.1, 1.2, 1.3))}, Fails},
	} {
		if p := decided("", nil, c.tests...); p.Outcome != c.want || (p.Reason == "") != (c.want != Unjudged) {
			t.Errorf("%s: %s (%s), want %s", name, p.Outcome, p.Reason, c.want)
		}
	}
}
