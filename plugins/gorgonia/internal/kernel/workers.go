package kernel

import (
	"context"
	"sync"
	"sync/atomic"
)

// Workers runs the tasks of one operator on a fixed number of goroutines and
// lends each of them scratch memory that lives from operator to operator. It
// is used by one caller at a time.
type Workers struct {
	n       int
	scratch [][]float32
	shared  [2][]float32
	ctx     context.Context
}

// NewWorkers returns n workers; n must be at least 1.
func NewWorkers(n int) *Workers {
	return &Workers{n: n, scratch: make([][]float32, n), ctx: context.Background()}
}

// Count is the number of workers.
func (w *Workers) Count() int { return w.n }

// Watch makes Run stop handing out tasks once ctx is done. The caller learns of
// it from Err; what the operator computed is then incomplete.
func (w *Workers) Watch(ctx context.Context) { w.ctx = ctx }

// Err is the watched context's error.
func (w *Workers) Err() error { return w.ctx.Err() }

// Run calls f(worker, task) for every task in [0, tasks), each once.
func (w *Workers) Run(tasks int, f func(worker, task int)) {
	n := min(w.n, tasks)
	if n <= 1 {
		for t := 0; t < tasks && w.ctx.Err() == nil; t++ {
			f(0, t)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	loop := func(worker int) {
		for w.ctx.Err() == nil {
			t := int(next.Add(1)) - 1
			if t >= tasks {
				return
			}
			f(worker, t)
		}
	}
	for i := 1; i < n; i++ {
		wg.Add(1)
		go func() { defer wg.Done(); loop(i) }()
	}
	loop(0)
	wg.Wait()
}

// own returns n floats of unspecified content that belong to the worker until
// its next call.
func (w *Workers) own(worker, n int) []float32 {
	if cap(w.scratch[worker]) < n {
		w.scratch[worker] = make([]float32, n)
	}
	return w.scratch[worker][:n]
}

// Slots of common.
const (
	slotImages  = iota // padded images, or columns of gradients
	slotWeights        // packed weights
)

// common returns n floats of unspecified content that belong to the operator.
func (w *Workers) common(slot, n int) []float32 {
	if cap(w.shared[slot]) < n {
		w.shared[slot] = make([]float32, n)
	}
	return w.shared[slot][:n]
}

// Release drops the scratch memory, which grows to the largest operator's need.
func (w *Workers) Release() {
	clear(w.scratch)
	clear(w.shared[:])
}
