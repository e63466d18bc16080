package series

import (
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/report/stats"
)

// Medians are the medians before and after transfer over all models. Before: the
// loss of the pretraining on every domain. After: the loss of the transfer on its
// target; the diagonal repeats the pretraining value.
func (s *Series) Medians() (before, after *stats.Matrix) {
	b, a := s.Cells()
	return s.medians(b), s.medians(a)
}

// Cells are the values that Medians condenses, by transfer.
func (s *Series) Cells() (before, after *stats.Cells) {
	return s.cells(func(key string) string { return key })
}

// medians are the cells' medians, with the number of pretrained models that the
// models of a cell come from.
func (s *Series) medians(c *stats.Cells) *stats.Matrix {
	m := c.Medians(Once(len(s.Transfers)))
	if len(s.Transfers) == 0 {
		return m
	}
	for i := range m.Rows {
		n := make([]int, len(m.Columns))
		for j := range n {
			n[j] = s.PretrainedOf(c.Observations(i, j))
		}
		m.Pretrained = append(m.Pretrained, n)
	}
	return m
}

// Once is the weights of n observations that are each drawn once.
func Once(n int) []int {
	w := make([]int, n)
	for i := range w {
		w[i] = 1
	}
	return w
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
	b, a := s.cells(CrystalOf)
	return s.medians(b), s.medians(a)
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

func (s *Series) cells(to func(string) string) (before, after *stats.Cells) {
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
			b.Add(from, to(d), i, o.Before[k])
		}
		a.Add(from, from, i, o.Before[s.Index(o.Source)])
		a.Add(from, to(o.Target), i, s.Final(o))
	}
	return b, a
}

// Mixtures are the medians of single-stage models: the loss on a domain, by
// column, of models trained on it and another, by row.
func (s *Series) Mixtures() *stats.Matrix {
	return s.MixtureCells().Medians(Once(len(s.Singles)))
}

// MixtureCells are the values that Mixtures condenses, by single-stage model.
func (s *Series) MixtureCells() *stats.Cells {
	seen := map[string]bool{}
	for _, m := range s.Singles {
		seen[m.Domains[0]], seen[m.Domains[1]] = true, true
	}
	list := s.those(seen)
	c := stats.NewCells(list, list)
	for i, m := range s.Singles {
		c.Add(m.Domains[1], m.Domains[0], i, m.Loss[0])
		c.Add(m.Domains[0], m.Domains[1], i, m.Loss[1])
	}
	return c
}

// Changes are the ratios of the median losses on the target after transfer to
// before, by source and target.
func (s *Series) Changes() *stats.Matrix {
	rows := s.Sources()
	b, a := stats.NewCells(rows, s.Domains), stats.NewCells(rows, s.Domains)
	for i := range s.Transfers {
		o := &s.Transfers[i]
		b.Add(o.Source, o.Target, i, s.Initial(o))
		a.Add(o.Source, o.Target, i, s.Final(o))
	}
	return quotient(s.medians(a), s.medians(b))
}

// quotient divides the cells of a matrix by those of another.
func quotient(a, b *stats.Matrix) *stats.Matrix {
	m := *a
	m.Values = nil
	for i := range a.Values {
		row := make([]float64, len(a.Values[i]))
		for j := range row {
			row[j] = a.Values[i][j] / b.Values[i][j]
		}
		m.Values = append(m.Values, row)
	}
	return &m
}

// Generalisation are maps of how models do on the domains that they were not
// trained on, by source and target: the standard deviation over the domains of the
// median losses, that in focus left out, after transfer, and its ratio to that
// before. The diagonal has the pretraining's own.
func (s *Series) Generalisation() (spread, change *stats.Matrix) {
	rows := s.Sources()
	spread = &stats.Matrix{Rows: rows, Columns: s.Domains}
	change = &stats.Matrix{Rows: rows, Columns: s.Domains}
	for _, row := range rows {
		var after, ratio []float64
		before := s.deviation(row, "")
		for _, column := range s.Domains {
			a, r := before, math.NaN()
			if column != row {
				a = s.deviation(row, column)
				r = a / before
			}
			after, ratio = append(after, a), append(ratio, r)
		}
		spread.Values, change.Values = append(spread.Values, after), append(change.Values, ratio)
	}
	return spread, change
}

// deviation is the standard deviation over the domains of the medians of the
// transfers from a source to a target; with target "", of their pretrainings.
func (s *Series) deviation(source, target string) float64 {
	medians := make([]float64, len(s.Domains))
	for k := range s.Domains {
		var v []float64
		for i := range s.Transfers {
			switch o := &s.Transfers[i]; {
			case o.Source != source:
			case target == "":
				v = append(v, o.Before[k])
			case o.Target == target:
				v = append(v, o.After[k])
			}
		}
		medians[k] = stats.Median(v)
	}
	return s.Spread(medians)
}
