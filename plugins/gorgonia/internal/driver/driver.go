package driver

import (
	"errors"
	"fmt"
	"unsafe"
)

// The driver's handles. A zero Stream is the default stream.
type (
	Result   int32 // CUresult
	Device   int32 // CUdevice
	Context  uintptr
	Module   uintptr
	Function uintptr
	Stream   uintptr
	Event    uintptr
	Pointer  uint64 // CUdeviceptr, an address in a device's memory
)

// API is the table of the driver's functions. The tag is the symbol in the library.
// What points to memory must stay alive and, for the asynchronous copies, unchanged
// until the stream has been waited for.
type API struct {
	Init               func(flags uint32) Result                        `cu:"cuInit"`
	DriverGetVersion   func(version *int32) Result                      `cu:"cuDriverGetVersion"`
	GetErrorName       func(r Result, text **byte) Result               `cu:"cuGetErrorName"`
	GetErrorString     func(r Result, text **byte) Result               `cu:"cuGetErrorString"`
	DeviceGetCount     func(count *int32) Result                        `cu:"cuDeviceGetCount"`
	DeviceGet          func(d *Device, ordinal int32) Result            `cu:"cuDeviceGet"`
	DeviceGetName      func(name *byte, size int32, d Device) Result    `cu:"cuDeviceGetName"`
	DeviceGetAttribute func(value *int32, a Attribute, d Device) Result `cu:"cuDeviceGetAttribute"`
	DeviceTotalMem     func(bytes *uintptr, d Device) Result            `cu:"cuDeviceTotalMem_v2"`
	DeviceGetUuid      func(uuid *[16]byte, d Device) Result            `cu:"cuDeviceGetUuid_v2"`

	DevicePrimaryCtxRetain  func(c *Context, d Device) Result `cu:"cuDevicePrimaryCtxRetain"`
	DevicePrimaryCtxRelease func(d Device) Result             `cu:"cuDevicePrimaryCtxRelease_v2"`
	CtxSetCurrent           func(c Context) Result            `cu:"cuCtxSetCurrent"` // of the calling thread
	CtxSynchronize          func() Result                     `cu:"cuCtxSynchronize"`

	MemGetInfo      func(free, total *uintptr) Result                                     `cu:"cuMemGetInfo_v2"`
	MemAlloc        func(p *Pointer, bytes uintptr) Result                                `cu:"cuMemAlloc_v2"`
	MemFree         func(p Pointer) Result                                                `cu:"cuMemFree_v2"`
	MemHostAlloc    func(p *unsafe.Pointer, bytes uintptr, flags uint32) Result           `cu:"cuMemHostAlloc"` // pinned
	MemFreeHost     func(p unsafe.Pointer) Result                                         `cu:"cuMemFreeHost"`
	MemcpyHtoDAsync func(to Pointer, from unsafe.Pointer, bytes uintptr, s Stream) Result `cu:"cuMemcpyHtoDAsync_v2"`
	MemcpyDtoHAsync func(to unsafe.Pointer, from Pointer, bytes uintptr, s Stream) Result `cu:"cuMemcpyDtoHAsync_v2"`
	MemcpyDtoDAsync func(to, from Pointer, bytes uintptr, s Stream) Result                `cu:"cuMemcpyDtoDAsync_v2"`
	MemsetD32Async  func(to Pointer, value uint32, words uintptr, s Stream) Result        `cu:"cuMemsetD32Async"`

	StreamCreate      func(s *Stream, flags uint32) Result         `cu:"cuStreamCreate"`
	StreamSynchronize func(s Stream) Result                        `cu:"cuStreamSynchronize"`
	StreamWaitEvent   func(s Stream, e Event, flags uint32) Result `cu:"cuStreamWaitEvent"`
	StreamDestroy     func(s Stream) Result                        `cu:"cuStreamDestroy_v2"`

	EventCreate      func(e *Event, flags uint32) Result        `cu:"cuEventCreate"`
	EventRecord      func(e Event, s Stream) Result             `cu:"cuEventRecord"`
	EventQuery       func(e Event) Result                       `cu:"cuEventQuery"`
	EventSynchronize func(e Event) Result                       `cu:"cuEventSynchronize"`
	EventElapsedTime func(ms *float32, start, end Event) Result `cu:"cuEventElapsedTime"`
	EventDestroy     func(e Event) Result                       `cu:"cuEventDestroy_v2"`

	// ModuleLoadDataEx takes PTX that ends in a zero byte, and n options, whose values
	// are put into the pointers themselves where they are numbers.
	ModuleLoadDataEx  func(m *Module, image unsafe.Pointer, n uint32, options *JITOption, values *unsafe.Pointer) Result `cu:"cuModuleLoadDataEx"`
	ModuleUnload      func(m Module) Result                                                                              `cu:"cuModuleUnload"`
	ModuleGetFunction func(f *Function, m Module, name *byte) Result                                                     `cu:"cuModuleGetFunction"`
	// LaunchKernel reads the parameters, one pointer each, before it returns.
	LaunchKernel func(f Function, gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes uint32, s Stream, params, extra *unsafe.Pointer) Result `cu:"cuLaunchKernel"`
}

// Attribute is a CUdevice_attribute.
type Attribute int32

const (
	MultiprocessorCount    Attribute = 16
	ComputeCapabilityMajor Attribute = 75
	ComputeCapabilityMinor Attribute = 76
)

// JITOption is a CUjit_option.
type JITOption int32

const (
	JITErrorLogBuffer     JITOption = 5 // its value is a buffer, which gets a text
	JITErrorLogBufferSize JITOption = 6 // in bytes
)

// Flags of functions.
const (
	StreamNonBlocking  = 1 // does not wait for the default stream
	EventDisableTiming = 2
)

// Results that callers tell apart.
const (
	Success            Result = 0
	InvalidValue       Result = 1
	OutOfMemory        Result = 2
	NotInitialized     Result = 3
	NoDevice           Result = 100
	InvalidDevice      Result = 101
	InvalidImage       Result = 200
	InvalidContext     Result = 201
	InvalidPTX         Result = 218
	InvalidHandle      Result = 400
	NotFound           Result = 500
	NotReady           Result = 600
	IllegalAddress     Result = 700
	LaunchOutResources Result = 701
	LaunchFailed       Result = 719
)

// ErrNoDriver says that the machine has no NVIDIA driver.
var ErrNoDriver = errors.New("there is no NVIDIA driver on this machine")

// Lost reports a result after which the context, or the device, can do nothing more:
// the process must end, and another one may go on.
func (r Result) Lost() bool {
	switch r {
	case 4, // deinitialised
		46,            // device unavailable
		214, 220, 226, // uncorrectable errors of memory and of NVLink
		700, 702, 709, 710, // illegal address, timeout, context destroyed, assertion
		714, 715, 716, 717, 718, 719, // the kernel's stack, instruction, alignment, address space, counter, launch
		807, 808, // the MPS server
		999: // unknown
		return true
	}
	return false
}

// Error is a call that failed.
type Error struct {
	Call   string // what was done, as "allocating 12 bytes"
	Result Result
	Text   string // the driver's own words
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: CUDA error %d: %s", e.Call, int32(e.Result), e.Text)
}

// Lost reports whether err says that a device is lost.
func Lost(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Result.Lost()
}

// Check turns the result of a call, described in the words of what was done, into an
// error or nil.
func (a *API) Check(r Result, format string, args ...any) error {
	if r == Success {
		return nil
	}
	e := &Error{Call: fmt.Sprintf(format, args...), Result: r, Text: "of no known name"}
	var name, text *byte
	if a.GetErrorName(r, &name) == Success && name != nil {
		e.Text = Text(name)
		if a.GetErrorString(r, &text) == Success && text != nil {
			e.Text += ": " + Text(text)
		}
	}
	return e
}

// Text reads a C string.
func Text(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
