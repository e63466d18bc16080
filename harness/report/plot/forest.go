package plot

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Mark is an estimate with its interval.
type Mark struct {
	Value     float64 // NaN for none
	Low, High float64 // NaN for no interval
}

// Line is a named row of a Forest: a mark of every kind.
type Line struct {
	Name  string
	Marks []Mark
}

// Forest draws estimates with their intervals below one another, over a linear
// axis from low to high, narrow enough for a telephone. kinds name the marks of a
// line.
func Forest(title, xLabel string, low, high float64, kinds []string, lines []Line) *Drawing {
	const left, width, height, name = 16.0, 328.0, 12.0, 18.0
	legend := newLegend(left+width+16, kinds...)
	top := 34 + legend.height()
	each := name + height*float64(len(kinds)) + 6
	bottom := top + each*float64(len(lines))
	d := newDrawing(left+width+16, bottom+40, title)
	d.text(8, 16, "start", bold, title)
	for i, n := range legend.names {
		d.key(legend.x[i], 31+16*float64(legend.row[i]), i, n)
	}
	x := func(v float64) float64 { return left + width*(min(max(v, low), high)-low)/(high-low) }
	const steps = 4
	for k := range steps + 1 {
		v := low + (high-low)*float64(k)/steps
		style := rule
		if v == 0 {
			style = axisInk
		}
		d.line(x(v), top, x(v), bottom, style)
		d.text(x(v), bottom+14, "middle", tick, format.Digits(v, 2))
	}
	d.text(left+width/2, bottom+32, "middle", faint, xLabel)
	d.Table.Columns = kinds
	for i, l := range lines {
		y := top + each*float64(i)
		d.text(left+4, y+13, "start", "", l.Name)
		var cells []string
		for k, m := range l.Marks {
			at := y + name + height*(float64(k)+0.5)
			ink := palette[k%len(palette)]
			cell := format.None
			if !math.IsNaN(m.Value) {
				cell = format.Signed(m.Value, 2)
				if !math.IsNaN(m.Low) {
					cell += fmt.Sprintf(" [%s, %s]", format.Signed(m.Low, 2), format.Signed(m.High, 2))
					d.line(x(m.Low), at, x(m.High), at, fmt.Sprintf(`stroke="%s" stroke-width="2.5"`, ink))
				}
				d.circle(x(m.Value), at, 4, fmt.Sprintf(`fill="%s"`, ink))
			}
			cells = append(cells, cell)
		}
		d.Table.add(l.Name, cells...)
	}
	return d
}
