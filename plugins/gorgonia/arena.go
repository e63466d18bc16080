package gorgonia

import (
	"errors"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"
)

// arena lends memory to intermediate values and takes it back when their last
// reader has run, so that neither a step allocates large blocks nor a run holds
// values longer than it must. The tape machine would do neither: resetting it
// between runs forgets its registers.
type arena struct {
	memory storage
	free   map[int][]*tensor.Dense // vectors, by length
	live   map[*tensor.Dense]*loan
}

// storage is where tensors lie: the processor's memory or a GPU's.
type storage interface {
	allocate(n int) (*tensor.Dense, error) // a vector of n float32 of unspecified content
	free(*tensor.Dense) error
	shaped(memory *tensor.Dense, shape tensor.Shape) *tensor.Dense // a tensor in that memory
}

type loan struct {
	memory *tensor.Dense
	uses   int // readers still to come; 0: kept to the end of the run
}

func newArena(m storage) *arena {
	return &arena{memory: m, free: map[int][]*tensor.Dense{}, live: map[*tensor.Dense]*loan{}}
}

// tensor lends a tensor of unspecified content for the given number of reads.
func (a *arena) tensor(shape tensor.Shape, uses int) (*tensor.Dense, error) {
	n := shape.TotalSize()
	var m *tensor.Dense
	if l := a.free[n]; len(l) > 0 {
		a.free[n], m = l[:len(l)-1], l[len(l)-1]
	} else {
		var err error
		if m, err = a.memory.allocate(n); err != nil {
			// What lies idle was lent to values of another size.
			if err = a.release(); err == nil {
				m, err = a.memory.allocate(n)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	d := a.memory.shaped(m, shape)
	a.live[d] = &loan{m, uses}
	return d, nil
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
	n := l.memory.Shape().TotalSize()
	a.free[n] = append(a.free[n], l.memory)
}

// reclaim takes everything back at the end of a run.
func (a *arena) reclaim() {
	for d, l := range a.live {
		a.put(d, l)
	}
}

// release drops the memory that is not lent.
func (a *arena) release() error {
	var errs []error
	for _, l := range a.free {
		for _, m := range l {
			errs = append(errs, a.memory.free(m))
		}
	}
	clear(a.free)
	return errors.Join(errs...)
}

// heap is the processor's memory.
type heap struct{}

func (heap) allocate(n int) (*tensor.Dense, error) {
	return tensor.New(tensor.WithShape(n), tensor.WithBacking(make([]float32, n))), nil
}

func (heap) free(*tensor.Dense) error { return nil }

func (heap) shaped(m *tensor.Dense, shape tensor.Shape) *tensor.Dense {
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(m.Data()))
}
