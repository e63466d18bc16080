package fast

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// pool runs the tasks of a phase on a fixed set of goroutines, the caller among
// them. Which goroutine runs which task is left to chance; tasks of a phase
// write disjoint memory, so results do not depend on it.
type pool struct {
	threads int
	stop    *atomic.Bool // once true, tasks are skipped; nil: never
	next    atomic.Int64 // task to be taken
	left    atomic.Int64 // goroutines still in the phase
	n       int64
	f       func(worker, task int)
	// generation counts phases; workers spin on it for a while and then sleep.
	generation atomic.Int64
	sleepers   atomic.Int64
	mu         sync.Mutex
	cond       *sync.Cond
	closed     atomic.Bool
}

// spins is how often a waiting goroutine looks before it gives up its
// processor: one or two milliseconds, longer than most phases. Waking a thread
// that sleeps costs tens of microseconds, and a step at width 16 has some 150
// phases of a tenth of a millisecond: with a hundredth of these spins two threads
// gained 1.3 at that width, with these 1.8 to 2.
const spins = 2000000

// yield lets other goroutines have the processor now and then while one spins:
// the one that reads the next samples, the one that reports the last step.
func yield(i int) {
	if i%512 == 511 {
		runtime.Gosched()
	}
}

func newPool(threads int, stop *atomic.Bool) *pool {
	p := &pool{threads: threads, stop: stop}
	p.cond = sync.NewCond(&p.mu)
	for w := 1; w < threads; w++ {
		go p.work(w)
	}
	return p
}

func (p *pool) stopped() bool { return p.stop != nil && p.stop.Load() }

// run executes f(worker, 0…n−1) and returns when all are done.
func (p *pool) run(n int, f func(worker, task int)) {
	if n <= 1 || p.threads == 1 {
		for i := 0; i < n && !p.stopped(); i++ {
			f(0, i)
		}
		return
	}
	p.n, p.f = int64(n), f
	p.next.Store(0)
	p.left.Store(int64(p.threads - 1))
	p.generation.Add(1)
	if p.sleepers.Load() > 0 {
		p.mu.Lock()
		p.cond.Broadcast()
		p.mu.Unlock()
	}
	p.drain(0)
	for i := 0; p.left.Load() > 0; i++ {
		if i < spins {
			yield(i)
			continue
		}
		p.mu.Lock()
		for p.left.Load() > 0 {
			p.cond.Wait()
		}
		p.mu.Unlock()
	}
}

func (p *pool) drain(worker int) {
	for {
		i := p.next.Add(1) - 1
		if i >= p.n || p.stopped() {
			return
		}
		p.f(worker, int(i))
	}
}

func (p *pool) work(worker int) {
	seen := int64(0)
	for {
		for i := 0; p.generation.Load() == seen; i++ {
			if i < spins {
				yield(i)
				continue
			}
			p.mu.Lock()
			p.sleepers.Add(1)
			for p.generation.Load() == seen && !p.closed.Load() {
				p.cond.Wait()
			}
			p.sleepers.Add(-1)
			p.mu.Unlock()
			if p.closed.Load() {
				return
			}
		}
		seen++
		p.drain(worker)
		if p.left.Add(-1) == 0 {
			// The caller may be asleep; taking the lock makes sure that it is
			// either still to look or already waiting.
			p.mu.Lock()
			p.cond.Broadcast()
			p.mu.Unlock()
		}
	}
}

// close ends the goroutines. It must not be called during run.
func (p *pool) close() {
	p.closed.Store(true)
	p.mu.Lock()
	p.cond.Broadcast()
	p.mu.Unlock()
}
