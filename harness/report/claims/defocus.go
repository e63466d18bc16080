package claims

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// byDomain are values of transfers, by transfer, for each of a list of domains.
func byDomain(s *series.Series, domains []string, of func(*series.Transfer) string, value func(*series.Transfer) float64) []*stats.Sorted {
	v := make([]*stats.Sorted, len(domains))
	for k := range domains {
		v[k] = &stats.Sorted{}
	}
	for i := range s.Transfers {
		if k := slices.Index(domains, of(&s.Transfers[i])); k >= 0 {
			v[k].Add(i, value(&s.Transfers[i]))
		}
	}
	return v
}

func sourceOf(o *series.Transfer) string { return o.Source }
func targetOf(o *series.Transfer) string { return o.Target }

// named are domains with their units after some words.
func named(s *series.Series, words string, domains []string) []string {
	n := make([]string, len(domains))
	for i, d := range domains {
		n[i] = words + s.Name(d)
	}
	return n
}

// worst is the largest of medians.
func worst(w []int, values []*stats.Sorted) float64 {
	v := math.NaN()
	for _, x := range values {
		if m := x.Median(w); math.IsNaN(v) || m > v {
			v = m
		}
	}
	return v
}

// focusHardest is the rule of finding 4.
func (e Evidence) focusHardest() []Statement {
	s := e.Transfers
	const statement = "After transfer, 0 nm has the highest median loss of all targets."
	targets := s.Targets()
	at := slices.Index(targets, series.InFocus)
	if at < 0 || len(targets) < 2 {
		return []Statement{unjudged(statement, "no model was transferred to 0 nm and to another defocus")}
	}
	onTargets := func(s *series.Series) []*stats.Sorted { return byDomain(s, targets, targetOf, s.Final) }
	numbers := medians(s, named(s, "on ", targets), onTargets)
	return []Statement{decided(statement, "", numbers, measured(s, func(s *series.Series) []measure {
		values := onTargets(s)
		others := slices.Delete(slices.Clone(values), at, at+1)
		return []measure{{"0 nm to the worst other target", above(1), func(w []int) float64 { return values[at].Median(w) / worst(w, others) }}}
	})...)}
}

// worstToBest is the median over the columns of the ratio of the worst to the
// best row, the diagonal left out; NaN where no column has two rows.
func worstToBest(m *stats.Matrix) float64 {
	var r []float64
	for j, c := range m.Columns {
		worst, best, n := math.Inf(-1), math.Inf(1), 0
		for i, row := range m.Rows {
			if x := m.Values[i][j]; !math.IsNaN(x) && row != c {
				worst, best, n = max(worst, x), min(best, x), n+1
			}
		}
		if n > 1 {
			r = append(r, worst/best)
		}
	}
	return stats.Median(r)
}

func diagonal(row, column string) bool { return row == column }

// source is the rule of finding 5.
func (e Evidence) source() []Statement {
	s := e.Transfers
	first := fmt.Sprintf("After pretraining, the worst source has at least %g times the median loss of the best, in the median over domains.", notable)
	second := fmt.Sprintf("After transfer, it has at most %g times that of the best, in the median over targets.", fairly)
	if len(s.Sources()) < 2 {
		why := "models were pretrained on one domain only"
		return []Statement{unjudged(first, why), unjudged(second, why)}
	}
	t := measured(s, func(s *series.Series) []measure {
		before, after := s.Cells()
		return []measure{
			{"worst to best before transfer", above(notable), func(w []int) float64 { return worstToBest(before.Medians(w)) }},
			{"worst to best after transfer", below(fairly), func(w []int) float64 { return worstToBest(after.Medians(w)) }},
		}
	})
	return []Statement{
		decided(first, fmt.Sprintf("A factor of %g is ours, for \"notable\".", notable), nil, t[0]),
		decided(second, fmt.Sprintf("A factor of %g is ours, for \"fairly consistent\".", fairly), nil, t[1]),
	}
}

// spreads is the rule of finding 6.
func (e Evidence) spreads() []Statement {
	s := e.Transfers
	const (
		first  = "After pretraining, models pretrained at positive defocus have a larger median spread over the domains out of focus than the others."
		second = "Models pretrained in focus have a smaller one than the others, in the median over sources."
		third  = "Models pretrained in focus have a lower loss on the other domains, in the median, than on their own."
	)
	sources := s.Sources()
	spreads := func(s *series.Series) []*stats.Sorted {
		return byDomain(s, sources, sourceOf, func(o *series.Transfer) float64 { return s.Spread(o.Before) })
	}
	numbers := medians(s, named(s, "spread, pretrained at ", sources), spreads)
	var positive, others, unfocused []int // among the sources
	focus := slices.Index(sources, series.InFocus)
	for k, d := range sources {
		switch {
		case k == focus:
			others = append(others, k)
		case strings.HasPrefix(d, "-"):
			others, unfocused = append(others, k), append(unfocused, k)
		default:
			positive, unfocused = append(positive, k), append(unfocused, k)
		}
	}
	middle := func(w []int, values []*stats.Sorted, of []int) float64 {
		var m []float64
		for _, k := range of {
			m = append(m, values[k].Median(w))
		}
		return stats.Median(m)
	}
	var all []Statement
	if len(positive) == 0 || len(others) == 0 {
		all = append(all, unjudged(first, "no models of both signs of defocus"))
	} else {
		all = append(all, decided(first, "", numbers, measured(s, func(s *series.Series) []measure {
			values := spreads(s)
			return []measure{{"positive to other sources", above(1), func(w []int) float64 { return middle(w, values, positive) / middle(w, values, others) }}}
		})...))
	}
	if focus < 0 || len(unfocused) == 0 {
		why := "no models were pretrained in focus and out of it"
		return append(all, unjudged(second, why), unjudged(third, why))
	}
	at := s.Index(series.InFocus)
	t := measured(s, func(s *series.Series) []measure {
		values := spreads(s)
		own := byDomain(s, []string{series.InFocus}, sourceOf, func(o *series.Transfer) float64 { return o.Before[at] })[0]
		away := byDomain(s, []string{series.InFocus}, sourceOf, func(o *series.Transfer) float64 {
			return stats.Median(append(slices.Clone(o.Before[:at]), o.Before[at+1:]...))
		})[0]
		return []measure{
			{"in focus to other sources", below(1), func(w []int) float64 { return values[focus].Median(w) / middle(w, values, unfocused) }},
			{"other domains to their own", below(1), func(w []int) float64 { return away.Median(w) / own.Median(w) }},
		}
	})
	return append(all, decided(second, "Better than the median of the others is ours, for \"some of the best\".", nil, t[0]), decided(third, "", nil, t[1]))
}

// worse is the rule of finding 7.
func (e Evidence) worse() []Statement {
	s := e.Transfers
	statement := fmt.Sprintf("The spread over the domains out of focus rises in transfer for more than %.0f %% of the models.", 100*canMake)
	rises := func(s *series.Series) *stats.Sorted {
		var rises stats.Sorted
		for i := range s.Transfers {
			b, a := s.Spread(s.Transfers[i].Before), s.Spread(s.Transfers[i].After)
			switch {
			case math.IsNaN(a - b):
			case a > b:
				rises.Add(i, 1)
			default:
				rises.Add(i, 0)
			}
		}
		return &rises
	}
	if rises(s).Len() == 0 {
		return []Statement{unjudged(statement, "spreads need losses on at least two domains out of focus")}
	}
	return []Statement{decided(statement, fmt.Sprintf("%.0f %% is ours, for \"can\": more than a few stray models.", 100*canMake), nil,
		measured(s, func(s *series.Series) []measure {
			return []measure{{"share of models with a larger spread", above(canMake), rises(s).Share}}
		})...)}
}

// asymmetry is the rule of finding 8.
func (e Evidence) asymmetry() []Statement {
	s := e.Transfers
	const statement = "Transfer from 0 nm to another defocus reaches a lower loss than transfer from there to 0 nm, in the median over these defoci."
	var others []string
	for _, d := range s.Sources() {
		if d != series.InFocus {
			others = append(others, d)
		}
	}
	end := func(s *series.Series, from bool) []*stats.Sorted {
		return byDomain(s, others, func(o *series.Transfer) string {
			switch {
			case from && o.Source == series.InFocus:
				return o.Target
			case !from && o.Target == series.InFocus:
				return o.Source
			}
			return ""
		}, s.Final)
	}
	ratio := func(s *series.Series) func(w []int) float64 {
		from, to := end(s, true), end(s, false)
		return func(w []int) float64 {
			var r []float64
			for k := range others {
				r = append(r, from[k].Median(w)/to[k].Median(w))
			}
			return stats.Median(r)
		}
	}
	if math.IsNaN(ratio(s)(series.Once(len(s.Transfers)))) {
		return []Statement{unjudged(statement, "no models were transferred both from and to 0 nm")}
	}
	return []Statement{decided(statement, "", nil, measured(s, func(s *series.Series) []measure {
		return []measure{{"from 0 nm to the way back", below(1), ratio(s)}}
	})...)}
}
