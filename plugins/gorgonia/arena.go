package gorgonia

import (
	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// executor is what the operators of all plans of a network share while running.
type executor struct {
	workers *kernel.Workers
	arena   *arena
	device  accelerator // nil: the processor
}

// interrupted is the error of a run that was stopped.
func (x *executor) interrupted() error {
	if x.workers.Stopped() {
		return engine.ErrInterrupted
	}
	return nil
}

// arena lends memory to intermediate values and takes it back when their last
// reader has run, so that neither a step allocates large blocks nor a run holds
// values longer than it must. The tape machine would do neither: resetting it
// between runs forgets its registers.
type arena struct {
	free map[int][][]float32 // by length
	live map[*tensor.Dense]*loan
}

type loan struct {
	data []float32
	uses int // readers still to come; 0: kept to the end of the run
}

func newArena() *arena {
	return &arena{free: map[int][][]float32{}, live: map[*tensor.Dense]*loan{}}
}

// get returns n floats of unspecified content.
func (a *arena) get(n int) []float32 {
	if l := a.free[n]; len(l) > 0 {
		a.free[n] = l[:len(l)-1]
		return l[len(l)-1]
	}
	return make([]float32, n)
}

// tensor lends a tensor for the given number of reads.
func (a *arena) tensor(shape tensor.Shape, uses int) *tensor.Dense {
	data := a.get(shape.TotalSize())
	d := tensor.New(tensor.WithShape(shape...), tensor.WithBacking(data))
	a.live[d] = &loan{data, uses}
	return d
}

// used notes that an operator has read v.
func (a *arena) used(v G.Value) {
	d, ok := v.(*tensor.Dense)
	if !ok {
		return
	}
	l := a.live[d]
	if l == nil || l.uses == 0 {
		return
	}
	if l.uses--; l.uses == 0 {
		a.put(d, l)
	}
}

func (a *arena) put(d *tensor.Dense, l *loan) {
	delete(a.live, d)
	a.free[len(l.data)] = append(a.free[len(l.data)], l.data)
}

// reclaim takes everything back at the end of a run.
func (a *arena) reclaim() {
	for d, l := range a.live {
		a.put(d, l)
	}
}

// release drops the memory.
func (a *arena) release() { clear(a.free) }
