package plot

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Drawing collects the elements of a figure. Text and axes take the colour of
// the page around it, so that figures work on light and dark ground.
type Drawing struct {
	b    strings.Builder
	w, h float64
	name string
	// opens: parts of it are links, so that it is more than an image.
	opens bool
	// Table has the drawn values.
	Table Table
}

func newDrawing(w, h float64, description string) *Drawing {
	return &Drawing{w: w, h: h, name: description}
}

// head opens the drawing; style is for the outermost element.
func (s *Drawing) head(style string) string {
	role := "img"
	if s.opens {
		role = "group"
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="%s" aria-label="%s" font-family="system-ui, sans-serif" font-size="12" fill="currentColor"%s>`+"\n",
		num(s.w), num(s.h), num(s.w), num(s.h), role, html.EscapeString(s.name), style)
}

// Inline is the drawing as part of a page.
func (s *Drawing) Inline() string { return s.head("") + s.b.String() + "</svg>\n" }

// File is the drawing as a file of its own, on white ground.
func (s *Drawing) File() string {
	return s.head(` style="background:#fff;color:#1b1f24"`) + s.b.String() + "</svg>\n"
}

func (s *Drawing) rect(x, y, w, h float64, style, title string) {
	fmt.Fprintf(&s.b, `<rect x="%s" y="%s" width="%s" height="%s" %s`, num(x), num(y), num(w), num(h), style)
	if title == "" {
		s.b.WriteString("/>\n")
		return
	}
	fmt.Fprintf(&s.b, "><title>%s</title></rect>\n", html.EscapeString(title))
}

func (s *Drawing) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(&s.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" %s/>`+"\n", num(x1), num(y1), num(x2), num(y2), style)
}

// text anchors at "start", "middle" or "end".
func (s *Drawing) text(x, y float64, anchor, style, t string) {
	fmt.Fprintf(&s.b, `<text x="%s" y="%s" text-anchor="%s" %s>%s</text>`+"\n", num(x), num(y), anchor, style, html.EscapeString(t))
}

// turned is text rotated by 90° to read upwards.
func (s *Drawing) turned(x, y float64, anchor, style, t string) {
	s.text(x, y, anchor, fmt.Sprintf(`transform="rotate(-90 %s %s)" %s`, num(x), num(y), style), t)
}

// key is a legend's entry: a patch of the palette's colour and a name.
func (s *Drawing) key(x, y float64, colour int, name string) {
	s.rect(x, y-6, 14, 5, fmt.Sprintf(`fill="%s"`, palette[colour%len(palette)]), "")
	s.text(x+19, y, "start", tick, name)
}

// path joins points; one whose y is NaN interrupts it.
func (s *Drawing) path(points [][2]float64, style string) {
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

// area fills the outline of points.
func (s *Drawing) area(points [][2]float64, style string) {
	s.b.WriteString(`<path d="`)
	pen := "M"
	for _, p := range points {
		fmt.Fprintf(&s.b, "%s%s %s", pen, num(p[0]), num(p[1]))
		pen = "L"
	}
	fmt.Fprintf(&s.b, `Z" %s/>`+"\n", style)
}

func (s *Drawing) circle(x, y, r float64, style string) {
	fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" %s/>`+"\n", num(x), num(y), num(r), style)
}

// Credit adds a line below the drawing, two where it is narrow.
func (s *Drawing) Credit(t string) *Drawing {
	lines := []string{t}
	width := func(t string) float64 { return 16 + 5.6*float64(len([]rune(t))) }
	if a, b, ok := strings.Cut(t, ", DOI"); ok && width(t) > s.w {
		lines = []string{a, "DOI" + b}
	}
	s.h += 4
	for _, l := range lines {
		s.h += 14
		s.w = max(s.w, width(l))
		s.text(8, s.h-5, "start", `font-size="10" fill-opacity="0.85"`, l)
	}
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
	faint   = `fill-opacity="0.85"`
	bold    = `font-weight="600" font-size="13"`
	tick    = `font-size="11"`
	rule    = `stroke="currentColor" stroke-opacity="0.18"`
	axisInk = `stroke="currentColor" stroke-opacity="0.6"`
)

// palette has tones that read on light and dark ground, with at least 3 to 1, and
// are told apart by colour-blind readers, after Okabe and Ito.
var palette = []string{"#2b86c5", "#d9650f", "#16946f", "#c168a3", "#a98000", "#7575cf"}

// textWidth is the width of text of the usual size, about.
func textWidth(t string) float64 { return 6.6 * float64(len([]rune(t))) }

// Table is a table of text with headings on two sides, for those who do not see a
// drawing, or copy its values.
type Table struct {
	Columns []string
	Rows    []Row
}

func (t *Table) add(name string, cells ...string) { t.Rows = append(t.Rows, Row{name, cells}) }

// Row of a Table.
type Row struct {
	Name  string
	Cells []string
}

// Short writes a loss for a small cell: ".0235", "1.20".
func Short(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case math.Abs(v) >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return strings.Replace(fmt.Sprintf("%.4f", v), "0.", ".", 1)
}
