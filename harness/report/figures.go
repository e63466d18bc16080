package report

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/study"
)

// figure is a drawing with its caption, and the name of its file without
// extension.
type figure struct {
	Name    string
	Caption string
	drawing *svg
}

// Table is the figure's values for those who do not see it, or copy them; nil
// for a figure that is not of a matrix.
func (f figure) Table() *grid { return f.drawing.table }

// grid is a table of text with headings on two sides.
type grid struct {
	Columns []string
	Rows    []gridRow
}

type gridRow struct {
	Name  string
	Cells []string
}

// SVG is the drawing for the page.
func (f figure) SVG() template.HTML { return template.HTML(f.drawing.inline()) }

// section groups figures under a heading; figures of a row stand side by side,
// ours first.
type section struct {
	Title string
	Text  []string
	Rows  [][]figure
}

// pair is a row of the same drawing of ours and, where there is one, of the
// published series.
func pair(name, caption string, ours, published *series, draw func(who string, s *series) *svg) []figure {
	row := []figure{{name, "Ours. " + caption, draw("Ours", ours)}}
	if published != nil {
		row = append(row, fromPublished(name, caption, draw("Published", published)))
	}
	return row
}

// fromPublished is a figure of the published results.
func fromPublished(name, caption string, drawing *svg) figure {
	return figure{name + "-published", "Published results (Rangel DaCosta et al. 2025, CC BY 4.0). " + caption, drawing.credit(reference.Credit)}
}

// sections are all figures of the input.
func (in *Input) sections() ([]section, error) {
	s := in.series()
	published, err := publishedLike(s.axis)
	if err != nil {
		return nil, err
	}
	var all []section
	if len(s.models) > 0 {
		all = append(all, matrices(s, published), distributions(s, published))
		if s.axis == axisDefocus {
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
func matrices(s, published *series) section {
	sec := section{Title: "Before and after transfer", Text: []string{
		"Each cell is the median over models of the best validation loss: before transfer on every domain, after transfer on the domain transferred to. Outlined cells are a model's own pretraining domain; after transfer they repeat the value of the pretraining. Each pair of maps has one colour scale.",
	}}
	if b, a := s.crystals(); s.axis == axisStructure && b != nil {
		scale := scaleOf(b, a)
		sec.Rows = append(sec.Rows, []figure{
			{"before-crystals", "Ours. Before transfer, sizes taken together.", heatMap(s, b, scale, "Ours: before transfer, by crystal", "pretrained on")},
			{"after-crystals", "Ours. After transfer, sizes taken together.", heatMap(s, a, scale, "Ours: after transfer, by crystal", "pretrained on")},
		})
	}
	var rows [][]figure
	for k, stage := range []string{"before", "after"} {
		rows = append(rows, pair(stage, strings.ToUpper(stage[:1])+stage[1:]+" transfer.", s, published, func(who string, s *series) *svg {
			b, a := s.transfers()
			return heatMap(s, []*Matrix{b, a}[k], scaleOf(b, a), who+": "+stage+" transfer", "pretrained "+s.preposition())
		}))
	}
	if published == nil && len(s.domains) <= 12 { // narrow enough for each other
		rows = [][]figure{slices.Concat(rows...)}
	}
	sec.Rows = append(sec.Rows, rows...)
	return sec
}

// distributions show the losses after transfer by what models differ in.
func distributions(s, published *series) section {
	sec := section{Title: "What decides the loss after transfer", Text: []string{
		"Boxes reach from the lower to the upper quartile of the best losses on the target, with the median; whiskers end at the 5th and 95th percentile. Where models are few, each is a dot.",
	}}
	for _, f := range []factor{byImages, byFrozen, byRates} {
		ours := s.groups(f, s.final)
		if len(ours) < 2 && (published == nil || len(published.groups(f, published.final)) < 2) {
			continue
		}
		sec.Rows = append(sec.Rows, pair("by-"+strings.ReplaceAll(f.name, " ", "-"), "Loss on the target after transfer by "+f.name+".", s, published, func(who string, s *series) *svg {
			return boxes(who+": loss after transfer by "+f.name, f.name, lossLabel, []string{""}, [][]group{s.groups(f, s.final)})
		}))
	}
	if s.axis == axisStructure {
		return sec // eighteen targets are in the heat map
	}
	sec.Rows = append(sec.Rows, pair("by-target", "Loss on the target after transfer by target.", s, published, func(who string, s *series) *svg {
		g := s.byTarget()
		for i := range g {
			g[i].level = s.label(g[i].level)
		}
		return boxes(who+": loss after transfer by target", "target: "+s.unit(), lossLabel, []string{""}, [][]group{g})
	}))
	return sec
}

// spreads shows the out-of-distribution spread by source.
func spreads(s, published *series) section {
	return section{
		Title: "Out-of-distribution spread",
		Text:  []string{"The spread of a model is the standard deviation of its best losses over all domains but the one in focus."},
		Rows: [][]figure{pair("spread", "Spread of the models by pretraining domain, before and after transfer.", s, published, func(who string, s *series) *svg {
			before, after := s.spreadsBySource()
			for i := range before {
				before[i].level = s.label(before[i].level)
				after[i].level = before[i].level
			}
			return boxes(who+": spread over the domains", "pretrained at "+s.unit(), "standard deviation of the loss", []string{"before transfer", "after transfer"}, [][]group{before, after})
		})},
	}
}

// against compares single-stage training with transfer over the number of target
// images; nil where the input has no single-stage models.
func (in *Input) against(s *series) (*section, error) {
	ours := evidence{transfers: s, singles: s}
	if in.Companion != nil {
		if other := in.Companion.series(); len(other.singles) > 0 {
			ours.singles = other
		} else if len(other.models) > 0 {
			ours.transfers = other
		}
	}
	if len(ours.singles.singles) == 0 {
		return nil, nil
	}
	rows := []figure{{"single-stage", "Ours. " + againstCaption, ours.curves("Ours")}}
	if s.axis == axisDefocus {
		t, err := publishedDefocus()
		if err != nil {
			return nil, err
		}
		b, err := publishedBaseline()
		if err != nil {
			return nil, err
		}
		rows = append(rows, fromPublished("single-stage", againstCaption, evidence{t, b}.curves("Published")))
	}
	sec := &section{Title: "Single-stage training and transfer", Rows: [][]figure{rows}}
	if len(ours.transfers.models) == 0 {
		sec.Text = append(sec.Text, "No transfers of the defocus series have been reproduced at this profile, so that ours shows single-stage training alone.")
	}
	if len(s.singles) > 0 {
		var published *series
		if s.axis == axisDefocus {
			var err error
			if published, err = publishedBaseline(); err != nil {
				return nil, err
			}
		}
		sec.Rows = append(sec.Rows, pair("mixtures", "Best validation loss on a domain (column) of models trained on it together with another (row), median over mixtures and rates.", s, published, func(who string, s *series) *svg {
			m := s.mixtures()
			return heatMap(s, m, scaleOf(m), who+": single-stage training", "trained together with")
		}))
	}
	return sec, nil
}

const againstCaption = "Median of the best loss on a domain over the number of its images that training saw: single-stage training on a mixture with another domain, and transfer from another domain with nothing frozen (dashed)."

// curves draws the median losses of single-stage models and transfers over the
// number of images of the evaluated domain.
func (e evidence) curves(who string) *svg {
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
	for _, m := range e.singles.singles {
		for k := range 2 {
			add(key{"single stage " + rate(m.rate), false}, m.images[k], m.loss[k])
		}
	}
	for i := range e.transfers.models {
		if o := &e.transfers.models[i]; o.frozen == study.FreezeNone {
			add(key{"transfer " + rate(o.pretrainRate) + " → " + rate(o.rate), true}, o.images, e.transfers.final(o))
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
	var curves []curve
	for _, k := range order {
		c := curve{name: k.name, dashed: k.dashed}
		for _, n := range marks {
			if v := values[k][int(n)]; v != nil {
				c.points = append(c.points, [2]float64{n, median(v)})
			}
		}
		curves = append(curves, c)
	}
	return lines(who+": loss over images of the evaluated domain", "images of the evaluated domain", lossLabel, curves, marks, true, 0, true)
}

// mixtures are the medians of single-stage models: the loss on a domain, by
// column, of models trained on it and another, by row.
func (s *series) mixtures() *Matrix {
	seen := map[string]bool{}
	for _, m := range s.singles {
		seen[m.domains[0]], seen[m.domains[1]] = true, true
	}
	list := s.those(seen)
	c := newCells(list, list)
	for _, m := range s.singles {
		c.add(m.domains[1], m.domains[0], m.loss[0])
		c.add(m.domains[0], m.domains[1], m.loss[1])
	}
	return c.medians()
}

// histories plots the validation loss on the target over the epochs of both
// stages, the median over models of each frozen part or learning rate.
func (in *Input) histories(s *series) (section, error) {
	var ours []path
	for _, m := range in.Models {
		p := path{name: m.Run.Frozen}
		if in.Plan.Study.Kind == study.Mixture {
			p.name = rate(m.Run.LearningRate)
		}
		if m.Pretrain != nil {
			p.pretraining = len(m.Pretrain.Epochs)
			for _, e := range m.Pretrain.Epochs {
				p.loss = append(p.loss, in.loss(e, m.Run.Target.Key))
			}
		}
		for _, e := range m.Final.Epochs {
			p.loss = append(p.loss, in.loss(e, m.Run.Target.Key))
		}
		ours = append(ours, p)
	}
	caption := "Validation loss on the target domain after every epoch, median over models."
	if ours[0].pretraining > 0 {
		caption += " Transfer begins at the dashed line, from the best epoch of the pretraining."
	}
	what := "frozen part"
	if in.Plan.Study.Kind == study.Mixture {
		what = "learning rate"
	}
	row := []figure{{"histories", "Ours. " + caption, paths("Ours: loss on the target by "+what, ours)}}
	if s.axis == axisDose && len(s.models) > 0 {
		n, err := publishedNoise()
		if err != nil {
			return section{}, err
		}
		row = append(row, fromPublished("histories", caption, paths("Published: loss on the target by "+what, n.paths)))
	}
	return section{Title: "Loss histories", Rows: [][]figure{row}}, nil
}

// paths draws the medians of paths by name.
func paths(title string, all []path) *svg {
	groups := map[string][]path{}
	var order []string
	last := 0
	for _, p := range all {
		if groups[p.name] == nil {
			order = append(order, p.name)
		}
		groups[p.name] = append(groups[p.name], p)
		last = max(last, len(p.loss))
	}
	slices.Sort(order)
	var curves []curve
	for _, name := range order {
		c := curve{name: name}
		for e := range last {
			var at []float64
			for _, p := range groups[name] {
				if e < len(p.loss) {
					at = append(at, p.loss[e])
				}
			}
			c.points = append(c.points, [2]float64{float64(e + 1), median(at)})
		}
		curves = append(curves, c)
	}
	boundary := 0.0
	if all[0].pretraining > 0 {
		boundary = float64(all[0].pretraining) + 0.5
	}
	return lines(title, "epoch", lossLabel, curves, epochs(last), false, boundary, last < 30)
}

// particles are the histograms of the particles' radii; nil without any.
func (in *Input) particles() *section {
	var panels []panel
	at := map[string]int{}
	for i := range in.Plan.Domains {
		d := &in.Plan.Domains[i]
		radii := in.Particles[d.Key]
		if len(radii) == 0 {
			continue
		}
		c := crystal(d.Key)
		k, ok := at[c]
		if !ok {
			k, at[c] = len(panels), len(panels)
			panels = append(panels, panel{title: strings.ReplaceAll(c, "_", " ")})
		}
		size := d.Size
		if size == "" {
			size = "particles"
		}
		panels[k].groups = append(panels[k].groups, group{size, radii})
	}
	if len(panels) == 0 {
		return nil
	}
	return &section{Title: "Particle sizes", Rows: [][]figure{{{
		"sizes", "Radii of the simulated particles in the training and validation images, in counts per bin, by crystal and size class.",
		histograms("Radii of the particles", "radius in Å", panels),
	}}}}
}

func corr(v float64) string {
	if math.IsNaN(v) {
		return "undefined (too few or equal values)"
	}
	return strings.Replace(fmt.Sprintf("%+.2f", v), "-", "−", 1)
}
