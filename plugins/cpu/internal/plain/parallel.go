package plain

import (
	"sync"
	"sync/atomic"
)

// worker holds one thread's scratch memory.
type worker[T float] struct {
	patches []T // gathered patches of one block
	tile    []T // one task's results
	rows    []T // two rows of one block's sums
}

// grow returns a slice of n elements with unspecified contents, reusing s.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// parallel runs the tasks 0 to n−1 on the engine's threads, in no particular
// order; tasks are skipped once the engine is stopped.
func (e *Engine[T]) parallel(n int, task func(i int, w *worker[T])) {
	if len(e.workers) == 1 || n == 1 {
		for i := 0; i < n && !e.opts.Stopped(); i++ {
			task(i, e.workers[0])
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for _, w := range e.workers[:min(n, len(e.workers))] {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && !e.opts.Stopped(); i = int(next.Add(1)) - 1 {
				task(i, w)
			}
		})
	}
	wg.Wait()
}

// each runs an elementwise task over n elements in blocks.
func (e *Engine[T]) each(n int, task func(lo, hi int)) {
	const block = 1 << 14
	e.parallel((n+block-1)/block, func(i int, _ *worker[T]) {
		task(i*block, min(n, (i+1)*block))
	})
}

// pool recycles the memory of activations and gradients, so that a step in the
// steady state allocates nothing of size.
type pool[T float] [][]T

// get returns a slice of n elements with unspecified contents.
func (p *pool[T]) get(n int) []T {
	best := -1
	for i, s := range *p {
		if cap(s) >= n && cap(s) <= 2*n && (best < 0 || cap(s) < cap((*p)[best])) {
			best = i
		}
	}
	if best < 0 {
		return make([]T, n)
	}
	s := (*p)[best]
	last := len(*p) - 1
	(*p)[best] = (*p)[last]
	*p = (*p)[:last]
	return s[:n]
}

func (p *pool[T]) put(s []T) {
	if s != nil {
		*p = append(*p, s)
	}
}
