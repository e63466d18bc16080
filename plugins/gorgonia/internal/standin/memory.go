package standin

import (
	"bytes"
	"fmt"
	"math"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

func (d *Driver) alloc(p *driver.Pointer, n uintptr) driver.Result {
	c, r, unlock := d.here("cuMemAlloc")
	defer unlock()
	switch {
	case r != driver.Success:
	case n == 0:
		d.misuse("cuMemAlloc of no bytes")
		r = driver.InvalidValue
	case uint64(n) > uint64(d.o.Memory) || int64(c.memory.Bytes()) > d.o.Memory-int64(n):
		r = driver.OutOfMemory
	default:
		*p = driver.Pointer(c.memory.Alloc(int(n)))
		var all int64
		for _, v := range d.devices {
			if v.context != nil {
				all += int64(v.context.memory.Bytes())
			}
		}
		d.stats.Most = max(d.stats.Most, all)
	}
	return r
}

// free waits for the device first, as the driver does.
func (d *Driver) free(p driver.Pointer) driver.Result {
	c, r, unlock := d.here("cuMemFree")
	defer unlock()
	if r == driver.Success {
		r = d.drain(c)
	}
	if r == driver.Success {
		if err := c.memory.Free(uint64(p)); err != nil {
			d.misuse("cuMemFree: %w", err)
			r = driver.InvalidValue
		}
	}
	return r
}

func (d *Driver) allocHost(p *unsafe.Pointer, n uintptr, flags uint32) driver.Result {
	c, r, unlock := d.here("cuMemHostAlloc")
	defer unlock()
	switch {
	case r != driver.Success:
	case n == 0 || n > 1<<40 || flags&^7 != 0:
		d.misuse("cuMemHostAlloc of %d bytes, flags %d", n, flags)
		r = driver.InvalidValue
	default:
		h := &host{context: c, data: make([]uint64, (n+7)/8), bytes: int(n)}
		for i := range h.data {
			h.data[i] = math.MaxUint64 // NaNs
		}
		*p = unsafe.Pointer(&h.data[0])
		d.pinned[*p] = h
	}
	return r
}

func (d *Driver) freeHost(p unsafe.Pointer) driver.Result {
	_, r, unlock := d.here("cuMemFreeHost")
	defer unlock()
	if r != driver.Success {
		return r
	}
	h := d.pinned[p]
	if h == nil {
		d.misuse("cuMemFreeHost of %p, which cuMemHostAlloc did not return, or which was freed", p)
		return driver.InvalidValue
	}
	if h.pending > 0 {
		d.misuse("cuMemFreeHost while %d copies of the memory are under way", h.pending)
		return driver.InvalidValue
	}
	delete(d.pinned, p)
	return r
}

// pinnedBy returns the pinned memory that holds n bytes from p on, or nil for memory that
// is not pinned; no bytes reach over the end of pinned memory.
func (d *Driver) pinnedBy(name string, p unsafe.Pointer, n uintptr) (*host, driver.Result) {
	for base, h := range d.pinned {
		if at := uintptr(p) - uintptr(base); at < uintptr(h.bytes) {
			if n > uintptr(h.bytes)-at {
				d.misuse("%s: %d bytes from byte %d on of pinned memory that has %d", name, n, at, h.bytes)
				return nil, driver.InvalidValue
			}
			return h, driver.Success
		}
	}
	return nil, driver.Success
}

// poison is what a destination on the host holds while a copy is under way.
const poison = 0xA5

func (d *Driver) toDevice(to driver.Pointer, from unsafe.Pointer, n uintptr, s driver.Stream) driver.Result {
	const name = "cuMemcpyHtoDAsync"
	st, r, unlock := d.stream(name, s)
	defer unlock()
	if r != driver.Success || n == 0 {
		return r
	}
	h, r := d.pinnedBy(name, from, n)
	if r != driver.Success {
		return r
	}
	d.stats.ToDevice += int64(n)
	source := unsafe.Slice((*byte)(from), n)
	data := bytes.Clone(source)
	if h == nil {
		d.stats.Pageable++
	} else {
		h.pending++
	}
	return d.enqueue(st, name, func(m *ptx.Memory) error {
		if h != nil {
			h.pending--
			if !bytes.Equal(source, data) {
				d.misuse("%s: the source was changed while the copy was under way", name)
			}
		}
		return m.Write(uint64(to), data)
	})
}

func (d *Driver) fromDevice(to unsafe.Pointer, from driver.Pointer, n uintptr, s driver.Stream) driver.Result {
	const name = "cuMemcpyDtoHAsync"
	st, r, unlock := d.stream(name, s)
	defer unlock()
	if r != driver.Success || n == 0 {
		return r
	}
	h, r := d.pinnedBy(name, to, n)
	if r != driver.Success {
		return r
	}
	d.stats.FromDevice += int64(n)
	target := unsafe.Slice((*byte)(to), n)
	for i := range target {
		target[i] = poison
	}
	if h != nil {
		h.pending++
	}
	r = d.enqueue(st, name, func(m *ptx.Memory) error {
		if h != nil {
			h.pending--
		}
		for i, v := range target {
			if v != poison {
				return fmt.Errorf("byte %d of the destination was changed while the copy was under way", i)
			}
		}
		return m.Read(target, uint64(from))
	})
	if h == nil && r == driver.Success { // the driver waits where memory is not pinned
		d.stats.Pageable++
		r = d.finish(st)
	}
	return r
}

func (d *Driver) onDevice(to, from driver.Pointer, n uintptr, s driver.Stream) driver.Result {
	const name = "cuMemcpyDtoDAsync"
	st, r, unlock := d.stream(name, s)
	defer unlock()
	if r != driver.Success || n == 0 {
		return r
	}
	return d.enqueue(st, name, func(m *ptx.Memory) error { return m.Copy(uint64(to), uint64(from), int(n)) })
}

func (d *Driver) fill(to driver.Pointer, value uint32, n uintptr, s driver.Stream) driver.Result {
	const name = "cuMemsetD32Async"
	st, r, unlock := d.stream(name, s)
	defer unlock()
	if r != driver.Success || n == 0 {
		return r
	}
	return d.enqueue(st, name, func(m *ptx.Memory) error { return m.Fill(uint64(to), value, int(n)) })
}
