package ptx

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Dim is a size or a place in up to three dimensions.
type Dim struct{ X, Y, Z int }

func (d Dim) String() string { return fmt.Sprintf("(%d,%d,%d)", d.X, d.Y, d.Z) }

func (d Dim) count() int { return d.X * d.Y * d.Z }

// at is the place of number i, x running fastest.
func (d Dim) at(i int) Dim { return Dim{i % d.X, i / d.X % d.Y, i / d.X / d.Y} }

// Fault is what a kernel did that it may not do.
type Fault struct {
	Kernel        string
	Line          int // of the text
	Instruction   string
	Block, Thread Dim
	Kind          Kind
	Text          string
	order         int // the block's number
}

func (f *Fault) Error() string {
	return fmt.Sprintf("kernel %s, line %d, %s: block %v, thread %v: %v: %s", f.Kernel, f.Line, f.Instruction, f.Block, f.Thread, f.Kind, f.Text)
}

// Kind is a kind of fault.
type Kind int

const (
	Bounds     Kind = iota // outside of what is allocated
	Alignment              // not aligned to the size of the access
	Undefined              // a read of what nobody has written
	Race                   // two accesses in no order
	Divergence             // a barrier, shuffle or vote that not all threads reach
	Arithmetic             // a division by zero
	Trap                   // the instruction
	Endless                // a loop without end
	Limit                  // more than the package keeps books of
)

func (k Kind) String() string {
	return [...]string{"out of bounds", "misaligned", "not written", "race", "divergence", "arithmetic", "trap", "endless", "limit"}[k]
}

// Launch says how a kernel is run.
type Launch struct {
	Grid, Threads Dim    // blocks, and threads of a block
	Shared        int    // bytes of shared memory beyond those that the kernel declares
	Params        []byte // ParamBytes of them
	// NoRaces leaves the search for races out, which takes about half of the time.
	NoRaces bool
	// Counts, if not nil, is added to.
	Counts *Counts
	// Steps bounds the blocks of instructions that a warp executes; 0 is a bound for
	// kernels of test sizes.
	Steps int
}

const defaultSteps = 1 << 28

// fullWarp has all lanes.
const fullWarp = math.MaxUint32

type vector [32]uint64

// run is a launch under way.
type run struct {
	k       *Kernel
	memory  *Memory
	grid    Dim
	threads Dim
	params  []byte
	races   bool
	stamp   uint64
	shared  int
	steps   int
	counted bool
	next    atomic.Int64
	stop    atomic.Bool
}

// cta is a block that is executed, or was and is used for the next.
type cta struct {
	run    *run
	number int
	where  Dim
	warps  []*warp
	shared *segment
	passed int // barriers
	counts *Counts
}

// warp is 32 threads of a block.
type warp struct {
	run     *run
	cta     *cta
	number  int
	regs    []vector
	masks   []uint32
	groups  []group // of lanes that can go on
	waiting []group // at barriers; at is the block behind it
	exited  uint32
	all     uint32 // the lanes that there are
	synced  int    // barriers of the warp since the last of the block
	at      *instruction
	last    *segment // that an access went to
}

// group is lanes that are at the beginning of the same block of instructions.
type group struct {
	at    int
	lanes uint32
}

// fault ends the launch.
func (w *warp) fault(kind Kind, lane int, format string, args ...any) {
	line, text := 0, ""
	if w.at != nil {
		line, text = w.at.line, w.at.text
	}
	panic(&Fault{Kernel: w.run.k.Name, Line: line, Instruction: text, Block: w.cta.where, Thread: w.run.threads.at(32*w.number + lane),
		Kind: kind, Text: fmt.Sprintf(format, args...), order: w.cta.number})
}

// Launch runs a kernel to its end. A *Fault is what the kernel did wrong: the first of
// the lowest block that did; other errors are the launch's own.
func (m *Memory) Launch(k *Kernel, l Launch) error {
	if err := l.Check(k); err != nil {
		return fmt.Errorf("launching %s: %w", k.Name, err)
	}
	r := &run{k: k, memory: m, grid: l.Grid, threads: l.Threads, params: l.Params, races: !l.NoRaces, steps: l.Steps, counted: l.Counts != nil}
	if r.steps == 0 {
		r.steps = defaultSteps
	}
	if r.shared = k.SharedBytes; k.Dynamic || l.Shared > 0 {
		r.shared = k.sharedEnd() + l.Shared
	}
	if r.races {
		if r.stamp = m.stamp + 1; r.stamp == 1<<stampBits {
			for _, s := range m.segments {
				s.forget()
			}
			r.stamp = 1
		}
		m.stamp = r.stamp
		for _, s := range m.segments {
			s.watch(k.grain)
		}
	}
	workers := min(runtime.GOMAXPROCS(0), l.Grid.count())
	faults := make([]*Fault, workers)
	counts := make([]*Counts, workers)
	var wait sync.WaitGroup
	for i := range workers {
		wait.Go(func() {
			c := newCTA(r)
			faults[i] = c.work()
			counts[i] = c.counts
		})
	}
	wait.Wait()
	if l.Counts != nil {
		for _, c := range counts {
			l.Counts.add(c)
		}
		l.Counts.Launches++
	}
	faults = slices.DeleteFunc(faults, func(f *Fault) bool { return f == nil })
	if len(faults) > 0 {
		return slices.MinFunc(faults, func(a, b *Fault) int { return a.order - b.order })
	}
	return nil
}

// Check refuses what a device would refuse at once, before anything runs.
func (l *Launch) Check(k *Kernel) error {
	threads, grid := l.Threads, l.Grid
	switch {
	case threads.X < 1 || threads.Y < 1 || threads.Z < 1 || threads.X > 1024 || threads.Y > 1024 || threads.Z > 64 || threads.count() > k.MaxThreads:
		return fmt.Errorf("blocks of %v threads, at most %d are allowed", threads, k.MaxThreads)
	case grid.X < 1 || grid.Y < 1 || grid.Z < 1 || grid.X > math.MaxInt32 || grid.Y > math.MaxUint16 || grid.Z > math.MaxUint16:
		return fmt.Errorf("a grid of %v blocks", grid)
	case l.Shared > 0 && !k.Dynamic:
		return errors.New("shared memory for a kernel that takes none at launch")
	case l.Shared < 0 || k.sharedEnd()+l.Shared > mostShared && l.Shared > 0:
		return fmt.Errorf("%d bytes of shared memory at launch and %d declared, %d are allowed", l.Shared, k.SharedBytes, mostShared)
	case len(l.Params) != k.ParamBytes():
		return fmt.Errorf("%d bytes of parameters, it has %d", len(l.Params), k.ParamBytes())
	case !l.NoRaces && (grid.X > manyBlocks || grid.Y > manyBlocks/grid.X || grid.Z > manyBlocks/(grid.X*grid.Y)):
		return fmt.Errorf("a grid of %v blocks is too large to search for races", grid)
	}
	return nil
}

func newCTA(r *run) *cta {
	c := &cta{run: r, shared: newSegment("of shared memory", 0, r.shared)}
	if r.counted {
		c.counts = newCounts(r.k)
	}
	if r.races {
		c.shared.watch(r.k.grain)
	}
	threads := r.threads.count()
	for i := range (threads + 31) / 32 {
		w := &warp{run: r, cta: c, number: i, regs: make([]vector, r.k.vectors), masks: make([]uint32, r.k.masks), all: fullWarp}
		if left := threads - 32*i; left < 32 {
			w.all = 1<<left - 1
		}
		c.warps = append(c.warps, w)
	}
	return c
}

// work executes blocks until there are no more.
func (c *cta) work() (fault *Fault) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case *Fault:
			c.run.stop.Store(true)
			fault = v
		default:
			panic(v)
		}
	}()
	for !c.run.stop.Load() {
		n := int(c.run.next.Add(1)) - 1
		if n >= c.run.grid.count() {
			break
		}
		c.execute(n)
	}
	return nil
}

// execute runs block n.
func (c *cta) execute(n int) {
	c.number, c.where, c.passed = n, c.run.grid.at(n), 0
	clear(c.shared.defined)
	c.shared.forget()
	for _, w := range c.warps {
		clear(w.regs) // what was not written is the same every time
		clear(w.masks)
		for _, f := range c.run.k.fixed {
			for l := range w.regs[f.place] {
				w.regs[f.place][l] = f.bits
			}
		}
		for _, s := range c.run.k.specials {
			for l := range w.regs[s.place] {
				w.regs[s.place][l] = s.value(w, l)
			}
		}
		w.groups = append(w.groups[:0], group{0, w.all})
		w.waiting, w.exited, w.synced = w.waiting[:0], 0, 0
	}
	for {
		for _, w := range c.warps {
			w.execute()
		}
		if !c.barrier() {
			return
		}
	}
}

// barrier lets the threads that wait go on; it reports whether there are any.
func (c *cta) barrier() bool {
	var first *warp // with somebody who waits
	for _, w := range c.warps {
		if len(w.waiting) > 0 && first == nil {
			first = w
		}
	}
	if first == nil {
		return false
	}
	at := first.waiting[0].at
	reached := &c.run.k.blocks[at-1]
	for _, w := range c.warps {
		w.at = &instruction{line: reached.line, text: reached.text}
		if w.exited != 0 {
			w.fault(Divergence, bits.TrailingZeros32(w.exited), "others wait at a barrier, this thread has returned")
		}
		for _, g := range w.waiting {
			if g.at != at {
				other := &c.run.k.blocks[g.at-1]
				w.fault(Divergence, bits.TrailingZeros32(g.lanes), "others wait at this barrier, this thread at that of line %d", other.line)
			}
		}
		w.groups = append(w.groups[:0], w.waiting...)
		w.waiting, w.synced = w.waiting[:0], 0
	}
	if c.passed++; c.passed > mostIntervals && c.run.races {
		first.fault(Limit, 0, "more than %d barriers, of which the search for races keeps no book", mostIntervals)
	}
	return true
}

// execute runs the warp until all lanes wait or have returned. The lanes that are
// furthest behind go first, so that those that parted meet again.
func (w *warp) execute() {
	k := w.run.k
	for steps := 0; len(w.groups) > 0; steps++ {
		g := w.pick()
		b := &k.blocks[g.at]
		if steps > w.run.steps {
			w.at = &instruction{line: b.line, text: b.text}
			w.fault(Endless, bits.TrailingZeros32(g.lanes), "more than %d runs of instructions", w.run.steps)
		}
		for i := range b.code {
			w.at = &b.code[i]
			w.at.run(w, g.lanes)
		}
		if w.run.counted {
			w.cta.counts.warps[g.at]++
			w.cta.counts.threads[g.at] += int64(popcount(g.lanes))
		}
		taken := b.end.taken(w, g.lanes)
		if rest := g.lanes &^ taken; rest != 0 || b.end.kind == falls {
			if b.end.kind == falls {
				rest = g.lanes
			}
			w.groups = append(w.groups, group{g.at + 1, rest})
		}
		if taken == 0 {
			continue
		}
		switch b.end.kind {
		case branches:
			w.groups = append(w.groups, group{b.end.target, taken})
		case returns:
			w.exited |= taken
		case waits:
			w.wait(group{g.at + 1, taken})
		case traps:
			w.at = &instruction{line: b.line, text: b.text}
			w.fault(Trap, bits.TrailingZeros32(taken), "the kernel trapped")
		}
	}
}

// wait joins lanes to those that wait at the same barrier.
func (w *warp) wait(g group) {
	for i := range w.waiting {
		if w.waiting[i].at == g.at {
			w.waiting[i].lanes |= g.lanes
			return
		}
	}
	w.waiting = append(w.waiting, g)
}

// pick takes the lanes that are furthest behind, joined.
func (w *warp) pick() group {
	if len(w.groups) == 1 {
		g := w.groups[0]
		w.groups = w.groups[:0]
		return g
	}
	g := group{at: math.MaxInt}
	for _, o := range w.groups {
		g.at = min(g.at, o.at)
	}
	kept := w.groups[:0]
	for _, o := range w.groups {
		if o.at == g.at {
			g.lanes |= o.lanes
		} else {
			kept = append(kept, o)
		}
	}
	w.groups = kept
	return g
}

// now is the word of bits of an access by lane 0.
func (w *warp) now(stamp uint64, block int) uint64 {
	return stamp<<stampShift | uint64(block)<<blockShift | uint64(w.cta.passed)<<intervalShift | uint64(w.number)<<warpShift | uint64(w.synced)<<syncShift
}

// who tells an access in words, with an article.
func (r *run) who(access uint64) string {
	lane, warp := access>>laneShift&many, access>>warpShift&many
	block := int(access >> blockShift & manyBlocks)
	switch {
	case block == manyBlocks:
		return "threads of several blocks, or a read by way of the read-only cache"
	case warp == many:
		return fmt.Sprintf("threads of several warps of block %v", r.grid.at(block))
	case lane == many:
		return fmt.Sprintf("several threads of warp %d of block %v", warp, r.grid.at(block))
	}
	return fmt.Sprintf("thread %v of block %v", r.threads.at(int(32*warp+lane)), r.grid.at(block))
}
