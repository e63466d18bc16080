package imagefile

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/jpeg"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
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
	tagPlanar          = 284
	tagSoftware        = 305
	tagPredictor       = 317
	tagColourMap       = 320
	tagTileWidth       = 322
	tagTileHeight      = 323
	tagTileOffsets     = 324
	tagTileByteCounts  = 325
	tagSampleFormat    = 339
	tagJPEGTables      = 347
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
	number                 int // in the file, thumbnails included
	w, h                   int64
	samples                int64 // of a pixel: 1, or the channels of a colour
	bits                   int64 // of a sample
	element                element
	paletted               bool
	grey                   []float32 // of the palette's entries, nil without one
	inverted               bool      // white is zero
	tables                 []byte    // of JPEG
	compression, predictor int64
	tiled                  bool
	segW, segH             int64   // of a strip or tile
	offsets, counts        []int64 // of each
}

func decodeTIFF(r io.ReaderAt, size int64, array string) (*Stack, error) {
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
	dirs := map[int]map[uint16]tiffField{} // of pages
	var other []string                     // what stands on pages that are no grey image
	wanted := -1
	if array != "" {
		var err error
		if wanted, err = strconv.Atoi(array); err != nil || wanted < 0 {
			return nil, fmt.Errorf("page %q: want its number, from 0 on", array)
		}
	}
	seen := map[int64]bool{}
	n := 0
	for ; next != 0; n++ {
		if seen[next] {
			return nil, fmt.Errorf("page %d: the chain of pages is a loop", n)
		}
		seen[next] = true
		dir, after, err := t.directory(next)
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		}
		next = after
		if wanted >= 0 && n != wanted {
			continue
		}
		if sub, err := t.number(dir, tagSubfile, 0); err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		} else if sub&5 != 0 && wanted < 0 { // a thumbnail or a transparency mask
			continue
		}
		p, err := t.page(dir)
		if c := (colourError{}); errors.As(err, &c) && wanted < 0 {
			other = append(other, fmt.Sprintf("page %d: %v", n, err))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("page %d: %w", n, err)
		}
		p.number = n
		pages = append(pages, p)
		dirs[n] = dir
	}
	var info Info
	switch {
	case wanted >= n:
		return nil, fmt.Errorf("page %d asked for, there are %d, numbered from 0 on", wanted, n)
	case len(pages) == 0 && len(other) > 0:
		return nil, errors.New(other[0])
	case len(pages) == 0:
		return nil, errors.New("no image")
	case wanted >= 0:
		info.Array = array
	}
	if pages = choosePages(pages); len(pages) < n && wanted < 0 {
		info.note("%d of %d pages were read, the largest ones in grey; another is read as FILE:PAGE, from 0 on", len(pages), n)
	}
	first := dirs[pages[0].number]
	if err := t.calibrate(first, &info); err != nil {
		return nil, fmt.Errorf("page %d: %w", pages[0].number, err)
	}
	s := &Stack{Format: "TIFF", N: len(pages), H: int(pages[0].h), W: int(pages[0].w), info: info}
	stride := int64(0) // between images without directories
	if n == 1 {
		images, bytes, err := t.stacked(first, pages[0])
		if err != nil {
			return nil, err
		}
		s.N, stride = int(images), bytes
	}
	if pages[0].paletted && pages[0].grey == nil {
		s.info.note("a palette of colours: its indices are read")
	}
	s.image = func(i int, dst []float32) error {
		if stride > 0 {
			p := pages[0]
			p.offsets = slices.Clone(p.offsets)
			for k := range p.offsets {
				p.offsets[k] += int64(i) * stride
			}
			return t.read(p, dst)
		}
		return t.read(pages[i], dst)
	}
	return s, nil
}

// choosePages leaves out pages of colours beside grey ones, and those smaller than
// the largest.
func choosePages(pages []tiffPage) []tiffPage {
	samples, area := int64(math.MaxInt64), int64(0)
	for _, p := range pages {
		samples = min(samples, p.samples)
	}
	var w, h int64
	for _, p := range pages {
		if p.samples == samples && p.w*p.h > area {
			w, h, area = p.w, p.h, p.w*p.h
		}
	}
	return slices.DeleteFunc(pages, func(p tiffPage) bool { return p.samples != samples || p.w != w || p.h != h })
}

// stacked counts the images of a file with one directory: one, or as many as
// the description says follow each other, each of so many bytes, without
// directories of their own. ImageJ writes more than 4 GB like this, and tifffile
// what it calls truncated.
func (t *tiffFile) stacked(dir map[uint16]tiffField, p tiffPage) (n, bytes int64, err error) {
	text, err := t.text(dir, tagDescription)
	if err != nil {
		return 0, 0, err
	}
	n = 1
	if strings.HasPrefix(text, "ImageJ=") {
		for line := range strings.Lines(text) {
			if s, ok := strings.CutPrefix(strings.TrimSpace(line), "images="); ok {
				n, _ = strconv.ParseInt(s, 10, 64)
			}
		}
	} else if strings.HasPrefix(text, "{") {
		var d struct {
			Shape    []int64
			Truncate bool
		}
		if json.Unmarshal([]byte(text), &d) == nil && d.Truncate {
			for _, s := range d.Shape {
				if s < 1 || s > t.size {
					return 0, 0, fmt.Errorf("the description gives the shape %v", d.Shape)
				}
				if n *= s; n > 8*t.size {
					return 0, 0, fmt.Errorf("the description gives the shape %v, more than the file holds", d.Shape)
				}
			}
			n /= p.w * p.h
		}
	}
	if n < 2 {
		return 1, 0, nil
	}
	if p.compression != 1 || p.tiled {
		return 0, 0, fmt.Errorf("the description says %d images, but the file has one page that is packed", n)
	}
	at := p.offsets[0]
	for i, o := range p.offsets {
		if o != at+bytes {
			return 0, 0, fmt.Errorf("the description says %d images, but the strips of the only page do not follow each other", n)
		}
		bytes += p.segmentBytes(i)
	}
	if bytes < 1 || n > (t.size-at)/bytes {
		return 0, 0, fmt.Errorf("the description says %d images of %d×%d pixels, but the file holds %d: it is truncated", n, p.h, p.w, (t.size-at)/max(bytes, 1))
	}
	return n, bytes, nil
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

// colourError says that a page is not grey.
type colourError struct{ samples, photometric int64 }

func (e colourError) Error() string {
	return fmt.Sprintf("%d samples per pixel in colour space %d: convert the image to grey", e.samples, e.photometric)
}

// page reads what describes an image and checks that the file can hold it.
func (t *tiffFile) page(dir map[uint16]tiffField) (tiffPage, error) {
	var p tiffPage
	var photometric, format, fill, planar, rows, tileW, tileH int64
	for _, f := range []struct {
		tag     uint16
		to      *int64
		without int64
	}{
		{tagWidth, &p.w, 0}, {tagHeight, &p.h, 0}, {tagBits, &p.bits, 1}, {tagSamples, &p.samples, 1},
		{tagSampleFormat, &format, 1}, {tagPhotometric, &photometric, 1}, {tagFillOrder, &fill, 1},
		{tagCompression, &p.compression, 1}, {tagPredictor, &p.predictor, 1}, {tagPlanar, &planar, 1},
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
	const whiteIsZero, blackIsZero, rgb, palette = 0, 1, 2, 3
	switch photometric {
	case whiteIsZero, blackIsZero, palette:
		if p.samples != 1 {
			return p, colourError{p.samples, photometric}
		}
	case rgb: // may be grey all the same, which shows when it is read
		if p.samples != 3 && p.samples != 4 || planar != 1 || p.compression == jpegInTIFF || format != 1 {
			return p, colourError{p.samples, photometric}
		}
	default:
		return p, colourError{p.samples, photometric}
	}
	if fill != 1 {
		return p, errors.New("the bits are filled from the low end, which is not read")
	}
	kind, ok := map[int64]byte{1: 'u', 2: 'i', 3: 'f'}[format]
	p.element = element{kind, int(p.bits / 8), t.order}
	packed := kind == 'u' && p.samples == 1 && (p.bits == 1 || p.bits == 2 || p.bits == 4 || p.bits == 12)
	if packed {
		p.element.size = int(p.bits+7) / 8 // when unpacked
	}
	if !ok || p.bits%8 != 0 && !packed || p.element.check() != nil {
		return p, fmt.Errorf("pixels of %d bits and sample format %d are not read", p.bits, format)
	}
	if p.predictor < 1 || p.predictor > 3 || p.predictor == 2 && (p.element.kind == 'f' || packed) || p.predictor == 3 && p.element.kind != 'f' {
		return p, fmt.Errorf("predictor %d of sample format %d is not read", p.predictor, format)
	}
	if photometric == whiteIsZero {
		if kind != 'u' {
			return p, errors.New("white is zero in signed numbers: invert the image, so that no program reads it upside down")
		}
		// tifffile writes boolean masks in this way, and reads them as they are.
		software, err := t.text(dir, tagSoftware)
		if err != nil {
			return p, err
		}
		p.inverted = p.bits != 1 || !strings.HasPrefix(software, "tifffile")
	}
	if photometric == palette {
		p.paletted = true
		var err error
		if p.grey, err = t.greyPalette(dir, p); err != nil {
			return p, err
		}
	}
	if p.compression == jpegInTIFF {
		if p.bits != 8 || kind != 'u' {
			return p, fmt.Errorf("JPEG of %d bits is not read", p.bits)
		}
		tables, err := t.text(dir, tagJPEGTables)
		if err != nil {
			return p, err
		}
		p.tables = []byte(tables)
	}
	p.segW, p.segH = p.w, min(rows, p.h)
	if p.tiled = tileW != 0 || tileH != 0; p.tiled {
		p.segW, p.segH = tileW, tileH
	}
	return p, t.segments(&p, dir)
}

// greyPalette is the grey of every entry of a page's palette, nil if it has
// colours.
func (t *tiffFile) greyPalette(dir map[uint16]tiffField, p tiffPage) ([]float32, error) {
	f := dir[tagColourMap]
	if p.bits > 8 || p.element.kind != 'u' || f.count != 3<<p.bits {
		return nil, fmt.Errorf("a palette of %d entries for %d bits", f.count/3, p.bits)
	}
	v, err := t.numbers(f)
	if err != nil {
		return nil, fmt.Errorf("palette: %w", err)
	}
	n := len(v) / 3
	grey := make([]float32, n)
	for i := range grey {
		if v[i] != v[n+i] || v[i] != v[2*n+i] {
			return nil, nil
		}
		grey[i] = float32(v[i] >> 8)
	}
	return grey, nil
}

// jpegInTIFF and zstdInTIFF are compressions of later supplements.
const jpegInTIFF, zstdInTIFF = 7, 50000

// compressions are the methods that are read, with the most that each shrinks.
var compressions = map[int64]int64{1: 1, 5: maxLZW, jpegInTIFF: maxJPEG, 8: maxDeflate, 32946: maxDeflate, 32773: maxPackBits, zstdInTIFF: maxZstd}

// segments reads where a page's strips or tiles lie and checks that they can
// hold the page.
func (t *tiffFile) segments(p *tiffPage, dir map[uint16]tiffField) error {
	ratio, ok := compressions[p.compression]
	if !ok {
		return fmt.Errorf("compression %d is not read, only none, LZW, JPEG, Deflate, PackBits and Zstandard: save the file without compression", p.compression)
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

// rowBytes is the size of a segment's row, which is padded to whole bytes.
func (p tiffPage) rowBytes() int64 { return ceil(p.segW*p.samples*p.bits, 8) }

// segmentBytes is the unpacked size of segment i: the last strip may be short,
// tiles are padded.
func (p tiffPage) segmentBytes(i int) int64 {
	rows := p.segH
	if !p.tiled {
		rows = min(p.segH, p.h-int64(i)*p.segH)
	}
	return rows * p.rowBytes()
}

func (t *tiffFile) read(p tiffPage, dst []float32) error {
	across := ceil(p.w, p.segW)
	rowBytes := int(p.rowBytes())
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
			if x := p.pixels(dst[(y0+y)*p.w+x0:][:w], row); x >= 0 {
				return fmt.Errorf("pixel (%d, %d) is coloured or transparent: convert the image to grey", x0+x, y0+y)
			}
		}
	}
	return nil
}

// pixels decodes a row. It returns the place of the first pixel that is not grey,
// −1 if all are.
func (p tiffPage) pixels(dst []float32, row []byte) int64 {
	e := p.decoder()
	n := int(p.samples)
	switch {
	case p.bits%8 != 0:
		for x := range dst {
			dst[x] = float32(bitsAt(row, x*int(p.bits), int(p.bits)))
		}
	case n == 1:
		e.decode(dst, row)
	default:
		opaque := float32(uint64(1)<<p.bits - 1)
		for x := range dst {
			at := row[x*n*e.size:]
			v := e.value(at)
			if v != e.value(at[e.size:]) || v != e.value(at[2*e.size:]) || n == 4 && e.value(at[3*e.size:]) != opaque {
				return int64(x)
			}
			dst[x] = v
		}
	}
	switch {
	case p.grey != nil:
		for x, v := range dst {
			dst[x] = p.grey[int(v)]
		}
	case p.inverted:
		white := float32(uint64(1)<<p.bits - 1)
		for x, v := range dst {
			dst[x] = white - v
		}
	}
	return -1
}

// bitsAt is the number of so many bits, 12 at most, from bit i on, the first one
// being a byte's highest.
func bitsAt(b []byte, i, bits int) int {
	v := 0
	for range bits {
		v = v<<1 | int(b[i/8]>>(7-i%8)&1)
		i++
	}
	return v
}

// Best ratios of the compressions. An LZW code of 12 bits stands for at most 4096
// bytes, a PackBits pair for 128.
const (
	maxLZW      = 4096 * 8 / 12
	maxPackBits = 64
	maxJPEG     = 1024    // a bit for the DC coefficient of 64 pixels, and its padding
	maxZstd     = 1 << 15 // a block of 128 kB of one byte takes four
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
	case jpegInTIFF:
		return p.unJPEG(packed, i)
	case zstdInTIFF:
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(uint64(whole)+1<<16))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		b, err := z.DecodeAll(packed, nil)
		if err != nil {
			return nil, err
		}
		if int64(len(b)) < whole {
			return nil, io.ErrUnexpectedEOF
		}
		return b[:whole], nil
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

// unJPEG unpacks segment i, whose tables may be kept once for all.
func (p tiffPage) unJPEG(b []byte, i int) ([]byte, error) {
	const start, end = "\xff\xd8", "\xff\xd9"
	if len(p.tables) >= 4 && bytes.HasPrefix(b, []byte(start)) {
		b = slices.Concat(bytes.TrimSuffix(p.tables, []byte(end)), b[2:])
	}
	c, err := jpeg.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if whole := p.segmentBytes(i); int64(c.Width) != p.segW || int64(c.Height)*p.segW != whole {
		return nil, fmt.Errorf("JPEG of %d×%d pixels", c.Height, c.Width)
	}
	m, err := jpeg.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	g, ok := m.(*image.Gray)
	if !ok {
		return nil, errors.New("JPEG in colours: convert the image to grey")
	}
	out := make([]byte, 0, c.Width*c.Height)
	for y := range c.Height {
		out = append(out, g.Pix[y*g.Stride:][:c.Width]...)
	}
	return out, nil
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
	back := size * int(p.samples)
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
		for i := back; i < len(row); i++ {
			row[i] += row[i-back]
		}
	case p.predictor == 2 && size == 2:
		for i := back; i < len(row); i += 2 {
			order.PutUint16(row[i:], order.Uint16(row[i:])+order.Uint16(row[i-back:]))
		}
	case p.predictor == 2 && size == 4:
		for i := back; i < len(row); i += 4 {
			order.PutUint32(row[i:], order.Uint32(row[i:])+order.Uint32(row[i-back:]))
		}
	case p.predictor == 2:
		for i := back; i < len(row); i += 8 {
			order.PutUint64(row[i:], order.Uint64(row[i:])+order.Uint64(row[i-back:]))
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
