package imagefile

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// decodeMRC reads an MRC2014 file: 1024 bytes of header, an extended header, then
// NZ sections of NY rows. Rows are returned in the order of the file.
func decodeMRC(r io.ReaderAt, size int64) (*Stack, error) {
	head := make([]byte, 1024)
	if k, err := r.ReadAt(head, 0); k < len(head) {
		return nil, fmt.Errorf("MRC header: %w", noEOF(err))
	}
	var order binary.ByteOrder
	switch head[212] { // machine stamp
	case 0x44:
		order = binary.LittleEndian
	case 0x11:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("MRC machine stamp %#x is neither little nor big endian", head[212:216])
	}
	word := func(n int) int32 { return int32(order.Uint32(head[4*(n-1):])) } // counted from 1 as in the format's table
	e := element{order: order}
	switch mode := word(4); mode {
	case 0:
		e.kind, e.size = 'i', 1
	case 1:
		e.kind, e.size = 'i', 2
	case 2:
		e.kind, e.size = 'f', 4
	case 6:
		e.kind, e.size = 'u', 2
	case 12:
		e.kind, e.size = 'f', 2
	default:
		return nil, fmt.Errorf("MRC mode %d is not read, only 0, 1, 2, 6 and 12", mode)
	}
	extended := int64(word(24))
	if extended < 0 {
		return nil, fmt.Errorf("MRC extended header of %d bytes", extended)
	}
	s, err := rawStack("MRC", r, size, 1024+extended, e, []int64{int64(word(3)), int64(word(2)), int64(word(1))}, axes{0, 1, 2}, false)
	if err != nil {
		return nil, err
	}
	side := func(cell, samples int) float64 { // CELLA in Å over MX, MY
		return float64(math.Float32frombits(uint32(word(cell)))) / float64(word(samples))
	}
	s.info.calibrate(side(11, 8), side(12, 9), "Å", "MRC header")
	return s, nil
}
