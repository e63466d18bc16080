package micrograph

import (
	"bytes"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// poisson draws a count, by inversion for small means and from the normal
// distribution for large ones.
func poisson(r *rand.Rand, mean float64) float32 {
	if mean > 50 {
		return float32(max(0, math.Round(mean+math.Sqrt(mean)*r.NormFloat64())))
	}
	p, u := math.Exp(-mean), r.Float64()
	k := 0
	for sum := p; u > sum && k < 1000; sum += p {
		k++
		p *= mean / float64(k)
	}
	return float32(k)
}

// counts is a micrograph of lattice fringes on noise.
func counts(r *rand.Rand, h, w int, mean float64) *Image {
	im := &Image{H: h, W: w, Pixels: make([]float32, h*w)}
	for i := range im.Pixels {
		y, x := float64(i/w), float64(i%w)
		v := mean
		if math.Hypot(y-float64(h)/3, x-float64(w)/2) < float64(h)/5 {
			v *= 0.8 + 0.4*math.Sin(1.2*x+0.7*y)
		}
		im.Pixels[i] = poisson(r, v)
	}
	return im
}

// standardized is what a network sees of an image.
func standardized(im *Image, o Options) (*Prepared, error) {
	p, err := Prepare(im, o)
	if err == nil {
		err = Standardize(&p.Image)
	}
	return p, err
}

// What is an image is left alone, whatever its counts, and its bits are those of
// the training images.
func TestRepairLeavesImages(t *testing.T) {
	r := seed.Rand(t)
	for _, mean := range []float64{0.01, 0.05, 0.3, 2, 20, 500, 2e4} {
		for range 5 {
			im := counts(r, 200, 160, mean)
			want := slices.Clone(im.Pixels)
			d, err := Repair(im)
			if err != nil || d.Total() != 0 || im.Bad != nil || !slices.Equal(im.Pixels, want) {
				t.Errorf("mean %g: %v, %v", mean, d, err)
			}
			p, err := standardized(im, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := pixels.Standardize(want, 160); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Pixels, want) || len(p.Notes) > 0 {
				t.Errorf("mean %g: standardised otherwise than for training; notes %v", mean, p.Notes)
			}
		}
	}
}

func TestRepairFinds(t *testing.T) {
	const h, w = 200, 160
	nan := float32(math.NaN())
	for _, c := range []struct {
		name  string
		spoil func(r *rand.Rand, im *Image, mark func(at int, v float32))
		got   func(d Defects) int
		blind bool
		// more pixels than were spoilt, as a fraction of them
		more float64
	}{
		{"one hot pixel", func(r *rand.Rand, im *Image, mark func(int, float32)) { mark(77*w+31, 30000) },
			func(d Defects) int { return d.Outliers }, false, 0},
		{"50 saturated pixels", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for range 50 {
				mark(r.IntN(h*w), 65535)
			}
		}, func(d Defects) int { return d.Outliers }, false, 0},
		{"an X-ray of 3×3 pixels", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for y := 50; y < 53; y++ {
				for x := 60; x < 63; x++ {
					mark(y*w+x, 4000)
				}
			}
		}, func(d Defects) int { return d.Outliers }, false, 0},
		{"missing pixels", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for range 300 {
				mark(r.IntN(h*w), nan)
			}
			mark(5, float32(math.Inf(1)))
		}, func(d Defects) int { return d.Missing }, false, 0},
		{"a dead row and column", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for x := range w {
				mark(99*w+x, 0)
			}
			for y := range h {
				mark(y*w+40, 0)
			}
		}, func(d Defects) int { return d.Lines }, false, 0},
		{"a dead edge", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for i := range h * w {
				if i%w < 20 {
					mark(i, 0)
				}
			}
		}, func(d Defects) int { return d.Dead }, true, 0.15},
		{"a round aperture with dark noise", func(r *rand.Rand, im *Image, mark func(int, float32)) {
			for i := range h * w {
				if math.Hypot(float64(i/w-h/2), float64(i%w-w/2)) > 70 {
					mark(i, poisson(r, 0.5))
				}
			}
		}, func(d Defects) int { return d.Dead }, true, 0.1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := seed.Rand(t)
			im := counts(r, h, w, 64)
			clean := slices.Clone(im.Pixels)
			spoilt := map[int]bool{}
			c.spoil(r, im, func(at int, v float32) { im.Pixels[at], spoilt[at] = v, true })
			d, err := Repair(im)
			if err != nil {
				t.Fatal(err)
			}
			n := len(spoilt)
			if got := c.got(d); got < n || float64(got) > float64(n)*(1+c.more) || d.Total() != got {
				t.Errorf("%d pixels were spoilt; found %+v", n, d)
			}
			for at := range spoilt {
				if !im.Bad[at] {
					t.Fatalf("pixel (%d, %d) was not found", at/w, at%w)
				}
			}
			if (d.Blind != nil) != c.blind {
				t.Errorf("blind areas: %v", d.Blind != nil)
			}
			if !strings.Contains(d.String(), "left out and filled") {
				t.Errorf("says %q", d)
			}
			// what is filled in lies in the range of the image
			low, high := slices.Min(clean), slices.Max(clean)
			for i, v := range im.Pixels {
				if !(v >= low && v <= high) {
					t.Fatalf("pixel (%d, %d) became %g", i/w, i%w, v)
				}
				if !im.Bad[i] && v != clean[i] {
					t.Fatalf("good pixel (%d, %d) changed", i/w, i%w)
				}
			}
			// the statistics are those of the clean image's same pixels
			if err := Standardize(im); err != nil {
				t.Fatal(err)
			}
			var good []float32
			for i, v := range clean {
				if !im.Bad[i] {
					good = append(good, v)
				}
			}
			mean, variance := pixels.Moments(good)
			at := slices.Index(im.Bad, false)
			if want := (float64(clean[at]) - mean) / math.Sqrt(variance); math.Abs(float64(im.Pixels[at])-want) > 1e-6 {
				t.Errorf("pixel (%d, %d) is %g after standardising, want %g", at/w, at%w, im.Pixels[at], want)
			}
		})
	}
}

// The border of an aperture that is out of focus is left out as far as it is darker
// than the image; that of a sharp one is not grown into.
func TestRepairOfSoftBorders(t *testing.T) {
	const h, w, radius = 160, 150, 60
	for _, softness := range []float64{0.01, 2, 4} { // of a logistic function, in pixels
		r := seed.Rand(t)
		im := counts(r, h, w, 64)
		clean := slices.Clone(im.Pixels)
		keep := make([]float64, h*w) // part of the intensity
		for i := range keep {
			d := math.Hypot(float64(i/w-h/2), float64(i%w-w/2)) - radius
			keep[i] = 1 / (1 + math.Exp(d/softness))
			im.Pixels[i] = float32(math.Round(float64(clean[i]) * keep[i]))
		}
		if _, err := Repair(im); err != nil {
			t.Fatal(err)
		}
		for i, bad := range im.Bad {
			d := math.Hypot(float64(i/w-h/2), float64(i%w-w/2)) - radius
			if !bad && keep[i] < 0.7 { // the found border is ragged by some pixels
				t.Errorf("softness %g: pixel (%d, %d) with %.2f of its intensity is taken for image", softness, i/w, i%w, keep[i])
				break
			}
			// Windows of 7 pixels, the growth by 2, and what the shells' noise adds.
			if bad && d < -16-6*softness {
				t.Errorf("softness %g: pixel (%d, %d), %.1f pixels inside, is left out", softness, i/w, i%w, -d)
				break
			}
		}
	}
}

// Blind areas get the noise of the image, always the same; the rest stays.
func TestBlindAreasHaveNoise(t *testing.T) {
	const h, w = 96, 100
	im := counts(seed.Rand(t), h, w, 64)
	for i := range im.Pixels {
		if i%w < 40 {
			im.Pixels[i] = 0
		}
	}
	d, err := Repair(im)
	if err != nil {
		t.Fatal(err)
	}
	a, b := im.AtSize(h, w, d), im.AtSize(h, w, d)
	if !slices.Equal(a.Pixels, b.Pixels) {
		t.Error("the noise is another every time")
	}
	var outside []float32
	for i, blind := range d.Blind {
		switch {
		case blind:
			outside = append(outside, a.Pixels[i])
		case a.Pixels[i] != im.Pixels[i]:
			t.Fatalf("pixel (%d, %d) changed", i/w, i%w)
		}
	}
	// 64 counts deviate by 8; about 3500 pixels tell that to 1.2 %, three times over,
	// and the median of windows is a little less
	if _, v := pixels.Moments(outside); math.Abs(math.Sqrt(v)-8) > 0.8 {
		t.Errorf("the noise deviates by %.2f, want 8", math.Sqrt(v))
	}
}

// The corners of small bright objects are no outliers.
func TestRepairLeavesObjects(t *testing.T) {
	r := seed.Rand(t)
	const h, w = 96, 96
	im := &Image{H: h, W: w, Pixels: make([]float32, h*w)}
	for i := range im.Pixels {
		im.Pixels[i] = float32(500 + 5*r.NormFloat64())
		if math.Hypot(float64(i/w-40), float64(i%w-30)) < 6 || math.Hypot(float64(i/w-70), float64(i%w-70)) < 3 {
			im.Pixels[i] += 500
		}
	}
	if d, err := Repair(im); err != nil || d.Total() > 0 {
		t.Errorf("%v, %v", d, err)
	}
}

func TestRepairRefusesNothingness(t *testing.T) {
	im := &Image{H: 20, W: 20, Pixels: slices.Repeat([]float32{float32(math.NaN())}, 400)}
	im.Pixels[3] = 1
	if _, err := Repair(im); err == nil || !strings.Contains(err.Error(), "no image is left") {
		t.Errorf("an image of NaN: %v", err)
	}
	im = &Image{H: 2, W: 2, Pixels: []float32{1, 2, 3, float32(math.NaN())}}
	if _, err := Prepare(im, Options{NoRepair: true}); err == nil || !strings.Contains(err.Error(), "pixel (1, 1) is NaN") {
		t.Errorf("NaN that is not to be repaired: %v", err)
	}
}

// Flattening takes a gradient away and keeps what is smaller than its scale.
func TestFlatten(t *testing.T) {
	r := seed.Rand(t)
	const h, w = 400, 512
	flat := counts(r, h, w, 500)
	for _, offset := range []float32{0, -500} { // counts, and an image without its mean
		tilted := &Image{H: h, W: w, Pixels: slices.Clone(flat.Pixels)}
		for i := range tilted.Pixels {
			f := 0.7 + 0.6*float32(i%w)/w
			if offset == 0 {
				tilted.Pixels[i] *= f
			} else {
				tilted.Pixels[i] += offset + 500*(f-1)
			}
		}
		p, err := Prepare(tilted, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if offset == 0 && !slices.ContainsFunc(p.Notes, func(n string) bool { return strings.Contains(n, "--flatten") }) {
			t.Errorf("a gradient of 30 %% got notes %q", p.Notes)
		}
		p, err = standardized(tilted, Options{Flatten: true})
		if err != nil {
			t.Fatal(err)
		}
		// Of 1.4 deviations of the noise, the gradient at the outer ones of these
		// columns, no more is left than the particle's own mean and the one-sided
		// means at the borders explain.
		for _, x := range []int{w / 3, w / 2, 2 * w / 3} {
			var mean float64
			for y := h / 2; y < h/2+40; y++ {
				for u := x; u < x+40; u++ {
					mean += float64(p.Pixels[y*w+u]) / 1600
				}
			}
			if math.Abs(mean) > 0.5 {
				t.Errorf("offset %g: mean %.2f around column %d", offset, mean, x)
			}
		}
	}
}

// An area too large for the background to reach into is not dark: it neither
// counts as uneven illumination nor makes Flatten subtract instead of divide.
func TestFlattenBesideBlindArea(t *testing.T) {
	const h, w, good = 64, 1200, 500
	im := &Image{H: h, W: w, Pixels: make([]float32, h*w), Bad: make([]bool, h*w)}
	for i := range im.Pixels {
		im.Bad[i] = i%w >= good
		if im.Pixels[i] = 500; im.Bad[i] {
			im.Pixels[i] = 0
		}
	}
	l := Illuminate(im, FlatSigma)
	if l.Uneven > 1e-12 { // of rounding
		t.Errorf("a constant image is uneven by %g", l.Uneven)
	}
	l.Flatten(im)
	for i, v := range im.Pixels {
		if !im.Bad[i] && math.Abs(float64(v)-500) > 1e-3 { // float32 has 7 digits
			t.Fatalf("pixel (%d, %d) of a constant image became %g", i/w, i%w, v)
		}
	}
}

// Resampling against OpenCV's area interpolation and Pillow's cubic one, which are
// the same kernels; both compute in float32.
func TestResampleAgainstPeers(t *testing.T) {
	python := peers.Python(t, "numpy", "cv2", "PIL")
	r := seed.Rand(t)
	const h, w = 37, 53
	x := make([]float32, h*w)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	sizes := [][2]int{{12, 17}, {18, 26}, {36, 52}, {74, 106}, {50, 80}, {100, 54}}
	data, err := json.Marshal(map[string]any{"x": x, "h": h, "w": w, "sizes": sizes})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-c", `
import sys, json, numpy as np, cv2
from PIL import Image
m = json.load(sys.stdin)
x = np.array(m["x"], np.float32).reshape(m["h"], m["w"])
out = []
for h, w in m["sizes"]:
    if h < m["h"]:
        y = cv2.resize(x, (w, h), interpolation=cv2.INTER_AREA)
    else:
        y = np.array(Image.fromarray(x).resize((w, h), Image.BICUBIC))
    z = np.array(Image.fromarray(x).resize((w, h), Image.BILINEAR)) if h > m["h"] else y
    out.append([y.ravel().tolist(), z.ravel().tolist()])
json.dump(out, sys.stdout)
`)
	cmd.Stdin = bytes.NewReader(data)
	answer, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var want [][2][]float64
	if err := json.Unmarshal(answer, &want); err != nil {
		t.Fatal(err)
	}
	for k, s := range sizes {
		for i, got := range [][]float32{Resample(x, h, w, s[0], s[1]), ResampleProbability(x, h, w, s[0], s[1])} {
			for p, v := range got {
				if math.Abs(float64(v)-want[k][i][p]) > 1e-5 {
					t.Fatalf("to %v, kernel %d, pixel %d: %g, want %g", s, i, p, v, want[k][i][p])
				}
			}
		}
	}
}

// The mean stays, and there and back is near for a smooth image, also with unequal
// factors.
func TestPrepareResamples(t *testing.T) {
	const h, w = 120, 90
	im := &Image{H: h, W: w, Pixels: make([]float32, h*w)}
	for i := range im.Pixels {
		im.Pixels[i] = float32(math.Sin(float64(i/w)/15) + math.Cos(float64(i%w)/12))
	}
	p, err := standardized(im, Options{Rows: 0.5, Columns: 1.5})
	if err != nil {
		t.Fatal(err)
	}
	if p.H != 60 || p.W != 135 {
		t.Fatalf("%d×%d pixels, want 60×135", p.H, p.W)
	}
	back := ResampleProbability(p.Pixels, p.H, p.W, h, w)
	want := slices.Clone(im.Pixels)
	if err := pixels.Standardize(want, w); err != nil {
		t.Fatal(err)
	}
	for y := 4; y < h-4; y++ {
		for x := 4; x < w-4; x++ {
			if d := math.Abs(float64(back[y*w+x] - want[y*w+x])); d > 0.03 {
				t.Fatalf("pixel (%d, %d) is off by %g", y, x, d)
			}
		}
	}
	if p, err = Prepare(im, Options{Rows: 0.2, Columns: 0.2}); err != nil || len(p.Notes) != 1 || !strings.Contains(p.Notes[0], "in doubt") {
		t.Errorf("a factor of 5: %v, %v", p.Notes, err)
	}
	if _, err = Prepare(im, Options{Rows: 1e6, Columns: 1e6}); err == nil {
		t.Error("accepted an image of 1e16 pixels")
	}
}
