package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"golang.org/x/image/tiff"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// pages are the images of a list of files, which may differ in size. One file is
// open at a time.
type pages struct {
	list  []page
	files []pageFile
	open  *imagefile.Stack
	path  string // of open
}

type page struct {
	file         int // index into files
	index        int // in the file
	h, w         int // pixels of the data set
	fileH, fileW int // pixels in the file, the same unless they are resampled
}

func (p page) resampled() bool { return p.h != p.fileH || p.w != p.fileW }

type pageFile struct {
	path     string // as imagefile.Open takes it
	name     string // without the name of an array
	first, n int    // its pages
	pixel    imagefile.Calibration
	colour   bool // read by this package: a label mask as PNG or of colours
}

// openPages lists the images of files, of the files of folders and of those that
// patterns match. Folders and patterns are in the natural order of their names;
// what cannot be read in a folder is left out with a note. Masks may be coloured.
func openPages(paths []string, masks bool) (*pages, []string, error) {
	p := &pages{}
	var notes []string
	for _, path := range paths {
		names, kind, err := imagefile.Expand(path)
		if err != nil {
			return nil, nil, err
		}
		before := len(p.files)
		for _, name := range names {
			err := p.add(name, masks)
			if err != nil && kind == imagefile.Folder {
				notes = append(notes, fmt.Sprintf("%v: left out", err))
			} else if err != nil {
				return nil, nil, err
			}
		}
		if len(p.files) == before {
			return nil, nil, fmt.Errorf("%s holds no images that can be read: %s", path, strings.Join(notes, "; "))
		}
	}
	return p, notes, nil
}

// add opens a file for its sizes.
func (p *pages) add(path string, masks bool) error {
	file := pageFile{path: path, first: len(p.list)}
	file.name, _ = imagefile.SplitPath(path)
	var h, w int
	s, err := imagefile.Open(path)
	if err == nil {
		file.n, h, w, file.pixel = s.N, s.H, s.W, s.Info(0).Pixel
		err = s.Close()
	}
	if masks {
		if c, png, colourErr := maskConfig(file.name); colourErr == nil && (err != nil || png) {
			file.n, h, w, file.colour, err = 1, c.Height, c.Width, true, nil
		}
	}
	if err != nil {
		return err
	}
	for i := range file.n {
		p.list = append(p.list, page{len(p.files), i, h, w, h, w})
	}
	p.files = append(p.files, file)
	return nil
}

// sameSize is by how much pixel sizes may differ to count as one, as for predictions.
const sameSize = 0.02

// bring gives the images whose pixel size is known, and another one, the sizes that
// they have at the given one in Å, and says so. given is the size that a person
// states for all images, 0 for what the files say.
func (p *pages) bring(to, given float64) (notes []string, err error) {
	for i := range p.list {
		im := &p.list[i]
		c := p.files[im.file].pixel
		if given > 0 {
			c = imagefile.Calibration{X: given, Y: given}
		}
		rows, columns := c.Y/to, c.X/to
		if !c.Known() || math.Abs(rows-1) <= sameSize && math.Abs(columns-1) <= sameSize {
			continue
		}
		h, w := math.Round(float64(im.fileH)*rows), math.Round(float64(im.fileW)*columns)
		if !(h >= 1 && w >= 1 && h*w <= maxPixels) {
			return nil, fmt.Errorf("%s: brought from pixels of %s to the others' %s, it has %g×%g of them: pixel_size says the size of its pixels", p.describe(i), sides(c), format.PixelSize(to), h, w)
		}
		im.h, im.w = int(h), int(w)
		if im.index == 0 {
			notes = append(notes, fmt.Sprintf("%s: brought to pixels of %s instead of %s, %d×%d of them", p.files[im.file].path, format.PixelSize(to), sides(c), im.h, im.w))
		}
	}
	return notes, nil
}

// sizes are those of images, nil where none is resampled.
func (p *pages) sizes(images []int) (all [][2]int) {
	any := false
	for _, i := range images {
		any = any || p.list[i].resampled()
		all = append(all, [2]int{p.list[i].h, p.list[i].w})
	}
	if !any {
		return nil
	}
	return all
}

// sides states the size of a pixel, height and width where they differ.
func sides(c imagefile.Calibration) string {
	if c.Square() {
		return format.PixelSize(c.Side())
	}
	return format.PixelSize(c.Y) + " × " + format.PixelSize(c.X)
}

// PixelSize is the first pixel size in Å that images say, 0 if none does.
func PixelSize(images []string) (float64, error) {
	x, _, err := openPages(images, false)
	if err != nil {
		return 0, err
	}
	defer x.Close()
	return x.pixelSize(), nil
}

func (p *pages) pixelSize() float64 {
	for _, f := range p.files {
		if f.pixel.Known() {
			return f.pixel.Side()
		}
	}
	return 0
}

func (p *pages) name(i int) string { return p.files[p.list[i].file].name }

// describe names image i in messages.
func (p *pages) describe(i int) string {
	f := p.files[p.list[i].file]
	if f.n == 1 {
		return f.path
	}
	return fmt.Sprintf("image %d of %s", p.list[i].index, f.path)
}

// at fills dst with image i.
func (p *pages) at(i int, dst []float32) error {
	f := p.files[p.list[i].file]
	if p.path != f.path {
		if err := p.Close(); err != nil {
			return err
		}
		s, err := imagefile.Open(f.path)
		if err != nil {
			return err
		}
		p.open, p.path = s, f.path
	}
	if p.open.H*p.open.W != len(dst) || p.list[i].index >= p.open.N {
		return fmt.Errorf("%s has changed", f.path)
	}
	if err := p.open.At(p.list[i].index, dst); err != nil {
		return fmt.Errorf("reading %s: %w", f.path, err)
	}
	return nil
}

// Close closes the file that is open.
func (p *pages) Close() error {
	s := p.open
	p.open, p.path = nil, ""
	if s == nil {
		return nil
	}
	return s.Close()
}

// names are those of the files, in order.
func (p *pages) names() []string {
	var all []string
	for _, f := range p.files {
		all = append(all, f.path)
	}
	return all
}

// ownFile hashes files: a single one as sha256sum would, several one after the
// other. Arrays are named once where they have one name, else in the files' order.
func ownFile(paths []string) (OwnFile, error) {
	h := sha256.New()
	var arrays []string
	for _, path := range paths {
		name, array := imagefile.SplitPath(path)
		arrays = append(arrays, array)
		f, err := os.Open(name)
		if err != nil {
			return OwnFile{}, err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return OwnFile{}, fmt.Errorf("reading %s: %w", name, err)
		}
	}
	if same := slices.Compact(slices.Clone(arrays)); len(same) == 1 {
		arrays = same
	}
	return OwnFile{hex.EncodeToString(h.Sum(nil)), strings.Join(arrays, ",")}, nil
}

// maxSide bounds the masks that this package decodes.
const maxSide = 1 << 14

// maskConfig looks at a PNG or TIFF file without decoding it.
func maskConfig(name string) (c image.Config, isPNG bool, err error) {
	f, err := os.Open(name)
	if err != nil {
		return c, false, err
	}
	defer f.Close()
	if c, err = png.DecodeConfig(f); err == nil {
		isPNG = true
	} else if _, err = f.Seek(0, io.SeekStart); err == nil {
		c, err = tiff.DecodeConfig(f)
	}
	if err == nil && (c.Width < 1 || c.Height < 1 || c.Width > maxSide || c.Height > maxSide) {
		err = fmt.Errorf("%s has %d×%d pixels", name, c.Height, c.Width)
	}
	return c, isPNG, err
}

// colourOf codes a colour that is no grey; greys are their value.
const colourOf = 1 << 24

// mask fills dst with the values of a mask's pixels: greys as they are, colours as
// colourOf + 0xrrggbb, and the indices of a palette with colours in it unless
// colours are asked for.
func mask(name string, colours bool, dst []float64) error {
	c, isPNG, err := maskConfig(name)
	if err != nil {
		return err
	}
	if c.Width*c.Height != len(dst) {
		return fmt.Errorf("%s has changed", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	decode := tiff.Decode
	if isPNG {
		decode = png.Decode
	}
	m, err := decode(f)
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	b := m.Bounds()
	if b.Dx()*b.Dy() != len(dst) {
		return errors.New(name + " has changed")
	}
	at := func(x, y int) float64 { return value(color.NRGBAModel.Convert(m.At(x, y)).(color.NRGBA)) }
	switch m := m.(type) {
	case *image.Gray16:
		at = func(x, y int) float64 { return float64(m.Gray16At(x, y).Y) }
	case *image.Paletted:
		grey := true
		for _, c := range m.Palette {
			grey = grey && value(color.NRGBAModel.Convert(c).(color.NRGBA)) < colourOf
		}
		if !grey && !colours {
			at = func(x, y int) float64 { return float64(m.ColorIndexAt(x, y)) }
		}
	}
	for y := range b.Dy() {
		for x := range b.Dx() {
			dst[y*b.Dx()+x] = at(b.Min.X+x, b.Min.Y+y)
		}
	}
	return nil
}

func value(c color.NRGBA) float64 {
	if c.R == c.G && c.G == c.B {
		return float64(c.R)
	}
	return float64(colourOf | int(c.R)<<16 | int(c.G)<<8 | int(c.B))
}
