package standin

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/ptx"
)

// loaded keeps modules by their text, since tests load one many times.
var loaded sync.Map

func load(text string) (*ptx.Module, error) {
	if m, ok := loaded.Load(text); ok {
		return m.(*ptx.Module), nil
	}
	m, err := ptx.Load(text)
	if err == nil {
		loaded.Store(text, m)
	}
	return m, err
}

func (d *Driver) moduleLoad(h *driver.Module, image unsafe.Pointer, n uint32, options *driver.JITOption, values *unsafe.Pointer) driver.Result {
	c, r, unlock := d.here("cuModuleLoadDataEx")
	defer unlock()
	if r != driver.Success {
		return r
	}
	var log []byte
	if n > 0 {
		buffer, size := unsafe.Pointer(nil), uintptr(0)
		for i, o := range unsafe.Slice(options, n) {
			switch o {
			case driver.JITErrorLogBuffer:
				buffer = unsafe.Slice(values, n)[i]
			case driver.JITErrorLogBufferSize: // a number where a pointer should be, which no variable may hold as one
				size = unsafe.Slice((*uintptr)(unsafe.Pointer(values)), n)[i]
			default:
				d.misuse("cuModuleLoadDataEx: the stand-in does not know option %d", o)
				return driver.InvalidValue
			}
		}
		if buffer != nil {
			log = unsafe.Slice((*byte)(buffer), size)
		}
	}
	m, err := load(driver.Text((*byte)(image)))
	if err != nil {
		if len(log) > 0 {
			log[copy(log[:len(log)-1], err.Error())] = 0
		}
		d.misuse("cuModuleLoadDataEx: %w", err)
		return driver.InvalidPTX
	}
	// A driver for CUDA 11.n knows PTX up to 7.n, one for 12.n or 13.n up to 8 or 9.
	var major, minor, sm int
	fmt.Sscanf(m.Version, "%d.%d", &major, &minor)
	fmt.Sscanf(strings.TrimPrefix(m.Target, "sm_"), "%d", &sm)
	if cuda := d.o.Version / 1000; major > cuda-4 || major == cuda-4 && cuda == 11 && minor > d.o.Version%1000/10 {
		return unsupportedPTX
	}
	if sm > 10*d.o.Major+d.o.Minor {
		return noBinary
	}
	*h = driver.Module(d.handle())
	d.modules[*h] = &module{context: c, module: m}
	return r
}

// module is the module of a handle in the current context.
func (d *Driver) module(name string, c *context, h driver.Module) (*module, driver.Result) {
	m := d.modules[h]
	if m == nil || m.context != c {
		d.misuse("%s of module %#x, which is none of this context, or was unloaded", name, h)
		return nil, driver.InvalidHandle
	}
	return m, driver.Success
}

// moduleUnload waits for the device first: kernels of the module may still run.
func (d *Driver) moduleUnload(h driver.Module) driver.Result {
	c, r, unlock := d.here("cuModuleUnload")
	defer unlock()
	if r == driver.Success {
		_, r = d.module("cuModuleUnload", c, h)
	}
	if r == driver.Success {
		r = d.drain(c)
		delete(d.modules, h)
	}
	return r
}

func (d *Driver) moduleGetFunction(f *driver.Function, h driver.Module, name *byte) driver.Result {
	c, r, unlock := d.here("cuModuleGetFunction")
	defer unlock()
	if r != driver.Success {
		return r
	}
	m, r := d.module("cuModuleGetFunction", c, h)
	if r != driver.Success {
		return r
	}
	k := m.module.Kernel(driver.Text(name))
	if k == nil {
		return driver.NotFound
	}
	*f = driver.Function(d.handle())
	d.funcs[*f] = &function{module: h, kernel: k}
	return r
}

// What extra of cuLaunchKernel holds: keys and values, up to a zero.
const (
	paramEnd     = 0
	paramPointer = 1
	paramSize    = 2
)

func (d *Driver) launch(h driver.Function, gx, gy, gz, bx, by, bz, shared uint32, sh driver.Stream, params, extra *unsafe.Pointer) driver.Result {
	const name = "cuLaunchKernel"
	s, r, unlock := d.stream(name, sh)
	defer unlock()
	if r != driver.Success {
		return r
	}
	f := d.funcs[h]
	if f == nil || d.modules[f.module] == nil || d.modules[f.module].context != s.context {
		d.misuse("%s of function %#x, which is none of this context, or whose module was unloaded", name, h)
		return driver.InvalidHandle
	}
	k := f.kernel
	buffer := make([]byte, k.ParamBytes())
	switch {
	case params != nil && extra != nil:
		d.misuse("%s of %s: parameters in two ways", name, k.Name)
		return driver.InvalidValue
	case extra != nil:
		given, err := paramBuffer(extra)
		if err == nil && len(given) != len(buffer) {
			err = fmt.Errorf("%d bytes of parameters, it has %d", len(given), len(buffer))
		}
		if err != nil {
			d.misuse("%s of %s: %w", name, k.Name, err)
			return driver.InvalidValue
		}
		copy(buffer, given)
	case len(k.Params) > 0 && params == nil:
		d.misuse("%s of %s without parameters", name, k.Name)
		return driver.InvalidValue
	default:
		for i, p := range k.Params {
			v := unsafe.Slice(params, len(k.Params))[i]
			if v == nil {
				d.misuse("%s of %s: parameter %d is a null pointer", name, k.Name, i)
				return driver.InvalidValue
			}
			copy(buffer[p.Offset:p.Offset+p.Bytes], unsafe.Slice((*byte)(v), p.Bytes))
		}
	}
	l := ptx.Launch{Grid: ptx.Dim{X: int(gx), Y: int(gy), Z: int(gz)}, Threads: ptx.Dim{X: int(bx), Y: int(by), Z: int(bz)},
		Shared: int(shared), Params: buffer, NoRaces: d.o.NoRaces}
	if err := l.Check(k); err != nil {
		d.misuse("%s of %s: %w", name, k.Name, err)
		return driver.InvalidValue
	}
	d.stats.Launches[k.Name]++
	if d.o.Count {
		if d.counts[k.Name] == nil {
			d.counts[k.Name] = new(ptx.Counts)
		}
		l.Counts = d.counts[k.Name]
	}
	return d.enqueue(s, name, func(m *ptx.Memory) error { return m.Launch(k, l) })
}

// paramBuffer reads extra. Its keys are numbers where pointers should be, which no variable
// may hold as pointers.
func paramBuffer(extra *unsafe.Pointer) ([]byte, error) {
	var buffer *byte
	size := uintptr(0)
	for i := 0; ; i += 2 {
		switch key := unsafe.Slice((*uintptr)(unsafe.Pointer(extra)), i+1)[i]; key {
		case paramEnd:
			return unsafe.Slice(buffer, size), nil
		case paramPointer:
			buffer = (*byte)(unsafe.Slice(extra, i+2)[i+1])
		case paramSize:
			size = *(*uintptr)(unsafe.Slice(extra, i+2)[i+1])
		default:
			return nil, fmt.Errorf("extra has the key %d", key)
		}
	}
}
