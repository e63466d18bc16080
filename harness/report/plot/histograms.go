package plot

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Panel is a small histogram.
type Panel struct {
	Title  string
	Groups []stats.Group
}

// Histograms draws panels of counts over a common axis.
func Histograms(title, xLabel string, panels []Panel) *Drawing {
	const w, h, columns = 250.0, 130.0, 3
	rows := (len(panels) + columns - 1) / columns
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range panels {
		for _, g := range p.Groups {
			for _, v := range g.Values {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	d := newDrawing(w*columns, 50+h*float64(rows), title)
	d.text(8, 16, "start", bold, title)
	if !(high > low) {
		return d
	}
	d.Table.Columns = []string{"least", "median", "largest", "particles"}
	var names []string
	const bins = 24
	for i, p := range panels {
		x0, y0 := w*float64(i%columns)+14, 36+h*float64(i/columns)
		width, height := w-28, h-44
		d.text(x0, y0+10, "start", tick+` font-weight="600"`, p.Title)
		counts := make([][bins]int, len(p.Groups))
		most := 1
		for k, g := range p.Groups {
			d.Table.add(p.Title+", "+g.Level, format.Digits(stats.Quantile(g.Values, 0), 3), format.Digits(stats.Median(g.Values), 3), format.Digits(stats.Quantile(g.Values, 1), 3), fmt.Sprint(len(g.Values)))
			for _, v := range g.Values {
				b := min(bins-1, int(bins*(v-low)/(high-low)))
				counts[k][b]++
				most = max(most, counts[k][b])
			}
			if len(names) <= k {
				names = append(names, g.Level)
			}
		}
		base := y0 + height + 12
		for k := range counts {
			for b, n := range counts[k] {
				if n > 0 {
					bar := (height - 8) * float64(n) / float64(most)
					d.rect(x0+width*float64(b)/bins, base-bar, width/bins-0.5, bar, fmt.Sprintf(`fill="%s" fill-opacity="0.75"`, palette[k%len(palette)]), "")
				}
			}
		}
		d.line(x0, base, x0+width, base, axisInk)
		d.text(x0, base+14, "start", tick, format.Digits(low, 3))
		d.text(x0+width, base+14, "end", tick, format.Digits(high, 3))
		d.text(x0+width/2, base+14, "middle", tick+" "+faint, xLabel)
	}
	at := 24 + textWidth(title)
	for k, n := range names {
		d.key(at, 16, k, n)
		at += 40 + textWidth(n)
	}
	return d
}
