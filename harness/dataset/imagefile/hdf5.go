package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"strings"
	"sync"
)

// The part of the HDF5 file format (version 3.0 of its specification) in which
// stacks of images are kept: superblocks 0 to 3, both kinds of object header,
// groups as symbol tables or as compact links, and datasets that are compact,
// contiguous or chunked, indexed by a version 1 B-tree, a single chunk, an
// implicit or a fixed array. What h5py, MATLAB, Velox and ncempy write by default
// is of this kind. The rest is refused by name.

const hdf5Magic = "\x89HDF\r\n\x1a\n"

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
	offsets, lens int // bytes of an address and of a length
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
	var all []hdf5Array
	seen := map[int64]bool{}
	if err := h.walk(root, "", 0, seen, &all); err != nil {
		return nil, err
	}
	var names []string
	found := -1
	for i, a := range all {
		names = append(names, a.name)
		if array == "" || a.name == "/"+strings.Trim(array, "/") {
			found = i
		}
	}
	if err := chooseOne(names, array, found >= 0); err != nil {
		return nil, err
	}
	s, err := h.stack(all[found])
	if err != nil {
		return nil, fmt.Errorf("array %s: %w", all[found].name, err)
	}
	s.PixelSize = h.pixelSize(root, all[found].name, all[found].axes.column)
	return s, nil
}

// pixelSize looks for the pixel size of an array where Velox and where the
// EMD format of NCEM keep it. Without one, or if it cannot be read, it is
// unknown: 0.
func (h *hdf5) pixelSize(root int64, array string, column int) float64 {
	h.budget += h.size // what the search for arrays took
	dir := path.Dir(array)
	if strings.HasPrefix(array, "/Data/Image/") {
		text, err := h.veloxMetadata(root, dir+"/Metadata")
		var m struct {
			BinaryResult struct {
				PixelSize struct {
					Width float64 `json:"width,string"` // m
				}
			}
		}
		if err != nil || json.Unmarshal(text, &m) != nil {
			return 0
		}
		return plausible(1e10 * m.BinaryResult.PixelSize.Width)
	}
	messages, err := h.lookup(root, fmt.Sprintf("%s/dim%d", dir, column+1))
	if err != nil {
		return 0
	}
	step, unit, err := h.scale(messages)
	if err != nil {
		return 0
	}
	return plausible(step * angstroms(unit))
}

// scale reads the step and the unit of NCEM's vector of coordinates, "[n_m]" or
// "nm".
func (h *hdf5) scale(messages []message) (step float64, unit string, err error) {
	kind, layout := find(messages, msgDatatype), find(messages, msgLayout)
	if kind == nil || layout == nil {
		return 0, "", errors.New("no vector")
	}
	e, err := datatype(kind.data, 0)
	if err != nil {
		return 0, "", err
	}
	c := &cursor{b: layout.data}
	if version, class := c.int(1), c.int(1); version < 3 || class != 1 {
		return 0, "", errors.New("a vector that is not contiguous")
	}
	b, err := h.bytes(h.address(c), int64(2*e.size))
	if err != nil {
		return 0, "", err
	}
	for _, m := range messages {
		if name, text := attribute(m); name == "units" {
			unit = strings.NewReplacer("[", "", "]", "", "_", "").Replace(text)
		}
	}
	return float64(e.value(b[e.size:])) - float64(e.value(b)), unit, nil
}

// attribute reads an attribute that is a string of fixed length.
func attribute(m message) (name, text string) {
	if m.kind != msgAttribute {
		return "", ""
	}
	c := &cursor{b: m.data}
	version := c.int(1)
	c.take(1)
	sizes := [3]int{c.int(2), c.int(2), c.int(2)} // of name, datatype and dataspace
	if version == 3 {
		c.take(1)
	}
	var parts [3][]byte
	for i, n := range sizes {
		if version == 1 {
			n = (n + 7) / 8 * 8
		}
		parts[i] = c.take(n)
	}
	t := &cursor{b: parts[1]}
	if class, _, size := t.int(1)&15, t.int(3), t.int(4); class == 3 && c.err == nil && t.err == nil {
		v := c.take(size)
		if c.err == nil {
			return strings.TrimRight(string(parts[0]), "\x00"), strings.TrimRight(string(v), "\x00 ")
		}
	}
	return "", ""
}

// veloxMetadata is the JSON of the first frame: column 0 of an array of bytes,
// padded with zeros.
func (h *hdf5) veloxMetadata(root int64, name string) ([]byte, error) {
	messages, err := h.lookup(root, name)
	if err != nil {
		return nil, err
	}
	space := find(messages, msgDataspace)
	if space == nil {
		return nil, errors.New("no array")
	}
	dims, err := h.dataspace(space.data)
	if err != nil || len(dims) != 2 {
		return nil, errors.New("no table of bytes")
	}
	s, err := h.stack(hdf5Array{name, messages, dims, axes{-1, 0, 1}})
	if err != nil {
		return nil, err
	}
	pixels := make([]float32, s.H*s.W)
	if err := s.At(0, pixels); err != nil {
		return nil, err
	}
	text := make([]byte, s.H)
	for i := range text {
		text[i] = byte(pixels[i*s.W])
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return text, nil
}

// lookup reads the header of the object at a path.
func (h *hdf5) lookup(root int64, name string) ([]message, error) {
	messages, err := h.header(root)
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		if err != nil {
			return nil, err
		}
		links, err := h.links(messages)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(links, func(l link) bool { return l.name == part })
		if i < 0 {
			return nil, fmt.Errorf("no %s", name)
		}
		if messages, err = h.header(links[i].at); err != nil {
			return nil, err
		}
	}
	return messages, err
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
	axes     axes
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
	dims, err := h.dataspace(space.data)
	if err != nil {
		return fmt.Errorf("dataset %q: %w", name, err)
	}
	velox := strings.HasPrefix(name, "/Data/Image/")
	ax, err := stackAxes(dims)
	if velox && strings.HasSuffix(name, "/Metadata") {
		return nil // of the images beside it
	}
	if velox && len(dims) == 3 {
		ax = axes{2, 0, 1} // frames come last
	}
	if err == nil {
		*all = append(*all, hdf5Array{name, messages, dims, ax})
	}
	return nil
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
			name := string(c.take(c.int(1 << (flags & 3))))
			if kind == 0 {
				links = append(links, link{name, h.address(c)})
			}
		case msgLinkInfo:
			c.take(1)
			if c.int(1)&1 != 0 {
				c.take(8)
			}
			if h.address(c) >= 0 && c.err == nil {
				return nil, errors.New("its links are kept in a fractal heap, which is not read: save the file with h5py's default settings (libver=\"earliest\")")
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
			text, _, ok := strings.Cut(names[name:], "\x00")
			if !ok {
				return nil, errors.New("a name does not end")
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
		return nil, 0, 0, fmt.Errorf("B-tree node at %d is of kind %d and level %d", at, k, got)
	}
	b, err := h.bytes(at+8+2*int64(h.offsets), int64(n)*int64(key+h.offsets))
	return &cursor{b: b}, got, n, err
}

// dataspace reads a dataset's dimensions.
func (h *hdf5) dataspace(b []byte) ([]int64, error) {
	c := &cursor{b: b}
	version, rank, _ := c.int(1), c.int(1), c.int(1)
	switch version {
	case 1:
		c.take(5)
	case 2:
		c.take(1)
	default:
		return nil, fmt.Errorf("dataspace of version %d", version)
	}
	if rank > 32 {
		return nil, fmt.Errorf("%d dimensions", rank)
	}
	dims := make([]int64, rank)
	for i := range dims {
		if dims[i] = c.number(h.lens); dims[i] < 0 {
			return nil, errors.New("a dimension does not fit 63 bits")
		}
	}
	return dims, c.err
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
		return e, fmt.Errorf("elements of HDF5 class %d are not read, only integers, real floats and booleans", class)
	}
	if c.err != nil {
		return e, c.err
	}
	return e, e.check()
}

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
		chunks, err = m.index(c, flags, bytes, want)
	} else if root >= 0 {
		chunks, err = h.chunks(root, rank, -1, nil)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(chunks)) != want {
		return nil, fmt.Errorf("%d of its %d chunks were written", len(chunks), want)
	}
	seen := map[[4]int64]bool{}
	left := h.size
	for _, k := range chunks {
		for d, s := range k.start[:rank] {
			if s%m.block[d] != 0 || s >= a.dims[d] {
				return nil, fmt.Errorf("a chunk starts at %v", k.start[:rank])
			}
		}
		if left -= k.size; seen[k.start] || left < 0 {
			return nil, errors.New("its chunks overlap")
		}
		seen[k.start] = true
		if bytes/ratio > k.size || k.at < 0 || k.at > h.size || k.size > h.size-k.at {
			return nil, fmt.Errorf("a chunk of %d bytes at %d cannot hold %d", k.size, k.at, bytes)
		}
		key := int64(0)
		if d := a.axes.image; d >= 0 {
			key = k.start[d] / m.block[d]
		}
		m.byImage[key] = append(m.byImage[key], k)
	}
	s := &Stack{Format: "HDF5", N: int(images), H: int(height), W: int(width)}
	s.image = func(i int, dst []float32) error { return m.image(int64(i), a.axes, dst) }
	return s, nil
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

// index reads one of the newer indexes of n chunks of a size, in which chunks are
// numbered row by row and not keyed by where they start.
func (m *chunkedArray) index(c *cursor, flags int, size, n int64) ([]chunk, error) {
	if flags&1 != 0 {
		return nil, errors.New("its partial chunks are not filtered, which is not read")
	}
	var list []chunk
	start := make([]int64, len(m.dims))
	add := func(k chunk) {
		if k.at < 0 {
			return // never written
		}
		copy(k.start[:], start)
		list = append(list, k)
	}
	next := func() {
		for d := len(start) - 1; d >= 0; d-- {
			if start[d] += m.block[d]; start[d] < m.dims[d] {
				return
			}
			start[d] = 0
		}
	}
	h := m.h
	switch kind := c.int(1); kind {
	case 1: // a single chunk
		k := chunk{size: size}
		if flags&2 != 0 {
			k.size, k.skip = c.number(h.lens), uint32(c.uint(4))
		}
		k.at = h.address(c)
		add(k)
		return list, c.err
	case 2: // one after the other, unfiltered
		at := h.address(c)
		for i := range n {
			add(chunk{at: at + i*size, size: size})
			next()
		}
		return list, c.err
	case 3: // a fixed array
		c.take(1)
		head, err := h.node(h.address(c), int64(12+h.offsets+h.lens), "FAHD")
		if err != nil {
			return nil, err
		}
		head.take(1)
		filtered, entry, pageBits := head.int(1) == 1, head.int(1), head.int(1)
		if got := head.number(h.lens); got != n {
			return nil, fmt.Errorf("an index of %d chunks, not of %d", got, n)
		}
		at := h.address(head)
		prefix := int64(6 + h.offsets)
		if c, err = h.node(at, prefix, "FADB"); err != nil {
			return nil, err
		}
		page := n
		if pageBits < 32 && n > 1<<pageBits {
			page = 1 << pageBits
			prefix += ceil(ceil(n, page), 8) + 4 // a bit for each page, a checksum
		}
		sizeBytes := entry - h.offsets - 4
		if !filtered && entry != h.offsets || filtered && (sizeBytes < 1 || sizeBytes > 8) {
			return nil, fmt.Errorf("an index with entries of %d bytes", entry)
		}
		at += prefix
		for first := int64(0); first < n; first += page {
			k := min(page, n-first)
			b, err := h.bytes(at, k*int64(entry))
			if err != nil {
				return nil, err
			}
			at += k*int64(entry) + 4
			for e := (&cursor{b: b}); len(e.b) > 0; next() {
				k := chunk{at: h.address(e), size: size}
				if filtered {
					k.size, k.skip = e.number(sizeBytes), uint32(e.uint(4))
				}
				add(k)
			}
		}
		return list, nil
	default:
		return nil, fmt.Errorf("its chunks are indexed for resizing (kind %d), which is not read: save the file with h5py's default settings (libver=\"earliest\")", kind)
	}
}

// Filters that are read, by their registered numbers.
const (
	filterDeflate  = 1
	filterShuffle  = 2
	filterFletcher = 3
	filterLZF      = 32000
)

// maxLZF is the best ratio of LZF: 264 bytes for three.
const maxLZF = 88

// filters reads the pipeline in the order of writing, and its best ratio.
func filters(b []byte) (ids []int, ratio int64, err error) {
	c := &cursor{b: b}
	version, n := c.int(1), c.int(1)
	if version != 1 && version != 2 {
		return nil, 0, fmt.Errorf("filter pipeline of version %d", version)
	}
	if version == 1 {
		c.take(6)
	}
	ratio = 1
	for range n {
		id, name := c.int(2), 0
		if version == 1 || id >= 256 {
			name = c.int(2)
		}
		c.take(2)
		values := c.int(2)
		if version == 1 {
			name = (name + 7) / 8 * 8
			values += values % 2
		}
		c.take(name + 4*values)
		switch {
		case id == filterDeflate && ratio == 1:
			ratio = maxDeflate
		case id == filterLZF && ratio == 1:
			ratio = maxLZF
		case id == filterShuffle, id == filterFletcher:
		default:
			return nil, 0, fmt.Errorf("filter %d is not read, only one of deflate and LZF, with shuffle and Fletcher-32", id)
		}
		ids = append(ids, id)
	}
	return ids, ratio, c.err
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

// inflate unpacks at most limit bytes.
func inflate(b []byte, limit int64) ([]byte, error) {
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(io.LimitReader(z, limit))
}

// unshuffle undoes the transposition of a chunk's bytes: first all first bytes of
// the elements, then all second ones, …; bytes beyond the last whole element
// stay.
func unshuffle(b []byte, size int) []byte {
	n := len(b) / size
	out := bytes.Clone(b)
	for i := range n {
		for j := range size {
			out[i*size+j] = b[j*n+i]
		}
	}
	return out
}

// fletcher32 checks and removes a chunk's checksum: Fletcher's over big-endian
// 16-bit words, modulo 65535.
func fletcher32(b []byte) ([]byte, error) {
	n := len(b) - 4
	if n < 0 {
		return nil, io.ErrUnexpectedEOF
	}
	var s1, s2 uint64
	for i := 0; i < n; i += 2 {
		w := uint64(b[i]) << 8
		if i+1 < n {
			w |= uint64(b[i+1])
		}
		s1 = (s1 + w) % 65535
		s2 = (s2 + s1) % 65535
	}
	stored := binary.LittleEndian.Uint32(b[n:])
	lo, hi := uint64(stored&0xffff)%65535, uint64(stored>>16)%65535 // 65535 counts as 0
	if lo != s1 || hi != s2 {
		return nil, fmt.Errorf("its checksum is %#x, it should be %#x", s2<<16|s1, stored)
	}
	return b[:n], nil
}

// unLZF unpacks at most limit bytes of Marc Lehmann's LZF: a control byte below 32
// announces that many literals and one; any other a copy of three bits' length and
// two, from 13 bits' distance and one.
func unLZF(src []byte, limit int64) ([]byte, error) {
	var out []byte
	for len(src) > 0 && int64(len(out)) < limit {
		ctrl := int(src[0])
		src = src[1:]
		if ctrl < 32 {
			if len(src) < ctrl+1 {
				return nil, io.ErrUnexpectedEOF
			}
			out = append(out, src[:ctrl+1]...)
			src = src[ctrl+1:]
			continue
		}
		n := ctrl>>5 + 2
		if n == 9 && len(src) > 0 {
			n += int(src[0])
			src = src[1:]
		}
		if len(src) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		from := len(out) - (ctrl&31<<8 | int(src[0])) - 1
		src = src[1:]
		if from < 0 {
			return nil, errors.New("LZF copies from before the start")
		}
		for range n { // source and copy may overlap
			out = append(out, out[from])
			from++
		}
	}
	return out, nil
}
