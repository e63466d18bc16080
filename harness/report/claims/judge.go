package claims

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Evidence is what findings are judged on.
type Evidence struct {
	Transfers *series.Series // two-stage models; nil for none
	Singles   *series.Series // single-stage models; nil for none
}

// Ours is our models by both metrics.
type Ours struct{ Kept, AsPublished Evidence }

// level of the family of findings.
const level = 0.05

// Level says in words how outcomes are decided, where the validation images were drawn
// again so often.
func Level(redraws int) string {
	images := ""
	if redraws > 0 {
		images = fmt.Sprintf(" and %d of the validation images", redraws)
	}
	return fmt.Sprintf("95 %% intervals from %d resamples of pretrained models and of their transfers%s; over the findings, Holm's correction at %.0f %%", stats.Draws, images, 100*level)
}

// axisNames says which series a finding is about.
var axisNames = map[string]string{series.AxisDefocus: "defocus", series.AxisDose: "noise", series.AxisStructure: "structure"}

// Judge judges every finding on the published tables and on our models. own
// is the axis of our study; single says that it is of single-stage training.
func Judge(ours Ours, own string, single bool) ([]Finding, error) {
	all := make([]Finding, len(findings))
	var wait sync.WaitGroup
	for i, f := range findings {
		all[i] = Finding{Number: f.number, Text: f.text, Quote: f.quote, Section: f.section}
		if single && !f.single {
			j := judgement("", unjudged("", "it is about transfers, this study is of single-stage training"))
			all[i].Ours, all[i].OursAsPublished = j, j
			continue
		}
		wait.Go(func() { all[i].Ours = f.on(ours.Kept, own, "our models, kept weights") })
		wait.Go(func() { all[i].OursAsPublished = f.on(ours.AsPublished, own, "our models, metric as published") })
	}
	wait.Wait()
	published, err := publishedOn(own)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Published = published[i]
	}
	correct(all, func(f *Finding) *Judgement { return &f.Ours })
	correct(all, func(f *Finding) *Judgement { return &f.OursAsPublished })
	return all, nil
}

// publishedOn judges the findings on the published tables, beside a study whose
// axis is own.
func publishedOn(own string) ([]Judgement, error) {
	all := make([]Finding, len(findings))
	errs := make([]error, len(findings))
	var wait sync.WaitGroup
	for i := range findings {
		wait.Go(func() { all[i].Published, errs[i] = findings[i].onPublished(own) })
	}
	wait.Wait()
	correct(all, func(f *Finding) *Judgement { return &f.Published })
	j := make([]Judgement, len(all))
	for i := range all {
		j[i] = all[i].Published
	}
	return j, errors.Join(errs...)
}

// onPublished judges a finding on the published tables: that of the report's own
// axis where the finding concerns it and the table can tell, else that of the
// finding's axis or the defocus series'.
func (f *finding) onPublished(own string) (Judgement, error) {
	try := []string{f.axis}
	if f.axis == "" {
		try = []string{own, series.AxisDefocus}
	}
	var j Judgement
	for _, axis := range try {
		var err error
		if j, err = f.onTable(axis); err != nil {
			return j, err
		}
		if j.Outcome != Unjudged {
			break
		}
	}
	return j, nil
}

// tables are the judgements of the published tables by finding and axis: the
// tables do not change.
var tables sync.Map

// onTable judges a finding on the published table of an axis.
func (f *finding) onTable(axis string) (Judgement, error) {
	type key struct {
		number int
		axis   string
	}
	if j, ok := tables.Load(key{f.number, axis}); ok {
		return j.(Judgement), nil
	}
	j := Judgement{Outcome: Unjudged}
	s, err := series.PublishedOf(axis, series.Kept)
	if err != nil || s == nil {
		return j, err
	}
	singles, err := series.PublishedBaseline()
	if err != nil {
		return j, err
	}
	j = f.on(Evidence{s, singles}, axis, fmt.Sprintf("the published %s series, %s", axisNames[axis], s.Metric))
	tables.Store(key{f.number, axis}, j)
	return j, nil
}

// on judges a finding on evidence of an axis.
func (f *finding) on(e Evidence, axis, name string) Judgement {
	switch {
	case f.axis != "" && f.axis != axis:
		return judgement("", unjudged("", fmt.Sprintf("it is about the %s series", axisNames[f.axis])))
	case e.Transfers == nil:
		return judgement(name+": no transfers", unjudged("", "no transfer has been trained"))
	}
	return judgement(fmt.Sprintf("%s: %s", name, models(e.Transfers)), f.judge(e)...)
}

// models says what a series' models come from.
func models(s *series.Series) string {
	n := len(s.Transfers)
	if s.Shared {
		return fmt.Sprintf("%d transfers from %d pretrained models", n, s.Pretrained())
	}
	return fmt.Sprintf("%d transfers, each from a pretraining of its own", n)
}

// limits are those that a number is to lie between.
type limits struct{ low, high float64 }

func below(v float64) limits { return limits{math.Inf(-1), v} }
func above(v float64) limits { return limits{v, math.Inf(1)} }

// within is around 1 by a factor.
func within(factor float64) limits { return limits{1 / factor, factor} }

// outcome by the interval alone, Unjudged without one.
func (t *Test) outcome() string {
	low, high := math.Inf(-1), math.Inf(1)
	if t.Low != nil {
		low = *t.Low
	}
	if t.High != nil {
		high = *t.High
	}
	switch i := t.Interval; {
	case i == nil:
		return Unjudged
	case i[1] <= low || i[0] >= high:
		return Fails
	case i[0] > low && i[1] < high:
		return Holds
	}
	return Open
}

// tested is a sample held against limits.
func tested(name, of string, s stats.Sample, l limits) Test {
	t := Test{Name: name, Value: s.Value, Interval: s.Interval(), Of: of}
	p := math.NaN()
	for _, v := range []struct {
		limit float64
		at    **float64
	}{{l.low, &t.Low}, {l.high, &t.High}} {
		if math.IsInf(v.limit, 0) {
			continue
		}
		*v.at = &v.limit
		// Between two limits both count, beyond one that one.
		q := s.P(v.limit)
		outside := v.at == &t.Low && s.Value < v.limit || v.at == &t.High && s.Value > v.limit
		if outside || math.IsNaN(p) {
			p = q
		} else {
			p = max(p, q)
		}
		if outside {
			break
		}
	}
	t.P = p
	return t
}

// paired tests the median ratio of comparisons between a series' transfers.
func paired(name string, s *series.Series, of func(*series.Series) series.Pairs, l limits) Test {
	return compared(name, s.Redraws, func(at series.Redraw) series.Pairs { return of(at(s)) }, l)
}

// compared tests the median ratio of comparisons of the models as they are given on
// redraws of the validation images.
func compared(name string, redraws int, pairs func(series.Redraw) series.Pairs, l limits) Test {
	p := pairs(func(s *series.Series) *series.Series { return s })
	if len(p.Ratios) == 0 {
		return Test{Name: name, Value: math.NaN(), missing: "no two models differ in this alone"}
	}
	r := stats.NewResampler(p.Units)
	x := series.Bootstrap(r, 1, redraws, func(at series.Redraw) stats.Statistic {
		var s stats.Sorted
		for i, v := range pairs(at).Ratios {
			s.Add(i, v)
		}
		return func(w []int, v []float64) { v[0] = s.Median(w) }
	})
	of := "median of " + counted(len(p.Ratios), "matched comparison")
	if n := r.Clusters(); n < len(p.Ratios) {
		of += fmt.Sprintf(" of models from %d pretrained ones", n)
	}
	return tested(name, of, x[0], l)
}

// medians are those of values of a series' transfers, with their intervals.
func medians(s *series.Series, names []string, values func(*series.Series) []*stats.Sorted) []Number {
	n := make([]Number, len(names))
	for i, v := range values(s) {
		n[i] = Number{Name: names[i], Models: v.Len()}
	}
	samples := s.Bootstrap(len(names), func(s *series.Series) stats.Statistic {
		of := values(s)
		return func(w []int, v []float64) {
			for i := range of {
				v[i] = of[i].Median(w)
			}
		}
	})
	for i, x := range samples {
		n[i].Value, n[i].Interval = x.Value, x.Interval()
	}
	return n
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// measure is a number of a series' transfers that is to lie within limits; value
// gets how often every transfer is drawn.
type measure struct {
	name   string
	limits limits
	value  func(w []int) float64
}

// measured tests numbers of the same transfers; of makes them of the series as it is
// given.
func measured(s *series.Series, of func(*series.Series) []measure) []Test {
	m := of(s)
	samples := s.Bootstrap(len(m), func(s *series.Series) stats.Statistic {
		m := of(s)
		return func(w []int, v []float64) {
			for i := range m {
				v[i] = m[i].value(w)
			}
		}
	})
	var t []Test
	for i, x := range samples {
		t = append(t, tested(m[i].name, models(s), x, m[i].limits))
	}
	return t
}

// decided is a statement that tests decide. why says which of their limits are
// ours, and why.
func decided(statement, why string, numbers []Number, tests ...Test) Statement {
	p := Statement{Text: statement, Limits: why, Outcome: Holds, Numbers: numbers}
	for i := range numbers {
		if math.IsNaN(numbers[i].Value) || math.IsInf(numbers[i].Value, 0) {
			return unjudged(statement, numbers[i].Name+": not measured")
		}
	}
	for i := range tests {
		if v := tests[i].Value; math.IsNaN(v) || math.IsInf(v, 0) {
			return unjudged(statement, tests[i].Name+": "+cmp.Or(tests[i].missing, "there is nothing to compare"))
		}
	}
	p.Tests = tests
	for i := range tests {
		t := &tests[i]
		switch t.outcome() {
		case Fails:
			p.Outcome, p.Reason = Fails, ""
			return p
		case Open:
			if p.Outcome == Holds {
				p.Outcome, p.Reason = Open, fmt.Sprintf("within the uncertainty (%s: %s, 95 %% interval %s)", t.Name, format.Digits(t.Value, 3), Interval(t.Interval))
			}
		case Unjudged:
			if p.Outcome != Unjudged {
				p.Outcome, p.Reason = Unjudged, fmt.Sprintf("%s has no interval: too little that is independent was repeated", t.Name)
			}
		}
	}
	return p
}

// Interval writes an interval.
func Interval(i *[2]float64) string {
	if i == nil {
		return "not known"
	}
	return fmt.Sprintf("%s to %s", format.Digits(i[0], 3), format.Digits(i[1], 3))
}

func unjudged(statement, reason string) Statement {
	return Statement{Text: statement, Outcome: Unjudged, Reason: reason}
}

// judgement is the outcome of statements, not yet corrected for the number of
// findings.
func judgement(on string, statements ...Statement) Judgement {
	j := Judgement{Outcome: Holds, On: on, Statements: statements, P: 1}
	for _, worst := range []string{Unjudged, Open, Fails} {
		for _, s := range statements {
			if s.Outcome == worst {
				j.Outcome = worst
			}
		}
	}
	// All tests must be within limits for a finding to hold, and one outside is
	// enough for it not to.
	all, one, n := 0.0, 1.0, 0
	for _, s := range statements {
		for i := range s.Tests {
			t := &s.Tests[i]
			n++
			all = max(all, t.P)
			if t.outcome() == Fails {
				one = min(one, t.P)
			}
		}
	}
	switch {
	case n == 0:
	case j.Outcome == Fails:
		j.P = min(1, float64(n)*one)
	default:
		j.P = all
	}
	return j
}

// correct applies Holm's correction over the findings that were tested on the
// same models.
func correct(all []Finding, of func(*Finding) *Judgement) {
	var family []*Judgement
	var p []float64
	for i := range all {
		if j := of(&all[i]); j.Outcome != Unjudged {
			family = append(family, j)
			p = append(p, j.P)
		}
	}
	for i, a := range stats.Holm(p) {
		j := family[i]
		j.Adjusted, j.Family = a, len(family)
		if a > level && (j.Outcome == Holds || j.Outcome == Fails) {
			j.Corrected = fmt.Sprintf("by itself it %s, but not after Holm's correction over %s (p %s, corrected %s)", j.Outcome, counted(len(family), "finding"), format.Digits(j.P, 2), format.Digits(a, 2))
			j.Outcome = Open
		}
	}
}
