package report

import (
	"fmt"
	"math"
	"strings"
)

// width of text of the usual size, about.
func textWidth(t string) float64 { return 6.6 * float64(len([]rune(t))) }

func longest(s *series, keys []string) float64 {
	w := 0.0
	for _, k := range keys {
		w = max(w, textWidth(s.label(k)))
	}
	return w
}

// heatMap draws a matrix with its values written into the cells, in colours that
// are logarithmic over the scale. Cells of a domain with itself are outlined.
// The rows say what they were trained on.
func heatMap(s *series, m *Matrix, scale logScale, title, rows string) *svg {
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
	across := "evaluated " + s.preposition() + " " + s.unit()
	d := newSVG(max(left+width+8, left+(width+textWidth(across))/2+8, 1.15*textWidth(title)+16), bottom+44, fmt.Sprintf("%s, %s: rows %s, columns evaluated %s", title, s.unit(), rows, s.preposition()))
	d.text(8, 16, "start", bold, title)
	d.text(left+width/2, 34, "middle", faint, across)
	d.turned(16, (top+bottom)/2, "middle", faint, rows)
	for j, c := range m.Columns {
		x := left + cell*(float64(j)+0.5)
		if turn {
			d.turned(x+4, top-6, "start", tick, s.label(c))
		} else {
			d.text(x, top-6, "middle", "", s.label(c))
		}
	}
	d.table = &grid{}
	for _, c := range m.Columns {
		d.table.Columns = append(d.table.Columns, s.name(c))
	}
	for i, r := range m.Rows {
		row := gridRow{Name: s.name(r)}
		for _, v := range m.Values[i] {
			row.Cells = append(row.Cells, short(v))
		}
		d.table.Rows = append(d.table.Rows, row)
		y := top + height*float64(i)
		d.text(left-8, y+height/2+4, "end", "", s.label(r))
		for j, c := range m.Columns {
			v, x := m.Values[i][j], left+cell*float64(j)
			where := s.name(r) + " → " + s.name(c)
			if math.IsNaN(v) {
				d.rect(x, y, cell-1, height-1, `fill="#888" fill-opacity="0.2"`, where+": no model")
				continue
			}
			fill, ink := colour(scale.at(v))
			d.rect(x, y, cell-1, height-1, fmt.Sprintf(`fill="%s"`, fill), fmt.Sprintf("%s: %.4g, median of %d", where, v, m.Counts[i][j]))
			d.text(x+cell/2-0.5, y+height/2+4, "middle", fmt.Sprintf(`fill="%s" font-size="%s" pointer-events="none"`, ink, num(font)), short(v))
			if r == c {
				d.rect(x+0.5, y+0.5, cell-2, height-2, `fill="none" stroke="currentColor" stroke-width="1.5"`, "")
			}
		}
	}
	const n = 60
	y := bottom + 14
	for k := range n {
		fill, _ := colour((float64(k) + 0.5) / n)
		d.rect(left+width*float64(k)/n, y, width/n+0.5, 8, fmt.Sprintf(`fill="%s"`, fill), "")
	}
	d.text(left, y+22, "start", tick, short(scale.low))
	d.text(left+width, y+22, "end", tick, short(scale.high))
	if width > 340 {
		d.text(left+width/2, y+22, "middle", tick+" "+faint, lossLabel+", logarithmic colours")
	}
	return d
}

const lossLabel = "validation loss above its minimum"

// frame is a plot's area with a logarithmic y axis.
type frame struct {
	*svg
	left, right, top, bottom float64
	scale                    logScale
}

// newFrame draws title, legend, y axis and the x axis' label.
func newFrame(w, h float64, title, xLabel, yLabel string, scale logScale, names ...string) *frame {
	l := newLegend(w, names...)
	h += l.height()
	f := &frame{newSVG(w, h, title), 64, w - 12, 30 + l.height(), h - 44, scale.widened()}
	f.text(8, 16, "start", bold, title)
	for i, n := range l.names {
		y := 31 + 16*float64(l.row[i])
		f.rect(l.x[i], y-6, 14, 5, fmt.Sprintf(`fill="%s"`, palette[i%len(palette)]), "")
		f.text(l.x[i]+19, y, "start", tick, n)
	}
	f.text((f.left+f.right)/2, h-8, "middle", faint, xLabel)
	f.turned(14, (f.top+f.bottom)/2, "middle", faint, yLabel)
	if !(f.scale.high > 0) {
		f.text((f.left+f.right)/2, (f.top+f.bottom)/2, "middle", "", "no data")
		return f
	}
	for _, v := range f.scale.ticks() {
		f.line(f.left, f.y(v), f.right, f.y(v), rule)
		f.text(f.left-6, f.y(v)+4, "end", tick, fmt.Sprintf("%.4g", v))
	}
	return f
}

// y of a value, NaN where it has none.
func (f *frame) y(v float64) float64 {
	if !(v > 0) || math.IsInf(v, 0) || !(f.scale.high > 0) {
		return math.NaN()
	}
	return f.bottom - (f.bottom-f.top)*f.scale.at(v)
}

// legend is the names of a plot's colours, in as many rows as they need.
type legend struct {
	names []string
	// x and row of every entry.
	x   []float64
	row []int
}

func newLegend(width float64, names ...string) legend {
	l := legend{names: names}
	x, row := 64.0, 0
	for _, n := range names {
		w := 34 + 6*float64(len([]rune(n)))
		if x+w > width && x > 64 {
			x, row = 64, row+1
		}
		l.x, l.row = append(l.x, x), append(l.row, row)
		x += w
	}
	return l
}

// height of the rows.
func (l legend) height() float64 {
	if len(l.row) == 0 {
		return 0
	}
	return 16 * float64(l.row[len(l.row)-1]+1)
}

// curve is a line of a plot with its name and colour.
type curve struct {
	name   string
	points [][2]float64
	dashed bool
}

// lines draws curves. Marks are the x to label; logX spaces x by logarithms. A
// boundary other than 0 gets a vertical line.
func lines(title, xLabel, yLabel string, curves []curve, marks []float64, logX bool, boundary float64, dots bool) *svg {
	low, high := math.Inf(1), math.Inf(-1)
	scale := scaleOf()
	for _, c := range curves {
		for _, p := range c.points {
			low, high = min(low, p[0]), max(high, p[0])
			scale.include(p[1:])
		}
	}
	var names []string
	for _, c := range curves {
		names = append(names, c.name)
	}
	f := newFrame(540, 290, title, xLabel, yLabel, scale, names...)
	x := func(v float64) float64 {
		t := 0.5
		if high > low {
			t = (v - low) / (high - low)
			if logX {
				t = math.Log(v/low) / math.Log(high/low)
			}
		}
		return f.left + 12 + (f.right-f.left-24)*t
	}
	f.line(f.left, f.bottom, f.right, f.bottom, axisInk)
	for _, v := range marks {
		if v >= low && v <= high {
			f.line(x(v), f.bottom, x(v), f.bottom+4, axisInk)
			f.text(x(v), f.bottom+17, "middle", tick, fmt.Sprintf("%g", v))
		}
	}
	if boundary > low && boundary < high {
		f.line(x(boundary), f.top, x(boundary), f.bottom, `stroke="currentColor" stroke-opacity="0.5" stroke-dasharray="4 3"`)
	}
	for i, c := range curves {
		ink := palette[i%len(palette)]
		style := fmt.Sprintf(`stroke="%s" stroke-width="2" stroke-linejoin="round"`, ink)
		if c.dashed {
			style += ` stroke-dasharray="6 3"`
		}
		var pts [][2]float64
		for _, p := range c.points {
			pts = append(pts, [2]float64{x(p[0]), f.y(p[1])})
		}
		f.path(pts, style)
		for _, p := range pts {
			if dots && !math.IsNaN(p[1]) {
				f.circle(p[0], p[1], 3, fmt.Sprintf(`fill="%s"`, ink))
			}
		}
	}
	return f.svg
}

// epochs are the numbers to label on an axis up to the last epoch.
func epochs(last int) []float64 {
	var m []float64
	step := max(1, (last+9)/10)
	for e := step; e <= last; e += step {
		m = append(m, float64(e))
	}
	return m
}

// stripLimit is how many values of a group are drawn one by one.
const stripLimit = 160

// boxes draws groups of values: a box from the lower to the upper quartile with
// the median, whiskers to the 5th and 95th percentile, and the values themselves
// where they are few. With several kinds, each group has a box per kind.
func boxes(title, xLabel, yLabel string, kinds []string, groups [][]group) *svg {
	scale := scaleOf()
	for _, g := range groups {
		for _, x := range g {
			if len(x.values) > stripLimit {
				scale.include([]float64{quantile(x.values, 0.05), quantile(x.values, 0.95)})
			} else {
				scale.include(x.values)
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
	slot := (f.right - f.left) / float64(n)
	wide := min(26, slot/float64(len(kinds))*0.5)
	for i := range n {
		mid := f.left + slot*(float64(i)+0.5)
		f.text(mid, f.bottom+17, "middle", tick, groups[0][i].level)
		for k := range kinds {
			ink := palette[k%len(palette)]
			v := finite(groups[k][i].values)
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
			q := func(p float64) float64 { return f.y(max(quantile(v, p), f.scale.low)) }
			if math.IsNaN(q(0.5)) {
				continue
			}
			style := fmt.Sprintf(`stroke="%s" stroke-width="1.5"`, ink)
			f.line(x, q(0.05), x, q(0.25), style)
			f.line(x, q(0.75), x, q(0.95), style)
			what := strings.TrimSpace(kinds[k] + " " + groups[k][i].level)
			f.rect(x-wide/2, q(0.75), wide, max(q(0.25)-q(0.75), 0.5), fmt.Sprintf(`fill="%s" fill-opacity="0.22" %s`, ink, style),
				fmt.Sprintf("%s: median %.4g, quartiles %.4g and %.4g, of %d", what, median(v), quantile(v, 0.25), quantile(v, 0.75), len(v)))
			f.line(x-wide/2, q(0.5), x+wide/2, q(0.5), fmt.Sprintf(`stroke="%s" stroke-width="3"`, ink))
		}
	}
	return f.svg
}

// panel is a small histogram.
type panel struct {
	title  string
	groups []group
}

// histograms draws panels of counts over a common axis.
func histograms(title, xLabel string, panels []panel) *svg {
	const w, h, columns = 250.0, 130.0, 3
	rows := (len(panels) + columns - 1) / columns
	low, high := math.Inf(1), math.Inf(-1)
	for _, p := range panels {
		for _, g := range p.groups {
			for _, v := range g.values {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	d := newSVG(w*columns, 50+h*float64(rows), title)
	d.text(8, 16, "start", bold, title)
	if !(high > low) {
		return d
	}
	var names []string
	const bins = 24
	for i, p := range panels {
		x0, y0 := w*float64(i%columns)+14, 36+h*float64(i/columns)
		width, height := w-28, h-44
		d.text(x0, y0+10, "start", tick+` font-weight="600"`, p.title)
		counts := make([][bins]int, len(p.groups))
		most := 1
		for k, g := range p.groups {
			for _, v := range g.values {
				b := min(bins-1, int(bins*(v-low)/(high-low)))
				counts[k][b]++
				most = max(most, counts[k][b])
			}
			if len(names) <= k {
				names = append(names, g.level)
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
		d.text(x0, base+14, "start", tick, fmt.Sprintf("%.3g", low))
		d.text(x0+width, base+14, "end", tick, fmt.Sprintf("%.3g", high))
		d.text(x0+width/2, base+14, "middle", tick+" "+faint, xLabel)
	}
	at := 24 + textWidth(title)
	for k, n := range names {
		d.rect(at, 10, 14, 5, fmt.Sprintf(`fill="%s"`, palette[k%len(palette)]), "")
		d.text(at+19, 16, "start", tick, n)
		at += 40 + textWidth(n)
	}
	return d
}
