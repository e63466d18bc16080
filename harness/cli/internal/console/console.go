// Package console shows how far a long command has got: one line with a bar,
// counts, rate and remaining time on a terminal, occasional plain lines elsewhere,
// or one JSON object per line for machines.
package console

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/refocus-em/refocus/harness/internal/format"
)

// Style of output.
type Style int

const (
	Lines Style = iota // plain lines, at most one every few seconds
	Bar                // a line that is redrawn, for terminals
	JSON               // one object per line
)

// For returns a printer that suits the file: a bar on a terminal, plain lines on
// anything else.
func For(f *os.File) *Printer {
	if !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return New(f, Lines)
	}
	p := New(f, Bar)
	p.width = func() int {
		w, _, err := term.GetSize(int(f.Fd()))
		if err != nil || w <= 0 {
			return 80
		}
		return w
	}
	return p
}

// Printer is a progress.Meter. A nil Printer says nothing.
type Printer struct {
	mu    sync.Mutex
	w     io.Writer
	style Style
	now   func() time.Time
	width func() int // columns of the terminal

	phase, unit string
	done, total float64
	skipped     float64 // of done
	gauges      []gauge
	start, last time.Time
	open, drawn bool // drawn: the bar is on the terminal's last line
}

// New returns a printer that writes to w; for Bar to a terminal of 80 columns.
func New(w io.Writer, s Style) *Printer {
	return &Printer{w: w, style: s, now: time.Now, width: func() int { return 80 }}
}

// gauge is something that changes, beside the numbers of the work.
type gauge struct {
	name  string
	value float64
}

// redraw is the shortest time between two drawings of the bar.
const redraw = 250 * time.Millisecond

// Begin starts a phase of total units of work.
func (p *Printer) Begin(phase, unit string, total float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	p.phase, p.unit, p.total, p.done, p.skipped = phase, unit, total, 0, 0
	p.start, p.gauges = p.now(), nil
	p.open = true
	if p.style == Bar {
		p.due(redraw)
	} else {
		p.last = p.start
	}
}

// Add reports n more units of the phase.
func (p *Printer) Add(n float64) { p.add(n, 0) }

// Skip reports n more units that need not be done. They do not count for the rate.
func (p *Printer) Skip(n float64) { p.add(n, n) }

func (p *Printer) add(n, skipped float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	p.skipped += skipped
	switch p.style {
	case Bar:
		p.due(redraw)
	case JSON:
		p.due(time.Second)
	default: // a log of days should not have a line every five seconds
		p.due(min(max(5*time.Second, p.now().Sub(p.start)/20), time.Minute))
	}
}

// Gauge reports the value of something, NaN that it has none any more. It is shown with
// the next work.
func (p *Printer) Gauge(name string, value float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open {
		return
	}
	i := slices.IndexFunc(p.gauges, func(g gauge) bool { return g.name == name })
	switch {
	case math.IsNaN(value) || math.IsInf(value, 0):
		p.gauges = slices.DeleteFunc(p.gauges, func(g gauge) bool { return g.name == name })
	case i < 0:
		p.gauges = append(p.gauges, gauge{name, value})
	default:
		p.gauges[i].value = value
	}
}

// due shows the progress unless that was done a moment ago.
func (p *Printer) due(interval time.Duration) {
	if now := p.now(); now.Sub(p.last) >= interval {
		p.last = now
		p.draw()
	}
}

// End finishes the phase.
func (p *Printer) End() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
}

func (p *Printer) end() {
	if !p.open {
		return
	}
	p.open = false
	p.draw()
	if p.style == Bar {
		fmt.Fprintln(p.w)
		p.drawn = false
	}
}

// Printf writes a line of text between the progress. What in it would control the
// terminal is written out (format.Visible).
func (p *Printer) Printf(layout string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := format.Visible(fmt.Sprintf(layout, args...))
	if p.style == JSON {
		p.object(map[string]any{"event": "message", "text": text})
		return
	}
	if p.drawn { // the bar comes back when it is due
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
	fmt.Fprintln(p.w, text)
	if p.style == Bar && p.open {
		p.due(redraw)
	}
}

// Event writes an object for machines; other styles leave it out.
func (p *Printer) Event(name string, fields map[string]any) {
	if p == nil || p.style != JSON {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	o := map[string]any{"event": name}
	for k, v := range fields {
		o[k] = v
	}
	p.object(o)
}

func (p *Printer) object(o map[string]any) {
	b, err := json.Marshal(o)
	if err != nil {
		b, _ = json.Marshal(map[string]any{"event": "error", "text": err.Error()})
	}
	fmt.Fprintf(p.w, "%s\n", b)
}

func (p *Printer) draw() {
	elapsed := p.now().Sub(p.start)
	rate := 0.0
	if elapsed > 0 {
		rate = (p.done - p.skipped) / elapsed.Seconds()
	}
	eta := -1.0
	if rate > 0 && p.total > p.done {
		eta = (p.total - p.done) / rate
	}
	if p.style == JSON {
		o := map[string]any{"event": "progress", "phase": p.phase, "unit": p.unit, "done": p.done, "total": p.total, "rate": rate}
		if eta >= 0 {
			o["eta_seconds"] = eta
		}
		for _, g := range p.gauges {
			o[g.name] = g.value
		}
		p.object(o)
		return
	}
	var l line
	for _, g := range p.gauges {
		l.gauges += ", " + g.name + " " + format.Digits(g.value, 3)
	}
	l.phase, l.unit = p.phase, " "+p.unit
	l.count = format.Count(int64(math.Round(p.done))) + "/" + format.Count(int64(math.Round(p.total)))
	if rate > 0 {
		l.rate = ", " + format.Rate(rate) + "/s"
	}
	switch {
	case !p.open:
		l.time = ", took " + format.Duration(elapsed)
	case eta >= 0:
		l.time = ", " + format.Duration(seconds(eta)) + " left"
	}
	if p.style == Lines {
		fmt.Fprintln(p.w, l.plain())
		return
	}
	if p.total > 0 {
		l.part = min(1, p.done/p.total)
	}
	// A line that fills the last column would wrap on some terminals.
	fmt.Fprintf(p.w, "\r\x1b[K%s", l.fit(p.width()-1))
	p.drawn = true
}

// seconds saturates: what has hardly begun may have centuries left.
func seconds(s float64) time.Duration {
	if s >= math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(s * 1e9)
}

// line is what a line of progress says, in its order.
type line struct {
	phase, count, unit, rate, gauges, time string
	part                                   float64 // done, of 1
}

func (l line) plain() string {
	return fmt.Sprintf("%-11s %s%s%s%s%s", l.phase, l.count, l.unit, l.rate, l.gauges, l.time)
}

// fit writes the line in at most so many columns. Where they are few it leaves out,
// in this order, of the bar what is too long, the rate, the unit, the phase, what is
// gauged, the commas of the counts, and only then the end.
func (l line) fit(columns int) string {
	const most, least = 24, 6 // cells of the bar
	if room := columns - utf8.RuneCountInString(l.plain()) - len(" []"); room >= least {
		cells := min(most, room)
		n := int(float64(cells) * l.part)
		return fmt.Sprintf("%-11s [%s%s] %s%s%s%s%s", l.phase, strings.Repeat("#", n), strings.Repeat(".", cells-n), l.count, l.unit, l.rate, l.gauges, l.time)
	}
	l.phase = strings.TrimSpace(l.phase)
	for _, leave := range []func(){
		func() {},
		func() { l.rate = "" },
		func() { l.unit = "" },
		func() { l.phase = "" },
		func() { l.gauges = "" },
		func() { l.count = strings.ReplaceAll(l.count, ",", "") },
	} {
		leave()
		s := strings.TrimLeft(l.phase+" "+l.count+l.unit+l.rate+l.gauges+l.time, " ")
		if utf8.RuneCountInString(s) <= columns {
			return s
		}
	}
	return string([]rune(l.count + l.time)[:max(columns, 0)])
}
