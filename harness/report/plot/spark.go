package plot

import (
	"fmt"
	"math"
)

// Spark is a small plot without axes for a line of a table: the last curve in front,
// with a dot at its end, the others fainter. Its y axis is logarithmic.
func Spark(description string, curves ...[][2]float64) *Drawing {
	const w, h, edge = 140, 34, 4
	s := newDrawing(w, h, description)
	high := math.Inf(-1)
	scale := ScaleOf()
	for _, c := range curves {
		for _, p := range c {
			high = max(high, p[0])
			scale.include(p[1:])
		}
	}
	for i, c := range curves {
		var pts [][2]float64
		for _, p := range c {
			at := [2]float64{edge + (w-2*edge)*p[0]/max(high, 1e-9), math.NaN()}
			if p[1] > 0 {
				at[1] = h - edge - (h-2*edge)*scale.at(p[1])
			}
			pts = append(pts, at)
		}
		ink, style := palette[0], `stroke-width="1.8" stroke-linejoin="round"`
		if i < len(curves)-1 {
			ink, style = "currentColor", `stroke-width="1" stroke-opacity="0.45"`
		}
		s.path(pts, fmt.Sprintf(`stroke="%s" %s`, ink, style))
		if n := len(pts); i == len(curves)-1 && n > 0 && !math.IsNaN(pts[n-1][1]) {
			s.circle(pts[n-1][0], pts[n-1][1], 2.5, fmt.Sprintf(`fill="%s"`, ink))
		}
	}
	return s
}
