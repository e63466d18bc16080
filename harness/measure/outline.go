package measure

import (
	"archive/zip"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
)

// Outline is the outer border of region l of a label image, along the edges of its
// pixels: corners in clockwise order, the first not repeated. Pixels that touch at
// a corner are one region, so a corner may come twice.
func Outline(h, w int, labels []int32, l int32, r *Region) []Point {
	is := func(y, x int) bool { return y >= 0 && x >= 0 && y < h && x < w && labels[y*w+x] == l }
	y0, x0 := r.Top, r.Left
	for !is(y0, x0) {
		x0++
	}
	// directions right, down, left, up; the region lies on the right-hand side
	dy, dx := [4]int{0, 1, 0, -1}, [4]int{1, 0, -1, 0}
	// the pixels ahead on the left and on the right of a corner, by direction
	left := [4][2]int{{-1, 0}, {0, 0}, {0, -1}, {-1, -1}}
	right := [4][2]int{{0, 0}, {0, -1}, {-1, -1}, {-1, 0}}
	points := []Point{{float64(y0), float64(x0)}}
	y, x, d := y0, x0+1, 0
	for {
		turn := d
		switch {
		case is(y+left[d][0], x+left[d][1]):
			turn = (d + 3) % 4
		case !is(y+right[d][0], x+right[d][1]):
			turn = (d + 1) % 4
		}
		if y == y0 && x == x0 && turn == 0 {
			return points
		}
		if turn != d {
			points = append(points, Point{float64(y), float64(x)})
		}
		d = turn
		y, x = y+dy[d], x+dx[d]
	}
}

// Named is an outline with the name of its particle and of its class.
type Named struct {
	Name, Class string
	Outline     []Point
	// Values are measurements of the particle.
	Values map[string]float64
}

// WriteROI writes outlines as a ZIP file of ImageJ's regions of interest, for its
// ROI manager. Coordinates there have 16 bits; outlines that reach further have
// floating-point ones beside them, which ImageJ takes instead.
//
// Format: ij.io.RoiDecoder of ImageJ 1.
func WriteROI(w io.Writer, outlines []Named) error {
	z := zip.NewWriter(w)
	for _, o := range outlines {
		top, left, bottom, right := math.Inf(1), math.Inf(1), math.Inf(-1), math.Inf(-1)
		for _, p := range o.Outline {
			top, bottom = min(top, p.Y), max(bottom, p.Y)
			left, right = min(left, p.X), max(right, p.X)
		}
		const traced, version, subPixel = 8, 4, 50 // places of the last two
		b := make([]byte, 64, 64+12*len(o.Outline))
		copy(b, "Iout")
		binary.BigEndian.PutUint16(b[version:], 217)
		b[6] = traced
		far := bottom > math.MaxInt16 || right > math.MaxInt16
		if far {
			binary.BigEndian.PutUint16(b[version:], 222)
			binary.BigEndian.PutUint16(b[subPixel:], 128)
		}
		for i, v := range []float64{top, left, bottom, right} {
			binary.BigEndian.PutUint16(b[8+2*i:], uint16(min(v, math.MaxInt16)))
		}
		if n := len(o.Outline); n <= math.MaxUint16 {
			binary.BigEndian.PutUint16(b[16:], uint16(n))
		} else { // as ij.io.RoiEncoder does
			binary.BigEndian.PutUint32(b[18:], uint32(n))
		}
		for _, p := range o.Outline {
			b = binary.BigEndian.AppendUint16(b, uint16(p.X-left))
		}
		for _, p := range o.Outline {
			b = binary.BigEndian.AppendUint16(b, uint16(p.Y-top))
		}
		if far {
			for _, p := range o.Outline {
				b = binary.BigEndian.AppendUint32(b, math.Float32bits(float32(p.X)))
			}
			for _, p := range o.Outline {
				b = binary.BigEndian.AppendUint32(b, math.Float32bits(float32(p.Y)))
			}
		}
		f, err := z.Create(o.Name + ".roi")
		if err != nil {
			return err
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
	}
	return z.Close()
}

// WriteGeoJSON writes outlines as GeoJSON in pixels, with the properties that
// QuPath reads objects, classes and measurements from.
func WriteGeoJSON(w io.Writer, outlines []Named) error {
	features := []any{}
	for _, o := range outlines {
		ring := make([][2]float64, 0, len(o.Outline)+1)
		for _, p := range append(o.Outline[:len(o.Outline):len(o.Outline)], o.Outline[0]) {
			ring = append(ring, [2]float64{p.X, p.Y})
		}
		features = append(features, map[string]any{
			"type":     "Feature",
			"geometry": map[string]any{"type": "Polygon", "coordinates": [][][2]float64{ring}},
			"properties": map[string]any{"objectType": "detection", "name": o.Name,
				"classification": map[string]any{"name": o.Class}, "measurements": o.Values},
		})
	}
	return json.NewEncoder(w).Encode(map[string]any{"type": "FeatureCollection", "features": features})
}
