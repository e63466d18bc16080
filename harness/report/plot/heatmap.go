package plot

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// viridis is sampled from the perceptually uniform colour map of that name (S.
// van der Walt and N. Smith, CC0), which also people who confuse red and green
// can read.
var viridis = [][3]float64{
	{68, 1, 84}, {71, 44, 122}, {59, 81, 139}, {44, 113, 142}, {33, 144, 141},
	{39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37},
}

// colour maps t in [0,1] to a colour, and gives the ink that reads on it.
func colour(t float64) (fill, ink string) {
	t = min(max(t, 0), 1) * float64(len(viridis)-1)
	i := min(int(t), len(viridis)-2)
	f := t - float64(i)
	var c [3]int
	for k := range c {
		c[k] = int(math.Round(viridis[i][k]*(1-f) + viridis[i+1][k]*f))
	}
	ink = "#000"
	if 0.3*float64(c[0])+0.59*float64(c[1])+0.11*float64(c[2]) < 140 {
		ink = "#fff"
	}
	return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]), ink
}

// Labels names the domains of a matrix.
type Labels interface {
	Label(key string) string // short, for an axis
	Name(key string) string  // with its unit
	Unit() string            // what the axis shows
	Preposition() string     // "at" or "on" a domain
}

func longest(s Labels, keys []string) float64 {
	w := 0.0
	for _, k := range keys {
		w = max(w, textWidth(s.Label(k)))
	}
	return w
}

// HeatMap draws a matrix with its values written into the cells, in colours that
// are logarithmic over the scale. Cells of a domain with itself are outlined.
// The rows say what they were trained on.
func HeatMap(s Labels, m *stats.Matrix, scale LogScale, title, rows string) *Drawing {
	cell, height, font := 44.0, 28.0, 11.0
	switch n := len(m.Columns); {
	case n > 12:
		cell, height, font = 38, 22, 10
	case n < 7:
		cell = 58
	}
	left := 38 + longest(s, m.Rows)
	top := 54.0
	turn := longest(s, m.Columns) > cell-6
	if turn {
		top = 44 + longest(s, m.Columns)
	}
	width := cell * float64(len(m.Columns))
	bottom := top + height*float64(len(m.Rows))
	across := "evaluated " + s.Preposition() + " " + s.Unit()
	d := newDrawing(max(left+width+8, left+(width+textWidth(across))/2+8, 1.15*textWidth(title)+16), bottom+44, fmt.Sprintf("%s, %s: rows %s, columns evaluated %s", title, s.Unit(), rows, s.Preposition()))
	d.text(8, 16, "start", bold, title)
	d.text(left+width/2, 34, "middle", faint, across)
	d.turned(16, (top+bottom)/2, "middle", faint, rows)
	for j, c := range m.Columns {
		x := left + cell*(float64(j)+0.5)
		if turn {
			d.turned(x+4, top-6, "start", tick, s.Label(c))
		} else {
			d.text(x, top-6, "middle", "", s.Label(c))
		}
	}
	d.Table = &Table{}
	for _, c := range m.Columns {
		d.Table.Columns = append(d.Table.Columns, s.Name(c))
	}
	for i, r := range m.Rows {
		row := Row{Name: s.Name(r)}
		for _, v := range m.Values[i] {
			row.Cells = append(row.Cells, Short(v))
		}
		d.Table.Rows = append(d.Table.Rows, row)
		y := top + height*float64(i)
		d.text(left-8, y+height/2+4, "end", "", s.Label(r))
		for j, c := range m.Columns {
			v, x := m.Values[i][j], left+cell*float64(j)
			where := s.Name(r) + " → " + s.Name(c)
			if math.IsNaN(v) {
				d.rect(x, y, cell-1, height-1, `fill="#888" fill-opacity="0.2"`, where+": no model")
				continue
			}
			fill, ink := colour(scale.at(v))
			d.rect(x, y, cell-1, height-1, fmt.Sprintf(`fill="%s"`, fill), fmt.Sprintf("%s: %s, median of %d", where, format.Loss(v), m.Counts[i][j]))
			d.text(x+cell/2-0.5, y+height/2+4, "middle", fmt.Sprintf(`fill="%s" font-size="%s" pointer-events="none"`, ink, num(font)), Short(v))
			if r == c {
				d.rect(x+0.5, y+0.5, cell-2, height-2, `fill="none" stroke="currentColor" stroke-width="1.5"`, "")
			}
		}
	}
	const n = 60
	y := bottom + 14
	for k := range n {
		fill, _ := colour((float64(k) + 0.5) / n)
		d.rect(left+width*float64(k)/n, y, width/n+0.5, 8, fmt.Sprintf(`fill="%s"`, fill), "")
	}
	d.text(left, y+22, "start", tick, Short(scale.low))
	d.text(left+width, y+22, "end", tick, Short(scale.high))
	if width > 340 {
		d.text(left+width/2, y+22, "middle", tick+" "+faint, LossLabel+", logarithmic colours")
	}
	return d
}

// LossLabel names the axis of losses.
const LossLabel = "validation loss above its minimum"
