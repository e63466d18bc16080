package predict

import (
	"encoding/csv"
	"io"
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
)

// Particle is a connected region of pixels that are not background.
type Particle struct {
	Label                    int     // grey value in the label image, from 1
	Class                    uint8   // of most of its pixels
	Area                     int     // pixels
	Y, X                     float64 // centre of mass, pixels
	Top, Left, Bottom, Right int     // bounding box, the last two beyond it
	Probability              float64 // mean over its pixels
	Border                   bool    // touches the image's border, so may be cut
}

// Diameter is that of the disc of the same area, in pixels.
func (p Particle) Diameter() float64 { return 2 * math.Sqrt(float64(p.Area)/math.Pi) }

// Particles numbers the connected regions of the segmentation in the order of
// their first pixels and measures them. Pixels that touch at a corner are
// connected. Regions of fewer than minArea pixels are dropped. The label image
// has the size of the segmentation, 0 is background.
func Particles(s *Segmentation, minArea int) (labels []int32, particles []Particle) {
	labels, regions := connect(s)
	areas := make([]int, regions)
	for _, l := range labels {
		areas[l]++
	}
	number := make([]int32, regions) // of particles
	var votes []map[uint8]int        // pixels per class
	for i, r := range labels {
		if r == 0 || areas[r] < minArea {
			labels[i] = 0
			continue
		}
		y, x := i/s.W, i%s.W
		if number[r] == 0 {
			particles = append(particles, Particle{Label: len(particles) + 1, Area: areas[r], Top: y, Left: x, Bottom: y + 1, Right: x + 1})
			votes = append(votes, map[uint8]int{})
			number[r] = int32(len(particles))
		}
		labels[i] = number[r]
		p := &particles[number[r]-1]
		p.Y += float64(y)
		p.X += float64(x)
		p.Left, p.Right, p.Bottom = min(p.Left, x), max(p.Right, x+1), max(p.Bottom, y+1)
		p.Probability += float64(s.Probability[i])
		p.Border = p.Border || y == 0 || x == 0 || y == s.H-1 || x == s.W-1
		votes[number[r]-1][s.Class[i]]++
	}
	for i := range particles {
		p := &particles[i]
		n := float64(p.Area)
		p.Y, p.X, p.Probability = p.Y/n, p.X/n, p.Probability/n
		most := 0
		for c, n := range votes[i] {
			if n > most || n == most && c < p.Class { // the smaller class wins a draw
				p.Class, most = c, n
			}
		}
	}
	return labels, particles
}

// connect gives the pixels of every connected region a number of their own, less
// than regions; background is 0. Pixels that touch at a corner are connected.
func connect(s *Segmentation) (labels []int32, regions int) {
	labels = make([]int32, s.H*s.W)
	// First provisional numbers, and which of them are one region: a root is its
	// own parent and the smallest number of its region.
	parent := []int32{0}
	find := func(i int32) int32 {
		for parent[i] != i {
			parent[i] = parent[parent[i]]
			i = parent[i]
		}
		return i
	}
	for y := range s.H {
		for x := range s.W {
			at := y*s.W + x
			if s.Class[at] == 0 {
				continue
			}
			var root int32
			join := func(y, x int) {
				if y < 0 || x < 0 || x >= s.W || labels[y*s.W+x] == 0 {
					return
				}
				r := find(labels[y*s.W+x])
				switch {
				case root == 0:
					root = r
				case r < root:
					parent[root] = r
					root = r
				case root < r:
					parent[r] = root
				}
			}
			join(y, x-1)
			join(y-1, x-1)
			join(y-1, x)
			join(y-1, x+1)
			if root == 0 {
				root = int32(len(parent))
				parent = append(parent, root)
			}
			labels[at] = root
		}
	}
	for i, l := range labels {
		labels[i] = find(l)
	}
	return labels, len(parent)
}

// WriteCSV writes a table of the particles with the size of a pixel and where it
// comes from. Where that is unknown, the columns in nm are empty.
func WriteCSV(w io.Writer, particles []Particle, classes []string, pixel imagefile.Calibration) error {
	c := csv.NewWriter(w)
	c.Write([]string{"label", "class", "area_px", "area_nm2", "equivalent_diameter_nm", "centre_y_px", "centre_x_px",
		"top_px", "left_px", "bottom_px", "right_px", "mean_probability", "touches_border",
		"pixel_x_nm", "pixel_y_nm", "pixel_size_origin"})
	nm := pixel.Side() / 10
	var x, y string
	if nm > 0 {
		x, y = number(pixel.X/10), number(pixel.Y/10)
	}
	for _, p := range particles {
		area, diameter := "", ""
		if nm > 0 {
			area, diameter = number(float64(p.Area)*nm*nm), number(p.Diameter()*nm)
		}
		c.Write([]string{strconv.Itoa(p.Label), classes[p.Class], strconv.Itoa(p.Area), area, diameter, number(p.Y), number(p.X),
			strconv.Itoa(p.Top), strconv.Itoa(p.Left), strconv.Itoa(p.Bottom), strconv.Itoa(p.Right),
			number(p.Probability), strconv.FormatBool(p.Border), x, y, pixel.Origin})
	}
	c.Flush()
	return c.Error()
}

// number has the six digits that a measurement in pixels is good for.
func number(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
