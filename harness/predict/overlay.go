package predict

import (
	"image"
	"image/color"
	"image/png"
	"io"

	"github.com/refocus-em/refocus/harness/internal/pixels"
)

// WriteMask writes the pixels of particles in white.
func WriteMask(w io.Writer, h, width int, labels []int32) error {
	im := image.NewGray(image.Rect(0, 0, width, h))
	for i, l := range labels {
		if l > 0 {
			im.Pix[i] = 255
		}
	}
	return png.Encode(w, im)
}

// maxLabels is what a PNG of 16 bits can number.
const maxLabels = 1<<16 - 1

// WriteLabels writes the label image of at most 65535 particles in 16 bits.
func WriteLabels(w io.Writer, h, width int, labels []int32) error {
	im := image.NewGray16(image.Rect(0, 0, width, h))
	for i, l := range labels {
		im.Pix[2*i], im.Pix[2*i+1] = byte(l>>8), byte(l)
	}
	return png.Encode(w, im)
}

// WriteOverlay writes the image with its particles tinted and outlined. Grey
// values span all but the darkest and brightest half percent of the pixels.
func WriteOverlay(w io.Writer, im Image, labels []int32) error {
	black, white := pixels.Range(im.Pixels)
	out := image.NewNRGBA(image.Rect(0, 0, im.W, im.H))
	differs := func(at, y, x int) bool {
		return y < 0 || x < 0 || y >= im.H || x >= im.W || labels[y*im.W+x] != labels[at]
	}
	for y := range im.H {
		for x := range im.W {
			at := y*im.W + x
			g := uint8(255 * min(max((float64(im.Pixels[at])-black)/(white-black), 0), 1))
			c := color.NRGBA{g, g, g, 255}
			if labels[at] > 0 {
				if differs(at, y-1, x) || differs(at, y+1, x) || differs(at, y, x-1) || differs(at, y, x+1) {
					c = color.NRGBA{255, 140, 0, 255}
				} else {
					c = color.NRGBA{blend(g, 255), blend(g, 140), blend(g, 0), 255}
				}
			}
			out.SetNRGBA(x, y, c)
		}
	}
	return png.Encode(w, out)
}

// blend tints a grey value by a fifth.
func blend(g, tint uint8) uint8 { return uint8((4*int(g) + int(tint)) / 5) }
