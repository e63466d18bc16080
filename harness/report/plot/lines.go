package plot

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Curve is a line of a plot with its name and colour.
type Curve struct {
	Name   string
	Points [][2]float64
	// Low and High are the ends of an interval of every point, or nil: drawn as a
	// band, or as bars where points are marked.
	Low, High []float64
	Dashed    bool
	// Like is the number, from 1, of the curve whose colour it shares without a
	// name in the legend; 0 for a colour of its own.
	Like int
}

// Lines is a plot of curves with a logarithmic y axis.
type Lines struct {
	Title, X, Y string
	Curves      []Curve
	Marks       []float64 // of x, to label
	LogX        bool      // space x by logarithms
	Boundary    float64   // x of a vertical line, 0 for none
	Dots        bool      // mark the curves' points
}

// Draw draws the plot.
func (l Lines) Draw() *Drawing {
	low, high := math.Inf(1), math.Inf(-1)
	scale := ScaleOf()
	for _, c := range l.Curves {
		for _, p := range c.Points {
			low, high = min(low, p[0]), max(high, p[0])
			scale.include(p[1:])
		}
		scale.include(c.Low)
		scale.include(c.High)
	}
	var names []string
	inks := make([]string, len(l.Curves))
	for i, c := range l.Curves {
		if c.Like > 0 {
			inks[i] = inks[c.Like-1]
			continue
		}
		inks[i] = palette[len(names)%len(palette)]
		names = append(names, c.Name)
	}
	f := newFrame(540, 290, l.Title, l.X, l.Y, scale, names...)
	x := func(v float64) float64 {
		t := 0.5
		if high > low {
			t = (v - low) / (high - low)
			if l.LogX {
				t = math.Log(v/low) / math.Log(high/low)
			}
		}
		return f.left + 12 + (f.right-f.left-24)*t
	}
	f.line(f.left, f.bottom, f.right, f.bottom, axisInk)
	for _, v := range l.Marks {
		if v >= low && v <= high {
			f.line(x(v), f.bottom, x(v), f.bottom+4, axisInk)
			f.text(x(v), f.bottom+17, "middle", tick, format.Number(v))
		}
	}
	if l.Boundary > low && l.Boundary < high {
		f.line(x(l.Boundary), f.top, x(l.Boundary), f.bottom, `stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="4 3"`)
	}
	for i, c := range l.Curves {
		ink := inks[i]
		style := fmt.Sprintf(`stroke="%s" stroke-width="2" stroke-linejoin="round"`, ink)
		if c.Dashed {
			style += ` stroke-dasharray="6 3"`
		}
		var pts, band [][2]float64
		for k, p := range c.Points {
			at := x(p[0])
			pts = append(pts, [2]float64{at, f.y(p[1])})
			if c.Low == nil || !(c.Low[k] > 0) || !(c.High[k] > 0) {
				continue
			}
			low, high := f.y(c.Low[k]), f.y(c.High[k])
			if l.Dots {
				at += 2 * float64(i%5-2) // beside the others' bars
				f.line(at, low, at, high, fmt.Sprintf(`stroke="%s" stroke-width="1.5" stroke-opacity="0.8"`, ink))
			}
			band = append(band, [2]float64{at, low})
			band = slices.Insert(band, 0, [2]float64{at, high})
		}
		if !l.Dots && len(band) > 2 {
			f.area(band, fmt.Sprintf(`fill="%s" fill-opacity="0.16"`, ink))
		}
		f.path(pts, style)
		for _, p := range pts {
			if l.Dots && !math.IsNaN(p[1]) {
				f.circle(p[0], p[1], 3, fmt.Sprintf(`fill="%s"`, ink))
			}
		}
	}
	l.tabulate(&f.Table)
	return f.Drawing
}

// tabulate writes the curves' values, a row for every x.
func (l Lines) tabulate(t *Table) {
	var xs []float64
	for _, c := range l.Curves {
		t.Columns = append(t.Columns, c.Name)
		for _, p := range c.Points {
			if i, ok := slices.BinarySearch(xs, p[0]); !ok {
				xs = slices.Insert(xs, i, p[0])
			}
		}
	}
	for _, x := range xs {
		cells := make([]string, len(l.Curves))
		for i, c := range l.Curves {
			cells[i] = format.None
			for k, p := range c.Points {
				if p[0] != x || math.IsNaN(p[1]) {
					continue
				}
				cells[i] = format.Loss(p[1])
				if c.Low != nil && c.Low[k] > 0 {
					cells[i] += " (" + format.Loss(c.Low[k]) + " to " + format.Loss(c.High[k]) + ")"
				}
			}
		}
		t.add(l.X+" "+format.Number(x), cells...)
	}
}

// EpochTicks are the numbers to label on an axis up to the last epoch.
func EpochTicks(last int) []float64 {
	var m []float64
	step := max(1, (last+9)/10)
	for e := step; e <= last; e += step {
		m = append(m, float64(e))
	}
	return m
}
