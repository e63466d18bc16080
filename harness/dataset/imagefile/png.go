package imagefile

import (
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
)

// decodePNG reads grey values, or the indices of a palette image, which is how
// label masks are often kept.
func decodePNG(r io.ReaderAt, size int64) (*Stack, error) {
	c, err := png.DecodeConfig(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	h, w := int64(c.Height), int64(c.Width)
	if err := checkShape(1, h, w); err != nil {
		return nil, err
	}
	if h*w/8 > size*maxDeflate { // one bit per pixel at least
		return nil, fmt.Errorf("%d bytes cannot hold %d×%d pixels", size, h, w)
	}
	s := &Stack{Format: "PNG", N: 1, H: c.Height, W: c.Width}
	s.image = func(_ int, dst []float32) error {
		m, err := png.Decode(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		return grey(m, dst)
	}
	return s, nil
}

func grey(m image.Image, dst []float32) error {
	b := m.Bounds()
	if b.Dx()*b.Dy() != len(dst) {
		return errors.New("the file has changed")
	}
	for y := range b.Dy() {
		row := dst[y*b.Dx():][:b.Dx()]
		for x := range row {
			switch m := m.(type) {
			case *image.Gray:
				row[x] = float32(m.Pix[y*m.Stride+x])
			case *image.Gray16:
				row[x] = float32(m.Gray16At(b.Min.X+x, b.Min.Y+y).Y)
			case *image.Paletted:
				row[x] = float32(m.Pix[y*m.Stride+x])
			default:
				r, g, b, a := m.At(b.Min.X+x, b.Min.Y+y).RGBA()
				if r != g || g != b || a != 0xffff {
					return fmt.Errorf("pixel (%d, %d) is coloured or transparent: convert the image to grey", x, y)
				}
				row[x] = float32(r >> 8)
				if is16(m) {
					row[x] = float32(r)
				}
			}
		}
	}
	return nil
}

// is16 reports whether the channels have 16 bits.
func is16(m image.Image) bool {
	switch m.(type) {
	case *image.RGBA64, *image.NRGBA64:
		return true
	}
	return false
}
