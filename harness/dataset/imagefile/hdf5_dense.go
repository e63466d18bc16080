package imagefile

import (
	"errors"
	"fmt"
	"math/bits"
)

// records calls visit with every record of a version 2 B-tree and its kind.
func (h *hdf5) records(at int64, visit func(kind int, c *cursor) error) error {
	if at < 0 {
		return nil
	}
	head, err := h.node(at, int64(22+h.offsets+h.lens), "BTHD")
	if err != nil {
		return err
	}
	head.take(1)
	t := tree2{h: h, visit: visit}
	t.kind, t.node = head.int(1), head.number(4)
	t.record = head.int(2)
	depth := head.int(2)
	head.take(2)
	root, n := h.address(head), head.number(2)
	const overhead = 10 // signature, version, kind, checksum
	if t.record < 1 || t.node < overhead+int64(t.record) || depth > 32 {
		return errors.New("a version 2 B-tree with a damaged header")
	}
	// How many bytes the numbers of records take follows from how many fit a node.
	fits := (t.node - overhead) / int64(t.record)
	width := func(most int64) int { return (bits.Len64(uint64(most))-1)/8 + 1 }
	t.count = width(fits)
	t.total = make([]int, depth+1)
	all := fits
	for level := 1; level <= depth; level++ {
		pointer := int64(h.offsets + t.count + t.total[level-1])
		fits := (t.node - overhead - pointer) / (int64(t.record) + pointer)
		if fits < 1 {
			return errors.New("a version 2 B-tree whose nodes are too small")
		}
		if all > (1<<62)/(fits+1)-fits {
			return errors.New("a version 2 B-tree that is too deep")
		}
		all = (fits+1)*all + fits
		t.total[level] = width(all)
	}
	if root < 0 {
		return nil
	}
	return t.walk(root, n, depth)
}

// tree2 is a version 2 B-tree.
type tree2 struct {
	h      *hdf5
	kind   int
	node   int64 // bytes of a node
	record int   // bytes of a record
	count  int   // bytes of the number of records in a child
	total  []int // bytes of the number of records below a node, by level
	visit  func(kind int, c *cursor) error
}

func (t *tree2) walk(at, n int64, level int) error {
	signature, size := "BTLF", 6+n*int64(t.record)
	pointer := 0
	if level > 0 {
		pointer = t.h.offsets + t.count + t.total[level-1]
		signature, size = "BTIN", size+(n+1)*int64(pointer)
	}
	if size > t.node {
		return fmt.Errorf("%d records in a node of %d bytes of a version 2 B-tree", n, t.node)
	}
	c, err := t.h.node(at, size, signature)
	if err != nil {
		return err
	}
	c.take(2)
	for range n {
		if err := t.visit(t.kind, &cursor{b: c.take(t.record)}); err != nil {
			return err
		}
	}
	for c.err == nil && len(c.b) > 0 {
		child, n := t.h.address(c), c.number(t.count)
		c.take(t.total[level-1])
		if err := t.walk(child, n, level-1); err != nil {
			return err
		}
	}
	return c.err
}

// Kinds of records that name objects of a fractal heap, with what stands before an
// object's identifier in one.
const (
	linkNames      = 5 // a hash
	attributeNames = 8
)

// objects calls visit with the objects of a fractal heap that a version 2 B-tree of
// a kind lists. Huge ones, which neither links nor the attributes that matter are,
// are left out.
func (h *hdf5) objects(heap, index int64, kind int, visit func([]byte) error) error {
	f, err := h.fractalHeap(heap)
	if err != nil {
		return err
	}
	return h.records(index, func(got int, c *cursor) error {
		if got != kind {
			return fmt.Errorf("names in a B-tree of kind %d, not %d", got, kind)
		}
		if kind == linkNames {
			c.take(4)
		}
		id := c.take(f.id)
		if kind == attributeNames && c.int(1)&2 != 0 {
			return c.err // shared, kept elsewhere
		}
		if c.err != nil {
			return c.err
		}
		b, err := f.object(id)
		if err != nil || b == nil {
			return err
		}
		return visit(b)
	})
}

// fractalHeap keeps objects in blocks. A row of its table has so many blocks of
// one size; that of row 0 and 1 is the least, then it doubles. Blocks beyond the
// greatest direct one are tables in turn.
type fractalHeap struct {
	h                *hdf5
	id               int // bytes of an identifier
	width            int64
	least, greatest  int64 // bytes of a direct block
	offsets, lengths int   // bytes of an object's place in the heap and of its length
	root             int64
	rows             int
	tables           map[int64][]byte // read before
}

func (h *hdf5) fractalHeap(at int64) (*fractalHeap, error) {
	c, err := h.node(at, int64(22+12*h.lens+3*h.offsets), "FRHP")
	if err != nil {
		return nil, err
	}
	f := &fractalHeap{h: h, tables: map[int64][]byte{}}
	c.take(1)
	f.id = c.int(2)
	filters := c.int(2)
	c.take(1)
	most := c.number(4) // bytes of an object
	c.take(h.lens + h.offsets + h.lens + h.offsets + 8*h.lens)
	f.width = c.number(2)
	f.least, f.greatest = c.number(h.lens), c.number(h.lens)
	space := c.int(2) // bits of the heap's size
	c.take(2)
	f.root, f.rows = h.address(c), c.int(2)
	power := func(n int64) bool { return n > 0 && bits.OnesCount64(uint64(n)) == 1 }
	switch {
	case c.err != nil:
		return nil, c.err
	case filters != 0:
		return nil, errors.New("a fractal heap that is filtered is not read")
	case !power(f.width) || !power(f.least) || !power(f.greatest) || f.greatest < f.least || f.greatest > 1<<32 || space > 64 || most < 1:
		return nil, errors.New("a fractal heap with a damaged header")
	}
	f.offsets = (space + 7) / 8
	f.lengths = min((bits.Len64(uint64(f.greatest))+6)/8, (bits.Len64(uint64(most))-1)/8+1)
	return f, nil
}

// object reads an object by its identifier; it is nil for a huge one.
func (f *fractalHeap) object(id []byte) ([]byte, error) {
	const managed, huge, tiny = 0, 1, 2
	c := &cursor{b: id}
	first := c.int(1)
	switch first >> 4 & 3 {
	case managed:
		at, n := c.number(f.offsets), c.number(f.lengths)
		if c.err != nil || at < 0 {
			return nil, errors.New("an object of a fractal heap that is nowhere")
		}
		if f.rows == 0 { // the root is a block
			return f.in(f.root, at, n, f.least)
		}
		return f.find(f.root, f.rows, at, n, 0)
	case huge:
		return nil, nil
	case tiny:
		n := first&15 + 1
		if f.id > 17 {
			n = first&15<<8 | c.int(1) + 1
		}
		b := c.take(n)
		return b, c.err
	}
	return nil, fmt.Errorf("an object of a fractal heap of kind %d", first>>4)
}

// in reads n bytes of a direct block.
func (f *fractalHeap) in(block, at, n, size int64) ([]byte, error) {
	if block < 0 || at > size || n > size-at {
		return nil, errors.New("an object of a fractal heap that is not in its block")
	}
	return f.h.bytes(block+at, n)
}

// find looks in a table of rows for the object of n bytes at a place.
func (f *fractalHeap) find(table int64, rows int, at, n int64, depth int) ([]byte, error) {
	h := f.h
	directRows := bits.Len64(uint64(f.greatest)) - bits.Len64(uint64(f.least)) + 2
	if rows < 1 || rows > 64 || depth > 8 {
		return nil, errors.New("a fractal heap with a damaged table")
	}
	prefix := int64(5 + h.offsets + f.offsets)
	b, ok := f.tables[table]
	if !ok {
		if _, err := h.node(table, prefix, "FHIB"); err != nil {
			return nil, err
		}
		var err error
		if b, err = h.bytes(table+prefix, int64(rows)*f.width*int64(h.offsets)); err != nil {
			return nil, err
		}
		f.tables[table] = b
	}
	size := f.least // of a block in this row
	for row := range rows {
		if row > 1 {
			size *= 2
		}
		if size > 1<<40 {
			break
		}
		if at >= size*f.width {
			at -= size * f.width
			continue
		}
		i := int64(row)*f.width + at/size
		if int64(len(b)) < (i+1)*int64(h.offsets) {
			break
		}
		block := h.address(&cursor{b: b[i*int64(h.offsets):]})
		if row < directRows {
			return f.in(block, at%size, n, size)
		}
		below := bits.Len64(uint64(size)) - bits.Len64(uint64(f.least*f.width)) + 1
		return f.find(block, below, at%size, n, depth+1)
	}
	return nil, errors.New("an object beyond a fractal heap's end")
}
