package claims

import (
	"github.com/refocus-em/refocus/harness/report/series"
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

// bothWays are the ratios of the losses of transfers with nothing frozen to the
// median of the mixtures', for every combination that both have: for each
// pretrained model where transfers share them, else for the median of the
// transfers.
func (e Evidence) bothWays() series.Pairs {
	mixtures := map[target][]float64{}
	for _, m := range e.Singles.Singles {
		for k := range 2 {
			t := target{m.Domains[1-k], m.Domains[k], m.Images[k], m.Rate}
			mixtures[t] = append(mixtures[t], m.Loss[k])
		}
	}
	part := *e.Transfers
	part.Transfers = nil
	for _, o := range e.Transfers.Transfers {
		if o.Frozen == study.FreezeNone && mixtures[target{o.Source, o.Target, o.Images, o.PretrainRate}] != nil {
			part.Transfers = append(part.Transfers, o)
		}
	}
	return part.Against(func(c series.Config) float64 {
		return stats.Median(mixtures[target{c.Source, c.Target, c.Images, c.PretrainRate}])
	})
}
