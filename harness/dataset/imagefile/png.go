package imagefile

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
)

// decodePNG reads grey values, a palette of greys by them, and a palette of colours
// by its indices, which is how label masks are often kept.
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
	if p, ok := c.ColorModel.(color.Palette); ok && greys(p) == nil {
		s.info.note("a palette of colours: its indices are read")
	}
	s.image = func(_ int, dst []float32) error {
		m, err := png.Decode(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		return grey(m, dst)
	}
	return s, nil
}

// decodeJPEG reads grey values of 8 bits.
func decodeJPEG(r io.ReaderAt, size int64) (*Stack, error) {
	c, err := jpeg.DecodeConfig(io.NewSectionReader(r, 0, size))
	if err != nil {
		return nil, err
	}
	h, w := int64(c.Height), int64(c.Width)
	if err := checkShape(1, h, w); err != nil {
		return nil, err
	}
	if h*w/maxJPEG > size {
		return nil, fmt.Errorf("%d bytes cannot hold %d×%d pixels", size, h, w)
	}
	s := &Stack{Format: "JPEG", N: 1, H: c.Height, W: c.Width}
	s.info.note("JPEG keeps no exact grey values: prefer what the microscope wrote")
	s.image = func(_ int, dst []float32) error {
		m, err := jpeg.Decode(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		return grey(m, dst)
	}
	return s, nil
}

// greys is the grey of every entry of a palette, nil if one has a colour or is
// transparent.
func greys(p color.Palette) []float32 {
	var v []float32
	for _, c := range p {
		r, g, b, a := c.RGBA()
		if r != g || g != b || a != 0xffff {
			return nil
		}
		v = append(v, float32(r>>8))
	}
	return v
}

func grey(m image.Image, dst []float32) error {
	b := m.Bounds()
	if b.Dx()*b.Dy() != len(dst) {
		return errors.New("the file has changed")
	}
	var palette []float32
	if m, ok := m.(*image.Paletted); ok {
		palette = greys(m.Palette)
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
				i := m.Pix[y*m.Stride+x]
				row[x] = float32(i)
				if int(i) < len(palette) {
					row[x] = palette[i]
				}
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
