package ptx

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
)

// Counts is what launches of one kernel executed.
type Counts struct {
	Launches int
	// Threads and Warps are executions by opcode: of an instruction by a thread, and of an
	// instruction by a warp, whatever the number of its lanes that take part.
	Threads, Warps map[string]int64
	// Global memory: bytes that the threads asked for, and sectors of 32 bytes that their
	// warps touch, each sector once per instruction. What caches save is not in it.
	LoadedBytes, StoredBytes     int64
	LoadedSectors, StoredSectors int64
	// Shared memory: bytes, and passes over its 32 banks of 4 bytes. Without conflicts, an
	// instruction of 32 lanes takes one pass per 4 bytes and lane.
	SharedBytes, SharedPasses int64
	Barriers                  int64 // by warps

	k              *Kernel
	warps, threads []int64 // executions of blocks of instructions
}

func newCounts(k *Kernel) *Counts {
	return &Counts{k: k, warps: make([]int64, len(k.blocks)), threads: make([]int64, len(k.blocks))}
}

// add adds what a worker counted.
func (c *Counts) add(o *Counts) {
	if c.Threads == nil {
		c.Threads, c.Warps = map[string]int64{}, map[string]int64{}
	}
	c.LoadedBytes += o.LoadedBytes
	c.StoredBytes += o.StoredBytes
	c.LoadedSectors += o.LoadedSectors
	c.StoredSectors += o.StoredSectors
	c.SharedBytes += o.SharedBytes
	c.SharedPasses += o.SharedPasses
	for i, b := range o.k.blocks {
		for _, in := range b.code {
			c.Threads[in.name] += o.threads[i]
			c.Warps[in.name] += o.warps[i]
		}
		if b.end.name != "" {
			c.Threads[b.end.name] += o.threads[i]
			c.Warps[b.end.name] += o.warps[i]
		}
		if b.end.kind == waits {
			c.Barriers += o.warps[i]
		}
	}
}

// Issued is the number of instructions that warps executed.
func (c *Counts) Issued() int64 {
	var n int64
	for _, w := range c.Warps {
		n += w
	}
	return n
}

// Opcodes are the opcodes that were executed, the most frequent ones first.
func (c *Counts) Opcodes() []string {
	return slices.SortedFunc(maps.Keys(c.Threads), func(a, b string) int {
		return cmp.Or(cmp.Compare(c.Threads[b], c.Threads[a]), cmp.Compare(a, b))
	})
}

// access counts the memory traffic of an instruction.
func (c *Counts) access(w *warp, a *access, m uint32) {
	each := int64(a.typ.bits / 8 * a.elements)
	n := int64(popcount(m)) * each
	base := &w.regs[a.base]
	switch a.space {
	case "shared":
		c.SharedBytes += n
		c.SharedPasses += passes(base, a.offset, m, int(each))
		return
	case "global":
	default:
		return
	}
	var sectors [64]uint64
	touched := sectors[:0]
	for ; m != 0; m &= m - 1 {
		at := (base[bits.TrailingZeros32(m)] + a.offset) / 32
		if !slices.Contains(touched, at) {
			touched = append(touched, at)
		}
	}
	if a.write {
		c.StoredBytes += n
		c.StoredSectors += int64(len(touched))
	} else {
		c.LoadedBytes += n
		c.LoadedSectors += int64(len(touched))
	}
}

// passes is how often an instruction goes over the banks: lanes of accesses of 8 bytes go
// by halves of a warp, of 16 by quarters; lanes of one go share words, and each bank gives
// one word a pass.
func passes(base *vector, offset uint64, m uint32, bytes int) int64 {
	group := 32
	if bytes > 4 {
		group = 32 * 4 / bytes
	}
	var total int64
	for first := 0; first < 32; first += group {
		lanes := m >> first & uint32(1<<group-1)
		if lanes == 0 {
			continue
		}
		var words [32][]uint64
		most := 0
		for ; lanes != 0; lanes &= lanes - 1 {
			at := (base[first+bits.TrailingZeros32(lanes)] + offset) / 4
			for i := range uint64(max(bytes/4, 1)) {
				bank := (at + i) % 32
				if !slices.Contains(words[bank], at+i) {
					words[bank] = append(words[bank], at+i)
				}
				most = max(most, len(words[bank]))
			}
		}
		total += int64(most)
	}
	return total
}
