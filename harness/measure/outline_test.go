package measure

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// shoelace is the area within a polygon of corners in clockwise order, y down.
func shoelace(points []Point) (area float64) {
	for i, p := range points {
		q := points[(i+1)%len(points)]
		area += (p.X*q.Y - q.X*p.Y) / 2
	}
	return area
}

// An outline encloses the particle with its holes filled, and nothing else.
func TestOutline(t *testing.T) {
	const h, w = 90, 110
	mask := blobs(seed.Rand(t).Uint64(), h, w)
	labels, n := Components(h, w, mask)
	regions := Regions(h, w, labels, n)
	var all []Named
	for i := range regions {
		l := int32(i + 1)
		own := make([]bool, h*w)
		for k, v := range labels {
			own[k] = v == l
		}
		FillHoles(h, w, own)
		filled := 0
		for _, v := range own {
			if v {
				filled++
			}
		}
		points := Outline(h, w, labels, l, &regions[i])
		if got := shoelace(points); got != float64(filled) {
			t.Errorf("the outline of region %d encloses %g pixels, want %d", l, got, filled)
		}
		all = append(all, Named{Name: string(rune('a' + i%26)), Class: "disc", Outline: points, Values: map[string]float64{"area px": float64(filled)}})
	}
	if n < 3 {
		t.Fatalf("only %d regions", n)
	}

	// ImageJ's form, read by its description
	var b bytes.Buffer
	if err := WriteROI(&b, all); err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
	if err != nil || len(z.File) != n {
		t.Fatalf("%v, %d regions", err, len(z.File))
	}
	for i, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		at := func(o int) int { return int(binary.BigEndian.Uint16(data[o:])) }
		if string(data[:4]) != "Iout" || data[6] != 8 || at(16) != len(all[i].Outline) {
			t.Fatalf("%s begins % x", f.Name, data[:18])
		}
		if at(8) != regions[i].Top || at(10) != regions[i].Left || at(12) != regions[i].Bottom || at(14) != regions[i].Right {
			t.Errorf("%s has the box %d %d %d %d", f.Name, at(8), at(10), at(12), at(14))
		}
		for k, p := range all[i].Outline {
			if x, y := at(64+2*k)+at(10), at(64+2*at(16)+2*k)+at(8); float64(x) != p.X || float64(y) != p.Y {
				t.Fatalf("%s: corner %d at (%d, %d), want %+v", f.Name, k, y, x, p)
			}
		}
	}
	// Further than 16 bits reach, ImageJ takes the floating-point coordinates of
	// version 222 on.
	far := []Point{{39990, 5}, {39990, 40000}, {40001, 40000}, {40001, 5}}
	b.Reset()
	if err := WriteROI(&b, []Named{{Name: "far", Outline: far}}); err != nil {
		t.Fatal(err)
	}
	data := unzipped(t, b.Bytes())
	at := func(o int) int { return int(binary.BigEndian.Uint16(data[o:])) }
	if at(4) < 222 || at(50)&128 == 0 || at(16) != 4 || len(data) != 64+12*4 || at(12) > math.MaxInt16 {
		t.Errorf("a far region is % x", data)
	}
	for k, p := range far {
		x := math.Float32frombits(binary.BigEndian.Uint32(data[64+16+4*k:]))
		y := math.Float32frombits(binary.BigEndian.Uint32(data[64+32+4*k:]))
		if float64(x) != p.X || float64(y) != p.Y {
			t.Errorf("corner %d of a far region is at (%v, %v), want %+v", k, y, x, p)
		}
	}
	// More corners than 16 bits count: as ImageJ, and the reader of labels, have it.
	comb := []Point{{0, 0}}
	for x := range 17000 {
		comb = append(comb, Point{1 + float64(x%2), float64(x)}, Point{1 + float64(x%2), float64(x + 1)})
	}
	comb = append(comb, Point{0, 17000})
	comb = slices.Concat(comb, comb)
	b.Reset()
	if err := WriteROI(&b, []Named{{Name: "comb", Outline: comb}}); err != nil {
		t.Fatal(err)
	}
	data = unzipped(t, b.Bytes())
	if few, many := binary.BigEndian.Uint16(data[16:]), binary.BigEndian.Uint32(data[18:]); few != 0 || int(many) != len(comb) || len(data) != 64+4*len(comb) {
		t.Errorf("%d corners are counted as %d and %d in %d bytes", len(comb), few, many, len(data))
	}

	b.Reset()
	if err := WriteGeoJSON(&b, all); err != nil {
		t.Fatal(err)
	}
	var g struct {
		Features []struct {
			Geometry struct {
				Type        string
				Coordinates [][][2]float64
			}
			Properties struct {
				ObjectType     string
				Classification struct{ Name string }
			}
		}
	}
	if err := json.Unmarshal(b.Bytes(), &g); err != nil || len(g.Features) != n {
		t.Fatalf("%v, %d features", err, len(g.Features))
	}
	for i, f := range g.Features {
		ring := f.Geometry.Coordinates[0]
		if f.Geometry.Type != "Polygon" || len(ring) != len(all[i].Outline)+1 || ring[0] != ring[len(ring)-1] || f.Properties.Classification.Name != "disc" {
			t.Errorf("feature %d: %+v", i, f)
		}
	}
}

// unzipped is the first file of an archive.
func unzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	r, err := z.File[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
