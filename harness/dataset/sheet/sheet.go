// Package sheet draws contact sheets: a grid of micrographs with the outlines of
// labels and predictions, captions and a scale bar.
package sheet

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/refocus-em/refocus/harness/internal/pixels"

	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

// Tile is one image of H rows and W columns.
type Tile struct {
	H, W   int
	Pixels []float32 // [H·W], shown from its 0.5th to its 99.5th percentile
	// Label and Prediction hold classes, [H·W], or are nil. Regions of a class
	// other than 0 are outlined.
	Label, Prediction []uint8
	// Caption is one line below the image.
	Caption string
}

// Options of a sheet. The zero value gives a plain one.
type Options struct {
	// Title is one line above the images.
	Title string
	// Columns of the grid; 0 for a shape somewhat wider than high.
	Columns int
	// PixelSize in Å, for the scale bar; 0 for none.
	PixelSize float64
	// Side is the side of a tile in pixels of the sheet, about; 0 for 240.
	Side int
}

const (
	margin = 16
	gutter = 8
	header = 30 // of the title
	footer = 20 // of a caption

	lineWidth = 2 // of an outline

	maxImg = 1 << 28
)

// Colours of Okabe and Ito, told apart by colour-blind readers and on grey: of
// the labels' classes, and of predictions.
var (
	classes    = []color.RGBA{{230, 159, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {240, 228, 66, 255}}
	prediction = color.RGBA{86, 180, 233, 255}
	ink        = color.RGBA{34, 34, 34, 255}
)

// Draw draws the tiles, which may differ in size, row by row.
func Draw(tiles []Tile, opt Options) (*image.RGBA, error) {
	if len(tiles) == 0 {
		return nil, errors.New("contact sheet: no images")
	}
	side := opt.Side
	if side <= 0 {
		side = 240
	}
	predicted := false
	cellW, cellH := 0, 0
	for i, t := range tiles {
		n := t.H * t.W
		if t.H < 1 || t.W < 1 || len(t.Pixels) != n || t.Label != nil && len(t.Label) != n || t.Prediction != nil && len(t.Prediction) != n {
			return nil, fmt.Errorf("contact sheet: image %d of %d×%d has %d pixels, %d of a label, %d of a prediction", i, t.H, t.W, len(t.Pixels), len(t.Label), len(t.Prediction))
		}
		z := zoomOf(t, side)
		cellW, cellH = max(cellW, z.size(t.W)), max(cellH, z.size(t.H))
		predicted = predicted || t.Prediction != nil
	}
	captions := slices.ContainsFunc(tiles, func(t Tile) bool { return t.Caption != "" })
	columns := opt.Columns
	if columns <= 0 {
		columns = shape(len(tiles))
	}
	columns = min(columns, len(tiles))
	rows := (len(tiles) + columns - 1) / columns
	top := margin
	if opt.Title != "" {
		top += header
	}
	rowH := cellH + gutter
	if captions {
		rowH += footer
	}
	bottom := margin - gutter
	if predicted {
		bottom += footer + gutter
	}
	w, h := 2*margin+columns*(cellW+gutter)-gutter, top+rows*rowH+bottom
	if w > maxImg/h {
		return nil, fmt.Errorf("contact sheet: %d images make a sheet of %d×%d pixels", len(tiles), w, h)
	}
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(m, m.Bounds(), image.White, image.Point{}, draw.Src)
	f := fonts()
	if opt.Title != "" {
		text(m, f.title, margin, margin+16, w-2*margin, opt.Title)
	}
	for i, t := range tiles {
		x, y := margin+i%columns*(cellW+gutter), top+i/columns*rowH
		z := zoomOf(t, side)
		paint(m, x, y, t, z)
		if i == 0 && opt.PixelSize > 0 {
			scaleBar(m, f.text, x, y, t, z, opt.PixelSize)
		}
		text(m, f.text, x, y+z.size(t.H)+15, cellW, t.Caption)
	}
	if predicted {
		x, y := margin, h-margin
		x = legend(m, f.text, x, y, classes[0], "label")
		legend(m, f.text, x, y, prediction, "prediction")
	}
	return m, nil
}

// shape is the number of columns of a grid of n, of those near 1.5 times as many
// as rows the one that leaves fewest places empty.
func shape(n int) int {
	ideal := int(math.Ceil(math.Sqrt(1.5 * float64(n))))
	best, fewest := ideal, n
	for _, c := range []int{ideal, max(1, ideal-1), ideal + 1} {
		if empty := (c - n%c) % c; empty < fewest {
			best, fewest = c, empty
		}
	}
	return best
}

// zoom is the factor between an image and the sheet: up pixels for one, or one
// for down by down.
type zoom struct{ up, down int }

func zoomOf(t Tile, side int) zoom {
	n := max(t.H, t.W)
	if n <= side {
		return zoom{max(1, (side+n/4)/n), 1}
	}
	return zoom{1, (n + side/2) / side}
}

func (z zoom) size(n int) int { return max(1, n*z.up/z.down) }

// paint draws one image and its outlines at (x0, y0).
func paint(m *image.RGBA, x0, y0 int, t Tile, z zoom) {
	lo, hi := pixels.Range(t.Pixels)
	w, h := z.size(t.W), z.size(t.H)
	for y := range h {
		for x := range w {
			y1, x1 := y/z.up*z.down, x/z.up*z.down
			y2, x2 := min(y1+z.down, t.H), min(x1+z.down, t.W)
			sum := 0.0
			for y := y1; y < y2; y++ {
				for _, v := range t.Pixels[y*t.W+x1 : y*t.W+x2] {
					sum += float64(v)
				}
			}
			v := (sum/float64((y2-y1)*(x2-x1)) - lo) / (hi - lo)
			g := uint8(math.Round(255 * min(max(v, 0), 1)))
			m.SetRGBA(x0+x, y0+y, color.RGBA{g, g, g, 255})
		}
	}
	// A label's line lies outside of its region and a prediction's inside, so that
	// both are seen where the two agree.
	outline := func(mask []uint8, outside bool, colour func(class int) color.RGBA) {
		at := func(x, y int) int {
			if x < 0 || y < 0 || x >= w || y >= h {
				return -1
			}
			return int(mask[(y/z.up*z.down)*t.W+x/z.up*z.down])
		}
		for y := range h {
			for x := range w {
				c := at(x, y)
				for d := 1; d <= lineWidth; d++ {
					for _, n := range [4]int{at(x-d, y), at(x+d, y), at(x, y-d), at(x, y+d)} {
						region, other := c, n
						if outside {
							region, other = n, c
						}
						if region > 0 && other >= 0 && other != region {
							m.SetRGBA(x0+x, y0+y, colour(region))
						}
					}
				}
			}
		}
	}
	if t.Label != nil {
		outline(t.Label, true, func(class int) color.RGBA { return classes[(class-1)%len(classes)] })
	}
	if t.Prediction != nil {
		outline(t.Prediction, false, func(int) color.RGBA { return prediction })
	}
}

// BarLength is the length of a scale bar in Å: the largest 1, 2 or 5 times a
// power of ten that takes up to a third of the image's width.
func BarLength(width float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(width/3)))
	for _, f := range []float64{5, 2} {
		if f*p <= width/3 {
			return f * p
		}
	}
	return p
}

func scaleBar(m *image.RGBA, face font.Face, x, y int, t Tile, z zoom, pixelSize float64) {
	length := BarLength(pixelSize * float64(t.W))
	label := strconv.FormatFloat(length/10, 'g', -1, 64) + " nm"
	if length >= 1e4 {
		label = strconv.FormatFloat(length/1e4, 'g', -1, 64) + " µm"
	}
	bar := int(math.Round(length / pixelSize * float64(z.up) / float64(z.down)))
	left, base := x+8, y+z.size(t.H)-8
	wide := max(bar, font.MeasureString(face, label).Ceil())
	// A dark plate, so that bar and text are read on any micrograph.
	plate := image.Rect(left-4, base-24, left+wide+4, base+4)
	draw.Draw(m, plate, image.NewUniform(color.RGBA{0, 0, 0, 170}), image.Point{}, draw.Over)
	draw.Draw(m, image.Rect(left, base-4, left+bar, base), image.White, image.Point{}, draw.Src)
	d := font.Drawer{Dst: m, Src: image.White, Face: face, Dot: fixed.P(left+(wide-font.MeasureString(face, label).Ceil())/2, base-9)}
	d.DrawString(label)
}

// text writes a line that fits a width, cutting it short if need be.
func text(m *image.RGBA, face font.Face, x, y, width int, s string) {
	r := []rune(s)
	for len(r) > 0 && font.MeasureString(face, string(r)).Ceil() > width {
		r = append(r[:max(len(r)-2, 0)], '…')
		if len(r) == 1 {
			break
		}
	}
	d := font.Drawer{Dst: m, Src: image.NewUniform(ink), Face: face, Dot: fixed.P(x, y)}
	d.DrawString(string(r))
}

// legend draws a key of a colour and returns where the next one starts.
func legend(m *image.RGBA, face font.Face, x, y int, c color.RGBA, s string) int {
	draw.Draw(m, image.Rect(x, y-6, x+20, y-3), image.NewUniform(c), image.Point{}, draw.Src)
	text(m, face, x+26, y, 200, s)
	return x + 26 + font.MeasureString(face, s).Ceil() + 20
}

type faces struct{ title, text font.Face }

// fonts parses the embedded fonts once; their faces are not safe for concurrent
// use, so each sheet gets its own.
func fonts() faces {
	f := parsed()
	return faces{f[0](16), f[1](12)}
}

var parsed = sync.OnceValue(func() [2]func(size float64) font.Face {
	var out [2]func(float64) font.Face
	for i, ttf := range [][]byte{gobold.TTF, goregular.TTF} {
		f, err := opentype.Parse(ttf)
		if err != nil {
			panic(err) // embedded at build time
		}
		out[i] = func(size float64) font.Face {
			face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: size, DPI: 72, Hinting: font.HintingFull})
			if err != nil {
				panic(err)
			}
			return face
		}
	}
	return out
})
