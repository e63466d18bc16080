package imagefile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
)

// DigitalMicrograph's files of version 3 and 4 are a tree of tags: groups, and
// values of an encoded type in the byte order of the machine that wrote them; what
// describes them is big-endian, in words of four bytes (DM3) or eight (DM4). The
// images are the members of ImageList; Thumbnails names those that are not meant.
//
// Formats: https://imagej.net/ij/plugins/DM3Format.gj.html and Chris Boothroyd,
// https://personal.ntu.edu.sg/cbb/info/dmformat/

// Bounds of the tree of tags.
const (
	maxDMTags  = 1 << 18
	maxDMDepth = 64
	maxDMValue = 4096 // bytes of a value that is kept, else only its place
)

// dmTag is a group or a value.
type dmTag struct {
	name    string
	members []*dmTag // of a group
	group   bool

	kind   int64 // of a value, or of the elements of an array
	at     int64 // in the file
	n      int64 // elements, 1 for a single value
	order  binary.ByteOrder
	number float64 // of a single value
	text   string  // of an array of 16-bit integers, which strings are
}

// dmSizes are the bytes of the simple types.
var dmSizes = map[int64]int64{2: 2, 3: 4, 4: 2, 5: 4, 6: 4, 7: 8, 8: 1, 9: 1, 10: 1, 11: 8, 12: 8}

// dmFile reads the tags one after the other.
type dmFile struct {
	r     *io.SectionReader
	at    int64
	size  int64
	word  int64 // bytes of a count
	order binary.ByteOrder
	tags  int
}

// isDM reports whether the file starts as DigitalMicrograph's do: version, length,
// byte order.
func isDM(head []byte) bool {
	if len(head) < 16 {
		return false
	}
	switch binary.BigEndian.Uint32(head) {
	case 3:
		return binary.BigEndian.Uint32(head[8:]) <= 1
	case 4:
		return binary.BigEndian.Uint32(head[12:]) <= 1
	}
	return false
}

func decodeDM(r io.ReaderAt, size int64, array string) (*Stack, error) {
	d := &dmFile{r: io.NewSectionReader(r, 0, size), size: size, word: 4}
	version, err := d.big(4)
	if err != nil {
		return nil, err
	}
	if version == 4 {
		d.word = 8
	}
	d.at += d.word // the file's length
	little, err := d.big(4)
	if err != nil {
		return nil, err
	}
	d.order = binary.BigEndian
	if little == 1 {
		d.order = binary.LittleEndian
	}
	root := &dmTag{group: true}
	if err := d.group(root, 0, false); err != nil {
		return nil, fmt.Errorf("tags of DigitalMicrograph: %w", err)
	}
	return d.stack(r, root, fmt.Sprintf("DM%d", version), array)
}

// read reads n bytes at the place reached.
func (d *dmFile) read(n int64) ([]byte, error) {
	if n < 0 || n > d.size-d.at {
		return nil, io.ErrUnexpectedEOF
	}
	b := make([]byte, n)
	if k, err := d.r.ReadAt(b, d.at); k < len(b) {
		return nil, noEOF(err)
	}
	d.at += n
	return b, nil
}

// big reads a big-endian integer of n bytes that must not be negative.
func (d *dmFile) big(n int64) (int64, error) {
	b, err := d.read(n)
	if err != nil {
		return 0, err
	}
	var v uint64
	for _, x := range b {
		v = v<<8 | uint64(x)
	}
	if v > math.MaxInt64 {
		return 0, errors.New("a count is negative")
	}
	return int64(v), nil
}

// group reads the members of a group. Groups below the root of DM4 state their
// length, which is not needed.
func (d *dmFile) group(g *dmTag, depth int, sized bool) error {
	if depth > maxDMDepth {
		return errors.New("groups are nested too deep")
	}
	d.at += 2 // sorted, open
	if sized && d.word == 8 {
		d.at += 8
	}
	n, err := d.big(d.word)
	if err != nil {
		return err
	}
	for range n {
		id, err := d.big(1)
		if err != nil {
			return err
		}
		length, err := d.big(2)
		if err != nil {
			return err
		}
		name, err := d.read(length)
		if err != nil {
			return err
		}
		if d.tags++; d.tags > maxDMTags {
			return errors.New("there are too many")
		}
		t := &dmTag{name: string(name), n: 1, order: d.order}
		if d.word == 8 {
			d.at += 8 // the tag's length
		}
		switch id {
		case 20:
			t.group = true
			if d.word == 8 {
				d.at -= 8 // the group reads it
			}
			err = d.group(t, depth+1, true)
		case 21:
			err = d.value(t)
		default:
			return fmt.Errorf("tag %.40q is of kind %d", name, id)
		}
		if err != nil {
			if depth == 0 || len(t.name) > 0 {
				err = fmt.Errorf("%.40s: %w", t.name, err)
			}
			return err
		}
		g.members = append(g.members, t)
	}
	return nil
}

// value reads the description of a value and the value, if it is short.
func (d *dmFile) value(t *dmTag) error {
	mark, err := d.read(4)
	if err != nil {
		return err
	}
	if string(mark) != "%%%%" {
		return errors.New("a value does not start where it should")
	}
	count, err := d.big(d.word)
	if err != nil {
		return err
	}
	if count < 1 || count > 1<<12 {
		return fmt.Errorf("a type of %d words", count)
	}
	info := make([]int64, count)
	for i := range info {
		if info[i], err = d.big(d.word); err != nil {
			return err
		}
	}
	bytes, err := t.describe(info)
	if err != nil {
		return err
	}
	t.at = d.at
	if bytes > d.size-d.at {
		return io.ErrUnexpectedEOF
	}
	if t.kind != 0 && bytes <= maxDMValue && (t.n == 1 || t.kind == 4) {
		b, err := d.read(bytes)
		if err != nil {
			return err
		}
		t.keep(b)
	}
	d.at = t.at + bytes
	return nil
}

// describe reads an encoded type and returns how many bytes its value takes.
// Structures have no kind: only their place is of interest.
func (t *dmTag) describe(info []int64) (int64, error) {
	size := func(info []int64) (int64, []int64, error) {
		if len(info) > 0 && dmSizes[info[0]] > 0 {
			return dmSizes[info[0]], info[1:], nil
		}
		if len(info) < 3 || info[0] != 15 || info[2] > int64(len(info)-3)/2 {
			return 0, nil, fmt.Errorf("an unknown type %v", info[:min(len(info), 8)])
		}
		n, total := info[2], int64(0)
		for i := range n {
			s := dmSizes[info[4+2*i]]
			if s == 0 {
				return 0, nil, fmt.Errorf("a structure with a field of type %d", info[4+2*i])
			}
			total += s
		}
		return total, info[3+2*n:], nil
	}
	if len(info) >= 1 && info[0] == 18 { // a string of bytes
		if len(info) != 2 {
			return 0, errors.New("a string without a length")
		}
		return info[1], nil
	}
	n := int64(1)
	arrays := 0
	for ; len(info) > 1 && info[0] == 20; arrays++ {
		last := info[len(info)-1]
		if last > math.MaxInt64/16/max(n, 1) {
			return 0, errors.New("an array is too long")
		}
		n *= last
		info = info[1 : len(info)-1]
	}
	each, rest, err := size(info)
	if err != nil || len(rest) > 0 {
		return 0, fmt.Errorf("an unknown type: %v", err)
	}
	if n > math.MaxInt64/max(each, 1) {
		return 0, errors.New("an array is too long")
	}
	if info[0] != 15 {
		t.kind = info[0]
	}
	t.n = n
	if arrays > 0 && n == 1 {
		t.n = -1 // one element in an array, not a number
	}
	if arrays > 1 {
		t.kind = 0
	}
	return n * each, nil
}

// keep decodes a number or a text.
func (t *dmTag) keep(b []byte) {
	if t.kind == 4 && t.n != 1 { // an array of uint16
		u := make([]uint16, len(b)/2)
		for i := range u {
			u[i] = t.order.Uint16(b[2*i:])
		}
		t.text = string(utf16.Decode(u))
		return
	}
	if t.n != 1 {
		return
	}
	switch t.kind {
	case 2:
		t.number = float64(int16(t.order.Uint16(b)))
	case 3:
		t.number = float64(int32(t.order.Uint32(b)))
	case 4:
		t.number = float64(t.order.Uint16(b))
	case 5:
		t.number = float64(t.order.Uint32(b))
	case 6:
		t.number = float64(math.Float32frombits(t.order.Uint32(b)))
	case 7:
		t.number = math.Float64frombits(t.order.Uint64(b))
	case 8, 9, 10:
		t.number = float64(b[0])
	case 11:
		t.number = float64(int64(t.order.Uint64(b)))
	case 12:
		t.number = float64(t.order.Uint64(b))
	}
}

// find returns the tag of a path, nil without one.
func (t *dmTag) find(path ...string) *dmTag {
	for _, name := range path {
		var next *dmTag
		if t != nil {
			for _, m := range t.members {
				if m.name == name {
					next = m
					break
				}
			}
		}
		t = next
	}
	return t
}

// value is the number at a path.
func (t *dmTag) value(path ...string) (float64, bool) {
	v := t.find(path...)
	if v == nil || v.group || v.kind == 0 || v.n != 1 {
		return 0, false
	}
	return v.number, true
}

func (t *dmTag) string(path ...string) string {
	if v := t.find(path...); v != nil {
		return strings.TrimSpace(strings.TrimRight(v.text, "\x00"))
	}
	return ""
}

// dmElements are DigitalMicrograph's types of pixel that are grey, with the
// encoded types that hold them.
var dmElements = map[int64]element{
	1: {kind: 'i', size: 2}, 2: {kind: 'f', size: 4}, 6: {kind: 'u', size: 1}, 7: {kind: 'i', size: 4},
	9: {kind: 'i', size: 1}, 10: {kind: 'u', size: 2}, 11: {kind: 'u', size: 4}, 12: {kind: 'f', size: 8},
	14: {kind: 'u', size: 1},
	// 64-bit integers, new in GMS 3
	39: {kind: 'i', size: 8}, 40: {kind: 'u', size: 8},
}

// dmRefused says what the other types are.
var dmRefused = map[int64]string{
	3: "complex numbers", 5: "packed complex numbers (a Fourier transform)", 8: "colours", 13: "complex numbers",
	23: "colours", 27: "packed complex numbers (a Fourier transform)", 28: "packed complex numbers (a Fourier transform)",
}

// dmImage is one of ImageList that can be read, or why it cannot.
type dmImage struct {
	name    string
	dims    []int64 // of the array, slowest first
	element element
	tag     *dmTag
	err     error
}

// stack chooses an image: the one asked for by its number or name, or the only one
// that is not a thumbnail.
func (d *dmFile) stack(r io.ReaderAt, root *dmTag, format, array string) (*Stack, error) {
	list := root.find("ImageList")
	if list == nil || len(list.members) == 0 {
		return nil, errors.New("the file holds no image")
	}
	thumbnails := map[int]bool{}
	if t := root.find("Thumbnails"); t != nil {
		for _, m := range t.members {
			if i, ok := m.value("ImageIndex"); ok {
				thumbnails[int(i)] = true
			}
		}
	}
	var images []dmImage
	for i, m := range list.members {
		if !thumbnails[i] && m.find("ImageData") != nil {
			images = append(images, dmRead(m, len(images)))
		}
	}
	readable := 0
	var names []string
	chosen := -1
	for i, m := range images {
		if m.err == nil {
			readable++
		}
		names = append(names, m.name)
		if array == m.name || array == strconv.Itoa(i) {
			chosen = i
		}
	}
	switch {
	case len(images) == 0:
		return nil, errors.New("the file holds no image but a thumbnail")
	case array != "" && chosen < 0:
		return nil, chooseOne(names, array, false)
	case array == "" && len(images) > 1 && readable != 1:
		return nil, chooseOne(names, "", true)
	case array == "":
		chosen = 0
		for i, m := range images {
			if m.err == nil {
				chosen = i
			}
		}
	}
	m := images[chosen]
	if m.err != nil {
		if len(images) > 1 {
			m.err = fmt.Errorf("image %q: %w", m.name, m.err)
		}
		return nil, m.err
	}
	ax := axes{-1, 0, 1}
	if len(m.dims) == 3 {
		ax = axes{0, 1, 2}
	}
	data := m.tag.find("ImageData", "Data")
	e := m.element
	e.order = data.order
	s, err := rawStack(format, r, min(d.size, data.at+dmSizes[data.kind]*abs(data.n)), data.at, e, m.dims, ax, false)
	if err != nil {
		return nil, err
	}
	s.info = m.info(len(images) > 1)
	if len(images) > 1 && array == "" {
		s.info.note("image %q of %d was taken, the others are not grey images", m.name, len(images))
	}
	return s, nil
}

func abs(n int64) int64 { return max(n, -n) }

// dmRead reads what describes an image.
func dmRead(m *dmTag, i int) dmImage {
	im := dmImage{name: m.string("Name"), tag: m}
	if im.name == "" {
		im.name = strconv.Itoa(i)
	}
	kind, _ := m.value("ImageData", "DataType")
	var ok bool
	if im.element, ok = dmElements[int64(kind)]; !ok {
		what := dmRefused[int64(kind)]
		if what == "" {
			what = fmt.Sprintf("pixels of DigitalMicrograph's type %g", kind)
		}
		im.err = fmt.Errorf("%s are not read: show or save a grey image (in DigitalMicrograph: Process > Complex to Real, or Edit > Change Data Type)", what)
		return im
	}
	data, sizes := m.find("ImageData", "Data"), m.find("ImageData", "Dimensions")
	if data == nil || data.group || sizes == nil || data.kind == 0 {
		im.err = errors.New("its data or dimensions are missing")
		return im
	}
	if got := dmSizes[data.kind]; got != int64(im.element.size) {
		im.err = fmt.Errorf("pixels of %d bytes are kept in numbers of %d", im.element.size, got)
		return im
	}
	for _, s := range sizes.members { // fastest first
		im.dims = append([]int64{int64(s.number)}, im.dims...)
	}
	for len(im.dims) > 2 && im.dims[0] == 1 {
		im.dims = im.dims[1:]
	}
	format := m.string("ImageTags", "Meta Data", "Format")
	switch {
	case len(im.dims) < 2 || len(im.dims) > 3 || len(im.dims) == 2 && im.dims[0] == 1:
		im.err = fmt.Errorf("an array of shape %v is a spectrum or a scan, no stack of images", im.dims)
	case strings.HasPrefix(format, "Spectrum") || m.find("ImageTags", "spim") != nil:
		im.err = fmt.Errorf("an array of shape %v is a spectrum image, no stack of images", im.dims)
	}
	return im
}

// info reads the calibration and the camera.
func (m dmImage) info(named bool) Info {
	var f Info
	if named {
		f.Array = m.name
	}
	if c := m.tag.find("ImageData", "Calibrations", "Dimension"); c != nil && len(c.members) >= 2 {
		x, _ := c.members[0].value("Scale")
		y, _ := c.members[1].value("Scale")
		x, y, unit := sameUnit(x, y, c.members[0].string("Units"), c.members[1].string("Units"))
		f.calibrate(x, y, unit, "DigitalMicrograph calibration")
	}
	if c := m.tag.find("ImageData", "Calibrations", "Brightness"); c != nil {
		switch strings.ToLower(c.string("Units")) {
		case "e-", "e", "electrons":
			f.electrons.scale, _ = c.value("Scale")
			f.electrons.zero, _ = c.value("Origin")
			f.electrons.origin = "mean of the pixels in electrons (DigitalMicrograph calibration)"
		}
	}
	tags := m.tag.find("ImageTags")
	for _, path := range [][]string{
		{"Acquisition", "Device", "Name"}, {"DataBar", "Device Name"}, {"DataBar", "Signal Name"},
	} {
		if f.Detector = tags.string(path...); f.Detector != "" {
			break
		}
	}
	return f
}
