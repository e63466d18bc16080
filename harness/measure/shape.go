package measure

import (
	"math"
	"slices"
)

// Point is a position in pixels.
type Point struct{ Y, X float64 }

// Region is the pixels of one number in a label image.
type Region struct {
	Area                     int     // pixels
	Y, X                     float64 // centre of mass, from the centre of the first pixel
	Top, Left, Bottom, Right int     // bounding box, the last two beyond it
	Border                   bool    // touches the image's border
	// Moments of the positions around the centre, divided by the area.
	yy, yx, xx float64
	// chords that end in the region, along rows, columns and the two diagonals:
	// what Crofton's formula counts.
	rows, columns, falling, rising int
	hull                           []Point // of the pixels' edges, counterclockwise or clockwise
	convex                         int     // pixels whose centre lies in the hull
}

// Regions measures the n regions of a label image, which are numbered from 1.
func Regions(h, w int, labels []int32, n int) []Region {
	regions := make([]Region, n)
	for i := range regions {
		regions[i].Top, regions[i].Left = h, w
	}
	for y := range h {
		for x := range w {
			l := labels[y*w+x]
			if l == 0 {
				continue
			}
			r := &regions[l-1]
			r.Area++
			r.Y, r.X = r.Y+float64(y), r.X+float64(x)
			r.Top, r.Bottom = min(r.Top, y), max(r.Bottom, y+1)
			r.Left, r.Right = min(r.Left, x), max(r.Right, x+1)
			r.Border = r.Border || y == 0 || x == 0 || y == h-1 || x == w-1
		}
	}
	at := func(y, x int) int32 {
		if y < 0 || x < 0 || y >= h || x >= w {
			return 0
		}
		return labels[y*w+x]
	}
	for i := range regions {
		r := &regions[i]
		if r.Area == 0 {
			continue
		}
		l := int32(i + 1)
		r.Y, r.X = r.Y/float64(r.Area), r.X/float64(r.Area)
		var points []Point
		for y := r.Top; y < r.Bottom; y++ {
			first, last := -1, -1
			for x := r.Left; x < r.Right; x++ {
				if labels[y*w+x] != l {
					continue
				}
				if first < 0 {
					first = x
				}
				last = x
				dy, dx := float64(y)-r.Y, float64(x)-r.X
				r.yy += float64(dy * dy)
				r.yx += float64(dy * dx)
				r.xx += float64(dx * dx)
				for _, d := range [...]struct {
					y, x int
					n    *int
				}{{0, 1, &r.rows}, {1, 0, &r.columns}, {1, 1, &r.falling}, {-1, 1, &r.rising}} {
					if at(y+d.y, x+d.x) != l {
						*d.n++
					}
				}
			}
			// the hull needs only the outermost pixels of a row
			for _, x := range []int{first, last} {
				if x >= 0 {
					y, x := float64(y), float64(x)
					points = append(points, Point{y - 0.5, x}, Point{y + 0.5, x}, Point{y, x - 0.5}, Point{y, x + 0.5})
				}
			}
		}
		a := float64(r.Area)
		r.yy, r.yx, r.xx = r.yy/a, r.yx/a, r.xx/a
		r.hull = hull(points)
		r.convex = inside(r.hull, r.Top, r.Left, r.Bottom, r.Right)
	}
	return regions
}

// Diameter of the disc of the same area, in pixels.
func (r *Region) Diameter() float64 { return DiscDiameter(float64(r.Area)) }

// Solidity is the area as a fraction of that of the convex hull.
func (r *Region) Solidity() float64 { return float64(r.Area) / float64(r.convex) }

// Shape has the lengths of a region, in the unit of the pixel size given to
// Region.Shape, and angles in degrees from the rows' direction, counterclockwise
// as seen, from −90 (left out) to 90.
type Shape struct {
	Perimeter    float64 // Crofton's formula with four directions
	Circularity  float64 // 4π·area/perimeter², 1 at most
	FeretMax     float64 // largest distance of two points of the hull
	FeretMin     float64 // smallest distance of two parallel lines around it
	FeretAngle   float64 // of FeretMax
	Major, Minor float64 // axes of the ellipse with the same second moments
	Angle        float64 // of the major axis
}

// Shape measures a region whose pixels have the given height and width.
func (r *Region) Shape(height, width float64) Shape {
	var s Shape
	// Every direction stands for the angles nearest to it, every chord for the
	// distance of the lines that were counted.
	diagonal := math.Hypot(height, width)
	angle := math.Atan2(height, width)
	s.Perimeter = angle*height*float64(r.rows) + (math.Pi/2-angle)*width*float64(r.columns) +
		math.Pi/4*height*width/diagonal*float64(r.falling+r.rising)
	area := float64(r.Area) * height * width
	s.Circularity = min(1, 4*math.Pi*area/(s.Perimeter*s.Perimeter))

	points := make([]Point, len(r.hull))
	for i, p := range r.hull {
		points[i] = Point{p.Y * height, p.X * width}
	}
	s.FeretMin = math.Inf(1)
	for i, p := range points {
		q := points[(i+1)%len(points)]
		length := math.Hypot(q.Y-p.Y, q.X-p.X)
		var far float64
		for _, o := range points {
			if d := math.Hypot(o.Y-p.Y, o.X-p.X); d > s.FeretMax {
				s.FeretMax, s.FeretAngle = d, degrees(o.Y-p.Y, o.X-p.X)
			}
			far = max(far, math.Abs((q.X-p.X)*(o.Y-p.Y)-(q.Y-p.Y)*(o.X-p.X))/length)
		}
		s.FeretMin = min(s.FeretMin, far)
	}

	yy, yx, xx := r.yy*height*height, r.yx*height*width, r.xx*width*width
	mean, half := (yy+xx)/2, math.Hypot((yy-xx)/2, yx)
	s.Major, s.Minor = 4*math.Sqrt(mean+half), 4*math.Sqrt(max(0, mean-half))
	s.Angle = degrees(math.Sin(0.5*math.Atan2(2*yx, xx-yy)), math.Cos(0.5*math.Atan2(2*yx, xx-yy)))
	return s
}

// degrees is the angle of a direction, y pointing down, in (−90, 90].
func degrees(y, x float64) float64 {
	a := math.Atan2(-y, x) * 180 / math.Pi
	switch {
	case a <= -90:
		a += 180
	case a > 90:
		a -= 180
	}
	return a + 0 // no −0
}

// hull is the convex hull of points, by Andrew's monotone chain.
func hull(points []Point) []Point {
	slices.SortFunc(points, func(a, b Point) int {
		switch {
		case a.X < b.X || a.X == b.X && a.Y < b.Y:
			return -1
		case a == b:
			return 0
		}
		return 1
	})
	points = slices.Compact(points)
	if len(points) < 3 {
		return points
	}
	half := func(points []Point) []Point {
		var out []Point
		for _, p := range points {
			for len(out) > 1 && cross(out[len(out)-2], out[len(out)-1], p) <= 0 {
				out = out[:len(out)-1]
			}
			out = append(out, p)
		}
		return out[:len(out)-1]
	}
	lower := half(points)
	slices.Reverse(points)
	return append(lower, half(points)...)
}

// cross is the turn from a over b to c. Coordinates are multiples of a half, so it
// is exact.
func cross(a, b, c Point) float64 {
	return float64((b.X-a.X)*(c.Y-a.Y)) - float64((b.Y-a.Y)*(c.X-a.X))
}

// inside counts the pixels of a box whose centre lies in a convex polygon or on
// its border.
func inside(polygon []Point, top, left, bottom, right int) int {
	n := 0
	for y := top; y < bottom; y++ {
		// the polygon's extent in this row
		low, high := math.Inf(1), math.Inf(-1)
		for i, p := range polygon {
			q := polygon[(i+1)%len(polygon)]
			fy := float64(y)
			if min(p.Y, q.Y) > fy || max(p.Y, q.Y) < fy {
				continue
			}
			if p.Y == q.Y {
				low, high = min(low, p.X, q.X), max(high, p.X, q.X)
				continue
			}
			x := p.X + (q.X-p.X)*(fy-p.Y)/(q.Y-p.Y)
			low, high = min(low, x), max(high, x)
		}
		const rounding = 1e-9
		first, last := max(left, int(math.Ceil(low-rounding))), min(right-1, int(math.Floor(high+rounding)))
		n += max(0, last-first+1)
	}
	return n
}

// DiscDiameter is the diameter of the disc of an area.
func DiscDiameter(area float64) float64 { return 2 * math.Sqrt(area/math.Pi) }
