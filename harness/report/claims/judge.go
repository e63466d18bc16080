package claims

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Evidence is what findings are judged on.
type Evidence struct {
	Transfers *series.Series // two-stage models; nil for none
	Singles   *series.Series // single-stage models; nil for none
}

// finding is a published finding and the rule that judges it.
type finding struct {
	number int
	text   string
	// axis of the series that it is about; "" for every series of transfers.
	axis string
	// single marks the one that is also about single-stage training.
	single bool
	judge  func(Evidence) []Statement
}

// The thresholds below turn the words of the findings into numbers. They were
// chosen with the published tables in view and are the same for our results.
const (
	little      = 1.05 // "costs little": at most 5 % more
	alike       = 1.25 // "comparable": a ratio between this and its inverse
	strongly    = 2.0  // "depends strongly": worst to best at least
	hardly      = 1.5  // "hardly at all": worst to best at most
	mainly      = 0.75 // "depends mainly": this share of the variance at least
	matters     = 1.25 // "still matters": worst to best at least
	canMake     = 0.05 // "can make worse": for this share of the models at least
	tailModels  = 20   // models that a statement about the upper tail needs
	factorLow   = 2.0  // "a factor of about three": between these
	factorHigh  = 4.5
	savedLeast  = 0.15 // "15–25 %"
	savedMost   = 0.25
	tail        = 0.95 // the quantile that stands for the upper tail
	inFocus     = "0"  // key of the domain in focus
	worstSource = "-100"
)

var findings = []finding{
	{1, "More transfer images give a lower median loss and a lighter upper tail.", "", false, Evidence.images},
	{2, "Freezing the decoder costs little against freezing nothing; freezing the encoder costs more.", "", false, Evidence.frozen},
	{3, "The most aggressive learning rates give the lowest median and the smallest spread.", "", false, Evidence.rates},
	{4, "0 nm is the hardest target after transfer, by a factor of about three; after pretraining it is for the sources −10 … 0 nm.", series.AxisDefocus, false, Evidence.focusHardest},
	{5, "After pretraining, performance depends strongly on the pretraining domain (worst: +5 and +10 nm on −25 … −15 nm); after transfer hardly at all.", series.AxisDefocus, false, Evidence.source},
	{6, "Models pretrained in focus have the smallest out-of-distribution spread, models pretrained at positive defocus the largest.", series.AxisDefocus, false, Evidence.spreads},
	{7, "Transfer can make the out-of-distribution spread worse, most often for models pretrained at −10 nm.", series.AxisDefocus, false, Evidence.worse},
	{8, "Models pretrained in focus transfer out better than others transfer to in-focus.", series.AxisDefocus, false, Evidence.asymmetry},
	{9, "Single-stage training on a mixture and transfer reach a comparable loss for the same number of target images.", series.AxisDefocus, true, Evidence.baseline},
	{10, "Domains of low dose are worse; after transfer the loss depends mainly on the target's dose, though at the lowest dose the source still matters.", series.AxisDose, false, Evidence.doses},
	{11, "Before transfer, models do better on structures of the same crystal type; after transfer, the target decides.", series.AxisStructure, false, Evidence.structures},
	{12, "Freezing the encoder cuts the training time by 15–25 %.", "", false, Evidence.times},
}

// axisNames says which series a finding is about.
var axisNames = map[string]string{series.AxisDefocus: "defocus", series.AxisDose: "noise", series.AxisStructure: "structure"}

// Judge judges every finding on the published tables and on our models. own
// is the axis of our study; single says that it is of single-stage training.
func Judge(ours Evidence, own string, single bool) ([]Finding, error) {
	var all []Finding
	for _, f := range findings {
		j := Finding{Number: f.number, Text: f.text}
		var err error
		if j.Published, err = f.onPublished(own); err != nil {
			return nil, err
		}
		if single && !f.single {
			j.Ours = judgement("", unjudged("", "it is about transfers, this study is of single-stage training"))
		} else {
			j.Ours = f.on(ours, own, "our models")
		}
		all = append(all, j)
	}
	return all, nil
}

// onPublished judges a finding on the published tables: that of the report's own
// axis where the finding concerns it and the table can tell, else that of the
// finding's axis or the defocus series'.
func (f *finding) onPublished(own string) (Judgement, error) {
	singles, err := series.PublishedBaseline()
	if err != nil {
		return Judgement{}, err
	}
	try := []string{f.axis}
	if f.axis == "" {
		try = []string{own, series.AxisDefocus}
	}
	j := Judgement{Outcome: Unjudged, Parts: []Statement{unjudged("", "the published table of the "+axisNames[f.axis]+" series is not part of this program")}}
	for _, a := range try {
		s, err := series.PublishedOf(a)
		if err != nil {
			return Judgement{}, err
		}
		if s == nil {
			continue
		}
		j = f.on(Evidence{s, singles}, a, "the published "+axisNames[a]+" series")
		if j.Outcome != Unjudged {
			break
		}
	}
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
	return judgement(fmt.Sprintf("%s: %d transfers", name, len(e.Transfers.Transfers)), f.judge(e)...)
}

// effect condenses ratios of losses.
func effect(name string, ratios []float64) Effect {
	e := Effect{Name: name, Ratio: stats.Median(ratios), Pairs: len(ratios)}
	ties := 0
	for _, r := range ratios {
		switch {
		case r < 1:
			e.Below++
		case r == 1:
			ties++
		}
	}
	e.P = 1
	if n := len(ratios) - ties; n > 0 {
		e.P = stats.SignTest(e.Below, n)
	}
	if low, high := stats.Interval(ratios); !math.IsNaN(low) {
		e.Interval = &[2]float64{low, high}
	}
	return e
}

// test is a median ratio that a finding wants between low and high.
type test struct {
	name      string
	ratios    []float64
	low, high float64
}

// below and above want a ratio on one side of a limit.
func below(limit float64, name string, ratios []float64) test {
	return test{name, ratios, 0, limit}
}

func above(limit float64, name string, ratios []float64) test {
	return test{name, ratios, limit, math.Inf(1)}
}

// decided is a part that paired comparisons decide: it holds where every interval
// lies within its limits, does not where one lies outside, and cannot be judged
// where an interval has a limit in it or there are too few pairs for one.
func decided(statement string, numbers []Number, tests ...test) Statement {
	p := Statement{Text: statement, Outcome: Holds, Numbers: numbers}
	for _, t := range tests {
		if len(t.ratios) == 0 {
			return unjudged(statement, t.name+": there are no models to compare")
		}
		e := effect(t.name, t.ratios)
		p.Effects = append(p.Effects, e)
		switch i := e.Interval; {
		case i == nil:
			if p.Outcome == Holds {
				p.Outcome, p.Reason = Unjudged, fmt.Sprintf("%s: only %d configurations to compare, %d are asked for", t.name, e.Pairs, stats.LeastPairs)
			}
		case i[1] < t.low || i[0] > t.high:
			p.Outcome, p.Reason = Fails, ""
		case i[0] < t.low || i[1] > t.high:
			if p.Outcome == Holds {
				p.Outcome, p.Reason = Unjudged, fmt.Sprintf("the difference is within the uncertainty (%s: %s, 95 %% interval %s to %s)", t.name, format.Digits(e.Ratio, 3), format.Digits(i[0], 3), format.Digits(i[1], 3))
			}
		}
	}
	return p
}

// judged is a part that could be evaluated. Numbers that are not finite make it
// one that could not: something was not measured.
func judged(statement string, ok bool, numbers []Number) Statement {
	p := Statement{Text: statement, Outcome: Fails, Numbers: numbers}
	if ok {
		p.Outcome = Holds
	}
	for _, n := range numbers {
		if math.IsNaN(n.Value) || math.IsInf(n.Value, 0) {
			return unjudged(statement, n.Name+": not measured")
		}
	}
	return p
}

func unjudged(statement, reason string) Statement {
	return Statement{Text: statement, Outcome: Unjudged, Reason: reason}
}

func judgement(on string, parts ...Statement) Judgement {
	j := Judgement{Outcome: Holds, On: on, Parts: parts}
	for _, p := range parts {
		if p.Outcome == Unjudged {
			j.Outcome = Unjudged
		}
	}
	for _, p := range parts {
		if p.Outcome == Fails {
			j.Outcome = Fails
		}
	}
	return j
}

// tooFew says of a factor that it has too few levels to compare.
func tooFew(g []stats.Group, what string) string {
	if len(g) == 0 {
		return "no model"
	}
	return fmt.Sprintf("only one %s: %s", what, g[0].Level)
}

// numbersOf applies f to every group; name has a %s for the level.
func numbersOf(g []stats.Group, name string, f func([]float64) float64) []Number {
	var n []Number
	for _, x := range g {
		n = append(n, Number{fmt.Sprintf(name, x.Level), f(x.Values), len(x.Values)})
	}
	return n
}

func values(n []Number) []float64 {
	var v []float64
	for _, x := range n {
		v = append(v, x.Value)
	}
	return v
}

// decreasing reports whether every value is less than the one before it.
func decreasing(v []float64) bool {
	for i := 1; i < len(v); i++ {
		if !(v[i] < v[i-1]) {
			return false
		}
	}
	return true
}
