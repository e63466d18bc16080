package report

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// plan expands a shipped spec.
func plan(t *testing.T, name, profile string) *study.Plan {
	t.Helper()
	f, err := study.Find(name)
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

// history of one epoch with the given losses above the offset.
func history(stage, target string, domains []string, losses []float64) *store.History {
	e := store.Epoch{LearningRate: 1e-3, TrainLoss: 0.4, Validation: map[string]store.Score{}}
	for i, d := range domains {
		e.Validation[d] = store.Score{Loss: losses[i] + backend.LeastOnProbabilities, Dice: 0.9}
	}
	return &store.History{Stage: stage, Target: target, Epochs: []store.Epoch{e}, Best: 1}
}

// publishedInput makes our models of the published ones: every run of the paper's
// plan takes the numbers of a published model of the same configuration.
func publishedInput(t *testing.T, name string) Input {
	t.Helper()
	in := Input{Plan: plan(t, name, "paper")}
	s, err := series.PublishedOf(series.AxisOf(in.Plan.Study), series.AsPublished)
	if err != nil {
		t.Fatal(err)
	}
	left := map[series.Config][]*series.Transfer{}
	for i := range s.Transfers {
		o := &s.Transfers[i]
		left[o.Config] = append(left[o.Config], o)
	}
	for _, r := range in.Plan.Runs {
		if r.Kind != study.TransferRun {
			continue
		}
		c := ConfigOf(r)
		if len(left[c]) == 0 {
			if name == "structure" { // its table has 2457 of the plan's 2754 models
				continue
			}
			t.Fatalf("no published model is left for run %s", r.ID)
		}
		o := left[c][0]
		left[c] = left[c][1:]
		in.Models = append(in.Models, trained.Result{
			Run: r, Digest: fmt.Sprintf("%064x", len(in.Models)),
			Pretrain: history("pretrain", c.Source, s.Domains, o.Before),
			Final:    history("transfer", c.Target, s.Domains, o.After),
		})
	}
	for c, o := range left {
		if len(o) > 0 {
			t.Fatalf("%d published models of %+v are not in the plan", len(o), c)
		}
	}
	return in
}

// TestPublishedAsOurs feeds the published results in as ours: everything must
// come out as published.
func TestPublishedAsOurs(t *testing.T) {
	for name, correlations := range map[string]int{"defocus": 3, "noise": 3, "structure": 7} { // the last for small and large alone, too
		in := publishedInput(t, name)
		c, err := Compare(in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.Correlations {
			if r.Rho.Value == nil || math.Abs(*r.Rho.Value-1) > 1e-9 || r.Missing != 0 {
				t.Errorf("%s: %s", name, r)
			}
		}
		if len(c.Correlations) != correlations {
			t.Errorf("%s: %d correlations", name, len(c.Correlations))
		}
		for _, r := range c.Rows {
			if r.Ours.Value == nil || r.Published.Value == nil || r.Models != r.PublishedModels || math.Abs(*r.Ours.Value-*r.Published.Value) > 1e-9 {
				t.Errorf("%s: %s %s: ours %s, published %s", name, r.Group, r.Name, r.OursText(), r.PublishedText())
			}
		}
		for _, f := range c.Findings {
			if f.Ours.Outcome == claims.Unjudged {
				continue
			}
			if f.Ours.Outcome != f.Published.Outcome {
				t.Errorf("%s: finding %d %s on the published results as ours, %s on the table", name, f.Number, f.Ours.Outcome, f.Published.Outcome)
			}
		}
		if text := c.Text(); !strings.Contains(text, "+1.00") || strings.Contains(text, "NaN") {
			t.Errorf("%s: the text is %s", name, text)
		}
	}
}

// TestResultsLikePublished writes the published results as ours and reads them
// back in the published form.
func TestResultsLikePublished(t *testing.T) {
	for _, c := range []struct {
		name string
		// columns that must be there, in this order, and what is ours alone
		head string
	}{
		{"defocus", "pretrain_lr,transfer_lr,pretrain_defocus,transfer_defocus,N_tl_training_points,freeze_option,best_target_pretrain_performance,best_target_transfer_performance"},
		{"noise", "model,freezing_mode,pretrain_dose,transfer_dose,stage,epoch,train,validation_150,validation_30,validation_300,validation_600,validation_75"},
		{"structure", "freezing_mode,pretrain_structure,transfer_structure,best_pretrain_performance_validation_bcc_Fe_large"},
	} {
		in := publishedInput(t, c.name)
		text, _ := in.results()
		b, err := text.csv()
		if err != nil {
			t.Fatal(err)
		}
		rows, err := csv.NewReader(bytes.NewReader(b)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(rows[0], ","); !strings.HasPrefix(got, c.head) {
			t.Errorf("%s: columns %s", c.name, got)
		}
		theirs, err := series.ReadTable(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if c.name == "noise" {
			if len(rows)-1 != 2*len(in.Models) { // an epoch of each stage
				t.Errorf("noise: %d rows", len(rows)-1)
			}
			if len(rows[0]) != len(theirs.Columns) {
				t.Errorf("noise: columns %v", rows[0])
			}
			continue
		}
		// best_target_pretrain_performance is of the source's domain in most published
		// rows; the authors' pickle of structures has the sizes as well.
		var head []string
		for i, c := range rows[0] {
			if _, ok := theirs.Columns[c]; ok && c != "best_target_pretrain_performance" {
				head = append(head, c)
			} else if !ok && c != "Pretrain Size" && c != "Transfer Size" {
				t.Errorf("column %d, %s, is not published", i, c)
			}
		}
		at := map[string]int{}
		for i, c := range rows[0] {
			at[c] = i
		}
		line := func(r []string, at map[string]int) string {
			var l []string
			for _, c := range head {
				l = append(l, r[at[c]])
			}
			return strings.Join(l, ",")
		}
		ours, published := map[string]int{}, map[string]int{}
		for _, r := range rows[1:] {
			ours[line(r, at)]++
		}
		for _, r := range theirs.Rows {
			published[line(r, theirs.Columns)]++
		}
		for l, n := range published {
			if ours[l] != n {
				t.Fatalf("%s: the published row %s is there %d times, want %d", c.name, l, ours[l], n)
			}
		}
		if len(rows)-1 != len(theirs.Rows) || len(head) < len(theirs.Columns)-1 {
			t.Errorf("%s: %d rows of %d columns, published are %d of %d", c.name, len(rows)-1, len(head), len(theirs.Rows), len(theirs.Columns))
		}
	}
}

// synthetic is an input with made-up histories for every run of a plan.
func synthetic(t *testing.T, name, profile string) Input {
	t.Helper()
	in := Input{
		Plan:        plan(t, name, profile),
		Environment: []Fact{{"backend", "made up <1>"}},
		Failures:    []string{"run x: a reason"},
		Sheets:      []Picture{{"predictions", "Two images", []byte("\x89PNG")}},
		Exported:    []Exported{{Name: "best.onnx", Certificate: "certified"}},
	}
	p := in.Plan
	run := func(r *study.Run) *store.History {
		h := &store.History{Stage: r.Kind, Target: r.Target.Key, Best: r.Epochs}
		for e := range r.Epochs {
			ep := store.Epoch{LearningRate: r.LearningRate, TrainLoss: 0.5 / float64(e+1), Validation: map[string]store.Score{}}
			for i := range p.Domains {
				v := 0.1 / float64(e+1) * math.Exp(0.3*random.Stream(1, r.ID, uint64(e), uint64(i)).NormFloat64())
				ep.Validation[p.Domains[i].Key] = store.Score{Loss: backend.LeastOnProbabilities + v, Dice: 0.8}
			}
			h.Epochs = append(h.Epochs, ep)
		}
		return h
	}
	histories := map[*study.Run]*store.History{}
	for i, r := range p.Runs {
		histories[r] = run(r)
		if r.Kind == study.PretrainRun {
			continue
		}
		m := trained.Result{Run: r, Final: histories[r], Digest: fmt.Sprintf("%064x", i), TrainSeconds: 10}
		if r.Parent != nil {
			m.Pretrain = histories[r.Parent]
		}
		if r.Frozen == nn.Encoder {
			m.TrainSeconds = 8
		}
		in.Models = append(in.Models, m)
	}
	return in
}

func build(t *testing.T, in Input) (dir string, sum *Summary) {
	t.Helper()
	dir = t.TempDir()
	sum, err := Build(context.Background(), in, dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir, sum
}

var (
	unsafeLink = regexp.MustCompile(`(src|href|url\()\s*=?\s*["'(]?(https?:)?//`)
	notANumber = regexp.MustCompile(`NaN|[+-]?Inf\b|%!`)
)

// TestBuild builds reports of all four series and looks into them.
func TestBuild(t *testing.T) {
	transfers := []string{"before.svg", "after.svg", "by-frozen-part.svg", "histories.svg", "predictions.png"}
	for _, c := range []struct {
		series, companion string
		files             []string
		text              []string
	}{
		{"defocus", "baseline", append(transfers, "before-published.svg", "after-published.svg", "by-frozen-part-published.svg", "by-target.svg", "spread.svg", "spread-published.svg", "single-stage.svg"),
			[]string{"Out-of-distribution spread", "rank correlation with the published medians", "+0.3133"[1:]}},
		{"noise", "", append(transfers, "before-published.svg", "after-published.svg", "histories-published.svg", "by-target.svg"), []string{"e⁻/Å²"}},
		{"structure", "", append(transfers, "before-crystals.svg", "after-crystals.svg", "sizes.svg"), []string{"fcc Cu"}},
		{"baseline", "defocus", []string{"single-stage.svg", "single-stage-published.svg", "mixtures.svg", "mixtures-published.svg", "histories.svg"}, []string{"trained together with"}},
	} {
		in := synthetic(t, c.series, "smoke")
		if c.companion != "" {
			other := synthetic(t, c.companion, "smoke")
			in.Companion = &other
		}
		if c.series == "structure" {
			in.Particles = map[string][]float64{"fcc_Cu_small": {8, 9, 9.5}, "fcc_Cu_large": {12, 15}}
		}
		dir, sum := build(t, in)
		b, err := os.ReadFile(sum.Index)
		if err != nil {
			t.Fatal(err)
		}
		html := string(b)
		for _, want := range append(c.text, "Rangel DaCosta", "CC BY 4.0", "smoke", "What to look at first", "made up &lt;1&gt;", "run x: a reason", "best.onnx",
			"What differs from the published study", fmt.Sprintf("%d of %d models", len(in.Models), len(in.Models)), "prefers-color-scheme: dark", "as a table") {
			if !strings.Contains(html, want) {
				t.Errorf("%s: the page lacks %q", c.series, want)
			}
		}
		// svg's namespace is the only address.
		if l := unsafeLink.FindString(strings.ReplaceAll(html, `xmlns="http://www.w3.org/2000/svg"`, "")); l != "" {
			t.Errorf("%s: the page loads or links %q", c.series, l)
		}
		if n := notANumber.FindString(html); n != "" {
			t.Errorf("%s: the page has %q", c.series, n)
		}
		if n := strings.Count(html, `role="img" aria-label="`); n != strings.Count(html, "<svg ") || n == 0 {
			t.Errorf("%s: a figure lacks its description", c.series)
		}
		for _, f := range append(c.files, "results.csv", "results.pkl", "models.csv", "medians.csv", "claims.json") {
			if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
				t.Errorf("%s: %v", c.series, err)
			}
		}
		figures, err := filepath.Glob(filepath.Join(dir, "*.svg"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range figures {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			if err := wellFormed(b); err != nil {
				t.Errorf("%s: %s: %v", c.series, filepath.Base(f), err)
			}
			if n := notANumber.FindString(string(b)); n != "" {
				t.Errorf("%s: %s has %q", c.series, filepath.Base(f), n)
			}
			if published := strings.Contains(f, "-published"); published != strings.Contains(string(b), "CC BY 4.0") {
				t.Errorf("%s: %s: attribution is %v", c.series, filepath.Base(f), !published)
			}
		}
		var judged struct{ Findings []claims.Finding }
		b, err = os.ReadFile(filepath.Join(dir, "claims.json"))
		if err == nil {
			err = json.Unmarshal(b, &judged)
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(judged.Findings) != 13 {
			t.Errorf("%s: %d findings", c.series, len(judged.Findings))
		}
		for i, f := range judged.Findings {
			if f.Number != i+1 || f.Ours.Outcome == "" || len(f.Ours.Statements) == 0 || (f.Ours.Outcome == claims.Unjudged && f.Ours.Why() == "") {
				t.Errorf("%s: finding %d is %+v", c.series, i+1, f)
			}
		}
	}
}

func wellFormed(b []byte) error {
	d := xml.NewDecoder(bytes.NewReader(b))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// TestBuildIsDeterministic builds a report twice.
func TestBuildIsDeterministic(t *testing.T) {
	one, _ := build(t, synthetic(t, "defocus", "smoke"))
	two, _ := build(t, synthetic(t, "defocus", "smoke"))
	files, err := os.ReadDir(one)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(one, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(two, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs between two builds", f.Name())
		}
	}
}

// TestUnfinished builds reports of what a store may hold halfway.
func TestUnfinished(t *testing.T) {
	for series, numbers := range map[string][]int{"defocus": {0, 1, 3}, "noise": {1}, "structure": {1}, "baseline": {0, 1}, "own-data": {0, 1}} {
		for _, n := range numbers {
			in := synthetic(t, series, "smoke")
			in.Models = in.Models[:n]
			dir, sum := build(t, in)
			html, err := os.ReadFile(filepath.Join(dir, "index.html"))
			if err != nil {
				t.Fatal(err)
			}
			if m := notANumber.FindString(string(html) + strings.Join(sum.Lines, "\n")); m != "" {
				t.Errorf("%s with %d models: %q", series, n, m)
			}
		}
	}
}

// TestBudgets judges finding 9 only where budgets are equal.
func TestBudgets(t *testing.T) {
	in, other := synthetic(t, "defocus", "smoke"), synthetic(t, "baseline", "smoke")
	in.Companion = &other
	c, err := Compare(in)
	if err != nil {
		t.Fatal(err)
	}
	j := c.Findings[8].Ours
	if j.Outcome != claims.Unjudged {
		t.Errorf("finding 9 at the smoke profile: %+v", j)
	}
	if c, err = Compare(other); err != nil {
		t.Fatal(err)
	}
	if why := c.Findings[0].Ours.Why(); c.Findings[0].Ours.Outcome != claims.Unjudged || !strings.Contains(why, "single-stage") {
		t.Errorf("finding 1 for the baseline: %s", why)
	}
}

// TestPageContrast checks every colour of text against the grounds that it is on,
// in light, in dark and in print.
func TestPageContrast(t *testing.T) {
	schemes := regexp.MustCompile(`:root \{([^}]*)\}`).FindAllStringSubmatch(pageSource, -1)
	if len(schemes) != 3 {
		t.Fatalf("%d colour schemes", len(schemes))
	}
	for _, s := range schemes {
		colours := map[string]string{}
		for _, c := range regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]+)`).FindAllStringSubmatch(s[1], -1) {
			if len(c[2]) == 4 {
				c[2] = fmt.Sprintf("#%[1]c%[1]c%[2]c%[2]c%[3]c%[3]c", c[2][1], c[2][2], c[2][3])
			}
			colours[c[1]] = c[2]
		}
		for _, ink := range []string{"ink", "soft-ink", "accent", "yes", "no", "open"} {
			for _, ground := range []string{"ground", "soft"} {
				if c := plot.Contrast(colours[ink], colours[ground]); !(c >= 4.5) {
					t.Errorf("%s %s on %s %s has %.2f", ink, colours[ink], ground, colours[ground], c)
				}
			}
		}
	}
}
