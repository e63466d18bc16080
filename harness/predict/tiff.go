package predict

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// WriteTIFF writes a float32 image as an uncompressed TIFF of one strip, with
// the resolution if pixelSize (Å) is known.
//
// Format: TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
func WriteTIFF(w io.Writer, im Image, pixelSize float64) error {
	size := 4 * int64(im.H) * int64(im.W)
	const head = 8
	if size > math.MaxUint32-4096 {
		return fmt.Errorf("an image of %d×%d pixels does not fit into a TIFF", im.H, im.W)
	}
	type entry struct {
		tag, typ uint16
		value    uint32
	}
	const short, long, rational = 3, 4, 5
	entries := []entry{
		{256, long, uint32(im.W)}, {257, long, uint32(im.H)},
		{258, short, 32}, {259, short, 1}, // bits per sample, no compression
		{262, short, 1},                        // black is zero
		{273, long, head},                      // strip offset
		{277, short, 1},                        // samples per pixel
		{278, long, uint32(im.H)},              // rows per strip
		{279, long, uint32(size)},              // strip size
		{282, rational, 0}, {283, rational, 0}, // resolution, see below
		{296, short, 3}, // per centimetre
		{339, short, 3}, // floating point
	}
	num, den := resolution(pixelSize)
	if num == 0 {
		entries = append(entries[:9], entries[12])
	}
	ifd := head + uint32(size)
	after := ifd + 2 + 12*uint32(len(entries)) + 4
	b := bufio.NewWriterSize(w, 1<<16)
	u16 := func(v uint16) { b.Write(binary.LittleEndian.AppendUint16(nil, v)) }
	u32 := func(v uint32) { b.Write(binary.LittleEndian.AppendUint32(nil, v)) }
	b.WriteString("II*\x00")
	u32(ifd)
	var v [4]byte
	for _, x := range im.Pixels {
		binary.LittleEndian.PutUint32(v[:], math.Float32bits(x))
		b.Write(v[:])
	}
	u16(uint16(len(entries)))
	for _, e := range entries {
		if e.typ == rational {
			e.value = after // both share one fraction
		}
		u16(e.tag)
		u16(e.typ)
		u32(1)
		u32(e.value) // a short stands in the low bytes
	}
	u32(0) // no further image
	if num > 0 {
		u32(num)
		u32(den)
	}
	return b.Flush() // a bufio.Writer keeps its first error
}

// resolution is the number of pixels per centimetre as a fraction; 0/1 for an
// unknown pixel size.
func resolution(pixelSize float64) (num, den uint32) {
	if !(pixelSize > 0) {
		return 0, 1
	}
	perCm := 1e8 / pixelSize
	for den = 1; perCm*float64(den) < 1e8 && den < 1e6; den *= 10 {
	}
	if n := math.Round(perCm * float64(den)); n >= 1 && n <= math.MaxUint32 {
		return uint32(n), den
	}
	return 0, 1
}
