package crosscheck

import (
	"fmt"
	"html/template"
	"math"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// plot draws every loss's distance to the oracle's over the steps, on a
// logarithmic axis.
func (c *Certificate) plot() string {
	if len(c.Trajectory) < 3 {
		return ""
	}
	const w, h, left, bottom, top = 640, 260, 70, 40, 14
	oracle := c.Trajectory[2].Loss
	low, high := math.Inf(1), 0.0
	distances := func(t Curve) []float64 {
		d := make([]float64, len(t.Loss))
		for i := range d {
			d[i] = max(math.Abs(t.Loss[i]-oracle[i]), 1e-12)
		}
		return d
	}
	for i, t := range c.Trajectory {
		if i != 2 {
			for _, d := range distances(t) {
				low, high = min(low, d), max(high, d)
			}
		}
	}
	low, high = math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	if high <= low {
		high = low * 10
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" role="img" aria-label="Distance of the losses to the oracle's over the steps" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">`, w, h, w)
	y := func(v float64) float64 { return top + (h-top-bottom)*math.Log(high/v)/math.Log(high/low) }
	x := func(i int) float64 {
		return left + (w-left-10)*float64(i)/float64(max(1, len(oracle)-1))
	}
	for e := math.Round(math.Log10(low)); e <= math.Round(math.Log10(high)); e++ {
		v := math.Pow(10, e)
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="currentColor" stroke-opacity="0.2"/><text x="%d" y="%.1f" text-anchor="end">1e%.0f</text>`, left, w-10, y(v), y(v), left-6, y(v)+4, e)
	}
	for i, t := range c.Trajectory {
		if i == 2 {
			continue
		}
		style := `stroke="currentColor" stroke-opacity="0.25"`
		if i < 2 {
			style = fmt.Sprintf(`stroke="%s" stroke-width="2.2"`, []string{"#0072b2", "#d55e00"}[i])
		}
		var path strings.Builder
		for k, d := range distances(t) {
			fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[k == 0], x(k), y(d))
		}
		fmt.Fprintf(&b, `<path d="%s" fill="none" %s><title>%s</title></path>`, &path, style, template.HTMLEscapeString(t.Name))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">training step, 1 to %d</text></svg>`, (left+w)/2, h-10, len(oracle))
	return b.String()
}

// plot draws every measure's pairs and the interval of their mean difference, in
// standard deviations of the reference over seeds.
func (c *Convergence) plot() string {
	const w, left, right, row, top = 660, 290, 14, 24, 8
	h := top + row*len(c.Measures) + 34
	most := 2 * c.Margin
	for _, m := range c.Measures {
		for _, v := range []float64{m.Low, m.High} {
			if v = math.Abs(m.inSpreads(v)); v < math.MaxFloat64 {
				most = max(most, min(v, 8*c.Margin)) // beyond that an arrow will do
			}
		}
	}
	x := func(v float64) float64 {
		return left + (w-left-right)*(min(max(v, -most), most)+most)/(2*most)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %d %d" width="%d" role="img" aria-label="Mean differences of the measures with their intervals, beside the margin" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">`, w, h, w)
	fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#00795a" fill-opacity=".15"/>`, x(-c.Margin), top, x(c.Margin)-x(-c.Margin), row*len(c.Measures))
	for i, m := range c.Measures {
		y := top + row*i + row/2
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end">%s</text>`, left-8, y+4, template.HTMLEscapeString(m.Name))
		for k := range m.A {
			fmt.Fprintf(&b, `<circle cx="%.1f" cy="%d" r="1.6" fill-opacity=".35"/>`, x(m.inSpreads(m.A[k]-m.B[k])), y)
		}
		color := "#0072b2"
		if !m.Within() {
			color = "#d55e00"
		}
		fmt.Fprintf(&b, `<path d="M%.1f %dH%.1f" stroke="%s" stroke-width="4"/>`, x(m.inSpreads(m.Low))-1, y, x(m.inSpreads(m.High))+1, color)
	}
	axis := top + row*len(c.Measures)
	fmt.Fprintf(&b, `<path d="M%d %dH%d" stroke="currentColor"/>`, left, axis, w-right)
	for _, v := range []float64{-most, -c.Margin, 0, c.Margin, most} {
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%s</text>`, x(v), axis+16, format.Digits(v, 2))
	}
	b.WriteString(`</svg>`)
	return b.String()
}
