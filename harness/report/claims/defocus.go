package claims

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// focusToOthers are the ratios of the loss on the target in focus to the median
// over the other targets, for configurations equal but for the target.
func focusToOthers(s *series.Series) []float64 {
	type sides struct{ focus, others []float64 }
	all := map[series.Config]*sides{}
	var order []series.Config
	for i := range s.Transfers {
		o := &s.Transfers[i]
		c := o.Config
		c.Target = ""
		if all[c] == nil {
			all[c] = &sides{}
			order = append(order, c)
		}
		if o.Target == inFocus {
			all[c].focus = append(all[c].focus, s.Final(o))
		} else {
			all[c].others = append(all[c].others, s.Final(o))
		}
	}
	var ratios []float64
	for _, c := range order {
		ratios = append(ratios, stats.Median(all[c].focus)/stats.Median(all[c].others))
	}
	return stats.Finite(ratios)
}

// focusHardest is the rule of finding 4.
func (e Evidence) focusHardest() []Statement {
	s := e.Transfers
	const first = "After transfer, 0 nm has the highest median loss of all targets."
	second := fmt.Sprintf("The loss there is between %g and %g times the median over the other targets, in the median over otherwise equal configurations.", factorLow, factorHigh)
	const third = "After pretraining at −10, −5 or 0 nm, 0 nm is the domain of highest median loss."
	var parts []Statement
	var focus *Number
	var others []float64
	var numbers []Number
	for _, x := range s.ByTarget() {
		n := Number{s.Name(x.Level), stats.Median(x.Values), len(x.Values)}
		numbers = append(numbers, n)
		if x.Level == inFocus {
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
			decided(second, nil, test{"0 nm to the others", focusToOthers(s), factorLow, factorHigh}))
	}
	before, _ := s.Medians()
	numbers = nil
	ok := true
	for _, source := range []string{"-100", "-50", inFocus} {
		i := slices.Index(before.Rows, source)
		if i < 0 || slices.Index(before.Columns, inFocus) < 0 {
			continue
		}
		at0 := before.Get(source, inFocus)
		worst := math.Inf(-1)
		for j, c := range before.Columns {
			if v := before.Values[i][j]; c != inFocus && v > worst {
				worst = v
			}
		}
		numbers = append(numbers, Number{"from " + s.Name(source) + " to 0 nm", at0, 0}, Number{"and to the worst other", worst, 0})
		ok = ok && at0 > worst
	}
	if numbers == nil {
		return append(parts, unjudged(third, "no model was pretrained at these and validated at 0 nm"))
	}
	return append(parts, judged(third, ok, numbers))
}

// worstToBest is the median over the columns of the ratio of the worst to the
// best row, cells for which skip is true left out.
func worstToBest(m *stats.Matrix, skip func(row, column string) bool) (ratio float64, columns int) {
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
	return stats.Median(r), len(r)
}

func diagonal(row, column string) bool { return row == column }

// source is the rule of finding 5.
func (e Evidence) source() []Statement {
	s := e.Transfers
	before, after := s.Medians()
	first := fmt.Sprintf("After pretraining, the worst source has at least %g times the median loss of the best, in the median over domains.", strongly)
	const second = "On each of −25, −20 and −15 nm, the two worst sources are +5 and +10 nm."
	third := fmt.Sprintf("After transfer, the worst source has at most %g times the median loss of the best, in the median over targets.", hardly)
	if len(before.Rows) < 2 {
		why := "models were pretrained on one domain only"
		return []Statement{unjudged(first, why), unjudged(second, why), unjudged(third, why)}
	}
	b, n := worstToBest(before, diagonal)
	parts := []Statement{judged(first, b >= strongly, []Number{{fmt.Sprintf("worst to best over %d domains", n), b, 0}})}

	ok, seen := true, 0
	var numbers []Number
	for _, c := range []string{"-250", "-200", "-150"} {
		if slices.Index(before.Columns, c) < 0 || slices.Index(before.Rows, "50") < 0 || slices.Index(before.Rows, "100") < 0 || len(before.Rows) < 3 {
			continue
		}
		seen++
		positive := min(before.Get("50", c), before.Get("100", c))
		worst := math.Inf(-1)
		for _, r := range before.Rows {
			if r != "50" && r != "100" {
				worst = max(worst, before.Get(r, c))
			}
		}
		numbers = append(numbers, Number{"better of +5 and +10 nm on " + s.Name(c), positive, 0}, Number{"worst of the others there", worst, 0})
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

// spreads is the rule of finding 6.
func (e Evidence) spreads() []Statement {
	s := e.Transfers
	before, after := s.SpreadsBySource()
	var parts []Statement
	for k, g := range [][]stats.Group{before, after} {
		stage := []string{"After pretraining", "After transfer"}[k]
		var focus, positive, negative []Number
		var all []Number
		for _, x := range g {
			n := Number{"pretrained at " + s.Name(x.Level), stats.Median(x.Values), len(x.Values)}
			all = append(all, n)
			switch {
			case x.Level == inFocus:
				focus = append(focus, n)
			case strings.HasPrefix(x.Level, "-"):
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

// worse is the rule of finding 7.
func (e Evidence) worse() []Statement {
	s := e.Transfers
	first := fmt.Sprintf("The spread rises in transfer for at least %.0f %% of the models.", 100*canMake)
	const second = "Of all sources, the largest share is of models pretrained at −10 nm."
	var numbers []Number
	var total, n, most, at = 0.0, 0, -1.0, -1.0
	for _, d := range s.Sources() {
		rises, of := 0.0, 0
		for i := range s.Transfers {
			o := &s.Transfers[i]
			b, a := s.Spread(o.Before), s.Spread(o.After)
			if o.Source != d || math.IsNaN(b) || math.IsNaN(a) {
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
		numbers = append(numbers, Number{"pretrained at " + s.Name(d), share, of})
		total, n, most = total+rises, n+of, max(most, share)
		if d == worstSource {
			at = share
		}
	}
	if n == 0 {
		return []Statement{unjudged(first, "spreads need losses on at least two domains out of focus")}
	}
	parts := []Statement{judged(first, total/float64(n) >= canMake, []Number{{"share of all models", total / float64(n), n}})}
	if at < 0 || len(numbers) < 2 {
		return append(parts, unjudged(second, "no models were pretrained at −10 nm and elsewhere"))
	}
	return append(parts, judged(second, at == most, numbers))
}

// asymmetry is the rule of finding 8.
func (e Evidence) asymmetry() []Statement {
	s := e.Transfers
	const statement = "Transfer from 0 nm to another defocus reaches a lower loss than transfer from there to 0 nm, in the median over otherwise equal configurations."
	var out, in []float64
	from, to := map[series.Config][]float64{}, map[series.Config][]float64{}
	var order []series.Config
	for i := range s.Transfers {
		o := &s.Transfers[i]
		c, v := o.Config, s.Final(o)
		c.Target = ""
		switch inFocus { // the other end of the transfer remains

		case o.Source:
			c.Source = o.Target
			if from[c] == nil {
				order = append(order, c)
			}
			out, from[c] = append(out, v), append(from[c], v)
		case o.Target:
			c.Source = o.Source
			in, to[c] = append(in, v), append(to[c], v)
		}
	}
	if len(out) == 0 || len(in) == 0 {
		return []Statement{unjudged(statement, "no models were transferred both from and to 0 nm")}
	}
	var ratios []float64
	for _, c := range order {
		ratios = append(ratios, stats.Median(from[c])/stats.Median(to[c]))
	}
	return []Statement{decided(statement, []Number{{"median from 0 nm", stats.Median(out), len(out)}, {"median to 0 nm", stats.Median(in), len(in)}},
		below(1, "from 0 nm to the way back", stats.Finite(ratios)))}
}
