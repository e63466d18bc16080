package sheet

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"image"
	"image/color"
	"image/png"
	"math"
	"strings"
	"testing"
)

// disc is an image with a bright disc, its label, and a prediction of a smaller
// one.
func disc(n int) Tile {
	t := Tile{H: n, W: n, Pixels: make([]float32, n*n), Label: make([]uint8, n*n), Prediction: make([]uint8, n*n), Caption: "disc"}
	for i := range t.Pixels {
		r := math.Hypot(float64(i/n-n/2), float64(i%n-n/2))
		t.Pixels[i] = float32(-r)
		if r < float64(n)/4 {
			t.Label[i] = 1
		}
		if r < float64(n)/6 {
			t.Prediction[i] = 1
		}
	}
	return t
}

func count(m *image.RGBA, c color.RGBA) int {
	n := 0
	for i := 0; i < len(m.Pix); i += 4 {
		if [4]uint8(m.Pix[i:i+4]) == [4]uint8{c.R, c.G, c.B, c.A} {
			n++
		}
	}
	return n
}

func TestDraw(t *testing.T) {
	for _, n := range []int{30, 64, 240, 512} { // magnified, as is, reduced
		m, err := Draw([]Tile{disc(n)}, Options{Title: "discs", PixelSize: 0.4})
		if err != nil {
			t.Fatal(err)
		}
		side := m.Bounds().Dx() - 2*margin
		if side < 180 || side > 300 {
			t.Errorf("%d pixels are drawn on %d", n, side)
		}
		// A circle's outline, two pixels wide: about 2·2πr.
		for _, o := range []struct {
			colour color.RGBA
			radius float64
		}{{classes[0], 0.25}, {prediction, 1. / 6}} {
			want := 4 * math.Pi * o.radius * float64(side)
			if got := float64(count(m, o.colour)); got < 0.8*want || got > 1.6*want {
				t.Errorf("%d pixels: outline of %v pixels, want about %.0f", n, got, want)
			}
		}
		// The brightest is in the middle, the corner is black.
		x, y := margin+side/2, margin+header+side/2
		if g := m.RGBAAt(x, y).R; g < 250 {
			t.Errorf("%d pixels: centre is %d", n, g)
		}
		if g := m.RGBAAt(margin, margin+header).R; g > 10 {
			t.Errorf("%d pixels: corner is %d", n, g)
		}
	}
}

// A sheet is part of a report, whose bytes should not depend on the machine.
func TestDrawIsStable(t *testing.T) {
	tiles := []Tile{disc(64), disc(32), disc(300)}
	m, err := Draw(tiles, Options{Title: "Ag, −5 nm", PixelSize: 0.2, Columns: 2})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(m.Pix)
	if got := hex.EncodeToString(sum[:8]); got != "1c16c75f8fe2fa04" {
		t.Errorf("pixels hash to %s", got)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, m); err != nil {
		t.Fatal(err)
	}
}

func TestDrawOddInput(t *testing.T) {
	nan := float32(math.NaN())
	constant := Tile{H: 2, W: 3, Pixels: []float32{1, 1, 1, 1, 1, 1}}
	broken := Tile{H: 1, W: 2, Pixels: []float32{nan, nan}, Caption: strings.Repeat("a long caption ", 30)}
	if _, err := Draw([]Tile{constant, broken, {H: 1, W: 2000, Pixels: make([]float32, 2000)}}, Options{PixelSize: 3}); err != nil {
		t.Error(err)
	}
	for name, tiles := range map[string][]Tile{
		"none":   nil,
		"empty":  {{}},
		"pixels": {{H: 2, W: 2, Pixels: make([]float32, 3)}},
		"label":  {{H: 1, W: 1, Pixels: make([]float32, 1), Label: make([]uint8, 2)}},
	} {
		if _, err := Draw(tiles, Options{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBarLength(t *testing.T) {
	for _, tt := range [][2]float64{{51.2, 10}, {102.4, 20}, {25.6, 5}, {300, 100}, {0.9, 0.2}} {
		if got := BarLength(tt[0]); math.Abs(got-tt[1]) > 1e-9 {
			t.Errorf("a bar of %v Å for %v Å, want %v", got, tt[0], tt[1])
		}
	}
}

func TestShape(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 2, 12: 4, 16: 4, 9: 3, 15: 5, 24: 6} {
		if got := shape(n); got != want {
			t.Errorf("%d images in %d columns, want %d", n, got, want)
		}
	}
}
