package measure

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// blobs is a mask of overlapping ellipses with holes, some at the border.
func blobs(seed uint64, h, w int) []bool {
	r := random.Stream(seed, "blobs")
	mask := make([]bool, h*w)
	for range h * w / 400 {
		cy, cx := r.Float64()*float64(h), r.Float64()*float64(w)
		a, b, turn := 1+6*r.Float64(), 1+4*r.Float64(), r.Float64()*math.Pi
		for i := range mask {
			dy, dx := float64(i/w)-cy, float64(i%w)-cx
			u, v := (dx*math.Cos(turn)+dy*math.Sin(turn))/a, (dy*math.Cos(turn)-dx*math.Sin(turn))/b
			if u*u+v*v < 1 {
				mask[i] = r.Float64() < 0.97
			}
		}
	}
	return mask
}

// disc adds a disc to a mask.
func disc(mask []bool, w int, cy, cx, radius float64) {
	for i := range mask {
		if math.Hypot(float64(i/w)-cy, float64(i%w)-cx) <= radius {
			mask[i] = true
		}
	}
}

// python runs a script that reads JSON from standard input and writes JSON.
func python(t *testing.T, script string, in, out any) {
	t.Helper()
	program := peers.Python(t, "numpy", "scipy", "skimage")
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", script)
	cmd.Stdin = bytes.NewReader(data)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(answer, out); err != nil {
		t.Fatal(err)
	}
}

type pythonMask struct {
	H, W int
	Mask []int
}

func asPython(h, w int, mask []bool) pythonMask {
	p := pythonMask{h, w, make([]int, len(mask))}
	for i, m := range mask {
		if m {
			p.Mask[i] = 1
		}
	}
	return p
}

// scikit-image's regionprops of the same masks.
func TestShapesAgainstSkimage(t *testing.T) {
	type props struct {
		Area                                        int
		Y, X, Diameter, Perimeter, Feret, FeretMin  float64
		Major, Minor, Orientation, Solidity, Convex float64
		Box                                         [4]int
	}
	const h, w = 90, 110
	var in []pythonMask
	var masks [][]bool
	s := seed.Rand(t).Uint64()
	for k := range 8 {
		mask := blobs(s+uint64(k), h, w)
		if k == 0 { // as round as pixels allow, and the smallest of all
			mask = make([]bool, h*w)
			disc(mask, w, 40, 50, 30)
			mask[3*w+3], mask[80*w+100], mask[80*w+101] = true, true, true
		}
		masks = append(masks, mask)
		in = append(in, asPython(h, w, mask))
	}
	var want [][]props
	python(t, `
import sys, json, numpy as np
from scipy.spatial import ConvexHull
from skimage import measure
out = []
for m in json.load(sys.stdin):
    labels = measure.label(np.array(m["Mask"]).reshape(m["H"], m["W"]), connectivity=2)
    rows = []
    for p in measure.regionprops(labels):
        c = p.coords.astype(float)
        c = np.concatenate([c + d for d in ([.5, 0], [-.5, 0], [0, .5], [0, -.5])])
        hull = c[ConvexHull(c).vertices]
        # the width at every angle of a fine grid: its minimum is at most 0.2 % too large
        a = np.deg2rad(np.arange(0, 180, 0.05))
        proj = hull @ np.array([np.sin(a), np.cos(a)])
        width = proj.max(0) - proj.min(0)
        d = np.hypot(*(hull[:, None] - hull[None]).T).max()
        rows.append(dict(Area=int(p.area), Y=p.centroid[0], X=p.centroid[1], Diameter=p.equivalent_diameter_area,
            Perimeter=measure.perimeter_crofton(np.pad(p.image, 1), directions=4),
            Feret=d, FeretMin=width.min(), Major=p.axis_major_length, Minor=p.axis_minor_length,
            Orientation=p.orientation, Solidity=p.solidity, Convex=p.area_convex, Box=p.bbox))
        assert abs(p.feret_diameter_max - d) <= 1, (p.feret_diameter_max, d)  # skimage rasters the hull first
    out.append(rows)
json.dump(out, sys.stdout, default=int)
`, in, &want)
	total := 0
	for k, mask := range masks {
		labels, n := Components(h, w, mask)
		got := Regions(h, w, labels, n)
		if n != len(want[k]) {
			t.Fatalf("%d regions, scikit-image has %d", n, len(want[k]))
		}
		total += n
		for i, p := range want[k] {
			r := got[i]
			sh := r.Shape(1, 1)
			// both in float64: sums differ in their order alone
			near := func(what string, a, b, tolerance float64) {
				if !(math.Abs(a-b) <= tolerance) {
					t.Errorf("mask %d region %d of %d pixels: %s %g, scikit-image %g", k, i, r.Area, what, a, b)
				}
			}
			if r.Area != p.Area || [4]int{r.Top, r.Left, r.Bottom, r.Right} != p.Box {
				t.Fatalf("region %+v, scikit-image %+v", r, p)
			}
			near("y", r.Y, p.Y, 1e-9)
			near("x", r.X, p.X, 1e-9)
			near("diameter", r.Diameter(), p.Diameter, 1e-9)
			near("perimeter", sh.Perimeter, p.Perimeter, 1e-9*p.Perimeter)
			near("largest Feret diameter", sh.FeretMax, p.Feret, 1e-9)
			near("smallest Feret diameter", sh.FeretMin, p.FeretMin, 2e-3*p.FeretMin)
			near("major axis", sh.Major, p.Major, 1e-6)
			near("minor axis", sh.Minor, p.Minor, 1e-6)
			near("convex area", float64(r.convex), p.Convex, 0)
			near("solidity", r.Solidity(), p.Solidity, 1e-9)
			if p.Major-p.Minor > 1e-3 && math.Abs(r.yy-r.xx) > 1e-9 {
				// skimage's is from the first axis, y, counterclockwise. Where the
				// moments of both axes are equal, 0.19 returned the other diagonal.
				d := math.Mod(sh.Angle-(p.Orientation*180/math.Pi+90)+720, 180)
				near("angle", min(d, 180-d), 0, 1e-4)
			}
		}
	}
	if total < 40 {
		t.Errorf("only %d regions were compared", total)
	}
}

// Pixels that are not square: a shape drawn on them has the lengths of the same
// shape on squares, to the pixels' size.
func TestShapeOfUnequalPixels(t *testing.T) {
	const radius, height, width = 40.0, 0.5, 0.8
	h, w := 200, 130
	mask := make([]bool, h*w)
	for i := range mask {
		y, x := (float64(i/w)-100)*height, (float64(i%w)-65)*width
		// an ellipse with axes 80 and 40, turned by 30°
		u, v := x*math.Cos(math.Pi/6)-y*math.Sin(math.Pi/6), y*math.Cos(math.Pi/6)+x*math.Sin(math.Pi/6)
		mask[i] = u*u/(radius*radius)+v*v/(radius*radius/4) <= 1
	}
	labels, n := Components(h, w, mask)
	r := Regions(h, w, labels, n)
	if n != 1 {
		t.Fatalf("%d regions", n)
	}
	s := r[0].Shape(height, width)
	for _, c := range []struct {
		what            string
		got, want, upTo float64
	}{
		{"major axis", s.Major, 80, 0.4},
		{"minor axis", s.Minor, 40, 0.4},
		{"angle", s.Angle, -30 + 60, 0.5},
		{"largest Feret diameter", s.FeretMax, 80, 1.3},
		{"smallest Feret diameter", s.FeretMin, 40, 1.3},
		{"Feret angle", s.FeretAngle, 30, 3},
		// of the ellipse 193.77; four directions see it from 4 % too few to too many
		{"perimeter", s.Perimeter, 193.77, 8},
	} {
		if math.Abs(c.got-c.want) > c.upTo {
			t.Errorf("%s %g, want %g to %g", c.what, c.got, c.want, c.upTo)
		}
	}
}

func TestFillHolesAndDistanceAgainstScipy(t *testing.T) {
	const h, w = 90, 110
	mask := blobs(seed.Rand(t).Uint64(), h, w)
	var want struct {
		Filled   []int
		Distance []float64
	}
	python(t, `
import sys, json, numpy as np
from scipy import ndimage
m = json.load(sys.stdin)
a = np.array(m["Mask"]).reshape(m["H"], m["W"])
json.dump(dict(Filled=ndimage.binary_fill_holes(a).astype(int).ravel().tolist(),
    Distance=ndimage.distance_transform_edt(a).ravel().tolist()), sys.stdout)
`, asPython(h, w, mask), &want)
	d := Distance(h, w, mask)
	for i, v := range want.Distance {
		if math.Abs(d[i]-v) > 1e-9 {
			t.Fatalf("pixel (%d, %d): distance %g, SciPy %g", i/w, i%w, d[i], v)
		}
	}
	holes := slices.Clone(mask)
	FillHoles(h, w, holes)
	for i, v := range want.Filled {
		if holes[i] != (v == 1) {
			t.Fatalf("pixel (%d, %d) filled: %v, SciPy %d", i/w, i%w, holes[i], v)
		}
	}
	if slices.Equal(holes, mask) {
		t.Error("the mask has no holes: nothing was tested")
	}
}

// The watershed from the same markers, against scikit-image's.
func TestWatershedAgainstSkimage(t *testing.T) {
	const h, w = 90, 110
	mask := blobs(seed.Rand(t).Uint64(), h, w)
	d := Distance(h, w, mask)
	markers := summits(h, w, mask, d, DefaultSplitDepth)
	var want []int32
	python(t, `
import sys, json, numpy as np
from skimage.segmentation import watershed
m, markers, d = json.load(sys.stdin)
s = (m["H"], m["W"])
a = watershed(-np.array(d).reshape(s), np.array(markers).reshape(s), mask=np.array(m["Mask"]).reshape(s) > 0, connectivity=2)
json.dump(a.ravel().tolist(), sys.stdout)
`, []any{asPython(h, w, mask), markers, d}, &want)
	got := Watershed(h, w, mask, d, markers)
	different, all := 0, 0
	for i, v := range want {
		if v > 0 || got[i] > 0 {
			all++
			if got[i] != v {
				different++
			}
		}
	}
	// Neighbours of a pixel come in another order, which decides where two hills
	// are equally near.
	if all == 0 || different > all/100 {
		t.Errorf("%d of %d pixels differ", different, all)
	}
}

// Seven touching discs, a ring around one, are seven; one disc stays one at any
// size and place.
func TestSplit(t *testing.T) {
	const h, w, radius = 220, 220, 30.0
	mask := make([]bool, h*w)
	disc(mask, w, 110, 110, radius)
	for k := range 6 {
		a := float64(k) * math.Pi / 3
		disc(mask, w, 110+1.9*radius*math.Sin(a), 110+1.9*radius*math.Cos(a), radius)
	}
	if _, n := Components(h, w, mask); n != 1 {
		t.Fatalf("the discs are %d regions before", n)
	}
	labels, n := Split(h, w, mask, DefaultSplitDepth)
	if n != 7 {
		t.Errorf("seven discs are %d", n)
	}
	for i, r := range Regions(h, w, labels, n) {
		if d := r.Diameter(); math.Abs(d-2*radius) > 2 {
			t.Errorf("disc %d has diameter %g, want %g to 2", i, d, 2*radius)
		}
	}
	r := random.Stream(seed.Rand(t).Uint64(), "discs")
	for range 200 {
		mask := make([]bool, 70*70)
		radius := 1 + 28*r.Float64()
		disc(mask, 70, 34+r.Float64(), 34+r.Float64(), radius)
		if _, n := Split(70, 70, mask, DefaultSplitDepth); n != 1 {
			t.Errorf("one disc of radius %g is %d", radius, n)
		}
	}
}

// The deeper a neck must be, the fewer particles are parted; none at last.
func TestSplitDepth(t *testing.T) {
	const h, w, radius = 120, 400, 30.0
	mask := make([]bool, h*w)
	centres := []float64{40, 98, 150, 192, 222, 242} // necks less and less deep
	for _, x := range centres {
		disc(mask, w, 60, x, radius)
	}
	last := len(centres) + 1
	for depth := 0.02; depth <= 1; depth += 0.02 {
		_, n := Split(h, w, mask, depth)
		if n > last {
			t.Errorf("depth %.2f parts into %d, a smaller one into %d", depth, n, last)
		}
		last = n
	}
	if _, n := Split(h, w, mask, 0.02); n < 4 {
		t.Errorf("the least depth parts into %d", n)
	}
	// A neck between discs whose centres are 2a apart is as deep as √(r²−a²) is less than r.
	for i, gap := range []float64{58, 52, 42} {
		mask := make([]bool, h*w)
		disc(mask, w, 60, 100, radius)
		disc(mask, w, 60, 100+gap, radius)
		deep := 1 - math.Sqrt(1-gap*gap/4/radius/radius)
		for depth, want := range map[float64]int{0.7 * deep: 2, 1.3 * deep: 1} { // for the steps of pixels
			if _, n := Split(h, w, mask, depth); n != want {
				t.Errorf("neck %d, %.3f deep, is parted into %d at depth %.3f, not %d", i, deep, n, depth, want)
			}
		}
	}
}

func ExampleRegion_Shape() {
	// a bar of 2×6 pixels of 0.5 nm
	const h, w = 6, 10
	mask := make([]bool, h*w)
	for i := range mask {
		mask[i] = i/w >= 2 && i/w < 4 && i%w >= 2 && i%w < 8
	}
	labels, n := Components(h, w, mask)
	r := Regions(h, w, labels, n)[0]
	s := r.Shape(0.5, 0.5)
	fmt.Printf("%d pixels, %.2f nm wide, %.2f nm long at %.0f°, solidity %.0f\n", r.Area, s.FeretMin, s.FeretMax, s.FeretAngle, r.Solidity())
	// Output: 12 pixels, 1.00 nm wide, 3.04 nm long at -9°, solidity 1
}
