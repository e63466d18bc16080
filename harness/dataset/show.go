package dataset

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/dataset/sheet"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// Status is how far a set of simulated images is.
type Status struct {
	Ready    bool
	Finished int   // of its images, all of them where Ready
	Bytes    int64 // on disk, without the exit waves it shares with others
}

// StatusOf looks for the set of a source below the artifacts folder.
func StatusOf(root string, s Source) (Status, error) {
	dir := filepath.Join(dataDir(root), s.Digest())
	st := Status{Bytes: diskUse(dir)}
	_, err := Find(root, s.Digest())
	if err == nil {
		st.Ready, st.Finished = true, s.Count
		return st, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return st, err
	}
	parts, err := filepath.Glob(filepath.Join(dir, "parts", "*.part"))
	st.Finished = len(parts)
	return st, err
}

// diskUse is that of a set's folder, also one that a link leads to.
func diskUse(dir string) int64 {
	if target, err := filepath.EvalSymlinks(dir); err == nil {
		dir = target
	}
	return files.DiskUse(dir)
}

// Named is a source with the name its domain has in the study.
type Named struct {
	Name   string
	Source Source
}

// WriteList writes a table of sets and how far each is, and then what their exit
// waves take.
func WriteList(w io.Writer, root string, sets []Named) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "domain\tsplit\timages\tpixels\tÅ/pixel\tdefocus\tdose\tstate\ton disk\tdigest")
	waves := map[string]bool{}
	for _, n := range sets {
		s := n.Source
		st, err := StatusOf(root, s)
		if err != nil {
			return err
		}
		waves[filepath.Join(dataDir(root), s.Specimens())] = true
		state := "missing"
		if st.Ready {
			state = "ready"
		} else if st.Finished > 0 {
			state = fmt.Sprintf("%d of %d", st.Finished, s.Count)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.12s\n", n.Name, s.Split, s.Count,
			format.Size(s.Config.Crop, s.Config.Crop), format.Digits(s.Config.Cell/float64(s.Config.Output), 3),
			format.Defocus(s.Conditions.Defocus), format.Dose(s.Conditions.Dose), state, format.Bytes(st.Bytes), s.Digest())
	}
	if err := t.Flush(); err != nil {
		return err
	}
	var total int64
	for dir := range waves {
		total += diskUse(dir)
	}
	_, err := fmt.Fprintf(w, "exit waves of %d sets of structures: %s\n", len(waves), format.Bytes(total))
	return err
}

// WriteStructures writes a line per image of a simulated set, by which it can be
// traced to its structure.
func WriteStructures(w io.Writer, m *Manifest) error {
	if m.Kind != Simulated {
		return fmt.Errorf("data set %s holds %s: only simulated ones have structures", m.Digest, m.Kind)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "image\tdefocus\tcrystal\tparticles (radius in nm, stacking faults)\tcarbon\tatoms\tlabelled")
	for i, im := range m.Images {
		s := im.Structure
		var particles []string
		for _, p := range s.Particles {
			text := fmt.Sprintf("%.2f", p.Radius/10)
			if len(p.Faults) > 0 {
				text += fmt.Sprintf(" (%d)", len(p.Faults))
			}
			particles = append(particles, text)
		}
		var atoms []string
		for _, element := range slices.Sorted(maps.Keys(s.Atoms)) {
			atoms = append(atoms, fmt.Sprintf("%s %d", element, s.Atoms[element]))
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%.1f nm\t%s\t%s\n", i, actual(im.Defocus), s.Crystal,
			strings.Join(particles, ", "), s.CarbonThickness/10, strings.Join(atoms, ", "), format.Percent(s.LabelFraction))
	}
	return t.Flush()
}

// actual writes an image's own defocus, to the same decimal for all.
func actual(angstroms float64) string {
	return format.Signed(angstroms/10, 1) + " nm"
}

// ContactSheet draws the first n images of a set with their labels outlined.
// Captions give the actual defocus of simulated images.
func ContactSheet(root string, r Ready, title string, n int) (*image.RGBA, error) {
	m, err := ReadManifest(root, r.Digest)
	if err != nil {
		return nil, err
	}
	images, err := r.Open()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	var tiles []sheet.Tile
	for i := range min(n, r.Count) {
		t := sheet.Tile{
			H: r.Height, W: r.Width,
			Pixels: make([]float32, r.Height*r.Width), Label: make([]uint8, r.Height*r.Width),
			Caption: fmt.Sprintf("%d", i),
		}
		if i < len(m.Images) {
			t.Caption += ": " + actual(m.Images[i].Defocus)
		}
		if err := images.Image(i, t.Pixels); err != nil {
			return nil, err
		}
		if err := images.Label(i, t.Label); err != nil {
			return nil, err
		}
		tiles = append(tiles, t)
	}
	return sheet.Draw(tiles, sheet.Options{Title: title, PixelSize: r.PixelSize})
}

// WriteStacks writes a set's images and its labels as stacks of float32 TIFF pages, of
// the images as networks get them, of the labels with the number of every pixel's class.
func WriteStacks(r Ready, imagesPath, labelsPath string) error {
	images, err := r.Open()
	if err != nil {
		return err
	}
	defer images.Close()
	pixels, labels := make([][]float32, r.Count), make([][]float32, r.Count)
	label := make([]uint8, r.Height*r.Width)
	for i := range r.Count {
		pixels[i], labels[i] = make([]float32, len(label)), make([]float32, len(label))
		if err := images.Image(i, pixels[i]); err != nil {
			return err
		}
		if err := images.Label(i, label); err != nil {
			return err
		}
		for j, class := range label {
			labels[i][j] = float32(class)
		}
	}
	for _, stack := range []struct {
		path  string
		pages [][]float32
	}{{imagesPath, pixels}, {labelsPath, labels}} {
		var b bytes.Buffer
		if err := imagefile.WriteTIFF(&b, r.Height, r.Width, r.PixelSize, stack.pages...); err != nil {
			return fmt.Errorf("%s: %w", stack.path, err)
		}
		if err := files.Write(stack.path, b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}
