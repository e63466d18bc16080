//go:build cuda

package gorgonia

import (
	_ "embed"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"unsafe"

	"gorgonia.org/cu"
	cudnn "gorgonia.org/cu/dnn"
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	_ "github.com/refocus-em/refocus/plugins/gorgonia/internal/probe" // before cu
)

//go:embed cuda/kernels.ptx
var kernelsPTX string

// kernelNames are the entry points of kernels.ptx.
var kernelNames = []string{"add", "relu", "relu_input", "upsample", "upsample_input", "copy_rows",
	"max_pool", "max_pool_input", "cross_entropy", "cross_entropy_input", "adam", "blend"}

const threadsPerBlock = 256

// here lists the devices, once.
var here = sync.OnceValue(func() platform {
	p := platform{
		kind:        "cuda",
		numerics:    "cuda",
		determinism: backend.DeterminismNone, // see conv.run
		note:        "CUDA: exercised against a stand-in library, not yet run on a GPU",
		open:        openDevice,
	}
	n, err := cu.NumDevices()
	if err != nil || n == 0 {
		p.note = fmt.Sprintf("CUDA: the driver finds %d devices (%v)", n, err)
		return p
	}
	for i := range n {
		info := "unknown"
		if d, err := cu.GetDevice(i); err == nil {
			name, _ := d.Name()
			major, minor, _ := d.ComputeCapability()
			info = fmt.Sprintf("%s, compute capability %d.%d, driver for CUDA %d.%d", name, major, minor, cu.Version()/1000, cu.Version()%1000/10)
		}
		p.devices = append(p.devices, backend.Device{Name: fmt.Sprintf("cuda:%d", i), Kind: "cuda", Info: info})
	}
	return p
})

// device is one CUDA context with its libraries, used by one network. CUDA
// contexts belong to threads, so everything runs on the device's own.
type device struct {
	context cu.CUContext
	dnn     *cudnn.Context
	module  cu.Module
	kernels map[string]cu.Function
	work    chan func()

	free map[int64][]cu.DevicePtr // by bytes
	live map[cu.DevicePtr]*deviceLoan
	last *deviceMachine // whose values are in memory

	arrays map[engine.Kind]map[string]span // values and moments
}

// deviceLoan is memory lent to an intermediate value; see loan.
type deviceLoan struct {
	bytes int64
	uses  int
}

// span is n floats of device memory, or a scalar that stays on the host.
type span struct {
	cu.DevicePtr
	n      int
	scalar float32
}

// IsNativelyAccessible makes a span a cudnn.Memory.
func (span) IsNativelyAccessible() bool { return false }

// nothing is a workspace of no size.
var nothing span

func openDevice(name string) (accelerator, error) {
	var index int
	if _, err := fmt.Sscanf(name, "cuda:%d", &index); err != nil {
		return nil, fmt.Errorf("device %q: %w", name, err)
	}
	d := &device{
		work:    make(chan func()),
		kernels: map[string]cu.Function{},
		free:    map[int64][]cu.DevicePtr{},
		live:    map[cu.DevicePtr]*deviceLoan{},
	}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with its context
		for f := range d.work {
			f()
		}
	}()
	if err := d.do(func() error { return d.init(index) }); err != nil {
		close(d.work)
		return nil, err
	}
	return d, nil
}

func (d *device) init(index int) error {
	dev, err := cu.GetDevice(index)
	if err != nil {
		return err
	}
	if d.context, err = dev.MakeContext(cu.SchedAuto); err != nil {
		return fmt.Errorf("creating a context: %w", err)
	}
	if d.module, err = cu.LoadData(kernelsPTX); err != nil {
		return fmt.Errorf("loading the kernels: %w", err)
	}
	for _, name := range kernelNames {
		if d.kernels[name], err = d.module.Function(name); err != nil {
			return fmt.Errorf("kernel %s: %w", name, err)
		}
	}
	d.dnn = cudnn.NewContext()
	return nil
}

// do runs f on the device's thread. Packages cu and cudnn panic here and there
// where they could return an error.
func (d *device) do(f func() error) (err error) {
	done := make(chan struct{})
	d.work <- func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("CUDA: %v", v)
			}
		}()
		err = f()
	}
	<-done
	return err
}

func (d *device) close() error {
	err := d.do(func() error {
		d.reclaimHere()
		for _, s := range d.arrays {
			for _, v := range s {
				d.put(v.DevicePtr, int64(v.n)*4)
			}
		}
		return errors.Join(d.trim(), d.dnn.Close(), d.module.Unload(), d.context.Destroy())
	})
	close(d.work)
	return err
}

// get returns device memory of unspecified content.
func (d *device) get(bytes int64) (cu.DevicePtr, error) {
	if l := d.free[bytes]; len(l) > 0 {
		d.free[bytes] = l[:len(l)-1]
		return l[len(l)-1], nil
	}
	p, err := cu.MemAlloc(bytes)
	if err == cu.OutOfMemory {
		if err = d.trim(); err == nil {
			p, err = cu.MemAlloc(bytes)
		}
	}
	if err != nil {
		return 0, fmt.Errorf("allocating %d bytes on the device: %w", bytes, err)
	}
	return p, nil
}

// put keeps memory for the next get of its size. Work already queued may still
// use it: everything runs in order on one stream.
func (d *device) put(p cu.DevicePtr, bytes int64) { d.free[bytes] = append(d.free[bytes], p) }

// trim gives unused memory back to the driver.
func (d *device) trim() error {
	var errs []error
	for bytes, l := range d.free {
		for _, p := range l {
			errs = append(errs, cu.MemFree(p))
		}
		delete(d.free, bytes)
	}
	return errors.Join(errs...)
}

// floats returns n floats of unspecified content, the caller's to put.
func (d *device) floats(n int) (span, error) {
	p, err := d.get(int64(n) * 4)
	return span{DevicePtr: p, n: n}, err
}

// temporary calls f with n floats of scratch memory.
func (d *device) temporary(n int, f func(span) error) error {
	s, err := d.floats(n)
	if err != nil {
		return err
	}
	defer d.put(s.DevicePtr, int64(n)*4)
	return f(s)
}

func (d *device) copyTo(dst span, src []float32) error {
	if len(src) != dst.n {
		return fmt.Errorf("copying %d values to %d", len(src), dst.n)
	}
	return cu.MemcpyHtoD(dst.DevicePtr, unsafe.Pointer(unsafe.SliceData(src)), int64(len(src))*4)
}

func (d *device) copyFrom(dst []float32, src span) error {
	if len(dst) != src.n {
		return fmt.Errorf("copying %d values from %d", len(dst), src.n)
	}
	return cu.MemcpyDtoH(unsafe.Pointer(unsafe.SliceData(dst)), src.DevicePtr, int64(len(dst))*4)
}

// launch starts n threads of a kernel, whose last parameter is n.
func (d *device) launch(name string, n int, parameters ...any) error {
	words := make([]uint64, 0, len(parameters)+1)
	for _, p := range append(parameters, n) {
		switch p := p.(type) {
		case span:
			words = append(words, uint64(p.DevicePtr))
		case int:
			words = append(words, uint64(p))
		case float64:
			words = append(words, math.Float64bits(p))
		default:
			return fmt.Errorf("kernel %s: parameter of type %T", name, p)
		}
	}
	pointers := make([]unsafe.Pointer, len(words))
	for i := range words {
		pointers[i] = unsafe.Pointer(&words[i])
	}
	blocks := (n + threadsPerBlock - 1) / threadsPerBlock
	if err := d.kernels[name].Launch(blocks, 1, 1, threadsPerBlock, 1, 1, 0, cu.Stream{}, pointers); err != nil {
		return fmt.Errorf("kernel %s: %w", name, err)
	}
	return nil
}

// The methods that make a device a gorgonia.External, which CUDADo takes.

func (d *device) Get(_ G.Device, bytes int64) (tensor.Memory, error) { return memoryOf(d.get(bytes)) }

func (d *device) Put(_ G.Device, m tensor.Memory, bytes int64) {
	d.put(cu.DevicePtr(m.Uintptr()), bytes)
}

func (d *device) GetFromValue(G.Device, G.Value) (tensor.Memory, error) { return nil, errMoves }

func (d *device) PutValue(_ G.Device, v G.Value) {
	d.put(cu.DevicePtr(v.Uintptr()), int64(v.MemSize()))
}

func (d *device) Transfer(G.Device, G.Device, G.Value, bool) (G.Value, error) {
	return nil, errMoves
}

var errMoves = errors.New("values are moved by the device's machine alone")

func (d *device) Signal()             {}
func (d *device) Sync() chan struct{} { return nil }

func memoryOf(p cu.DevicePtr, err error) (tensor.Memory, error) {
	if err != nil {
		return nil, err
	}
	return p, nil
}

// The methods that make a device an accelerator.

func (d *device) supports(g *nn.Graph) error {
	for _, n := range g.Nodes {
		if p := n.Attrs.Ints("pads", 0, 0, 0, 0); n.Op == "Conv" && (p[0] != p[2] || p[1] != p[3]) {
			return fmt.Errorf("node %q (%s): attribute pads = %v: %w on a CUDA device, only symmetric padding", n.Name, n.Op, p, backend.ErrUnsupported)
		}
	}
	return nil
}

func (d *device) operator(o *op) G.Op { return &cudaOp{op: o} }

func (d *device) upload(e *network) error {
	return d.do(func() error {
		d.arrays = map[engine.Kind]map[string]span{}
		fill := func(k engine.Kind, name string, data []float32) error {
			v, err := d.floats(len(data))
			if err != nil {
				return err
			}
			if d.arrays[k] == nil {
				d.arrays[k] = map[string]span{}
			}
			d.arrays[k][name] = v
			return d.copyTo(v, data)
		}
		for name, w := range e.weights {
			if err := fill(engine.Value, name, w.Data().([]float32)); err != nil {
				return err
			}
		}
		for name := range e.adam.m {
			if err := errors.Join(fill(engine.FirstMoment, name, e.adam.m[name]), fill(engine.SecondMoment, name, e.adam.v[name])); err != nil {
				return err
			}
		}
		return nil
	})
}

// fetch and store move many tensors while the device's thread is theirs: its queue
// is waited for once.

func (d *device) fetch(e *network, k engine.Kind, ts []backend.NamedTensor) error {
	return d.do(func() error {
		for _, t := range ts {
			s, ok := d.arrays[k][t.Name]
			if n := e.gradient(t.Name); k == engine.Gradient && n != nil {
				s, ok = d.last.span(n), true
			}
			if !ok {
				return noArray(k, t.Name)
			}
			if err := d.copyFrom(t.F32, s); err != nil {
				return fmt.Errorf("tensor %q: %w", t.Name, err)
			}
		}
		return nil
	})
}

func (d *device) store(k engine.Kind, ts []backend.NamedTensor) error {
	return d.do(func() error {
		for _, t := range ts {
			s, ok := d.arrays[k][t.Name]
			if !ok {
				return noArray(k, t.Name)
			}
			if err := d.copyTo(s, t.F32); err != nil {
				return fmt.Errorf("tensor %q: %w", t.Name, err)
			}
		}
		return nil
	})
}

func (d *device) commit(p *plan) error {
	return d.do(func() error {
		values := d.arrays[engine.Value]
		for _, n := range p.norms {
			batch := n.batch.device.(*deviceStatistics)
			mean, variance := values[n.node.Inputs[3]], values[n.node.Inputs[4]]
			if err := errors.Join(d.launch("blend", mean.n, mean, batch.mean, n.momentum),
				d.launch("blend", variance.n, variance, batch.variance, n.momentum)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *device) step(p *plan, a *adam) error {
	return d.do(func() error {
		size, root2 := a.corrected()
		for i, name := range p.parameters {
			w, m, v, g := d.arrays[engine.Value][name], d.arrays[engine.FirstMoment][name], d.arrays[engine.SecondMoment][name], d.last.span(p.grads[i])
			if err := d.launch("adam", w.n, w, m, v, g, size, root2, 1-a.Beta1, a.Beta2, 1-a.Beta2, a.Epsilon); err != nil {
				return err
			}
		}
		return cu.Synchronize()
	})
}

func (d *device) read(p *plan, n *G.Node) ([]float32, error) {
	if d.last == nil || d.last.plan != p {
		return nil, errors.New("the plan's values are gone")
	}
	s := d.last.span(n)
	v := make([]float32, s.n)
	return v, d.do(func() error { return d.copyFrom(v, s) })
}

func (d *device) reclaim() {
	d.do(func() error { d.reclaimHere(); return nil })
}

func (d *device) reclaimHere() {
	for p, l := range d.live {
		d.put(p, l.bytes)
	}
	clear(d.live)
	d.last = nil
}
