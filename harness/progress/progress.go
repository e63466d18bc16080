// Package progress is how long work tells those who wait for it how far it is.
package progress

// Meter is told how far the work is, one phase after another, and what happens
// meanwhile. Its methods may be called concurrently.
type Meter interface {
	// Begin starts a phase of total units of work. It ends an earlier one.
	Begin(phase, unit string, total float64)
	// Add reports n more units that have been done.
	Add(n float64)
	// Skip reports n more units that need not be done: they were finished before,
	// or somewhere else.
	Skip(n float64)
	// Gauge reports the value of something that changes meanwhile, such as a loss, and
	// NaN that there is none any more. The end of the phase forgets it.
	Gauge(name string, value float64)
	// End finishes the phase.
	End()
	// Printf tells people something, in a line or several.
	Printf(format string, args ...any)
	// Event tells machines something. Its fields must encode as JSON.
	Event(name string, fields map[string]any)
}

// None is told everything and says nothing.
type None struct{}

func (None) Begin(string, string, float64) {}
func (None) Add(float64)                   {}
func (None) Skip(float64)                  {}
func (None) Gauge(string, float64)         {}
func (None) End()                          {}
func (None) Printf(string, ...any)         {}
func (None) Event(string, map[string]any)  {}

// Or is m, or None where there is no m.
func Or(m Meter) Meter {
	if m == nil {
		return None{}
	}
	return m
}
