package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// What varies between the domains of a series, as the columns of the published
// tables name it.
const (
	axisDefocus   = "defocus"
	axisDose      = "dose"
	axisStructure = "structure"
	axisOther     = "domain"
)

// config is what distinguishes the trained models of a series but for their
// initialisation.
type config struct {
	source, target string // keys of domains
	pretrainRate   float64
	rate           float64
	images         int
	frozen         string
}

// outcome is a model trained in two stages: its best losses without the offset,
// in the order of the series' domains, NaN where not measured.
type outcome struct {
	config
	before, after []float64
	// seconds of training per epoch of the second stage, 0 where unknown.
	seconds float64
}

// single is a model trained in one stage on images of two domains, major first.
type single struct {
	domains [2]string
	images  [2]int
	rate    float64
	loss    [2]float64
}

// series is the trained models of a study.
type series struct {
	axis    string
	domains []string // keys, in order
	models  []outcome
	singles []single
	// Protocol, for comparisons between series: images and epochs of the first
	// stage, or of the only one.
	images, epochs int
}

// axis names what varies between the domains.
func axis(s *study.Study) string {
	g := s.Grid
	crystals, defoci, doses := len(g.Crystals) > 1 || len(g.Sizes) > 1, len(g.Defocus) > 1, len(g.Dose) > 1
	switch {
	case len(s.Own) > 0:
		return axisOther
	case defoci && !doses && !crystals:
		return axisDefocus
	case doses && !defoci && !crystals:
		return axisDose
	case crystals && !defoci && !doses:
		return axisStructure
	}
	return axisOther
}

// series is the input's models in the common form.
func (in *Input) series() *series {
	s := &series{axis: axis(in.Plan.Study)}
	for i := range in.Plan.Domains {
		s.domains = append(s.domains, in.Plan.Domains[i].Key)
	}
	best := func(m *trained.Result, first bool) []float64 {
		h := m.Final
		if first {
			h = m.Pretrain
		}
		v := make([]float64, len(s.domains))
		for i, d := range s.domains {
			v[i] = in.best(h, d)
		}
		return v
	}
	for i := range in.Models {
		m := &in.Models[i]
		r := m.Run
		switch r.Kind {
		case study.TransferRun:
			s.images, s.epochs = r.Parent.Images, r.Parent.Epochs
			o := outcome{
				config: config{r.Source.Key, r.Target.Key, r.Parent.LearningRate, r.LearningRate, r.Images, r.Frozen},
				before: best(m, true), after: best(m, false),
			}
			if r.Epochs > 0 {
				o.seconds = m.TrainSeconds / float64(r.Epochs)
			}
			s.models = append(s.models, o)
		case study.SingleRun:
			s.images, s.epochs = r.Images, r.Epochs
			o := single{rate: r.LearningRate}
			for k, p := range r.Mixture[:min(2, len(r.Mixture))] {
				o.domains[k], o.images[k], o.loss[k] = p.Domain.Key, p.Images, in.best(m.Final, p.Domain.Key)
			}
			s.singles = append(s.singles, o)
		}
	}
	return s
}

// at is the index of a domain, -1 for none.
func (s *series) at(domain string) int { return slices.Index(s.domains, domain) }

// final is a model's best loss on its target after transfer.
func (s *series) final(o *outcome) float64 { return o.after[s.at(o.target)] }

// sources are the domains that models were pretrained on, in order.
func (s *series) sources() []string {
	seen := map[string]bool{}
	for i := range s.models {
		seen[s.models[i].source] = true
	}
	return s.those(seen)
}

// targets are the domains that models were transferred to, in order.
func (s *series) targets() []string {
	seen := map[string]bool{}
	for i := range s.models {
		seen[s.models[i].target] = true
	}
	return s.those(seen)
}

func (s *series) those(seen map[string]bool) []string {
	var list []string
	for _, d := range s.domains {
		if seen[d] {
			list = append(list, d)
		}
	}
	return list
}

// spread is the standard deviation of a model's losses over the domains; in a
// defocus series without the one in focus, as the study defines its
// out-of-distribution spread.
func (s *series) spread(losses []float64) float64 {
	var v []float64
	for i, d := range s.domains {
		if s.axis == axisDefocus && d == "0" {
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
	return deviation(v)
}

// label writes a domain's key for an axis.
func (s *series) label(key string) string {
	switch s.axis {
	case axisDefocus:
		if v, err := strconv.ParseFloat(key, 64); err == nil {
			if v == 0 {
				return "0"
			}
			return strings.Replace(fmt.Sprintf("%+g", v/10), "-", "−", 1)
		}
	case axisStructure:
		return strings.ReplaceAll(key, "_", " ")
	}
	return key
}

// name writes a domain's key with its unit.
func (s *series) name(key string) string {
	switch s.axis {
	case axisDefocus:
		return s.label(key) + " nm"
	case axisDose:
		return key + " e⁻/Å²"
	}
	return s.label(key)
}

// unit names the axis of the domains.
func (s *series) unit() string {
	switch s.axis {
	case axisDefocus:
		return "defocus in nm"
	case axisDose:
		return "dose in e⁻/Å²"
	}
	return s.axis
}

// preposition goes with the unit: at a dose, on a structure.
func (s *series) preposition() string {
	if s.axis == axisDefocus || s.axis == axisDose {
		return "at"
	}
	return "on"
}

// rate writes a learning rate: 1e-3, 3e-4.
func rate(v float64) string {
	m, e, _ := strings.Cut(strconv.FormatFloat(v, 'e', -1, 64), "e")
	n, _ := strconv.Atoi(e) // FormatFloat writes an integer there
	return m + "e" + strconv.Itoa(n)
}

// factor is something that models of a series differ in.
type factor struct {
	name string
	// level of a configuration, which is left without it.
	take func(*config) string
	// less orders levels; nil for the order in which they are met.
	less func(a, b string) int
}

func numeric(a, b string) int {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x - y
}

var (
	byImages = factor{"transfer images", func(c *config) string {
		n := c.images
		c.images = 0
		return strconv.Itoa(n)
	}, numeric}
	byFrozen = factor{"frozen part", func(c *config) string {
		f := c.frozen
		c.frozen = ""
		return f
	}, func(a, b string) int {
		order := []string{study.FreezeNone, nn.Decoder, nn.Encoder}
		return slices.Index(order, a) - slices.Index(order, b)
	}}
	byRates = factor{"learning rates", func(c *config) string {
		t := rate(c.pretrainRate) + " → " + rate(c.rate)
		c.pretrainRate, c.rate = 0, 0
		return t
	}, func(a, b string) int {
		x, y := strings.Fields(a), strings.Fields(b)
		for _, k := range []int{0, 2} { // rates of the two stages
			u, _ := strconv.ParseFloat(x[k], 64)
			v, _ := strconv.ParseFloat(y[k], 64)
			if u != v {
				if u < v {
					return -1
				}
				return 1
			}
		}
		return 0
	}}
)

// group is values of a level of a factor.
type group struct {
	level  string
	values []float64
}

// groups splits the models' values by a factor's levels.
func (s *series) groups(f factor, value func(*outcome) float64) []group {
	at := map[string]int{}
	var g []group
	for i := range s.models {
		c := s.models[i].config
		l := f.take(&c)
		k, ok := at[l]
		if !ok {
			k, at[l] = len(g), len(g)
			g = append(g, group{level: l})
		}
		if v := value(&s.models[i]); !math.IsNaN(v) {
			g[k].values = append(g[k].values, v)
		}
	}
	slices.SortStableFunc(g, func(a, b group) int { return f.less(a.level, b.level) })
	return g
}

// paired compares two levels of a factor between configurations that are
// otherwise equal: the ratios of their medians over initialisations, a to b.
func (s *series) paired(f factor, a, b string, value func(*outcome) float64) []float64 {
	type two struct{ a, b []float64 }
	all := map[config]*two{}
	var order []config
	for i := range s.models {
		c := s.models[i].config
		l := f.take(&c)
		if l != a && l != b {
			continue
		}
		t := all[c]
		if t == nil {
			t = &two{}
			all[c] = t
			order = append(order, c)
		}
		if v := value(&s.models[i]); l == a {
			t.a = append(t.a, v)
		} else {
			t.b = append(t.b, v)
		}
	}
	var ratios []float64
	for _, c := range order {
		if r := median(all[c].a) / median(all[c].b); !math.IsNaN(r) && !math.IsInf(r, 0) {
			ratios = append(ratios, r)
		}
	}
	return ratios
}
