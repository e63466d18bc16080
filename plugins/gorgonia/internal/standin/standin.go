package standin

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

// Options are what a stand-in is. The zero value is one device as of NVIDIA's data
// centres, whose misuse panics.
type Options struct {
	Devices      int    // 0 is one, -1 none
	Name         string // of the devices
	Memory       int64  // bytes of each; 0 is 80 GiB, of which no more is taken than is used
	Version      int    // of CUDA, as 11080; 0 is that
	Major, Minor int    // compute capability; 0.0 is 8.0
	NoRaces      bool   // leaves the search for races out, which takes half of the time
	Count        bool   // counts what kernels execute
	// Misuse is told what no correct program does. nil panics.
	Misuse func(error)
	// Before, if not nil, is asked before every call of a function; the call fails with
	// what it returns, unless that is Success.
	Before func(call string) driver.Result
}

// Stats is what was asked of the stand-in so far.
type Stats struct {
	Launches             map[string]int // by kernel
	Waits                int            // for streams, events and contexts
	Pageable             int            // copies between the device and memory that is not pinned
	ToDevice, FromDevice int64          // bytes
	Most                 int64          // bytes of device memory at the same time, of all devices
}

// Driver is the stand-in of a process.
type Driver struct {
	o       Options
	mu      sync.Mutex
	ready   bool // initialised
	devices []*device
	current map[int]*context // by thread
	next    uintptr          // handle
	streams map[driver.Stream]*stream
	events  map[driver.Event]*event
	modules map[driver.Module]*module
	funcs   map[driver.Function]*function
	pinned  map[unsafe.Pointer]*host
	stats   Stats
	counts  map[string]*ptx.Counts
	broken  []error
}

type device struct {
	number  int
	context *context // the primary one, nil while nobody retains it
}

type context struct {
	handle  driver.Context
	device  *device
	holders int
	memory  *ptx.Memory
	plain   *stream // stream 0
	lost    driver.Result
	fault   error
}

type module struct {
	context *context
	module  *ptx.Module
}

type function struct {
	module driver.Module
	kernel *ptx.Kernel
}

// host is pinned memory.
type host struct {
	context *context
	data    []uint64
	bytes   int
	pending int // copies under way
}

// New returns a stand-in.
func New(o Options) *Driver {
	switch {
	case o.Devices == 0:
		o.Devices = 1
	case o.Devices < 0:
		o.Devices = 0
	}
	if o.Name == "" {
		o.Name = "Stand-in for a GPU"
	}
	if o.Memory == 0 {
		o.Memory = 80 << 30
	}
	if o.Version == 0 {
		o.Version = 11080
	}
	if o.Major == 0 && o.Minor == 0 {
		o.Major = 8
	}
	d := &Driver{o: o, current: map[int]*context{}, next: 0x1000, streams: map[driver.Stream]*stream{}, events: map[driver.Event]*event{},
		modules: map[driver.Module]*module{}, funcs: map[driver.Function]*function{}, pinned: map[unsafe.Pointer]*host{},
		stats: Stats{Launches: map[string]int{}}, counts: map[string]*ptx.Counts{}}
	for i := range o.Devices {
		d.devices = append(d.devices, &device{number: i})
	}
	return d
}

// Stats returns what was asked so far.
func (d *Driver) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Launches = maps.Clone(s.Launches)
	return s
}

// Counts returns what kernels have executed so far, by name, if Options.Count is set.
func (d *Driver) Counts() map[string]*ptx.Counts {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.counts)
}

// Close tells what is left of contexts that nobody released.
func (d *Driver) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, v := range d.devices {
		if v.context != nil {
			d.misuse("the primary context of device %d was retained %d times more than released", v.number, v.context.holders)
		}
	}
	if len(d.broken) > 0 {
		return fmt.Errorf("stand-in for the CUDA driver: %w", d.broken[0])
	}
	return nil
}

// misuse notes what no correct program does.
func (d *Driver) misuse(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	d.broken = append(d.broken, err)
	if d.o.Misuse == nil {
		panic("stand-in for the CUDA driver: " + err.Error())
	}
	d.o.Misuse(err)
}

// call is the beginning of every function: it takes the lock, which the returned
// function gives back, and says with which error the function has to end at once.
func (d *Driver) call(name string) (driver.Result, func()) {
	d.mu.Lock()
	if d.o.Before != nil {
		if r := d.o.Before(name); r != driver.Success {
			if r.Lost() {
				for _, v := range d.devices {
					if v.context != nil {
						v.context.lost = r
					}
				}
			}
			return r, d.mu.Unlock
		}
	}
	if !d.ready && name != "cuInit" && name != "cuDriverGetVersion" && !strings.HasPrefix(name, "cuGetError") {
		d.misuse("%s before cuInit", name)
		return driver.NotInitialized, d.mu.Unlock
	}
	return driver.Success, d.mu.Unlock
}

// here is call for functions that need the thread's context, which they get.
func (d *Driver) here(name string) (*context, driver.Result, func()) {
	r, unlock := d.call(name)
	if r != driver.Success {
		return nil, r, unlock
	}
	c := d.current[thread()]
	if c == nil || c.device.context != c {
		d.misuse("%s on a thread without a current context", name)
		return nil, driver.InvalidContext, unlock
	}
	return c, c.lost, unlock
}

func (d *Driver) handle() uintptr {
	d.next += 16
	return d.next
}

func (d *Driver) device(name string, v driver.Device) (*device, driver.Result) {
	if v < 0 || int(v) >= len(d.devices) {
		d.misuse("%s: there is no device %d", name, v)
		return nil, driver.InvalidDevice
	}
	return d.devices[v], driver.Success
}

// API returns the table of functions.
func (d *Driver) API() *driver.API {
	return &driver.API{
		Init: func(flags uint32) driver.Result {
			r, unlock := d.call("cuInit")
			defer unlock()
			if r != driver.Success {
				return r
			}
			if flags != 0 {
				d.misuse("cuInit with flags %d", flags)
				return driver.InvalidValue
			}
			if len(d.devices) == 0 {
				return driver.NoDevice
			}
			d.ready = true
			return r
		},
		DriverGetVersion: func(version *int32) driver.Result {
			r, unlock := d.call("cuDriverGetVersion")
			defer unlock()
			*version = int32(d.o.Version)
			return r
		},
		GetErrorName:   func(r driver.Result, text **byte) driver.Result { return errorText(r, text, 0) },
		GetErrorString: func(r driver.Result, text **byte) driver.Result { return errorText(r, text, 1) },
		DeviceGetCount: func(count *int32) driver.Result {
			r, unlock := d.call("cuDeviceGetCount")
			defer unlock()
			*count = int32(len(d.devices))
			return r
		},
		DeviceGet: func(v *driver.Device, ordinal int32) driver.Result {
			r, unlock := d.call("cuDeviceGet")
			defer unlock()
			if r == driver.Success {
				_, r = d.device("cuDeviceGet", driver.Device(ordinal))
			}
			*v = driver.Device(ordinal)
			return r
		},
		DeviceGetName: func(name *byte, size int32, v driver.Device) driver.Result {
			r, unlock := d.call("cuDeviceGetName")
			defer unlock()
			if r == driver.Success {
				_, r = d.device("cuDeviceGetName", v)
			}
			if r == driver.Success && size < 1 {
				r = driver.InvalidValue
			}
			if r == driver.Success {
				b := unsafe.Slice(name, size)
				n := copy(b[:size-1], d.o.Name)
				b[n] = 0
			}
			return r
		},
		DeviceGetAttribute: func(value *int32, a driver.Attribute, v driver.Device) driver.Result {
			r, unlock := d.call("cuDeviceGetAttribute")
			defer unlock()
			if r == driver.Success {
				_, r = d.device("cuDeviceGetAttribute", v)
			}
			switch {
			case r != driver.Success:
			case a == driver.MultiprocessorCount:
				*value = 108
			case a == driver.ComputeCapabilityMajor:
				*value = int32(d.o.Major)
			case a == driver.ComputeCapabilityMinor:
				*value = int32(d.o.Minor)
			default:
				d.misuse("cuDeviceGetAttribute: the stand-in does not know attribute %d", a)
				r = driver.InvalidValue
			}
			return r
		},
		DeviceTotalMem: func(bytes *uintptr, v driver.Device) driver.Result {
			r, unlock := d.call("cuDeviceTotalMem")
			defer unlock()
			if r == driver.Success {
				_, r = d.device("cuDeviceTotalMem", v)
			}
			*bytes = uintptr(d.o.Memory)
			return r
		},
		DeviceGetUuid: func(uuid *[16]byte, v driver.Device) driver.Result {
			r, unlock := d.call("cuDeviceGetUuid")
			defer unlock()
			if r == driver.Success {
				_, r = d.device("cuDeviceGetUuid", v)
			}
			*uuid = [16]byte{0: 0xca, 15: byte(v)}
			return r
		},
		DevicePrimaryCtxRetain:  d.retain,
		DevicePrimaryCtxRelease: d.release,
		CtxSetCurrent: func(h driver.Context) driver.Result {
			r, unlock := d.call("cuCtxSetCurrent")
			defer unlock()
			if r != driver.Success {
				return r
			}
			if h == 0 {
				delete(d.current, thread())
				return r
			}
			for _, v := range d.devices {
				if v.context != nil && v.context.handle == h {
					d.current[thread()] = v.context
					return r
				}
			}
			d.misuse("cuCtxSetCurrent of %#x, which is no context, or was released", h)
			return driver.InvalidContext
		},
		CtxSynchronize: func() driver.Result {
			c, r, unlock := d.here("cuCtxSynchronize")
			defer unlock()
			if r == driver.Success {
				d.stats.Waits++
				r = d.drain(c)
			}
			return r
		},
		MemGetInfo: func(free, total *uintptr) driver.Result {
			c, r, unlock := d.here("cuMemGetInfo")
			defer unlock()
			if r == driver.Success {
				*total = uintptr(d.o.Memory)
				*free = *total - uintptr(c.memory.Bytes())
			}
			return r
		},
		MemAlloc:          d.alloc,
		MemFree:           d.free,
		MemHostAlloc:      d.allocHost,
		MemFreeHost:       d.freeHost,
		MemcpyHtoDAsync:   d.toDevice,
		MemcpyDtoHAsync:   d.fromDevice,
		MemcpyDtoDAsync:   d.onDevice,
		MemsetD32Async:    d.fill,
		StreamCreate:      d.streamCreate,
		StreamSynchronize: d.streamSynchronize,
		StreamWaitEvent:   d.streamWaitEvent,
		StreamDestroy:     d.streamDestroy,
		EventCreate:       d.eventCreate,
		EventRecord:       d.eventRecord,
		EventQuery:        d.eventQuery,
		EventSynchronize:  d.eventSynchronize,
		EventElapsedTime:  d.eventElapsedTime,
		EventDestroy:      d.eventDestroy,
		ModuleLoadDataEx:  d.moduleLoad,
		ModuleUnload:      d.moduleUnload,
		ModuleGetFunction: d.moduleGetFunction,
		LaunchKernel:      d.launch,
	}
}

// texts are names and descriptions of results.
var texts = map[driver.Result][2]string{
	driver.Success:            {"CUDA_SUCCESS", "no error"},
	driver.InvalidValue:       {"CUDA_ERROR_INVALID_VALUE", "invalid argument"},
	driver.OutOfMemory:        {"CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
	driver.NotInitialized:     {"CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
	driver.NoDevice:           {"CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
	driver.InvalidDevice:      {"CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
	driver.InvalidImage:       {"CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
	driver.InvalidContext:     {"CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
	noBinary:                  {"CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
	214:                       {"CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
	driver.InvalidPTX:         {"CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
	unsupportedPTX:            {"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
	driver.InvalidHandle:      {"CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
	driver.NotFound:           {"CUDA_ERROR_NOT_FOUND", "named symbol not found"},
	driver.NotReady:           {"CUDA_ERROR_NOT_READY", "device not ready"},
	driver.IllegalAddress:     {"CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
	driver.LaunchOutResources: {"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
	misaligned:                {"CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
	driver.LaunchFailed:       {"CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
	999:                       {"CUDA_ERROR_UNKNOWN", "unknown error"},
}

const (
	noBinary       driver.Result = 209
	unsupportedPTX driver.Result = 222
	misaligned     driver.Result = 716
)

func errorText(r driver.Result, text **byte, which int) driver.Result {
	t, ok := texts[r]
	if !ok {
		*text = nil
		return driver.InvalidValue
	}
	*text = &append([]byte(t[which]), 0)[0]
	return driver.Success
}

func (d *Driver) retain(h *driver.Context, v driver.Device) driver.Result {
	r, unlock := d.call("cuDevicePrimaryCtxRetain")
	defer unlock()
	if r != driver.Success {
		return r
	}
	dev, r := d.device("cuDevicePrimaryCtxRetain", v)
	if r != driver.Success {
		return r
	}
	if dev.context == nil {
		c := &context{handle: driver.Context(d.handle()), device: dev, memory: ptx.NewMemory()}
		c.plain = &stream{context: c}
		dev.context = c
	}
	dev.context.holders++
	*h = dev.context.handle
	return dev.context.lost
}

// release gives a context up. The last who does so must have emptied it: the driver would
// do that itself, and hide who forgot.
func (d *Driver) release(v driver.Device) driver.Result {
	r, unlock := d.call("cuDevicePrimaryCtxRelease")
	defer unlock()
	if r != driver.Success && !r.Lost() {
		return r
	}
	dev, r := d.device("cuDevicePrimaryCtxRelease", v)
	if r != driver.Success {
		return r
	}
	c := dev.context
	if c == nil {
		d.misuse("cuDevicePrimaryCtxRelease of a context that nobody retains")
		return driver.InvalidContext
	}
	if c.holders--; c.holders > 0 {
		return driver.Success
	}
	d.drain(c)
	if c.lost == driver.Success { // of a lost context nothing can be freed
		var left []string
		add := func(n int, what string) {
			if n > 0 {
				left = append(left, fmt.Sprintf("%d %s", n, what))
			}
		}
		add(c.memory.Allocations(), fmt.Sprintf("allocations of device memory, %d bytes", c.memory.Bytes()))
		add(owned(d.streams, func(s *stream) bool { return s.context == c }), "streams")
		add(owned(d.events, func(e *event) bool { return e.context == c }), "events")
		add(owned(d.modules, func(m *module) bool { return m.context == c }), "modules")
		add(owned(d.pinned, func(h *host) bool { return h.context == c }), "allocations of pinned memory")
		if len(left) > 0 {
			d.misuse("the last release of the context of device %d leaves %s", v, strings.Join(left, ", "))
		}
	}
	maps.DeleteFunc(d.streams, func(_ driver.Stream, s *stream) bool { return s.context == c })
	maps.DeleteFunc(d.events, func(_ driver.Event, e *event) bool { return e.context == c })
	maps.DeleteFunc(d.modules, func(_ driver.Module, m *module) bool { return m.context == c })
	maps.DeleteFunc(d.pinned, func(_ unsafe.Pointer, h *host) bool { return h.context == c })
	dev.context = nil
	return driver.Success
}

// owned counts the values that belong to something.
func owned[K comparable, V any](m map[K]V, to func(V) bool) (n int) {
	for _, v := range m {
		if to(v) {
			n++
		}
	}
	return n
}
