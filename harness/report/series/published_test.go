package series

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// The medians that reference/README.md of the published tables demands of every
// faithful reading, columns −25 … +25 nm.
const publishedMedians = `
-10: .0235 .0200 .0155 .0146 .0195 .0845 .0213 .0207 .0205 .0255 .0302
 -5: .0392 .0339 .0254 .0184 .0173 .0664 .0186 .0213 .0221 .0320 .0398
  0: .0317 .0306 .0267 .0264 .0248 .0547 .0253 .0267 .0260 .0318 .0320
 +5: .0997 .0984 .0755 .0462 .0287 .0788 .0149 .0185 .0299 .0619 .0808
+10: .1892 .1503 .0829 .0314 .0246 .1050 .0193 .0148 .0185 .0416 .0870

-10: .0125 .0133 .0125 .0146 .0159 .0561 .0152 .0156 .0158 .0180 .0172
 -5: .0133 .0141 .0134 .0140 .0173 .0532 .0153 .0157 .0156 .0181 .0174
  0: .0156 .0170 .0164 .0179 .0184 .0547 .0169 .0182 .0181 .0203 .0195
 +5: .0138 .0154 .0147 .0158 .0174 .0541 .0149 .0138 .0155 .0179 .0170
+10: .0139 .0155 .0147 .0154 .0170 .0567 .0143 .0148 .0141 .0169 .0163
`

func TestPublishedMedians(t *testing.T) {
	s, err := PublishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	before, after := s.Medians()
	blocks := strings.Split(strings.TrimSpace(publishedMedians), "\n\n")
	for b, m := range []*stats.Matrix{before, after} {
		for i, line := range strings.Split(blocks[b], "\n") {
			for j, want := range strings.Fields(line)[1:] {
				if got := strings.TrimPrefix(fmt.Sprintf("%.4f", m.Values[i][j]), "0"); got != want {
					t.Errorf("block %d, %s → %s: median %s, want %s", b, m.Rows[i], m.Columns[j], got, want)
				}
			}
		}
	}
}

// TestPublishedGroups checks the other medians of the published tables' README.
func TestPublishedGroups(t *testing.T) {
	s, err := PublishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		by   Factor
		want string
	}{
		{ByFrozen, "none .01538, decoder .01574, encoder .01698"},
		{ByImages, "64 .01765, 128 .01646, 256 .01552, 512 .01467"},
		{ByRates, "1e-4 → 1e-5 .01758, 1e-4 → 1e-4 .01625, 1e-3 → 1e-5 .01587, 1e-3 → 1e-4 .01387"},
	} {
		var got []string
		for _, g := range s.Groups(c.by, s.Final) {
			got = append(got, g.Level+" "+strings.Replace(fmt.Sprintf("%.5f", stats.Median(g.Values)), "0.", ".", 1))
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("by %s: %s, want %s", c.by.Name, strings.Join(got, ", "), c.want)
		}
	}
}

// TestPublishedSpread checks the shares of models whose spread transfer made
// worse, as the study's findings state them.
func TestPublishedSpread(t *testing.T) {
	s, err := PublishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	all, of, n := 0, 0, 0
	for i := range s.Transfers {
		o := &s.Transfers[i]
		worse := s.Spread(o.After) > s.Spread(o.Before)
		if worse {
			all++
		}
		if o.Source == "-100" {
			n++
			if worse {
				of++
			}
		}
	}
	if got := fmt.Sprintf("%.0f %.0f", 100*float64(all)/float64(len(s.Transfers)), 100*float64(of)/float64(n)); got != "23 43" {
		t.Errorf("spread is worse for %s %% of all and of those from −10 nm, want 23 and 43", got)
	}
}

// TestPublishedPretrainColumn pins what the README of the tables says about a
// column that does not mean the same in all rows.
func TestPublishedPretrainColumn(t *testing.T) {
	d, err := ReadTable("defocus")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range d.Rows {
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

// TestPublishedStructure pins medians of the structure table, as pandas gives them
// for it, less the offset: before transfer, and after it on the target.
func TestPublishedStructure(t *testing.T) {
	s, err := PublishedStructure()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Transfers) != 2457 || len(s.Domains) != 18 || len(s.Sources()) != 17 {
		t.Errorf("%d models from %d of %d structures", len(s.Transfers), len(s.Sources()), len(s.Domains))
	}
	before, after := s.Medians()
	for _, c := range []struct{ from, to, before, after string }{
		{"fcc_Cu_small", "w_CdSe_large", "0.0270", "0.0065"},
		{"w_ZnS_small", "dc_C_small", "0.1348", "0.0914"},
		{"spinel_Co3O4_large", "spinel_Fe3O4_large", "0.0131", "0.0102"},
		{"dc_Si_large", "bcc_Fe_small", "0.0249", "0.0173"},
	} {
		if b, a := fmt.Sprintf("%.4f", before.Get(c.from, c.to)), fmt.Sprintf("%.4f", after.Get(c.from, c.to)); b != c.before || a != c.after {
			t.Errorf("%s to %s: %s before and %s after transfer, want %s and %s", c.from, c.to, b, a, c.before, c.after)
		}
	}
}

// TestPublishedNoiseMetrics compares the two metrics of the noise table: they agree
// on the domains that epochs are chosen on, and on others the least loss is no
// higher than that of the kept weights, and often lower.
func TestPublishedNoiseMetrics(t *testing.T) {
	least, err := PublishedNoise(AsPublished)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := PublishedNoise(Kept)
	if err != nil {
		t.Fatal(err)
	}
	lower := 0
	for i := range least.Series.Transfers {
		a, b := &least.Series.Transfers[i], &kept.Series.Transfers[i]
		own := least.Series.Index(a.Source)
		if a.Before[own] != b.Before[own] || least.Series.Final(a) != kept.Series.Final(b) {
			t.Fatalf("model %d: the metrics differ on the domains chosen on", i)
		}
		for k := range a.Before {
			if a.Before[k] > b.Before[k] || a.After[k] > b.After[k] {
				t.Fatalf("model %d: the least loss is above another", i)
			}
			if a.Before[k] < b.Before[k] {
				lower++
			}
		}
	}
	if lower < 180 {
		t.Errorf("the metrics differ in %d losses only", lower)
	}
}

// TestInOrder keeps every value with its domain.
func TestInOrder(t *testing.T) {
	s, err := PublishedStructure()
	if err != nil {
		t.Fatal(err)
	}
	o := s.InOrder([]string{"w_ZnS_small", "nowhere", "bcc_Fe_small"})
	if got := strings.Join(o.Domains[:3], " "); got != "w_ZnS_small bcc_Fe_small bcc_Fe_large" || len(o.Domains) != len(s.Domains) {
		t.Errorf("%d domains begin with %s", len(o.Domains), got)
	}
	before, after := s.Medians()
	b, a := o.Medians()
	for _, m := range []struct{ got, want *stats.Matrix }{{b, before}, {a, after}} {
		for i, r := range m.got.Rows {
			for j, c := range m.got.Columns {
				if v, w := m.got.Values[i][j], m.want.Get(r, c); v != w && !(math.IsNaN(v) && math.IsNaN(w)) {
					t.Errorf("%s to %s: %g, want %g", r, c, v, w)
				}
			}
		}
	}
	small := s.Only(func(d string) bool { return SizeOf(d) == "small" })
	if len(small.Domains) != 9 || len(small.Transfers) != 648 { // 9 × 8 pairs × 9 models
		t.Errorf("%d small structures with %d transfers", len(small.Domains), len(small.Transfers))
	}
}
