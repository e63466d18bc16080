package outline

import (
	"archive/zip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strings"
)

// ROI is a region of interest of ImageJ that has an area.
type ROI struct {
	Name string
	// Image is the image of a stack that it lies on, from 1; 0 for all.
	Image    int
	outlines [][]Point
}

// Fill calls set for every pixel of an image of h rows and w columns that lies in
// the region.
func (r ROI) Fill(h, w int, set func(pixel int)) { fill(r.outlines, h, w, set) }

// Bounds of hostile files.
const (
	maxROIs  = 1 << 17
	maxROI   = 16 << 20 // bytes of one
	maxZip   = 1 << 28  // bytes of all
	ovalSide = 360      // corners of the polygon that stands for an oval
)

// ROIs reads a .roi file, or a .zip of them, of size bytes.
func ROIs(r io.ReaderAt, size int64) ([]ROI, error) {
	head := make([]byte, min(size, 4))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return nil, err
	}
	if string(head) == "Iout" {
		b, err := readROI(io.NewSectionReader(r, 0, size))
		if err != nil {
			return nil, err
		}
		one, err := decodeROI(b)
		if err != nil {
			return nil, err
		}
		return []ROI{one}, nil
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, fmt.Errorf("neither a region of ImageJ nor a zip of them: %w", err)
	}
	if len(z.File) > maxROIs {
		return nil, fmt.Errorf("%d regions, at most %d are read", len(z.File), maxROIs)
	}
	var all []ROI
	left := uint64(maxZip) // what a header says is no less than what is read
	for _, f := range z.File {
		if f.UncompressedSize64 > left {
			return nil, fmt.Errorf("more than %d bytes of regions", maxZip)
		}
		left -= f.UncompressedSize64
		if !strings.EqualFold(path.Ext(f.Name), ".roi") {
			continue
		}
		roi, err := zippedROI(f)
		if err != nil {
			return nil, fmt.Errorf("region %s: %w", f.Name, err)
		}
		if roi.Name == "" {
			roi.Name = strings.TrimSuffix(path.Base(f.Name), path.Ext(f.Name))
		}
		all = append(all, roi)
	}
	if len(all) == 0 {
		return nil, errors.New("the zip holds no regions of ImageJ (.roi)")
	}
	return all, nil
}

func zippedROI(f *zip.File) (ROI, error) {
	r, err := f.Open()
	if err != nil {
		return ROI{}, err
	}
	defer r.Close()
	b, err := readROI(r)
	if err != nil {
		return ROI{}, err
	}
	return decodeROI(b)
}

func readROI(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxROI+1))
	if err == nil && len(b) > maxROI {
		err = fmt.Errorf("more than %d bytes", maxROI)
	}
	return b, err
}

// Kinds of region, byte 6 of a file.
const (
	polygon, rectangle, oval = 0, 1, 2
	freehand, traced         = 7, 8
)

var withoutArea = map[byte]string{3: "line", 4: "freehand line", 5: "segmented line", 6: "mark of no region", 9: "angle", 10: "set of points"}

const (
	optionSubPixel = 128
	headerSize     = 64
)

func decodeROI(b []byte) (ROI, error) {
	if len(b) < headerSize || string(b[:4]) != "Iout" {
		return ROI{}, errors.New("not a region of ImageJ")
	}
	short := func(at int) int { return int(int16(binary.BigEndian.Uint16(b[at:]))) }
	version, kind := short(4), b[6]
	top, left, bottom, right := float64(short(8)), float64(short(10)), float64(short(12)), float64(short(14))
	options := short(50)
	var r ROI
	r.Image = int(binary.BigEndian.Uint32(b[56:]))
	if h2 := int64(binary.BigEndian.Uint32(b[60:])); h2 >= headerSize && h2+24 <= int64(len(b)) {
		at := int(h2)
		// Of a hyperstack only the slice or the frame can number images.
		z, t := int(binary.BigEndian.Uint32(b[at+8:])), int(binary.BigEndian.Uint32(b[at+12:]))
		if r.Image == 0 {
			r.Image = max(z, t)
		}
		name, n := int64(binary.BigEndian.Uint32(b[at+16:])), int64(binary.BigEndian.Uint32(b[at+20:]))
		if name > 0 && n < 1<<16 && name+2*n <= int64(len(b)) {
			var s strings.Builder
			for i := range n {
				s.WriteRune(rune(binary.BigEndian.Uint16(b[name+2*i:])))
			}
			r.Name = s.String()
		}
	}
	if r.Image < 0 {
		return ROI{}, fmt.Errorf("it lies on image %d", r.Image)
	}
	if n := int64(binary.BigEndian.Uint32(b[36:])); n > 0 {
		return r, r.path(b[headerSize:], n)
	}
	switch kind {
	case rectangle:
		r.outlines = [][]Point{{{left, top}, {right, top}, {right, bottom}, {left, bottom}}}
	case oval:
		var o []Point
		for i := range ovalSide {
			s, c := math.Sincos(2 * math.Pi * float64(i) / ovalSide)
			o = append(o, Point{(left+right)/2 + (right-left)/2*c, (top+bottom)/2 + (bottom-top)/2*s})
		}
		r.outlines = [][]Point{o}
	case polygon, freehand, traced:
		n := int(binary.BigEndian.Uint16(b[16:]))
		if n == 0 && len(b) >= 22 { // more than 65535 corners
			n = int(min(binary.BigEndian.Uint32(b[18:]), maxROI))
		}
		fractions := options&optionSubPixel != 0 && version >= 222
		need := headerSize + 4*n
		if fractions {
			need += 8 * n
		}
		if n < 3 || need > len(b) {
			return ROI{}, fmt.Errorf("%d corners in %d bytes", n, len(b))
		}
		o := make([]Point, n)
		for i := range o {
			if fractions {
				at := headerSize + 4*n + 4*i
				o[i] = Point{float(b[at:]), float(b[at+4*n:])}
			} else {
				at := headerSize + 2*i
				o[i] = Point{left + float64(short(at)), top + float64(short(at+2*n))}
			}
			if bad(o[i]) {
				return ROI{}, fmt.Errorf("corner %d lies at %v", i, o[i])
			}
		}
		r.outlines = [][]Point{o}
	default:
		what := withoutArea[kind]
		if what == "" {
			what = fmt.Sprintf("region of kind %d", kind)
		}
		return ROI{}, fmt.Errorf("a %s has no area: remove it, or outline the particle", what)
	}
	return r, nil
}

func float(b []byte) float64 { return float64(math.Float32frombits(binary.BigEndian.Uint32(b))) }

// bad reports whether a place cannot be in an image.
func bad(p Point) bool { return !(math.Abs(p.X) < 1<<24) || !(math.Abs(p.Y) < 1<<24) }

// path reads n numbers of a composite region: the segments of a java.awt.Shape.
func (r *ROI) path(b []byte, n int64) error {
	if 4*n > int64(len(b)) {
		return fmt.Errorf("a path of %d numbers in %d bytes", n, len(b))
	}
	v := make([]float64, n)
	for i := range v {
		v[i] = float(b[4*i:])
	}
	var o []Point
	end := func() {
		if len(o) > 2 {
			r.outlines = append(r.outlines, o)
		}
		o = nil
	}
	const steps = 16 // straight pieces for a curve
	for len(v) > 0 {
		kind := v[0]
		corners, ok := map[float64]int{0: 1, 1: 1, 2: 2, 3: 3, 4: 0}[kind]
		if !ok || len(v) < 1+2*corners {
			return fmt.Errorf("a path's segment of kind %v", kind)
		}
		p := make([]Point, corners)
		for i := range p {
			if p[i] = (Point{v[1+2*i], v[2+2*i]}); bad(p[i]) {
				return fmt.Errorf("a corner lies at %v", p[i])
			}
		}
		v = v[1+2*corners:]
		switch {
		case kind == 4:
			end()
			continue
		case kind == 0:
			end()
		case len(o) == 0:
			return errors.New("a path that begins nowhere")
		}
		if corners < 2 {
			o = append(o, p...)
			continue
		}
		control := append([]Point{o[len(o)-1]}, p...)
		for i := 1; i <= steps; i++ {
			o = append(o, bezier(control, float64(i)/steps))
		}
	}
	end()
	if len(r.outlines) == 0 {
		return errors.New("a path without an area")
	}
	return nil
}

// bezier is the point at t of a curve (de Casteljau).
func bezier(control []Point, t float64) Point {
	p := append([]Point(nil), control...)
	for n := len(p) - 1; n > 0; n-- {
		for i := range n {
			p[i] = Point{p[i].X + t*(p[i+1].X-p[i].X), p[i].Y + t*(p[i+1].Y-p[i].Y)}
		}
	}
	return p[0]
}
