package kernel

import (
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
	stop    *atomic.Bool
}

// NewWorkers returns n workers; n must be at least 1. Run stops handing out
// tasks once stop is true; nil never is.
func NewWorkers(n int, stop *atomic.Bool) *Workers {
	return &Workers{n: n, scratch: make([][]float32, n), stop: stop}
}

// Count is the number of workers.
func (w *Workers) Count() int { return w.n }

// Stopped reports whether the workers have been stopped. What the operator under
// way computes is then incomplete.
func (w *Workers) Stopped() bool { return w.stop != nil && w.stop.Load() }

// Run calls f(worker, task) for every task in [0, tasks), each once, unless it
// is stopped.
func (w *Workers) Run(tasks int, f func(worker, task int)) {
	n := min(w.n, tasks)
	if n <= 1 {
		for t := 0; t < tasks && !w.Stopped(); t++ {
			f(0, t)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	loop := func(worker int) {
		for !w.Stopped() {
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
