package report

import (
	"math"
	"slices"
	"strings"
)

// Matrix is a table of medians: a row per source domain, a column per target;
// NaN where there is no model.
type Matrix struct {
	Rows, Columns []string // keys of domains
	Values        [][]float64
	Counts        [][]int // models per cell
}

// cells collects values before their medians are taken.
type cells struct {
	rows, columns []string
	values        [][][]float64
}

func newCells(rows, columns []string) *cells {
	c := &cells{rows: rows, columns: columns, values: make([][][]float64, len(rows))}
	for i := range c.values {
		c.values[i] = make([][]float64, len(columns))
	}
	return c
}

func (c *cells) add(row, column string, v float64) {
	i, j := slices.Index(c.rows, row), slices.Index(c.columns, column)
	if i >= 0 && j >= 0 && !math.IsNaN(v) {
		c.values[i][j] = append(c.values[i][j], v)
	}
}

func (c *cells) medians() *Matrix {
	m := &Matrix{Rows: c.rows, Columns: c.columns}
	for i := range c.values {
		var v []float64
		var n []int
		for j := range c.values[i] {
			v = append(v, median(c.values[i][j]))
			n = append(n, len(c.values[i][j]))
		}
		m.Values, m.Counts = append(m.Values, v), append(m.Counts, n)
	}
	return m
}

// get is the value of a cell, NaN for one that is not there.
func (m *Matrix) get(row, column string) float64 {
	i, j := slices.Index(m.Rows, row), slices.Index(m.Columns, column)
	if i < 0 || j < 0 {
		return math.NaN()
	}
	return m.Values[i][j]
}

// flat lists the matrix's values on the rows and columns of another, so that two
// matrices can be correlated.
func (m *Matrix) flat(like *Matrix) []float64 {
	var v []float64
	for _, r := range like.Rows {
		for _, c := range like.Columns {
			v = append(v, m.get(r, c))
		}
	}
	return v
}

// transfers are the medians before and after transfer over all models. Before:
// the best pretraining loss on every domain. After: the best transfer loss on the
// target; the diagonal repeats the pretraining value.
func (s *series) transfers() (before, after *Matrix) {
	return s.collapsed(func(key string) string { return key })
}

// crystals are the same medians over particle sizes: "w_CdSe_small" and
// "w_CdSe_large" become "w_CdSe". Transfers between sizes of one crystal count
// on the diagonal. Nil where the domains are not of that form.
func (s *series) crystals() (before, after *Matrix) {
	for _, d := range s.domains {
		if crystal(d) == d {
			return nil, nil
		}
	}
	return s.collapsed(crystal)
}

// crystal is the part of a structure domain's key before the size.
func crystal(key string) string {
	for _, size := range []string{"_small", "_large"} {
		if c, ok := strings.CutSuffix(key, size); ok {
			return c
		}
	}
	return key
}

func (s *series) collapsed(to func(string) string) (before, after *Matrix) {
	list := func(keys []string) []string {
		var l []string
		for _, k := range keys {
			if c := to(k); !slices.Contains(l, c) {
				l = append(l, c)
			}
		}
		return l
	}
	rows, columns := list(s.sources()), list(s.domains)
	b, a := newCells(rows, columns), newCells(rows, columns)
	for i := range s.models {
		o := &s.models[i]
		from := to(o.source)
		for k, d := range s.domains {
			b.add(from, to(d), o.before[k])
		}
		a.add(from, from, o.before[s.at(o.source)])
		a.add(from, to(o.target), s.final(o))
	}
	return b.medians(), a.medians()
}
