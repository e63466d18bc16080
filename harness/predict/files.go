package predict

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/micrograph"
	"github.com/refocus-em/refocus/harness/progress"
)

// Options of Files.
type Options struct {
	Tile int // side of a tile in pixels, 0: DefaultTile
	ParticleOptions
	// PixelSize of the images in Å; 0: as the file says.
	PixelSize  float64
	NoRepair   bool // pixels stay as they are
	Flatten    bool // divide by the illumination
	NoResample bool // predict at the file's pixel size, whatever the model's is
	// Progress counts the tiles of one image after another; nil for none.
	Progress progress.Meter `json:"-"`
	// Part is told of every part of an image that is predicted, before the first of none
	// of it; nil for nobody.
	Part func(Part) `json:"-"`
	// Done is told of every image; nil for none.
	Done func(Result) `json:"-"`
	// Warn is told of files of folders and patterns that are left out; nil for none.
	Warn func(text string) `json:"-"`
}

// Result is what was found in one image.
type Result struct {
	Name   string `json:"name"` // of the results' files
	Source string `json:"file"`
	Page   int    `json:"page"` // in the file, from 0
	H      int    `json:"height"`
	W      int    `json:"width"`
	// PixelHeight and PixelWidth are in nm, 0 if unknown; PixelSizeFrom says where
	// they were found.
	PixelHeight   float64 `json:"pixel_height_nm,omitempty"`
	PixelWidth    float64 `json:"pixel_width_nm,omitempty"`
	PixelSizeFrom string  `json:"pixel_size_from,omitempty"`
	// Detector, and the dose in electrons per Å² with where it was found, as the file
	// says; empty and 0 if it does not.
	Detector  string   `json:"detector,omitempty"`
	Dose      float64  `json:"dose_e_per_A2,omitempty"`
	DoseFrom  string   `json:"dose_from,omitempty"`
	Notes     []string `json:"notes,omitempty"` // for the user
	Files     []string `json:"files"`           // written, names in the folder
	Particles []Row    `json:"particles"`
	// Key identifies what the result was made from and how.
	Key string `json:"key"`
	// Kept: the result was there before.
	Kept bool `json:"-"`
}

// Files segments the images that the user names (see Inputs) and writes the
// results to dir, which it makes: for every image its files, and over all of them
// particles.csv, results.json and index.html. An image whose results are there
// already, made with the same model, file and options, is not predicted again. One
// that cannot be read or segmented does not keep the others from it: its error is
// joined to those returned, or told to Warn if it was only found in a folder.
func (m *Segmenter) Files(ctx context.Context, paths []string, dir string, run Run, o Options) ([]Result, error) {
	inputs, err := Inputs(paths)
	if err != nil {
		return nil, err
	}
	if err := files.Mkdir(dir); err != nil {
		return nil, err
	}
	how, err := m.how(o)
	if err != nil {
		return nil, err
	}
	var results []Result
	var leftOut []string
	var errs []error
	for _, in := range inputs {
		r, err := m.file(ctx, in, dir, how, run, o)
		results = append(results, r...)
		if ctx.Err() != nil {
			return results, ctx.Err()
		}
		var unread *unreadable
		switch {
		case errors.As(err, &unread) && in.Found:
			text := fmt.Sprintf("left out %s: %v", in.Path, err)
			leftOut = append(leftOut, text)
			if o.Warn != nil {
				o.Warn(text)
			}
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", in.Path, err))
		}
	}
	if len(results) == 0 {
		if errs == nil {
			errs = append(errs, fmt.Errorf("no image among the %d files", len(inputs)))
		}
		return nil, errors.Join(errs...)
	}
	var rows []Row
	for _, r := range results {
		rows = append(rows, r.Particles...)
	}
	for name, write := range map[string]func(w io.Writer) error{
		"particles.csv":   func(w io.Writer) error { return WriteCSV(w, rows) },
		overAll + ".json": func(w io.Writer) error { return writeJSON(w, results) },
		"index.html":      func(w io.Writer) error { return writeSummary(w, results, leftOut) },
	} {
		if _, err := files.Create(filepath.Join(dir, name), write); err != nil {
			errs = append(errs, err)
		}
	}
	return results, errors.Join(errs...)
}

// overAll names the list of all results.
const overAll = "results"

// unreadable is a file that is no image.
type unreadable struct{ error }

func (u *unreadable) Unwrap() error { return u.error }

// unusable is an image in which nothing can be found, which the next one may not be.
type unusable struct{ error }

func (u *unusable) Unwrap() error { return u.error }

// how identifies the model and the options.
func (m *Segmenter) how(o Options) (string, error) {
	h := sha256.New()
	options, err := json.Marshal(o)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "2 %s %v %v %+v %+v\n", options, m.PixelSize, m.Classes, m.Preparation.String(), m.head)
	for _, n := range m.Graph.Nodes {
		fmt.Fprintf(h, "%+v\n", *n)
	}
	for _, t := range m.Graph.Tensors {
		fmt.Fprintf(h, "%s %v\n", t.Name, t.Shape)
		if err := binary.Write(h, binary.LittleEndian, t.Data); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (m *Segmenter) file(ctx context.Context, in Input, dir, how string, run Run, o Options) ([]Result, error) {
	st, err := imagefile.Open(in.Path)
	if err != nil {
		return nil, &unreadable{err}
	}
	defer st.Close()
	_, array := imagefile.SplitPath(in.Path)
	source, err := files.Describe(st.Name(0))
	if err != nil {
		return nil, err
	}
	var results []Result
	var errs []error // an image that cannot be segmented does not keep the others from it
	for i := range st.N {
		if ctx.Err() != nil {
			break
		}
		r := Result{Name: in.Name, Source: in.Path, Page: i, H: st.H, W: st.W}
		if st.N > 1 {
			r.Name = pageName(in.Name, i, st.N)
		}
		r.Key = files.Sum([]byte(fmt.Sprint(how, source.SHA256, array, i)))
		done := filepath.Join(dir, r.Name+".json")
		if old, ok := kept(done, r); ok {
			results = append(results, old)
			if o.Done != nil {
				o.Done(old)
			}
			continue
		}
		seg, err := m.record(ctx, st, i, r, run, o)
		var found *Measured
		if err == nil {
			found, err = seg.Measure(o.ParticleOptions)
		}
		if err != nil {
			if st.N > 1 {
				err = fmt.Errorf("image %d: %w", i, err)
			}
			if bad := (*unusable)(nil); !errors.As(err, &bad) {
				return results, errors.Join(append(errs, err)...)
			}
			errs = append(errs, err)
			continue
		}
		r = found.Result
		for _, f := range found.Outputs() {
			if _, err := files.Create(filepath.Join(dir, r.Name+f.Suffix), f.Write); err != nil {
				return results, err
			}
			r.Files = append(r.Files, r.Name+f.Suffix)
		}
		// written last: it says that the others are there
		if _, err := files.Create(done, func(w io.Writer) error { return writeJSON(w, r) }); err != nil {
			return results, err
		}
		results = append(results, r)
		if o.Done != nil {
			o.Done(r)
		}
	}
	return results, errors.Join(errs...)
}

// kept returns an earlier result of the same key whose files are there.
func kept(record string, r Result) (Result, bool) {
	b, err := os.ReadFile(record)
	if err != nil {
		return r, false
	}
	var old Result
	if json.Unmarshal(b, &old) != nil || old.Key != r.Key || old.Name != r.Name {
		return r, false
	}
	for _, f := range old.Files {
		if _, err := os.Stat(filepath.Join(filepath.Dir(record), f)); err != nil {
			return r, false
		}
	}
	// the same content may come from another place now
	old.Source, old.Kept = r.Source, true
	for i := range old.Particles {
		old.Particles[i].File = r.Source
	}
	return old, true
}

// calibrate decides on the size of a pixel.
func (r *Result) calibrate(o Options, c imagefile.Calibration) {
	switch {
	case o.PixelSize > 0:
		r.PixelHeight, r.PixelWidth, r.PixelSizeFrom = o.PixelSize/10, o.PixelSize/10, "--pixel-size"
	case c.Known():
		r.PixelHeight, r.PixelWidth, r.PixelSizeFrom = c.Y/10, c.X/10, c.Origin
	default:
		r.Notes = append(r.Notes, "the file does not say its pixel size: sizes are in pixels only; --pixel-size gives it")
	}
}

// Calibration says in words how large a pixel is, and where that was found.
func (r *Result) Calibration() string {
	if r.PixelHeight == 0 {
		return "not known"
	}
	text := format.Digits(r.PixelHeight, 4) + " nm"
	if r.PixelWidth != r.PixelHeight {
		text += " × " + format.Digits(r.PixelWidth, 4) + " nm"
	}
	return text + ", " + r.PixelSizeFrom
}

// pixelSize is in Å, height and width where they differ.
func (r *Result) pixelSize() string {
	h, w := format.PixelSize(10*r.PixelHeight), format.PixelSize(10*r.PixelWidth)
	if h == w {
		return h
	}
	return h + " × " + w
}

// sameSize is by how much two pixel sizes may differ to count as one.
const sameSize = 0.02

// prepare repairs the image in place and makes of it what the network sees.
func (m *Segmenter) prepare(r *Result, im *micrograph.Image, o Options) (*micrograph.Prepared, error) {
	p := micrograph.Options{NoRepair: o.NoRepair, Flatten: o.Flatten}
	if r.PixelHeight > 0 && m.PixelSize > 0 {
		rows, columns := r.PixelHeight*10/m.PixelSize, r.PixelWidth*10/m.PixelSize
		switch {
		case math.Abs(rows-1) <= sameSize && math.Abs(columns-1) <= sameSize:
		case o.NoResample:
			r.Notes = append(r.Notes, fmt.Sprintf("pixels of %s are predicted as they are; the network was trained on %s",
				r.pixelSize(), format.PixelSize(m.PixelSize)))
		default:
			p.Rows, p.Columns = rows, columns
			r.Notes = append(r.Notes, fmt.Sprintf("predicted at the network's pixel size, %s instead of %s",
				format.PixelSize(m.PixelSize), r.pixelSize()))
		}
	}
	ready, err := micrograph.Prepare(im, p)
	if err != nil {
		return nil, err
	}
	r.Notes = append(r.Notes, ready.Notes...)
	if m.Preparation.String() == Standardized().String() {
		err = micrograph.Standardize(&ready.Image) // over the good pixels
	} else {
		err = m.Preparation.Apply(Image{ready.H, ready.W, ready.Pixels})
	}
	if err != nil {
		return nil, fmt.Errorf("an image to segment has finite pixels that differ: %w", err)
	}
	return ready, nil
}

// segment predicts an image and brings the answer to its pixels. The image is
// repaired in place.
func (m *Segmenter) segment(ctx context.Context, r *Result, im *micrograph.Image, run Run, o Options) (*Segmentation, []bool, error) {
	ready, err := m.prepare(r, im, o)
	if err != nil {
		return nil, nil, &unusable{err}
	}
	meter := progress.Or(o.Progress)
	defer meter.End()
	name := r.Source
	if r.Page > 0 {
		name = fmt.Sprintf("%s[%d]", r.Source, r.Page)
	}
	s, err := m.Segment(ctx, Image{ready.H, ready.W, ready.Pixels}, run, o.Tile, func(p Part) {
		if p.Done == 0 {
			meter.Begin(name, "tiles", float64(p.Total))
		} else {
			meter.Add(1)
		}
		if o.Part != nil {
			o.Part(p)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	if s.H != im.H || s.W != im.W {
		s = s.resampled(im.H, im.W)
	}
	if blind := ready.Defects.Blind; blind != nil {
		for i, b := range blind {
			if b {
				s.Probability[i], s.Class[i] = 0, 0
			}
		}
	}
	return s, ready.Defects.Blind, nil
}

// resampled brings a segmentation to other pixels: the probabilities between those
// of the nearest ones, the classes those of the nearest one.
func (s *Segmentation) resampled(h, w int) *Segmentation {
	out := &Segmentation{H: h, W: w, Class: make([]uint8, h*w),
		Probability: micrograph.ResampleProbability(s.Probability, s.H, s.W, h, w)}
	for y := range h {
		from := min(s.H-1, (2*y+1)*s.H/(2*h)) * s.W
		for x := range w {
			out.Class[y*w+x] = s.Class[from+min(s.W-1, (2*x+1)*s.W/(2*w))]
		}
	}
	return out
}
