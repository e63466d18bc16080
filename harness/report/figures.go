package report

import (
	"fmt"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// figure is a drawing with its caption, and the name of its file without
// extension.
type figure struct {
	Name    string
	Caption string
	drawing *plot.Drawing
}

// Table is the figure's values for those who do not see it, or copy them.
func (f figure) Table() *plot.Table { return &f.drawing.Table }

// SVG is the drawing for the page.
func (f figure) SVG() template.HTML { return template.HTML(f.drawing.Inline()) }

// section groups figures under a heading; figures of a row stand side by side,
// ours first.
type section struct {
	Title string
	Text  []string
	Rows  [][]figure
}

// pair is a row of the same drawing of ours and, where there is one, of the
// published series.
func pair(name, caption string, ours, published *series.Series, draw func(who string, s *series.Series) *plot.Drawing) []figure {
	row := []figure{{name, "Ours. " + caption, draw("Ours", ours)}}
	if published != nil {
		row = append(row, fromPublished(name, caption, draw("Published", published)))
	}
	return row
}

// boxes is a pair of boxes with one axis; groups is by kind, then by level.
func boxes(name, caption, title, xLabel, yLabel string, kinds []string, ours, published *series.Series, groups func(*series.Series) [][]stats.Group) []figure {
	of := map[*series.Series][][]stats.Group{}
	var all [][]stats.Group
	for _, s := range []*series.Series{ours, published} {
		if s != nil {
			for k := range groups(s) {
				of[s] = append(of[s], s.WithIntervals(func(s *series.Series) []stats.Group { return groups(s)[k] }))
			}
			all = append(all, of[s]...)
		}
	}
	return pair(name, caption, ours, published, func(who string, s *series.Series) *plot.Drawing {
		return plot.Boxes(who+": "+title, xLabel, yLabel, kinds, of[s], all)
	})
}

// fromPublished is a figure of the published results.
func fromPublished(name, caption string, drawing *plot.Drawing) figure {
	return figure{name + "-published", "Published results (Rangel DaCosta et al. 2025, CC BY 4.0). " + caption, drawing.Credit(reference.Credit)}
}

// sections are all figures of the input.
func (in *Input) sections(c *Comparison) ([]section, error) {
	s, kept := in.Series(series.AsPublished), in.Series(series.Kept)
	published, err := series.PublishedOf(s.Axis, series.AsPublished)
	if err != nil {
		return nil, err
	}
	publishedKept, err := series.PublishedOf(s.Axis, series.Kept)
	if err != nil {
		return nil, err
	}
	if published != nil { // rows and columns side by side are the same
		published, publishedKept = published.InOrder(s.Domains), publishedKept.InOrder(s.Domains)
	}
	var all []section
	if len(s.Transfers) > 0 {
		all = append(all, matrices(s, published), changes(kept, s, publishedKept), distributions(kept, published))
		if s.Axis == series.AxisDefocus {
			all = append(all, spreads(kept, published))
		}
	}
	if rho := correlations(c); rho != nil {
		if len(all) == 0 {
			all = append(all, section{Title: "Ours and published"})
		}
		all[0].Rows = slices.Insert(all[0].Rows, 0, rho)
	}
	if against, err := in.against(s); err != nil {
		return nil, err
	} else if against != nil {
		all = append(all, *against)
	}
	if len(in.Models) > 0 {
		h, err := in.histories(s)
		if err != nil {
			return nil, err
		}
		all = append(all, h)
	}
	if p := in.particles(); p != nil {
		all = append(all, *p)
	}
	return slices.DeleteFunc(all, func(s section) bool { return len(s.Rows) == 0 }), nil
}

// byPublishedMetric says which losses figures beside the published ones have.
const byPublishedMetric = "Losses are as published: the least over the epochs of a stage, on every domain by itself, so that they belong to no single model."

// byKept says which losses the other figures have.
const byKept = "Losses of ours are those of the weights that are kept, on every domain at the epoch that is best on the domain trained on; the published table has the least over the epochs."

// matrices are the heat maps before and after transfer.
func matrices(s, published *series.Series) section {
	sec := section{Title: "Before and after transfer", Text: []string{
		"Each cell is a median over models: before transfer on every domain, after transfer on the domain transferred to. Outlined cells are a model's own pretraining domain; after transfer they repeat the value of the pretraining. All maps of a kind have one colour scale, ours and published. " + byPublishedMetric + provenance(s),
	}}
	type stages struct{ before, after *stats.Matrix }
	draw := func(name, title string, of func(*series.Series) (before, after *stats.Matrix)) {
		var ours, theirs stages
		ours.before, ours.after = of(s)
		if published != nil {
			theirs.before, theirs.after = of(published)
		}
		if ours.before == nil {
			return
		}
		scale := plot.ScaleOf(ours.before, ours.after, theirs.before, theirs.after)
		for k, stage := range []string{"before", "after"} {
			row := pair(stage+name, strings.ToUpper(stage[:1])+stage[1:]+" transfer"+title+".", s, published, func(who string, _ *series.Series) *plot.Drawing {
				m := ours
				if who != "Ours" {
					m = theirs
				}
				return plot.HeatMap(s, []*stats.Matrix{m.before, m.after}[k], scale, who+": "+stage+" transfer"+title, "pretrained "+s.Preposition())
			})
			sec.Rows = append(sec.Rows, beside(row, len(ours.before.Columns))...)
		}
	}
	if s.Axis == series.AxisStructure {
		draw("-crystals", ", sizes taken together", (*series.Series).CrystalMedians)
	}
	draw("", "", (*series.Series).MediansWithIntervals)
	return sec
}

// beside puts figures side by side where they are narrow enough to be read.
func beside(row []figure, columns int) [][]figure {
	if columns <= 12 {
		return [][]figure{row}
	}
	var rows [][]figure
	for _, f := range row {
		rows = append(rows, []figure{f})
	}
	return rows
}

// provenance says how many pretrained models the medians come from, where that is
// fewer than the models.
func provenance(s *series.Series) string {
	if n := s.Pretrained(); n < len(s.Transfers) {
		return fmt.Sprintf(" Our %d models start from %d pretrained ones, %s of each domain: medians of many models are of few pretrainings.", len(s.Transfers), n, format.Number(math.Round(float64(n)/float64(len(s.Sources())))))
	}
	return ""
}

// changes are the maps of what transfer does to the loss on its target.
func changes(kept, s, published *series.Series) section {
	sec := section{Title: "What transfer changes", Text: []string{
		"Each cell is the median loss on the target after transfer divided by that before: below 1 (blue) transfer helps. " + byKept,
	}}
	ours, least := kept.Changes(), s.Changes()
	var theirs *stats.Matrix
	if published != nil {
		theirs = published.Changes()
	}
	scale := plot.ScaleOf(ours, least, theirs)
	draw := func(who string, s *series.Series) *plot.Drawing {
		return plot.Changes(s, s.Changes(), scale, who+": loss on the target, after to before", "pretrained "+s.Preposition(), "transferred to "+s.Unit(), "ratio of medians")
	}
	caption := "The loss on the target after transfer, in parts of that before."
	sec.Rows = append(sec.Rows, beside(pair("change", caption, kept, published, draw), len(kept.Domains))...)
	sec.Rows = append(sec.Rows, []figure{{"change-least", "Ours, by the metric of the published tables: before transfer the least loss over the epochs is never above that of the kept weights, so that transfer looks no better here.", draw("Ours, metric as published", s)}})
	return sec
}

// correlations are our rank correlations with the published medians beside what a
// rule reaches; no figure where there is none.
func correlations(c *Comparison) []figure {
	mark := func(e Estimate) plot.Mark {
		m := plot.Mark{Value: math.NaN(), Low: math.NaN(), High: math.NaN()}
		if e.Value != nil {
			m.Value = *e.Value
		}
		if e.Interval != nil {
			m.Low, m.High = e.Interval[0], e.Interval[1]
		}
		return m
	}
	var lines []plot.Line
	rules := map[string]bool{}
	for _, r := range c.Correlations {
		lines = append(lines, plot.Line{Name: r.Name, Marks: []plot.Mark{mark(r.Rho), mark(r.RuleRho), mark(r.Partial)}})
		if r.Rule != "" {
			rules[r.Rule] = true
		}
	}
	if len(lines) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(rules))
	return []figure{{"correlations",
		"How well our medians order the cells as the published ones do, with 95 % intervals; what a rule that needs no model reaches (" + strings.Join(names, "; ") + "); and what is left of ours when the rule is taken out.",
		plot.Forest("Rank correlation with the published medians", "Spearman's ρ", -1, 1, []string{"ours", "the rule alone", "ours with the rule taken out"}, lines)}}
}

// distributions show the losses after transfer by what models differ in.
func distributions(s, published *series.Series) section {
	sec := section{Title: "What decides the loss after transfer", Text: []string{
		"Boxes reach from the lower to the upper quartile of the losses on the target, with the median; whiskers end at the 5th and 95th percentile; the bar beside a box is the 95 % interval of its median. Where models are few, each is a dot. Ours and the published ones have one axis. " + focusNote(s) + "Both metrics agree here: the loss on the target is that of the kept weights." + provenance(s),
	}}
	for _, f := range []series.Factor{series.ByImages, series.ByFrozen, series.ByRates} {
		part := s.Balanced(f)
		var theirs *series.Series
		if published != nil {
			theirs = published.Balanced(f)
		}
		if len(part.Groups(f, part.Final)) < 2 && (theirs == nil || len(theirs.Groups(f, theirs.Final)) < 2) {
			continue
		}
		row := boxes("by-"+strings.ReplaceAll(f.Name, " ", "-"), "Loss on the target after transfer by "+f.Name+".",
			"loss after transfer by "+f.Name, f.Name, plot.LossLabel, []string{""}, part, theirs, func(s *series.Series) [][]stats.Group {
				return [][]stats.Group{s.Groups(f, s.Final)}
			})
		if n := len(part.Transfers); n < len(s.Transfers) {
			row[0].Caption += fmt.Sprintf(" Of our %d models, the %d that differ in this alone.", len(s.Transfers), n)
		}
		sec.Rows = append(sec.Rows, row)
	}
	if s.Axis == series.AxisStructure {
		return sec // eighteen targets are in the heat map
	}
	sec.Rows = append(sec.Rows, boxes("by-target", "Loss on the target after transfer by target.",
		"loss after transfer by target", "target: "+s.Unit(), plot.LossLabel, []string{""}, s, published, func(s *series.Series) [][]stats.Group {
			return [][]stats.Group{labelled(s, s.ByTarget())}
		}))
	return sec
}

// focusNote says where the findings leave out what the boxes have.
func focusNote(s *series.Series) string {
	if s.Axis != series.AxisDefocus {
		return ""
	}
	return "Transfers to 0 nm are among them; findings 1 to 3 leave these out, as the paper's figure 6.1 does. "
}

// labelled writes domains as an axis has them.
func labelled(s *series.Series, g []stats.Group) []stats.Group {
	for i := range g {
		g[i].Level = s.Label(g[i].Level)
	}
	return g
}

// spreads shows the out-of-distribution spread by source, and the maps of it.
func spreads(s, published *series.Series) section {
	sec := section{
		Title: "Out-of-distribution spread",
		Text:  []string{"The spread of a model is the standard deviation of its losses over all domains but the one in focus. The maps are of the median losses, as the paper's figure 8.1 has them: their spread after transfer, and that divided by the spread before, where below 1 (blue) transfer makes models more even. " + byKept},
		Rows: [][]figure{boxes("spread", "Spread of the models by pretraining domain, before and after transfer.",
			"spread over the domains", "pretrained at "+s.Unit(), "standard deviation of the loss", []string{"before transfer", "after transfer"}, s, published, func(s *series.Series) [][]stats.Group {
				before, after := s.SpreadsBySource()
				return [][]stats.Group{labelled(s, before), labelled(s, after)}
			})},
	}
	var spread, change []*stats.Matrix
	for _, x := range []*series.Series{s, published} {
		if x != nil {
			a, b := x.Generalisation()
			spread, change = append(spread, a), append(change, b)
		}
	}
	at := func(who string) int {
		if who == "Ours" {
			return 0
		}
		return 1
	}
	sec.Rows = append(sec.Rows,
		pair("generalisation", "Standard deviation of the median losses over the domains out of focus, after transfer; outlined before it.", s, published, func(who string, s *series.Series) *plot.Drawing {
			return plot.Maps(s, spread[at(who)], plot.ScaleOf(spread...), who+": spread after transfer", "pretrained at", "transferred to "+s.Unit(), "standard deviation of the loss")
		}),
		pair("generalisation-change", "The same, divided by the spread before transfer.", s, published, func(who string, s *series.Series) *plot.Drawing {
			return plot.Changes(s, change[at(who)], plot.ScaleOf(change...), who+": spread, after to before", "pretrained at", "transferred to "+s.Unit(), "ratio of spreads")
		}))
	return sec
}

// against compares single-stage training with transfer over the number of target
// images; nil where the input has no single-stage models.
func (in *Input) against(s *series.Series) (*section, error) {
	ours := claims.Evidence{Transfers: s, Singles: s}
	if in.Companion != nil {
		if other := in.Companion.Series(s.Metric); len(other.Singles) > 0 {
			ours.Singles = other
		} else if len(other.Transfers) > 0 {
			ours.Transfers = other
		}
	}
	if len(ours.Singles.Singles) == 0 {
		return nil, nil
	}
	rows := []figure{{"single-stage", "Ours. " + againstCaption, curves("Ours", ours)}}
	if s.Axis == series.AxisDefocus {
		t, err := series.PublishedDefocus()
		if err != nil {
			return nil, err
		}
		b, err := series.PublishedBaseline()
		if err != nil {
			return nil, err
		}
		rows = append(rows, fromPublished("single-stage", againstCaption, curves("Published", claims.Evidence{Transfers: t, Singles: b})))
	}
	sec := &section{Title: "Single-stage training and transfer", Rows: [][]figure{rows}}
	if len(ours.Transfers.Transfers) == 0 {
		sec.Text = append(sec.Text, "No transfers of the defocus series have been reproduced at this profile, so that ours shows single-stage training alone.")
	}
	if len(s.Singles) > 0 {
		var published *series.Series
		if s.Axis == series.AxisDefocus {
			var err error
			if published, err = series.PublishedBaseline(); err != nil {
				return nil, err
			}
		}
		ms := []*stats.Matrix{s.Mixtures()}
		if published != nil {
			ms = append(ms, published.Mixtures())
		}
		sec.Rows = append(sec.Rows, pair("mixtures", "Least validation loss on a domain (column) of models trained on it together with another (row), median over mixtures and rates.", s, published, func(who string, s *series.Series) *plot.Drawing {
			return plot.HeatMap(s, s.Mixtures(), plot.ScaleOf(ms...), who+": single-stage training", "trained together with")
		}))
	}
	return sec, nil
}

const againstCaption = "Median loss on a domain (as published: the least over the epochs; bars are 95 % intervals) over the number of its images that training saw: single-stage training on a mixture with another domain, and transfer from another domain with nothing frozen (dashed)."

// curves draws the median losses of single-stage models and transfers over the
// number of images of the evaluated domain.
func curves(who string, e claims.Evidence) *plot.Drawing {
	type key struct {
		name   string
		dashed bool
	}
	collect := func(e claims.Evidence) map[key]map[int]*stats.Group {
		values := map[key]map[int]*stats.Group{}
		add := func(k key, images, observation int, v float64) {
			if math.IsNaN(v) {
				return
			}
			if values[k] == nil {
				values[k] = map[int]*stats.Group{}
			}
			if values[k][images] == nil {
				values[k][images] = &stats.Group{}
			}
			values[k][images].Add(observation, v)
		}
		for i, m := range e.Singles.Singles {
			for k := range 2 {
				add(key{"single stage " + format.Plain(m.Rate), false}, m.Images[k], i, m.Loss[k])
			}
		}
		for i := range e.Transfers.Transfers {
			if o := &e.Transfers.Transfers[i]; o.Frozen == study.FreezeNone {
				add(key{"transfer " + format.Plain(o.PretrainRate) + " → " + format.Plain(o.Rate), true}, o.Images, i, e.Transfers.Final(o))
			}
		}
		return values
	}
	along := func(of map[int]*stats.Group) (g []stats.Group) {
		for _, n := range slices.Sorted(maps.Keys(of)) {
			g = append(g, *of[n])
		}
		return g
	}
	values := collect(e)
	order := slices.SortedFunc(maps.Keys(values), func(a, b key) int {
		if a.dashed != b.dashed {
			if a.dashed {
				return 1
			}
			return -1
		}
		return strings.Compare(a.name, b.name)
	})
	var marks []float64
	var curves []plot.Curve
	for _, k := range order {
		c := plot.Curve{Name: k.name, Dashed: k.dashed}
		for _, n := range slices.Sorted(maps.Keys(values[k])) {
			c.Points = append(c.Points, [2]float64{float64(n), stats.Median(values[k][n].Values)})
			if !slices.Contains(marks, float64(n)) {
				marks = append(marks, float64(n))
			}
		}
		units, redraws := e.Singles.SingleUnits(), e.Singles.Redraws
		if k.dashed {
			units, redraws = e.Transfers.Units(), e.Transfers.Redraws
		}
		for _, x := range series.Bootstrap(stats.NewResampler(units), len(c.Points), redraws, func(at series.Redraw) stats.Statistic {
			return stats.Medians(along(collect(claims.Evidence{Transfers: at(e.Transfers), Singles: at(e.Singles)})[k]))
		}) {
			low, high := math.NaN(), math.NaN()
			if i := x.Interval(); i != nil {
				low, high = i[0], i[1]
			}
			c.Low, c.High = append(c.Low, low), append(c.High, high)
		}
		curves = append(curves, c)
	}
	slices.Sort(marks)
	return plot.Lines{
		Title: who + ": loss over images of the evaluated domain", X: "images of the evaluated domain", Y: plot.LossLabel,
		Curves: curves, Marks: marks, LogX: true, Dots: true,
	}.Draw()
}

// histories plots the validation loss on the target and the training loss over
// the epochs of both stages: for each frozen part or learning rate the median over
// models, and for the validation loss the quartiles.
func (in *Input) histories(s *series.Series) (section, error) {
	var ours []series.Path
	for _, m := range in.Models {
		p := series.Path{Name: m.Run.Frozen}
		if in.Plan.Study.Kind == study.Mixture {
			p.Name = format.Plain(m.Run.LearningRate)
		}
		for _, h := range []*store.History{m.Pretrain, m.Final} {
			if h == nil {
				continue
			}
			if h == m.Pretrain {
				p.Pretraining = len(h.Epochs)
			}
			for _, e := range h.Epochs {
				p.Validation = append(p.Validation, in.Loss(e, m.Run.Target.Key))
				p.Training = append(p.Training, e.TrainLoss-in.offset())
			}
		}
		ours = append(ours, p)
	}
	caption := "Loss after every epoch: validation on the target domain, with the median over models and the quartiles (shaded), and, dashed, the median training loss."
	if ours[0].Pretraining > 0 {
		caption += " Transfer begins at the vertical line, from the best epoch of the pretraining; before it, training is on the source's images."
	}
	what := "frozen part"
	if in.Plan.Study.Kind == study.Mixture {
		what = "learning rate"
	}
	row := []figure{{"histories", "Ours. " + caption, paths("Ours: losses by "+what, ours)}}
	if s.Axis == series.AxisDose && len(s.Transfers) > 0 {
		n, err := series.PublishedNoise(series.AsPublished)
		if err != nil {
			return section{}, err
		}
		row = append(row, fromPublished("histories", caption, paths("Published: losses by "+what, n.Paths)))
	}
	return section{Title: "Loss histories", Rows: [][]figure{row}}, nil
}

// paths draws the medians of paths by name.
func paths(title string, all []series.Path) *plot.Drawing {
	groups := map[string][]series.Path{}
	last := 0
	for _, p := range all {
		groups[p.Name] = append(groups[p.Name], p)
		last = max(last, len(p.Validation))
	}
	names := slices.Sorted(maps.Keys(groups))
	at := func(name string, e int, of func(series.Path) []float64) []float64 {
		var v []float64
		for _, p := range groups[name] {
			if l := of(p); e < len(l) {
				v = append(v, l[e])
			}
		}
		return v
	}
	var validation, training []plot.Curve
	for i, name := range names {
		v := plot.Curve{Name: name + ", validation"}
		t := plot.Curve{Name: name + ", training", Dashed: true, Like: i + 1}
		for e := range last {
			x := at(name, e, func(p series.Path) []float64 { return p.Validation })
			v.Points = append(v.Points, [2]float64{float64(e + 1), stats.Median(x)})
			v.Low, v.High = append(v.Low, stats.Quantile(x, 0.25)), append(v.High, stats.Quantile(x, 0.75))
			t.Points = append(t.Points, [2]float64{float64(e + 1), stats.Median(at(name, e, func(p series.Path) []float64 { return p.Training }))})
		}
		validation, training = append(validation, v), append(training, t)
	}
	boundary := 0.0
	if all[0].Pretraining > 0 {
		boundary = float64(all[0].Pretraining) + 0.5
	}
	return plot.Lines{
		Title: title, X: "epoch", Y: "loss above its minimum",
		Curves: append(validation, training...), Marks: plot.EpochTicks(last), Boundary: boundary,
	}.Draw()
}

// particles are the histograms of the particles' radii; nil without any.
func (in *Input) particles() *section {
	var panels []plot.Panel
	at := map[string]int{}
	for i := range in.Plan.Domains {
		d := &in.Plan.Domains[i]
		radii := in.Particles[d.Key]
		if len(radii) == 0 {
			continue
		}
		c := series.CrystalOf(d.Key)
		k, ok := at[c]
		if !ok {
			k, at[c] = len(panels), len(panels)
			panels = append(panels, plot.Panel{Title: strings.ReplaceAll(c, "_", " ")})
		}
		size := d.Size
		if size == "" {
			size = "particles"
		}
		panels[k].Groups = append(panels[k].Groups, stats.Group{Level: size, Values: radii})
	}
	if len(panels) == 0 {
		return nil
	}
	return &section{Title: "Particle sizes", Rows: [][]figure{{{
		"sizes", "Radii of the simulated particles in the training and validation images, in counts per bin, by crystal and size class.",
		plot.Histograms("Radii of the particles", "radius in Å", panels),
	}}}}
}
