package report

import (
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/study"
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
	i, j := index(c.rows, row), index(c.columns, column)
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

func index(s []string, x string) int {
	for i, v := range s {
		if v == x {
			return i
		}
	}
	return -1
}

// flat lists the matrix's values on the rows and columns of another, NaN where
// it lacks them, so that two matrices can be correlated.
func (m *Matrix) flat(like *Matrix) []float64 {
	var v []float64
	for _, r := range like.Rows {
		for _, c := range like.Columns {
			x := math.NaN()
			if i, j := index(m.Rows, r), index(m.Columns, c); i >= 0 && j >= 0 {
				x = m.Values[i][j]
			}
			v = append(v, x)
		}
	}
	return v
}

// transfers are the medians before and after transfer over all models. Before:
// the best pretraining loss on every domain. After: the best transfer loss on the
// target; the diagonal repeats the pretraining value.
func (in *Input) transfers() (before, after *Matrix) {
	var rows, columns []string
	for i := range in.Plan.Domains {
		columns = append(columns, in.Plan.Domains[i].Key)
	}
	source := map[string]bool{}
	for _, r := range in.Plan.Runs {
		if r.Kind == study.PretrainRun {
			source[r.Target.Key] = true
		}
	}
	for _, k := range columns {
		if source[k] {
			rows = append(rows, k)
		}
	}
	b, a := newCells(rows, columns), newCells(rows, columns)
	for _, m := range in.Models {
		if m.Pretrain == nil {
			continue
		}
		from := m.Run.Source.Key
		for _, k := range columns {
			b.add(from, k, in.best(m.Pretrain, k))
		}
		a.add(from, from, in.best(m.Pretrain, from))
		a.add(from, m.Run.Target.Key, in.best(m.Final, m.Run.Target.Key))
	}
	return b.medians(), a.medians()
}

// publishedDefocus are the published defocus series' medians, keyed by defocus
// in Å.
func publishedDefocus() (before, after *Matrix, err error) {
	t, err := published("defocus")
	if err != nil {
		return nil, nil, err
	}
	rows := []string{"-100", "-50", "0", "50", "100"}
	var columns []string
	for d := -250; d <= 250; d += 50 {
		columns = append(columns, strconv.Itoa(d))
	}
	b, a := newCells(rows, columns), newCells(rows, columns)
	for _, r := range t.rows {
		from, to := t.text(r, "pretrain_defocus"), t.text(r, "transfer_defocus")
		for _, c := range columns {
			b.add(from, c, t.number(r, "best_pretrain_val_"+c))
		}
		a.add(from, from, t.number(r, "best_pretrain_val_"+from))
		a.add(from, to, t.number(r, "best_target_transfer_performance"))
	}
	return b.medians(), a.medians(), nil
}
