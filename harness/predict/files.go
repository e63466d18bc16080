package predict

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/progress"
)

// Options of Files.
type Options struct {
	Tile int // side of a tile in pixels, 0: DefaultTile
	// MinArea drops particles of fewer pixels.
	MinArea int
	// PixelSize of the images in Å; 0: as the file says. If neither is known, there
	// are no lengths.
	PixelSize float64
	// Progress counts the tiles of one image after another; nil for none.
	Progress progress.Meter
}

// Result is what was found in one image.
type Result struct {
	Source    string // the file, with the image's number if it holds several
	Files     []string
	Particles []Particle
	// Pixel is the size of a pixel that lengths are measured with.
	Pixel imagefile.Calibration
	Notes []string // for the user
}

// Files segments the images in the files at paths and writes the results to
// dir, which it makes. An image that cannot be read or segmented does not keep
// the others from it: its error is joined to those returned.
func (m *Segmenter) Files(ctx context.Context, paths []string, dir string, run Run, o Options) ([]Result, error) {
	names := map[string]string{}
	for _, p := range paths {
		n := strings.ToLower(baseName(p)) // some file systems do not tell case
		if other, dup := names[n]; dup {
			return nil, fmt.Errorf("%s and %s would be written under the same name", other, p)
		}
		names[n] = p
	}
	if err := files.Mkdir(dir); err != nil {
		return nil, err
	}
	var results []Result
	var errs []error
	for _, p := range paths {
		r, err := m.file(ctx, p, dir, run, o)
		results = append(results, r...)
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p, err))
		}
	}
	return results, errors.Join(errs...)
}

// baseName is the part of the results' names that stands for the file.
func baseName(path string) string {
	file, array := imagefile.SplitPath(path)
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if array != "" {
		name += "-" + strings.Trim(strings.Map(func(r rune) rune {
			if r == '/' || r == '\\' || r == ':' {
				return '-'
			}
			return r
		}, array), "-")
	}
	return name
}

func (m *Segmenter) file(ctx context.Context, path, dir string, run Run, o Options) ([]Result, error) {
	st, err := imagefile.Open(path)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var results []Result
	for i := range st.N {
		name, source := baseName(path), path
		if st.N > 1 {
			name = fmt.Sprintf("%s-%04d", name, i)
			source = fmt.Sprintf("%s[%d]", path, i)
		}
		record, err := st.Record(i)
		if err != nil {
			return results, err
		}
		im := Image{record.H, record.W, record.Pixels}
		r := Result{Source: source, Notes: record.Notes}
		if r.Pixel = record.Pixel; o.PixelSize > 0 {
			r.Pixel = imagefile.Calibration{X: o.PixelSize, Y: o.PixelSize, Origin: "given"}
		}
		if note := m.pixelNote(r.Pixel); note != "" {
			r.Notes = append(r.Notes, note)
		}
		if err := m.image(ctx, &r, im, filepath.Join(dir, name), run, o); err != nil {
			if st.N > 1 {
				err = fmt.Errorf("image %d: %w", i, err)
			}
			return results, err
		}
		results = append(results, r)
	}
	return results, nil
}

// pixelNote says what the user should know of an image's pixel size.
func (m *Segmenter) pixelNote(c imagefile.Calibration) string {
	if !c.Known() {
		return "the file does not say its pixel size; measures are in pixels only"
	}
	if r := c.Side() / m.PixelSize; m.PixelSize > 0 && (r > 1.1 || r < 1/1.1) {
		return fmt.Sprintf("pixels of %s, the network was trained on %s: resample the image for a better result", format.PixelSize(c.Side()), format.PixelSize(m.PixelSize))
	}
	return ""
}

// square is the side of a square pixel in Å, 0 for an unknown or another one.
func square(c imagefile.Calibration) float64 {
	if !c.Square() {
		return 0
	}
	return c.X
}

func (m *Segmenter) image(ctx context.Context, r *Result, im Image, base string, run Run, o Options) error {
	if err := m.Preparation.Apply(im); err != nil {
		return fmt.Errorf("an image to segment has finite pixels that differ: %w", err)
	}
	meter := progress.Or(o.Progress)
	defer meter.End()
	s, err := m.Segment(ctx, im, run, o.Tile, func(done, total int) {
		if done == 0 {
			meter.Begin(r.Source, "tiles", float64(total))
		} else {
			meter.Add(1)
		}
	})
	if err != nil {
		return err
	}
	labels, particles := Particles(s, o.MinArea)
	if len(particles) > maxLabels {
		return fmt.Errorf("%d particles are more than a label image can number: this is noise, or a minimal area is needed", len(particles))
	}
	r.Particles = particles
	for _, f := range []struct {
		suffix string
		write  func(w io.Writer) error
	}{
		{".probability.npy", func(w io.Writer) error { return imagefile.WriteNPY(w, []int{s.H, s.W}, s.Probability) }},
		{".probability.tif", func(w io.Writer) error { return imagefile.WriteTIFF(w, s.H, s.W, square(r.Pixel), s.Probability) }},
		{".mask.png", func(w io.Writer) error { return WriteMask(w, s.H, s.W, labels) }},
		{".labels.png", func(w io.Writer) error { return WriteLabels(w, s.H, s.W, labels) }},
		{".particles.csv", func(w io.Writer) error { return WriteCSV(w, particles, m.Classes, r.Pixel) }},
		{".overlay.png", func(w io.Writer) error { return WriteOverlay(w, im, labels) }},
	} {
		if _, err := files.Create(base+f.suffix, f.write); err != nil {
			return err
		}
		r.Files = append(r.Files, base+f.suffix)
	}
	return nil
}
