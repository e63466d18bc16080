package claims

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

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
func (e Evidence) bothWays() (order []target, transfers, mixtures map[target][]float64) {
	transfers, mixtures = map[target][]float64{}, map[target][]float64{}
	for _, m := range e.Singles.Singles {
		for k := range 2 {
			t := target{m.Domains[1-k], m.Domains[k], m.Images[k], m.Rate}
			mixtures[t] = append(mixtures[t], m.Loss[k])
		}
	}
	for i := range e.Transfers.Transfers {
		o := &e.Transfers.Transfers[i]
		t := target{o.Source, o.Target, o.Images, o.PretrainRate}
		if o.Frozen != study.FreezeNone || mixtures[t] == nil {
			continue
		}
		if transfers[t] == nil {
			order = append(order, t)
		}
		transfers[t] = append(transfers[t], e.Transfers.Final(o))
	}
	return order, transfers, mixtures
}

// baseline is the rule of finding 9.
func (e Evidence) baseline() []Statement {
	statement := fmt.Sprintf("For the same pair of domains, number of target images and rate of the first stage, transfer's median loss is between %.2g and %.3g times that of single-stage training, in the median over these.", 1/alike, alike)
	if e.Singles == nil {
		return []Statement{unjudged(statement, "no single-stage models: reproduce the baseline series at the same profile")}
	}
	order, transfers, mixtures := e.bothWays()
	if len(order) == 0 {
		return []Statement{unjudged(statement, "transfers and single-stage models share no pair, number of target images and rate")}
	}
	var ratios, t, m []float64
	for _, k := range order {
		ratios = append(ratios, stats.Median(transfers[k])/stats.Median(mixtures[k]))
		t, m = append(t, transfers[k]...), append(m, mixtures[k]...)
	}
	numbers := []Number{{"transfer", stats.Median(t), len(t)}, {"single stage", stats.Median(m), len(m)}}
	p := decided(statement, numbers, test{"transfer to single stage", ratios, 1 / alike, alike})
	if a, b := e.Transfers, e.Singles; a.Images != b.Images || a.Epochs != b.Epochs {
		p.Outcome, p.Reason = Unjudged, fmt.Sprintf("the budgets differ: the pretraining sees %d images for %d epochs, the single stage %d for %d", a.Images, a.Epochs, b.Images, b.Epochs)
	}
	return []Statement{p}
}
