package claims

import (
	"fmt"
	"math"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// outOfFocus leaves the transfers to 0 nm out of a defocus series, as the paper
// does where it compares protocols (its figure 6.1).
func outOfFocus(s *series.Series) *series.Series {
	if s.Axis != series.AxisDefocus {
		return s
	}
	part := *s
	part.Transfers = nil
	for _, o := range s.Transfers {
		if o.Target != series.InFocus {
			part.Transfers = append(part.Transfers, o)
		}
	}
	return &part
}

// byLevel are the losses after transfer of every level of a factor, by transfer.
func byLevel(s *series.Series, f series.Factor) (levels []string, values []*stats.Sorted) {
	at := map[string]*stats.Sorted{}
	for _, g := range s.Groups(f, s.Final) {
		levels = append(levels, g.Level)
		at[g.Level] = &stats.Sorted{}
		values = append(values, at[g.Level])
	}
	for i := range s.Transfers {
		at[f.Level(s.Transfers[i].Config)].Add(i, s.Final(&s.Transfers[i]))
	}
	return levels, values
}

// balanced is the part of a series in which levels of a factor can be compared as
// they are, with the reason where there is none.
func balanced(s *series.Series, f series.Factor, levels []string) (part *series.Series, why string) {
	part = s.Balanced(f)
	if len(part.Transfers) == 0 {
		why = fmt.Sprintf("design: no configuration was trained with every %s (%s)", f.Name, strings.Join(levels, ", "))
	}
	return part, why
}

// images is the rule of finding 1.
func (e Evidence) images() []Statement {
	s := outOfFocus(e.Transfers)
	levels, _ := byLevel(s, series.ByImages)
	const first, second = "Every step to more transfer images lowers the loss, in the median over otherwise equal configurations.", "It lowers the 95th percentile over all models."
	if len(levels) < 2 {
		why := tooFew(levels, "number of transfer images")
		return []Statement{unjudged(first, why), unjudged(second, why)}
	}
	step := func(i int) string { return levels[i] + " to " + levels[i-1] + " images" }
	var tests []Test
	for i := 1; i < len(levels); i++ {
		tests = append(tests, paired(step(i), s, func(s *series.Series) series.Pairs { return s.Paired(series.ByImages, levels[i], levels[i-1], s.Final) }, below(1)))
	}
	part, why := balanced(s, series.ByImages, levels)
	if why != "" {
		return []Statement{decided(first, "", nil, tests...), unjudged(second, why)}
	}
	of := func(s *series.Series) []*stats.Sorted { _, v := byLevel(s, series.ByImages); return v }
	tails := func(s *series.Series) (m []measure) {
		values := of(s)
		for i := 1; i < len(levels); i++ {
			few, many := values[i-1], values[i]
			m = append(m, measure{"95th percentile, " + step(i), below(1), func(w []int) float64 { return many.Quantile(w, tail) / few.Quantile(w, tail) }})
		}
		return m
	}
	all := []Statement{decided(first, "", numbersOf(part, levels, of, "median with %s images"), tests...)}
	for i, v := range of(part) {
		if v.Len() < tailModels {
			return append(all, unjudged(second, fmt.Sprintf("%d models with %s images are too few for an upper tail (%d are asked for)", v.Len(), levels[i], tailModels)))
		}
	}
	return append(all, decided(second, "The 95th percentile is ours, for \"the right-hand tail\".", nil, measured(part, tails)...))
}

// frozen is the rule of finding 2.
func (e Evidence) frozen() []Statement {
	s := outOfFocus(e.Transfers)
	part := s.Balanced(series.ByFrozen)
	levels, _ := byLevel(part, series.ByFrozen)
	numbers := numbersOf(part, levels, func(s *series.Series) []*stats.Sorted { _, v := byLevel(s, series.ByFrozen); return v }, "median with frozen part %s")
	ratio := func(a, b string, l limits) Test {
		return paired(a+" to "+b, s, func(s *series.Series) series.Pairs { return s.Paired(series.ByFrozen, a, b, s.Final) }, l)
	}
	return []Statement{
		decided(fmt.Sprintf("With the decoder frozen, the loss is at most %.0f %% higher than with nothing frozen, in the median over otherwise equal configurations.", 100*(little-1)),
			fmt.Sprintf("%.0f %% is ours, for \"comparable\".", 100*(little-1)), numbers,
			ratio(nn.Decoder, study.FreezeNone, below(little))),
		decided("With the encoder frozen, it is higher than with nothing frozen, and than with the decoder frozen.", "", nil,
			ratio(nn.Encoder, study.FreezeNone, above(1)),
			ratio(nn.Encoder, nn.Decoder, above(1))),
	}
}

// rates is the rule of finding 3.
func (e Evidence) rates() []Statement {
	s := outOfFocus(e.Transfers)
	levels, _ := byLevel(s, series.ByRates)
	const first, second = "The highest rates of both stages give a lower loss than every other pair, in the median over otherwise equal configurations.", "They give a smaller standard deviation over all models than every other pair."
	pretrain, transfer := map[string]bool{}, map[string]bool{}
	for _, l := range levels {
		f := strings.Fields(l)
		pretrain[f[0]], transfer[f[2]] = true, true
	}
	if len(pretrain) < 2 || len(transfer) < 2 {
		why := tooFew(levels, "pair of learning rates")
		if len(levels) > 1 {
			why = "one of the stages has only one learning rate"
		}
		return []Statement{unjudged(first, why), unjudged(second, why)}
	}
	most := len(levels) - 1 // they are sorted
	design := ""
	if pairs := len(pretrain) * len(transfer); len(levels) < pairs {
		design = fmt.Sprintf("The design has %d of the %d pairs of its rates.", len(levels), pairs)
	}
	name := func(l string) string { return "(" + levels[most] + ") to (" + l + ")" }
	var tests []Test
	for _, l := range levels[:most] {
		tests = append(tests, paired(name(l), s, func(s *series.Series) series.Pairs { return s.Paired(series.ByRates, levels[most], l, s.Final) }, below(1)))
	}
	part, why := balanced(s, series.ByRates, levels)
	if why != "" {
		return []Statement{decided(first, design, nil, tests...), unjudged(second, why)}
	}
	of := func(s *series.Series) []*stats.Sorted { _, v := byLevel(s, series.ByRates); return v }
	spreads := func(s *series.Series) (m []measure) {
		values := of(s)
		for i, l := range levels[:most] {
			m = append(m, measure{"standard deviation, " + name(l), below(1), func(w []int) float64 { return values[most].Deviation(w) / values[i].Deviation(w) }})
		}
		return m
	}
	return []Statement{
		decided(first, design, numbersOf(part, levels, of, "median at %s"), tests...),
		decided(second, design, nil, measured(part, spreads)...),
	}
}

// times is the rule of finding 12.
func (e Evidence) times() []Statement {
	s := e.Transfers
	statement := fmt.Sprintf("With the encoder frozen, an epoch of transfer takes at least %.0f %% less time than with nothing frozen.", 100*savedLeast)
	seconds := func(o *series.Transfer) float64 {
		if o.Seconds <= 0 {
			return math.NaN()
		}
		return o.Seconds
	}
	pairs := func(s *series.Series) series.Pairs {
		return s.Paired(series.ByFrozen, nn.Encoder, study.FreezeNone, seconds)
	}
	if len(pairs(s).Ratios) == 0 {
		return []Statement{unjudged(statement, "no training times of models with the encoder and with nothing frozen")}
	}
	return []Statement{decided(statement, "The paper's range ends at 25 %; to save more is no failure.", nil, paired("time with the encoder to none frozen", s, pairs, below(1-savedLeast)))}
}

// tooFew says of a factor that it has too few levels to compare.
func tooFew(levels []string, what string) string {
	if len(levels) == 0 {
		return "no model"
	}
	return fmt.Sprintf("only one %s: %s", what, levels[0])
}

// numbersOf are the medians of levels; name has a %s for the level.
func numbersOf(s *series.Series, levels []string, values func(*series.Series) []*stats.Sorted, name string) []Number {
	names := make([]string, len(levels))
	for i, l := range levels {
		names[i] = fmt.Sprintf(name, l)
	}
	return medians(s, names, values)
}
