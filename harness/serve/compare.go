package serve

import (
	"math"
	"net/http"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/trained"
)

// compare sets runs, or studies, side by side.
func (s *Server) compare(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if len(q["study"]) > 1 {
		return s.compareStudies(w, r, q["study"])
	}
	var models []*trained.Model
	for _, d := range q["run"] {
		if d == "" {
			continue
		}
		if len(models) == 8 {
			return wrong("eight runs at most can be told apart")
		}
		m, err := s.model(d)
		if err != nil {
			return err
		}
		models = append(models, m)
	}
	all, _ := s.studies.list(r.Context())
	body := map[string]any{"Runs": q["run"], "Studies": all}
	if len(models) == 0 {
		return s.show(w, r, "compare.html", "compare", "Compare", body)
	}
	l := plot.Lines{Title: "Validation loss on each run's target", X: "epoch", Y: plot.LossLabel}
	names := make([]string, len(models))
	var spec [][]setting
	last := 0
	for i, m := range models {
		names[i] = m.Digest[:8] + " " + m.Manifest.ID
		c, t := plot.Curve{Name: names[i]}, plot.Curve{Name: "training", Dashed: true, Like: i + 1}
		least := backend.LeastLoss(m.Spec.Loss, m.Spec.Network.Classes)
		for k, e := range m.History.Epochs {
			if v, ok := e.Validation[m.Spec.Target]; ok {
				c.Points = append(c.Points, [2]float64{float64(k + 1), v.Loss - least})
			}
			t.Points = append(t.Points, [2]float64{float64(k + 1), e.TrainLoss - least})
		}
		last = max(last, len(m.History.Epochs))
		l.Curves = append(l.Curves, c, t)
		set, err := settings(m.Manifest.Spec)
		if err != nil {
			return err
		}
		spec = append(spec, set)
	}
	// curves with colours of their own come first: Like counts those
	slices.SortStableFunc(l.Curves, func(a, b plot.Curve) int { return min(a.Like, 1) - min(b.Like, 1) })
	l.Marks = plot.EpochTicks(last)
	type row struct {
		Name   string
		Values []string
	}
	var outcome, differing []row
	add := func(name string, of func(m *trained.Model) string) {
		x := row{Name: name}
		for _, m := range models {
			x.Values = append(x.Values, of(m))
		}
		outcome = append(outcome, x)
	}
	add("target", func(m *trained.Model) string { return m.Spec.Target })
	add("validation loss on it", func(m *trained.Model) string { return format.Loss(m.Loss()) })
	add("Dice on it", func(m *trained.Model) string { return format.Digits(m.Score().Dice, 3) })
	add("best epoch", func(m *trained.Model) string { return strconv.Itoa(m.History.Best) })
	add("backend", func(m *trained.Model) string {
		return m.Manifest.Backend.Name + " " + m.Manifest.Backend.Numerics + ", " + m.Manifest.Backend.Precision
	})
	add("training", func(m *trained.Model) string { return format.Digits(m.Manifest.TrainSeconds, 3) + " s" })
	var keys []string
	values := make([]map[string]string, len(models))
	for i, set := range spec {
		values[i] = map[string]string{}
		for _, x := range set {
			if !slices.Contains(keys, x.Name) {
				keys = append(keys, x.Name)
			}
			values[i][x.Name] = x.Value
		}
	}
	for _, k := range keys {
		x := row{Name: k}
		differ := false
		for i := range models {
			v, ok := values[i][k]
			if !ok {
				v = "–"
			}
			x.Values = append(x.Values, v)
			differ = differ || v != x.Values[0]
		}
		if differ {
			differing = append(differing, x)
		}
	}
	body["Names"], body["Models"], body["Outcome"], body["Differing"] = names, models, outcome, differing
	body["History"] = drawn(l.Draw(), "Validation on the run's own target, and the mean training loss (dashed).")
	return s.show(w, r, "compare.html", "compare", "Compare runs", body)
}

// mostStudies can be compared at a time.
const mostStudies = 6

// compareStudies sets the medians of studies of one axis side by side, such as other
// profiles or other backends, and each beside the first.
func (s *Server) compareStudies(w http.ResponseWriter, r *http.Request, ids []string) error {
	ids = slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return id == "" })
	if len(ids) < 2 || len(ids) > mostStudies {
		return wrong("two to %d studies can be compared, not %d", mostStudies, len(ids))
	}
	of := make([]*series.Series, len(ids))
	titles := make([]string, len(ids))
	var before, after []*stats.Matrix
	for i, id := range ids {
		st, err := s.studies.get(r.Context(), id)
		if err != nil {
			return err
		}
		models, err := s.results(st)
		if err != nil {
			return err
		}
		of[i], titles[i] = (&report.Input{Plan: st.Plan, Models: models}).Series(series.Kept), st.Title()
		if of[i].Axis != of[0].Axis || len(of[i].Transfers) == 0 {
			return wrong("%s and %s have no transfers between the same kind of domains", titles[0], titles[i])
		}
		b, a := of[i].Medians()
		before, after = append(before, b), append(after, a)
	}
	scale := plot.ScaleOf(slices.Concat(before, after)...)
	var rows [][]figure
	type rho struct{ Name, Value, Cells string }
	var correlations []rho
	for _, x := range []struct {
		stage string
		m     []*stats.Matrix
	}{{"before", before}, {"after", after}} {
		var row []figure
		for i, m := range x.m {
			row = append(row, drawn(plot.HeatMap(of[i], m, scale, titles[i]+": "+x.stage+" transfer", "pretrained "+of[i].Preposition()), titles[i]))
			if i > 0 {
				a, b := common(x.m[0], m)
				v, n := stats.Spearman(a, b, nil)
				correlations = append(correlations, rho{x.stage + " transfer, " + titles[0] + " and " + titles[i], format.Signed(v, 2), strconv.Itoa(n)})
			}
		}
		rows = append(rows, row)
	}
	all, _ := s.studies.list(r.Context())
	return s.show(w, r, "compare.html", "compare", "Compare studies", map[string]any{"Studies": all, "Chosen": ids, "Rows": rows, "Correlations": correlations, "Titles": titles})
}

// common are the values of the cells that two matrices both have.
func common(m, other *stats.Matrix) (a, b []float64) {
	for i, source := range m.Rows {
		for j, target := range m.Columns {
			k, l := slices.Index(other.Rows, source), slices.Index(other.Columns, target)
			if k < 0 || l < 0 || math.IsNaN(m.Values[i][j]) || math.IsNaN(other.Values[k][l]) {
				continue
			}
			a, b = append(a, m.Values[i][j]), append(b, other.Values[k][l])
		}
	}
	return a, b
}
