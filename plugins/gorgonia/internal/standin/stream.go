package standin

import (
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

// stream is work that is done in order, once somebody waits for it.
type stream struct {
	context *context
	alone   bool // does not wait for stream 0, nor it for this one
	work    []work
}

// work is a copy, a launch, a record of an event or a wait for one.
type work struct {
	name string
	do   func(*ptx.Memory) error
	mark *mark // recorded here
	wait *mark // waited for
}

// mark is a place in a stream's work.
type mark struct {
	stream *stream
	done   bool
}

type event struct {
	context *context
	timed   bool
	last    *mark // nil before it was recorded
	asked   *mark // by a query
}

// stream is here, and the stream of a handle, which must belong to the context.
func (d *Driver) stream(name string, h driver.Stream) (*stream, driver.Result, func()) {
	c, r, unlock := d.here(name)
	if r != driver.Success {
		return nil, r, unlock
	}
	if h == 0 {
		return c.plain, r, unlock
	}
	s := d.streams[h]
	switch {
	case s == nil:
		d.misuse("%s on stream %#x, which is none, or was destroyed", name, h)
		r = driver.InvalidHandle
	case s.context != c:
		d.misuse("%s on a stream of another context", name)
		r = driver.InvalidContext
	}
	return s, r, unlock
}

// enqueue adds work. Work on stream 0 comes after all that other streams have, and before all
// that they get.
func (d *Driver) enqueue(s *stream, name string, do func(*ptx.Memory) error) driver.Result {
	return d.add(s, work{name: name, do: do})
}

func (d *Driver) add(s *stream, w work) driver.Result {
	c := s.context
	if s == c.plain {
		for _, o := range d.streams {
			if o.context == c && !o.alone {
				if r := d.finish(o); r != driver.Success {
					return r
				}
			}
		}
	} else if !s.alone {
		if r := d.finish(c.plain); r != driver.Success {
			return r
		}
	}
	s.work = append(s.work, w)
	return driver.Success
}

// finish does a stream's work.
func (d *Driver) finish(s *stream) driver.Result { return d.until(s, nil) }

// until does a stream's work up to a mark, or all of it.
func (d *Driver) until(s *stream, m *mark) driver.Result {
	c := s.context
	for len(s.work) > 0 && (m == nil || !m.done) {
		if c.lost != driver.Success {
			return c.lost
		}
		w := s.work[0]
		s.work = s.work[1:]
		switch {
		case w.mark != nil:
			w.mark.done = true
		case w.wait != nil:
			if r := d.until(w.wait.stream, w.wait); r != driver.Success {
				return r
			}
		default:
			if err := w.do(c.memory); err != nil {
				c.lost, c.fault = sticky(err), err
				d.misuse("%s: %w", w.name, err)
			}
		}
	}
	return c.lost
}

// sticky is the error that a device's fault comes to.
func sticky(err error) driver.Result {
	var f *ptx.Fault
	switch {
	case errors.As(err, &f) && f.Kind == ptx.Alignment:
		return misaligned
	case errors.As(err, &f) && f.Kind != ptx.Bounds:
		return driver.LaunchFailed
	}
	return driver.IllegalAddress
}

// drain does all of a context's work.
func (d *Driver) drain(c *context) driver.Result {
	d.finish(c.plain)
	for _, s := range d.streams {
		if s.context == c {
			d.finish(s)
		}
	}
	return c.lost
}

func (d *Driver) streamCreate(h *driver.Stream, flags uint32) driver.Result {
	c, r, unlock := d.here("cuStreamCreate")
	defer unlock()
	if r != driver.Success {
		return r
	}
	if flags&^driver.StreamNonBlocking != 0 {
		d.misuse("cuStreamCreate with flags %d", flags)
		return driver.InvalidValue
	}
	*h = driver.Stream(d.handle())
	d.streams[*h] = &stream{context: c, alone: flags != 0}
	return r
}

func (d *Driver) streamSynchronize(h driver.Stream) driver.Result {
	s, r, unlock := d.stream("cuStreamSynchronize", h)
	defer unlock()
	if r == driver.Success {
		d.stats.Waits++
		r = d.finish(s)
	}
	return r
}

func (d *Driver) streamDestroy(h driver.Stream) driver.Result {
	s, r, unlock := d.stream("cuStreamDestroy", h)
	defer unlock()
	if r != driver.Success {
		return r
	}
	if h == 0 {
		d.misuse("cuStreamDestroy of stream 0")
		return driver.InvalidHandle
	}
	r = d.finish(s)
	delete(d.streams, h)
	return r
}

func (d *Driver) event(name string, h driver.Event) (*event, driver.Result, func()) {
	c, r, unlock := d.here(name)
	if r != driver.Success {
		return nil, r, unlock
	}
	e := d.events[h]
	switch {
	case e == nil:
		d.misuse("%s of event %#x, which is none, or was destroyed", name, h)
		r = driver.InvalidHandle
	case e.context != c:
		d.misuse("%s of an event of another context", name)
		r = driver.InvalidContext
	}
	return e, r, unlock
}

func (d *Driver) eventCreate(h *driver.Event, flags uint32) driver.Result {
	c, r, unlock := d.here("cuEventCreate")
	defer unlock()
	if r != driver.Success {
		return r
	}
	if flags&^7 != 0 {
		d.misuse("cuEventCreate with flags %d", flags)
		return driver.InvalidValue
	}
	*h = driver.Event(d.handle())
	d.events[*h] = &event{context: c, timed: flags&driver.EventDisableTiming == 0}
	return r
}

func (d *Driver) eventRecord(h driver.Event, sh driver.Stream) driver.Result {
	e, r, unlock := d.event("cuEventRecord", h)
	defer unlock()
	if r != driver.Success {
		return r
	}
	s := e.context.plain
	if sh != 0 {
		if s = d.streams[sh]; s == nil || s.context != e.context {
			d.misuse("cuEventRecord on stream %#x, which is none of this context", sh)
			return driver.InvalidHandle
		}
	}
	e.last = &mark{stream: s}
	return d.add(s, work{name: "cuEventRecord", mark: e.last})
}

func (d *Driver) streamWaitEvent(sh driver.Stream, h driver.Event, flags uint32) driver.Result {
	e, r, unlock := d.event("cuStreamWaitEvent", h)
	defer unlock()
	if r != driver.Success {
		return r
	}
	s := e.context.plain
	if sh != 0 {
		if s = d.streams[sh]; s == nil || s.context != e.context {
			d.misuse("cuStreamWaitEvent on stream %#x, which is none of this context", sh)
			return driver.InvalidHandle
		}
	}
	if flags != 0 {
		d.misuse("cuStreamWaitEvent with flags %d", flags)
		return driver.InvalidValue
	}
	if e.last == nil {
		return r
	}
	return d.add(s, work{name: "cuStreamWaitEvent", wait: e.last})
}

// eventQuery says once that the event has not come yet, and then lets it come: so who asks
// in a loop is served, and who asks once is not flattered.
func (d *Driver) eventQuery(h driver.Event) driver.Result {
	e, r, unlock := d.event("cuEventQuery", h)
	defer unlock()
	if r != driver.Success || e.last == nil || e.last.done {
		return r
	}
	if e.asked != e.last {
		e.asked = e.last
		return driver.NotReady
	}
	return d.until(e.last.stream, e.last)
}

func (d *Driver) eventSynchronize(h driver.Event) driver.Result {
	e, r, unlock := d.event("cuEventSynchronize", h)
	defer unlock()
	if r == driver.Success {
		d.stats.Waits++
		if e.last != nil {
			r = d.until(e.last.stream, e.last)
		}
	}
	return r
}

// eventElapsedTime says a thousandth of a millisecond: the stand-in takes no time that would
// tell anything.
func (d *Driver) eventElapsedTime(ms *float32, from, to driver.Event) driver.Result {
	a, r, unlock := d.event("cuEventElapsedTime", from)
	defer unlock()
	if r != driver.Success {
		return r
	}
	b := d.events[to]
	switch {
	case b == nil || !a.timed || !b.timed || a.last == nil || b.last == nil:
		d.misuse("cuEventElapsedTime of an event that was not recorded, or keeps no time")
		return driver.InvalidHandle
	case !a.last.done || !b.last.done:
		return driver.NotReady
	}
	*ms = 0.001
	return r
}

func (d *Driver) eventDestroy(h driver.Event) driver.Result {
	_, r, unlock := d.event("cuEventDestroy", h)
	defer unlock()
	if r == driver.Success {
		delete(d.events, h)
	}
	return r
}

// Fault is what a kernel did to a device that is lost, or nil.
func (d *Driver) Fault() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.devices {
		if v.context != nil && v.context.fault != nil {
			return fmt.Errorf("device %d: %w", v.number, v.context.fault)
		}
	}
	return nil
}
