// Package progresstest has a progress.Meter for tests, which remembers what it
// was told.
package progresstest

import (
	"fmt"
	"sync"
)

// Recorder remembers. Its zero value is ready; its fields are to be read when the
// work is over.
type Recorder struct {
	Phases   []Phase
	Messages []string
	Events   []Event
	Gauges   []Gauge // every value that there was, in order

	// OnAdd, where it is set, is called after every Add, one call at a time, with
	// the phase so far.
	OnAdd func(Phase)
	// OnEvent likewise, after every Event.
	OnEvent func(Event)

	mu sync.Mutex
}

// Phase is one phase of the work.
type Phase struct {
	Name, Unit           string
	Total, Done, Skipped float64 // units; Done does not count Skipped
	Ended                bool
}

// Gauge is a value of something that changes.
type Gauge struct {
	Name  string
	Value float64
}

// Event is what machines were told.
type Event struct {
	Name   string
	Fields map[string]any
}

// Begin starts a phase.
func (r *Recorder) Begin(phase, unit string, total float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
	r.Phases = append(r.Phases, Phase{Name: phase, Unit: unit, Total: total})
}

// Add counts work done.
func (r *Recorder) Add(n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.last()
	p.Done += n
	if r.OnAdd != nil {
		r.OnAdd(*p)
	}
}

// Skip counts work that need not be done.
func (r *Recorder) Skip(n float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last().Skipped += n
}

// Gauge keeps a value.
func (r *Recorder) Gauge(name string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Gauges = append(r.Gauges, Gauge{name, value})
}

// End ends the phase.
func (r *Recorder) End() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end()
}

// Printf keeps a message.
func (r *Recorder) Printf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Messages = append(r.Messages, fmt.Sprintf(format, args...))
}

// Event keeps an event.
func (r *Recorder) Event(name string, fields map[string]any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := Event{name, fields}
	r.Events = append(r.Events, e)
	if r.OnEvent != nil {
		r.OnEvent(e)
	}
}

// last is the phase that work belongs to; work outside any makes one without a name.
func (r *Recorder) last() *Phase {
	if len(r.Phases) == 0 {
		r.Phases = append(r.Phases, Phase{})
	}
	return &r.Phases[len(r.Phases)-1]
}

func (r *Recorder) end() {
	if n := len(r.Phases); n > 0 {
		r.Phases[n-1].Ended = true
	}
}
