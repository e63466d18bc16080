package plot

import (
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// frame is a plot's area with a logarithmic y axis.
type frame struct {
	*Drawing
	left, right, top, bottom float64
	scale                    LogScale
}

// newFrame draws title, legend, y axis and the x axis' label.
func newFrame(w, h float64, title, xLabel, yLabel string, scale LogScale, names ...string) *frame {
	l := newLegend(w, names...)
	h += l.height()
	f := &frame{newDrawing(w, h, title), 64, w - 12, 30 + l.height(), h - 44, scale.widened()}
	f.text(8, 16, "start", bold, title)
	for i, n := range l.names {
		f.key(l.x[i], 31+16*float64(l.row[i]), i, n)
	}
	f.text((f.left+f.right)/2, h-8, "middle", faint, xLabel)
	f.turned(14, (f.top+f.bottom)/2, "middle", faint, yLabel)
	if !(f.scale.high > 0) {
		f.text((f.left+f.right)/2, (f.top+f.bottom)/2, "middle", "", "no data")
		return f
	}
	for _, v := range f.scale.ticks() {
		f.line(f.left, f.y(v), f.right, f.y(v), rule)
		f.text(f.left-6, f.y(v)+4, "end", tick, format.Digits(v, 4))
	}
	return f
}

// y of a value, NaN where it has none.
func (f *frame) y(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) || !(f.scale.high > 0) {
		return math.NaN()
	}
	return f.bottom - (f.bottom-f.top)*f.scale.at(v)
}

// legend is the names of a plot's colours, in as many rows as they need.
type legend struct {
	names []string
	// x and row of every entry.
	x   []float64
	row []int
}

func newLegend(width float64, names ...string) legend {
	l := legend{names: names}
	x, row := 64.0, 0
	for _, n := range names {
		w := 34 + 6*float64(len([]rune(n)))
		if x+w > width && x > 64 {
			x, row = 64, row+1
		}
		l.x, l.row = append(l.x, x), append(l.row, row)
		x += w
	}
	return l
}

// height of the rows.
func (l legend) height() float64 {
	if len(l.row) == 0 {
		return 0
	}
	return 16 * float64(l.row[len(l.row)-1]+1)
}
