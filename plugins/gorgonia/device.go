package gorgonia

import (
	_ "embed"
	"errors"
	"fmt"
	"sync"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/gpu"
)

// kernelsPTX is compiled from cuda/kernels.cu by `just kernels`.
//
//go:embed cuda/kernels.ptx
var kernelsPTX string

// loadDriver is replaced in tests.
var loadDriver = driver.Load

// gpus are the GPUs that the driver shows, if there is a driver.
var gpus = sync.OnceValues(func() ([]gpu.Info, error) {
	api, err := loadDriver()
	if err != nil {
		return nil, err
	}
	return gpu.List(api)
})

// gpuDevices describes the GPUs, or says why there are none.
func gpuDevices() (devices []backend.Device, notes []string) {
	found, err := gpus()
	switch {
	case errors.Is(err, driver.ErrNoDriver):
		notes = append(notes, "CUDA: no NVIDIA driver on this machine")
	case err != nil:
		notes = append(notes, fmt.Sprintf("CUDA: %v", err))
	case len(found) == 0:
		notes = append(notes, "CUDA: the driver shows no GPU")
	}
	for _, g := range found {
		devices = append(devices, backend.Device{
			Name: fmt.Sprintf("cuda:%d", g.Ordinal), Kind: "cuda", ID: g.UUID, Memory: g.Memory,
			Info:   fmt.Sprintf("%s, compute capability %d.%d, %d multiprocessors", g.Name, g.Capability[0], g.Capability[1], g.Processors),
			Driver: fmt.Sprintf("CUDA %d.%d", g.CUDA/1000, g.CUDA%1000/10),
		})
	}
	return devices, append(notes, "CUDA: not yet run on a GPU: PTX executed by an interpreter")
}

func openGPU(name string) (*gpu.Device, gpu.Info, error) {
	found, err := gpus()
	if err != nil {
		return nil, gpu.Info{}, err
	}
	for _, g := range found {
		if fmt.Sprintf("cuda:%d", g.Ordinal) != name {
			continue
		}
		api, err := loadDriver()
		if err != nil {
			return nil, g, err
		}
		d, err := gpu.Open(api, g.Ordinal, kernelsPTX)
		return d, g, err
	}
	return nil, gpu.Info{}, fmt.Errorf("no such GPU: %w", backend.ErrUnsupported)
}

// span is n numbers in the device's memory, or a scalar, which stays here.
type span struct {
	driver.Pointer
	n      int
	scalar float32
}

func spanOf(v G.Value) span {
	if f, ok := v.(*G.F32); ok {
		return span{n: 1, scalar: float32(*f)}
	}
	return span{Pointer: driver.Pointer(v.Uintptr()), n: v.Shape().TotalSize()}
}

// onGPU is a GPU's memory. It is also a tensor.Engine, so that what Gorgonia does
// with tensors itself, adding gradients, is done on the device too.
type onGPU struct{ x *executor }

var (
	_ tensor.Engine = onGPU{}
	_ tensor.Adder  = onGPU{}
)

func (m onGPU) allocate(n int) (*tensor.Dense, error) {
	p, err := m.x.gpu.Allocate(int64(n) * 4)
	if err != nil {
		return nil, err
	}
	return m.at(p, tensor.Shape{n}), nil
}

func (m onGPU) free(d *tensor.Dense) error { return m.x.gpu.Free(spanOf(d).Pointer) }

func (m onGPU) shaped(d *tensor.Dense, shape tensor.Shape) *tensor.Dense {
	return m.at(spanOf(d).Pointer, shape)
}

// at is a tensor at an address of the device's.
func (m onGPU) at(p driver.Pointer, shape tensor.Shape) *tensor.Dense {
	return tensor.New(tensor.Of(tensor.Float32), tensor.WithShape(shape...), tensor.WithEngine(m), tensor.FromMemory(uintptr(p), uintptr(shape.TotalSize()*4)))
}

// Add implements tensor.Adder: the sum of two gradients. Gorgonia's tape machine
// asks for it in the place of one that nothing else reads.
func (m onGPU) Add(a, b tensor.Tensor, opts ...tensor.FuncOpt) (sum tensor.Tensor, err error) {
	err = m.x.do(func() error {
		out, ok := a.(*tensor.Dense)
		if tensor.ParseFuncOpts(opts...).Safe() || !ok {
			if out, err = m.x.arena.tensor(a.Shape(), 0); err != nil {
				return err
			}
		}
		sum = out
		return add{}.launch(m.x.gpu, nil, []span{spanOf(a), spanOf(b)}, spanOf(out))
	})
	if err != nil {
		m.x.failed = err
	}
	return sum, err
}

var errDevice = errors.New("a GPU's tensors are added, and nothing else")

// The other methods of tensor.Engine and tensor.Adder, of which nothing here is asked.

func (onGPU) AddScalar(tensor.Tensor, interface{}, bool, ...tensor.FuncOpt) (tensor.Tensor, error) {
	return nil, errDevice
}
func (onGPU) AllocAccessible() bool                           { return false }
func (onGPU) Alloc(int64) (tensor.Memory, error)              { return nil, errDevice }
func (onGPU) Free(tensor.Memory, int64) error                 { return errDevice }
func (onGPU) Memset(tensor.Memory, interface{}) error         { return errDevice }
func (onGPU) Memclr(tensor.Memory)                            {}
func (onGPU) Memcpy(dst, src tensor.Memory) error             { return errDevice }
func (onGPU) Accessible(tensor.Memory) (tensor.Memory, error) { return nil, errDevice }
func (onGPU) WorksWith(order tensor.DataOrder) bool           { return order.IsRowMajor() }

// onDevice is arithmetic that a GPU can do. launch queues it.
type onDevice interface {
	launch(d *gpu.Device, o *op, in []span, out span) error
}

// prepared is arithmetic that needs tables on the device, which prepare uploads: o's
// until the plan is closed.
type prepared interface {
	prepare(d *gpu.Device, o *op) error
}

// table uploads numbers that stay until the plan is closed.
func (o *op) table(d *gpu.Device, v []int32) (driver.Pointer, error) {
	p, err := d.Allocate(int64(len(v)) * 4)
	if err != nil {
		return 0, err
	}
	o.tables = append(o.tables, p)
	return p, d.Upload(p, gpu.Bytes(v))
}

// scratch divides the device's scratch memory into parts of so many bytes.
func scratch(d *gpu.Device, bytes ...int64) ([]driver.Pointer, error) {
	total := int64(0)
	for _, n := range bytes {
		total += aligned(n)
	}
	at, err := d.Scratch(total)
	if err != nil {
		return nil, err
	}
	parts := make([]driver.Pointer, len(bytes))
	for i, n := range bytes {
		parts[i] = at
		at += driver.Pointer(aligned(n))
	}
	return parts, nil
}

// aligned is a size of memory after which more may follow.
func aligned(bytes int64) int64 { return (bytes + 255) / 256 * 256 }

func ceil(n, per int) int { return (n + per - 1) / per }
