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
	// Pretrained models that those of a cell come from; nil where it is not known.
	Pretrained [][]int
	// Intervals are the medians' 95 % intervals, nil for a cell without; nil where
	// they were not asked for.
	Intervals [][]*[2]float64
}

// Cells is the observations' values by row and column.
type Cells struct {
	rows, columns []string
	cells         [][]Sorted
}

// NewCells has a cell for every row and column.
func NewCells(rows, columns []string) *Cells {
	c := &Cells{rows: rows, columns: columns, cells: make([][]Sorted, len(rows))}
	for i := range c.cells {
		c.cells[i] = make([]Sorted, len(columns))
	}
	return c
}

// Add adds an observation's value to a cell; values that are not finite, and rows
// and columns that are not there, are left out.
func (c *Cells) Add(row, column string, observation int, v float64) {
	i, j := slices.Index(c.rows, row), slices.Index(c.columns, column)
	if i >= 0 && j >= 0 {
		c.cells[i][j].Add(observation, v)
	}
}

// Medians is the matrix of the cells' medians, every observation counted as often
// as it is drawn.
func (c *Cells) Medians(w []int) *Matrix {
	m := &Matrix{Rows: c.rows, Columns: c.columns}
	for i := range c.cells {
		v, n := make([]float64, len(c.columns)), make([]int, len(c.columns))
		for j := range c.cells[i] {
			v[j], n[j] = c.cells[i][j].Median(w), c.cells[i][j].Len()
		}
		m.Values, m.Counts = append(m.Values, v), append(m.Counts, n)
	}
	return m
}

// Len is the number of cells.
func (c *Cells) Len() int { return len(c.rows) * len(c.columns) }

// Fill is the Statistic of the cells' medians, row by row.
func (c *Cells) Fill(w []int, values []float64) {
	for i := range c.cells {
		for j := range c.cells[i] {
			values[i*len(c.columns)+j] = c.cells[i][j].Median(w)
		}
	}
}

// Intervals are the 95 % intervals of samples of Fill, nil for a cell without.
func (c *Cells) Intervals(samples []Sample) [][]*[2]float64 {
	all := make([][]*[2]float64, len(c.rows))
	for i := range all {
		for _, s := range samples[i*len(c.columns) : (i+1)*len(c.columns)] {
			all[i] = append(all[i], s.Interval())
		}
	}
	return all
}

// Observations of a cell, in no order.
func (c *Cells) Observations(i, j int) []int { return c.cells[i][j].at }

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
