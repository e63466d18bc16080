package ptx

import (
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
)

// segment is a piece of memory: an allocation of a device, a block's shared memory, or
// a kernel's constants.
type segment struct {
	name    string
	base    uint64
	data    []byte
	defined []byte // 1 where a byte was written
	// The last write and the last read of every grain, for the search for races; nil
	// where races are not searched for.
	writes, reads []uint64
}

// newSegment returns memory that nobody has written.
func newSegment(name string, base uint64, bytes int) *segment {
	return &segment{name: name, base: base, data: make([]byte, bytes), defined: make([]byte, bytes)}
}

// watch makes room for the last accesses.
func (s *segment) watch(grain int) {
	if n := len(s.data)/grain + 1; len(s.writes) < n {
		s.writes, s.reads = make([]uint64, n), make([]uint64, n)
	}
}

// forget drops the last accesses.
func (s *segment) forget() {
	clear(s.writes)
	clear(s.reads)
}

// place tells an offset in words.
func (s *segment) place(at int) string {
	return fmt.Sprintf("byte %d of the %d %s", at, len(s.data), s.name)
}

// undefined is the offset of the first byte of a range that nobody has written, or -1.
func (s *segment) undefined(from, to int) int {
	if i := slices.Index(s.defined[from:to], 0); i >= 0 {
		return from + i
	}
	return -1
}

// Memory is the memory of a device. Launches and copies take turns: a Memory is for one
// goroutine at a time.
type Memory struct {
	segments []*segment // by address
	next     uint64     // address of the next allocation
	stamp    uint64     // of the last launch that watched for races
	bytes    int        // allocated
}

// Where addresses of global memory begin, and those of shared memory as generic
// addresses. No allocation reaches sharedWindow.
const (
	firstAddress = 0x7_0000_0000
	sharedWindow = 0x7f00_0000_0000
	alignment    = 256 // of allocations
)

// NewMemory returns a memory without allocations.
func NewMemory() *Memory { return &Memory{next: firstAddress} }

// Bytes is how much is allocated.
func (m *Memory) Bytes() int { return m.bytes }

// Allocations is how many there are.
func (m *Memory) Allocations() int { return len(m.segments) }

// Alloc allocates memory that nobody has written, and returns its address. Addresses are
// never used twice, and no allocation touches another.
func (m *Memory) Alloc(bytes int) uint64 {
	base := m.next
	m.next += (uint64(bytes)+alignment-1)/alignment*alignment + 16*alignment
	m.segments = append(m.segments, newSegment(fmt.Sprintf("allocated at %#x", base), base, bytes))
	m.bytes += bytes
	return base
}

// Free frees what Alloc returned.
func (m *Memory) Free(address uint64) error {
	i, found := slices.BinarySearchFunc(m.segments, address, func(s *segment, a uint64) int {
		if s.base < a {
			return -1
		} else if s.base > a {
			return 1
		}
		return 0
	})
	if !found {
		return fmt.Errorf("freeing %#x: no allocation begins there", address)
	}
	m.bytes -= len(m.segments[i].data)
	m.segments = slices.Delete(m.segments, i, i+1)
	return nil
}

// find returns the allocation that holds an address, or nil.
func (m *Memory) find(address uint64) *segment {
	i := sort.Search(len(m.segments), func(i int) bool { return m.segments[i].base > address })
	if i == 0 {
		return nil
	}
	if s := m.segments[i-1]; address-s.base < uint64(len(s.data)) {
		return s
	}
	return nil
}

// span finds bytes of one allocation.
func (m *Memory) span(address uint64, bytes int) (*segment, int, error) {
	s := m.find(address)
	if s == nil && bytes == 0 {
		return newSegment("of nothing", address, 0), 0, nil
	}
	if s == nil {
		return nil, 0, fmt.Errorf("address %#x is in no allocation", address)
	}
	at := int(address - s.base)
	if bytes > len(s.data)-at {
		return nil, 0, fmt.Errorf("%d bytes from %#x on: the allocation at %#x has %d", bytes, address, s.base, len(s.data))
	}
	return s, at, nil
}

// Write copies to the memory.
func (m *Memory) Write(address uint64, data []byte) error {
	s, at, err := m.span(address, len(data))
	if err != nil {
		return fmt.Errorf("copying to the device: %w", err)
	}
	copy(s.data[at:], data)
	for i := range data {
		s.defined[at+i] = 1
	}
	return nil
}

// Read copies from the memory, all of which must have been written.
func (m *Memory) Read(data []byte, address uint64) error {
	s, at, err := m.span(address, len(data))
	if err != nil {
		return fmt.Errorf("copying from the device: %w", err)
	}
	if i := s.undefined(at, at+len(data)); i >= 0 {
		return fmt.Errorf("copying from the device: nobody has written byte %d of the %d at %#x", i-at, len(data), address)
	}
	copy(data, s.data[at:])
	return nil
}

// Copy copies within the memory. What nobody has written stays so.
func (m *Memory) Copy(to, from uint64, bytes int) error {
	a, i, err := m.span(to, bytes)
	if err != nil {
		return fmt.Errorf("copying on the device, to: %w", err)
	}
	b, j, err := m.span(from, bytes)
	if err != nil {
		return fmt.Errorf("copying on the device, from: %w", err)
	}
	if a == b && i < j+bytes && j < i+bytes && bytes > 0 {
		return fmt.Errorf("copying on the device: %d bytes at %#x and at %#x overlap", bytes, to, from)
	}
	copy(a.data[i:i+bytes], b.data[j:])
	copy(a.defined[i:i+bytes], b.defined[j:])
	return nil
}

// Fill writes n words of a value.
func (m *Memory) Fill(address uint64, value uint32, n int) error {
	if address%4 != 0 {
		return fmt.Errorf("filling from %#x on: the address is not a multiple of 4", address)
	}
	data := make([]byte, 4*n)
	for i := range n {
		putBytes(data[4*i:4*i+4], uint64(value))
	}
	return m.Write(address, data)
}

// An access to a grain of memory is one word of bits: the launch, the block, how many
// barriers the block had passed, the warp, how many barriers of warps, the lane. Several
// readers leave what holds for all of them: many lanes of a warp, many warps of a block,
// many blocks.
const (
	laneBits, syncBits, warpBits, intervalBits, blockBits, stampBits = 6, 6, 6, 14, 20, 12

	laneShift     = 0
	syncShift     = laneShift + laneBits
	warpShift     = syncShift + syncBits
	intervalShift = warpShift + warpBits
	blockShift    = intervalShift + intervalBits
	stampShift    = blockShift + blockBits

	many          = 1<<6 - 1         // lanes, or warps
	manyBlocks    = 1<<blockBits - 1 // blocks
	mostIntervals = 1<<intervalBits - 1
	mostSyncs     = 1<<syncBits - 1
)

// unordered reports whether another thread made the earlier access and nothing orders it
// and this one.
func unordered(earlier, now uint64) bool {
	differ := earlier ^ now
	switch {
	case differ>>stampShift != 0: // another launch
		return false
	case differ>>blockShift != 0: // another block
		return true
	case differ>>intervalShift != 0: // a barrier between
		return false
	case differ>>warpShift != 0: // another warp
		return true
	case differ>>syncShift != 0: // a barrier of the warp between
		return false
	}
	return differ != 0 // another lane
}

// joined is what two reads leave.
func joined(earlier, now uint64) uint64 {
	differ := earlier ^ now
	switch {
	case differ == 0, differ>>stampShift != 0:
		return now
	case differ>>blockShift != 0:
		return now>>stampShift<<stampShift | manyBlocks<<blockShift
	case differ>>intervalShift != 0:
		return now
	case differ>>warpShift != 0:
		return now>>intervalShift<<intervalShift | many<<warpShift
	case differ>>syncShift != 0:
		return now
	}
	return now | many<<laneShift
}

// read notes a read of a grain by now, and returns the write that it races with, or 0.
// Blocks run at the same time: a reader notes before it looks, and so does a writer, so
// that of two one sees the other. A read by way of the read-only cache races with every
// write of the launch, the reader's own too: it counts as one by many blocks.
func (s *segment) read(grain int, now uint64, alone, readOnly bool) uint64 {
	if readOnly {
		now = now>>stampShift<<stampShift | manyBlocks<<blockShift
	}
	if alone {
		s.reads[grain] = joined(s.reads[grain], now)
		if w := s.writes[grain]; unordered(w, now) {
			return w
		}
		return 0
	}
	for {
		old := atomic.LoadUint64(&s.reads[grain])
		next := joined(old, now)
		if next == old || atomic.CompareAndSwapUint64(&s.reads[grain], old, next) {
			break
		}
	}
	if w := atomic.LoadUint64(&s.writes[grain]); unordered(w, now) {
		return w
	}
	return 0
}

// write notes a write of a grain, and returns the access that it races with, or 0.
func (s *segment) write(grain int, now uint64, alone bool) uint64 {
	var w, r uint64
	if alone {
		w, s.writes[grain] = s.writes[grain], now
		r = s.reads[grain]
	} else {
		w = atomic.SwapUint64(&s.writes[grain], now)
		r = atomic.LoadUint64(&s.reads[grain])
	}
	switch {
	case unordered(w, now):
		return w
	case unordered(r, now):
		return r
	}
	return 0
}
