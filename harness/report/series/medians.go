package series

import (
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// Medians are the medians before and after transfer over all models. Before:
// the best pretraining loss on every domain. After: the best transfer loss on the
// target; the diagonal repeats the pretraining value.
func (s *Series) Medians() (before, after *stats.Matrix) {
	return s.collapsed(func(key string) string { return key })
}

// CrystalMedians are the same medians over particle sizes: "w_CdSe_small" and
// "w_CdSe_large" become "w_CdSe". Transfers between sizes of one crystal count
// on the diagonal. Nil where the domains are not of that form.
func (s *Series) CrystalMedians() (before, after *stats.Matrix) {
	for _, d := range s.Domains {
		if CrystalOf(d) == d {
			return nil, nil
		}
	}
	return s.collapsed(CrystalOf)
}

// CrystalOf is the part of a structure domain's key before the size.
func CrystalOf(key string) string {
	for _, size := range []string{"_small", "_large"} {
		if c, ok := strings.CutSuffix(key, size); ok {
			return c
		}
	}
	return key
}

func (s *Series) collapsed(to func(string) string) (before, after *stats.Matrix) {
	list := func(keys []string) []string {
		var l []string
		for _, k := range keys {
			if c := to(k); !slices.Contains(l, c) {
				l = append(l, c)
			}
		}
		return l
	}
	rows, columns := list(s.Sources()), list(s.Domains)
	b, a := stats.NewCells(rows, columns), stats.NewCells(rows, columns)
	for i := range s.Transfers {
		o := &s.Transfers[i]
		from := to(o.Source)
		for k, d := range s.Domains {
			b.Add(from, to(d), o.Before[k])
		}
		a.Add(from, from, o.Before[s.Index(o.Source)])
		a.Add(from, to(o.Target), s.Final(o))
	}
	return b.Medians(), a.Medians()
}

// Mixtures are the medians of single-stage models: the loss on a domain, by
// column, of models trained on it and another, by row.
func (s *Series) Mixtures() *stats.Matrix {
	seen := map[string]bool{}
	for _, m := range s.Singles {
		seen[m.Domains[0]], seen[m.Domains[1]] = true, true
	}
	list := s.those(seen)
	c := stats.NewCells(list, list)
	for _, m := range s.Singles {
		c.Add(m.Domains[1], m.Domains[0], m.Loss[0])
		c.Add(m.Domains[0], m.Domains[1], m.Loss[1])
	}
	return c.Medians()
}
