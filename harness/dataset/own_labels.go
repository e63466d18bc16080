package dataset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/dataset/outline"
)

// Kinds of label.
const (
	ClassLabels    = "classes"   // a pixel's value says its class
	InstanceLabels = "instances" // 0, and particles numbered from 1
	MaskLabels     = "mask"      // particle where a pixel has half the greatest value or more
)

// Void is the class of pixels that are left out. It occurs in whole images, never
// in those that a backend sees.
const Void = 255

// labels are the label masks of a set of images: pixels of files, or outlines.
type labels struct {
	files  []pageFile // of outlines: as many pages as there are, n = 0
	pages  *pages     // of pixels
	rois   [][]outline.ROI
	coco   *outline.COCO
	class  []uint8 // of COCO's categories
	of     []ref   // by image
	kind   string
	colour bool // read the colours of palettes
	// classes of values, and half the greatest value of a mask.
	classes map[float64]uint8
	half    float64
}

// ref is the label of an image.
type ref struct{ file, page int }

// openLabels opens labels of any kind.
func openLabels(paths []string, classes []string, kind string) (*labels, []string, error) {
	l := &labels{kind: kind}
	if l.kind == "" {
		l.kind = ClassLabels
	}
	switch strings.ToLower(filepath.Ext(paths[0])) {
	case ".json":
		if len(paths) != 1 {
			return nil, nil, errors.New("labels: want one file of COCO's annotations")
		}
		return l, nil, l.openCOCO(paths[0], classes)
	case ".roi", ".zip":
		return l, nil, l.openROIs(paths, classes)
	}
	var notes []string
	var err error
	if l.pages, notes, err = openPages(paths, true); err != nil {
		return nil, nil, err
	}
	l.files = l.pages.files
	return l, notes, nil
}

func (l *labels) openROIs(paths []string, classes []string) error {
	if len(classes) > 2 {
		return fmt.Errorf("%s: regions of ImageJ tell one class from the background, the spec has %d: %v", paths[0], len(classes), classes)
	}
	for _, path := range paths {
		names, _, err := imagefile.Expand(path)
		if err != nil {
			return err
		}
		for _, name := range names {
			r, err := readROIs(name)
			if err != nil {
				return fmt.Errorf("reading %s: %w", name, err)
			}
			l.files = append(l.files, pageFile{path: name, name: name})
			l.rois = append(l.rois, r)
		}
	}
	return nil
}

func readROIs(name string) ([]outline.ROI, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return outline.ROIs(f, st.Size())
}

func (l *labels) openCOCO(name string, classes []string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if l.coco, err = outline.ReadCOCO(f); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	for _, c := range l.coco.Categories {
		class := slices.Index(classes, c)
		if class < 0 && len(classes) <= 2 {
			class = 1 // whatever it is called, it is no background
		}
		if class < 0 {
			return fmt.Errorf("%s: category %q is not among the classes %v", name, c, classes)
		}
		l.class = append(l.class, uint8(class))
	}
	for _, im := range l.coco.Images {
		l.files = append(l.files, pageFile{path: name, name: im.File, n: 1})
	}
	return nil
}

// hash identifies the label files.
func (l *labels) hash() (OwnFile, error) {
	var paths []string
	for _, f := range l.files {
		if !slices.Contains(paths, f.path) {
			paths = append(paths, f.path)
		}
	}
	return ownFile(paths)
}

func (l *labels) outlined() bool { return l.pages == nil }

// pair gives every image its label: in order where the names of the files agree in
// order, else by the names. It returns the images that have one and a note for
// each file that has none.
func (l *labels) pair(x *pages) (kept []int, notes []string, err error) {
	total := 0
	for _, f := range l.files {
		total += f.n
	}
	l.of = make([]ref, len(x.list))
	if len(x.files) == 1 || len(l.files) == 1 { // a stack
		if l.rois != nil { // whose regions say on which image they lie
			if len(l.files) != 1 {
				return nil, nil, fmt.Errorf("%d files of regions for the %d images of %s: want one file", len(l.files), len(x.list), x.files[0].path)
			}
			for i := range x.list {
				l.of[i] = ref{0, i}
			}
			for _, r := range l.rois[0] {
				if r.Image > len(x.list) {
					return nil, nil, fmt.Errorf("%s: region %s lies on image %d of %d", l.files[0].path, r.Name, r.Image, len(x.list))
				}
				if r.Image == 0 && len(x.list) > 1 {
					return nil, nil, fmt.Errorf("%s: region %s does not say on which of the %d images it lies: in ImageJ's ROI Manager, do not let regions show on all slices", l.files[0].path, r.Name, len(x.list))
				}
			}
		} else {
			if total != len(x.list) {
				return nil, nil, fmt.Errorf("%s holds %d images, %s holds %d labels: want as many", x.files[0].path, len(x.list), l.files[0].path, total)
			}
			i := 0
			for f := range l.files {
				for p := range l.files[f].n {
					l.of[i] = ref{f, p}
					i++
				}
			}
		}
		for i := range x.list {
			kept = append(kept, i)
		}
		return kept, nil, nil
	}
	match, err := matchFiles(x.files, l.files)
	if err != nil {
		return nil, nil, err
	}
	for f, file := range x.files {
		m := match[f]
		if m < 0 {
			notes = append(notes, fmt.Sprintf("%s has no label: left out", file.path))
			continue
		}
		if n := l.files[m].n; n != file.n && l.rois == nil {
			return nil, nil, fmt.Errorf("%s holds %d images, %s holds %d labels: want as many", file.path, file.n, l.files[m].path, n)
		}
		for p := range file.n {
			l.of[file.first+p] = ref{m, p}
			kept = append(kept, file.first+p)
		}
	}
	return kept, notes, nil
}

// matchFiles finds the label of every image file, −1 for none.
func matchFiles(images, labels []pageFile) ([]int, error) {
	match := make([]int, len(images))
	inOrder := len(images) == len(labels)
	for i := 0; inOrder && i < len(images); i++ {
		match[i] = i
		inOrder = alike(images[i].name, labels[i].name) > 0
	}
	if inOrder {
		return match, nil
	}
	found := 0
	by := map[int]int{}
	for i, im := range images {
		match[i] = -1
		best, several := 0, false
		for j, l := range labels {
			switch a := alike(im.name, l.name); {
			case a > best:
				best, several, match[i] = a, false, j
			case a > 0 && a == best:
				several = true
			}
		}
		if several {
			return nil, fmt.Errorf("several labels could be that of %s: give them its name", im.path)
		}
		if match[i] < 0 {
			continue
		}
		if other, twice := by[match[i]]; twice {
			return nil, fmt.Errorf("%s could be the label of %s and of %s: give it the name of one", labels[match[i]].path, images[other].path, im.path)
		}
		by[match[i]] = i
		found++
	}
	if found == 0 {
		return nil, fmt.Errorf("image %s and label %s come at the same place of their folders, but their names do not match: name both alike or with the same numbers", images[0].path, labels[0].path)
	}
	return match, nil
}

// alike is how well two files' names belong together: 3 for the same name, 2 where
// one starts with the other, 1 for the same digits, else 0.
func alike(a, b string) int {
	stem := func(path string) string {
		base := filepath.Base(filepath.FromSlash(path))
		return strings.TrimSuffix(base, filepath.Ext(base))
	}
	digit := func(r rune) bool { return '0' <= r && r <= '9' }
	digits := func(s string) string {
		return strings.Map(func(r rune) rune {
			if digit(r) {
				return r
			}
			return -1
		}, s)
	}
	starts := func(a, b string) bool { // img1_mask with img1, img10 not
		return strings.HasPrefix(a, b) && !digit(rune(a[len(b)]))
	}
	switch a, b = stem(a), stem(b); {
	case a == b:
		return 3
	case starts(a, b), starts(b, a):
		return 2
	case digits(a) != "" && digits(a) == digits(b):
		return 1
	}
	return 0
}

// checkSize makes sure that label and image have the same pixels.
func (l *labels) checkSize(x *pages, i int) error {
	r, im := l.of[i], x.list[i]
	h, w := im.fileH, im.fileW
	switch {
	case l.pages != nil:
		p := l.pages.list[l.files[r.file].first+r.page]
		h, w = p.h, p.w
	case l.coco != nil:
		if c := l.coco.Images[r.file]; c.H > 0 && c.W > 0 {
			h, w = c.H, c.W
		}
	}
	if h != im.fileH || w != im.fileW {
		return fmt.Errorf("%s has %d×%d pixels, its label in %s %d×%d: want the same", x.describe(i), im.fileH, im.fileW, l.files[r.file].path, h, w)
	}
	return nil
}

// values fills dst with the label of image i as its file has it; of outlines, with
// classes, and Void where particles are not told apart.
func (l *labels) values(i, h, w int, dst []float64) error {
	r := l.of[i]
	file := l.files[r.file]
	if l.outlined() {
		clear(dst)
		if l.coco != nil {
			for _, crowd := range []bool{true, false} { // single particles lie above
				for _, s := range l.coco.Images[r.file].Shapes {
					c := float64(l.class[s.Category])
					if crowd {
						c = Void
					}
					if s.Crowd != crowd {
						continue
					}
					if err := s.Fill(h, w, func(p int) { dst[p] = c }); err != nil {
						return fmt.Errorf("%s: %s: %w", file.path, file.name, err)
					}
				}
			}
			return nil
		}
		for _, roi := range l.rois[r.file] {
			if roi.Image == 0 || roi.Image == r.page+1 {
				roi.Fill(h, w, func(p int) { dst[p] = 1 })
			}
		}
		return nil
	}
	if file.colour {
		return mask(file.name, l.colour, dst)
	}
	raw := make([]float32, len(dst))
	if err := l.pages.at(file.first+r.page, raw); err != nil {
		return err
	}
	for p, v := range raw {
		dst[p] = float64(v)
	}
	return nil
}

// read fills dst with the classes of image i; where that is resampled, those of the
// nearest pixels.
func (l *labels) read(i int, im page, dst []uint8) error {
	if im.resampled() {
		whole := make([]uint8, im.fileH*im.fileW)
		as := im
		as.h, as.w = im.fileH, im.fileW
		if err := l.read(i, as, whole); err != nil {
			return err
		}
		for y := range im.h {
			row := whole[(2*y+1)*im.fileH/(2*im.h)*im.fileW:]
			for x := range im.w {
				dst[y*im.w+x] = row[(2*x+1)*im.fileW/(2*im.w)]
			}
		}
		return nil
	}
	raw := make([]float64, len(dst))
	if err := l.values(i, im.h, im.w, raw); err != nil {
		return err
	}
	for p, v := range raw {
		c, ok := l.classes[v]
		switch {
		case ok:
			dst[p] = c
		case l.kind == InstanceLabels && v > 0, l.kind == MaskLabels && v >= l.half:
			dst[p] = 1
		case l.kind != ClassLabels:
			dst[p] = 0
		default:
			return fmt.Errorf("%s has changed: a pixel is %s", l.files[l.of[i].file].path, plain(v))
		}
	}
	return nil
}

func (l *labels) Close() error {
	if l.pages == nil {
		return nil
	}
	return l.pages.Close()
}

// plain writes a value as a spec does.
func plain(v float64) string {
	if v >= colourOf && v < 2*colourOf && v == math.Trunc(v) {
		return fmt.Sprintf("#%06x", int(v)-colourOf)
	}
	return strconv.FormatFloat(v, 'g', -1, 64)
}

// LabelValue reads a value as a spec has it: a whole number, or a colour "#rrggbb".
func LabelValue(s string) (float64, error) {
	if hex, ok := strings.CutPrefix(s, "#"); ok && len(hex) == 6 {
		if n, err := strconv.ParseUint(hex, 16, 32); err == nil {
			r, g, b := n>>16, n>>8&255, n&255
			if r == g && g == b {
				return float64(r), nil
			}
			return float64(colourOf | n), nil
		}
	}
	if n, err := strconv.ParseUint(s, 10, 24); err == nil {
		return float64(n), nil
	}
	return 0, fmt.Errorf("%q is neither a whole number nor a colour such as \"#ff0000\"", s)
}

// maxValues bounds the different values of labels that are counted.
const maxValues = 1 << 16

// scan finds the values that occur in the labels of images and decides which class
// each one is.
func (l *labels) scan(ctx context.Context, x *pages, kept []int, o ImportOptions) (values []int, err error) {
	for _, v := range slices.Concat(append(slices.Clone(o.LabelValues), []string{o.Void})...) {
		l.colour = l.colour || strings.HasPrefix(v, "#")
	}
	counts := map[float64]int64{}
	for _, i := range kept {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		im := x.list[i]
		dst := make([]float64, im.fileH*im.fileW)
		if err := l.values(i, im.fileH, im.fileW, dst); err != nil {
			return nil, err
		}
		where := func(p int) string {
			r := l.of[i]
			return fmt.Sprintf("label %d of %s: pixel (%d, %d) is %s", r.page, l.files[r.file].path, p/im.fileW, p%im.fileW, plain(dst[p]))
		}
		for p, v := range dst {
			if !(v >= 0 && v < 2*colourOf) || v != math.Trunc(v) && l.kind != MaskLabels {
				return nil, fmt.Errorf("%s: want classes, whole numbers from 0 to 255%s", where(p), hintMask(v))
			}
			if counts[v]++; len(counts) > maxValues {
				return nil, fmt.Errorf("%s holds more than %d values: labels are not grey images", l.files[l.of[i].file].path, maxValues)
			}
		}
	}
	path := l.files[0].path
	seen := slices.Sorted(maps.Keys(counts))
	l.classes = map[float64]uint8{}
	if o.Void != "" {
		v, err := LabelValue(o.Void)
		switch {
		case err != nil:
			return nil, err
		case l.outlined():
			return nil, fmt.Errorf("%s: outlines have no value of void pixels (void = %s)", path, o.Void)
		}
		l.classes[v] = Void
		seen = slices.DeleteFunc(seen, func(s float64) bool { return s == v })
		if len(seen) == 0 {
			return nil, fmt.Errorf("%s: every pixel is %s, which is void: there is nothing to learn", path, o.Void)
		}
	}
	top := seen[len(seen)-1]
	if len(seen) == 1 && !l.outlined() {
		return nil, fmt.Errorf("%s: every pixel is %s: there is nothing to learn", path, plain(top))
	}
	switch {
	case l.outlined():
		for c := range max(o.Classes, 2) {
			l.classes[float64(c)] = uint8(c)
			values = append(values, c)
		}
		l.classes[Void] = Void
		if top == 0 {
			return nil, fmt.Errorf("%s: no outline lies on an image: there is nothing to learn", path)
		}
		return values, nil
	case l.kind == InstanceLabels:
		return []int{0, 1}, nil
	case l.kind == MaskLabels:
		l.half = top / 2
		return []int{0, 1}, nil
	case len(o.LabelValues) > 0:
		for c, list := range o.LabelValues {
			for _, s := range list {
				v, err := LabelValue(s)
				if err != nil {
					return nil, err
				}
				l.classes[v] = uint8(c)
			}
			values = append(values, c)
		}
		for _, v := range seen {
			if _, ok := l.classes[v]; !ok {
				return nil, fmt.Errorf("%s: %s is the value of %s, which label_values does not list", path, plain(v), share(counts, v))
			}
		}
		return values, nil
	}
	values, err = classValues(path, seen, counts, o.Classes)
	for c, v := range values {
		if o.Classes > len(values) { // not reached: values has one entry a class
			break
		}
		l.classes[float64(v)] = uint8(c)
	}
	return values, err
}

func hintMask(v float64) string {
	if v > 0 && v < 1 {
		return `; label_kind = "mask" reads fractions as particle from half the greatest on`
	}
	return ""
}

// share is the part of the pixels that have a value, for people.
func share(counts map[float64]int64, v float64) string {
	var n int64
	for _, c := range counts {
		n += c
	}
	return fmt.Sprintf("%.2g %% of the pixels", 100*float64(counts[v])/float64(n))
}

// classValues are the values of the classes, in order, of labels whose spec names
// none; 0 classes counts them.
func classValues(path string, seen []float64, counts map[float64]int64, classes int) ([]int, error) {
	top := seen[len(seen)-1]
	ints := make([]int, len(seen))
	for i, v := range seen {
		ints[i] = int(v)
	}
	whole := top <= 255
	switch {
	case classes < 0 || classes == 1 || classes > Void:
		return nil, fmt.Errorf("%d classes, want 2 to %d", classes, Void)
	case len(seen) == 2 && seen[0] == 0 && classes <= 2 && (whole || top >= colourOf):
		return ints, nil // 0 and 1, 0 and 255, black and a colour: two classes
	case whole && classes == 0 && int(top) == len(seen)-1:
		return ints, nil
	case whole && classes > int(top):
		ints = ints[:0]
		for v := range classes {
			ints = append(ints, v)
		}
		return ints, nil
	case !whole && top >= colourOf:
		var list []string
		for _, v := range seen[:min(len(seen), 8)] {
			list = append(list, fmt.Sprintf("%s (%s)", plain(v), share(counts, v)))
		}
		return nil, fmt.Errorf("%s has the colours %s: say which class is which, such as label_values = [\"#000000\", \"#ff0000\"]", path, strings.Join(list, ", "))
	}
	hint := ""
	most := counts[0] + counts[255]
	var total int64
	for _, n := range counts {
		total += n
	}
	low := seen[:len(seen)-1]
	switch {
	case top == 255 && (classes == 0 || low[len(low)-1] < float64(max(classes, 2))) && int(low[len(low)-1]) == len(low)-1:
		hint = "; void = 255 with crop leaves pixels of 255 out, label_values says what else they are"
	case top == 255 && 5*most > 4*total:
		hint = `; these look like the soft edges of a mask: label_kind = "mask" reads them`
	case classes <= 2 && int(top) == len(seen)-1:
		hint = `; these look like numbered particles: label_kind = "instances" reads them`
	case len(seen) == max(classes, 2):
		hint = "; label_values says the value of each class"
	}
	if classes == 0 {
		return nil, fmt.Errorf("%s: the classes are %v: want 0 to %d without gaps, or say how many classes there are%s", path, ints[:min(len(ints), 12)], len(seen)-1, hint)
	}
	return nil, fmt.Errorf("%s: a pixel is %s, but there are %d classes%s", path, plain(top), classes, hint)
}
