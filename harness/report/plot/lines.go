package plot

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Curve is a line of a plot with its name and colour.
type Curve struct {
	Name   string
	Points [][2]float64
	Dashed bool
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
	}
	var names []string
	for _, c := range l.Curves {
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
		ink := palette[i%len(palette)]
		style := fmt.Sprintf(`stroke="%s" stroke-width="2" stroke-linejoin="round"`, ink)
		if c.Dashed {
			style += ` stroke-dasharray="6 3"`
		}
		var pts [][2]float64
		for _, p := range c.Points {
			pts = append(pts, [2]float64{x(p[0]), f.y(p[1])})
		}
		f.path(pts, style)
		for _, p := range pts {
			if l.Dots && !math.IsNaN(p[1]) {
				f.circle(p[0], p[1], 3, fmt.Sprintf(`fill="%s"`, ink))
			}
		}
	}
	return f.Drawing
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
