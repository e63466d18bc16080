package imagefile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// An MRC2014 file is a header of 1024 bytes, an extended header, then NZ sections
// of NY rows.
//
// Formats: https://www.ccpem.ac.uk/mrc_format/mrc2014.php, IMOD's additions at
// https://bio3d.colorado.edu/imod/doc/mrc_format.txt, FEI's extended header as in
// package mrcfile.

const mrcHeader = 1024

// mrcElements are the modes that are read.
var mrcElements = map[int32]element{
	0: {kind: 'i', size: 1}, 1: {kind: 'i', size: 2}, 2: {kind: 'f', size: 4}, 6: {kind: 'u', size: 2}, 12: {kind: 'f', size: 2},
}

// mrcFile is a header in the byte order found.
type mrcFile struct {
	head  []byte
	order binary.ByteOrder
}

// word is counted from 1 as in the format's table.
func (m mrcFile) word(n int) int32 { return int32(m.order.Uint32(m.head[4*(n-1):])) }

func (m mrcFile) real(n int) float64 {
	return float64(math.Float32frombits(uint32(m.word(n))))
}

// fits reports whether sizes and mode are those of a file of a length.
func (m mrcFile) fits(size int64) bool {
	e, ok := mrcElements[m.word(4)]
	nx, ny, nz, extended := int64(m.word(1)), int64(m.word(2)), int64(m.word(3)), int64(m.word(24))
	if !ok || checkShape(nz, ny, nx) != nil || extended < 0 {
		return false
	}
	data := size - mrcHeader - extended
	return nz <= data/(nx*ny*int64(e.size)) && data-nz*nx*ny*int64(e.size) < 1024
}

// findMRC recognises a file by the word MAP, or, as older programs do not write
// that or end it otherwise, by sizes that fit its length.
func findMRC(r io.ReaderAt, size int64) (mrcFile, bool) {
	m := mrcFile{head: make([]byte, mrcHeader), order: binary.LittleEndian}
	if k, _ := r.ReadAt(m.head, 0); k < mrcHeader {
		return m, k >= 212 && string(m.head[208:212]) == "MAP "
	}
	swapped := mrcFile{m.head, binary.BigEndian}
	stamp := m.head[212] // of the machine
	switch {
	case string(m.head[208:212]) == "MAP " && stamp == 0x44:
		return m, true
	case string(m.head[208:212]) == "MAP " && stamp == 0x11:
		return swapped, true
	case m.fits(size):
		return m, true
	case swapped.fits(size):
		return swapped, true
	}
	return m, string(m.head[208:212]) == "MAP "
}

// decodeMRC reads a file that findMRC recognises. Rows are returned in the order
// of the file.
func decodeMRC(m mrcFile, r io.ReaderAt, size int64) (*Stack, error) {
	if size < mrcHeader {
		return nil, fmt.Errorf("MRC header: %w", io.ErrUnexpectedEOF)
	}
	if s := m.head[212]; s != 0x44 && s != 0x11 && !m.fits(size) {
		return nil, fmt.Errorf("MRC machine stamp %#x is neither little nor big endian, and the sizes do not fit the file either way", m.head[212:216])
	}
	mode := m.word(4)
	e, ok := mrcElements[mode]
	if !ok {
		what := map[int32]string{3: " (complex numbers)", 4: " (complex numbers)", 16: " (colours)", 101: " (4 bits)"}[mode]
		return nil, fmt.Errorf("MRC mode %d%s is not read, only 0, 1, 2, 6 and 12", mode, what)
	}
	e.order = m.order
	// IMOD's stamp with the bit that says whether bytes are signed; without it, a
	// maximum that signed bytes cannot have.
	const imod, signed, fourBits = 1146047817, 1, 16
	var f Info
	if mode == 0 {
		switch {
		case m.word(39) == imod && m.word(40)&fourBits != 0:
			return nil, errors.New("MRC mode 0 with two pixels in a byte (IMOD's flag 16) is not read: convert it with IMOD's newstack -mode 0")
		case m.word(39) == imod && m.word(40)&signed == 0:
			e.kind = 'u'
		case m.word(39) != imod && m.real(21) > 127 && m.real(21) <= 255 && m.real(20) >= 0:
			e.kind = 'u'
			f.note("the bytes are read as unsigned: the header's maximum is %g", m.real(21))
		}
	}
	extended := int64(m.word(24))
	if extended < 0 {
		return nil, fmt.Errorf("MRC extended header of %d bytes", extended)
	}
	s, err := rawStack("MRC", r, size, mrcHeader+extended, e, []int64{int64(m.word(3)), int64(m.word(2)), int64(m.word(1))}, axes{0, 1, 2}, false)
	if err != nil {
		return nil, err
	}
	side := func(cell, samples, n int) float64 { // CELLA in Å over MX, MY
		if m.word(samples) > 0 {
			n = samples
		}
		return m.real(cell) / float64(m.word(n))
	}
	x, y := side(11, 8, 1), side(12, 9, 2) // NX, NY where MX, MY are not set
	f.calibrate(x, y, "Å", "MRC header")
	if x == 1 && y == 1 {
		f.note("the MRC header gives a pixel of 1 Å, which many programs write where they do not know it")
	}
	// How long the entry of an image is, in a way that depends on who wrote it.
	integers, reals := int64(m.order.Uint16(m.head[128:])), int64(m.order.Uint16(m.head[130:]))
	switch kind := string(m.head[104:108]); {
	case kind == "FEI1" || kind == "FEI2":
		m.fei(r, extended, &f)
	case kind == "SERI":
		doses, err := m.serialEM(r, extended, integers, reals, s.N)
		if err != nil {
			return nil, err
		}
		if doses != nil {
			s.infos = func(i int) Info {
				f := f
				if d := float64(doses[i]); d > 0 && !math.IsInf(d, 0) {
					f.Dose, f.DoseOrigin = d, "SerialEM extended header"
				}
				return f
			}
		}
	case integers == 0 && reals >= 12 && 4*reals <= extended: // of FEI's older programs
		const pixel = 11 // m
		var b [4]byte
		if _, err := r.ReadAt(b[:], mrcHeader+4*pixel); err != nil {
			return nil, noEOF(err)
		}
		size := float64(math.Float32frombits(m.order.Uint32(b[:])))
		f.calibrate(size, size, "m", "FEI extended header")
	}
	s.info = f
	return s, nil
}

// serialEM reads the dose of every image in electrons per Å² from the extended
// header of SerialEM, nil where it has none. An entry has so many bytes and the
// parts that the bits say, the dose as a real after the others of lower bits.
func (m mrcFile) serialEM(r io.ReaderAt, extended, bytes, parts int64, n int) ([]float32, error) {
	const dose = 32
	if parts&dose == 0 || bytes < 4 || int64(n) > extended/bytes {
		return nil, nil
	}
	at := int64(0)
	for bit, size := range map[int64]int64{1: 2, 2: 6, 4: 4, 8: 2, 16: 2} { // tilt, piece, stage, magnification, intensity
		if parts&bit != 0 {
			at += size
		}
	}
	if at+4 > bytes {
		return nil, nil
	}
	b := make([]byte, bytes*int64(n))
	if k, err := r.ReadAt(b, mrcHeader); k < len(b) {
		return nil, noEOF(err)
	}
	doses := make([]float32, n)
	for i := range doses {
		doses[i] = math.Float32frombits(m.order.Uint32(b[int64(i)*bytes+at:]))
	}
	return doses, nil
}

// fei reads the extended header of the first image that FEI and Thermo Fisher write.
func (m mrcFile) fei(r io.ReaderAt, extended int64, f *Info) {
	const (
		length = 768 // of FEI1; FEI2 adds to it
		dose   = 92  // electrons per m²
		pixelX = 156 // m
		pixelY = 164
		camera = 435 // 16 characters
	)
	b := make([]byte, length)
	if extended < length {
		return
	}
	if k, _ := r.ReadAt(b, mrcHeader); k < length {
		return
	}
	// What is not known is zero.
	real := func(at int) float64 { return math.Float64frombits(m.order.Uint64(b[at:])) }
	f.calibrate(real(pixelX), real(pixelY), "m", "FEI extended header")
	if d := real(dose) * 1e-20; d > 0 && !math.IsInf(d, 0) {
		f.Dose, f.DoseOrigin = d, "FEI extended header"
	}
	name, _, _ := strings.Cut(string(b[camera:][:16]), "\x00")
	f.Detector = strings.TrimSpace(name)
}
