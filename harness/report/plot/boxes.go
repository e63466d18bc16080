package plot

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// stripLimit is how many values of a group are drawn one by one.
const stripLimit = 160

// Boxes draws groups of values: a box from the lower to the upper quartile with
// the median, whiskers to the 5th and 95th percentile, beside it a bar for the 95 %
// interval of the median, and the values themselves where they are few. With
// several kinds, each group has a box per kind. The axis has room for the groups of
// beside as well, so that drawings side by side have one axis.
func Boxes(title, xLabel, yLabel string, kinds []string, groups, beside [][]stats.Group) *Drawing {
	scale := ScaleOf()
	for _, g := range slices.Concat(groups, beside) {
		for _, x := range g {
			if len(x.Values) > stripLimit {
				scale.include([]float64{stats.Quantile(x.Values, 0.05), stats.Quantile(x.Values, 0.95)})
			} else {
				scale.include(x.Values)
			}
		}
	}
	n := len(groups[0])
	names := kinds
	if len(kinds) == 1 {
		names = nil
	}
	f := newFrame(max(380, min(540, 100+float64(n*len(kinds))*64)), 290, title, xLabel, yLabel, scale, names...)
	f.line(f.left, f.bottom, f.right, f.bottom, axisInk)
	f.Table.Columns = []string{"median", "95 % interval", "lower quartile", "upper quartile", "models"}
	slot := (f.right - f.left) / float64(n)
	wide := min(26, slot/float64(len(kinds))*0.5)
	for i := range n {
		mid := f.left + slot*(float64(i)+0.5)
		f.text(mid, f.bottom+17, "middle", tick, groups[0][i].Level)
		for k := range kinds {
			ink := palette[k%len(palette)]
			v := stats.Finite(groups[k][i].Values)
			if len(v) == 0 {
				continue
			}
			x := mid + (float64(k)-float64(len(kinds)-1)/2)*wide*1.5
			if len(v) <= stripLimit {
				for j, value := range v {
					// Fractions of the golden ratio spread evenly.
					shift := math.Mod(float64(j+1)*math.Phi, 1) - 0.5
					if y := f.y(value); !math.IsNaN(y) {
						f.circle(x+shift*wide*0.9, y, 1.7, fmt.Sprintf(`fill="%s" fill-opacity="0.45"`, ink))
					}
				}
			}
			q := func(p float64) float64 { return f.y(max(stats.Quantile(v, p), f.scale.low)) }
			if math.IsNaN(q(0.5)) {
				continue
			}
			style := fmt.Sprintf(`stroke="%s" stroke-width="1.5"`, ink)
			f.line(x, q(0.05), x, q(0.25), style)
			f.line(x, q(0.75), x, q(0.95), style)
			what := strings.TrimSpace(kinds[k] + " " + groups[k][i].Level)
			f.rect(x-wide/2, q(0.75), wide, max(q(0.25)-q(0.75), 0.5), fmt.Sprintf(`fill="%s" fill-opacity="0.22" %s`, ink, style),
				fmt.Sprintf("%s: median %s, quartiles %s and %s, of %d", what, format.Loss(stats.Median(v)), format.Loss(stats.Quantile(v, 0.25)), format.Loss(stats.Quantile(v, 0.75)), len(v)))
			f.line(x-wide/2, q(0.5), x+wide/2, q(0.5), fmt.Sprintf(`stroke="%s" stroke-width="3"`, ink))
			interval := format.None
			if i := groups[k][i].Interval; i != nil {
				interval = format.Loss(i[0]) + " to " + format.Loss(i[1])
				at := x + wide/2 + 4
				low, high := f.y(max(i[0], f.scale.low)), f.y(min(i[1], f.scale.high))
				f.line(at, low, at, high, fmt.Sprintf(`stroke="%s" stroke-width="2.5"`, ink))
				f.line(at-2.5, low, at+2.5, low, style)
				f.line(at-2.5, high, at+2.5, high, style)
			}
			f.Table.add(what, format.Loss(stats.Median(v)), interval, format.Loss(stats.Quantile(v, 0.25)), format.Loss(stats.Quantile(v, 0.75)), fmt.Sprint(len(v)))
		}
	}
	return f.Drawing
}
