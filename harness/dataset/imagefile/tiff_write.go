package imagefile

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// WriteTIFF writes float32 images of one size as the pages of an uncompressed TIFF
// 6.0, each in one strip, with the resolution if pixelSize (Å) is known, that is
// above 0.
//
// Format: https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
func WriteTIFF(w io.Writer, height, width int, pixelSize float64, pages ...[]float32) error {
	size := 4 * int64(height) * int64(width)
	const head = 8
	if int64(len(pages))*(size+4096) > math.MaxUint32 {
		return fmt.Errorf("%d images of %d×%d pixels do not fit into a TIFF", len(pages), height, width)
	}
	const short, long, rational = 3, 4, 5
	num, den := resolution(pixelSize)
	entries := 13
	if num == 0 {
		entries -= 3
	}
	// All strips come first, then all directories, then the resolution.
	directory := head + uint32(len(pages))*uint32(size)
	directorySize := uint32(2 + 12*entries + 4)
	fraction := directory + uint32(len(pages))*directorySize

	b := bufio.NewWriterSize(w, 1<<16)
	u16 := func(v uint16) { b.Write(binary.LittleEndian.AppendUint16(nil, v)) }
	u32 := func(v uint32) { b.Write(binary.LittleEndian.AppendUint32(nil, v)) }
	entry := func(tag, typ uint16, value uint32) {
		u16(tag)
		u16(typ)
		u32(1)
		u32(value) // a short stands in the low bytes
	}
	b.WriteString("II*\x00")
	u32(directory)
	var v [4]byte
	for _, p := range pages {
		if len(p) != height*width {
			return fmt.Errorf("an image of %d×%d pixels has %d values", height, width, len(p))
		}
		for _, x := range p {
			binary.LittleEndian.PutUint32(v[:], math.Float32bits(x))
			b.Write(v[:])
		}
	}
	for i := range pages {
		u16(uint16(entries))
		entry(256, long, uint32(width))
		entry(257, long, uint32(height))
		entry(258, short, 32)                         // bits per sample
		entry(259, short, 1)                          // no compression
		entry(262, short, 1)                          // black is zero
		entry(273, long, head+uint32(i)*uint32(size)) // strip offset
		entry(277, short, 1)                          // samples per pixel
		entry(278, long, uint32(height))              // rows per strip
		entry(279, long, uint32(size))                // strip size
		if num > 0 {
			entry(282, rational, fraction) // both ways
			entry(283, rational, fraction)
			entry(296, short, 3) // per centimetre
		}
		entry(339, short, 3) // floating point
		next := uint32(0)
		if i+1 < len(pages) {
			next = directory + uint32(i+1)*directorySize
		}
		u32(next)
	}
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
