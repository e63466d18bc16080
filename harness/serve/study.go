package serve

import (
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
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

// axis is something in which a study's models differ.
type axis struct {
	name, label string
	of          func(r *study.Run) string
	// published is the same of a published model, nil where that is not told.
	published func(c *series.Config) string
	domains   bool // its values are keys of domains
}

// axesOf are the axes of a study in which two models differ at least.
func axesOf(p *study.Plan) []axis {
	byKey := map[string]*study.Domain{}
	for i := range p.Domains {
		byKey[p.Domains[i].Key] = &p.Domains[i]
	}
	key := func(d *study.Domain) string {
		if d == nil {
			return ""
		}
		return d.Key
	}
	single := p.Study.Kind != study.Transfer
	name := func(transfer, otherwise string) string {
		if single {
			return otherwise
		}
		return transfer
	}
	all := []axis{
		{"source", name("pretrained on", "mixed with"), func(r *study.Run) string { return key(r.Source) }, func(c *series.Config) string { return c.Source }, true},
		{"target", name("transferred to", "trained on"), func(r *study.Run) string { return key(r.Target) }, func(c *series.Config) string { return c.Target }, true},
	}
	// What domains differ in, where that is several things.
	for _, a := range []struct {
		name string
		of   func(d *study.Domain) string
	}{
		{"crystal", func(d *study.Domain) string { return d.Simulation.Crystal }},
		{"size", func(d *study.Domain) string { return d.Size }},
		{"defocus", func(d *study.Domain) string { return format.Defocus(d.Defocus) }},
		{"dose", func(d *study.Domain) string { return format.Dose(d.Dose) }},
	} {
		values := map[string]bool{}
		for i := range p.Domains {
			if p.Domains[i].Own == nil {
				values[a.of(&p.Domains[i])] = true
			}
		}
		if len(values) < 2 || len(values) == len(p.Domains) {
			continue
		}
		of := func(d *study.Domain) string {
			if d == nil || d.Own != nil {
				return ""
			}
			return a.of(d)
		}
		all = append(all,
			axis{"source_" + a.name, name("pretrained on", "mixed with") + ": " + a.name, func(r *study.Run) string { return of(r.Source) }, func(c *series.Config) string { return of(byKey[c.Source]) }, false},
			axis{"target_" + a.name, name("transferred to", "trained on") + ": " + a.name, func(r *study.Run) string { return of(r.Target) }, func(c *series.Config) string { return of(byKey[c.Target]) }, false})
	}
	all = append(all,
		axis{"pretrain_rate", "learning rate of pretraining", func(r *study.Run) string {
			if r.Parent == nil {
				return ""
			}
			return format.Plain(r.Parent.LearningRate)
		}, func(c *series.Config) string { return format.Plain(c.PretrainRate) }, false},
		axis{"rate", name("learning rate of transfer", "learning rate"), func(r *study.Run) string { return format.Plain(r.LearningRate) }, func(c *series.Config) string { return format.Plain(c.Rate) }, false},
		axis{"images", name("transfer images", "images of the domain"), func(r *study.Run) string {
			if single && len(r.Mixture) > 0 {
				return strconv.Itoa(r.Mixture[0].Images)
			}
			return strconv.Itoa(r.Images)
		}, func(c *series.Config) string { return strconv.Itoa(c.Images) }, false},
		axis{"frozen", "frozen part", func(r *study.Run) string { return r.Frozen }, func(c *series.Config) string { return c.Frozen }, false},
		axis{"initialisation", "initialisation", func(r *study.Run) string { return strconv.Itoa(r.Seed) }, nil, false},
	)
	if single {
		i := slices.IndexFunc(all, func(a axis) bool { return a.name == "images" })
		all = slices.Insert(all, i+1, axis{"mixed_images", "images mixed in", func(r *study.Run) string {
			if len(r.Mixture) < 2 {
				return "0"
			}
			return strconv.Itoa(r.Mixture[1].Images)
		}, nil, false})
	}
	return slices.DeleteFunc(all, func(a axis) bool { return len(a.values(p)) < 2 })
}

// values are those of the study's models, in order.
func (a *axis) values(p *study.Plan) (all []string) {
	seen := map[string]bool{}
	for _, r := range p.Runs {
		if v := a.of(r); r.Kind != study.PretrainRun && !seen[v] {
			seen[v] = true
			all = append(all, v)
		}
	}
	return all
}

// metrics are what a figure's losses may be.
var metrics = []series.Metric{series.Kept, series.AsPublished}

// chosenModels are those that have what a query asks for.
func chosenModels(p *study.Plan, models []trained.Result, q url.Values) []trained.Result {
	axes := axesOf(p)
	var all []trained.Result
	for _, m := range models {
		if pair := q["pair"]; len(pair) == 2 { // of a mixture's two domains, in either order
			r := m.Run
			if r.Source == nil || !(r.Source.Key == pair[0] && r.Target.Key == pair[1] || r.Source.Key == pair[1] && r.Target.Key == pair[0]) {
				continue
			}
		}
		if !slices.ContainsFunc(axes, func(a axis) bool { want := q.Get(a.name); return want != "" && a.of(m.Run) != want }) {
			all = append(all, m)
		}
	}
	return all
}

// only is the part of a published series whose models have what a query asks for, as far
// as the publication tells.
func only(p *study.Plan, s *series.Series, q url.Values) *series.Series {
	axes := axesOf(p)
	differs := func(c series.Config) bool {
		return slices.ContainsFunc(axes, func(a axis) bool {
			want := q.Get(a.name)
			return want != "" && a.published != nil && a.published(&c) != want
		})
	}
	out := *s
	out.Transfers = slices.DeleteFunc(slices.Clone(s.Transfers), func(t series.Transfer) bool { return differs(t.Config) })
	out.Singles = slices.DeleteFunc(slices.Clone(s.Singles), func(m series.Single) bool {
		return differs(series.Config{Target: m.Domains[0], Source: m.Domains[1], Rate: m.Rate, Images: m.Images[0]})
	})
	return &out
}

// filters are the axes in which a study's models differ.
func filters(p *study.Plan, q url.Values) []filter {
	var all []filter
	for _, a := range axesOf(p) {
		f := filter{Name: a.name, Label: a.label, Chosen: q.Get(a.name)}
		for _, v := range a.values(p) {
			text := v
			switch {
			case v == "":
				continue
			case a.domains:
				text = domainName(p, v)
			}
			f.Values = append(f.Values, option{v, text, v == f.Chosen})
		}
		all = append(all, f)
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
	if len(l.Singles) > 0 {
		q["pair"] = []string{row, column}
		return "runs?" + q.Encode()
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
	ours := (&report.Input{Plan: st.Plan, Models: chosenModels(st.Plan, models, q)}).Series(metric)
	published, err := series.PublishedOf(ours.Axis, metric)
	if st.Plan.Study.Kind == study.Mixture && ours.Axis == series.AxisDefocus {
		published, err = series.PublishedBaseline()
	}
	if err != nil {
		return err
	}
	if published != nil {
		published = only(st.Plan, published.InOrder(ours.Domains), q)
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
			row := []figure{drawn(plot.HeatMap(linked{ours, chosenOnly(st.Plan, q), k == 0}, mine, scale, "Ours: "+stage+" transfer", "pretrained "+ours.Preposition()),
				"Ours. Medians over the models chosen; a cell opens its models.")}
			if theirs != nil {
				row = append(row, drawn(plot.HeatMap(ours, theirs, scale, "Published: "+stage+" transfer", "pretrained "+ours.Preposition()).Credit(reference.Credit),
					"Published results (Rangel DaCosta et al. 2025, CC BY 4.0), of the models with the same settings."))
			}
			rows = append(rows, row)
		}
		change := plot.ScaleOf(ours.Changes())
		rows = append(rows, []figure{drawn(plot.Changes(linked{ours, chosenOnly(st.Plan, q), false}, ours.Changes(), change, "Ours: loss on the target, after to before", "pretrained "+ours.Preposition(), "transferred to "+ours.Unit(), "ratio of medians"),
			"Below 1 (blue) transfer helps.")})
	} else if len(ours.Singles) > 0 {
		var mine, theirs *stats.Matrix = ours.Mixtures(), nil
		if published != nil && len(published.Singles) > 0 {
			theirs = published.Mixtures()
		}
		scale := plot.ScaleOf(mine, theirs)
		row := []figure{drawn(plot.Maps(linked{ours, chosenOnly(st.Plan, q), false}, mine, scale, "Ours: models of mixtures", "trained on the domain and another", "evaluated "+ours.Preposition()+" "+ours.Unit(), plot.LossLabel),
			"Ours. Medians over models of the loss on the column's domain; a cell opens its models.")}
		if theirs != nil {
			row = append(row, drawn(plot.Maps(ours, theirs, scale, "Published: models of mixtures", "trained on the domain and another", "evaluated "+ours.Preposition()+" "+ours.Unit(), plot.LossLabel).Credit(reference.Credit),
				"Published results (Rangel DaCosta et al. 2025, CC BY 4.0), of the models with the same settings."))
		}
		rows = append(rows, row)
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
		"Shown": len(ours.Transfers) + len(ours.Singles), "States": state, "RunsLink": "runs?" + chosenOnly(st.Plan, q).Encode(),
		"Command": s.command(st),
	})
}

// command reproduces the study.
func (s *Server) command(st *resolved) string {
	parts := strings.Split(st.ID, "@")
	words := []string{"reproduce", parts[0]}
	if parts[1] != "" {
		words = append(words, "--profile", parts[1])
	}
	if parts[2] != "cpu" {
		words = append(words, "--backend", parts[2])
	}
	return s.shell(words...)
}

// shell is a command line of refocus for this store, as a POSIX shell reads it.
func (s *Server) shell(words ...string) string {
	if root := s.o.Store.Root(); root != "artifacts" {
		words = append(words, "--out", root)
	}
	line := "refocus"
	for _, w := range words {
		if w == "" || strings.ContainsFunc(w, func(c rune) bool {
			return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+=:,@%", c))
		}) {
			w = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
		line += " " + w
	}
	return line
}

// chosenOnly is the part of a query that chooses models.
func chosenOnly(p *study.Plan, q url.Values) url.Values {
	out := url.Values{"study": {q.Get("study")}}
	for _, a := range axesOf(p) {
		if v := q.Get(a.name); v != "" {
			out.Set(a.name, v)
		}
	}
	if pair := q["pair"]; len(pair) == 2 {
		out["pair"] = pair
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
	models = chosenModels(st.Plan, models, q)
	in := report.Input{Plan: st.Plan, Models: models}
	var lines []line
	for i := range models {
		if l, ok := lineOf(&in, st.Plan, &models[i]); ok {
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
	pair := q["pair"]
	if len(pair) != 2 {
		pair = nil
	}
	return s.show(w, r, "runs.html", "study", "Models of "+st.Title(), map[string]any{
		"ID": st.ID, "Studies": studyOptions(all, st), "Filters": filters(st.Plan, q), "Lines": lines, "Total": total, "Pair": pair, "StudyLink": "study?" + chosenOnly(st.Plan, q).Encode(),
	})
}

func lineOf(in *report.Input, p *study.Plan, m *trained.Result) (line, bool) {
	r := m.Run
	if m.Final == nil || m.Final.Best < 1 || m.Final.Best > len(m.Final.Epochs) {
		return line{}, false
	}
	best := m.Final.Epochs[m.Final.Best-1]
	l := line{Digest: m.Digest, ID: r.ID, Images: r.Images, Rate: format.Plain(r.LearningRate), Frozen: r.Frozen, Before: "–"}
	if r.Kind == study.TransferRun {
		l.Source = domainName(p, r.Source.Key)
		if e := m.Pretrain; e != nil && e.Best >= 1 && e.Best <= len(e.Epochs) {
			l.Before = format.Loss(in.Loss(e.Epochs[e.Best-1], r.Target.Key))
		}
	}
	l.Target = r.Target.Name
	l.loss = in.Loss(best, r.Target.Key)
	l.Loss, l.Dice = format.Loss(l.loss), format.Digits(best.Validation[r.Target.Key].Dice, 3)
	return l, true
}
