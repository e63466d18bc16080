package report

import (
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/report/claims"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Input is what a report is made of.
type Input struct {
	Plan   *study.Plan
	Models []trained.Result // finished ones, in the plan's order
	// Redrawn are the models' losses on redraws of the validation images, nil where the
	// losses of single images are not stored for all of them.
	Redrawn map[*store.History]Redrawn
	// Environment is shown as it is: backend, versions, notes.
	Environment []Fact
	// Failures says which runs are missing and why.
	Failures []string
	// Sheets are pictures of the images, as PNG.
	Sheets []Picture
	// Companion is the study of the other kind that finding 9 compares with: the
	// defocus series for the baseline, the baseline for the defocus series. Nil
	// where it has not been reproduced.
	Companion *Input
	// Particles are the radii of the simulated particles in Å by domain, for the
	// histograms of a structure series.
	Particles map[string][]float64
	// Exported are the files of the exported model, none where there is no model;
	// the heights and widths that they take are multiples of Multiple, and Dice says
	// how well the model does.
	Exported []Exported
	Multiple int
	Dice     string
}

// Fact is a named line of text.
type Fact struct{ Name, Text string }

// Exported is a file of the exported model.
type Exported struct {
	Name         string // relative to the report
	Standardizes bool   // it takes images as they were recorded
	Certificate  string // what ran it, in a line
}

// Picture is a PNG with a caption. Name is that of its file, without extension;
// "" for a number.
type Picture struct {
	Name    string
	Caption string
	PNG     []byte
}

// offset is what the study's loss cannot go below.
func (in *Input) offset() float64 {
	return backend.LeastLoss(in.Plan.Study.Training.Loss, in.Plan.Study.Network.ClassCount())
}

// Loss is an epoch's validation loss on a domain, without the offset; NaN where
// it was not measured.
func (in *Input) Loss(e store.Epoch, domain string) float64 {
	s, ok := e.Validation[domain]
	if !ok {
		return math.NaN()
	}
	return s.Loss - in.offset()
}

// at is a stage's loss on a domain by a metric, without the offset; NaN where it
// was not measured.
func (in *Input) at(h *store.History, domain string, by series.Metric) float64 {
	if h == nil {
		return math.NaN()
	}
	k := epoch(h, domain, by)
	if k < 0 {
		return math.NaN()
	}
	return in.Loss(h.Epochs[k], domain)
}

// epoch is the index of that at which a metric takes the loss on a domain, −1 for none.
func epoch(h *store.History, domain string, by series.Metric) int {
	if by == series.Kept {
		if h.Best > len(h.Epochs) {
			return -1
		}
		return h.Best - 1
	}
	best := -1
	for k, e := range h.Epochs {
		if s, ok := e.Validation[domain]; ok && (best < 0 || s.Loss < h.Epochs[best].Validation[domain].Loss) {
			best = k
		}
	}
	return best
}

// redraws is how often the validation images were drawn again.
func (in *Input) redraws() int {
	if in.Redrawn == nil {
		return 0
	}
	return series.Redraws(len(in.Models))
}

// Series is the input's models in the common form, by a metric.
func (in *Input) Series(by series.Metric) *series.Series {
	s := &series.Series{
		Axis: series.AxisOf(in.Plan.Study), Metric: by,
		Shared: in.Plan.Study.Training.PretrainSharing == study.ShareSeed,
	}
	for i := range in.Plan.Domains {
		s.Domains = append(s.Domains, in.Plan.Domains[i].Key)
	}
	losses := func(h *store.History) []float64 {
		v := make([]float64, len(s.Domains))
		for i, d := range s.Domains {
			v[i] = in.at(h, d, by)
		}
		return v
	}
	redrawn := func(h *store.History) [][]float32 {
		v := make([][]float32, len(s.Domains))
		for i, d := range s.Domains {
			v[i] = in.Redrawn[h][d][by]
		}
		return v
	}
	s.Redraws = in.redraws()
	for i := range in.Models {
		m := &in.Models[i]
		r := m.Run
		switch r.Kind {
		case study.TransferRun:
			s.Images, s.Epochs = r.Parent.Images, r.Parent.Epochs
			o := series.Transfer{
				Config: ConfigOf(r), Init: r.Parent.Seed,
				Before: losses(m.Pretrain), After: losses(m.Final),
			}
			if s.Redraws > 0 {
				o.BeforeRedrawn, o.AfterRedrawn = redrawn(m.Pretrain), redrawn(m.Final)
			}
			if r.Epochs > 0 {
				o.Seconds = m.TrainSeconds / float64(r.Epochs)
			}
			s.Transfers = append(s.Transfers, o)
		case study.SingleRun:
			s.Images, s.Epochs = r.Images, r.Epochs
			o := series.Single{Rate: r.LearningRate}
			for k, p := range r.Mixture[:min(2, len(r.Mixture))] {
				o.Domains[k], o.Images[k], o.Loss[k] = p.Domain.Key, p.Images, in.at(m.Final, p.Domain.Key, by)
				if s.Redraws > 0 {
					o.LossRedrawn[k] = in.Redrawn[m.Final][p.Domain.Key][by]
				}
			}
			s.Singles = append(s.Singles, o)
		}
	}
	s.Remember()
	return s
}

// ConfigOf is a transfer's configuration.
func ConfigOf(r *study.Run) series.Config {
	return series.Config{
		Source: r.Source.Key, Target: r.Target.Key,
		PretrainRate: r.Parent.LearningRate, Rate: r.LearningRate,
		Images: r.Images, Frozen: r.Frozen,
	}
}

// evidence is what findings are judged on: the input's models and those of its
// companion.
func (in *Input) evidence(by series.Metric) claims.Evidence {
	var ours claims.Evidence
	for _, i := range []*Input{in, in.Companion} {
		if i == nil {
			continue
		}
		if s := i.Series(by); len(s.Transfers) > 0 {
			ours.Transfers = s
		} else if len(s.Singles) > 0 {
			ours.Singles = s
		}
	}
	return ours
}
