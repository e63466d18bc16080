package report

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/study"
)

// Outcomes of judging a finding.
const (
	Holds    = "holds"
	Fails    = "does not hold"
	Unjudged = "cannot be judged"
)

// Finding is one of the published findings, judged by the same rules on the
// published tables and on our results.
type Finding struct {
	Number    int       `json:"number"`
	Text      string    `json:"finding"`
	Published Judgement `json:"published"`
	Ours      Judgement `json:"ours"`
}

// Judgement is the outcome of a finding's parts: it holds where all do, does not
// where one does not, and cannot be judged where none fails and one cannot be
// judged.
type Judgement struct {
	Outcome string `json:"outcome"`
	// On says which models were looked at; "" where the finding is not about
	// what the study varies.
	On    string `json:"on,omitempty"`
	Parts []Part `json:"parts,omitempty"`
}

// Applies reports whether the finding is about what the study varies.
func (j Judgement) Applies() bool { return j.On != "" }

// Part is one checked statement.
type Part struct {
	Statement string `json:"statement"`
	Outcome   string `json:"outcome"`
	// Reason says why the part cannot be judged.
	Reason  string   `json:"reason,omitempty"`
	Numbers []Number `json:"numbers,omitempty"`
	Effects []Effect `json:"effects,omitempty"`
}

// Number is a value that was compared, and how many models it is of.
type Number struct {
	Name   string  `json:"name"`
	Value  float64 `json:"value"`
	Models int     `json:"models,omitempty"`
}

// Effect compares configurations that differ in one thing only: the median ratio
// of their losses, and by the sign test the interval of this median, where they
// are enough for one, and the probability of so uneven a split by chance.
// Configurations that share a pretrained model are not independent, so that
// intervals are rather too narrow.
type Effect struct {
	Name     string      `json:"name"`
	Ratio    float64     `json:"ratio"`
	Interval *[2]float64 `json:"interval_95,omitempty"`
	Below    int         `json:"below_one"`
	Pairs    int         `json:"pairs"`
	P        float64     `json:"sign_test_p"`
}

func effect(name string, ratios []float64) Effect {
	e := Effect{Name: name, Ratio: median(ratios), Pairs: len(ratios)}
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
		e.P = signTest(e.Below, n)
	}
	if low, high := interval(ratios); !math.IsNaN(low) {
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
func decided(statement string, numbers []Number, tests ...test) Part {
	p := Part{Statement: statement, Outcome: Holds, Numbers: numbers}
	for _, t := range tests {
		if len(t.ratios) == 0 {
			return unjudged(statement, t.name+": there are no models to compare")
		}
		e := effect(t.name, t.ratios)
		p.Effects = append(p.Effects, e)
		switch i := e.Interval; {
		case i == nil:
			if p.Outcome == Holds {
				p.Outcome, p.Reason = Unjudged, fmt.Sprintf("%s: only %d configurations to compare, %d are asked for", t.name, e.Pairs, leastPairs)
			}
		case i[1] < t.low || i[0] > t.high:
			p.Outcome, p.Reason = Fails, ""
		case i[0] < t.low || i[1] > t.high:
			if p.Outcome == Holds {
				p.Outcome, p.Reason = Unjudged, fmt.Sprintf("the difference is within the uncertainty (%s: %.3g, 95 %% interval %.3g to %.3g)", t.name, e.Ratio, i[0], i[1])
			}
		}
	}
	return p
}

// judged is a part that could be evaluated. Numbers that are not finite make it
// one that could not: something was not measured.
func judged(statement string, ok bool, numbers []Number) Part {
	p := Part{Statement: statement, Outcome: Fails, Numbers: numbers}
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

func unjudged(statement, reason string) Part {
	return Part{Statement: statement, Outcome: Unjudged, Reason: reason}
}

func judgement(on string, parts ...Part) Judgement {
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

// evidence is what findings are judged on.
type evidence struct {
	transfers *series // two-stage models; nil for none
	singles   *series // single-stage models; nil for none
}

// finding is a published finding and the rule that judges it.
type finding struct {
	number int
	text   string
	// axis of the series that it is about; "" for every series of transfers.
	axis string
	// single marks the one that is also about single-stage training.
	single bool
	judge  func(evidence) []Part
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
	{1, "More transfer images give a lower median loss and a lighter upper tail.", "", false, evidence.images},
	{2, "Freezing the decoder costs little against freezing nothing; freezing the encoder costs more.", "", false, evidence.frozen},
	{3, "The most aggressive learning rates give the lowest median and the smallest spread.", "", false, evidence.rates},
	{4, "0 nm is the hardest target after transfer, by a factor of about three; after pretraining it is for the sources −10 … 0 nm.", axisDefocus, false, evidence.focusHardest},
	{5, "After pretraining, performance depends strongly on the pretraining domain (worst: +5 and +10 nm on −25 … −15 nm); after transfer hardly at all.", axisDefocus, false, evidence.source},
	{6, "Models pretrained in focus have the smallest out-of-distribution spread, models pretrained at positive defocus the largest.", axisDefocus, false, evidence.spreads},
	{7, "Transfer can make the out-of-distribution spread worse, most often for models pretrained at −10 nm.", axisDefocus, false, evidence.worse},
	{8, "Models pretrained in focus transfer out better than others transfer to in-focus.", axisDefocus, false, evidence.asymmetry},
	{9, "Single-stage training on a mixture and transfer reach a comparable loss for the same number of target images.", axisDefocus, true, evidence.baseline},
	{10, "Domains of low dose are worse; after transfer the loss depends mainly on the target's dose, though at the lowest dose the source still matters.", axisDose, false, evidence.doses},
	{11, "Before transfer, models do better on structures of the same crystal type; after transfer, the target decides.", axisStructure, false, evidence.structures},
	{12, "Freezing the encoder cuts the training time by 15–25 %.", "", false, evidence.times},
}

// axisNames says which series a finding is about.
var axisNames = map[string]string{axisDefocus: "defocus", axisDose: "noise", axisStructure: "structure"}

// findings judges all findings on the published tables and on the input.
func (in *Input) findings() ([]Finding, error) {
	ours := evidence{}
	for _, i := range []*Input{in, in.Companion} {
		if i == nil {
			continue
		}
		if s := i.series(); len(s.models) > 0 {
			ours.transfers = s
		} else if len(s.singles) > 0 {
			ours.singles = s
		}
	}
	own := axis(in.Plan.Study)
	single := in.Plan.Study.Kind == study.Mixture
	var all []Finding
	for _, f := range findings {
		j := Finding{Number: f.number, Text: f.text}
		var err error
		if j.Published, err = f.published(own); err != nil {
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

// published judges a finding on the published tables: that of the report's own
// axis where the finding concerns it and the table can tell, else that of the
// finding's axis or the defocus series'.
func (f *finding) published(own string) (Judgement, error) {
	singles, err := publishedBaseline()
	if err != nil {
		return Judgement{}, err
	}
	try := []string{f.axis}
	if f.axis == "" {
		try = []string{own, axisDefocus}
	}
	j := Judgement{Outcome: Unjudged, Parts: []Part{unjudged("", "the published table of the "+axisNames[f.axis]+" series is not part of this program")}}
	for _, a := range try {
		s, err := publishedLike(a)
		if err != nil {
			return Judgement{}, err
		}
		if s == nil {
			continue
		}
		j = f.on(evidence{s, singles}, a, "the published "+axisNames[a]+" series")
		if j.Outcome != Unjudged {
			break
		}
	}
	return j, nil
}

// on judges a finding on evidence of an axis.
func (f *finding) on(e evidence, axis, name string) Judgement {
	switch {
	case f.axis != "" && f.axis != axis:
		return judgement("", unjudged("", fmt.Sprintf("it is about the %s series", axisNames[f.axis])))
	case e.transfers == nil:
		return judgement(name+": no transfers", unjudged("", "no transfer has been trained"))
	}
	return judgement(fmt.Sprintf("%s: %d transfers", name, len(e.transfers.models)), f.judge(e)...)
}

// few says of a factor that it has too few levels to compare.
func few(g []group, what string) string {
	if len(g) == 0 {
		return "no model"
	}
	return fmt.Sprintf("only one %s: %s", what, g[0].level)
}

// numbersOf applies f to every group; name has a %s for the level.
func numbersOf(g []group, name string, f func([]float64) float64) []Number {
	var n []Number
	for _, x := range g {
		n = append(n, Number{fmt.Sprintf(name, x.level), f(x.values), len(x.values)})
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

func (e evidence) images() []Part {
	s := e.transfers
	g := s.groups(byImages, s.final)
	const first, second = "Every step to more transfer images lowers the loss, in the median over otherwise equal configurations.", "It lowers the 95th percentile over all models."
	if len(g) < 2 {
		why := few(g, "number of transfer images")
		return []Part{unjudged(first, why), unjudged(second, why)}
	}
	var tests []test
	for i := 1; i < len(g); i++ {
		tests = append(tests, below(1, g[i].level+" to "+g[i-1].level+" images", s.paired(byImages, g[i].level, g[i-1].level, s.final)))
	}
	parts := []Part{decided(first, numbersOf(g, "median with %s images", median), tests...)}
	for _, x := range g {
		if len(x.values) < tailModels {
			return append(parts, unjudged(second, fmt.Sprintf("%d models with %s images are too few for an upper tail (%d are asked for)", len(x.values), x.level, tailModels)))
		}
	}
	tails := numbersOf(g, "95th percentile with %s images", func(v []float64) float64 { return quantile(v, tail) })
	return append(parts, judged(second, decreasing(values(tails)), tails))
}

func (e evidence) frozen() []Part {
	s := e.transfers
	medians := numbersOf(s.groups(byFrozen, s.final), "median with frozen part %s", median)
	ratios := func(a, b string) []float64 { return s.paired(byFrozen, a, b, s.final) }
	return []Part{
		decided(fmt.Sprintf("With the decoder frozen, the loss is at most %.0f %% higher than with nothing frozen, in the median over otherwise equal configurations.", 100*(little-1)), medians,
			below(little, "decoder to none", ratios(nn.Decoder, study.FreezeNone))),
		decided("With the encoder frozen, it is higher than with nothing frozen, and than with the decoder frozen.", medians,
			above(1, "encoder to none", ratios(nn.Encoder, study.FreezeNone)),
			above(1, "encoder to decoder", ratios(nn.Encoder, nn.Decoder))),
	}
}

func (e evidence) rates() []Part {
	s := e.transfers
	g := s.groups(byRates, s.final)
	const first, second = "The highest rates of both stages give a lower loss than every other pair, in the median over otherwise equal configurations.", "They give the smallest standard deviation over all models."
	both := map[string]bool{}
	for _, x := range g {
		f := strings.Fields(x.level)
		both["first "+f[0]], both["second "+f[2]] = true, true
	}
	if len(g) < 2 || len(both) < 4 {
		why := few(g, "pair of learning rates")
		if len(g) > 1 {
			why = "one of the stages has only one learning rate"
		}
		return []Part{unjudged(first, why), unjudged(second, why)}
	}
	most := len(g) - 1 // the levels are sorted
	var tests []test
	for _, x := range g[:most] {
		tests = append(tests, below(1, "("+g[most].level+") to ("+x.level+")", s.paired(byRates, g[most].level, x.level, s.final)))
	}
	spreads := values(numbersOf(g, "%s", deviation))
	return []Part{
		decided(first, numbersOf(g, "median at %s", median), tests...),
		judged(second, slices.Index(spreads, slices.Min(spreads)) == most, numbersOf(g, "standard deviation at %s", deviation)),
	}
}

// byTarget are the medians after transfer for every target.
func (s *series) byTarget() []group {
	var g []group
	for _, t := range s.targets() {
		x := group{level: t}
		for i := range s.models {
			if o := &s.models[i]; o.target == t {
				x.values = append(x.values, s.final(o))
			}
		}
		g = append(g, x)
	}
	return g
}

// focusToOthers are the ratios of the loss on the target in focus to the median
// over the other targets, for configurations equal but for the target.
func (s *series) focusToOthers() []float64 {
	type sides struct{ focus, others []float64 }
	all := map[config]*sides{}
	var order []config
	for i := range s.models {
		o := &s.models[i]
		c := o.config
		c.target = ""
		if all[c] == nil {
			all[c] = &sides{}
			order = append(order, c)
		}
		if o.target == inFocus {
			all[c].focus = append(all[c].focus, s.final(o))
		} else {
			all[c].others = append(all[c].others, s.final(o))
		}
	}
	var ratios []float64
	for _, c := range order {
		ratios = append(ratios, median(all[c].focus)/median(all[c].others))
	}
	return finite(ratios)
}

func (e evidence) focusHardest() []Part {
	s := e.transfers
	const first = "After transfer, 0 nm has the highest median loss of all targets."
	second := fmt.Sprintf("The loss there is between %g and %g times the median over the other targets, in the median over otherwise equal configurations.", factorLow, factorHigh)
	const third = "After pretraining at −10, −5 or 0 nm, 0 nm is the domain of highest median loss."
	var parts []Part
	var focus *Number
	var others []float64
	var numbers []Number
	for _, x := range s.byTarget() {
		n := Number{s.name(x.level), median(x.values), len(x.values)}
		numbers = append(numbers, n)
		if x.level == inFocus {
			focus = &n
		} else {
			others = append(others, n.Value)
		}
	}
	if focus == nil || len(others) == 0 {
		why := "no model was transferred to 0 nm and to another defocus"
		parts = append(parts, unjudged(first, why), unjudged(second, why))
	} else {
		parts = append(parts, judged(first, focus.Value > slices.Max(others), numbers),
			decided(second, nil, test{"0 nm to the others", s.focusToOthers(), factorLow, factorHigh}))
	}
	before, _ := s.transfers()
	numbers = nil
	ok := true
	for _, source := range []string{"-100", "-50", inFocus} {
		i := slices.Index(before.Rows, source)
		if i < 0 || slices.Index(before.Columns, inFocus) < 0 {
			continue
		}
		at0 := before.get(source, inFocus)
		worst := math.Inf(-1)
		for j, c := range before.Columns {
			if v := before.Values[i][j]; c != inFocus && v > worst {
				worst = v
			}
		}
		numbers = append(numbers, Number{"from " + s.name(source) + " to 0 nm", at0, 0}, Number{"and to the worst other", worst, 0})
		ok = ok && at0 > worst
	}
	if numbers == nil {
		return append(parts, unjudged(third, "no model was pretrained at these and validated at 0 nm"))
	}
	return append(parts, judged(third, ok, numbers))
}

// worstToBest is the median over the columns of the ratio of the worst to the
// best row, cells for which skip is true left out.
func worstToBest(m *Matrix, skip func(row, column string) bool) (ratio float64, columns int) {
	var r []float64
	for j, c := range m.Columns {
		var v []float64
		for i, row := range m.Rows {
			if x := m.Values[i][j]; !math.IsNaN(x) && !skip(row, c) {
				v = append(v, x)
			}
		}
		if len(v) > 1 {
			r = append(r, slices.Max(v)/slices.Min(v))
		}
	}
	return median(r), len(r)
}

func diagonal(row, column string) bool { return row == column }

func (e evidence) source() []Part {
	s := e.transfers
	before, after := s.transfers()
	first := fmt.Sprintf("After pretraining, the worst source has at least %g times the median loss of the best, in the median over domains.", strongly)
	const second = "On each of −25, −20 and −15 nm, the two worst sources are +5 and +10 nm."
	third := fmt.Sprintf("After transfer, the worst source has at most %g times the median loss of the best, in the median over targets.", hardly)
	if len(before.Rows) < 2 {
		why := "models were pretrained on one domain only"
		return []Part{unjudged(first, why), unjudged(second, why), unjudged(third, why)}
	}
	b, n := worstToBest(before, diagonal)
	parts := []Part{judged(first, b >= strongly, []Number{{fmt.Sprintf("worst to best over %d domains", n), b, 0}})}

	ok, seen := true, 0
	var numbers []Number
	for _, c := range []string{"-250", "-200", "-150"} {
		if slices.Index(before.Columns, c) < 0 || slices.Index(before.Rows, "50") < 0 || slices.Index(before.Rows, "100") < 0 || len(before.Rows) < 3 {
			continue
		}
		seen++
		positive := min(before.get("50", c), before.get("100", c))
		worst := math.Inf(-1)
		for _, r := range before.Rows {
			if r != "50" && r != "100" {
				worst = max(worst, before.get(r, c))
			}
		}
		numbers = append(numbers, Number{"better of +5 and +10 nm on " + s.name(c), positive, 0}, Number{"worst of the others there", worst, 0})
		ok = ok && positive > worst
	}
	if seen == 0 {
		parts = append(parts, unjudged(second, "not all of these domains and sources, and another source, are part of the series"))
	} else {
		parts = append(parts, judged(second, ok, numbers))
	}
	a, n := worstToBest(after, diagonal)
	if n == 0 {
		return append(parts, unjudged(third, "no target has transfers from two sources"))
	}
	return append(parts, judged(third, a <= hardly, []Number{{fmt.Sprintf("worst to best over %d targets", n), a, 0}}))
}

// spreadsBySource are the out-of-distribution spreads of the models before and
// after transfer.
func (s *series) spreadsBySource() (before, after []group) {
	for _, d := range s.sources() {
		b, a := group{level: d}, group{level: d}
		for i := range s.models {
			if o := &s.models[i]; o.source == d {
				b.values = append(b.values, s.spread(o.before))
				a.values = append(a.values, s.spread(o.after))
			}
		}
		before, after = append(before, b), append(after, a)
	}
	return before, after
}

func (e evidence) spreads() []Part {
	s := e.transfers
	before, after := s.spreadsBySource()
	var parts []Part
	for k, g := range [][]group{before, after} {
		stage := []string{"After pretraining", "After transfer"}[k]
		var focus, positive, negative []Number
		var all []Number
		for _, x := range g {
			n := Number{"pretrained at " + s.name(x.level), median(x.values), len(x.values)}
			all = append(all, n)
			switch {
			case x.level == inFocus:
				focus = append(focus, n)
			case strings.HasPrefix(x.level, "-"):
				negative = append(negative, n)
			default:
				positive = append(positive, n)
			}
		}
		first := stage + ", models pretrained in focus have the smallest median spread."
		if len(focus) == 0 || len(all) < 2 {
			parts = append(parts, unjudged(first, "no model was pretrained in focus"))
		} else {
			parts = append(parts, judged(first, focus[0].Value == slices.Min(values(all)), all))
		}
		second := stage + ", models pretrained at a positive defocus have the largest."
		if len(positive) == 0 || len(negative) == 0 {
			parts = append(parts, unjudged(second, "no models of both signs of defocus"))
		} else {
			parts = append(parts, judged(second, slices.Max(values(positive)) == slices.Max(values(all)), all))
		}
	}
	return parts
}

func (e evidence) worse() []Part {
	s := e.transfers
	first := fmt.Sprintf("The spread rises in transfer for at least %.0f %% of the models.", 100*canMake)
	const second = "Of all sources, the largest share is of models pretrained at −10 nm."
	var numbers []Number
	var total, n, most, at = 0.0, 0, -1.0, -1.0
	for _, d := range s.sources() {
		rises, of := 0.0, 0
		for i := range s.models {
			o := &s.models[i]
			b, a := s.spread(o.before), s.spread(o.after)
			if o.source != d || math.IsNaN(b) || math.IsNaN(a) {
				continue
			}
			of++
			if a > b {
				rises++
			}
		}
		if of == 0 {
			continue
		}
		share := rises / float64(of)
		numbers = append(numbers, Number{"pretrained at " + s.name(d), share, of})
		total, n, most = total+rises, n+of, max(most, share)
		if d == worstSource {
			at = share
		}
	}
	if n == 0 {
		return []Part{unjudged(first, "spreads need losses on at least two domains out of focus")}
	}
	parts := []Part{judged(first, total/float64(n) >= canMake, []Number{{"share of all models", total / float64(n), n}})}
	if at < 0 || len(numbers) < 2 {
		return append(parts, unjudged(second, "no models were pretrained at −10 nm and elsewhere"))
	}
	return append(parts, judged(second, at == most, numbers))
}

func (e evidence) asymmetry() []Part {
	s := e.transfers
	const statement = "Transfer from 0 nm to another defocus reaches a lower loss than transfer from there to 0 nm, in the median over otherwise equal configurations."
	var out, in []float64
	from, to := map[config][]float64{}, map[config][]float64{}
	var order []config
	for i := range s.models {
		o := &s.models[i]
		c, v := o.config, s.final(o)
		c.target = ""
		switch inFocus { // the other end of the transfer remains

		case o.source:
			c.source = o.target
			if from[c] == nil {
				order = append(order, c)
			}
			out, from[c] = append(out, v), append(from[c], v)
		case o.target:
			c.source = o.source
			in, to[c] = append(in, v), append(to[c], v)
		}
	}
	if len(out) == 0 || len(in) == 0 {
		return []Part{unjudged(statement, "no models were transferred both from and to 0 nm")}
	}
	var ratios []float64
	for _, c := range order {
		ratios = append(ratios, median(from[c])/median(to[c]))
	}
	return []Part{decided(statement, []Number{{"median from 0 nm", median(out), len(out)}, {"median to 0 nm", median(in), len(in)}},
		below(1, "from 0 nm to the way back", finite(ratios)))}
}

// target describes the target side of a comparison of transfer with single-stage
// training: the model also saw the source, it has that many images of the
// target, and the rate is that of the first, or only, stage.
type target struct {
	source, target string
	images         int
	rate           float64
}

// bothWays are the losses of transfers with nothing frozen and of mixtures, for
// every combination that both have, in the order of the transfers.
func (e evidence) bothWays() (order []target, transfers, mixtures map[target][]float64) {
	transfers, mixtures = map[target][]float64{}, map[target][]float64{}
	for _, m := range e.singles.singles {
		for k := range 2 {
			t := target{m.domains[1-k], m.domains[k], m.images[k], m.rate}
			mixtures[t] = append(mixtures[t], m.loss[k])
		}
	}
	for i := range e.transfers.models {
		o := &e.transfers.models[i]
		t := target{o.source, o.target, o.images, o.pretrainRate}
		if o.frozen != study.FreezeNone || mixtures[t] == nil {
			continue
		}
		if transfers[t] == nil {
			order = append(order, t)
		}
		transfers[t] = append(transfers[t], e.transfers.final(o))
	}
	return order, transfers, mixtures
}

func (e evidence) baseline() []Part {
	statement := fmt.Sprintf("For the same pair of domains, number of target images and rate of the first stage, transfer's median loss is between %.2g and %.3g times that of single-stage training, in the median over these.", 1/alike, alike)
	if e.singles == nil {
		return []Part{unjudged(statement, "no single-stage models: reproduce the baseline series at the same profile")}
	}
	order, transfers, mixtures := e.bothWays()
	if len(order) == 0 {
		return []Part{unjudged(statement, "transfers and single-stage models share no pair, number of target images and rate")}
	}
	var ratios, t, m []float64
	for _, k := range order {
		ratios = append(ratios, median(transfers[k])/median(mixtures[k]))
		t, m = append(t, transfers[k]...), append(m, mixtures[k]...)
	}
	numbers := []Number{{"transfer", median(t), len(t)}, {"single stage", median(m), len(m)}}
	p := decided(statement, numbers, test{"transfer to single stage", ratios, 1 / alike, alike})
	if a, b := e.transfers, e.singles; a.images != b.images || a.epochs != b.epochs {
		p.Outcome, p.Reason = Unjudged, fmt.Sprintf("the budgets differ: the pretraining sees %d images for %d epochs, the single stage %d for %d", a.images, a.epochs, b.images, b.epochs)
	}
	return []Part{p}
}

func (e evidence) doses() []Part {
	s := e.transfers
	var numbers []Number
	for _, x := range s.byTarget() { // in the order of the doses
		numbers = append(numbers, Number{s.name(x.level), median(x.values), len(x.values)})
	}
	const first = "After transfer, the median loss falls with every step to a higher dose of the target."
	second := fmt.Sprintf("After transfer, the target explains at least %.0f %% of the variance of the medians' logarithms.", 100*mainly)
	third := fmt.Sprintf("At the lowest dose, the worst source has at least %g times the median loss of the best.", matters)
	if len(numbers) < 2 {
		why := "only one target"
		return []Part{unjudged(first, why), unjudged(second, why), unjudged(third, why)}
	}
	parts := []Part{judged(first, decreasing(values(numbers)), numbers)}
	before, after := s.transfers()
	parts = append(parts, judged(second, byColumn(after, diagonal) >= mainly, []Number{
		{"share before transfer", byColumn(before, diagonal), 0}, {"share after transfer", byColumn(after, diagonal), 0}}))
	low := s.targets()[0]
	ratio, n := worstToBest(after, func(r, c string) bool { return r == c || c != low })
	if n == 0 {
		return append(parts, unjudged(third, "the lowest dose has transfers from one source only"))
	}
	return append(parts, judged(third, ratio >= matters, []Number{{"worst to best at " + s.name(low), ratio, 0}}))
}

// kind is the type of crystal of a structure domain: wurtzite, fcc, diamond,
// spinel or bcc, which the published ids begin with.
func kind(key string) string {
	k, _, _ := strings.Cut(key, "_")
	return k
}

func (e evidence) structures() []Part {
	s := e.transfers
	before, after := s.transfers()
	const first = "Before transfer, models of the evaluated domain's own crystal type have a lower loss than the others, in the median over domains."
	second := fmt.Sprintf("After transfer, the target explains at least %.0f %% of the variance of the medians' logarithms, and more than before.", 100*mainly)
	var ratios []float64
	for j, c := range before.Columns {
		var same, other []float64
		for i, r := range before.Rows {
			switch {
			case r == c:
			case kind(r) == kind(c):
				same = append(same, before.Values[i][j])
			default:
				other = append(other, before.Values[i][j])
			}
		}
		if q := median(same) / median(other); !math.IsNaN(q) {
			ratios = append(ratios, q)
		}
	}
	b, a := byColumn(before, diagonal), byColumn(after, diagonal)
	return []Part{decided(first, nil, below(1, "sources of the same to those of another type", ratios)), judged(second, a >= mainly && a > b, []Number{{"share before transfer", b, 0}, {"share after transfer", a, 0}})}
}

func (e evidence) times() []Part {
	s := e.transfers
	statement := fmt.Sprintf("With the encoder frozen, an epoch of transfer takes between %.0f and %.0f %% less time than with nothing frozen.", 100*savedLeast, 100*savedMost)
	seconds := func(o *outcome) float64 {
		if o.seconds <= 0 {
			return math.NaN()
		}
		return o.seconds
	}
	ratios := s.paired(byFrozen, nn.Encoder, study.FreezeNone, seconds)
	if len(ratios) == 0 {
		return []Part{unjudged(statement, "no training times of models with the encoder and with nothing frozen")}
	}
	return []Part{decided(statement, nil, test{"time with the encoder to none frozen", ratios, 1 - savedMost, 1 - savedLeast})}
}

// claimsJSON is the file of the findings.
func (in *Input) claimsJSON(f []Finding) ([]byte, error) {
	b, err := json.MarshalIndent(struct {
		Study    string    `json:"study"`
		Profile  string    `json:"profile"`
		Models   int       `json:"models"`
		Findings []Finding `json:"findings"`
	}{in.Plan.Study.Name, in.Plan.Study.Profile, len(in.Models), f}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the findings: %w", err)
	}
	return append(b, '\n'), nil
}
