package imagefile

import (
	"errors"
	"fmt"
	"math/bits"
)

// entry is what an index says of a chunk.
type entry struct {
	at, size int64
	skip     uint32
}

// index reads one of the newer indexes of chunks of a size. most is what the
// dimensions may grow to. Chunks that were never written are left out.
func (m *chunkedArray) index(c *cursor, flags int, size int64, most []int64) ([]chunk, error) {
	h := m.h
	const single, implicit, fixed, extensible, tree = 1, 2, 3, 4, 5
	const partialUnfiltered, singleFiltered = 1, 2
	var entries map[int64]entry // by the number of a chunk
	kind := c.int(1)
	grows := -1 // the dimension without a limit
	var err error
	switch kind {
	case single:
		e := entry{size: size}
		if flags&singleFiltered != 0 {
			e.size, e.skip = c.number(h.lens), uint32(c.uint(4))
		}
		e.at = h.address(c)
		entries, err = map[int64]entry{0: e}, c.err
	case implicit:
		if size < 32 { // what the list below takes must not exceed the file by far
			return nil, fmt.Errorf("chunks of %d bytes", size)
		}
	case fixed:
		c.take(1)
		entries, err = h.fixedArray(h.address(c), size)
	case extensible:
		c.take(5)
		for d, n := range most {
			if n == unlimited {
				grows = d
			}
		}
		entries, err = h.extensibleArray(h.address(c), size)
	case tree:
		c.take(6)
		return m.chunkTree(h.address(c), size, flags&partialUnfiltered != 0)
	default:
		return nil, fmt.Errorf("chunks with an index of kind %d", kind)
	}
	at := int64(0)
	if kind == implicit {
		at = h.address(c)
	}
	if err == nil {
		err = c.err
	}
	if err != nil {
		return nil, err
	}

	// Chunks are numbered row by row in the array that the dimensions may grow to,
	// the one without a limit first.
	stride := make([]int64, len(most))
	next := int64(1)
	for d := len(most) - 1; d >= 0; d-- {
		if d == grows {
			continue
		}
		if stride[d] = next; most[d] < 0 || next > 1<<40/max(1, ceil(most[d], m.block[d])) {
			return nil, fmt.Errorf("an array that may grow to the shape %v in chunks of shape %v", most, m.block)
		}
		next *= ceil(most[d], m.block[d])
	}
	if grows >= 0 {
		stride[grows] = next
	}
	var list []chunk
	for start := make([]int64, len(m.dims)); ; {
		number, partial := int64(0), false
		for d, s := range start {
			number += s / m.block[d] * stride[d]
			partial = partial || s+m.block[d] > m.dims[d]
		}
		e, ok := entries[number]
		if kind == implicit {
			e, ok = entry{at: at + number*size, size: size}, at >= 0
		}
		if ok && e.at >= 0 {
			k := chunk{at: e.at, size: e.size, skip: e.skip}
			if partial && flags&partialUnfiltered != 0 {
				k.skip = 1<<32 - 1
			}
			copy(k.start[:], start)
			list = append(list, k)
		}
		d := len(start) - 1
		for ; d >= 0; d-- {
			if start[d] += m.block[d]; start[d] < m.dims[d] {
				break
			}
			start[d] = 0
		}
		if d < 0 {
			return list, nil
		}
	}
}

// entryReader reads the entries of an array's blocks: an address, and, where chunks
// are filtered, their size and the filters left out.
type entryReader struct {
	h         *hdf5
	filtered  bool
	bytes     int // of an entry
	chunkSize int64
	entries   map[int64]entry
}

func (h *hdf5) entryReader(client, bytes int, chunkSize int64) (*entryReader, error) {
	r := &entryReader{h, client == 1, bytes, chunkSize, map[int64]entry{}}
	if n := bytes - h.offsets - 4; !r.filtered && bytes != h.offsets || r.filtered && (n < 1 || n > 8) {
		return nil, fmt.Errorf("an index with entries of %d bytes", bytes)
	}
	return r, nil
}

// take reads n entries, the first of which is of a number.
func (r *entryReader) take(c *cursor, first, n int64) {
	for i := range n {
		e := entry{at: r.h.address(c), size: r.chunkSize}
		if r.filtered {
			e.size, e.skip = c.number(r.bytes-r.h.offsets-4), uint32(c.uint(4))
		}
		if c.err == nil && e.at >= 0 {
			r.entries[first+i] = e
		}
	}
}

// pages reads n entries at a place in pages of so many, each with a checksum, as
// far as bits from the first say that they were written.
func (r *entryReader) pages(at, first, n, page int64, written []byte, bit int64) error {
	for k := int64(0); k*page < n; k++ {
		size := min(page, n-k*page)
		if i := bit + k; written[i/8]>>(7-i%8)&1 != 0 {
			b, err := r.h.bytes(at, size*int64(r.bytes))
			if err != nil {
				return err
			}
			r.take(&cursor{b: b}, first+k*page, size)
		}
		at += size*int64(r.bytes) + 4
	}
	return nil
}

// fixedArray reads the index of a dataset that cannot grow, or to a limit only.
func (h *hdf5) fixedArray(at, chunkSize int64) (map[int64]entry, error) {
	head, err := h.node(at, int64(12+h.offsets+h.lens), "FAHD")
	if err != nil {
		return nil, err
	}
	head.take(1)
	client, bytes, pageBits := head.int(1), head.int(1), head.int(1)
	n, block := head.number(h.lens), h.address(head)
	r, err := h.entryReader(client, bytes, chunkSize)
	if err != nil || block < 0 {
		return nil, err
	}
	if n < 1 || n > h.size {
		return nil, fmt.Errorf("an index of %d chunks in a file of %d bytes", n, h.size)
	}
	prefix := int64(6 + h.offsets)
	if _, err := h.node(block, prefix, "FADB"); err != nil {
		return nil, err
	}
	if pageBits >= 32 || n <= 1<<pageBits {
		b, err := h.bytes(block+prefix, n*int64(bytes))
		if err != nil {
			return nil, err
		}
		r.take(&cursor{b: b}, 0, n)
		return r.entries, nil
	}
	page := int64(1) << pageBits
	written, err := h.bytes(block+prefix, ceil(ceil(n, page), 8))
	if err != nil {
		return nil, err
	}
	return r.entries, r.pages(block+prefix+int64(len(written))+4, 0, n, page, written, 0)
}

// extensibleArray reads the index of a dataset that grows along one dimension.
// Super block u has 2^(u/2) data blocks of 2^((u+1)/2)·least entries; the first
// entries, and the places of the first super blocks' data blocks, stand in the
// index block.
func (h *hdf5) extensibleArray(at, chunkSize int64) (map[int64]entry, error) {
	head, err := h.node(at, int64(12+6*h.lens+h.offsets), "EAHD")
	if err != nil {
		return nil, err
	}
	head.take(1)
	client, bytes, maxBits := head.int(1), head.int(1), head.int(1)
	inIndex, least, pointers, pageBits := head.int(1), head.int(1), head.int(1), head.int(1)
	head.take(6 * h.lens)
	index := h.address(head)
	r, err := h.entryReader(client, bytes, chunkSize)
	if err != nil || index < 0 {
		return nil, err
	}
	power := func(n int) bool { return bits.OnesCount(uint(n)) == 1 }
	if !power(least) || !power(pointers) || maxBits > 64 || maxBits < bits.Len(uint(least)) || pageBits > 62 {
		return nil, errors.New("an index of chunks with a damaged header")
	}
	supers := 1 + maxBits - bits.Len(uint(least)) + 1
	direct := 2 * (bits.Len(uint(pointers)) - 1) // super blocks whose data blocks the index block names
	if direct > supers {
		return nil, errors.New("an index of chunks with a damaged header")
	}
	offset := (maxBits + 7) / 8 // bytes of a block's place in the array
	prefix := int64(6 + h.offsets)
	blocks := int64(2 * (pointers - 1))
	c, err := h.node(index, prefix+int64(inIndex*bytes)+(blocks+int64(supers-direct))*int64(h.offsets), "EAIB")
	if err != nil {
		return nil, err
	}
	c.take(2 + h.offsets)
	r.take(c, 0, int64(inIndex))

	// data reads a data block, whose pages' bits start at one of those given.
	data := func(at, first, n int64, written []byte, bit int64) error {
		if at < 0 {
			return nil
		}
		head := prefix + int64(offset)
		if n <= 1<<pageBits {
			c, err := h.node(at, head+n*int64(bytes), "EADB")
			if err != nil {
				return err
			}
			c.take(int(head) - 4)
			r.take(c, first, n)
			return nil
		}
		if _, err := h.node(at, head, "EADB"); err != nil {
			return err
		}
		return r.pages(at+head+4, first, n, 1<<pageBits, written, bit)
	}
	first := int64(inIndex)
	for u := range supers {
		blocks, n := int64(1)<<(u/2), int64(least)<<((u+1)/2)
		var at *cursor // of the data blocks' addresses
		var written []byte
		if u < direct {
			at = c
			if n > 1<<pageBits { // libraries write pages below super blocks only
				return nil, errors.New("an index of chunks with pages where there are none")
			}
		} else if super := h.address(c); super >= 0 {
			bitmap := int64(0)
			if n > 1<<pageBits {
				bitmap = blocks * ceil(n>>pageBits, 8)
			}
			size := prefix + int64(offset) + bitmap + blocks*int64(h.offsets)
			if at, err = h.node(super, size, "EASB"); err != nil {
				return nil, err
			}
			at.take(int(prefix) - 4 + offset)
			written = at.take(int(bitmap))
		}
		if at == nil {
			if first > 1<<40 {
				break // beyond every chunk of a file
			}
			first += blocks * n
			continue
		}
		for k := range blocks {
			if err := data(h.address(at), first, n, written, k*(n>>pageBits)); err != nil {
				return nil, err
			}
			first += n
		}
	}
	return r.entries, c.err
}

// chunkTree lists the chunks of a dataset that grows along several dimensions.
func (m *chunkedArray) chunkTree(at, size int64, partialUnfiltered bool) ([]chunk, error) {
	h := m.h
	var list []chunk
	rank := len(m.dims)
	err := h.records(at, func(kind int, c *cursor) error {
		k := chunk{at: h.address(c), size: size}
		sizeBytes := len(c.b) - 4 - 8*rank
		switch {
		case kind == 10 && len(c.b) == 8*rank:
		case kind == 11 && sizeBytes >= 1 && sizeBytes <= 8:
			k.size, k.skip = c.number(sizeBytes), uint32(c.uint(4))
		default:
			return fmt.Errorf("an index of chunks with records of kind %d and %d bytes", kind, len(c.b)+h.offsets)
		}
		partial := false
		for d := range rank {
			s := c.number(8)
			if s < 0 || s >= ceil(m.dims[d], m.block[d]) {
				return nil // left over from when the dataset was larger
			}
			k.start[d] = s * m.block[d]
			partial = partial || k.start[d]+m.block[d] > m.dims[d]
		}
		if partial && partialUnfiltered {
			k.skip = 1<<32 - 1
		}
		if k.at >= 0 {
			list = append(list, k)
		}
		return c.err
	})
	return list, err
}
