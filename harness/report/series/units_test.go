package series

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// shared is a series of three sources and two targets whose transfers share
// pretrained models. The loss after transfer is the initialisation's, which counts
// for much, times 1.1 with the encoder frozen.
func shared(inits int) *Series {
	s := &Series{Axis: AxisDefocus, Metric: Kept, Domains: []string{"-50", "0", "50"}, Shared: inits > 0}
	for i, from := range s.Domains {
		for k, to := range s.Domains {
			for init := range max(inits, 1) {
				for _, frozen := range []string{study.FreezeNone, nn.Encoder} {
					if from == to {
						continue
					}
					v := math.Pow(3, float64(init+i)) * (1 + float64(k))
					if frozen == nn.Encoder {
						v *= 1.1
					}
					s.Transfers = append(s.Transfers, Transfer{
						Config: Config{Source: from, Target: to, PretrainRate: 1e-3, Frozen: frozen}, Init: init,
						Before: []float64{2 * v, 2 * v, 2 * v}, After: []float64{v, v, v},
					})
				}
			}
		}
	}
	return s
}

// TestUnits tells what is independent: pretrained models of a source where there
// are several, sources where there is one of each, and every transfer where each
// has its own.
func TestUnits(t *testing.T) {
	for _, c := range []struct {
		inits, clusters, strata, pretrained int
	}{{4, 12, 3, 12}, {1, 3, 1, 3}, {0, 12, 6, 12}} {
		s := shared(c.inits)
		u := s.Units()
		strata, clusters := map[string]bool{}, map[string]bool{}
		for _, x := range u {
			strata[x.Stratum] = true
			clusters[x.Stratum+"|"+x.Cluster] = true
		}
		if len(strata) != c.strata || len(clusters) != c.clusters || stats.NewResampler(u).Clusters() != c.clusters || s.Pretrained() != c.pretrained {
			t.Errorf("%d initialisations: %d strata, %d clusters, %d pretrained models, want %+v", c.inits, len(strata), len(clusters), s.Pretrained(), c)
		}
	}
}

// TestPairedShared compares two transfers of one pretrained model, so that what
// models differ in by their initialisation does not count.
func TestPairedShared(t *testing.T) {
	p := shared(4).Paired(ByFrozen, nn.Encoder, study.FreezeNone, func(o *Transfer) float64 { return o.After[0] })
	if len(p.Ratios) != 24 || len(p.Units) != 24 { // 6 pairs of domains, 4 initialisations
		t.Fatalf("%d comparisons with %d units", len(p.Ratios), len(p.Units))
	}
	for i, r := range p.Ratios {
		if math.Abs(r-1.1) > 1e-12 {
			t.Errorf("comparison %d has %g", i, r)
		}
	}
	if n := stats.NewResampler(p.Units).Clusters(); n != 12 {
		t.Errorf("the comparisons are of %d pretrained models, want 12", n)
	}
	own := shared(0).Against(func(Config) float64 { return 2 })
	if len(own.Ratios) != 12 {
		t.Errorf("%d comparisons with a reference", len(own.Ratios))
	}
}

// TestBalanced leaves of a design that varies one thing at a time the arm of every
// factor, of a full product all, and of arms that never meet nothing.
func TestBalanced(t *testing.T) {
	type arm struct {
		rate   float64
		images int
		frozen string
	}
	none, decoder, encoder := study.FreezeNone, nn.Decoder, nn.Encoder
	star := []arm{{1e-3, 24, none}, {1e-3, 24, decoder}, {1e-3, 24, encoder}, {1e-3, 8, none}, {1e-4, 24, none}}
	full := []arm{{1e-3, 24, none}, {1e-3, 24, encoder}, {1e-3, 8, none}, {1e-3, 8, encoder}}
	for _, c := range []struct {
		name   string
		arms   []arm
		factor Factor
		want   string
	}{
		{"star", star, ByFrozen, "none 1e-3 24, decoder 1e-3 24, encoder 1e-3 24"},
		{"star", star, ByImages, "none 1e-3 8, none 1e-3 24"},
		{"star", star, ByRates, "none 1e-4 24, none 1e-3 24"},
		{"full", full, ByFrozen, "none 1e-3 24, none 1e-3 8, encoder 1e-3 24, encoder 1e-3 8"},
		{"full", full, ByRates, "none 1e-3 24, encoder 1e-3 24, none 1e-3 8, encoder 1e-3 8"},
		{"apart", []arm{{1e-3, 24, none}, {1e-3, 8, encoder}}, ByFrozen, ""},
		{"apart", []arm{{1e-3, 24, none}, {1e-3, 8, encoder}}, ByImages, ""},
		{"no model", nil, ByImages, ""},
	} {
		for _, inits := range []int{1, 2} {
			s := &Series{Axis: AxisDefocus, Domains: []string{"0", "50"}, Shared: true}
			for init := range inits {
				for _, a := range c.arms {
					s.Transfers = append(s.Transfers, Transfer{Init: init, Config: Config{
						Source: "0", Target: "50", PretrainRate: a.rate, Rate: a.rate / 10, Images: a.images, Frozen: a.frozen}})
				}
			}
			part := s.Balanced(c.factor)
			var got []string
			for _, g := range part.Groups(c.factor, func(*Transfer) float64 { return 0 }) {
				for _, i := range g.At {
					if o := part.Transfers[i]; o.Init == 0 {
						got = append(got, fmt.Sprintf("%s %s %d", o.Frozen, format.Plain(o.PretrainRate), o.Images))
					}
				}
			}
			if g := strings.Join(got, ", "); g != c.want || len(part.Transfers) != inits*len(got) {
				t.Errorf("%s, %s: %s (%d models), want %s", c.name, c.factor.Name, g, len(part.Transfers), c.want)
			}
			if (len(part.Transfers) == len(s.Transfers)) != (part == s) {
				t.Errorf("%s, %s: a part that is all is not the series itself", c.name, c.factor.Name)
			}
			if p := part.Paired(c.factor, "none", "encoder", func(*Transfer) float64 { return 1 }); c.factor.Name == ByFrozen.Name && c.want != "" && len(p.Ratios) != inits*strings.Count(c.want, "encoder") {
				t.Errorf("%s: %d comparisons", c.name, len(p.Ratios))
			}
		}
	}
}

// TestRowWeights counts how often sources are drawn where they are what is drawn,
// and does not where they are fixed.
func TestRowWeights(t *testing.T) {
	for _, inits := range []int{1, 4} {
		s := shared(inits)
		varied := false
		stats.NewResampler(s.Units()).Bootstrap(1, func(w []int, v []float64) {
			rows := s.RowWeights(s.Domains, w)
			if total := rows[0] + rows[1] + rows[2]; total != 3 {
				t.Fatalf("sources are drawn %v times", rows)
			}
			varied = varied || !slices.Equal(rows, []float64{1, 1, 1})
		})
		if varied != (inits == 1) {
			t.Errorf("%d initialisations: sources are drawn: %v", inits, varied)
		}
	}
}

// TestRules checks that the rules order cells as their names say.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		axis, rule             string
		source, easier, harder string
	}{
		{AxisDefocus, "distance in defocus, in focus hardest", "-100", "-150", "50"},
		{AxisDefocus, "distance in defocus, in focus hardest", "-50", "250", "0"},
		{AxisDefocus, "in focus hardest", "-50", "250", "0"},
		{AxisDose, "dose ratio", "150", "300", "600"},
		{AxisDose, "lower dose is harder", "150", "300", "30"},
		{AxisStructure, "same symmetry", "fcc_Cu_small", "fcc_Ag_large", "w_ZnS_small"},
		{AxisStructure, "same symmetry, then the same size", "fcc_Cu_small", "fcc_Ag_small", "fcc_Ag_large"},
	} {
		rules := Rules(c.axis)
		i := slices.IndexFunc(rules, func(r Rule) bool { return r.Name == c.rule })
		if i < 0 {
			t.Errorf("no rule %q for %s", c.rule, c.axis)
		} else if a, b := rules[i].Loss(c.source, c.easier), rules[i].Loss(c.source, c.harder); !(a < b) {
			t.Errorf("%s, from %s: %s has %g and %s has %g", c.rule, c.source, c.easier, a, c.harder, b)
		}
	}
	if len(Rules(axisOther)) != 0 {
		t.Error("there are rules for other axes")
	}
}

// TestChanges checks the maps of what transfer changes.
func TestChanges(t *testing.T) {
	s := shared(4)
	m := s.Changes()
	for i, r := range m.Rows {
		for j, c := range m.Columns {
			if v := m.Values[i][j]; r == c != math.IsNaN(v) || r != c && math.Abs(v-0.5) > 1e-12 {
				t.Errorf("%s to %s: %g, want half", r, c, v)
			}
		}
	}
	for i := range s.Transfers { // a third more on the last domain than on the first
		o := &s.Transfers[i]
		o.Before, o.After = []float64{3, 99, 4}, []float64{6, 99, 7}
	}
	spread, change := s.Generalisation()
	if got := fmt.Sprint(spread.Get("-50", "50"), spread.Get("-50", "-50"), change.Get("-50", "50")); got != "0.5 0.5 1" {
		t.Errorf("spreads after and before, and their ratio, are %s: the domain in focus does not count", got)
	}
	if !math.IsNaN(change.Get("0", "0")) {
		t.Error("the diagonal of changes has a value")
	}
}

// TestMemo asks a published series twice, and a copy of it with other models, which
// must not be answered from memory.
func TestMemo(t *testing.T) {
	s, err := PublishedStructure()
	if err != nil {
		t.Fatal(err)
	}
	before, _ := s.MediansWithIntervals()
	again, _ := s.MediansWithIntervals()
	if before != again {
		t.Error("a published series computes its intervals twice")
	}
	part := *s
	part.Transfers = slices.Clone(s.Transfers)
	for i := range part.Transfers {
		o := &part.Transfers[i]
		o.Before = slices.Clone(o.Before)
		for k := range o.Before {
			o.Before[k] *= 2
		}
	}
	twice, _ := part.MediansWithIntervals()
	for i := range before.Rows {
		for j := range before.Columns {
			a, b := before.Intervals[i][j], twice.Intervals[i][j]
			if twice.Values[i][j] != 2*before.Values[i][j] || b[0] != 2*a[0] || b[1] != 2*a[1] { // doubling is exact
				t.Fatalf("%s to %s: %g %v, twice %g %v", before.Rows[i], before.Columns[j], before.Values[i][j], a, twice.Values[i][j], b)
			}
		}
	}
	g := s.WithIntervals((*Series).ByTarget)
	own := part.WithIntervals((*Series).ByTarget) // the losses after transfer are the same
	for k := range g {
		if *g[k].Interval != *own[k].Interval {
			t.Errorf("on %s: remembered %v, computed %v", g[k].Level, *g[k].Interval, *own[k].Interval)
		}
	}
	if o := s.InOrder([]string{"w_ZnS_small"}); o != s.InOrder([]string{"w_ZnS_small"}) || o == s.InOrder(nil) {
		t.Error("orders of the domains are mixed up")
	}
}
