package fast

import (
	"sort"
	"unsafe"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

// phase is a set of tasks that may run at the same time; phases run in order.
type phase struct {
	name  string
	op    *op // for the layer table
	tasks int
	f     func(worker, task int)
}

// buffer is a range of the arena. It holds its contents from the phase where it
// is first used to the one where it is last used.
type buffer struct {
	size        int // floats
	first, last int // phases
	offset      int
	data        []float32
}

// program is everything one kind of call does for one size of batch, as a list
// of phases over an arena. It is built once; running it allocates nothing.
type program struct {
	e       *Engine
	n, h, w int
	phases  []phase
	buffers []*buffer
	// private is each worker's scratch memory in floats.
	private int
	scratch [][]float32
	total   int      // floats of the arena
	bound   *float32 // the arena that the buffers are in

	images []float32
	labels []uint8

	mixed      bool
	keep       bool // every tensor stays until the end
	training   bool
	statistics bool    // update running statistics
	scale      float32 // of the loss
	loss       float64
	losses     []float64
	out        []float32
	tensors    map[*tensor]*stored
	norms      []normState
}

// stored is a tensor in memory: [N][blocks][H][W][8].
type stored struct {
	t           *tensor
	h, w        int
	blocks      int
	value, grad *buffer
	measure     *measure
}

// plane is the rectangle of image n and block b.
func (s *stored) plane(data []float32, n, b int) []float32 {
	size := s.h * s.w * lanes
	return data[(n*s.blocks+b)*size:][:size]
}

// at is the block of image n from pixel (y, x) on, in one of the tensor's
// buffers.
func (s *stored) at(b *buffer, n, block, y, x int) kernel.Block {
	return kernel.Block{Data: s.plane(b.data, n, block)[(y*s.w+x)*lanes:], Row: s.w * lanes, Col: lanes}
}

func (p *program) buffer(size int) *buffer {
	// Rounding to cache lines keeps vectors aligned.
	b := &buffer{size: (size + 15) / 16 * 16, first: -1}
	p.buffers = append(p.buffers, b)
	return b
}

// add appends a phase that uses the buffers.
func (p *program) add(name string, o *op, tasks int, uses []*buffer, f func(worker, task int)) {
	i := len(p.phases)
	for _, b := range uses {
		if b == nil {
			continue
		}
		if b.first < 0 {
			b.first = i
		}
		b.last = i
	}
	p.phases = append(p.phases, phase{name, o, tasks, f})
}

// allocate places the buffers, the largest first, each at the lowest offset
// where nothing that lives at the same time is in the way.
func (p *program) allocate() {
	if p.keep {
		for _, b := range p.buffers {
			b.first, b.last = 0, len(p.phases)
		}
	}
	order := append([]*buffer(nil), p.buffers...)
	sort.SliceStable(order, func(i, j int) bool { return order[i].size > order[j].size })
	size := 0
	var placed []*buffer // by offset
	for _, b := range order {
		if b.first < 0 {
			continue
		}
		b.offset = 0
		for _, o := range placed {
			if o.first <= b.last && b.first <= o.last && o.offset < b.offset+b.size && b.offset < o.offset+o.size {
				b.offset = o.offset + o.size
			}
		}
		i := sort.Search(len(placed), func(i int) bool { return placed[i].offset > b.offset })
		placed = append(placed, nil)
		copy(placed[i+1:], placed[i:])
		placed[i] = b
		size = max(size, b.offset+b.size)
	}
	p.total = size + p.e.pool.threads*((p.private+15)/16*16)
}

// aligned returns n floats that start at a cache line.
func aligned(n int) []float32 {
	x := make([]float32, n+16)
	advise(x)
	skip := 0
	for uintptr(unsafe.Pointer(&x[skip]))%64 != 0 {
		skip++
	}
	return x[skip : skip+n]
}

// need reserves scratch memory of every worker.
func (p *program) need(floats int) { p.private = max(p.private, floats) }

// cut takes n floats off the front of a scratch area.
func cut(s *[]float32, n int) []float32 {
	n = (n + 15) / 16 * 16
	x := (*s)[:n:n]
	*s = (*s)[n:]
	return x
}
