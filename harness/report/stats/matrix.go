package stats

import (
	"math"
	"slices"
)

// Matrix is a table of medians: a row per source domain, a column per target;
// NaN where there is no model.
type Matrix struct {
	Rows, Columns []string // keys of domains
	Values        [][]float64
	Counts        [][]int // models per cell
}

// Cells collects values before their medians are taken.
type Cells struct {
	rows, columns []string
	values        [][][]float64
}

// NewCells has a cell for every row and column.
func NewCells(rows, columns []string) *Cells {
	c := &Cells{rows: rows, columns: columns, values: make([][][]float64, len(rows))}
	for i := range c.values {
		c.values[i] = make([][]float64, len(columns))
	}
	return c
}

// Add adds a value to a cell; NaN, and rows and columns that are not there, are
// left out.
func (c *Cells) Add(row, column string, v float64) {
	i, j := slices.Index(c.rows, row), slices.Index(c.columns, column)
	if i >= 0 && j >= 0 && !math.IsNaN(v) {
		c.values[i][j] = append(c.values[i][j], v)
	}
}

// Medians is the matrix of the cells' medians.
func (c *Cells) Medians() *Matrix {
	m := &Matrix{Rows: c.rows, Columns: c.columns}
	for i := range c.values {
		var v []float64
		var n []int
		for j := range c.values[i] {
			v = append(v, Median(c.values[i][j]))
			n = append(n, len(c.values[i][j]))
		}
		m.Values, m.Counts = append(m.Values, v), append(m.Counts, n)
	}
	return m
}

// Get is the value of a cell, NaN for one that is not there.
func (m *Matrix) Get(row, column string) float64 {
	i, j := slices.Index(m.Rows, row), slices.Index(m.Columns, column)
	if i < 0 || j < 0 {
		return math.NaN()
	}
	return m.Values[i][j]
}

// Flat lists the matrix's values on the rows and columns of another, so that two
// matrices can be correlated.
func (m *Matrix) Flat(like *Matrix) []float64 {
	var v []float64
	for _, r := range like.Rows {
		for _, c := range like.Columns {
			v = append(v, m.Get(r, c))
		}
	}
	return v
}

// ByColumn is the share of the variance of the logarithms of a matrix's values
// that their columns' means explain, cells for which skip is true left out; NaN
// where there is no variance.
func ByColumn(m *Matrix, skip func(row, column string) bool) float64 {
	var all []float64
	columns := make([][]float64, len(m.Columns))
	for i, r := range m.Rows {
		for j, c := range m.Columns {
			if v := m.Values[i][j]; v > 0 && !skip(r, c) {
				all = append(all, math.Log(v))
				columns[j] = append(columns[j], math.Log(v))
			}
		}
	}
	total := Deviation(all)
	if len(all) < 2 || total == 0 {
		return math.NaN()
	}
	within := 0.0
	for _, c := range columns {
		if len(c) > 0 {
			d := Deviation(c)
			within += d * d * float64(len(c))
		}
	}
	return 1 - within/(total*total*float64(len(all)))
}
