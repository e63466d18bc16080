package serve

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/artifacts/reference"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// filter is an axis of a study by which its models are chosen.
type filter struct {
	Name, Label string
	Values      []option
	Chosen      string
}

type option struct {
	Value, Text string
	Selected    bool
}

// axes are what models of a transfer study differ in.
var axes = []struct {
	name, label string
	of          func(c *series.Config) string
}{
	{"source", "pretrained on", func(c *series.Config) string { return c.Source }},
	{"target", "transferred to", func(c *series.Config) string { return c.Target }},
	{"pretrain_rate", "learning rate of pretraining", func(c *series.Config) string { return format.Plain(c.PretrainRate) }},
	{"rate", "learning rate of transfer", func(c *series.Config) string { return format.Plain(c.Rate) }},
	{"images", "transfer images", func(c *series.Config) string { return format.Plain(float64(c.Images)) }},
	{"frozen", "frozen part", func(c *series.Config) string { return c.Frozen }},
}

// metrics are what a figure's losses may be.
var metrics = []series.Metric{series.Kept, series.AsPublished}

// only is the part of a series whose models have what a query asks for.
func only(s *series.Series, q url.Values) *series.Series {
	if s == nil {
		return nil
	}
	out := &series.Series{Axis: s.Axis, Metric: s.Metric, Domains: s.Domains, Shared: s.Shared, Images: s.Images, Epochs: s.Epochs, Singles: s.Singles}
	for _, t := range s.Transfers {
		keep := true
		for _, a := range axes {
			want := q.Get(a.name)
			keep = keep && (want == "" || a.of(&t.Config) == want)
		}
		if keep {
			out.Transfers = append(out.Transfers, t)
		}
	}
	return out
}

// filters are the axes in which a study's models differ.
func filters(p *study.Plan, q url.Values) []filter {
	var all []filter
	for _, a := range axes {
		f := filter{Name: a.name, Label: a.label, Chosen: q.Get(a.name)}
		seen := map[string]bool{}
		for _, r := range p.Runs {
			if r.Kind != study.TransferRun {
				continue
			}
			c := report.ConfigOf(r)
			if v := a.of(&c); !seen[v] {
				seen[v] = true
				text := v
				if a.name == "source" || a.name == "target" {
					text = domainName(p, v)
				}
				f.Values = append(f.Values, option{v, text, v == f.Chosen})
			}
		}
		if len(f.Values) > 1 {
			all = append(all, f)
		}
	}
	return all
}

func domainName(p *study.Plan, key string) string {
	for i := range p.Domains {
		if p.Domains[i].Key == key {
			return p.Domains[i].Name
		}
	}
	return key
}

// figure is a drawing on a page.
type figure struct {
	SVG     template.HTML
	Caption string
	Table   *plot.Table
}

func drawn(d *plot.Drawing, caption string) figure {
	return figure{template.HTML(d.Inline()), caption, &d.Table}
}

// linked are a series' labels with a link from every cell to its models.
type linked struct {
	*series.Series
	query  url.Values
	before bool
}

// Link opens the models of a cell: before transfer those pretrained on the row's
// domain.
func (l linked) Link(row, column string) string {
	q := url.Values{}
	for k, v := range l.query {
		q[k] = v
	}
	q.Set("source", row)
	if !l.before && row != column {
		q.Set("target", column)
	}
	return "runs?" + q.Encode()
}

// study shows a study's figures, ours beside the published ones, of the models that
// the query chooses.
func (s *Server) study(w http.ResponseWriter, r *http.Request) error {
	st, all, err := s.chosen(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	q.Set("study", st.ID)
	metric := series.Kept
	if q.Get("metric") == string(series.AsPublished) {
		metric = series.AsPublished
	}
	models, err := s.results(st)
	if err != nil {
		return err
	}
	in := report.Input{Plan: st.Plan, Models: models}
	ours := only(in.Series(metric), q)
	published, err := series.PublishedOf(ours.Axis, metric)
	if err != nil {
		return err
	}
	if published != nil {
		published = only(published.InOrder(ours.Domains), q)
	}
	var rows [][]figure
	if len(ours.Transfers) > 0 {
		var oursBefore, oursAfter, theirsBefore, theirsAfter *stats.Matrix
		oursBefore, oursAfter = ours.Medians()
		if published != nil && len(published.Transfers) > 0 {
			theirsBefore, theirsAfter = published.Medians()
		}
		scale := plot.ScaleOf(oursBefore, oursAfter, theirsBefore, theirsAfter)
		for k, stage := range []string{"before", "after"} {
			mine, theirs := []*stats.Matrix{oursBefore, oursAfter}[k], []*stats.Matrix{theirsBefore, theirsAfter}[k]
			row := []figure{drawn(plot.HeatMap(linked{ours, chosenOnly(q), k == 0}, mine, scale, "Ours: "+stage+" transfer", "pretrained "+ours.Preposition()),
				"Ours. Medians over the models chosen; a cell opens its models.")}
			if theirs != nil {
				row = append(row, drawn(plot.HeatMap(ours, theirs, scale, "Published: "+stage+" transfer", "pretrained "+ours.Preposition()).Credit(reference.Credit),
					"Published results (Rangel DaCosta et al. 2025, CC BY 4.0), of the models with the same settings."))
			}
			rows = append(rows, row)
		}
		change := plot.ScaleOf(ours.Changes())
		rows = append(rows, []figure{drawn(plot.Changes(linked{ours, chosenOnly(q), false}, ours.Changes(), change, "Ours: loss on the target, after to before", "pretrained "+ours.Preposition(), "transferred to "+ours.Unit(), "ratio of medians"),
			"Below 1 (blue) transfer helps.")})
	} else if len(ours.Singles) > 0 {
		m := ours.Mixtures()
		rows = append(rows, []figure{drawn(plot.Maps(ours, m, plot.ScaleOf(m), "Ours: models of mixtures", "trained on the domain and another", "evaluated "+ours.Preposition()+" "+ours.Unit(), plot.LossLabel), "Ours. Medians over models of the loss on the column's domain.")})
	}
	var metricOptions []option
	for _, m := range metrics {
		metricOptions = append(metricOptions, option{string(m), map[series.Metric]string{series.Kept: "of the weights that are kept", series.AsPublished: "as published: least over the epochs, per domain"}[m], m == metric})
	}
	finished, attempts, err := s.look.take(s.o.Store)
	if err != nil {
		return err
	}
	state, _ := st.listed(finished, attempts)
	missing := ""
	if len(rows) == 0 {
		missing = "No finished model has these settings."
	}
	return s.show(w, r, "study.html", "study", st.Title(), map[string]any{
		"ID": st.ID, "Studies": studyOptions(all, st), "Filters": filters(st.Plan, q), "Metrics": metricOptions, "Rows": rows, "Missing": missing,
		"Shown": len(ours.Transfers) + len(ours.Singles), "States": state, "RunsLink": "runs?" + chosenOnly(q).Encode(),
		"Command": command(st),
	})
}

// command reproduces the study.
func command(st *resolved) string {
	parts := strings.Split(st.ID, "@")
	c := "refocus reproduce " + parts[0]
	if parts[1] != "" {
		c += " --profile " + parts[1]
	}
	if parts[2] != "cpu" {
		c += " --backend " + parts[2]
	}
	return c
}

// chosenOnly is the part of a query that chooses models.
func chosenOnly(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		if len(v) > 0 && v[0] != "" && (k == "study" || slices.ContainsFunc(axes, func(a struct {
			name, label string
			of          func(c *series.Config) string
		}) bool {
			return a.name == k
		})) {
			out.Set(k, v[0])
		}
	}
	return out
}

func studyOptions(all []listed, chosen *resolved) []option {
	var out []option
	found := false
	for _, l := range all {
		out = append(out, option{l.ID, l.Title, l.ID == chosen.ID})
		found = found || l.ID == chosen.ID
	}
	if !found {
		out = append(out, option{chosen.ID, chosen.Title(), true})
	}
	return out
}

// line is a model in a table.
type line struct {
	Digest, ID   string
	Source       string
	Target       string
	Images       int
	Rate, Frozen string
	Before       string
	Loss, Dice   string
	loss         float64
}

// runs lists the finished models that the query chooses, best first.
func (s *Server) runs(w http.ResponseWriter, r *http.Request) error {
	st, all, err := s.chosen(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	q.Set("study", st.ID)
	models, err := s.results(st)
	if err != nil {
		return err
	}
	in := report.Input{Plan: st.Plan, Models: models}
	var lines []line
	for i := range models {
		m := &models[i]
		l, ok := lineOf(&in, st.Plan, m, q)
		if ok {
			lines = append(lines, l)
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int {
		switch {
		case a.loss < b.loss:
			return -1
		case a.loss > b.loss:
			return 1
		}
		return 0
	})
	const most = 500
	total := len(lines)
	lines = lines[:min(most, total)]
	return s.show(w, r, "runs.html", "study", "Models of "+st.Title(), map[string]any{
		"ID": st.ID, "Studies": studyOptions(all, st), "Filters": filters(st.Plan, q), "Lines": lines, "Total": total, "StudyLink": "study?" + chosenOnly(q).Encode(),
	})
}

func lineOf(in *report.Input, p *study.Plan, m *trained.Result, q url.Values) (line, bool) {
	r := m.Run
	if m.Final == nil || m.Final.Best < 1 || m.Final.Best > len(m.Final.Epochs) {
		return line{}, false
	}
	best := m.Final.Epochs[m.Final.Best-1]
	l := line{Digest: m.Digest, ID: r.ID, Images: r.Images, Rate: format.Plain(r.LearningRate), Frozen: r.Frozen, Before: "–"}
	if r.Kind == study.TransferRun {
		c := report.ConfigOf(r)
		for _, a := range axes {
			if want := q.Get(a.name); want != "" && a.of(&c) != want {
				return line{}, false
			}
		}
		l.Source = domainName(p, c.Source)
		if e := m.Pretrain; e != nil && e.Best >= 1 && e.Best <= len(e.Epochs) {
			l.Before = format.Loss(in.Loss(e.Epochs[e.Best-1], r.Target.Key))
		}
	}
	l.Target = r.Target.Name
	l.loss = in.Loss(best, r.Target.Key)
	l.Loss, l.Dice = format.Loss(l.loss), format.Digits(best.Validation[r.Target.Key].Dice, 3)
	return l, true
}
