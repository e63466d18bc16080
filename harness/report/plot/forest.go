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
// axis from low to high. kinds name the marks of a line.
func Forest(title, xLabel string, low, high float64, kinds []string, lines []Line) *Drawing {
	left := 24.0
	for _, l := range lines {
		left = max(left, 24+textWidth(l.Name))
	}
	const width, height = 330.0, 16.0
	legend := newLegend(left+width+16, kinds...)
	top := 34 + legend.height()
	each := height*float64(len(kinds)) + 8
	bottom := top + each*float64(len(lines))
	d := newDrawing(left+width+24, bottom+44, title)
	d.text(8, 16, "start", bold, title)
	for i, n := range legend.names {
		y := 31 + 16*float64(legend.row[i])
		d.rect(legend.x[i], y-6, 14, 5, fmt.Sprintf(`fill="%s"`, palette[i%len(palette)]), "")
		d.text(legend.x[i]+19, y, "start", tick, n)
	}
	x := func(v float64) float64 { return left + width*(min(max(v, low), high)-low)/(high-low) }
	const steps = 4
	for k := range steps + 1 {
		v := low + (high-low)*float64(k)/steps
		style := rule
		if v == 0 {
			style = axisInk
		}
		d.line(x(v), top-4, x(v), bottom, style)
		d.text(x(v), bottom+14, "middle", tick, format.Digits(v, 2))
	}
	d.text(left+width/2, bottom+34, "middle", faint, xLabel)
	d.Table.Columns = kinds
	for i, l := range lines {
		y := top + each*float64(i)
		d.text(left-10, y+each/2, "end", "", l.Name)
		var cells []string
		for k, m := range l.Marks {
			at := y + height*(float64(k)+0.5)
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
