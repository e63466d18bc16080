package report

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Redrawn are a stage's losses on redraws of the validation images, without the offset, by
// domain and metric; each at the epoch that the metric takes on the images as they are.
type Redrawn map[string]map[series.Metric][]float32

// redraw reads the losses of single validation images from the store and draws the
// images again. Where one of the input's runs has none, Redrawn stays nil.
func (in *Input) redraw(r *reproduce.Resolved) error {
	nodes := map[string]*reproduce.Node{}
	for _, n := range r.Nodes {
		nodes[n.Digest] = n
	}
	type set struct {
		structures string
		images     int
	}
	drawn := map[set]series.Images{}
	all := map[*store.History]Redrawn{}
	redraws := series.Redraws(len(in.Models))
	for i := range in.Models {
		m := &in.Models[i]
		final := nodes[m.Digest]
		for _, stage := range []struct {
			h *store.History
			n *reproduce.Node
		}{{m.Pretrain, final.Parent}, {m.Final, final}} {
			if stage.h == nil || all[stage.h] != nil {
				continue
			}
			losses, err := stage.n.Spec.ReadLosses(r.Store, stage.n.Digest, stage.h)
			if err != nil {
				return fmt.Errorf("run %s: %w", stage.n.Run.ID, err)
			}
			if losses == nil {
				return nil
			}
			of := Redrawn{}
			for k := range in.Plan.Domains {
				d := &in.Plan.Domains[k]
				epochs := losses[d.Key]
				if epochs == nil {
					continue
				}
				key := set{structures(d), len(epochs[0])}
				if drawn[key] == nil {
					drawn[key] = series.RedrawImages(key.structures, key.images, redraws)
				}
				of[d.Key] = map[series.Metric][]float32{}
				for _, by := range []series.Metric{series.AsPublished, series.Kept} {
					of[d.Key][by] = drawn[key].Means(epochs[epoch(stage.h, d.Key, by)], in.offset())
				}
			}
			all[stage.h] = of
		}
	}
	in.Redrawn = all
	return nil
}

// structures names the set of structures that a domain's validation images are of:
// domains that differ in defocus or dose alone have the same.
func structures(d *study.Domain) string {
	if d.Own != nil {
		return d.Key
	}
	return d.Simulation.Crystal + " " + d.Size
}
