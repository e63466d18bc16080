package gorgonia

import (
	"errors"
	"fmt"

	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/driver"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/gpu"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// executor is what the operators of all plans of a network share while running.
type executor struct {
	workers *kernel.Workers
	arena   *arena
	gpu     *gpu.Device // nil: the processor
	limit   int64       // bytes that the device has
	name    string      // the device's

	failed error    // of the run under way, which Gorgonia wraps out of sight
	after  []func() // what a run computes from what has come from the device
}

func newExecutor(o engine.Options) (*executor, error) {
	x := &executor{workers: kernel.NewWorkers(max(1, o.Threads), o.Stop), name: "this machine"}
	if o.Device == "" || o.Device == processor {
		x.arena, x.limit = newArena(heap{}), machineMemory()
		return x, nil
	}
	d, info, err := openGPU(o.Device)
	if err != nil {
		return nil, fmt.Errorf("device %q: %w", o.Device, lost(err))
	}
	x.gpu, x.limit, x.name = d, info.Memory, o.Device
	x.arena = newArena(onGPU{x})
	return x, nil
}

// lost makes an error of the driver's after which the device can do nothing more one
// that ends the process.
func lost(err error) error {
	if driver.Lost(err) && !errors.Is(err, backend.ErrDeviceLost) {
		return fmt.Errorf("%w: %w", backend.ErrDeviceLost, err)
	}
	return err
}

// do calls f where the device's memory may be lent and its kernels launched.
func (x *executor) do(f func() error) error {
	if x.gpu == nil {
		return f()
	}
	return lost(x.gpu.Run(f))
}

// interrupted is the error of a run that was stopped.
func (x *executor) interrupted() error {
	if x.workers.Stopped() {
		return engine.ErrInterrupted
	}
	return nil
}

// permanent returns a tensor that is the caller's until free.
func (x *executor) permanent(shape ...int) (*tensor.Dense, error) {
	m, err := x.arena.memory.allocate(tensor.Shape(shape).TotalSize())
	if err != nil {
		return nil, err
	}
	return x.arena.memory.shaped(m, shape), nil
}

// set and get copy a tensor's values; what get was given is filled when done is called.

func (x *executor) set(to *tensor.Dense, from []float32) error {
	if x.gpu == nil {
		copy(to.Data().([]float32), from)
		return nil
	}
	return x.gpu.Upload(spanOf(to).Pointer, gpu.Bytes(from[:to.Shape().TotalSize()]))
}

func (x *executor) get(to []float32, from *tensor.Dense) error {
	if x.gpu == nil {
		copy(to, from.Data().([]float32))
		return nil
	}
	return x.gpu.Download(gpu.Bytes(to[:from.Shape().TotalSize()]), spanOf(from).Pointer)
}

// done waits for what was queued.
func (x *executor) done() error {
	if x.gpu == nil {
		return nil
	}
	if err := x.gpu.Sync(); err != nil {
		return err
	}
	for _, f := range x.after {
		f()
	}
	x.after = x.after[:0]
	return nil
}

func (x *executor) close() error {
	if x.gpu == nil {
		return nil
	}
	return x.gpu.Close()
}
