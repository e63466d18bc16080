package report

import (
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
)

// Comparison sets our results beside the published ones.
type Comparison struct {
	Study   string `json:"study"`
	Profile string `json:"profile"`
	// Correlations are of the orderings of cells of the same two matrices.
	Correlations []Correlation `json:"correlations"`
	Rows         []Compared    `json:"rows"`
	Findings     []Finding     `json:"findings"`
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

func correlate(name string, ours, published *Matrix) Correlation {
	a, b := ours.flat(ours), published.flat(ours)
	c := Correlation{Name: name}
	var rho float64
	rho, c.Cells = spearman(a, b)
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

// Compare sets the input's results beside the published table of the same
// series.
func Compare(in Input) (*Comparison, error) {
	s := in.series()
	c := &Comparison{Study: in.Plan.Study.Name, Profile: in.Plan.Study.ProfileName()}
	if len(in.reduced()) > 0 {
		c.Note = "The profile is smaller than the published study: compare orderings and ratios, not losses."
	}
	var err error
	if c.Findings, err = in.findings(); err != nil {
		return nil, err
	}
	if len(s.singles) > 0 && s.axis == axisDefocus {
		b, err := publishedBaseline()
		if err != nil {
			return nil, err
		}
		c.Correlations = append(c.Correlations, correlate("single-stage training", s.mixtures(), b.mixtures()))
		c.merge("rate of single-stage training", s.singleRates(), b.singleRates())
		return c, nil
	}
	published, err := publishedLike(s.axis)
	if err != nil {
		return nil, err
	}
	if published == nil {
		c.Note = "There is no published table of this series in the program; ours stand alone. " + c.Note
		published = &series{axis: s.axis, domains: s.domains}
	} else if len(s.models) > 0 {
		before, after := s.transfers()
		pb, pa := published.transfers()
		c.Correlations = append(c.Correlations, correlate("before transfer", before, pb), correlate("after transfer", after, pa))
	}
	for _, f := range []factor{byFrozen, byImages, byRates} {
		c.merge(f.name, s.groups(f, s.final), published.groups(f, published.final))
	}
	c.merge("target", s.named(s.byTarget()), published.named(published.byTarget()))
	return c, nil
}

// named writes groups of domains with units.
func (s *series) named(g []group) []group {
	for i := range g {
		g[i].level = s.name(g[i].level)
	}
	return g
}

// singleRates groups the single-stage models' losses on both domains by rate.
func (s *series) singleRates() []group {
	var g []group
	at := map[float64]int{}
	for _, m := range s.singles {
		k, ok := at[m.rate]
		if !ok {
			k, at[m.rate] = len(g), len(g)
			g = append(g, group{level: rate(m.rate)})
		}
		g[k].values = append(g[k].values, finite(m.loss[:])...)
	}
	return g
}

// merge adds rows of the levels that either side has: those of ours alone, then
// the published ones in their order.
func (c *Comparison) merge(name string, ours, published []group) {
	find := func(g []group, level string) []float64 {
		for _, x := range g {
			if x.level == level {
				return x.values
			}
		}
		return nil
	}
	var levels []string
	for _, g := range ours {
		if find(published, g.level) == nil {
			levels = append(levels, g.level)
		}
	}
	for _, g := range published {
		levels = append(levels, g.level)
	}
	for _, l := range levels {
		o, p := find(ours, l), find(published, l)
		c.Rows = append(c.Rows, Compared{name, l, finiteOrNil(median(o)), len(o), finiteOrNil(median(p)), len(p)})
	}
}

// value writes a median and its models.
func value(v *float64, n int) string {
	if v == nil {
		return "–"
	}
	return fmt.Sprintf("%s (%d)", short(*v), n)
}

// OursText and PublishedText are the cells of a row.
func (r Compared) OursText() string      { return value(r.Ours, r.Models) }
func (r Compared) PublishedText() string { return value(r.Published, r.PublishedModels) }

// tally counts the outcomes of findings on our models.
func tally(f []Finding) string {
	const elsewhere = "are about other series"
	singular := map[string]string{"hold": "holds", "do not hold": "does not hold", elsewhere: "is about another series"}
	of := map[string][]string{}
	for _, x := range f {
		verb := map[string]string{Holds: "hold", Fails: "do not hold", Unjudged: "cannot be judged here"}[x.Ours.Outcome]
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

// Why is the first reason that explains a finding's outcome: what could not be
// judged, or which part does not hold.
func (j Judgement) Why() string {
	for _, p := range j.Parts {
		if p.Outcome == j.Outcome && p.Outcome != Holds {
			if p.Reason != "" {
				return p.Reason
			}
			return "not so: " + p.Statement
		}
	}
	return ""
}
