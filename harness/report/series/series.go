package series

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// What varies between the domains of a series, as the columns of the published
// tables name it.
const (
	AxisDefocus   = "defocus"
	AxisDose      = "dose"
	AxisStructure = "structure"
	axisOther     = "domain"
)

// InFocus is the key of the domain in focus of a defocus series.
const InFocus = "0"

// A Metric says at which of a stage's epochs losses are taken.
type Metric string

const (
	// AsPublished is the least loss over the epochs, for every domain by itself:
	// what the published tables have. It belongs to no single model.
	AsPublished Metric = "as published"
	// Kept is the loss of the weights that a stage keeps, those of its best epoch
	// on the domain trained on: one model, evaluated on every domain.
	Kept Metric = "kept weights"
)

// Config is what distinguishes the trained models of a series but for their
// initialisation.
type Config struct {
	Source, Target string // keys of domains
	PretrainRate   float64
	Rate           float64
	Images         int
	Frozen         string
}

// Transfer is a model trained in two stages: its losses without the offset, in
// the order of the series' domains, NaN where not measured.
type Transfer struct {
	Config
	Before, After []float64
	// BeforeRedrawn and AfterRedrawn are these on every redraw of the validation
	// images, by domain and redraw: see Redraws.
	BeforeRedrawn, AfterRedrawn [][]float32
	// Init is the number of the pretraining's initialisation, where transfers share
	// pretrained models.
	Init int
	// Seconds of training per epoch of the second stage, 0 where unknown.
	Seconds float64
}

// Single is a model trained in one stage on images of two domains, major first.
type Single struct {
	Domains [2]string
	Images  [2]int
	Rate    float64
	Loss    [2]float64
	// LossRedrawn are these on every redraw of the validation images.
	LossRedrawn [2][]float32
}

// Series is the trained models of a study, with their losses by one metric.
type Series struct {
	Axis      string
	Metric    Metric
	Domains   []string // keys, in order
	Transfers []Transfer
	Singles   []Single
	// Shared says that transfers of one source, rate and initialisation start from
	// the same pretrained model; else each has its own.
	Shared bool
	// Protocol, for comparisons between series: images and epochs of the first
	// stage, or of the only one.
	Images, Epochs int
	// Redraws is how often the images of the validation sets were drawn again, 0 where
	// their losses are not known one by one.
	Redraws int

	memo  *memo // nil but for published series
	again *memo // of redraws, see Remember
}

// AxisOf names what varies between the domains.
func AxisOf(s *study.Study) string {
	g := s.Grid
	crystals, defoci, doses := len(g.Crystals) > 1 || len(g.Sizes) > 1, len(g.Defocus) > 1, len(g.Dose) > 1
	switch {
	case len(s.Own) > 0:
		return axisOther
	case defoci && !doses && !crystals:
		return AxisDefocus
	case doses && !defoci && !crystals:
		return AxisDose
	case crystals && !defoci && !doses:
		return AxisStructure
	}
	return axisOther
}

// Index is the index of a domain, -1 for none.
func (s *Series) Index(domain string) int { return slices.Index(s.Domains, domain) }

// Initial is a model's loss on its target before transfer.
func (s *Series) Initial(o *Transfer) float64 { return o.Before[s.Index(o.Target)] }

// Final is a model's loss on its target after transfer, which is the same by both
// metrics.
func (s *Series) Final(o *Transfer) float64 { return o.After[s.Index(o.Target)] }

// Sources are the domains that models were pretrained on, in order.
func (s *Series) Sources() []string {
	seen := map[string]bool{}
	for i := range s.Transfers {
		seen[s.Transfers[i].Source] = true
	}
	return s.those(seen)
}

// Targets are the domains that models were transferred to, in order.
func (s *Series) Targets() []string {
	seen := map[string]bool{}
	for i := range s.Transfers {
		seen[s.Transfers[i].Target] = true
	}
	return s.those(seen)
}

func (s *Series) those(seen map[string]bool) []string {
	var list []string
	for _, d := range s.Domains {
		if seen[d] {
			list = append(list, d)
		}
	}
	return list
}

// Spread is the standard deviation of a model's losses over the domains; in a
// defocus series without the one in focus, as the study defines its
// out-of-distribution spread.
func (s *Series) Spread(losses []float64) float64 {
	var v []float64
	for i, d := range s.Domains {
		if s.Axis == AxisDefocus && d == InFocus {
			continue
		}
		if math.IsNaN(losses[i]) {
			return math.NaN()
		}
		v = append(v, losses[i])
	}
	if len(v) < 2 {
		return math.NaN()
	}
	return stats.Deviation(v)
}

// Label writes a domain's key for an axis.
func (s *Series) Label(key string) string {
	switch s.Axis {
	case AxisDefocus:
		if v, err := strconv.ParseFloat(key, 64); err == nil {
			return strings.TrimSuffix(format.Defocus(v), " nm")
		}
	case AxisStructure:
		return strings.ReplaceAll(key, "_", " ")
	}
	return key
}

// Name writes a domain's key with its unit.
func (s *Series) Name(key string) string {
	switch s.Axis {
	case AxisDefocus:
		return s.Label(key) + " nm"
	case AxisDose:
		return key + " e⁻/Å²"
	}
	return s.Label(key)
}

// Unit names the axis of the domains.
func (s *Series) Unit() string {
	switch s.Axis {
	case AxisDefocus:
		return "defocus in nm"
	case AxisDose:
		return "dose in e⁻/Å²"
	}
	return s.Axis
}

// Preposition goes with the unit: at a dose, on a structure.
func (s *Series) Preposition() string {
	if s.Axis == AxisDefocus || s.Axis == AxisDose {
		return "at"
	}
	return "on"
}
