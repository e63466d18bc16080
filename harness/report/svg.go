package report

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// svg collects the elements of a drawing. Text and axes take the colour of the
// page around it, so that figures work on light and dark ground.
type svg struct {
	b    strings.Builder
	w, h float64
	name string
	// table has the drawn values, for a heat map.
	table *grid
}

func newSVG(w, h float64, description string) *svg {
	return &svg{w: w, h: h, name: description}
}

// head opens the drawing; style is for the outermost element.
func (s *svg) head(style string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="img" aria-label="%s" font-family="system-ui, sans-serif" font-size="12" fill="currentColor"%s>`+"\n",
		num(s.w), num(s.h), num(s.w), num(s.h), html.EscapeString(s.name), style)
}

// inline is the drawing as part of a page.
func (s *svg) inline() string { return s.head("") + s.b.String() + "</svg>\n" }

// file is the drawing as a file of its own, on white ground.
func (s *svg) file() string {
	return s.head(` style="background:#fff;color:#1b1f24"`) + s.b.String() + "</svg>\n"
}

func (s *svg) rect(x, y, w, h float64, style, title string) {
	fmt.Fprintf(&s.b, `<rect x="%s" y="%s" width="%s" height="%s" %s`, num(x), num(y), num(w), num(h), style)
	if title == "" {
		s.b.WriteString("/>\n")
		return
	}
	fmt.Fprintf(&s.b, "><title>%s</title></rect>\n", html.EscapeString(title))
}

func (s *svg) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(&s.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`+"\n", num(x1), num(y1), num(x2), num(y2), style)
}

// text anchors at "start", "middle" or "end".
func (s *svg) text(x, y float64, anchor, style, t string) {
	fmt.Fprintf(&s.b, `<text x="%s" y="%s" text-anchor="%s" %s>%s</text>`+"\n", num(x), num(y), anchor, style, html.EscapeString(t))
}

// turned is text rotated by 90° to read upwards.
func (s *svg) turned(x, y float64, anchor, style, t string) {
	s.text(x, y, anchor, fmt.Sprintf(`transform="rotate(-90 %s %s)" %s`, num(x), num(y), style), t)
}

// path joins points; one whose y is NaN interrupts it.
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

func (s *svg) circle(x, y, r float64, style string) {
	fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" %s/>`+"\n", num(x), num(y), num(r), style)
}

// credit adds a line below the drawing.
func (s *svg) credit(t string) *svg {
	s.h += 18
	s.w = max(s.w, 16+5.6*float64(len([]rune(t))))
	s.text(8, s.h-5, "start", `font-size="10" opacity="0.7"`, t)
	return s
}

// num formats a coordinate with at most two decimals.
func num(v float64) string {
	t := strings.TrimRight(fmt.Sprintf("%.2f", v), "0")
	t = strings.TrimSuffix(t, ".")
	if t == "-0" {
		return "0"
	}
	return t
}

// Styles that drawings share.
const (
	faint   = `opacity="0.75"`
	bold    = `font-weight="600" font-size="13"`
	tick    = `font-size="11"`
	rule    = `stroke="currentColor" stroke-opacity="0.18"`
	axisInk = `stroke="currentColor" stroke-opacity="0.6"`
)

// palette has tones that read on light and dark ground and are told apart by
// colour-blind readers, after Okabe and Ito.
var palette = []string{"#2b86c5", "#e06c1f", "#169f78", "#c678a8", "#c99700", "#7d7dcf"}

// viridis is sampled from the perceptually uniform colour map of that name (S.
// van der Walt and N. Smith, CC0), which also people who confuse red and green
// can read.
var viridis = [][3]float64{
	{68, 1, 84}, {71, 44, 122}, {59, 81, 139}, {44, 113, 142}, {33, 144, 141},
	{39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37},
}

// colour maps t in [0,1] to a colour, and gives the ink that reads on it.
func colour(t float64) (fill, ink string) {
	t = min(max(t, 0), 1) * float64(len(viridis)-1)
	i := min(int(t), len(viridis)-2)
	f := t - float64(i)
	var c [3]int
	for k := range c {
		c[k] = int(math.Round(viridis[i][k]*(1-f) + viridis[i+1][k]*f))
	}
	ink = "#000"
	if 0.3*float64(c[0])+0.59*float64(c[1])+0.11*float64(c[2]) < 140 {
		ink = "#fff"
	}
	return fmt.Sprintf("#%02x%02x%02x", c[0], c[1], c[2]), ink
}

// logScale maps positive values to [0,1] by their logarithms.
type logScale struct{ low, high float64 }

// scaleOf spans the positive values of the matrices.
func scaleOf(ms ...*Matrix) logScale {
	s := logScale{math.Inf(1), math.Inf(-1)}
	for _, m := range ms {
		for _, row := range m.Values {
			s.include(row)
		}
	}
	return s
}

func (s *logScale) include(v []float64) {
	for _, x := range v {
		if x > 0 && !math.IsInf(x, 0) {
			s.low, s.high = min(s.low, x), max(s.high, x)
		}
	}
}

func (s logScale) at(v float64) float64 {
	if !(s.high > s.low) || v <= 0 {
		return 0
	}
	return math.Log(v/s.low) / math.Log(s.high/s.low)
}

// widened has room for ticks around its values.
func (s logScale) widened() logScale {
	f := max(1.04, math.Pow(s.high/s.low, 0.04))
	return logScale{s.low / f, s.high * f}
}

// ticks are round values within the scale: 1, 2 and 5 of every decade, powers of
// ten over many, and equal steps where there is little between its ends.
func (s logScale) ticks() []float64 {
	var t []float64
	if s.high/s.low < 8 {
		p := math.Pow(10, math.Floor(math.Log10(s.high-s.low)))
		step := p
		for _, m := range []float64{0.2, 0.5, 1, 2, 5} {
			if (s.high-s.low)/(m*p) <= 6 {
				step = m * p
				break
			}
		}
		for k := math.Ceil(s.low / step); k*step <= s.high; k++ {
			t = append(t, k*step)
		}
		return t
	}
	steps := []float64{1, 2, 5}
	if s.high/s.low > 200 {
		steps = []float64{1}
	}
	for e := math.Floor(math.Log10(s.low)); e <= math.Ceil(math.Log10(s.high)); e++ {
		for _, m := range steps {
			if v := m * math.Pow(10, e); v >= s.low && v <= s.high {
				t = append(t, v)
			}
		}
	}
	return t
}

// short writes a loss for a small cell: ".0235", "1.20".
func short(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return strings.Replace(fmt.Sprintf("%.4f", v), "0.", ".", 1)
}
