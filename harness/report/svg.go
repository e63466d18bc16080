package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// svg collects the elements of a drawing. Text takes the colour of the page
// around it, so that figures work on light and dark ground.
type svg struct {
	b    strings.Builder
	w, h float64
}

func newSVG(w, h float64, description string) *svg {
	s := &svg{w: w, h: h}
	fmt.Fprintf(&s.b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-label="%s" font-family="system-ui, sans-serif" font-size="12" fill="currentColor">`+"\n",
		num(w), num(h), num(w), num(h), html.EscapeString(description))
	return s
}

func (s *svg) String() string { return s.b.String() + "</svg>\n" }

func (s *svg) rect(x, y, w, h float64, fill, title string) {
	fmt.Fprintf(&s.b, `<rect x="%s" y="%s" width="%s" height="%s" fill="%s">`, num(x), num(y), num(w), num(h), fill)
	if title != "" {
		fmt.Fprintf(&s.b, "<title>%s</title>", html.EscapeString(title))
	}
	s.b.WriteString("</rect>\n")
}

func (s *svg) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(&s.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`+"\n", num(x1), num(y1), num(x2), num(y2), style)
}

// text anchors at "start", "middle" or "end".
func (s *svg) text(x, y float64, anchor, style, t string) {
	fmt.Fprintf(&s.b, `<text x="%s" y="%s" text-anchor="%s" %s>%s</text>`+"\n", num(x), num(y), anchor, style, html.EscapeString(t))
}

func (s *svg) path(points [][2]float64, style string) {
	s.b.WriteString(`<path d="`)
	pen := "M"
	for _, p := range points {
		if math.IsNaN(p[1]) {
			pen = "M"
			continue
		}
		fmt.Fprintf(&s.b, "%s%s %s", pen, num(p[0]), num(p[1]))
		pen = "L"
	}
	fmt.Fprintf(&s.b, `" fill="none" %s/>`+"\n", style)
}

func (s *svg) circle(x, y, r float64, style, title string) {
	fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" %s><title>%s</title></circle>`+"\n", num(x), num(y), num(r), style, html.EscapeString(title))
}

// num formats a coordinate with at most two decimals.
func num(v float64) string {
	t := fmt.Sprintf("%.2f", v)
	t = strings.TrimRight(t, "0")
	return strings.TrimSuffix(t, ".")
}

// viridis is sampled from the perceptually uniform colour map of that name (S.
// van der Walt and N. Smith, CC0), which also people who confuse red and green
// can read.
var viridis = [][3]float64{
	{68, 1, 84}, {71, 44, 122}, {59, 81, 139}, {44, 113, 142}, {33, 144, 141},
	{39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37},
}

// colour maps t in [0,1] to a colour, and says whether white text reads on it.
func colour(t float64) (css string, dark bool) {
	t = min(max(t, 0), 1) * float64(len(viridis)-1)
	i := min(int(t), len(viridis)-2)
	f := t - float64(i)
	var c [3]int
	for k := range c {
		c[k] = int(math.Round(viridis[i][k]*(1-f) + viridis[i+1][k]*f))
	}
	return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]), 0.3*float64(c[0])+0.59*float64(c[1])+0.11*float64(c[2]) < 140
}

// logScale maps positive values to [0,1].
type logScale struct{ low, high float64 }

// scaleOf spans the positive values of the matrices.
func scaleOf(ms ...*Matrix) logScale {
	s := logScale{math.Inf(1), math.Inf(-1)}
	for _, m := range ms {
		for _, row := range m.Values {
			for _, v := range row {
				if v > 0 {
					s.low, s.high = min(s.low, v), max(s.high, v)
				}
			}
		}
	}
	return s
}

func (s logScale) at(v float64) float64 {
	if !(s.high > s.low) || v <= 0 {
		return 0
	}
	return math.Log(v/s.low) / math.Log(s.high/s.low)
}

// heatMap draws a matrix with its values written into the cells; its colours
// are logarithmic in the value over its own range.
func heatMap(m *Matrix, title, rows, columns string, label func(string) string) string {
	const cell, left, top = 46, 96, 58
	const height = 30
	w := left + cell*float64(len(m.Columns)) + 8
	s := newSVG(w, top+height*float64(len(m.Rows))+44, title)
	scale := scaleOf(m)
	s.text(left, 16, "start", `font-weight="600" font-size="13"`, title)
	s.text(left+cell*float64(len(m.Columns))/2, 34, "middle", `opacity="0.75"`, columns)
	for j, c := range m.Columns {
		s.text(left+cell*(float64(j)+0.5), top-6, "middle", "", label(c))
	}
	mid := top + height*float64(len(m.Rows))/2
	s.text(14, mid, "middle", fmt.Sprintf(`opacity="0.75" transform="rotate(-90 14 %s)"`, num(mid)), rows)
	for i, r := range m.Rows {
		y := top + height*float64(i)
		s.text(left-8, y+height/2+4, "end", "", label(r))
		for j, c := range m.Columns {
			v := m.Values[i][j]
			x := left + cell*float64(j)
			if math.IsNaN(v) {
				s.rect(x, y, cell-1, height-1, "#8884", label(r)+" → "+label(c)+": no model")
				continue
			}
			fill, dark := colour(scale.at(v))
			s.rect(x, y, cell-1, height-1, fill, fmt.Sprintf("%s → %s: %.4g, median of %d", label(r), label(c), v, m.Counts[i][j]))
			ink := "#000"
			if dark {
				ink = "#fff"
			}
			s.text(x+cell/2-0.5, y+height/2+4, "middle", fmt.Sprintf(`fill="%s" font-size="11"`, ink), short(v))
		}
	}
	// The colour bar.
	y := top + height*float64(len(m.Rows)) + 14
	const n = 60
	width := cell * float64(len(m.Columns))
	for k := range n {
		fill, _ := colour((float64(k) + 0.5) / n)
		s.rect(left+width*float64(k)/n, y, width/n+0.5, 8, fill, "")
	}
	s.text(left, y+22, "start", `font-size="11"`, short(scale.low))
	s.text(left+width, y+22, "end", `font-size="11"`, short(scale.high))
	s.text(left+width/2, y+22, "middle", `font-size="11" opacity="0.75"`, "validation loss above its minimum, logarithmic colours")
	return s.String()
}

// short writes a loss for a small cell: ".0235", "1.2".
func short(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return strings.Replace(fmt.Sprintf("%.4f", v), "0.", ".", 1)
}

// curve is a line of a plot over the epochs 1, 2, ….
type curve struct {
	name   string
	values []float64
	faint  bool
}

// palette is Okabe and Ito's, without black and yellow.
var palette = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"}

// lines draws losses over epochs on a logarithmic axis.
func lines(title, xLabel, yLabel string, curves []curve, colours map[string]string, boundary float64) string {
	const w, h, left, right, top, bottom = 560, 300, 64, 12, 34, 44
	s := newSVG(w, h, title)
	s.text(left, 16, "start", `font-weight="600" font-size="13"`, title)
	low, high, last := math.Inf(1), math.Inf(-1), 1
	for _, c := range curves {
		last = max(last, len(c.values))
		for _, v := range c.values {
			if v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	if !(high > 0) {
		s.text(w/2, h/2, "middle", "", "no data")
		return s.String()
	}
	if high <= low*1.01 {
		high = low * 1.1
	}
	x := func(epoch float64) float64 {
		if last == 1 {
			return left + (w-left-right)/2
		}
		return left + (w-left-right)*(epoch-1)/float64(last-1)
	}
	y := func(v float64) float64 {
		if !(v > 0) {
			return math.NaN()
		}
		return top + (h-top-bottom)*math.Log(high/v)/math.Log(high/low)
	}
	const axis = `stroke="currentColor" stroke-opacity="0.25"`
	for _, v := range logTicks(low, high) {
		s.line(left, y(v), w-right, y(v), axis)
		s.text(left-6, y(v)+4, "end", `font-size="11"`, fmt.Sprintf("%g", v))
	}
	for e := 1; e <= last; e += max(1, (last+9)/10) {
		s.line(x(float64(e)), h-bottom, x(float64(e)), h-bottom+4, axis)
		s.text(x(float64(e)), h-bottom+18, "middle", `font-size="11"`, fmt.Sprint(e))
	}
	if boundary > 0 {
		s.line(x(boundary), top, x(boundary), h-bottom, `stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="4 3"`)
	}
	s.text((left+w-right)/2, h-8, "middle", `opacity="0.75"`, xLabel)
	s.text(14, (top+h-bottom)/2, "middle", fmt.Sprintf(`opacity="0.75" transform="rotate(-90 14 %d)"`, (top+h-bottom)/2), yLabel)
	legend := map[string]bool{}
	at := float64(left)
	for _, c := range curves {
		style := fmt.Sprintf(`stroke="%s" stroke-width="2"`, colours[c.name])
		if c.faint {
			style = fmt.Sprintf(`stroke="%s" stroke-width="1" stroke-opacity="0.35"`, colours[c.name])
		}
		var pts [][2]float64
		for i, v := range c.values {
			pts = append(pts, [2]float64{x(float64(i + 1)), y(v)})
		}
		s.path(pts, style)
		if !legend[c.name] {
			legend[c.name] = true
			s.line(at, 26, at+16, 26, fmt.Sprintf(`stroke="%s" stroke-width="2.5"`, colours[c.name]))
			s.text(at+20, 30, "start", `font-size="11"`, c.name)
			at += 32 + 6.4*float64(len([]rune(c.name)))
		}
	}
	return s.String()
}

// logTicks are round values within [low, high], about two a decade.
func logTicks(low, high float64) []float64 {
	steps := []float64{1, 2, 5}
	if high/low > 200 {
		steps = []float64{1}
	}
	var ticks []float64
	for e := math.Floor(math.Log10(low)); e <= math.Ceil(math.Log10(high)); e++ {
		for _, m := range steps {
			if v := m * math.Pow(10, e); v >= low && v <= high {
				ticks = append(ticks, v)
			}
		}
	}
	if len(ticks) < 2 {
		ticks = []float64{low, high}
		for i, v := range ticks {
			p := math.Pow(10, math.Floor(math.Log10(v))-2)
			ticks[i] = math.Round(v/p) * p
		}
	}
	return ticks
}
