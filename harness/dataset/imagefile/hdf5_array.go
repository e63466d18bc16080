package imagefile

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
)

// stack reads how an array is stored.
func (h *hdf5) stack(a hdf5Array) (*Stack, error) {
	kind, layout := find(a.messages, msgDatatype), find(a.messages, msgLayout)
	if kind == nil {
		return nil, errors.New("it has no datatype")
	}
	if kind.shared {
		return nil, errors.New("its datatype is kept elsewhere (committed), which is not read")
	}
	e, err := datatype(kind.data, 0)
	if err != nil {
		return nil, err
	}
	c := &cursor{b: layout.data}
	version := c.int(1)
	if version < 3 || version > 5 {
		return nil, fmt.Errorf("data layout of version %d is not read, only 3 to 5: save the file with h5py", version)
	}
	switch class := c.int(1); class {
	case 0:
		data := c.take(c.int(2))
		if c.err != nil {
			return nil, c.err
		}
		return rawStack("HDF5", bytes.NewReader(data), int64(len(data)), 0, e, a.dims, a.axes, false)
	case 1:
		at := h.address(c)
		if at < 0 {
			return nil, errors.New("its data were never written")
		}
		return rawStack("HDF5", h.r, h.size, at, e, a.dims, a.axes, false)
	case 2:
		return h.chunked(c, version, a, e)
	default:
		return nil, fmt.Errorf("data layout of class %d is not read (virtual datasets are not)", class)
	}
}

// chunk is a block of a dataset, stored and filtered as one.
type chunk struct {
	start    [4]int64 // indices of its first element
	at, size int64    // in the file
	skip     uint32   // filters not applied
}

// chunkedArray reads a dataset block by block.
type chunkedArray struct {
	h           *hdf5
	element     element
	dims, block []int64
	filters     []int
	// byImage lists the chunks that hold images k·n to (k+1)·n − 1, for n images
	// per chunk.
	byImage map[int64][]chunk

	mu     sync.Mutex
	cached int64 // key of byImage whose chunks are unpacked, -1 for none
	data   [][]byte
}

func (h *hdf5) chunked(c *cursor, version int, a hdf5Array, e element) (*Stack, error) {
	rank := len(a.dims)
	flags, bytesPer := 0, 4 // of a dimension
	if version >= 4 {
		flags = c.int(1)
	}
	if n := c.int(1); n != rank+1 {
		return nil, fmt.Errorf("chunks of %d dimensions for %d", n-1, rank)
	}
	var root int64
	if version >= 4 {
		bytesPer = c.int(1)
	} else {
		root = h.address(c)
	}
	m := &chunkedArray{h: h, element: e, dims: a.dims, byImage: map[int64][]chunk{}, cached: -1}
	bytes := int64(e.size)
	want := int64(1) // chunks
	for _, n := range a.dims {
		b := c.number(bytesPer)
		if b < 1 || bytes > maxPixels*8/b {
			return nil, fmt.Errorf("chunks of %d elements along a dimension", b)
		}
		bytes *= b
		m.block = append(m.block, b)
		if n < 1 || want > h.size/ceil(n, b) {
			return nil, fmt.Errorf("an array of shape %v in chunks of shape %v does not fit the file", a.dims, m.block)
		}
		want *= ceil(n, b)
	}
	if n := c.int(bytesPer); n != e.size || c.err != nil {
		return nil, fmt.Errorf("chunks of elements of %d bytes, elements of %d", n, e.size)
	}
	images, height, width, err := a.axes.sizes(a.dims)
	if err != nil {
		return nil, err
	}
	ratio := int64(1)
	if f := find(a.messages, msgFilters); f != nil {
		if m.filters, ratio, err = filters(f.data); err != nil {
			return nil, err
		}
	}
	var chunks []chunk
	if version >= 4 {
		chunks, err = m.index(c, flags, bytes, a.most)
	} else if root >= 0 {
		chunks, err = h.chunks(root, rank, -1, nil)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(chunks)) != want {
		return nil, fmt.Errorf("%d of its %d chunks were written", len(chunks), want)
	}
	if err := m.sort(chunks, bytes, ratio, a.axes.image); err != nil {
		return nil, err
	}
	s := &Stack{Format: "HDF5", N: int(images), H: int(height), W: int(width)}
	s.image = func(i int, dst []float32) error { return m.image(int64(i), a.axes, dst) }
	return s, nil
}

// sort puts chunks, of so many bytes when unpacked from at most so many times
// fewer, to the images that they hold, which are counted along a dimension, −1
// for a single image.
func (m *chunkedArray) sort(chunks []chunk, bytes, ratio int64, dimension int) error {
	seen := map[[4]int64]bool{}
	left := m.h.size
	for _, k := range chunks {
		start := k.start[:len(m.dims)]
		for d, s := range start {
			if s%m.block[d] != 0 || s >= m.dims[d] {
				return fmt.Errorf("a chunk starts at %v", start)
			}
		}
		if left -= k.size; seen[k.start] || left < 0 {
			return errors.New("its chunks overlap")
		}
		seen[k.start] = true
		if bytes/ratio > k.size || k.at < 0 || k.at > m.h.size || k.size > m.h.size-k.at {
			return fmt.Errorf("a chunk of %d bytes at %d cannot hold %d", k.size, k.at, bytes)
		}
		key := int64(0)
		if dimension >= 0 {
			key = k.start[dimension] / m.block[dimension]
		}
		m.byImage[key] = append(m.byImage[key], k)
	}
	return nil
}

// chunks lists the chunks under a B-tree node.
func (h *hdf5) chunks(at int64, rank, level int, list []chunk) ([]chunk, error) {
	c, got, n, err := h.tree(at, 1, level, 8+8*(rank+1))
	if err != nil {
		return nil, err
	}
	for range n {
		var k chunk
		k.size, k.skip = c.number(4), uint32(c.uint(4))
		for d := range rank {
			k.start[d] = c.number(8)
			if k.start[d] < 0 {
				return nil, errors.New("a chunk starts nowhere")
			}
		}
		c.take(8)
		k.at = h.address(c)
		if got == 0 {
			list = append(list, k)
		} else if list, err = h.chunks(k.at, rank, got-1, list); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// image copies image i out of the chunks that hold it.
func (m *chunkedArray) image(i int64, ax axes, dst []float32) error {
	di, dr, dc := ax.image, ax.row, ax.column
	key := int64(0)
	if di >= 0 {
		key = i / m.block[di]
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	chunks := m.byImage[key]
	if m.cached != key {
		m.data, m.cached = nil, -1
		for _, k := range chunks {
			b, err := m.unpack(k)
			if err != nil {
				return fmt.Errorf("chunk at %v: %w", k.start[:len(m.dims)], err)
			}
			m.data = append(m.data, b)
		}
		m.cached = key
	}
	stride := func(d int) int64 { // in a chunk, in bytes
		s := int64(m.element.size)
		for _, n := range m.block[d+1:] {
			s *= n
		}
		return s
	}
	rows, columns := stride(dr), stride(dc)
	for n, k := range chunks {
		b := m.data[n]
		if di >= 0 {
			b = b[(i-k.start[di])*stride(di):]
		}
		y0, x0 := k.start[dr], k.start[dc]
		for y := range min(m.block[dr], m.dims[dr]-y0) {
			out := dst[(y0+y)*m.dims[dc]+x0:][:min(m.block[dc], m.dims[dc]-x0)]
			for x := range out {
				out[x] = m.element.value(b[y*rows+int64(x)*columns:])
			}
		}
	}
	return nil
}

// unpack reads a chunk and undoes its filters.
func (m *chunkedArray) unpack(k chunk) ([]byte, error) {
	whole := int64(m.element.size)
	for _, n := range m.block {
		whole *= n
	}
	b := make([]byte, k.size)
	if n, err := m.h.r.ReadAt(b, k.at); n < len(b) {
		return nil, noEOF(err)
	}
	var err error
	for f := len(m.filters) - 1; f >= 0; f-- {
		if k.skip>>f&1 != 0 {
			continue
		}
		switch m.filters[f] {
		case filterFletcher:
			b, err = fletcher32(b)
		case filterDeflate:
			b, err = inflate(b, whole+4) // a checksum may have been packed too
		case filterLZF:
			b, err = unLZF(b, whole+4)
		case filterShuffle:
			b = unshuffle(b, m.element.size)
		}
		if err != nil {
			return nil, err
		}
	}
	if int64(len(b)) != whole {
		return nil, fmt.Errorf("%d bytes unpacked, want %d", len(b), whole)
	}
	return b, nil
}
