package imagefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// The part of the HDF5 file format (version 3.0 of its specification) in which
// stacks of images are kept: superblocks 0 to 3, both kinds of object header,
// groups as symbol tables, compact links or links in a fractal heap, attributes in
// the header or in a fractal heap, and datasets that are compact, contiguous or
// chunked, with any of the format's indexes. The rest (virtual and external
// datasets, committed datatypes) is refused by name.

const hdf5Magic = "\x89HDF\r\n\x1a\n"

// maxName bounds the name of a group or dataset.
const maxName = 4096

// findHDF5 looks for the superblock, which a user block of 512·2ⁿ bytes may
// precede.
func findHDF5(r io.ReaderAt, size int64) (base int64, ok bool) {
	var b [8]byte
	for base = 0; base <= size-8; base = max(512, 2*base) {
		if k, _ := r.ReadAt(b[:], base); k == 8 && string(b[:]) == hdf5Magic {
			return base, true
		}
	}
	return 0, false
}

// hdf5 reads the structures of one file. Everything read through it counts
// against a budget, so that a file whose structures share bytes stays cheap.
type hdf5 struct {
	r             io.ReaderAt
	size, base    int64
	budget        int64
	offsets, lens int      // bytes of an address and of a length
	other         []string // arrays that are no stacks, the first of them
}

// message is one of an object header.
type message struct {
	kind   int
	shared bool
	data   []byte
}

// Kinds of message.
const (
	msgDataspace    = 0x01
	msgLinkInfo     = 0x02
	msgDatatype     = 0x03
	msgLink         = 0x06
	msgLayout       = 0x08
	msgFilters      = 0x0b
	msgAttribute    = 0x0c
	msgContinuation = 0x10
	msgSymbols      = 0x11
	msgAttributes   = 0x15
)

// cursor takes little-endian numbers off a buffer; after the end they are 0 and
// err is set.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) take(n int) []byte {
	if n < 0 || n > len(c.b) {
		c.err = io.ErrUnexpectedEOF
		c.b = nil
		return make([]byte, max(min(n, 16), 0))
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) uint(n int) uint64 {
	var v uint64
	for i, x := range c.take(n) {
		if i < 8 {
			v |= uint64(x) << (8 * i)
		}
	}
	return v
}

func (c *cursor) int(n int) int { return int(c.uint(n)) }

// number is a length or address that must fit an int64.
func (c *cursor) number(n int) int64 {
	v := c.uint(n)
	if v > math.MaxInt64 {
		return -1
	}
	return int64(v)
}

// address is where something lies in the file, or -1 for "nowhere": all ones.
func (h *hdf5) address(c *cursor) int64 {
	v := c.uint(h.offsets)
	if v == math.MaxUint64>>(64-8*h.offsets) || v > math.MaxInt64-uint64(h.base) {
		return -1
	}
	return int64(v) + h.base
}

func (h *hdf5) bytes(offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset > h.size || n > h.size-offset {
		return nil, fmt.Errorf("%d bytes at %d lie outside the file of %d: it is truncated or damaged", n, offset, h.size)
	}
	if h.budget -= n; h.budget < 0 {
		return nil, errors.New("the structures are larger than the file: they overlap")
	}
	b := make([]byte, n)
	if k, err := h.r.ReadAt(b, offset); k < len(b) {
		return nil, noEOF(err)
	}
	return b, nil
}

// node reads n bytes that start with a signature.
func (h *hdf5) node(offset, n int64, signature string) (*cursor, error) {
	b, err := h.bytes(offset, n)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte(signature)) {
		return nil, fmt.Errorf("no %s at %d", signature, offset)
	}
	return &cursor{b: b[len(signature):]}, nil
}

func decodeHDF5(r io.ReaderAt, size, base int64, array string) (*Stack, error) {
	h := &hdf5{r: r, size: size, base: base, budget: 2*size + 4096}
	root, err := h.superblock()
	if err != nil {
		return nil, err
	}
	if messages, err := h.header(root); err == nil {
		links, _ := h.links(messages)
		if slices.ContainsFunc(links, func(l link) bool { return l.name == "ImageList" }) {
			return nil, errors.New("a DM5 file of DigitalMicrograph is not read: save the image as DM4 there (File > Save As)")
		}
	}
	var all []hdf5Array
	seen := map[int64]bool{}
	if err := h.walk(root, "", 0, seen, &all); err != nil {
		return nil, err
	}
	if len(all) == 0 && len(h.other) > 0 {
		return nil, fmt.Errorf("the file holds no array of images, only %s: want (H,W) or (N,H,W)", strings.Join(h.other, ", "))
	}
	h.budget += h.size // what the search for arrays took
	var names []string
	found := -1
	count := map[string]int{} // of a detector's images
	for i := range all {
		if a := &all[i]; strings.HasPrefix(a.name, "/Data/Image/") && len(all) > 1 {
			a.detector = h.velox(root, a.name).BinaryResult.Detector
			count[a.detector]++
		}
	}
	for i := range all {
		a := &all[i]
		name := a.name
		switch {
		case a.detector == "":
		case count[a.detector] == 1:
			name = a.detector
		default: // the path tells them apart
			name += " (" + a.detector + ")"
			a.detector = ""
		}
		names = append(names, name)
		if array == "" || a.name == "/"+strings.Trim(array, "/") || array != "" && array == a.detector {
			found = i
		}
	}
	if err := chooseOne(slices.Clone(names), array, found >= 0); err != nil {
		return nil, err
	}
	a := all[found]
	var named []axis
	var origin string
	if !strings.HasPrefix(a.name, "/Data/Image/") {
		named, origin = h.axesOf(root, a)
		a.orient(named)
	}
	if a.err != nil {
		return nil, fmt.Errorf("array %s: %w", a.name, a.err)
	}
	s, err := h.stack(a)
	if err != nil {
		return nil, fmt.Errorf("array %s: %w", all[found].name, err)
	}
	if len(all) > 1 {
		s.info.Array = names[found]
	}
	if strings.HasPrefix(a.name, "/Data/Image/") {
		h.velox(root, a.name).info(&s.info)
	}
	s.info.calibrateAxes(a, named, origin)
	return s, nil
}

// superblock returns the address of the root group's header.
func (h *hdf5) superblock() (root int64, err error) {
	b, err := h.bytes(h.base, min(128, h.size-h.base))
	if err != nil {
		return 0, err
	}
	c := &cursor{b: b[8:]}
	before := 3 // addresses before the root's: base, extension, end of file
	switch version := c.int(1); version {
	case 0, 1:
		c.take(4)
		h.offsets, h.lens = c.int(1), c.int(1)
		c.take(9 + 4*version)
		before = 5 // base, free space, end of file, driver, name
	case 2, 3:
		h.offsets, h.lens = c.int(1), c.int(1)
		c.take(1)
	default:
		return 0, fmt.Errorf("HDF5 superblock of version %d is not known", version)
	}
	if (h.offsets != 4 && h.offsets != 8) || (h.lens != 4 && h.lens != 8) {
		return 0, fmt.Errorf("HDF5 addresses of %d and lengths of %d bytes", h.offsets, h.lens)
	}
	c.take(before * h.offsets)
	root = h.address(c)
	return root, c.err
}

// header reads the messages of the object header at the address.
func (h *hdf5) header(at int64) ([]message, error) {
	start, err := h.bytes(at, min(16, max(h.size-at, 0)))
	if err != nil {
		return nil, err
	}
	type block struct{ offset, size int64 }
	var blocks []block
	var prefix int // bytes of a message's prefix, 8 in the old form
	var signed bool
	switch c := (&cursor{b: start}); {
	case bytes.HasPrefix(start, []byte("OHDR")):
		c.take(4)
		if v := c.int(1); v != 2 {
			return nil, fmt.Errorf("object header of version %d", v)
		}
		flags := c.int(1)
		skip := int64(6)
		if flags&0x20 != 0 {
			skip += 16
		}
		if flags&0x10 != 0 {
			skip += 4
		}
		n := 1 << (flags & 3)
		b, err := h.bytes(at+skip, int64(n))
		if err != nil {
			return nil, err
		}
		blocks = []block{{at + skip + int64(n), (&cursor{b: b}).number(n)}}
		prefix, signed = 4, true
		if flags&4 != 0 {
			prefix = 6
		}
	default:
		if v := c.int(1); v != 1 {
			return nil, fmt.Errorf("no object header at %d", at)
		}
		c.take(7)
		blocks = []block{{at + 16, c.number(4)}}
		prefix = 8
	}
	var out []message
	for i := 0; i < len(blocks); i++ {
		b, err := h.bytes(blocks[i].offset, blocks[i].size)
		if err != nil {
			return nil, err
		}
		if i > 0 && signed {
			if !bytes.HasPrefix(b, []byte("OCHK")) || len(b) < 8 {
				return nil, errors.New("no continuation of an object header")
			}
			b = b[4 : len(b)-4]
		}
		for c := (&cursor{b: b}); len(c.b) >= prefix; {
			var m message
			var n, flags int
			if prefix == 8 {
				m.kind, n, flags = c.int(2), c.int(2), c.int(1)
				c.take(3)
			} else {
				m.kind, n, flags = c.int(1), c.int(2), c.int(1)
				c.take(prefix - 4)
			}
			m.data, m.shared = c.take(n), flags&2 != 0
			if c.err != nil {
				return nil, errors.New("a message is longer than its object header")
			}
			if m.kind == msgContinuation {
				d := &cursor{b: m.data}
				blocks = append(blocks, block{h.address(d), d.number(h.lens)})
				if d.err != nil {
					return nil, d.err
				}
				continue
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// hdf5Array is a dataset that has the shape of a stack.
type hdf5Array struct {
	name     string
	messages []message
	dims     []int64
	most     []int64 // that dims may grow to
	axes     axes
	err      error  // why it is no stack, unless its axes have names that say more
	detector string // of Velox
}

// walk collects the arrays below the object at the address.
func (h *hdf5) walk(at int64, name string, depth int, seen map[int64]bool, all *[]hdf5Array) error {
	if seen[at] {
		return nil // another name of something visited
	}
	seen[at] = true
	if h.budget -= int64(len(name)); depth > 64 || h.budget < 0 {
		return errors.New("groups are nested too deep or their names are too long")
	}
	messages, err := h.header(at)
	if err != nil {
		return fmt.Errorf("object %q: %w", name, err)
	}
	links, err := h.links(messages)
	if err != nil {
		return fmt.Errorf("group %q: %w", name, err)
	}
	for _, l := range links {
		if err := h.walk(l.at, name+"/"+l.name, depth+1, seen, all); err != nil {
			return err
		}
	}
	space, layout := find(messages, msgDataspace), find(messages, msgLayout)
	if space == nil || layout == nil {
		return nil
	}
	dims, most, err := h.resizable(space.data)
	if err != nil {
		return fmt.Errorf("dataset %q: %w", name, err)
	}
	velox := strings.HasPrefix(name, "/Data/Image/")
	ax, err := stackAxes(dims)
	if velox && strings.HasSuffix(name, "/Metadata") {
		return nil // of the images beside it
	}
	if velox && len(dims) == 3 {
		ax, err = axes{2, 0, 1}, nil // frames come last
	}
	if _, ok := h.attributes(messages)["MATLAB_class"]; ok && len(dims) > 1 {
		last := len(dims) - 1 // MATLAB writes the last dimension first
		if ax, err = matlabAxes(reversed(dims)); err == nil {
			ax.row, ax.column = last-ax.row, last-ax.column
			if ax.image >= 0 {
				ax.image = last - ax.image
			}
		}
	}
	if len(dims) > 3 && err != nil && len(h.other) < 5 {
		h.other = append(h.other, fmt.Sprintf("%s of shape %v", name, dims))
	}
	if err == nil || len(dims) == 3 {
		*all = append(*all, hdf5Array{name: name, messages: messages, dims: dims, most: most, axes: ax, err: err})
	}
	return nil
}

func reversed(v []int64) []int64 {
	v = slices.Clone(v)
	slices.Reverse(v)
	return v
}

func find(messages []message, kind int) *message {
	for i := range messages {
		if messages[i].kind == kind {
			return &messages[i]
		}
	}
	return nil
}

type link struct {
	name string
	at   int64
}

// links lists a group's hard links, sorted by name; soft and external ones lead
// nowhere that would be read.
func (h *hdf5) links(messages []message) ([]link, error) {
	var links []link
	for _, m := range messages {
		c := &cursor{b: m.data}
		switch m.kind {
		case msgLink:
			l, hard, err := h.link(m.data)
			if err != nil {
				return nil, err
			}
			if hard {
				links = append(links, l)
			}
		case msgLinkInfo:
			c.take(1)
			if c.int(1)&1 != 0 {
				c.take(8)
			}
			heap, index := h.address(c), h.address(c)
			if heap < 0 || c.err != nil {
				break // none but those in the header
			}
			err := h.objects(heap, index, linkNames, func(b []byte) error {
				l, hard, err := h.link(b)
				if hard && err == nil {
					links = append(links, l)
				}
				return err
			})
			if err != nil {
				return nil, err
			}
		case msgSymbols:
			tree, heap := h.address(c), h.address(c)
			if c.err != nil {
				break
			}
			names, err := h.heap(heap)
			if err != nil {
				return nil, err
			}
			if links, err = h.symbols(tree, names, -1, links); err != nil {
				return nil, err
			}
		}
		if c.err != nil {
			return nil, c.err
		}
	}
	slices.SortFunc(links, func(a, b link) int { return strings.Compare(a.name, b.name) })
	return links, nil
}

// link reads a link; only hard ones have a place in the file.
func (h *hdf5) link(b []byte) (l link, hard bool, err error) {
	c := &cursor{b: b}
	c.take(1)
	flags := c.int(1)
	kind := 0
	if flags&8 != 0 {
		kind = c.int(1)
	}
	if flags&4 != 0 {
		c.take(8)
	}
	if flags&16 != 0 {
		c.take(1)
	}
	l.name = string(c.take(c.int(1 << (flags & 3))))
	if kind == 0 {
		l.at = h.address(c)
	}
	return l, kind == 0, c.err
}

// heap reads a group's names.
func (h *hdf5) heap(at int64) (string, error) {
	c, err := h.node(at, int64(8+2*h.lens+h.offsets), "HEAP")
	if err != nil {
		return "", err
	}
	c.take(4)
	n := c.number(h.lens)
	c.take(h.lens)
	b, err := h.bytes(h.address(c), n)
	return string(b), err
}

// symbols reads the entries under a B-tree node. level is what the parent says
// it must be, -1 for the root: levels fall, so a loop ends.
func (h *hdf5) symbols(at int64, names string, level int, links []link) ([]link, error) {
	c, got, n, err := h.tree(at, 0, level, h.lens)
	if err != nil {
		return nil, err
	}
	for range n {
		c.take(h.lens) // key
		child := h.address(c)
		if got > 0 {
			if links, err = h.symbols(child, names, got-1, links); err != nil {
				return nil, err
			}
			continue
		}
		entry := int64(2*h.offsets + 24)
		s, err := h.node(child, 8, "SNOD")
		if err != nil {
			return nil, err
		}
		s.take(2)
		k := int64(s.int(2))
		b, err := h.bytes(child+8, k*entry)
		if err != nil {
			return nil, err
		}
		s = &cursor{b: b}
		for range k {
			name, object, cache := s.number(h.offsets), h.address(s), s.int(4)
			s.take(20)
			if name < 0 || name > int64(len(names)) {
				return nil, fmt.Errorf("a name at %d of a heap of %d bytes", name, len(names))
			}
			// Not to the heap's end: many names without one would take for ever.
			text, _, ok := strings.Cut(names[name:min(name+maxName, int64(len(names)))], "\x00")
			if !ok {
				return nil, fmt.Errorf("a name does not end within %d bytes", maxName)
			}
			if cache != 2 { // a soft link
				links = append(links, link{text, object})
			}
		}
	}
	return links, nil
}

// tree reads a version 1 B-tree node of a kind: its level, its number of entries
// and a cursor over them. Each entry is a key and an address.
func (h *hdf5) tree(at int64, kind, level, key int) (c *cursor, got, n int, err error) {
	head, err := h.node(at, 8, "TREE")
	if err != nil {
		return nil, 0, 0, err
	}
	k := head.int(1)
	got, n = head.int(1), head.int(2)
	if k != kind || level >= 0 && got != level || got > 32 {
		return nil, 0, 0, fmt.Errorf("the node at %d of a B-tree is of kind %d and level %d", at, k, got)
	}
	b, err := h.bytes(at+8+2*int64(h.offsets), int64(n)*int64(key+h.offsets))
	return &cursor{b: b}, got, n, err
}

// dataspace reads a dataset's dimensions.
func (h *hdf5) dataspace(b []byte) (dims []int64, err error) {
	dims, _, err = h.resizable(b)
	return dims, err
}

// unlimited is the most of a dimension that may grow for ever.
const unlimited = -1

// resizable reads a dataset's dimensions and what they may grow to.
func (h *hdf5) resizable(b []byte) (dims, most []int64, err error) {
	c := &cursor{b: b}
	version, rank, flags := c.int(1), c.int(1), c.int(1)
	switch version {
	case 1:
		c.take(5)
	case 2:
		c.take(1)
	default:
		return nil, nil, fmt.Errorf("dataspace of version %d", version)
	}
	if rank > 32 {
		return nil, nil, fmt.Errorf("%d dimensions", rank)
	}
	dims = make([]int64, rank)
	for i := range dims {
		if dims[i] = c.number(h.lens); dims[i] < 0 {
			return nil, nil, errors.New("a dimension does not fit 63 bits")
		}
	}
	most = slices.Clone(dims)
	if flags&1 != 0 {
		for i := range most {
			v := c.uint(h.lens)
			if most[i] = int64(v); v == math.MaxUint64>>(64-8*h.lens) {
				most[i] = unlimited
			} else if most[i] < dims[i] {
				return nil, nil, fmt.Errorf("a dimension of %d of at most %d", dims[i], v)
			}
		}
	}
	return dims, most, c.err
}

// datatype reads a number's type; enumerations, which h5py's booleans are, count
// as their base type.
func datatype(b []byte, depth int) (element, error) {
	c := &cursor{b: b}
	class, bits, size := c.int(1)&15, c.int(3), c.int(4)
	e := element{size: size, order: binary.LittleEndian}
	if bits&1 != 0 {
		e.order = binary.BigEndian
	}
	switch class {
	case 0:
		e.kind = 'u'
		if bits&8 != 0 {
			e.kind = 'i'
		}
		if offset, precision := c.int(2), c.int(2); offset != 0 || precision != 8*size {
			return e, fmt.Errorf("integers of %d bits at bit %d of %d bytes", precision, offset, size)
		}
	case 1:
		e.kind = 'f'
		c.take(4 + 1)
		exponent := c.int(1)
		c.take(1)
		mantissa := c.int(1)
		ieee := map[int][2]int{2: {5, 10}, 4: {8, 23}, 8: {11, 52}}
		if bits&0x40 != 0 || ieee[size] != [2]int{exponent, mantissa} {
			return e, fmt.Errorf("floats of %d bytes with %d bits of exponent and %d of mantissa", size, exponent, mantissa)
		}
	case 8:
		if depth > 0 {
			return e, errors.New("an enumeration of an enumeration")
		}
		return datatype(c.b, depth+1)
	default:
		what := map[int]string{3: "texts", 5: "opaque bytes", 6: "records (complex numbers or colours)", 7: "references", 9: "texts or lists of any length"}[class]
		if what == "" {
			what = fmt.Sprintf("elements of HDF5 class %d", class)
		}
		return e, fmt.Errorf("%s are not read, only integers, real floats and booleans", what)
	}
	if c.err != nil {
		return e, c.err
	}
	return e, e.check()
}
