package report

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/study"
)

// TestPublishedGroups checks the other medians of the published tables' README.
func TestPublishedGroups(t *testing.T) {
	s, err := publishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		by   factor
		want string
	}{
		{byFrozen, "none .01538, decoder .01574, encoder .01698"},
		{byImages, "64 .01765, 128 .01646, 256 .01552, 512 .01467"},
		{byRates, "1e-4 → 1e-5 .01758, 1e-4 → 1e-4 .01625, 1e-3 → 1e-5 .01587, 1e-3 → 1e-4 .01387"},
	} {
		var got []string
		for _, g := range s.groups(c.by, s.final) {
			got = append(got, g.level+" "+strings.Replace(fmt.Sprintf("%.5f", median(g.values)), "0.", ".", 1))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("by %s: %s, want %s", c.by.name, strings.Join(got, ", "), c.want)
		}
	}
}

// TestPublishedSpread checks the shares of models whose spread transfer made
// worse, as the study's findings state them.
func TestPublishedSpread(t *testing.T) {
	s, err := publishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	all, of, n := 0, 0, 0
	for i := range s.models {
		o := &s.models[i]
		worse := s.spread(o.after) > s.spread(o.before)
		if worse {
			all++
		}
		if o.source == "-100" {
			n++
			if worse {
				of++
			}
		}
	}
	if got := fmt.Sprintf("%.0f %.0f", 100*float64(all)/float64(len(s.models)), 100*float64(of)/float64(n)); got != "23 43" {
		t.Errorf("spread is worse for %s %% of all and of those from −10 nm, want 23 and 43", got)
	}
}

// TestPublishedPretrainColumn pins what the README of the tables says about a
// column that does not mean the same in all rows.
func TestPublishedPretrainColumn(t *testing.T) {
	d, err := readTable("defocus")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range d.rows {
		of := d.text(r, "pretrain_defocus")
		if d.text(r, "N_tl_training_points") == "64" {
			of = d.text(r, "transfer_defocus")
		}
		if d.text(r, "best_target_pretrain_performance") != d.text(r, "best_pretrain_val_"+of) {
			t.Fatalf("row %v", r)
		}
		if d.text(r, "best_target_transfer_performance") != d.text(r, "best_transfer_performance_"+d.text(r, "transfer_defocus")) {
			t.Fatalf("row %v", r)
		}
	}
	if d.err != nil {
		t.Fatal(d.err)
	}
}

// TestFindingsOnPublished pins what the rules make of the published tables.
func TestFindingsOnPublished(t *testing.T) {
	want := map[string]string{
		axisDefocus: "HHHHHHHHHHUU",
		// The noise series has one number of images and one pair of rates: for
		// findings 1 and 3 the defocus series stands in.
		axisDose: "HHHHHHHHHHUU",
	}
	letter := map[string]string{Holds: "H", Fails: "F", Unjudged: "U"}
	for axis, want := range want {
		got := ""
		for _, f := range findings {
			j, err := f.published(axis)
			if err != nil {
				t.Fatal(err)
			}
			got += letter[j.Outcome]
			for _, p := range j.Parts {
				if p.Outcome != Holds {
					t.Logf("%s %d: %s %s %v", axis, f.number, p.Statement, p.Reason, p.Numbers)
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
	published, err := publishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	singles, err := publishedBaseline()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		number int
		spoil  func(o *outcome)
	}{
		{1, func(o *outcome) { o.images = 640 - o.images }}, // 64 and 512 change places, and so on
		{2, func(o *outcome) {
			switch o.frozen {
			case nn.Encoder:
				o.frozen = study.FreezeNone
			case study.FreezeNone:
				o.frozen = nn.Encoder
			}
		}},
		{3, func(o *outcome) { o.rate = 1.1e-4 - o.rate }},
		{4, func(o *outcome) { // −25 nm becomes as hard
			o.after[0] *= 10
		}},
		{5, func(o *outcome) { // the source goes on to matter
			if o.source == "100" {
				scale(o.after, 3)
			}
		}},
		{6, func(o *outcome) {
			if o.source == "0" {
				scale(o.before, 30)
			}
		}},
		{7, func(o *outcome) { copy(o.after, o.before) }},
		{8, func(o *outcome) {
			if o.source == "0" {
				scale(o.after, 10)
			}
		}},
		{9, func(o *outcome) { scale(o.after, 2) }},
	} {
		s := *published
		s.models = nil
		for _, o := range published.models {
			o.before, o.after = append([]float64(nil), o.before...), append([]float64(nil), o.after...)
			c.spoil(&o)
			s.models = append(s.models, o)
		}
		f := findings[c.number-1]
		if got := f.on(evidence{&s, singles}, axisDefocus, "spoilt").Outcome; got != Fails {
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
	make := func(loss func(from, to int) float64) *series {
		s := &series{axis: axisDose, domains: []string{"30", "75", "150"}}
		for i, from := range s.domains {
			for j, to := range s.domains {
				if i == j {
					continue
				}
				o := outcome{config: config{source: from, target: to}}
				for k := range s.domains {
					o.before, o.after = append(o.before, 1+float64(i*k)), append(o.after, loss(i, k))
				}
				s.models = append(s.models, o)
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
		if j := findings[9].on(evidence{make(c.loss), nil}, axisDose, ""); j.Outcome != c.want {
			t.Errorf("%s: %s, want %s: %+v", name, j.Outcome, c.want, j.Parts)
		}
	}
}

// TestStructureFinding judges finding 11 likewise.
func TestStructureFinding(t *testing.T) {
	make := func(same, other float64) *series {
		s := &series{axis: axisStructure, domains: []string{
			"fcc_Cu_small", "fcc_Cu_large", "fcc_Ag_small", "fcc_Ag_large", "w_ZnS_small", "w_ZnS_large", "w_CdSe_small", "w_CdSe_large",
		}}
		for i, from := range s.domains {
			for j, to := range s.domains {
				if i == j {
					continue
				}
				o := outcome{config: config{source: from, target: to}}
				for k, d := range s.domains {
					v := other
					if kind(d) == kind(from) {
						v = same
					}
					o.before, o.after = append(o.before, v), append(o.after, 1+float64(k))
				}
				s.models = append(s.models, o)
			}
		}
		return s
	}
	if j := findings[10].on(evidence{make(1, 2), nil}, axisStructure, ""); j.Outcome != Holds {
		t.Errorf("%+v", j)
	}
	if j := findings[10].on(evidence{make(2, 1), nil}, axisStructure, ""); j.Outcome != Fails {
		t.Errorf("the other type is better, and it %s", j.Outcome)
	}
}

// TestTimesFinding judges finding 12 by measured times.
func TestTimesFinding(t *testing.T) {
	for _, c := range []struct {
		none, encoder float64
		want          string
	}{{10, 8, Holds}, {10, 9.5, Fails}, {10, 5, Fails}, {0, 0, Unjudged}} {
		s := &series{axis: axisDefocus, domains: []string{"0"}}
		for images := range leastPairs {
			s.models = append(s.models,
				outcome{config: config{images: images, frozen: study.FreezeNone}, seconds: c.none},
				outcome{config: config{images: images, frozen: nn.Encoder}, seconds: c.encoder})
		}
		if j := findings[11].on(evidence{s, nil}, axisDefocus, ""); j.Outcome != c.want {
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

func TestSignTest(t *testing.T) {
	for _, c := range []struct {
		k, n int
		want float64
	}{{0, 5, 0.0625}, {5, 5, 0.0625}, {1, 5, 0.375}, {2, 4, 1}, {9, 10, 0.021484375}} {
		if got := signTest(c.k, c.n); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("signTest(%d, %d) = %v, want %v", c.k, c.n, got, c.want)
		}
	}
}

// TestInterval has the ranks of tables of the sign test: the interval leaves out
// k − 1 values on either side.
func TestInterval(t *testing.T) {
	for n, k := range map[int]int{6: 1, 8: 1, 9: 2, 20: 6, 50: 18, 100: 40} {
		var v []float64
		for i := range n {
			v = append(v, float64((i*7)%n+1)) // 1 … n where 7 and n have no common factor
		}
		if n%7 == 0 {
			t.Fatal("choose another n")
		}
		if low, high := interval(v); low != float64(k) || high != float64(n+1-k) {
			t.Errorf("of %d: values %g to %g, want %d to %d", n, low, high, k, n+1-k)
		}
	}
	if low, _ := interval(make([]float64, 5)); !math.IsNaN(low) {
		t.Error("five values gave an interval")
	}
}

func TestByColumn(t *testing.T) {
	m := &Matrix{Rows: []string{"a", "b"}, Columns: []string{"x", "y"}, Values: [][]float64{{1, 2}, {1, 2}}}
	never := func(string, string) bool { return false }
	if got := byColumn(m, never); math.Abs(got-1) > 1e-12 {
		t.Errorf("columns alone decide, and explain %g", got)
	}
	m.Values = [][]float64{{1, 1}, {2, 2}}
	if got := byColumn(m, never); math.Abs(got) > 1e-12 {
		t.Errorf("rows alone decide, and columns explain %g", got)
	}
}
