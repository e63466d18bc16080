package reproduce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
)

// AllDevices asks for every device of the kind of a backend's first.
const AllDevices = "all"

// Devices are those that words separated by commas ask for, of those that a backend
// has: names ("cuda:1"), kinds ("cuda", "cpu") or AllDevices. Nothing asks for the
// first.
func Devices(d backend.Description, asked string) ([]backend.Device, error) {
	if asked == "" {
		return d.Devices[:1], nil
	}
	var devices []backend.Device
	for word := range strings.SplitSeq(asked, ",") {
		word = strings.TrimSpace(word)
		var found []backend.Device
		for _, v := range d.Devices {
			if v.Name == word || v.Kind == word || word == AllDevices && v.Kind == d.Devices[0].Kind {
				found = append(found, v)
			}
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("backend %s has no device %q here; it has %s", d.Name, word, DeviceNames(d.Devices))
		}
		for _, v := range found {
			if slices.ContainsFunc(devices, func(o backend.Device) bool { return o.Name == v.Name }) {
				return nil, fmt.Errorf("device %s is asked for twice in %q; --jobs-per-device trains several runs on one", v.Name, asked)
			}
			devices = append(devices, v)
		}
	}
	return devices, nil
}

// DeviceNames lists devices for people.
func DeviceNames(devices []backend.Device) string {
	var names []string
	for _, v := range devices {
		names = append(names, v.Name)
	}
	return strings.Join(names, ", ")
}

// Slots gives every run that is trained at once its device, in turn, and says how
// many threads of the cores it has. jobs of all devices, jobs per device and threads
// are 0 where they are not given: then a GPU has one run, and the processor what
// Share says for networks of that width.
func Slots(devices []backend.Device, jobs, perDevice, threads, cores, width int) ([]backend.Device, int) {
	if jobs <= 0 && perDevice > 0 {
		jobs = perDevice * len(devices)
	}
	if jobs <= 0 && (len(devices) > 1 || devices[0].Kind != "cpu") {
		jobs = len(devices)
	}
	jobs, threads = Share(jobs, threads, cores, width)
	slots := make([]backend.Device, jobs)
	for i := range slots {
		slots[i] = devices[i%len(devices)]
	}
	return slots, threads
}

// mostLosses is how often in a row a device may be lost before it is left out.
const mostLosses = 3

// pool knows how the devices do on which runs are trained.
type pool struct {
	meter   progress.Meter
	giveUp  context.CancelCauseFunc // when no device is left
	leftOut func([]backend.Device)

	mu      sync.Mutex
	devices []*device
	runs    map[*Node]loss
}

// loss is what is to be known of a run that lost its device.
type loss struct {
	times int
	told  float64 // see once
}

// device is shared by the slots on it.
type device struct {
	backend.Device // the zero one stands for whatever the backend has first
	pool           *pool
	// incidents are the losses and crashes so far; row those since something last came
	// of the device. What ends several processes at once is one of them, and so are
	// crashes of the run that crashed last, which may be its fault.
	incidents, row int
	last           *Node
}

func newPool(o *TrainOptions, meter progress.Meter, giveUp context.CancelCauseFunc) (p *pool, bySlot []*device) {
	p = &pool{meter: meter, giveUp: giveUp, leftOut: o.LeftOut, runs: map[*Node]loss{}}
	for _, s := range o.Slots {
		i := slices.IndexFunc(p.devices, func(d *device) bool { return d.Name == s.Name })
		if i < 0 {
			i = len(p.devices)
			p.devices = append(p.devices, &device{Device: s, pool: p})
		}
		bySlot = append(bySlot, p.devices[i])
	}
	return p, bySlot
}

// out reports whether the device has been left out.
func (d *device) out() bool {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	return d.row >= mostLosses
}

// seen is how often the device has been lost so far: what a process that starts now
// has not seen.
func (d *device) seen() int {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	return d.incidents
}

// works notes that something has come of the device.
func (d *device) works() {
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	d.row, d.last = 0, nil
}

// in is the device among those that a process has. Where devices have an identity
// their names may have moved up since another one was lost.
func (d *device) in(description backend.Description) (backend.Device, error) {
	for _, v := range description.Devices {
		switch {
		case d.Name == "", d.ID != "" && v.ID == d.ID, d.ID == "" && v.Name == d.Name:
			return v, nil
		}
	}
	return backend.Device{}, fmt.Errorf("%s is not there any more, backend %s has %s: %w",
		d.Device.Name, description.Name, DeviceNames(description.Devices), backend.ErrDeviceLost)
}

// blamed reports whether a run that failed by an error had better go on on another
// device: always where this one was lost, and where the backend failed if there is
// another one.
func (d *device) blamed(err error) bool {
	return deviceLost(err) || backendFailed(err) && len(d.pool.devices) > 1
}

// loss notes that a run lost the device, or the backend on it, by an error, in a process that had seen so many
// incidents, after it had told so much of its work. The result says how the run goes on: an error that is store.ErrBusy puts
// it back for whichever device is free, and any other is final.
func (d *device) loss(ctx context.Context, n *Node, err error, seen, restarts int, told float64) error {
	p := d.pool
	p.mu.Lock()
	if seen == d.incidents {
		d.incidents++
		if deviceLost(err) || d.last != n {
			d.row++
		}
		d.last = n
	}
	lost := p.runs[n].times + 1
	p.runs[n] = loss{lost, told}
	row := d.row
	var left []backend.Device
	for _, o := range p.devices {
		if o.row < mostLosses {
			left = append(left, o.Device)
		}
	}
	if row == mostLosses && len(left) > 0 && p.leftOut != nil {
		p.leftOut(left)
	}
	p.mu.Unlock()

	name := d.Name
	if name == "" {
		name = "the backend's device"
	}
	often := fmt.Sprintf("was lost %d times in a row", row)
	if !deviceLost(err) {
		often = fmt.Sprintf("failed %d runs in a row", row)
	}
	id := n.Run.ID
	p.meter.Event("device", map[string]any{"device": d.Name, "id": id, "in_a_row": row, "left_out": row >= mostLosses})
	switch {
	case len(left) == 0:
		err = fmt.Errorf("%s: no device is left to train on: %s %s, lastly by this: %w", id, name, often, err)
		p.giveUp(err)
		return err
	case row == mostLosses:
		p.meter.Printf("%s: %v\n%s %s and is left out; training goes on on %s", id, err, name, often, DeviceNames(left))
	case lost > restarts:
		return fmt.Errorf("it failed on devices %d times, lastly on %s: %w", lost, name, err)
	default:
		p.meter.Printf("%s: %v\n%s: going on from the last checkpoint on a device that is free", id, err, id)
	}
	// Others get the run first, and a driver a moment to recover.
	select {
	case <-time.After(time.Duration(row) * 2 * retry):
	case <-ctx.Done():
	}
	return &lostDevice{err}
}

// losses is how often a run lost its device.
func (p *pool) losses(n *Node) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[n].times
}

// told is how much of a run's work the meter knows of already.
func (p *pool) told(n *Node) float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.runs[n].told
}

// lostDevice is the loss of a device that a run survives: for now it is nobody's.
type lostDevice struct{ error }

func (e *lostDevice) Is(target error) bool { return target == store.ErrBusy }

func deviceLost(err error) bool { return errors.Is(err, backend.ErrDeviceLost) }
