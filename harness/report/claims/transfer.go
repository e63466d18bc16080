package claims

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Gain is what transfer does to the loss on the target, over models and over the
// pairs of domains.
type Gain struct {
	Before, After, Ratio, Models, Cells stats.Sample
	// Pairs of domains.
	Pairs int
}

// GainOf measures it: the medians, the median of the models' ratios of after to
// before, the share of models whose loss falls, and the share of pairs of domains
// whose median does.
func GainOf(s *series.Series) Gain {
	g := Gain{Pairs: changesOf(s).pairs}
	r := s.Bootstrap(5, func(s *series.Series) stats.Statistic { return changesOf(s).statistic })
	g.Before, g.After, g.Ratio, g.Models, g.Cells = r[0], r[1], r[2], r[3], r[4]
	return g
}

// changesOf are the numbers of a Gain, in its order.
func changesOf(s *series.Series) (c struct {
	statistic stats.Statistic
	pairs     int
}) {
	var before, after, ratio, falls stats.Sorted
	from, to := s.Sources(), s.Targets()
	b, a := stats.NewCells(from, to), stats.NewCells(from, to)
	for i := range s.Transfers {
		o := &s.Transfers[i]
		x, y := s.Initial(o), s.Final(o)
		if math.IsNaN(x) || math.IsNaN(y) {
			continue
		}
		before.Add(i, x)
		after.Add(i, y)
		ratio.Add(i, y/x)
		if y < x {
			falls.Add(i, 1)
		} else {
			falls.Add(i, 0)
		}
		b.Add(o.Source, o.Target, i, x)
		a.Add(o.Source, o.Target, i, y)
	}
	cells := func(w []int) float64 {
		lower, n := 0, 0
		x, y := b.Medians(w), a.Medians(w)
		for i := range x.Values {
			for j := range x.Values[i] {
				if u, v := x.Values[i][j], y.Values[i][j]; !math.IsNaN(u) {
					n++
					if v < u {
						lower++
					}
				}
			}
		}
		return float64(lower) / float64(n)
	}
	for _, row := range b.Medians(series.Once(len(s.Transfers))).Values {
		c.pairs += len(stats.Finite(row))
	}
	c.statistic = func(w []int, v []float64) {
		v[0], v[1], v[2], v[3], v[4] = before.Median(w), after.Median(w), ratio.Median(w), falls.Share(w), cells(w)
	}
	return c
}

// lowers is the rule of finding 13.
func (e Evidence) lowers() []Statement {
	g := GainOf(e.Transfers)
	const half = "More often than not is ours: the paper says that it works, and not how often."
	of := models(e.Transfers)
	return []Statement{
		decided("Transfer lowers the loss on the target for more than half of the models.", half, nil,
			tested("share of models with a lower loss", of, g.Models, above(0.5))),
		decided("It lowers the median loss of more than half of the pairs of domains.", half, nil,
			tested("share of pairs with a lower median", counted(g.Pairs, "pair")+" of domains", g.Cells, above(0.5))),
		decided("The median model's loss after transfer is lower than before.", "", []Number{
			{"median before", g.Before.Value, g.Before.Interval(), len(e.Transfers.Transfers)}, {"median after", g.After.Value, g.After.Interval(), len(e.Transfers.Transfers)}},
			tested("after to before", "median over "+of, g.Ratio, below(1))),
	}
}

// baseline is the rule of finding 9.
func (e Evidence) baseline() []Statement {
	statement := fmt.Sprintf("For the same pair of domains, number of target images and rate of the first stage, transfer's loss is between %.2g and %.3g times that of single-stage training, in the median over these.", 1/alike, alike)
	if e.Singles == nil {
		return []Statement{unjudged(statement, "no single-stage models: reproduce the baseline series at the same profile")}
	}
	p := e.bothWays()
	if len(p.Ratios) == 0 {
		return []Statement{unjudged(statement, "transfers and single-stage models share no pair, number of target images and rate")}
	}
	why := "A quarter more or less is ours, for \"comparable\"; the paper shows one pair of domains. The medians of the single stage are taken as they are."
	if e.Singles.Metric == series.Kept {
		why += " The weights of a single-stage model are those of its best epoch on the major domain."
	}
	if a, b := e.Transfers, e.Singles; a.Images != b.Images || a.Epochs != b.Epochs {
		why += fmt.Sprintf(" The budgets differ: the pretraining sees %d images for %d epochs, the single stage %d for %d.", a.Images, a.Epochs, b.Images, b.Epochs)
	}
	redraws := min(e.Transfers.Redraws, e.Singles.Redraws)
	return []Statement{decided(statement, why, nil, compared("transfer to single stage", redraws, func(at series.Redraw) series.Pairs {
		return Evidence{at(e.Transfers), at(e.Singles)}.bothWays()
	}, within(alike)))}
}
