package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/image/tiff/lzw"
)

// TIFF tags that are read (TIFF 6.0; SampleFormat 3 and predictor 3 are Adobe's).
const (
	tagSubfile         = 254
	tagWidth           = 256
	tagHeight          = 257
	tagBits            = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagDescription     = 270
	tagStripOffsets    = 273
	tagSamples         = 277
	tagRowsPerStrip    = 278
	tagStripByteCounts = 279
	tagXResolution     = 282
	tagYResolution     = 283
	tagResolutionUnit  = 296
	tagPredictor       = 317
	tagTileWidth       = 322
	tagTileHeight      = 323
	tagTileOffsets     = 324
	tagTileByteCounts  = 325
	tagSampleFormat    = 339
)

// tiffFile reads the structures of one file. Whatever is read through it counts
// against a budget of about the file's size, so that a file whose pages share tables
// or data cannot make itself larger than it is.
type tiffFile struct {
	r      io.ReaderAt
	size   int64
	order  binary.ByteOrder
	big    bool  // BigTIFF
	budget int64 // bytes of directories and tables left
	data   int64 // bytes of pixel data left
}

// tiffField is an entry of a directory, whose values lie at offset.
type tiffField struct {
	kind   uint16
	count  int64
	offset int64
}

var tiffTypeSize = map[uint16]int64{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

// tiffPage is one image of a file.
type tiffPage struct {
	w, h                   int64
	element                element
	compression, predictor int64
	tiled                  bool
	segW, segH             int64   // of a strip or tile
	offsets, counts        []int64 // of each
}

func decodeTIFF(r io.ReaderAt, size int64) (*Stack, error) {
	t := &tiffFile{r: r, size: size, order: binary.LittleEndian, budget: 2*size + 4096, data: size}
	head := make([]byte, 16)
	if k, err := r.ReadAt(head, 0); k < 8 {
		return nil, noEOF(err)
	}
	if head[0] == 'M' {
		t.order = binary.BigEndian
	}
	next := int64(t.order.Uint32(head[4:]))
	if t.order.Uint16(head[2:]) == 43 {
		t.big = true
		if t.order.Uint16(head[4:]) != 8 {
			return nil, errors.New("BigTIFF with offsets that are not of 8 bytes")
		}
		next = int64(t.order.Uint64(head[8:]))
	}
	var pages []tiffPage
	var info Info
	seen := map[int64]bool{}
	for n := 0; next != 0; n++ {
		if seen[next] {
			return nil, fmt.Errorf("page %d: the chain of pages is a loop", n)
		}
		seen[next] = true
		dir, after, err := t.directory(next)
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		}
		next = after
		if sub, err := t.number(dir, tagSubfile, 0); err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		} else if sub&5 != 0 { // a thumbnail or a transparency mask
			continue
		}
		p, err := t.page(dir)
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		}
		if len(pages) == 0 {
			if err := t.calibrate(dir, &info); err != nil {
				return nil, fmt.Errorf("page %d: %w", n, err)
			}
		} else if f := pages[0]; p.w != f.w || p.h != f.h {
			return nil, fmt.Errorf("page %d has %d×%d pixels, the first one %d×%d: all pages must be of one size", n, p.h, p.w, f.h, f.w)
		}
		pages = append(pages, p)
	}
	if len(pages) == 0 {
		return nil, errors.New("no image")
	}
	s := &Stack{Format: "TIFF", N: len(pages), H: int(pages[0].h), W: int(pages[0].w), info: info}
	s.image = func(i int, dst []float32) error { return t.read(pages[i], dst) }
	return s, nil
}

// bytes reads n bytes of a directory or a table.
func (t *tiffFile) bytes(offset, n int64) ([]byte, error) {
	if offset < 0 || n < 0 || offset > t.size || n > t.size-offset {
		return nil, fmt.Errorf("%d bytes at %d lie outside the file of %d", n, offset, t.size)
	}
	if n > t.budget {
		return nil, errors.New("directories and tables are larger than the file: they overlap")
	}
	t.budget -= n
	b := make([]byte, n)
	if k, err := t.r.ReadAt(b, offset); k < len(b) {
		return nil, noEOF(err)
	}
	return b, nil
}

// directory reads the directory at offset and where the next one is.
func (t *tiffFile) directory(offset int64) (map[uint16]tiffField, int64, error) {
	countSize, entrySize, inline := int64(2), int64(12), int64(4)
	if t.big {
		countSize, entrySize, inline = 8, 20, 8
	}
	b, err := t.bytes(offset, countSize)
	if err != nil {
		return nil, 0, err
	}
	n := int64(t.order.Uint16(b))
	if t.big {
		n = int64(t.order.Uint64(b))
	}
	if n < 0 || n > 1<<16 {
		return nil, 0, fmt.Errorf("directory of %d entries", n)
	}
	offset += countSize
	if b, err = t.bytes(offset, n*entrySize+inline); err != nil {
		return nil, 0, err
	}
	dir := map[uint16]tiffField{}
	for i := range n {
		e := b[i*entrySize:]
		f := tiffField{kind: t.order.Uint16(e[2:])}
		if t.big {
			f.count = int64(t.order.Uint64(e[4:]))
		} else {
			f.count = int64(t.order.Uint32(e[4:]))
		}
		f.offset = offset + (i+1)*entrySize - inline
		size := tiffTypeSize[f.kind]
		if f.count < 0 || size == 0 || f.count > t.size/size {
			// Damaged, or of a type that came later: an error if it is needed.
			f.count = -1
		} else if f.count*size > inline {
			f.offset = t.offset(e[entrySize-inline:])
		}
		dir[t.order.Uint16(e)] = f
	}
	return dir, t.offset(b[n*entrySize:]), nil
}

func (t *tiffFile) offset(b []byte) int64 {
	if t.big {
		return int64(t.order.Uint64(b))
	}
	return int64(t.order.Uint32(b))
}

// numbers reads the values of an integer field.
func (t *tiffFile) numbers(f tiffField) ([]int64, error) {
	size := tiffTypeSize[f.kind]
	if f.count < 0 {
		return nil, fmt.Errorf("a field of type %d is damaged", f.kind)
	}
	b, err := t.bytes(f.offset, f.count*size)
	if err != nil {
		return nil, err
	}
	v := make([]int64, f.count)
	for i := range v {
		switch f.kind {
		case 1, 7:
			v[i] = int64(b[i])
		case 3:
			v[i] = int64(t.order.Uint16(b[2*i:]))
		case 4, 13:
			v[i] = int64(t.order.Uint32(b[4*i:]))
		case 16, 18:
			v[i] = int64(t.order.Uint64(b[8*i:]))
		default:
			return nil, fmt.Errorf("a field of type %d stands where an integer is needed", f.kind)
		}
	}
	return v, nil
}

// number reads the only value of a field, or returns what is assumed without it.
func (t *tiffFile) number(dir map[uint16]tiffField, tag uint16, without int64) (int64, error) {
	f, ok := dir[tag]
	if !ok {
		return without, nil
	}
	if f.count < 1 {
		return 0, fmt.Errorf("tag %d has no value", tag)
	}
	v, err := t.numbers(f)
	if err != nil {
		return 0, fmt.Errorf("tag %d: %w", tag, err)
	}
	for _, w := range v {
		if w != v[0] {
			return 0, fmt.Errorf("tag %d has different values for the samples of a pixel", tag)
		}
	}
	return v[0], nil
}

// page reads what describes an image and checks that the file can hold it.
func (t *tiffFile) page(dir map[uint16]tiffField) (tiffPage, error) {
	var p tiffPage
	var photometric, samples, bits, format, fill, rows, tileW, tileH int64
	for _, f := range []struct {
		tag     uint16
		to      *int64
		without int64
	}{
		{tagWidth, &p.w, 0}, {tagHeight, &p.h, 0}, {tagBits, &bits, 1}, {tagSamples, &samples, 1},
		{tagSampleFormat, &format, 1}, {tagPhotometric, &photometric, 1}, {tagFillOrder, &fill, 1},
		{tagCompression, &p.compression, 1}, {tagPredictor, &p.predictor, 1},
		{tagRowsPerStrip, &rows, math.MaxInt64}, {tagTileWidth, &tileW, 0}, {tagTileHeight, &tileH, 0},
	} {
		var err error
		if *f.to, err = t.number(dir, f.tag, f.without); err != nil {
			return p, err
		}
	}
	if err := checkShape(1, p.h, p.w); err != nil {
		return p, err
	}
	if samples != 1 || photometric != 0 && photometric != 1 && photometric != 3 {
		return p, fmt.Errorf("%d samples per pixel in colour space %d: convert the image to grey", samples, photometric)
	}
	if photometric == 0 {
		return p, errors.New("white is zero: invert the image, so that no program reads it upside down")
	}
	if fill != 1 {
		return p, errors.New("the bits are filled from the low end, which is not read")
	}
	kind, ok := map[int64]byte{1: 'u', 2: 'i', 3: 'f'}[format]
	p.element = element{kind, int(bits / 8), t.order}
	if !ok || bits%8 != 0 || p.element.check() != nil {
		return p, fmt.Errorf("pixels of %d bits and sample format %d are not read", bits, format)
	}
	if p.predictor < 1 || p.predictor > 3 || p.predictor == 2 && p.element.kind == 'f' || p.predictor == 3 && p.element.kind != 'f' {
		return p, fmt.Errorf("predictor %d of sample format %d is not read", p.predictor, format)
	}
	p.segW, p.segH = p.w, min(rows, p.h)
	if p.tiled = tileW != 0 || tileH != 0; p.tiled {
		p.segW, p.segH = tileW, tileH
	}
	return p, t.segments(&p, dir)
}

// compressions are the methods that are read, with the most that each shrinks.
var compressions = map[int64]int64{1: 1, 5: maxLZW, 8: maxDeflate, 32946: maxDeflate, 32773: maxPackBits}

// segments reads where a page's strips or tiles lie and checks that they can
// hold the page.
func (t *tiffFile) segments(p *tiffPage, dir map[uint16]tiffField) error {
	ratio, ok := compressions[p.compression]
	if !ok {
		return fmt.Errorf("compression %d is not read, only none, LZW, Deflate and PackBits", p.compression)
	}
	if err := checkShape(1, p.segH, p.segW); err != nil {
		return fmt.Errorf("strips or tiles: %w", err)
	}
	offsets, counts := dir[tagStripOffsets], dir[tagStripByteCounts]
	if p.tiled {
		offsets, counts = dir[tagTileOffsets], dir[tagTileByteCounts]
	}
	segments := ceil(p.w, p.segW) * ceil(p.h, p.segH)
	if offsets.count != segments || counts.count != segments {
		return fmt.Errorf("%d strips or tiles, but %d offsets and %d byte counts", segments, offsets.count, counts.count)
	}
	var err error
	if p.offsets, err = t.numbers(offsets); err != nil {
		return fmt.Errorf("offsets of strips or tiles: %w", err)
	}
	if p.counts, err = t.numbers(counts); err != nil {
		return fmt.Errorf("sizes of strips or tiles: %w", err)
	}
	for i, n := range p.counts {
		o := p.offsets[i]
		if n < 0 || o < 0 || o > t.size || n > t.size-o {
			return fmt.Errorf("strip or tile %d: %d bytes at %d lie outside the file of %d", i, n, o, t.size)
		}
		if n > t.data {
			return errors.New("the pixel data are larger than the file: pages or strips share them")
		}
		t.data -= n
		if whole := p.segmentBytes(i); whole/ratio > n {
			return fmt.Errorf("strip or tile %d: %d bytes cannot hold %d", i, n, whole)
		}
	}
	return nil
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// segmentBytes is the unpacked size of segment i: the last strip may be short,
// tiles are padded.
func (p tiffPage) segmentBytes(i int) int64 {
	rows := p.segH
	if !p.tiled {
		rows = min(p.segH, p.h-int64(i)*p.segH)
	}
	return rows * p.segW * int64(p.element.size)
}

func (t *tiffFile) read(p tiffPage, dst []float32) error {
	across := ceil(p.w, p.segW)
	rowBytes := int(p.segW) * p.element.size
	for i := range p.offsets {
		b, err := t.segment(p, i)
		if err != nil {
			return fmt.Errorf("strip or tile %d: %w", i, err)
		}
		x0, y0 := int64(i)%across*p.segW, int64(i)/across*p.segH
		w, h := min(p.segW, p.w-x0), min(int64(len(b)/rowBytes), p.h-y0)
		for y := range h {
			row := b[int(y)*rowBytes:][:rowBytes]
			p.unpredict(row)
			p.decoder().decode(dst[(y0+y)*p.w+x0:][:w], row)
		}
	}
	return nil
}

// Best ratios of the compressions. An LZW code of 12 bits stands for at most 4096
// bytes, a PackBits pair for 128.
const (
	maxLZW      = 4096 * 8 / 12
	maxPackBits = 64
)

// segment reads and unpacks a strip or tile.
func (t *tiffFile) segment(p tiffPage, i int) ([]byte, error) {
	packed := make([]byte, p.counts[i])
	if k, err := t.r.ReadAt(packed, p.offsets[i]); k < len(packed) {
		return nil, noEOF(err)
	}
	var r io.Reader
	whole := p.segmentBytes(i)
	switch p.compression {
	case 1:
		if int64(len(packed)) < whole {
			return nil, io.ErrUnexpectedEOF
		}
		return packed[:whole], nil
	case 32773:
		return unpackBits(packed, int(whole))
	case 5:
		lr := lzw.NewReader(bytes.NewReader(packed), lzw.MSB, 8)
		defer lr.Close()
		r = lr
	default:
		zr, err := zlib.NewReader(bytes.NewReader(packed))
		if err != nil {
			return nil, err
		}
		defer zr.Close()
		r = zr
	}
	b := make([]byte, whole)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, noEOF(err)
	}
	return b, nil
}

// unpackBits undoes the PackBits run-length code.
func unpackBits(src []byte, whole int) ([]byte, error) {
	b := make([]byte, 0, whole)
	for len(b) < whole {
		if len(src) == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		n := int(int8(src[0]))
		switch {
		case n >= 0 && len(src) > n+1:
			b = append(b, src[1:n+2]...)
			src = src[n+2:]
		case n == -128:
			src = src[1:]
		case n < 0 && len(src) > 1:
			b = append(b, bytes.Repeat(src[1:2], 1-n)...)
			src = src[2:]
		default:
			return nil, io.ErrUnexpectedEOF
		}
	}
	return b[:whole], nil
}

// unpredict undoes the predictor of one row, in place: integers are differences
// to the left neighbour; of floats, the bytes are, after all first bytes of the
// row, then all second ones, … (big endian, whatever the file is).
func (p tiffPage) unpredict(row []byte) {
	size, order := p.element.size, p.element.order
	switch {
	case p.predictor == 3:
		for i := 1; i < len(row); i++ {
			row[i] += row[i-1]
		}
		n := len(row) / size
		planes := bytes.Clone(row)
		for i := range n {
			for j := range size {
				row[i*size+j] = planes[j*n+i]
			}
		}
	case p.predictor == 2 && size == 1:
		for i := 1; i < len(row); i++ {
			row[i] += row[i-1]
		}
	case p.predictor == 2 && size == 2:
		for i := 2; i < len(row); i += 2 {
			order.PutUint16(row[i:], order.Uint16(row[i:])+order.Uint16(row[i-2:]))
		}
	case p.predictor == 2 && size == 4:
		for i := 4; i < len(row); i += 4 {
			order.PutUint32(row[i:], order.Uint32(row[i:])+order.Uint32(row[i-4:]))
		}
	case p.predictor == 2:
		for i := 8; i < len(row); i += 8 {
			order.PutUint64(row[i:], order.Uint64(row[i:])+order.Uint64(row[i-8:]))
		}
	}
}

// decoder is the element type after unpredict.
func (p tiffPage) decoder() element {
	e := p.element
	if p.predictor == 3 {
		e.order = binary.BigEndian
	}
	return e
}
