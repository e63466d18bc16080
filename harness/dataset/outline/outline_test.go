package outline

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// surrounds counts the turns of an outline around a point: odd is inside.
func surrounds(o []Point, p Point) bool {
	var turn float64
	for i, a := range o {
		b := o[(i+1)%len(o)]
		d := math.Atan2(b.Y-p.Y, b.X-p.X) - math.Atan2(a.Y-p.Y, a.X-p.X)
		turn += math.Remainder(d, 2*math.Pi)
	}
	return int(math.Round(turn/(2*math.Pi)))%2 != 0
}

func filled(h, w int, fill func(h, w int, set func(int))) []bool {
	m := make([]bool, h*w)
	fill(h, w, func(p int) { m[p] = true })
	return m
}

// Random polygons, beyond the borders and across themselves, against the number of
// turns around every pixel's centre.
func TestFill(t *testing.T) {
	const h, w = 24, 31
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 60 {
		var o []Point
		for range 3 + n%7 {
			o = append(o, Point{r.Float64()*50 - 10, r.Float64()*44 - 10})
		}
		got := filled(h, w, ROI{outlines: [][]Point{o}}.Fill)
		for i := range got {
			if want := surrounds(o, Point{float64(i%w) + 0.5, float64(i/w) + 0.5}); got[i] != want {
				t.Fatalf("%v: pixel (%d, %d) is %v", o, i/w, i%w, got[i])
			}
		}
	}
}

// roi makes the bytes of a region, by the layout in ij.io.RoiDecoder.
func roi(kind byte, image int, options, version uint16, box [4]int16, xy [][2]int16, floats [][2]float32) []byte {
	b := make([]byte, 64)
	copy(b, "Iout")
	put := binary.BigEndian.PutUint16
	put(b[4:], version)
	b[6] = kind
	for i, v := range box {
		put(b[8+2*i:], uint16(v))
	}
	put(b[16:], uint16(len(xy)))
	put(b[50:], options)
	binary.BigEndian.PutUint32(b[56:], uint32(image))
	for axis := range 2 {
		for _, p := range xy {
			b = binary.BigEndian.AppendUint16(b, uint16(p[axis]))
		}
	}
	for axis := range 2 {
		for _, p := range floats {
			b = binary.BigEndian.AppendUint32(b, math.Float32bits(p[axis]))
		}
	}
	return b
}

func composite(path ...float32) []byte {
	b := roi(1, 0, 0, 227, [4]int16{0, 0, 9, 9}, nil, nil)
	binary.BigEndian.PutUint32(b[36:], uint32(len(path)))
	for _, v := range path {
		b = binary.BigEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestROIs(t *testing.T) {
	// top, left, bottom, right
	box := [4]int16{2, 3, 5, 8}
	square := [][2]int16{{0, 0}, {5, 0}, {5, 3}, {0, 3}}
	for _, tt := range []struct {
		name  string
		bytes []byte
		area  int
	}{
		{"rectangle", roi(1, 0, 0, 227, box, nil, nil), 15},
		{"polygon", roi(0, 0, 0, 227, box, square, nil), 15},
		{"traced", roi(8, 0, 0, 227, box, square, nil), 15},
		{"fractions of a pixel", roi(7, 0, optionSubPixel, 227, box, square, [][2]float32{{3.4, 2}, {6.4, 2}, {6.4, 5}, {3.4, 5}}), 9},
		// An ellipse of axes 5 and 3 has 11.8 pixels of area.
		{"oval", roi(2, 0, 0, 227, box, nil, nil), 13},
		{"a hole", composite(0, 0, 0, 1, 6, 0, 1, 6, 6, 1, 0, 6, 4, 0, 2, 2, 1, 4, 2, 1, 4, 4, 1, 2, 4, 4), 32},
		// A parabola's segment: two thirds of 12 × 4, of which the control point is
		// 8 away.
		{"curve", composite(0, 0, 0, 2, 6, 8, 12, 0, 4), 32},
	} {
		r, err := ROIs(bytes.NewReader(tt.bytes), int64(len(tt.bytes)))
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		n := 0
		for _, in := range filled(20, 20, r[0].Fill) {
			if in {
				n++
			}
		}
		// Curves have as many centres as area, but for those at the border.
		if tolerance := map[string]int{"oval": 2, "curve": 3}[tt.name]; n < tt.area-tolerance || n > tt.area+tolerance {
			t.Errorf("%s: %d pixels, want %d", tt.name, n, tt.area)
		}
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i, name := range []string{"0001.roi", "notes.txt", "0002.roi"} {
		f, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(roi(1, i+1, 0, 227, box, nil, nil))
	}
	z.Close()
	r, err := ROIs(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(r) != 2 || r[0].Name != "0001" || r[1].Image != 3 {
		t.Errorf("zip: %+v, %v", r, err)
	}
	for want, b := range map[string][]byte{
		"a line has no area":          roi(3, 0, 0, 227, box, nil, nil),
		"a set of points has no area": roi(10, 0, 0, 227, box, square, nil),
		"2 corners":                   roi(0, 0, 0, 227, box, square[:2], nil),
		"lies at":                     roi(0, 0, optionSubPixel, 227, box, square, [][2]float32{{float32(math.NaN()), 0}, {1, 0}, {1, 1}, {0, 1}}),
		"begins nowhere":              composite(1, 0, 0),
		"neither a region":            []byte("hello"),
	} {
		if _, err := ROIs(bytes.NewReader(b), int64(len(b))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// pack writes run lengths as rleToString of COCO's maskApi.c does.
func pack(runs []int) string {
	var s []byte
	for i, n := range runs {
		x := n
		if i > 2 {
			x -= runs[i-2]
		}
		for more := true; more; {
			c := x & 31
			x >>= 5
			more = x != -1
			if c&16 == 0 {
				more = x != 0
			}
			if more {
				c |= 32
			}
			s = append(s, byte(c+48))
		}
	}
	return string(s)
}

func TestCOCO(t *testing.T) {
	runs := []int{5, 40, 3, 2, 70, 1, 7}
	packed := pack(runs)
	text := fmt.Sprintf(`{"images": [{"id": 7, "file_name": "a.png", "height": 8, "width": 16}, {"id": 9, "file_name": "b.png"}],
"categories": [{"id": 3, "name": "particle"}],
"annotations": [
 {"image_id": 7, "category_id": 3, "segmentation": [[1, 1, 5, 1, 5, 4, 1, 4], [3, 2, 7, 2, 7, 5, 3, 5]]},
 {"image_id": 7, "category_id": 3, "segmentation": {"size": [8, 16], "counts": [5, 40, 3, 2, 70, 1, 7]}},
 {"image_id": 7, "category_id": 3, "segmentation": {"size": [8, 16], "counts": %q}}]}`, packed)
	c, err := ReadCOCO(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Images) != 2 || len(c.Images[0].Shapes) != 3 || len(c.Images[1].Shapes) != 0 {
		t.Fatalf("%+v", c)
	}
	mask := func(i int) []bool {
		return filled(8, 16, func(h, w int, set func(int)) {
			if err := c.Images[0].Shapes[i].Fill(h, w, set); err != nil {
				t.Error(err)
			}
		})
	}
	n := 0
	for _, in := range mask(0) {
		if in {
			n++
		}
	}
	if n != 12+12-4 { // united, not even-odd
		t.Errorf("two polygons have %d pixels", n)
	}
	want := make([]bool, 128)
	at := 0
	for i, n := range runs {
		for range n {
			want[at%8*16+at/8] = i%2 == 1
			at++
		}
	}
	if !slices.Equal(mask(1), want) || !slices.Equal(mask(2), want) {
		t.Error("run lengths give another mask")
	}
	if err := c.Images[0].Shapes[1].Fill(9, 16, func(int) {}); err == nil {
		t.Error("a mask of another size is filled")
	}
	for want, s := range map[string]string{
		"no \"images\"": `{}`,
		"does not list": `{"images": [{"id": 1}], "annotations": [{"image_id": 2, "segmentation": []}]}`,
		"that fill 3":   `{"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [2, 2], "counts": [1, 2]}}]}`,
		"a polygon of":  `{"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "segmentation": [[1, 2, 3]]}]}`,
		"not annot":     `[1]`,
	} {
		if _, err := ReadCOCO(strings.NewReader(s)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", s, err, want)
		}
	}
}

func FuzzROIs(f *testing.F) {
	f.Add(roi(0, 0, optionSubPixel, 227, [4]int16{2, 3, 5, 8}, [][2]int16{{0, 0}, {5, 0}, {5, 3}}, [][2]float32{{1, 1}, {4, 2}, {3, 3}}))
	f.Add(composite(0, 0, 0, 2, 6, 8, 12, 0, 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ROIs(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, one := range r {
			one.Fill(9, 11, func(p int) {
				if p < 0 || p >= 99 {
					t.Fatalf("pixel %d", p)
				}
			})
		}
	})
}

func FuzzCOCO(f *testing.F) {
	f.Add([]byte(`{"images": [{"id": 1}], "categories": [{"id": 1}], "annotations": [{"image_id": 1, "category_id": 1, "segmentation": {"size": [2, 2], "counts": "0111"}}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ReadCOCO(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, im := range c.Images {
			for _, s := range im.Shapes {
				s.Fill(2, 2, func(p int) {
					if p < 0 || p >= 4 {
						t.Fatalf("pixel %d", p)
					}
				})
			}
		}
	})
}

// A small file that would fill the memory is refused before it is unpacked.
func TestROIsRefusesZipBomb(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := range 1 + maxZip/maxROI {
		_, err := z.CreateRaw(&zip.FileHeader{Name: fmt.Sprint(i, ".txt"), Method: zip.Deflate, UncompressedSize64: maxROI})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ROIs(bytes.NewReader(b.Bytes()), int64(b.Len())); err == nil || !strings.Contains(err.Error(), "more than 268435456 bytes") {
		t.Errorf("%v, want a refusal", err)
	}
}
