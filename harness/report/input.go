package report

import (
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Input is what a report is made of.
type Input struct {
	Plan   *study.Plan
	Models []trained.Result // finished ones, in the plan's order
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
	// Exported is the path of the exported model, relative to the report; ""
	// where there is none.
	Exported string
	// Browser is a page that runs the exported model on dropped images, relative
	// to the report; "" where there is none.
	Browser string
}

// Fact is a named line of text.
type Fact struct{ Name, Text string }

// Picture is a PNG with a caption. Name is that of its file, without extension;
// "" for a number.
type Picture struct {
	Name    string
	Caption string
	PNG     []byte
}

// offset is what the study's loss cannot go below.
func (in *Input) offset() float64 {
	if in.Plan.Study.Training.Loss == backend.LossOnProbabilities {
		return Offset
	}
	return 0
}

// loss is an epoch's validation loss on a domain, without the offset; NaN where
// it was not measured.
func (in *Input) loss(e store.Epoch, domain string) float64 {
	s, ok := e.Validation[domain]
	if !ok {
		return math.NaN()
	}
	return s.Loss - in.offset()
}

// best is the lowest validation loss on a domain over a stage's epochs, without
// the offset; NaN where it was not measured.
func (in *Input) best(h *store.History, domain string) float64 {
	if h == nil {
		return math.NaN()
	}
	l, ok := h.BestLoss(domain)
	if !ok {
		return math.NaN()
	}
	return l - in.offset()
}
