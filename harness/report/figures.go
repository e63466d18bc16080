package report

import (
	"html/template"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// figure is a drawing with its caption, and the name of its file without
// extension.
type figure struct {
	Name    string
	Caption string
	drawing *plot.Drawing
}

// Table is the figure's values for those who do not see it, or copy them; nil
// for a figure that is not of a matrix.
func (f figure) Table() *plot.Table { return f.drawing.Table }

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

// fromPublished is a figure of the published results.
func fromPublished(name, caption string, drawing *plot.Drawing) figure {
	return figure{name + "-published", "Published results (Rangel DaCosta et al. 2025, CC BY 4.0). " + caption, drawing.Credit(reference.Credit)}
}

// sections are all figures of the input.
func (in *Input) sections() ([]section, error) {
	s := in.series()
	published, err := series.PublishedOf(s.Axis)
	if err != nil {
		return nil, err
	}
	var all []section
	if len(s.Transfers) > 0 {
		all = append(all, matrices(s, published), distributions(s, published))
		if s.Axis == series.AxisDefocus {
			all = append(all, spreads(s, published))
		}
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

// matrices are the heat maps before and after transfer.
func matrices(s, published *series.Series) section {
	sec := section{Title: "Before and after transfer", Text: []string{
		"Each cell is the median over models of the best validation loss: before transfer on every domain, after transfer on the domain transferred to. Outlined cells are a model's own pretraining domain; after transfer they repeat the value of the pretraining. Each pair of maps has one colour scale.",
	}}
	if b, a := s.CrystalMedians(); s.Axis == series.AxisStructure && b != nil {
		scale := plot.ScaleOf(b, a)
		sec.Rows = append(sec.Rows, []figure{
			{"before-crystals", "Ours. Before transfer, sizes taken together.", plot.HeatMap(s, b, scale, "Ours: before transfer, by crystal", "pretrained on")},
			{"after-crystals", "Ours. After transfer, sizes taken together.", plot.HeatMap(s, a, scale, "Ours: after transfer, by crystal", "pretrained on")},
		})
	}
	var rows [][]figure
	for k, stage := range []string{"before", "after"} {
		rows = append(rows, pair(stage, strings.ToUpper(stage[:1])+stage[1:]+" transfer.", s, published, func(who string, s *series.Series) *plot.Drawing {
			b, a := s.Medians()
			return plot.HeatMap(s, []*stats.Matrix{b, a}[k], plot.ScaleOf(b, a), who+": "+stage+" transfer", "pretrained "+s.Preposition())
		}))
	}
	if published == nil && len(s.Domains) <= 12 { // narrow enough for each other
		rows = [][]figure{slices.Concat(rows...)}
	}
	sec.Rows = append(sec.Rows, rows...)
	return sec
}

// distributions show the losses after transfer by what models differ in.
func distributions(s, published *series.Series) section {
	sec := section{Title: "What decides the loss after transfer", Text: []string{
		"Boxes reach from the lower to the upper quartile of the best losses on the target, with the median; whiskers end at the 5th and 95th percentile. Where models are few, each is a dot.",
	}}
	for _, f := range []series.Factor{series.ByImages, series.ByFrozen, series.ByRates} {
		ours := s.Groups(f, s.Final)
		if len(ours) < 2 && (published == nil || len(published.Groups(f, published.Final)) < 2) {
			continue
		}
		sec.Rows = append(sec.Rows, pair("by-"+strings.ReplaceAll(f.Name, " ", "-"), "Loss on the target after transfer by "+f.Name+".", s, published, func(who string, s *series.Series) *plot.Drawing {
			return plot.Boxes(who+": loss after transfer by "+f.Name, f.Name, plot.LossLabel, []string{""}, [][]stats.Group{s.Groups(f, s.Final)})
		}))
	}
	if s.Axis == series.AxisStructure {
		return sec // eighteen targets are in the heat map
	}
	sec.Rows = append(sec.Rows, pair("by-target", "Loss on the target after transfer by target.", s, published, func(who string, s *series.Series) *plot.Drawing {
		g := s.ByTarget()
		for i := range g {
			g[i].Level = s.Label(g[i].Level)
		}
		return plot.Boxes(who+": loss after transfer by target", "target: "+s.Unit(), plot.LossLabel, []string{""}, [][]stats.Group{g})
	}))
	return sec
}

// spreads shows the out-of-distribution spread by source.
func spreads(s, published *series.Series) section {
	return section{
		Title: "Out-of-distribution spread",
		Text:  []string{"The spread of a model is the standard deviation of its best losses over all domains but the one in focus."},
		Rows: [][]figure{pair("spread", "Spread of the models by pretraining domain, before and after transfer.", s, published, func(who string, s *series.Series) *plot.Drawing {
			before, after := s.SpreadsBySource()
			for i := range before {
				before[i].Level = s.Label(before[i].Level)
				after[i].Level = before[i].Level
			}
			return plot.Boxes(who+": spread over the domains", "pretrained at "+s.Unit(), "standard deviation of the loss", []string{"before transfer", "after transfer"}, [][]stats.Group{before, after})
		})},
	}
}

// against compares single-stage training with transfer over the number of target
// images; nil where the input has no single-stage models.
func (in *Input) against(s *series.Series) (*section, error) {
	ours := claims.Evidence{Transfers: s, Singles: s}
	if in.Companion != nil {
		if other := in.Companion.series(); len(other.Singles) > 0 {
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
		sec.Rows = append(sec.Rows, pair("mixtures", "Best validation loss on a domain (column) of models trained on it together with another (row), median over mixtures and rates.", s, published, func(who string, s *series.Series) *plot.Drawing {
			m := s.Mixtures()
			return plot.HeatMap(s, m, plot.ScaleOf(m), who+": single-stage training", "trained together with")
		}))
	}
	return sec, nil
}

const againstCaption = "Median of the best loss on a domain over the number of its images that training saw: single-stage training on a mixture with another domain, and transfer from another domain with nothing frozen (dashed)."

// curves draws the median losses of single-stage models and transfers over the
// number of images of the evaluated domain.
func curves(who string, e claims.Evidence) *plot.Drawing {
	type key struct {
		name   string
		dashed bool
	}
	var order []key
	values := map[key]map[int][]float64{}
	var marks []float64
	add := func(k key, images int, v float64) {
		if values[k] == nil {
			values[k] = map[int][]float64{}
			order = append(order, k)
		}
		values[k][images] = append(values[k][images], v)
		if !slices.Contains(marks, float64(images)) {
			marks = append(marks, float64(images))
		}
	}
	for _, m := range e.Singles.Singles {
		for k := range 2 {
			add(key{"single stage " + format.Plain(m.Rate), false}, m.Images[k], m.Loss[k])
		}
	}
	for i := range e.Transfers.Transfers {
		if o := &e.Transfers.Transfers[i]; o.Frozen == study.FreezeNone {
			add(key{"transfer " + format.Plain(o.PretrainRate) + " → " + format.Plain(o.Rate), true}, o.Images, e.Transfers.Final(o))
		}
	}
	slices.Sort(marks)
	slices.SortStableFunc(order, func(a, b key) int {
		if a.dashed != b.dashed {
			if a.dashed {
				return 1
			}
			return -1
		}
		return strings.Compare(a.name, b.name)
	})
	var curves []plot.Curve
	for _, k := range order {
		c := plot.Curve{Name: k.name, Dashed: k.dashed}
		for _, n := range marks {
			if v := values[k][int(n)]; v != nil {
				c.Points = append(c.Points, [2]float64{n, stats.Median(v)})
			}
		}
		curves = append(curves, c)
	}
	return plot.Lines{
		Title: who + ": loss over images of the evaluated domain", X: "images of the evaluated domain", Y: plot.LossLabel,
		Curves: curves, Marks: marks, LogX: true, Dots: true,
	}.Draw()
}

// histories plots the validation loss on the target over the epochs of both
// stages, the median over models of each frozen part or learning rate.
func (in *Input) histories(s *series.Series) (section, error) {
	var ours []series.Path
	for _, m := range in.Models {
		p := series.Path{Name: m.Run.Frozen}
		if in.Plan.Study.Kind == study.Mixture {
			p.Name = format.Plain(m.Run.LearningRate)
		}
		if m.Pretrain != nil {
			p.Pretraining = len(m.Pretrain.Epochs)
			for _, e := range m.Pretrain.Epochs {
				p.Loss = append(p.Loss, in.loss(e, m.Run.Target.Key))
			}
		}
		for _, e := range m.Final.Epochs {
			p.Loss = append(p.Loss, in.loss(e, m.Run.Target.Key))
		}
		ours = append(ours, p)
	}
	caption := "Validation loss on the target domain after every epoch, median over models."
	if ours[0].Pretraining > 0 {
		caption += " Transfer begins at the dashed line, from the best epoch of the pretraining."
	}
	what := "frozen part"
	if in.Plan.Study.Kind == study.Mixture {
		what = "learning rate"
	}
	row := []figure{{"histories", "Ours. " + caption, paths("Ours: loss on the target by "+what, ours)}}
	if s.Axis == series.AxisDose && len(s.Transfers) > 0 {
		n, err := series.PublishedNoise()
		if err != nil {
			return section{}, err
		}
		row = append(row, fromPublished("histories", caption, paths("Published: loss on the target by "+what, n.Paths)))
	}
	return section{Title: "Loss histories", Rows: [][]figure{row}}, nil
}

// paths draws the medians of paths by name.
func paths(title string, all []series.Path) *plot.Drawing {
	groups := map[string][]series.Path{}
	var order []string
	last := 0
	for _, p := range all {
		if groups[p.Name] == nil {
			order = append(order, p.Name)
		}
		groups[p.Name] = append(groups[p.Name], p)
		last = max(last, len(p.Loss))
	}
	slices.Sort(order)
	var curves []plot.Curve
	for _, name := range order {
		c := plot.Curve{Name: name}
		for e := range last {
			var at []float64
			for _, p := range groups[name] {
				if e < len(p.Loss) {
					at = append(at, p.Loss[e])
				}
			}
			c.Points = append(c.Points, [2]float64{float64(e + 1), stats.Median(at)})
		}
		curves = append(curves, c)
	}
	boundary := 0.0
	if all[0].Pretraining > 0 {
		boundary = float64(all[0].Pretraining) + 0.5
	}
	return plot.Lines{
		Title: title, X: "epoch", Y: plot.LossLabel,
		Curves: curves, Marks: plot.EpochTicks(last), Boundary: boundary, Dots: last < 30,
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
