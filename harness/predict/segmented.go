package predict

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/measure"
	"github.com/refocus-em/refocus/harness/micrograph"
)

// Segmented is an image with what the network says of it, in which particles can
// be measured by any options.
type Segmented struct {
	Result       Result // without particles and files
	Image        Image  // repaired, of the file's pixels
	Segmentation *Segmentation
	classes      []string
	blind        []bool
}

// Image segments one image of a file ("FILE" or "FILE:ARRAY"), the page from 0.
// Of the options, those of particles are for Measure.
func (m *Segmenter) Image(ctx context.Context, path string, page int, run Run, o Options) (*Segmented, error) {
	st, err := imagefile.Open(path)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	if page < 0 || page >= st.N {
		return nil, fmt.Errorf("there is no image %d: the file has %d, from 0", page, st.N)
	}
	return m.record(ctx, st, page, Result{Name: filepath.Base(path), Source: path, Page: page, H: st.H, W: st.W}, run, o)
}

// record segments image i of a stack; r is what is known of the result.
func (m *Segmenter) record(ctx context.Context, st *imagefile.Stack, i int, r Result, run Run, o Options) (*Segmented, error) {
	record, err := st.Record(i)
	if err != nil {
		return nil, err
	}
	im := &micrograph.Image{H: record.H, W: record.W, Pixels: record.Pixels, Bad: record.Bad}
	r.Notes, r.Detector = record.Notes, record.Detector
	r.Dose, r.DoseFrom = record.Dose, record.DoseOrigin
	r.calibrate(o, record.Pixel)
	s, blind, err := m.segment(ctx, &r, im, run, o)
	if err != nil {
		return nil, err
	}
	return &Segmented{Result: r, Image: Image{im.H, im.W, im.Pixels}, Segmentation: s, classes: m.Classes, blind: blind}, nil
}

// Measured is the particles that were found in an image.
type Measured struct {
	Result   Result
	Labels   []int32 // 0, and the particles numbered from 1
	of       *Segmented
	outlines []measure.Named
}

// Measure finds and measures particles.
func (s *Segmented) Measure(o ParticleOptions) (*Measured, error) {
	m := &Measured{Result: s.Result, of: s}
	r := &m.Result
	r.Notes = slices.Clone(r.Notes)
	o.Height, o.Width, o.Blind, o.Image = r.PixelHeight, r.PixelWidth, s.blind, s.Image.Pixels
	labels, particles, small := Particles(s.Segmentation, o)
	if len(particles) > maxLabels {
		return nil, &unusable{fmt.Errorf("%d particles are more than a label image can number: this is noise, or a minimal size is needed", len(particles))}
	}
	if small > 0 && r.PixelHeight > 0 && o.MinDiameter > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d regions smaller than %s nm left out", small, format.Digits(o.MinDiameter, 3)))
	}
	m.Labels = labels
	r.Particles = []Row{}
	m.outlines = make([]measure.Named, len(particles))
	for i := range particles {
		p := &particles[i]
		row := r.row(p, s.classes)
		r.Particles = append(r.Particles, row)
		values := map[string]float64{"area px": float64(row.Area), "mean probability": row.Probability}
		if row.DiameterNM != nil {
			values["equivalent diameter nm"] = *row.DiameterNM
		}
		m.outlines[i] = measure.Named{Name: fmt.Sprintf("%05d", p.Label), Class: row.Class, Values: values,
			Outline: measure.Outline(s.Image.H, s.Image.W, labels, int32(p.Label), &p.Region)}
	}
	return m, nil
}

// Output is a file that is written of an image.
type Output struct {
	Suffix string // of its name, after the image's
	Write  func(io.Writer) error
}

// Outputs are the files of an image's results.
func (m *Measured) Outputs() []Output {
	s, r := m.of, &m.Result
	h, w := s.Image.H, s.Image.W
	return []Output{
		{".probability.tif", func(to io.Writer) error {
			side := 0.0 // a TIFF of ours has square pixels
			if r.PixelHeight == r.PixelWidth {
				side = 10 * r.PixelHeight
			}
			return imagefile.WriteTIFF(to, h, w, side, s.Segmentation.Probability)
		}},
		{".mask.png", func(to io.Writer) error { return WriteMask(to, h, w, m.Labels) }},
		{".labels.png", func(to io.Writer) error { return WriteLabels(to, h, w, m.Labels) }},
		{".overlay.png", func(to io.Writer) error { return WriteOverlay(to, s.Image, m.Labels) }},
		{".rois.zip", func(to io.Writer) error { return measure.WriteROI(to, m.outlines) }},
		{".geojson", func(to io.Writer) error { return measure.WriteGeoJSON(to, m.outlines) }},
	}
}
