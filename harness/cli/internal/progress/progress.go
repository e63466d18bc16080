// Package progress shows how far a long command has got: a bar with counts,
// rate and remaining time on a terminal, occasional plain lines elsewhere, or
// one JSON object per line for machines.
package progress

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Style of output.
type Style int

const (
	Lines Style = iota // plain lines, at most one every few seconds
	Bar                // a line that is redrawn, for terminals
	JSON               // one object per line
)

// Detect chooses Bar for a terminal and Lines for anything else.
func Detect(f *os.File) Style {
	if term.IsTerminal(int(f.Fd())) {
		return Bar
	}
	return Lines
}

// Printer writes the progress of one phase after another. Its methods may be
// called concurrently; a nil Printer says nothing.
type Printer struct {
	mu    sync.Mutex
	w     io.Writer
	style Style
	now   func() time.Time

	phase, unit string
	done, total float64
	skip        float64 // of done, found finished at the start
	start, last time.Time
	open        bool
}

// New returns a printer that writes to w.
func New(w io.Writer, s Style) *Printer {
	return &Printer{w: w, style: s, now: time.Now}
}

// Begin starts a phase of total units of work, of which already are finished.
// An unfinished earlier phase is ended.
func (p *Printer) Begin(phase, unit string, total, already float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.end()
	p.phase, p.unit, p.total, p.done, p.skip = phase, unit, total, already, already
	p.start = p.now()
	p.last = p.start
	p.open = true
	if p.style == Bar {
		p.draw()
	}
}

// Add reports n more units of the phase.
func (p *Printer) Add(n float64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	interval := 5 * time.Second
	if p.style == Bar {
		interval = 100 * time.Millisecond
	} else if p.style == JSON {
		interval = time.Second
	}
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
	}
}

// Printf writes a line of text between the progress.
func (p *Printer) Printf(format string, args ...any) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	if p.style == JSON {
		p.object(map[string]any{"event": "message", "text": text})
		return
	}
	if p.style == Bar && p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
	fmt.Fprintln(p.w, text)
	if p.style == Bar && p.open {
		p.draw()
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
	elapsed := p.now().Sub(p.start).Seconds()
	rate := 0.0
	if elapsed > 0 {
		rate = (p.done - p.skip) / elapsed
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
		p.object(o)
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-11s", p.phase)
	if p.style == Bar {
		const width = 24
		n := 0
		if p.total > 0 {
			n = min(width, int(width*p.done/p.total))
		}
		fmt.Fprintf(&b, " [%s%s]", strings.Repeat("#", n), strings.Repeat(".", width-n))
	}
	fmt.Fprintf(&b, " %.0f/%.0f %s", p.done, p.total, p.unit)
	if rate > 0 {
		fmt.Fprintf(&b, ", %s/s", three(rate))
	}
	switch {
	case !p.open:
		fmt.Fprintf(&b, ", took %s", Duration(elapsed))
	case eta >= 0:
		fmt.Fprintf(&b, ", %s left", Duration(eta))
	}
	if p.style == Bar {
		fmt.Fprintf(p.w, "\r\x1b[K%s", b.String())
		return
	}
	fmt.Fprintln(p.w, b.String())
}

// three formats a rate with about three significant digits.
func three(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// Duration formats seconds for people: "9 s", "3 min 20 s", "5 h 10 min",
// "12 days".
func Duration(seconds float64) string {
	s := int64(seconds + 0.5)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d days", s/86400)
}
