package claims

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// images is the rule of finding 1.
func (e Evidence) images() []Statement {
	s := e.Transfers
	g := s.Groups(series.ByImages, s.Final)
	const first, second = "Every step to more transfer images lowers the loss, in the median over otherwise equal configurations.", "It lowers the 95th percentile over all models."
	if len(g) < 2 {
		why := tooFew(g, "number of transfer images")
		return []Statement{unjudged(first, why), unjudged(second, why)}
	}
	var tests []test
	for i := 1; i < len(g); i++ {
		tests = append(tests, below(1, g[i].Level+" to "+g[i-1].Level+" images", s.Paired(series.ByImages, g[i].Level, g[i-1].Level, s.Final)))
	}
	parts := []Statement{decided(first, numbersOf(g, "median with %s images", stats.Median), tests...)}
	for _, x := range g {
		if len(x.Values) < tailModels {
			return append(parts, unjudged(second, fmt.Sprintf("%d models with %s images are too few for an upper tail (%d are asked for)", len(x.Values), x.Level, tailModels)))
		}
	}
	tails := numbersOf(g, "95th percentile with %s images", func(v []float64) float64 { return stats.Quantile(v, tail) })
	return append(parts, judged(second, decreasing(values(tails)), tails))
}

// frozen is the rule of finding 2.
func (e Evidence) frozen() []Statement {
	s := e.Transfers
	medians := numbersOf(s.Groups(series.ByFrozen, s.Final), "median with frozen part %s", stats.Median)
	ratios := func(a, b string) []float64 { return s.Paired(series.ByFrozen, a, b, s.Final) }
	return []Statement{
		decided(fmt.Sprintf("With the decoder frozen, the loss is at most %.0f %% higher than with nothing frozen, in the median over otherwise equal configurations.", 100*(little-1)), medians,
			below(little, "decoder to none", ratios(nn.Decoder, study.FreezeNone))),
		decided("With the encoder frozen, it is higher than with nothing frozen, and than with the decoder frozen.", medians,
			above(1, "encoder to none", ratios(nn.Encoder, study.FreezeNone)),
			above(1, "encoder to decoder", ratios(nn.Encoder, nn.Decoder))),
	}
}

// rates is the rule of finding 3.
func (e Evidence) rates() []Statement {
	s := e.Transfers
	g := s.Groups(series.ByRates, s.Final)
	const first, second = "The highest rates of both stages give a lower loss than every other pair, in the median over otherwise equal configurations.", "They give the smallest standard deviation over all models."
	both := map[string]bool{}
	for _, x := range g {
		f := strings.Fields(x.Level)
		both["first "+f[0]], both["second "+f[2]] = true, true
	}
	if len(g) < 2 || len(both) < 4 {
		why := tooFew(g, "pair of learning rates")
		if len(g) > 1 {
			why = "one of the stages has only one learning rate"
		}
		return []Statement{unjudged(first, why), unjudged(second, why)}
	}
	most := len(g) - 1 // the levels are sorted
	var tests []test
	for _, x := range g[:most] {
		tests = append(tests, below(1, "("+g[most].Level+") to ("+x.Level+")", s.Paired(series.ByRates, g[most].Level, x.Level, s.Final)))
	}
	spreads := values(numbersOf(g, "%s", stats.Deviation))
	return []Statement{
		decided(first, numbersOf(g, "median at %s", stats.Median), tests...),
		judged(second, slices.Index(spreads, slices.Min(spreads)) == most, numbersOf(g, "standard deviation at %s", stats.Deviation)),
	}
}

// times is the rule of finding 12.
func (e Evidence) times() []Statement {
	s := e.Transfers
	statement := fmt.Sprintf("With the encoder frozen, an epoch of transfer takes between %.0f and %.0f %% less time than with nothing frozen.", 100*savedLeast, 100*savedMost)
	seconds := func(o *series.Transfer) float64 {
		if o.Seconds <= 0 {
			return math.NaN()
		}
		return o.Seconds
	}
	ratios := s.Paired(series.ByFrozen, nn.Encoder, study.FreezeNone, seconds)
	if len(ratios) == 0 {
		return []Statement{unjudged(statement, "no training times of models with the encoder and with nothing frozen")}
	}
	return []Statement{decided(statement, nil, test{"time with the encoder to none frozen", ratios, 1 - savedMost, 1 - savedLeast})}
}
