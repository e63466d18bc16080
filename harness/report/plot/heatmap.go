package plot

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// viridis is sampled from the perceptually uniform colour map of that name (S.
// van der Walt and N. Smith, CC0), which also people who confuse red and green
// can read.
var viridis = [][3]float64{
	{68, 1, 84}, {71, 44, 122}, {59, 81, 139}, {44, 113, 142}, {33, 144, 141},
	{39, 173, 129}, {92, 200, 99}, {170, 220, 50}, {253, 231, 37},
}

// diverging goes from blue for less over white to orange for more (after the
// colours of RdYlBu by C. Brewer), told apart with any colour vision.
var diverging = [][3]float64{
	{30, 80, 150}, {95, 150, 205}, {180, 212, 235}, {247, 247, 247}, {250, 206, 150}, {226, 135, 60}, {160, 75, 10},
}

// colour maps t in [0,1] to a colour of a map, and gives the ink, black or white,
// that has more contrast on it: at least 4.5 to 1 on any.
func colour(of [][3]float64, t float64) (fill, ink string) {
	t = min(max(t, 0), 1) * float64(len(of)-1)
	i := min(int(t), len(of)-2)
	f := t - float64(i)
	var c [3]float64
	for k := range c {
		c[k] = math.Round(of[i][k]*(1-f) + of[i+1][k]*f)
	}
	fill = fmt.Sprintf("#%02x%02x%02x", int(c[0]), int(c[1]), int(c[2]))
	ink = "#000000"
	if Contrast(fill, "#ffffff") > Contrast(fill, ink) {
		ink = "#ffffff"
	}
	return fill, ink
}

// Contrast of two colours like "#1b1f24", from 1 to 21, as the Web Content
// Accessibility Guidelines 2.2 define it. Text is to have 4.5 and more.
func Contrast(a, b string) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// luminance is the relative luminance of an sRGB colour.
func luminance(colour string) float64 {
	rgb, err := strconv.ParseUint(strings.TrimPrefix(colour, "#"), 16, 32)
	if err != nil {
		return math.NaN()
	}
	l := 0.0
	for _, weight := range []float64{0.0722, 0.7152, 0.2126} { // from blue up
		v := float64(rgb&255) / 255
		if v <= 0.04045 {
			v /= 12.92
		} else {
			v = math.Pow((v+0.055)/1.055, 2.4)
		}
		l += weight * v
		rgb >>= 8
	}
	return l
}

// Labels names the domains of a matrix.
type Labels interface {
	Label(key string) string // short, for an axis
	Name(key string) string  // with its unit
	Unit() string            // what the axis shows
	Preposition() string     // "at" or "on" a domain
}

// Linked is Labels whose cells open something.
type Linked interface {
	Labels
	Link(row, column string) string // an address; "" for none
}

func longest(s Labels, keys []string) float64 {
	w := 0.0
	for _, k := range keys {
		w = max(w, textWidth(s.Label(k)))
	}
	return w
}

// HeatMap draws a matrix of losses with its values written into the cells, in
// colours that are logarithmic over the scale. Cells of a domain with itself are
// outlined. The rows say what they were trained on.
func HeatMap(s Labels, m *stats.Matrix, scale LogScale, title, rows string) *Drawing {
	return heatMap(s, m, scale, viridis, title, rows, "evaluated "+s.Preposition()+" "+s.Unit(), Short, LossLabel)
}

// Maps draws a matrix of other positive values in the same way.
func Maps(s Labels, m *stats.Matrix, scale LogScale, title, rows, columns, what string) *Drawing {
	return heatMap(s, m, scale, viridis, title, rows, columns, Short, what)
}

// Changes draws a matrix of ratios likewise, in two colours that part at 1.
func Changes(s Labels, m *stats.Matrix, scale LogScale, title, rows, columns, what string) *Drawing {
	far := max(scale.high, 1/scale.low, 1.01)
	return heatMap(s, m, LogScale{1 / far, far}, diverging, title, rows, columns, func(v float64) string {
		if math.IsNaN(v) {
			return "–"
		}
		return format.Digits(v, 2)
	}, what)
}

func heatMap(s Labels, m *stats.Matrix, scale LogScale, colours [][3]float64, title, rows, across string, write func(float64) string, what string) *Drawing {
	cell, height, font := 44.0, 28.0, 11.0
	switch n := len(m.Columns); {
	case n > 12:
		cell, height, font = 38, 22, 10
	case n < 7:
		cell = 58
	}
	left := 38 + longest(s, m.Rows)
	top := 54.0
	turn := longest(s, m.Columns) > cell-6
	if turn {
		top = 44 + longest(s, m.Columns)
	}
	width := cell * float64(len(m.Columns))
	bottom := top + height*float64(len(m.Rows))
	d := newDrawing(max(left+width+8, left+(width+textWidth(across))/2+8, 1.15*textWidth(title)+16), bottom+44, fmt.Sprintf("%s: rows %s, columns %s; %s", title, rows, across, what))
	d.text(8, 16, "start", bold, title)
	d.text(left+width/2, 34, "middle", faint, across)
	d.turned(16, (top+bottom)/2, "middle", faint, rows)
	for j, c := range m.Columns {
		x := left + cell*(float64(j)+0.5)
		if turn {
			d.turned(x+4, top-6, "start", tick, s.Label(c))
		} else {
			d.text(x, top-6, "middle", "", s.Label(c))
		}
	}
	for _, c := range m.Columns {
		d.Table.Columns = append(d.Table.Columns, s.Name(c))
	}
	for i, r := range m.Rows {
		row := Row{Name: s.Name(r)}
		for _, v := range m.Values[i] {
			row.Cells = append(row.Cells, write(v))
		}
		d.Table.Rows = append(d.Table.Rows, row)
		y := top + height*float64(i)
		d.text(left-8, y+height/2+4, "end", "", s.Label(r))
		for j, c := range m.Columns {
			v, x := m.Values[i][j], left+cell*float64(j)
			where := s.Name(r) + " → " + s.Name(c)
			if math.IsNaN(v) {
				d.rect(x, y, cell-1, height-1, `fill="#888" fill-opacity="0.2"`, where+": no model")
				continue
			}
			fill, ink := colour(colours, scale.at(v))
			of := ""
			if m.Counts != nil {
				of = fmt.Sprintf(", median of %d", m.Counts[i][j])
				if m.Pretrained != nil && m.Pretrained[i][j] < m.Counts[i][j] {
					of += fmt.Sprintf(" from %d pretrained models", m.Pretrained[i][j])
				}
			}
			if m.Intervals != nil && m.Intervals[i][j] != nil {
				of += fmt.Sprintf(", 95 %% interval %s to %s", format.Loss(m.Intervals[i][j][0]), format.Loss(m.Intervals[i][j][1]))
			}
			link := ""
			if l, ok := s.(Linked); ok {
				link = l.Link(r, c)
			}
			if link != "" {
				d.opens = true
				fmt.Fprintf(&d.b, `<a href="%s" aria-label="%s">`, html.EscapeString(link), html.EscapeString(where+": "+format.Loss(v)))
			}
			d.rect(x, y, cell-1, height-1, fmt.Sprintf(`fill="%s"`, fill), where+": "+format.Loss(v)+of)
			d.text(x+cell/2-0.5, y+height/2+4, "middle", fmt.Sprintf(`fill="%s" font-size="%s" pointer-events="none"`, ink, num(font)), write(v))
			if link != "" {
				d.b.WriteString("</a>\n")
			}
			if r == c {
				d.rect(x+0.5, y+0.5, cell-2, height-2, `fill="none" stroke="currentColor" stroke-width="1.5"`, "")
			}
		}
	}
	const n = 60
	y := bottom + 14
	for k := range n {
		fill, _ := colour(colours, (float64(k)+0.5)/n)
		d.rect(left+width*float64(k)/n, y, width/n+0.5, 8, fmt.Sprintf(`fill="%s"`, fill), "")
	}
	d.text(left, y+22, "start", tick, write(scale.low))
	d.text(left+width, y+22, "end", tick, write(scale.high))
	if width > 340 {
		d.text(left+width/2, y+22, "middle", tick+" "+faint, what+", logarithmic colours")
	}
	return d
}

// LossLabel names the axis of losses.
const LossLabel = "validation loss above its minimum"
