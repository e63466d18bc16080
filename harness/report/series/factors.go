package series

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/report/stats"
	"github.com/refocus-em/refocus/harness/study"
)

// Factor is something that models of a series differ in.
type Factor struct {
	Name string
	// take is the level of a configuration, which is left without it.
	take func(*Config) string
	// less orders levels.
	less func(a, b string) int
}

func numeric(a, b string) int {
	x, _ := strconv.Atoi(a)
	y, _ := strconv.Atoi(b)
	return x - y
}

// The factors of transfers.
var (
	ByImages = Factor{"transfer images", func(c *Config) string {
		n := c.Images
		c.Images = 0
		return strconv.Itoa(n)
	}, numeric}
	ByFrozen = Factor{"frozen part", func(c *Config) string {
		f := c.Frozen
		c.Frozen = ""
		return f
	}, func(a, b string) int {
		order := []string{study.FreezeNone, nn.Decoder, nn.Encoder}
		return slices.Index(order, a) - slices.Index(order, b)
	}}
	ByRates = Factor{"learning rates", func(c *Config) string {
		t := format.Plain(c.PretrainRate) + " → " + format.Plain(c.Rate)
		c.PretrainRate, c.Rate = 0, 0
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

// Groups splits the models' values by a factor's levels.
func (s *Series) Groups(f Factor, value func(*Transfer) float64) []stats.Group {
	at := map[string]int{}
	var g []stats.Group
	for i := range s.Transfers {
		l := f.Level(s.Transfers[i].Config)
		k, ok := at[l]
		if !ok {
			k, at[l] = len(g), len(g)
			g = append(g, stats.Group{Level: l})
		}
		g[k].Add(i, value(&s.Transfers[i]))
	}
	slices.SortStableFunc(g, func(a, b stats.Group) int { return f.less(a.Level, b.Level) })
	return g
}

// Balanced is the part of the series in which every level of a factor stands beside
// every other between otherwise equal configurations, so that levels can be
// compared as they are: the whole series where the design is a full product or
// varies nothing. Of a design that varies one thing at a time it is the arm of that
// factor; nothing is left where no configuration has every level.
func (s *Series) Balanced(f Factor) *Series {
	levels := map[string]bool{}
	for i := range s.Transfers {
		levels[f.Level(s.Transfers[i].Config)] = true
	}
	if len(levels) < 2 {
		return s
	}
	keep := map[*Transfer]bool{}
	for _, m := range s.matched(func(c *Config) { f.take(c) }) {
		at := map[string]bool{}
		for _, o := range m.transfers {
			at[f.Level(o.Config)] = true
		}
		if len(at) == len(levels) {
			for _, o := range m.transfers {
				keep[o] = true
			}
		}
	}
	if len(keep) == len(s.Transfers) {
		return s
	}
	part := *s
	part.Transfers = nil
	for i := range s.Transfers {
		if keep[&s.Transfers[i]] {
			part.Transfers = append(part.Transfers, s.Transfers[i])
		}
	}
	return &part
}

// Pairs are comparisons of two levels of a factor between models that are
// otherwise equal.
type Pairs struct {
	Ratios []float64
	Units  []stats.Unit
}

// matched is transfers that are alike, but for what was taken out of their
// configuration.
type matched struct {
	config    Config
	init      int
	transfers []*Transfer
}

// matched puts transfers together whose configurations are the same once take has
// taken something out: where transfers share pretrained models, those of one
// initialisation; else of all.
func (s *Series) matched(take func(*Config)) []matched {
	type key struct {
		Config
		init int
	}
	at := map[key]int{}
	var all []matched
	for i := range s.Transfers {
		o := &s.Transfers[i]
		k := key{Config: o.Config}
		if s.Shared {
			k.init = o.Init
		}
		take(&k.Config)
		n, ok := at[k]
		if !ok {
			n, at[k] = len(all), len(all)
			all = append(all, matched{config: k.Config, init: k.init})
		}
		all[n].transfers = append(all[n].transfers, o)
	}
	return all
}

// pairs are the ratios of matched transfers that are numbers.
func (s *Series) pairs(all []matched, ratio func(*matched) float64) Pairs {
	var p Pairs
	for i := range all {
		if r := ratio(&all[i]); !math.IsNaN(r) && !math.IsInf(r, 0) {
			p.Ratios = append(p.Ratios, r)
			p.Units = append(p.Units, s.unit(all[i].config, all[i].init, i))
		}
	}
	p.Units = independent(p.Units)
	return p
}

// Paired compares two levels of a factor, a to b: where transfers share pretrained
// models, between two that start from the same one or, if they differ in that,
// from the same initialisation; else between the medians over initialisations.
func (s *Series) Paired(f Factor, a, b string, value func(*Transfer) float64) Pairs {
	return s.pairs(s.matched(func(c *Config) { f.take(c) }), func(m *matched) float64 {
		var x, y []float64
		for _, o := range m.transfers {
			switch f.Level(o.Config) {
			case a:
				x = append(x, value(o))
			case b:
				y = append(y, value(o))
			}
		}
		return stats.Median(x) / stats.Median(y)
	})
}

// Against compares the transfers' losses on their targets with a reference that
// belongs to their configuration; without shared pretrained models the median
// over a configuration's initialisations.
func (s *Series) Against(reference func(Config) float64) Pairs {
	return s.pairs(s.matched(func(*Config) {}), func(m *matched) float64 {
		var v []float64
		for _, o := range m.transfers {
			v = append(v, s.Final(o))
		}
		return stats.Median(v) / reference(m.config)
	})
}

// ByTarget are the medians after transfer for every target.
func (s *Series) ByTarget() []stats.Group {
	return s.by(s.Targets(), func(o *Transfer) string { return o.Target }, s.Final)
}

// by splits the models' values by a domain of theirs.
func (s *Series) by(domains []string, of func(*Transfer) string, value func(*Transfer) float64) []stats.Group {
	g := make([]stats.Group, len(domains))
	for k, d := range domains {
		g[k].Level = d
	}
	for i := range s.Transfers {
		if k := slices.Index(domains, of(&s.Transfers[i])); k >= 0 {
			g[k].Add(i, value(&s.Transfers[i]))
		}
	}
	return g
}

// SpreadsBySource are the out-of-distribution spreads of the models before and
// after transfer.
func (s *Series) SpreadsBySource() (before, after []stats.Group) {
	source := func(o *Transfer) string { return o.Source }
	before = s.by(s.Sources(), source, func(o *Transfer) float64 { return s.Spread(o.Before) })
	after = s.by(s.Sources(), source, func(o *Transfer) float64 { return s.Spread(o.After) })
	return before, after
}

// Named writes groups of domains with units.
func (s *Series) Named(g []stats.Group) []stats.Group {
	for i := range g {
		g[i].Level = s.Name(g[i].Level)
	}
	return g
}

// SingleRates groups the single-stage models' losses on both domains by rate.
func (s *Series) SingleRates() []stats.Group {
	g := s.singleRates()
	for k, x := range Bootstrap(stats.NewResampler(s.SingleUnits()), len(g), s.Redraws, func(at Redraw) stats.Statistic { return stats.Medians(at(s).singleRates()) }) {
		g[k].Interval = x.Interval()
	}
	return g
}

func (s *Series) singleRates() []stats.Group {
	var g []stats.Group
	at := map[float64]int{}
	for i, m := range s.Singles {
		k, ok := at[m.Rate]
		if !ok {
			k, at[m.Rate] = len(g), len(g)
			g = append(g, stats.Group{Level: format.Plain(m.Rate)})
		}
		g[k].Add(i, m.Loss[0])
		g[k].Add(i, m.Loss[1])
	}
	return g
}

// Level is a configuration's level of the factor.
func (f Factor) Level(c Config) string { return f.take(&c) }
