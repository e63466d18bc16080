package imagefile

import (
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// TIA (FEI's ES Vision) keeps the images of a series in a SER file and says in the
// EMI file beside it how they were taken: base.emi belongs to base_1.ser,
// base_2.ser, … All of SER is little-endian.
//
// Format: Chris Boothroyd, https://personal.ntu.edu.sg/cbb/info/TIAformat/

// serElements are the types of pixel that are real.
var serElements = map[int]element{
	1: {kind: 'u', size: 1}, 2: {kind: 'u', size: 2}, 3: {kind: 'u', size: 4},
	4: {kind: 'i', size: 1}, 5: {kind: 'i', size: 2}, 6: {kind: 'i', size: 4},
	7: {kind: 'f', size: 4}, 8: {kind: 'f', size: 8},
}

// serMagic is the byte order and the number of the format.
const serMagic = "II\x97\x01"

func decodeSER(r io.ReaderAt, size int64) (*Stack, error) {
	read := func(at, n int64) *cursor {
		if at < 0 || n < 0 || at > size || n > size-at {
			return &cursor{err: io.ErrUnexpectedEOF}
		}
		b := make([]byte, n)
		if k, err := r.ReadAt(b, at); k < len(b) {
			return &cursor{err: noEOF(err)}
		}
		return &cursor{b: b}
	}
	c := read(0, min(size, 34))
	c.take(4)
	version, kind := c.int(2), c.int(4)
	c.take(8) // kind of the tags, planned images
	n := int64(c.int(4))
	word := int64(4)
	if version > 0x210 {
		word = 8
	}
	table := c.number(int(word))
	switch {
	case c.err != nil:
		return nil, c.err
	case kind == 0x4120:
		return nil, errors.New("the file holds spectra, no images")
	case kind != 0x4122:
		return nil, fmt.Errorf("a SER file of data of the kind %#x is not read", kind)
	case n < 1:
		return nil, errors.New("the file holds no image: TIA keeps a single one in the EMI file; save it as TIFF there")
	}
	offsets := read(table, n*word)
	if offsets.err != nil {
		return nil, fmt.Errorf("the places of %d images: %w", n, offsets.err)
	}
	const head = 50
	var at []int64
	var first [head - 2]byte
	var e element
	var h, w int64
	left := size
	var s Stack
	for i := range n {
		place := offsets.number(int(word))
		c := read(place, head)
		if c.err != nil {
			return nil, fmt.Errorf("image %d: %w", i, c.err)
		}
		if i == 0 {
			copy(first[:], c.b)
			c.take(8)
			x := c.float()
			c.take(4 + 8)
			y := c.float()
			c.take(4)
			kind := c.int(2)
			w, h = int64(c.int(4)), int64(c.int(4))
			var ok bool
			if e, ok = serElements[kind]; !ok {
				what := fmt.Sprintf("pixels of TIA's type %d", kind)
				if kind == 9 || kind == 10 {
					what = "complex numbers (a Fourier transform)"
				}
				return nil, fmt.Errorf("%s are not read: save a grey image", what)
			}
			e.order = binary.LittleEndian
			if err := checkShape(n, h, w); err != nil {
				return nil, err
			}
			s.info.calibrate(x, y, "m", "SER header")
		} else if !bytes.Equal(first[40:], c.b[40:head-2]) {
			return nil, fmt.Errorf("image %d is of another size or type than the first", i)
		}
		if left -= head + h*w*int64(e.size); left < 0 || place > size-head-h*w*int64(e.size) {
			return nil, fmt.Errorf("image %d: %d×%d pixels do not fit the file: it is truncated or its header is wrong", i, h, w)
		}
		at = append(at, place+head)
	}
	s.Format, s.N, s.H, s.W = "SER", int(n), int(h), int(w)
	s.image = func(i int, dst []float32) error {
		if err := readRaw(r, at[i], e, dst); err != nil {
			return err
		}
		flip(dst, s.H, s.W) // the last row comes first
		return nil
	}
	return &s, nil
}

func (c *cursor) float() float64 { return math.Float64frombits(c.uint(8)) }

// flip turns an image upside down.
func flip(a []float32, h, w int) {
	for y := range h / 2 {
		top, bottom := a[y*w:][:w], a[(h-1-y)*w:][:w]
		for x := range top {
			top[x], bottom[x] = bottom[x], top[x]
		}
	}
}

// maxEMI bounds what is read of an EMI file, which holds copies of the images.
const maxEMI = 1 << 28

var serName = regexp.MustCompile(`(?i)^(.*)_([0-9]+)\.ser$`)

// companion adds what the EMI file beside a SER file says of it.
func (f *Info) companion(path string) {
	m := serName.FindStringSubmatch(path)
	if m == nil {
		return
	}
	number, _ := strconv.Atoi(m[2])
	for _, ext := range []string{".emi", ".EMI"} {
		file, err := os.Open(m[1] + ext)
		if err != nil {
			continue
		}
		b, err := io.ReadAll(io.LimitReader(file, maxEMI))
		file.Close()
		if err == nil {
			f.emi(b, number)
		}
		return
	}
}

// emi reads the object of a number, from 1 on, in an EMI file.
func (f *Info) emi(b []byte, number int) {
	const begin, end = "<ObjectInfo>", "</ObjectInfo>"
	for ; number > 0; number-- {
		i := bytes.Index(b, []byte(begin))
		if i < 0 {
			return
		}
		b = b[i:]
		k := bytes.Index(b, []byte(end))
		if k < 0 {
			return
		}
		if number > 1 {
			b = b[k+len(end):]
		} else {
			b = b[:k+len(end)]
		}
	}
	var o struct {
		AcquireInfo struct {
			CameraNamePath, DetectorPath string
		}
		ExperimentalDescription struct {
			Root struct {
				Data []struct{ Label, Value string }
			}
		}
	}
	if xml.Unmarshal(b, &o) != nil {
		return
	}
	if f.Detector = strings.TrimSpace(o.AcquireInfo.CameraNamePath); f.Detector == "" {
		f.Detector = strings.TrimSpace(o.AcquireInfo.DetectorPath)
	}
	for _, d := range o.ExperimentalDescription.Root.Data {
		camera := o.AcquireInfo.CameraNamePath != ""
		diffraction := strings.Contains(d.Value, "Diffraction")
		if strings.Contains(d.Value, "STEM") { // whose camera sees diffraction, and whose other detectors images
			diffraction = camera
		}
		if d.Label == "Mode" && diffraction {
			f.Pixel, f.Notes = Calibration{}, nil
			f.note("taken in the mode %q (EMI file): a diffraction pattern, whose pixels have no size in nm", strings.TrimSpace(d.Value))
		}
	}
}

// serOf is the SER file that an EMI file describes.
func serOf(path string) (string, error) {
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return "", err
	}
	var found []string
	for _, e := range entries {
		if m := serName.FindStringSubmatch(e.Name()); m != nil && m[1] == base {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("the images of an EMI file are in the SER file beside it, %s_1.ser, which is missing: if TIA kept a single image in the EMI file, save it as TIFF there", base)
	case 1:
		return filepath.Join(filepath.Dir(path), found[0]), nil
	}
	return "", fmt.Errorf("the EMI file describes several SER files, open one: %s", strings.Join(found, ", "))
}
