// Package gpu runs kernels on an NVIDIA GPU through its driver: one primary context,
// one stream, memory, and copies through pinned memory.
//
// A context belongs to threads, so a Device has one of its own, and everything but
// Open, Close and Run is to be called on it, in a function that Run is given. What is
// launched and copied is queued on the stream and runs in that order; Sync waits for
// it. So memory that is given back may be lent again at once.
//
// Errors are driver.Error; after one that driver.Lost reports the process must end.
package gpu

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
)

// Info describes a GPU.
type Info struct {
	Ordinal    int
	Name       string
	Capability [2]int // compute capability, major and minor
	Processors int    // multiprocessors
	Memory     int64  // bytes
	CUDA       int    // the driver's CUDA version, 1000·major + 10·minor
	UUID       string // "GPU-…", as nvidia-smi prints it
}

// Least is the least CUDA version of a driver that takes the kernels: PTX ISA 7.8.
const Least = 11080

// List initialises the driver and describes the GPUs that it shows.
func List(api *driver.API) ([]Info, error) {
	if err := api.Check(api.Init(0), "initialising the driver"); err != nil {
		return nil, err
	}
	var version, count int32
	if err := api.Check(api.DriverGetVersion(&version), "asking for the driver's version"); err != nil {
		return nil, err
	}
	if version < Least {
		return nil, fmt.Errorf("the driver is for CUDA %d.%d, %d.%d is needed", version/1000, version%1000/10, Least/1000, Least%1000/10)
	}
	if err := api.Check(api.DeviceGetCount(&count), "counting GPUs"); err != nil {
		return nil, err
	}
	var gpus []Info
	for i := range int(count) {
		g, err := describe(api, i)
		if err != nil {
			return nil, fmt.Errorf("GPU %d: %w", i, err)
		}
		g.CUDA = int(version)
		gpus = append(gpus, g)
	}
	return gpus, nil
}

func describe(api *driver.API, ordinal int) (Info, error) {
	g := Info{Ordinal: ordinal}
	var d driver.Device
	if err := api.Check(api.DeviceGet(&d, int32(ordinal)), "opening it"); err != nil {
		return g, err
	}
	name := make([]byte, 256)
	if err := api.Check(api.DeviceGetName(&name[0], int32(len(name)), d), "asking for its name"); err != nil {
		return g, err
	}
	g.Name, _, _ = strings.Cut(string(name), "\x00")
	for _, a := range []struct {
		attribute driver.Attribute
		to        *int
	}{{driver.ComputeCapabilityMajor, &g.Capability[0]}, {driver.ComputeCapabilityMinor, &g.Capability[1]}, {driver.MultiprocessorCount, &g.Processors}} {
		var v int32
		if err := api.Check(api.DeviceGetAttribute(&v, a.attribute, d), "asking for attribute %d", a.attribute); err != nil {
			return g, err
		}
		*a.to = int(v)
	}
	var bytes uintptr
	if err := api.Check(api.DeviceTotalMem(&bytes, d), "asking for its memory"); err != nil {
		return g, err
	}
	g.Memory = int64(bytes)
	var u [16]byte
	if err := api.Check(api.DeviceGetUuid(&u, d), "asking for its UUID"); err != nil {
		return g, err
	}
	g.UUID = fmt.Sprintf("GPU-%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	return g, nil
}

// Device is a GPU in use.
type Device struct {
	api       *driver.API
	work      chan func()
	device    driver.Device
	retained  bool
	module    driver.Module
	stream    driver.Stream
	functions map[string]driver.Function

	allocated map[driver.Pointer]int64 // bytes
	scratch   driver.Pointer
	scratched int64

	pinned    []byte // where copies pass through
	used      int
	downloads []download // whose data lie in pinned after the next Sync

	log [4096]byte // what the driver says of the kernels

	// A launch's parameters, where the driver reads them. These and the log are told to it
	// by number, so they must not lie on a stack, which moves.
	parameters [256]byte
	size       uintptr
	extra      [5]uintptr
}

type download struct{ to, from []byte }

// staging is how much pinned memory copies pass through: larger ones in parts.
const staging = 32 << 20

// Open loads the kernels, PTX, on a GPU.
func Open(api *driver.API, ordinal int, ptx string) (*Device, error) {
	d := &Device{api: api, work: make(chan func()), functions: map[string]driver.Function{}, allocated: map[driver.Pointer]int64{}}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the device
		for f := range d.work {
			f()
		}
	}()
	if err := d.Run(func() error { return d.open(ordinal, ptx) }); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func (d *Device) open(ordinal int, ptx string) error {
	a := d.api
	var context driver.Context
	if err := a.Check(a.DeviceGet(&d.device, int32(ordinal)), "opening GPU %d", ordinal); err != nil {
		return err
	}
	if err := a.Check(a.DevicePrimaryCtxRetain(&context, d.device), "retaining the context of GPU %d", ordinal); err != nil {
		return err
	}
	d.retained = true
	if err := a.Check(a.CtxSetCurrent(context), "making the context current"); err != nil {
		return err
	}
	if err := a.Check(a.StreamCreate(&d.stream, driver.StreamNonBlocking), "creating a stream"); err != nil {
		return err
	}
	image := append([]byte(ptx), 0)
	options := []driver.JITOption{driver.JITErrorLogBuffer, driver.JITErrorLogBufferSize}
	values := []uintptr{uintptr(unsafe.Pointer(&d.log[0])), uintptr(len(d.log))}
	r := a.ModuleLoadDataEx(&d.module, unsafe.Pointer(&image[0]), uint32(len(options)), &options[0], (*unsafe.Pointer)(unsafe.Pointer(&values[0])))
	if err := a.Check(r, "loading the kernels"); err != nil {
		said, _, _ := strings.Cut(string(d.log[:]), "\x00")
		return errors.Join(err, trimmed(said))
	}
	return nil
}

func trimmed(said string) error {
	if said = strings.TrimSpace(said); said == "" {
		return nil
	}
	return errors.New(said)
}

// Run calls f on the device's thread.
func (d *Device) Run(f func() error) (err error) {
	done := make(chan struct{})
	d.work <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// Close gives everything back to the driver and ends the thread. It is the last call.
func (d *Device) Close() error {
	err := d.Run(func() error {
		a := d.api
		var errs []error
		check := func(r driver.Result, format string, args ...any) {
			errs = append(errs, a.Check(r, format, args...))
		}
		if d.stream != 0 {
			check(a.StreamSynchronize(d.stream), "waiting for the GPU")
		}
		for p := range d.allocated {
			check(a.MemFree(p), "freeing memory")
		}
		if d.pinned != nil {
			check(a.MemFreeHost(unsafe.Pointer(&d.pinned[0])), "freeing pinned memory")
		}
		if d.module != 0 {
			check(a.ModuleUnload(d.module), "unloading the kernels")
		}
		if d.stream != 0 {
			check(a.StreamDestroy(d.stream), "destroying the stream")
		}
		if d.retained {
			check(a.CtxSetCurrent(0), "leaving the context")
			check(a.DevicePrimaryCtxRelease(d.device), "releasing the context")
		}
		return errors.Join(errs...)
	})
	close(d.work)
	return err
}

// Allocate returns device memory of unspecified content.
func (d *Device) Allocate(bytes int64) (driver.Pointer, error) {
	var p driver.Pointer
	if err := d.api.Check(d.api.MemAlloc(&p, uintptr(max(bytes, 4))), "allocating %d bytes", bytes); err != nil {
		return 0, err
	}
	d.allocated[p] = bytes
	return p, nil
}

// Free gives memory back to the driver, once what is queued has run.
func (d *Device) Free(p driver.Pointer) error {
	if err := d.Sync(); err != nil {
		return err
	}
	delete(d.allocated, p)
	return d.api.Check(d.api.MemFree(p), "freeing memory")
}

// Allocated is how many bytes have been allocated, scratch memory included.
func (d *Device) Allocated() (bytes int64) {
	for _, n := range d.allocated {
		bytes += n
	}
	return bytes
}

// Scratch returns device memory of unspecified content that is the caller's until it
// is asked for again.
func (d *Device) Scratch(bytes int64) (driver.Pointer, error) {
	if bytes <= d.scratched {
		return d.scratch, nil
	}
	if d.scratched > 0 {
		if err := d.Free(d.scratch); err != nil {
			return 0, err
		}
		d.scratched = 0
	}
	p, err := d.Allocate(bytes)
	if err == nil {
		d.scratch, d.scratched = p, bytes
	}
	return p, err
}

// Sync waits for everything that is queued. Then downloads are where they go.
func (d *Device) Sync() error {
	if err := d.api.Check(d.api.StreamSynchronize(d.stream), "waiting for the GPU"); err != nil {
		return err
	}
	for _, l := range d.downloads {
		copy(l.to, l.from)
	}
	d.downloads, d.used = d.downloads[:0], 0
	return nil
}

// part returns some pinned memory, at most n bytes.
func (d *Device) part(n int) ([]byte, error) {
	if d.pinned == nil {
		var p unsafe.Pointer
		if err := d.api.Check(d.api.MemHostAlloc(&p, staging, 0), "allocating %d bytes of pinned memory", staging); err != nil {
			return nil, err
		}
		d.pinned = unsafe.Slice((*byte)(p), staging)
	}
	if d.used == len(d.pinned) {
		if err := d.Sync(); err != nil {
			return nil, err
		}
	}
	n = min(n, len(d.pinned)-d.used)
	part := d.pinned[d.used:][:n]
	d.used = min(len(d.pinned), (d.used+n+255)/256*256)
	return part, nil
}

// Upload queues a copy to the device; from may change at once.
func (d *Device) Upload(to driver.Pointer, from []byte) error {
	for len(from) > 0 {
		part, err := d.part(len(from))
		if err != nil {
			return err
		}
		copy(part, from)
		if err := d.api.Check(d.api.MemcpyHtoDAsync(to, unsafe.Pointer(&part[0]), uintptr(len(part)), d.stream), "copying %d bytes to the GPU", len(part)); err != nil {
			return err
		}
		from, to = from[len(part):], to+driver.Pointer(len(part))
	}
	return nil
}

// Download queues a copy from the device; to is filled by the next Sync.
func (d *Device) Download(to []byte, from driver.Pointer) error {
	for len(to) > 0 {
		part, err := d.part(len(to))
		if err != nil {
			return err
		}
		if err := d.api.Check(d.api.MemcpyDtoHAsync(unsafe.Pointer(&part[0]), from, uintptr(len(part)), d.stream), "copying %d bytes from the GPU", len(part)); err != nil {
			return err
		}
		d.downloads = append(d.downloads, download{to[:len(part)], part})
		to, from = to[len(part):], from+driver.Pointer(len(part))
	}
	return nil
}

// Bytes are the bytes of numbers, where they lie.
func Bytes[T float32 | float64 | int32 | uint8](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), len(v)*int(unsafe.Sizeof(v[0])))
}

// Launch queues a kernel. Parameters are driver.Pointer, int (of 32 bits), float32 or
// float64, as the kernel declares them.
func (d *Device) Launch(kernel string, blocks, threads int, parameters ...any) error {
	f, ok := d.functions[kernel]
	if !ok {
		name := append([]byte(kernel), 0)
		if err := d.api.Check(d.api.ModuleGetFunction(&f, d.module, &name[0]), "looking kernel %s up", kernel); err != nil {
			return err
		}
		d.functions[kernel] = f
	}
	if blocks < 1 || blocks > math.MaxInt32 {
		return fmt.Errorf("kernel %s: %d blocks", kernel, blocks)
	}
	b := d.parameters[:0]
	for _, p := range parameters {
		switch p := p.(type) {
		case driver.Pointer:
			b = binary.LittleEndian.AppendUint64(aligned(b, 8), uint64(p))
		case int:
			if p != int(int32(p)) {
				return fmt.Errorf("kernel %s: parameter %d is beyond 32 bits", kernel, p)
			}
			b = binary.LittleEndian.AppendUint32(b, uint32(p))
		case float32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(p))
		case float64:
			b = binary.LittleEndian.AppendUint64(aligned(b, 8), math.Float64bits(p))
		default:
			return fmt.Errorf("kernel %s: a parameter of type %T", kernel, p)
		}
	}
	if len(b) > len(d.parameters) {
		return fmt.Errorf("kernel %s: %d bytes of parameters", kernel, len(b))
	}
	const pointer, size = 1, 2 // CU_LAUNCH_PARAM_BUFFER_…
	d.size = uintptr(len(b))
	d.extra = [5]uintptr{pointer, uintptr(unsafe.Pointer(&d.parameters[0])), size, uintptr(unsafe.Pointer(&d.size)), 0}
	r := d.api.LaunchKernel(f, uint32(blocks), 1, 1, uint32(threads), 1, 1, 0, d.stream, nil, (*unsafe.Pointer)(unsafe.Pointer(&d.extra[0])))
	runtime.KeepAlive(d)
	return d.api.Check(r, "launching %s", kernel)
}

func aligned(b []byte, n int) []byte {
	for len(b)%n != 0 {
		b = append(b, 0)
	}
	return b
}
