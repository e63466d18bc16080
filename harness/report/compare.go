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
	// Gain is what transfer does to the loss on its target, ours by the weights that
	// are kept; nil for a study without transfers.
	Gain          *Gain `json:"gain,omitempty"`
	PublishedGain *Gain `json:"published_gain,omitempty"`
	// Correlations are of the orderings of cells of the same two matrices.
	Correlations []Correlation    `json:"correlations"`
	Rows         []Compared       `json:"rows"`
	Findings     []claims.Finding `json:"findings"`
	// Note says what cannot be compared, or how; "" for nothing to say.
	Note string `json:"note,omitempty"`
}

// Estimate is a number with its 95 % interval, nil where it has none. Value is nil
// where it is undefined: too few cells or no variation.
type Estimate struct {
	Value    *float64    `json:"value"`
	Interval *[2]float64 `json:"interval_95,omitempty"`
}

func estimate(s stats.Sample) Estimate { return Estimate{finiteOrNil(s.Value), s.Interval()} }

// text writes the number and its interval.
func (e Estimate) text(number func(float64) string) string {
	switch {
	case e.Value == nil:
		return "undefined"
	case e.Interval == nil:
		return number(*e.Value) + " [no interval]"
	}
	return fmt.Sprintf("%s [%s, %s]", number(*e.Value), number(e.Interval[0]), number(e.Interval[1]))
}

// Signed writes a correlation.
func (e Estimate) Signed() string {
	return e.text(func(v float64) string { return format.Signed(v, 2) })
}

// Percent writes a share.
func (e Estimate) Percent() string { return e.text(format.Percent) }

// Loss writes a loss.
func (e Estimate) Loss() string { return e.text(func(v float64) string { return format.Digits(v, 3) }) }

// Gain is what transfer does to the loss on its target.
type Gain struct {
	Metric series.Metric `json:"metric"`
	Before Estimate      `json:"median_before"`
	After  Estimate      `json:"median_after"`
	// Models and Cells are the shares of models, and of pairs of domains, whose loss,
	// or median loss, transfer lowers.
	Models     Estimate `json:"share_of_models"`
	Cells      Estimate `json:"share_of_pairs"`
	Transfers  int      `json:"transfers"`
	Pretrained int      `json:"pretrained_models"`
}

func gain(s *series.Series) *Gain {
	g := claims.GainOf(s)
	return &Gain{s.Metric, estimate(g.Before), estimate(g.After), estimate(g.Models), estimate(g.Cells), len(s.Transfers), s.Pretrained()}
}

// Correlation is Spearman's ρ of our medians with the published ones.
type Correlation struct {
	Name   string        `json:"name"`
	Metric series.Metric `json:"metric"`
	// Part says which domains alone were looked at; "" for all.
	Part string   `json:"part,omitempty"`
	Rho  Estimate `json:"rho"`
	// Rule is the one-line rule that orders the published medians best, RuleRho what
	// it reaches on the same cells, and Partial our ρ with the rule taken out.
	Rule    string   `json:"rule,omitempty"`
	RuleRho Estimate `json:"rule_rho"`
	Partial Estimate `json:"partial_rho"`
	// Cells that both have; in Missing ones of our rows and columns only the
	// published series has models.
	Cells   int `json:"cells"`
	Missing int `json:"missing,omitempty"`
	// Models that our medians are of, and the pretrained ones that they start from.
	Models     int `json:"models"`
	Pretrained int `json:"pretrained_models"`
}

// Compared is a median of ours and of the published models; its Value is nil where
// one side has none.
type Compared struct {
	Group           string   `json:"group"`
	Name            string   `json:"name"`
	Ours            Estimate `json:"ours"`
	Models          int      `json:"models"`
	Pretrained      int      `json:"pretrained_models,omitempty"`
	Published       Estimate `json:"published"`
	PublishedModels int      `json:"published_models"`
}

func finiteOrNil(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// correlate correlates our cells with published medians. weight is how often a
// row counts when observations are drawn. The published medians stay as they are.
func correlate(name string, s *series.Series, ours func(*series.Series) *stats.Cells, published *stats.Matrix, units []stats.Unit, weight func(rows []string, w []int) []float64) Correlation {
	m := ours(s).Medians(series.Once(len(units)))
	theirs := published.Flat(m)
	c := Correlation{Name: name}
	cells := m.Flat(m)
	for i := range cells {
		if math.IsNaN(cells[i]) && !math.IsNaN(theirs[i]) {
			c.Missing++
		}
	}
	_, c.Cells = stats.Spearman(cells, theirs, nil)
	var rule []float64
	best := math.Inf(-1)
	for _, x := range series.Rules(s.Axis) {
		var v []float64
		for _, row := range m.Rows {
			for _, column := range m.Columns {
				v = append(v, x.Loss(row, column))
			}
		}
		for i := range v {
			if math.IsNaN(cells[i]) {
				v[i] = math.NaN()
			}
		}
		if rho, _ := stats.Spearman(v, theirs, nil); rho > best {
			best, rule, c.Rule = rho, v, x.Name
		}
	}
	samples := series.Bootstrap(stats.NewResampler(units), 3, s.Redraws, func(at series.Redraw) stats.Statistic {
		values := ours(at(s))
		return func(w []int, v []float64) {
			rows := weight(m.Rows, w)
			var weights []float64
			for i := range m.Rows {
				for range m.Columns {
					weights = append(weights, rows[i])
				}
			}
			cells := make([]float64, values.Len())
			values.Fill(w, cells)
			v[0], _ = stats.Spearman(cells, theirs, weights)
			v[1], v[2] = math.NaN(), math.NaN()
			if rule != nil {
				v[1], _ = stats.Spearman(rule, theirs, weights)
				v[2] = stats.Partial(cells, theirs, rule, weights)
			}
		}
	})
	c.Rho, c.RuleRho, c.Partial = estimate(samples[0]), estimate(samples[1]), estimate(samples[2])
	return c
}

// transferred correlates the medians before and after transfer, of a part of the
// domains or of all.
func transferred(part string, s, published *series.Series) []Correlation {
	name := ""
	if part != "" {
		name = ", " + part
	}
	if s.Metric == series.Kept {
		name += ", kept weights"
	}
	cells := []func(*series.Series) *stats.Cells{
		func(s *series.Series) *stats.Cells { b, _ := s.Cells(); return b },
		func(s *series.Series) *stats.Cells { _, a := s.Cells(); return a },
	}
	pb, pa := published.Medians()
	var all []Correlation
	for k, stage := range []string{"before", "after"} {
		c := correlate(stage+" transfer"+name, s, cells[k], []*stats.Matrix{pb, pa}[k], s.Units(), s.RowWeights)
		c.Metric, c.Part, c.Models, c.Pretrained = s.Metric, part, len(s.Transfers), s.Pretrained()
		all = append(all, c)
	}
	return all
}

func (c Correlation) String() string {
	s := fmt.Sprintf("%s: rank correlation with the published medians %s over %d cells", c.Name, c.Rho.Signed(), c.Cells)
	if c.Rule != "" {
		s += fmt.Sprintf("; the rule %q alone %s; with it taken out %s", c.Rule, c.RuleRho.bare(), c.Partial.Signed())
	}
	if c.Missing > 0 {
		s += fmt.Sprintf("; %d cells of ours have no model", c.Missing)
	}
	return s
}

// bare writes a correlation without its interval.
func (e Estimate) bare() string {
	if e.Value == nil {
		return "undefined"
	}
	return format.Signed(*e.Value, 2)
}

// Compare sets the input's results beside the published table of the same
// series: by the table's metric what stands beside it, by the weights that are
// kept what is said about models.
func Compare(in Input) (*Comparison, error) {
	s, kept := in.Series(series.AsPublished), in.Series(series.Kept)
	c := &Comparison{Study: in.Plan.Study.Name, Profile: in.Plan.Study.ProfileName()}
	if len(in.reduced()) > 0 {
		c.Note = "The profile is smaller than the published study: compare orderings and ratios, not losses."
	}
	var err error
	ours := claims.Ours{Kept: in.evidence(series.Kept), AsPublished: in.evidence(series.AsPublished)}
	if c.Findings, err = claims.Judge(ours, s.Axis, in.Plan.Study.Kind == study.Mixture); err != nil {
		return nil, err
	}
	if len(s.Singles) > 0 && s.Axis == series.AxisDefocus {
		b, err := series.PublishedBaseline()
		if err != nil {
			return nil, err
		}
		one := func(rows []string, _ []int) []float64 {
			w := make([]float64, len(rows))
			for i := range w {
				w[i] = 1
			}
			return w
		}
		r := correlate("single-stage training", s, (*series.Series).MixtureCells, b.Mixtures(), s.SingleUnits(), one)
		r.Metric, r.Models = s.Metric, len(s.Singles)
		c.Correlations = append(c.Correlations, r)
		c.merge("rate of single-stage training", s.SingleRates(), b.SingleRates(), func([]int) int { return 0 })
		return c, nil
	}
	if len(s.Transfers) > 0 {
		c.Gain = gain(kept)
	}
	published, err := series.PublishedOf(s.Axis, series.AsPublished)
	if err != nil {
		return nil, err
	}
	if published == nil {
		c.Note = "There is no published table of this series in the program; ours stand alone. " + c.Note
		published = &series.Series{Axis: s.Axis, Domains: s.Domains}
	} else if len(s.Transfers) > 0 {
		beside, err := series.PublishedOf(s.Axis, series.Kept)
		if err != nil {
			return nil, err
		}
		c.PublishedGain = gain(beside)
		// After transfer, on the target, the metrics agree.
		c.Correlations = append(transferred("", s, published), transferred("", kept, published)[0])
		if s.Axis == series.AxisStructure {
			for _, size := range []string{"small", "large"} {
				of := func(d string) bool { return series.SizeOf(d) == size }
				if part := s.Only(of); len(part.Transfers) > 0 {
					c.Correlations = append(c.Correlations, transferred(size+" particles", part, published.Only(of))...)
				}
			}
		}
	}
	for _, f := range []series.Factor{series.ByFrozen, series.ByImages, series.ByRates} {
		part, theirs := s.Balanced(f), published.Balanced(f)
		groups := func(s *series.Series) []stats.Group { return s.Groups(f, s.Final) }
		c.merge(f.Name, part.WithIntervals(groups), theirs.WithIntervals(groups), part.PretrainedOf)
	}
	groups := func(s *series.Series) []stats.Group { return s.Named(s.ByTarget()) }
	c.merge("target", s.WithIntervals(groups), published.WithIntervals(groups), s.PretrainedOf)
	return c, nil
}

// merge adds rows of the levels that either side has: those of ours alone, then
// the published ones in their order. pretrained counts the pretrained models of
// some of our transfers.
func (c *Comparison) merge(name string, ours, published []stats.Group, pretrained func([]int) int) {
	find := func(g []stats.Group, level string) *stats.Group {
		for i := range g {
			if g[i].Level == level {
				return &g[i]
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
		r := Compared{Group: name, Name: l}
		if g := find(ours, l); g != nil {
			r.Ours, r.Models, r.Pretrained = Estimate{finiteOrNil(stats.Median(g.Values)), g.Interval}, len(g.Values), pretrained(g.At)
		}
		if g := find(published, l); g != nil {
			r.Published, r.PublishedModels = Estimate{finiteOrNil(stats.Median(g.Values)), g.Interval}, len(g.Values)
		}
		c.Rows = append(c.Rows, r)
	}
}

// OursText and PublishedText are the cells of a row: the median, its interval and
// the models.
func (r Compared) OursText() string {
	switch {
	case r.Ours.Value == nil:
		return format.None
	case r.Pretrained > 0 && r.Pretrained < r.Models:
		return fmt.Sprintf("%s (%d from %d)", r.Ours.Loss(), r.Models, r.Pretrained)
	}
	return fmt.Sprintf("%s (%d)", r.Ours.Loss(), r.Models)
}

func (r Compared) PublishedText() string {
	if r.Published.Value == nil {
		return format.None
	}
	return fmt.Sprintf("%s (%d)", r.Published.Loss(), r.PublishedModels)
}

// tally counts the outcomes of findings on our models.
func tally(f []claims.Finding) string {
	const elsewhere = "are about other series"
	singular := map[string]string{"hold": "holds", "do not hold": "does not hold", "are open": "is open", elsewhere: "is about another series"}
	of := map[string][]string{}
	for _, x := range f {
		verb := map[string]string{claims.Holds: "hold", claims.Fails: "do not hold", claims.Open: "are open", claims.Unjudged: "cannot be judged here"}[x.Ours.Outcome]
		if !x.Ours.Applies() {
			verb = elsewhere
		}
		of[verb] = append(of[verb], fmt.Sprint(x.Number))
	}
	var parts []string
	for _, verb := range []string{"hold", "do not hold", "are open", "cannot be judged here", elsewhere} {
		if n := of[verb]; len(n) > 0 {
			if s, ok := singular[verb]; ok && len(n) == 1 {
				verb = s
			}
			parts = append(parts, fmt.Sprintf("%d %s (%s)", len(n), verb, strings.Join(n, ", ")))
		}
	}
	return fmt.Sprintf("of the %d published findings, %s", len(f), strings.Join(parts, ", "))
}

// lines say in sentences what transfer does and how well our medians follow the
// published ones.
func (c *Comparison) lines() []string {
	var l []string
	if g := c.Gain; g != nil {
		l = append(l, fmt.Sprintf("transfer takes the median loss on the target from %s to %s, over %d models from %d pretrainings, by the weights that are kept; in brackets 95 %% intervals", g.Before.Loss(), g.After.Loss(), g.Transfers, g.Pretrained))
		s := fmt.Sprintf("it lowers the loss of %s of the models and the median of %s of the pairs of domains", g.Models.Percent(), g.Cells.Percent())
		if p := c.PublishedGain; p != nil {
			s += fmt.Sprintf("; published: %s and %s, %s", p.Models.Percent(), p.Cells.Percent(), p.Metric)
		}
		l = append(l, s)
	}
	for _, r := range c.Correlations {
		if r.Metric == series.AsPublished && r.Part == "" {
			l = append(l, r.String())
		}
	}
	return l
}

// Text is the comparison for a terminal.
func (c *Comparison) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, profile %s: ours beside the published results\n", c.Study, c.Profile)
	if c.Note != "" {
		fmt.Fprintf(&b, "%s\n", c.Note)
	}
	b.WriteString("\n")
	for _, l := range c.lines() {
		fmt.Fprintf(&b, "%s\n", l)
	}
	for _, r := range c.Correlations {
		if r.Metric != series.AsPublished || r.Part != "" {
			fmt.Fprintf(&b, "%s\n", r)
		}
	}
	b.WriteString("\nmedian validation loss on the target, above its minimum [95 % interval] (models from pretrained models):\n")
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
	fmt.Fprintf(w, "finding\ton the published table\ton ours, kept weights\tby the published metric\t\n")
	for _, f := range c.Findings {
		if !f.Ours.Applies() {
			continue
		}
		why := f.Ours.Why()
		if a := f.Against(); a != "" {
			why = strings.TrimPrefix(strings.Join([]string{why, a}, "; "), "; ")
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", f.Number, f.Published.Outcome, f.Ours.Outcome, f.OursAsPublished.Outcome, why)
	}
	w.Flush()
	return b.String()
}
