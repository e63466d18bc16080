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
		c := s.Transfers[i].Config
		l := f.take(&c)
		k, ok := at[l]
		if !ok {
			k, at[l] = len(g), len(g)
			g = append(g, stats.Group{Level: l})
		}
		if v := value(&s.Transfers[i]); !math.IsNaN(v) {
			g[k].Values = append(g[k].Values, v)
		}
	}
	slices.SortStableFunc(g, func(a, b stats.Group) int { return f.less(a.Level, b.Level) })
	return g
}

// Paired compares two levels of a factor between configurations that are
// otherwise equal: the ratios of their medians over initialisations, a to b.
func (s *Series) Paired(f Factor, a, b string, value func(*Transfer) float64) []float64 {
	type two struct{ a, b []float64 }
	all := map[Config]*two{}
	var order []Config
	for i := range s.Transfers {
		c := s.Transfers[i].Config
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
		if v := value(&s.Transfers[i]); l == a {
			t.a = append(t.a, v)
		} else {
			t.b = append(t.b, v)
		}
	}
	var ratios []float64
	for _, c := range order {
		if r := stats.Median(all[c].a) / stats.Median(all[c].b); !math.IsNaN(r) && !math.IsInf(r, 0) {
			ratios = append(ratios, r)
		}
	}
	return ratios
}

// ByTarget are the medians after transfer for every target.
func (s *Series) ByTarget() []stats.Group {
	var g []stats.Group
	for _, t := range s.Targets() {
		x := stats.Group{Level: t}
		for i := range s.Transfers {
			if o := &s.Transfers[i]; o.Target == t {
				x.Values = append(x.Values, s.Final(o))
			}
		}
		g = append(g, x)
	}
	return g
}

// SpreadsBySource are the out-of-distribution spreads of the models before and
// after transfer.
func (s *Series) SpreadsBySource() (before, after []stats.Group) {
	for _, d := range s.Sources() {
		b, a := stats.Group{Level: d}, stats.Group{Level: d}
		for i := range s.Transfers {
			if o := &s.Transfers[i]; o.Source == d {
				b.Values = append(b.Values, s.Spread(o.Before))
				a.Values = append(a.Values, s.Spread(o.After))
			}
		}
		before, after = append(before, b), append(after, a)
	}
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
	var g []stats.Group
	at := map[float64]int{}
	for _, m := range s.Singles {
		k, ok := at[m.Rate]
		if !ok {
			k, at[m.Rate] = len(g), len(g)
			g = append(g, stats.Group{Level: format.Plain(m.Rate)})
		}
		g[k].Values = append(g[k].Values, stats.Finite(m.Loss[:])...)
	}
	return g
}
