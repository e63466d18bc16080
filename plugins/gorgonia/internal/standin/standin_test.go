package standin

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

// double doubles a float per thread, whatever there is.
const double = `.version 7.8
.target sm_60
.address_size 64
.visible .entry double(.param .u64 p, .param .u32 n)
{
	.reg .pred %p; .reg .f32 %f<2>; .reg .b32 %r<3>; .reg .b64 %rd<4>;
	ld.param.u64 %rd0, [p]; ld.param.u32 %r0, [n];
	mov.u32 %r1, %tid.x; setp.ge.u32 %p, %r1, %r0; @%p ret;
	mul.wide.u32 %rd1, %r1, 4; add.s64 %rd2, %rd0, %rd1;
	ld.global.f32 %f0, [%rd2]; add.rn.f32 %f0, %f0, %f0; st.global.f32 [%rd2], %f0;
}`

// bench is a stand-in whose misuse is collected.
type bench struct {
	*testing.T
	*driver.API
	d      *Driver
	misuse []string
}

func newBench(t *testing.T, o Options) *bench {
	runtime.LockOSThread()
	t.Cleanup(runtime.UnlockOSThread)
	b := &bench{T: t}
	o.Misuse = func(err error) { b.misuse = append(b.misuse, err.Error()) }
	b.d = New(o)
	b.API = b.d.API()
	return b
}

// ok requires success and no misuse.
func (b *bench) ok(r driver.Result) {
	b.Helper()
	if err := b.Check(r, "call"); err != nil || len(b.misuse) > 0 {
		b.Fatalf("%v, %q", err, b.misuse)
	}
}

// is requires a result and, unless it is "", that misuse of these words was told, alone.
func (b *bench) is(r, want driver.Result, says string) {
	b.Helper()
	told := strings.Join(b.misuse, "; ")
	if r != want || (says == "") != (told == "") || !strings.Contains(told, says) {
		b.Errorf("result %d, want %d; told %q, want %q", r, want, told, says)
	}
	b.misuse = nil
}

// open makes device 0's primary context current.
func (b *bench) open() {
	b.Helper()
	var d driver.Device
	var c driver.Context
	b.ok(b.Init(0))
	b.ok(b.DeviceGet(&d, 0))
	b.ok(b.DevicePrimaryCtxRetain(&c, d))
	b.ok(b.CtxSetCurrent(c))
}

func (b *bench) load(text string) driver.Function {
	b.Helper()
	image := append([]byte(text), 0)
	name := []byte("double\x00")
	var m driver.Module
	var f driver.Function
	b.ok(b.ModuleLoadDataEx(&m, unsafe.Pointer(&image[0]), 0, nil, nil))
	b.ok(b.ModuleGetFunction(&f, m, &name[0]))
	return f
}

func (b *bench) launch(f driver.Function, p driver.Pointer, n uint32, s driver.Stream) driver.Result {
	params := []unsafe.Pointer{unsafe.Pointer(&p), unsafe.Pointer(&n)}
	return b.LaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, &params[0], nil)
}

func (b *bench) hostFloats(n int) []float32 {
	b.Helper()
	var p unsafe.Pointer
	b.ok(b.MemHostAlloc(&p, uintptr(4*n), 0))
	return unsafe.Slice((*float32)(p), n)
}

// A program in order: nothing has happened before the stream is waited for, everything
// after, and nothing is left.
func TestInOrder(t *testing.T) {
	b := newBench(t, Options{Count: true})
	b.open()
	f := b.load(double)
	var s driver.Stream
	var p driver.Pointer
	b.ok(b.StreamCreate(&s, driver.StreamNonBlocking))
	b.ok(b.MemAlloc(&p, 4*40))
	in, out := b.hostFloats(40), b.hostFloats(40)
	for i := range in {
		in[i] = float32(i)
	}
	b.ok(b.MemcpyHtoDAsync(p, unsafe.Pointer(&in[0]), 160, s))
	b.ok(b.launch(f, p, 40, s))
	b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&out[0]), p, 160, s))
	for i, v := range out {
		if v == float32(2*i) {
			t.Fatalf("value %d is there before anybody waited", i)
		}
	}
	b.ok(b.StreamSynchronize(s))
	for i, v := range out {
		if v != float32(2*i) {
			t.Fatalf("value %d is %v", i, v)
		}
	}
	// The other way to pass parameters.
	buffer := make([]byte, 12)
	*(*driver.Pointer)(unsafe.Pointer(&buffer[0])) = p
	buffer[8] = 40
	size := uintptr(12)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&buffer[0])
	pin.Pin(&size)
	extra := [5]uintptr{paramPointer, uintptr(unsafe.Pointer(&buffer[0])), paramSize, uintptr(unsafe.Pointer(&size)), paramEnd}
	b.ok(b.LaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, nil, (*unsafe.Pointer)(unsafe.Pointer(&extra[0]))))
	size = 16
	b.is(b.LaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, s, nil, (*unsafe.Pointer)(unsafe.Pointer(&extra[0]))), driver.InvalidValue, "16 bytes of parameters, it has 12")
	b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&out[0]), p, 160, s))
	b.ok(b.StreamSynchronize(s))
	if out[3] != 12 {
		t.Errorf("%v", out)
	}
	if st := b.d.Stats(); st.Launches["double"] != 2 || st.Waits != 2 || st.Pageable != 0 || st.ToDevice != 160 || st.FromDevice != 320 || st.Most != 160 {
		t.Errorf("%+v", st)
	}
	if c := b.d.Counts()["double"]; c.Launches != 2 || c.Threads["add.rn.f32"] != 80 {
		t.Errorf("%+v", c)
	}
	// What is left is told.
	b.ok(b.MemFreeHost(unsafe.Pointer(&in[0])))
	b.is(b.DevicePrimaryCtxRelease(0), driver.Success, "leaves 1 allocations of device memory, 160 bytes, 1 streams, 1 modules, 1 allocations of pinned memory")
	if b.d.Close() == nil {
		t.Error("misuse was forgotten")
	}
}

// Every rule broken.
func TestMisuse(t *testing.T) {
	for name, broken := range map[string]func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, host []float32){
		"another thread": func(b *bench, _ driver.Function, _ driver.Stream, p driver.Pointer, _ []float32) {
			done := make(chan driver.Result)
			go func() {
				runtime.LockOSThread()
				var q driver.Pointer
				done <- b.MemAlloc(&q, 16)
			}()
			b.is(<-done, driver.InvalidContext, "without a current context")
		},
		"the source changes": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.MemcpyHtoDAsync(p, unsafe.Pointer(&host[0]), 160, s))
			host[3] = 7
			b.is(b.StreamSynchronize(s), driver.Success, "the source was changed")
		},
		"the destination changes": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&host[0]), p, 160, s))
			host[3] = 7
			b.is(b.StreamSynchronize(s), driver.IllegalAddress, "destination was changed")
		},
		"freed while a copy is under way": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.MemcpyHtoDAsync(p, unsafe.Pointer(&host[0]), 160, s))
			b.is(b.MemFreeHost(unsafe.Pointer(&host[0])), driver.InvalidValue, "1 copies")
		},
		"use after free": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			b.ok(b.MemFree(p))
			b.ok(b.launch(f, p, 4, s))
			b.is(b.StreamSynchronize(s), driver.IllegalAddress, "in no allocation")
			b.is(b.StreamSynchronize(s), driver.IllegalAddress, "") // it sticks
			if b.d.Fault() == nil {
				b.Error("no fault")
			}
		},
		"freed twice": func(b *bench, _ driver.Function, _ driver.Stream, p driver.Pointer, _ []float32) {
			b.ok(b.MemFree(p))
			b.is(b.MemFree(p), driver.InvalidValue, "no allocation begins")
		},
		"out of bounds": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			b.ok(b.launch(f, p, 41, s))
			b.is(b.CtxSynchronize(), driver.IllegalAddress, "thread (40,0,0)")
		},
		"misaligned": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			b.ok(b.launch(f, p+2, 4, s))
			b.is(b.CtxSynchronize(), misaligned, "misaligned")
		},
		"not written": func(b *bench, f driver.Function, s driver.Stream, _ driver.Pointer, host []float32) {
			var q driver.Pointer
			b.ok(b.MemAlloc(&q, 160))
			b.ok(b.launch(f, q, 4, s))
			b.is(b.CtxSynchronize(), driver.LaunchFailed, "not written")
		},
		"read before it is written": func(b *bench, _ driver.Function, s driver.Stream, _ driver.Pointer, host []float32) {
			var q driver.Pointer
			b.ok(b.MemAlloc(&q, 160))
			b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&host[0]), q, 160, s))
			b.is(b.StreamSynchronize(s), driver.IllegalAddress, "nobody has written")
		},
		"a copy too long": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.is(b.MemcpyHtoDAsync(p, unsafe.Pointer(&host[1]), 160, s), driver.InvalidValue, "from byte 4 on")
		},
		"a stream destroyed": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.StreamDestroy(s))
			b.is(b.MemsetD32Async(p, 0, 4, s), driver.InvalidHandle, "stream")
		},
		"a module unloaded": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.ModuleUnload(b.d.funcs[f].module))
			b.is(b.launch(f, p, 4, s), driver.InvalidHandle, "unloaded")
		},
		"too many threads": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			n := uint32(4)
			params := []unsafe.Pointer{unsafe.Pointer(&p), unsafe.Pointer(&n)}
			b.is(b.LaunchKernel(f, 1, 1, 1, 2048, 1, 1, 0, s, &params[0], nil), driver.InvalidValue, "threads")
		},
		"no parameters": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			b.is(b.LaunchKernel(f, 1, 1, 1, 4, 1, 1, 0, s, nil, nil), driver.InvalidValue, "without parameters")
		},
		"PTX that is none": func(b *bench, f driver.Function, s driver.Stream, p driver.Pointer, _ []float32) {
			image := []byte(strings.Replace(double, "add.rn.f32", "add.f32", 1) + "\x00")
			log := make([]byte, 200)
			options := []driver.JITOption{driver.JITErrorLogBuffer, driver.JITErrorLogBufferSize}
			values := [2]uintptr{uintptr(unsafe.Pointer(&log[0])), 200}
			var pin runtime.Pinner
			defer pin.Unpin()
			pin.Pin(&log[0])
			var m driver.Module
			r := b.ModuleLoadDataEx(&m, unsafe.Pointer(&image[0]), 2, &options[0], (*unsafe.Pointer)(unsafe.Pointer(&values[0])))
			b.is(r, driver.InvalidPTX, "line 10")
			if !strings.Contains(string(log), "line 10: add.f32") {
				b.Errorf("log %q", log)
			}
		},
		"released too often": func(b *bench, _ driver.Function, s driver.Stream, p driver.Pointer, host []float32) {
			b.ok(b.MemFree(p))
			b.ok(b.StreamDestroy(s))
			b.ok(b.MemFreeHost(unsafe.Pointer(&host[0])))
			for m := range b.d.modules {
				b.ok(b.ModuleUnload(m))
			}
			b.ok(b.DevicePrimaryCtxRelease(0))
			b.is(b.DevicePrimaryCtxRelease(0), driver.InvalidContext, "nobody retains")
			var q driver.Pointer
			b.is(b.MemAlloc(&q, 4), driver.InvalidContext, "without a current context")
		},
		"never released": func(b *bench, _ driver.Function, _ driver.Stream, _ driver.Pointer, _ []float32) {
			if err := b.d.Close(); err == nil || !strings.Contains(err.Error(), "retained 1 times more") {
				b.Errorf("%v", err)
			}
			b.misuse = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Options{})
			b.open()
			f := b.load(double)
			var s driver.Stream
			var p driver.Pointer
			b.ok(b.StreamCreate(&s, 0))
			b.ok(b.MemAlloc(&p, 160))
			b.ok(b.MemsetD32Async(p, 0, 40, s))
			b.ok(b.CtxSynchronize())
			broken(b, f, s, p, b.hostFloats(40))
		})
	}
}

// Before cuInit, without devices, with other drivers and devices.
func TestMachines(t *testing.T) {
	b := newBench(t, Options{})
	var n int32
	b.is(b.DeviceGetCount(&n), driver.NotInitialized, "before cuInit")
	b = newBench(t, Options{Devices: -1})
	b.is(b.Init(0), driver.NoDevice, "")

	b = newBench(t, Options{Devices: 2, Memory: 1000, Name: "Card", Major: 9, Minor: 0})
	b.open()
	b.ok(b.DeviceGetCount(&n))
	name := make([]byte, 5)
	b.ok(b.DeviceGetName(&name[0], 5, 1))
	if n != 2 || driver.Text(&name[0]) != "Card" {
		t.Errorf("%d devices, %q", n, name)
	}
	b.ok(b.DeviceGetAttribute(&n, driver.ComputeCapabilityMajor, 1))
	if n != 9 {
		t.Errorf("compute capability %d", n)
	}
	var d driver.Device
	b.is(b.DeviceGet(&d, 2), driver.InvalidDevice, "no device 2")
	var p driver.Pointer
	b.ok(b.MemAlloc(&p, 900))
	b.is(b.MemAlloc(&p, 101), driver.OutOfMemory, "")
	var free, total uintptr
	b.ok(b.MemGetInfo(&free, &total))
	if free != 100 || total != 1000 {
		t.Errorf("%d of %d bytes are free", free, total)
	}
	// Another device's context has not this one's memory.
	var c driver.Context
	b.ok(b.DevicePrimaryCtxRetain(&c, 1))
	b.ok(b.CtxSetCurrent(c))
	b.is(b.MemFree(p), driver.InvalidValue, "no allocation begins")

	for _, c := range []struct {
		o    Options
		want driver.Result
	}{{Options{Version: 11070}, unsupportedPTX}, {Options{Version: 11080}, driver.Success}, {Options{Version: 13000}, driver.Success}, {Options{Major: 5}, noBinary}} {
		b := newBench(t, c.o)
		b.open()
		image := []byte(double + "\x00")
		var m driver.Module
		b.is(b.ModuleLoadDataEx(&m, unsafe.Pointer(&image[0]), 0, nil, nil), c.want, "")
	}

	// A device that is lost at its third wait, and stays so.
	waits := 0
	b = newBench(t, Options{Before: func(call string) driver.Result {
		if call == "cuCtxSynchronize" {
			if waits++; waits == 3 {
				return 214
			}
		}
		return driver.Success
	}})
	b.open()
	b.ok(b.CtxSynchronize())
	b.ok(b.CtxSynchronize())
	err := b.Check(b.CtxSynchronize(), "waiting")
	if !driver.Lost(err) || !strings.Contains(err.Error(), "ECC") {
		t.Errorf("%v", err)
	}
	b.is(b.MemAlloc(&p, 4), 214, "")
	b.is(b.DevicePrimaryCtxRelease(0), driver.Success, "")
}

// Events order streams that would otherwise run as late as they may.
func TestEvents(t *testing.T) {
	b := newBench(t, Options{})
	b.open()
	f := b.load(double)
	var one, two driver.Stream
	var e, timed driver.Event
	var p driver.Pointer
	b.ok(b.StreamCreate(&one, driver.StreamNonBlocking))
	b.ok(b.StreamCreate(&two, driver.StreamNonBlocking))
	b.ok(b.EventCreate(&e, driver.EventDisableTiming))
	b.ok(b.EventCreate(&timed, 0))
	b.ok(b.MemAlloc(&p, 160))
	out := b.hostFloats(40)
	b.ok(b.MemsetD32Async(p, 0x3f800000, 40, one))
	b.ok(b.EventRecord(e, one))
	b.ok(b.launch(f, p, 40, one)) // behind the event: not waited for
	b.ok(b.StreamWaitEvent(two, e, 0))
	b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&out[0]), p, 160, two))
	b.ok(b.StreamSynchronize(two))
	if out[0] != 1 {
		t.Errorf("%v", out[0])
	}
	b.is(b.EventQuery(e), driver.Success, "")
	b.ok(b.EventRecord(timed, one))
	b.is(b.EventQuery(timed), driver.NotReady, "")
	b.is(b.EventQuery(timed), driver.Success, "")
	var ms float32
	b.is(b.EventElapsedTime(&ms, timed, timed), driver.Success, "")
	b.is(b.EventElapsedTime(&ms, e, timed), driver.InvalidHandle, "keeps no time")
	b.ok(b.EventDestroy(e))
	b.is(b.EventSynchronize(e), driver.InvalidHandle, "destroyed")

	// Without the event, the second stream does not see what the first has to do.
	var q driver.Pointer
	b.ok(b.MemAlloc(&q, 160))
	b.ok(b.MemsetD32Async(q, 1, 40, one))
	b.ok(b.MemcpyDtoHAsync(unsafe.Pointer(&out[0]), q, 160, two))
	b.is(b.StreamSynchronize(two), driver.IllegalAddress, "nobody has written")
}

// Misuse panics where nobody asks for it.
func TestPanics(t *testing.T) {
	defer func() {
		if v := recover(); v == nil {
			t.Error("no panic")
		}
	}()
	New(Options{}).API().DeviceGetCount(new(int32))
}

// A fault of a kernel can be taken apart.
func TestFaultType(t *testing.T) {
	var got error
	d := New(Options{Misuse: func(err error) { got = err }})
	b := &bench{T: t, API: d.API(), d: d}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	b.open()
	f := b.load(double)
	b.launch(f, 0, 1, 0)
	b.CtxSynchronize()
	var fault *ptx.Fault
	if !errors.As(got, &fault) || fault.Kernel != "double" || fault.Kind != ptx.Bounds {
		t.Errorf("%v", got)
	}
}
