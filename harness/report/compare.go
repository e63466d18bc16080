package report

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// Comparison sets our results beside the published ones.
type Comparison struct {
	Study   string `json:"study"`
	Profile string `json:"profile"`
	// Correlations are of the orderings of cells of the same two matrices.
	Correlations []Correlation    `json:"correlations"`
	Rows         []Compared       `json:"rows"`
	Findings     []claims.Finding `json:"findings"`
	// Note says what cannot be compared, or how; "" for nothing to say.
	Note string `json:"note,omitempty"`
}

// Correlation is Spearman's ρ of our medians with the published ones.
type Correlation struct {
	Name string `json:"name"`
	// Rho is nil where it is undefined: too few cells or no variation.
	Rho *float64 `json:"rho"`
	// Cells that both have; in Missing ones of our rows and columns only the
	// published series has models.
	Cells   int `json:"cells"`
	Missing int `json:"missing,omitempty"`
}

// Compared is a median of ours and of the published models; nil where one side
// has none.
type Compared struct {
	Group           string   `json:"group"`
	Name            string   `json:"name"`
	Ours            *float64 `json:"ours"`
	Models          int      `json:"models"`
	Published       *float64 `json:"published"`
	PublishedModels int      `json:"published_models"`
}

func finiteOrNil(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

func correlate(name string, ours, published *stats.Matrix) Correlation {
	a, b := ours.Flat(ours), published.Flat(ours)
	c := Correlation{Name: name}
	var rho float64
	rho, c.Cells = stats.Spearman(a, b)
	c.Rho = finiteOrNil(rho)
	for i := range a {
		if math.IsNaN(a[i]) && !math.IsNaN(b[i]) {
			c.Missing++
		}
	}
	return c
}

func (c Correlation) String() string {
	rho := math.NaN()
	if c.Rho != nil {
		rho = *c.Rho
	}
	s := fmt.Sprintf("%s: rank correlation with the published medians %s over %d cells", c.Name, corr(rho), c.Cells)
	if c.Missing > 0 {
		s += fmt.Sprintf(", %d cells of ours have no model", c.Missing)
	}
	return s
}

func corr(v float64) string {
	if math.IsNaN(v) {
		return "undefined (too few or equal values)"
	}
	return format.Signed(v, 2)
}

// Compare sets the input's results beside the published table of the same
// series.
func Compare(in Input) (*Comparison, error) {
	s := in.series()
	c := &Comparison{Study: in.Plan.Study.Name, Profile: in.Plan.Study.ProfileName()}
	if len(in.reduced()) > 0 {
		c.Note = "The profile is smaller than the published study: compare orderings and ratios, not losses."
	}
	var err error
	if c.Findings, err = claims.Judge(in.evidence(), s.Axis, in.Plan.Study.Kind == study.Mixture); err != nil {
		return nil, err
	}
	if len(s.Singles) > 0 && s.Axis == series.AxisDefocus {
		b, err := series.PublishedBaseline()
		if err != nil {
			return nil, err
		}
		c.Correlations = append(c.Correlations, correlate("single-stage training", s.Mixtures(), b.Mixtures()))
		c.merge("rate of single-stage training", s.SingleRates(), b.SingleRates())
		return c, nil
	}
	published, err := series.PublishedOf(s.Axis)
	if err != nil {
		return nil, err
	}
	if published == nil {
		c.Note = "There is no published table of this series in the program; ours stand alone. " + c.Note
		published = &series.Series{Axis: s.Axis, Domains: s.Domains}
	} else if len(s.Transfers) > 0 {
		before, after := s.Medians()
		pb, pa := published.Medians()
		c.Correlations = append(c.Correlations, correlate("before transfer", before, pb), correlate("after transfer", after, pa))
	}
	for _, f := range []series.Factor{series.ByFrozen, series.ByImages, series.ByRates} {
		c.merge(f.Name, s.Groups(f, s.Final), published.Groups(f, published.Final))
	}
	c.merge("target", s.Named(s.ByTarget()), published.Named(published.ByTarget()))
	return c, nil
}

// merge adds rows of the levels that either side has: those of ours alone, then
// the published ones in their order.
func (c *Comparison) merge(name string, ours, published []stats.Group) {
	find := func(g []stats.Group, level string) []float64 {
		for _, x := range g {
			if x.Level == level {
				return x.Values
			}
		}
		return nil
	}
	var levels []string
	for _, g := range ours {
		if find(published, g.Level) == nil {
			levels = append(levels, g.Level)
		}
	}
	for _, g := range published {
		levels = append(levels, g.Level)
	}
	for _, l := range levels {
		o, p := find(ours, l), find(published, l)
		c.Rows = append(c.Rows, Compared{name, l, finiteOrNil(stats.Median(o)), len(o), finiteOrNil(stats.Median(p)), len(p)})
	}
}

// value writes a median and its models.
func value(v *float64, n int) string {
	if v == nil {
		return format.None
	}
	return fmt.Sprintf("%s (%d)", format.Loss(*v), n)
}

// OursText and PublishedText are the cells of a row.
func (r Compared) OursText() string { return value(r.Ours, r.Models) }

func (r Compared) PublishedText() string { return value(r.Published, r.PublishedModels) }

// tally counts the outcomes of findings on our models.
func tally(f []claims.Finding) string {
	const elsewhere = "are about other series"
	singular := map[string]string{"hold": "holds", "do not hold": "does not hold", elsewhere: "is about another series"}
	of := map[string][]string{}
	for _, x := range f {
		verb := map[string]string{claims.Holds: "hold", claims.Fails: "do not hold", claims.Unjudged: "cannot be judged here"}[x.Ours.Outcome]
		if !x.Ours.Applies() {
			verb = elsewhere
		}
		of[verb] = append(of[verb], fmt.Sprint(x.Number))
	}
	var parts []string
	for _, verb := range []string{"hold", "do not hold", "cannot be judged here", elsewhere} {
		if n := of[verb]; len(n) > 0 {
			if s, ok := singular[verb]; ok && len(n) == 1 {
				verb = s
			}
			parts = append(parts, fmt.Sprintf("%d %s (%s)", len(n), verb, strings.Join(n, ", ")))
		}
	}
	return fmt.Sprintf("of the %d published findings, %s", len(f), strings.Join(parts, ", "))
}

// Text is the comparison for a terminal.
func (c *Comparison) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, profile %s: ours beside the published results\n", c.Study, c.Profile)
	if c.Note != "" {
		fmt.Fprintf(&b, "%s\n", c.Note)
	}
	b.WriteString("\n")
	for _, r := range c.Correlations {
		fmt.Fprintf(&b, "%s\n", r)
	}
	b.WriteString("\nmedian of the best validation loss on the target, above its minimum (models):\n")
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "by\t\tours\tpublished\n")
	last := ""
	for _, r := range c.Rows {
		group := r.Group
		if group == last {
			group = ""
		}
		last = r.Group
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", group, r.Name, r.OursText(), r.PublishedText())
	}
	w.Flush()
	b.WriteString("\n")
	w = tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "finding\ton the published table\ton ours\t\n")
	for _, f := range c.Findings {
		if !f.Ours.Applies() {
			continue
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", f.Number, f.Published.Outcome, f.Ours.Outcome, f.Ours.Why())
	}
	w.Flush()
	return b.String()
}
