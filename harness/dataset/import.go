package dataset

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/micrograph"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// ImportOptions say what to make of a user's images.
type ImportOptions struct {
	// TrainImages and ValidationImages are the numbers of images of either split:
	// training takes the first, validation the last. A 0 takes what the other
	// leaves; if both are 0, the last ValidationFraction validates.
	TrainImages, ValidationImages int
	// ValidationFraction, 0 < f < 1; 0 is 0.2, the study's 128 of 640.
	ValidationFraction float64
	// Shuffle takes the images, or groups, in an order that Seed and Name determine.
	Shuffle bool
	Seed    uint64
	Name    string // of the domain
	// GroupBy keeps images together: GroupByFile, GroupByFolder or a regular
	// expression on the path; empty for none.
	GroupBy string
	// Folds divides into that many parts, of which part Fold, from 1, validates; 0
	// for none.
	Folds, Fold int
	// Crop is the side of the patches that are cut from the images; 0 takes images
	// as they are.
	Crop int
	// Flatten divides images by their illumination.
	Flatten bool
	// Classes of the labels; 0 counts them, 2 at least. ClassNames are theirs, for
	// annotations that name classes.
	Classes    int
	ClassNames []string
	// LabelKind is ClassLabels (the default), InstanceLabels or MaskLabels.
	LabelKind string
	// LabelValues are the values of each class, as LabelValue reads them; empty for
	// 0, 1, 2, … and the like.
	LabelValues [][]string
	// Void is the value of pixels that are left out, empty for none: patches with
	// such pixels are not cut.
	Void string
	// PixelSize in Å overrides what the file says.
	PixelSize float64
	// Resample is the pixel size in Å that images with Crop are brought to where
	// their own is known and another; 0 is that of the first image that says it.
	Resample float64
	// Warn tells people of a set that was damaged and is made again, of images that
	// are left out, and of what is probably a mistake.
	Warn func(format string, args ...any)
}

func (o ImportOptions) warn(format string, args ...any) {
	if o.Warn != nil {
		o.Warn(format, args...)
	}
}

// maxPixels bounds what Import holds in memory: 2 GiB of float32.
const maxPixels = 1 << 29

// Imported are the two sets that a user's files make.
type Imported struct {
	Train, Validation Ready
	Statistics        Statistics
}

// Statistics describe a user's images.
type Statistics struct {
	Images, LeftOut       int
	Repaired              int // images with pixels that were no image
	Train, Validation     int // images
	Groups                int // 0 where images are not grouped
	MinHeight, MinWidth   int
	MaxHeight, MaxWidth   int
	PixelSize             float64   // Å, 0 where unknown
	Classes               []float64 // part of the pixels of each
	Void                  float64   // part of the pixels that are left out
	LeastShare, MostShare float64   // of an image's pixels above class 0
}

// Sizes is what the files' headers say of the sets that Import would make: the
// numbers of their images, or patches, and the side of these in pixels. Images that
// Import leaves out, which it sees only when it reads them, are counted.
func Sizes(images []string, opt ImportOptions) (train, validation, side int, err error) {
	x, _, err := openPages(images, false)
	if err != nil {
		return 0, 0, 0, err
	}
	defer x.Close()
	if _, err := opt.resample(x); err != nil {
		return 0, 0, 0, err
	}
	all := make([]int, len(x.list))
	for i := range all {
		all[i] = i
	}
	var groups []string
	if opt.GroupBy != "" {
		if groups, err = groupsOf(x, all, opt.GroupBy); err != nil {
			return 0, 0, 0, err
		}
	}
	t, v, err := split(len(all), groups, opt)
	if err != nil {
		return 0, 0, 0, err
	}
	count := func(part []int) (n int) {
		for _, i := range part {
			if p := x.list[i]; opt.Crop == 0 {
				n++
			} else if p.h >= opt.Crop && p.w >= opt.Crop {
				n += len(cover(p.h, p.w, opt.Crop))
			}
		}
		return n
	}
	side = opt.Crop
	if side == 0 {
		side = x.list[0].h
	}
	return count(t), count(v), side, nil
}

// Own says what Import read.
type Own struct {
	// SHA256 of either file, or of all files of a folder joined, and, for files
	// that hold several arrays, the name of the one used.
	Images OwnFile `json:"images"`
	Labels OwnFile `json:"labels"`
	// First is the index in the files of this set's first image.
	First int `json:"first"`
	// Indices are those of its images where they are not First and the next ones.
	Indices []int `json:"indices,omitempty"`
	// Pairs are the places of the images' labels where they are not the images'.
	Pairs []int `json:"pairs,omitempty"`
	// Crop is the side of the patches cut from the images, 0 for none.
	Crop int `json:"crop,omitempty"`
	// Repair is the micrograph.Version by which pixels were repaired, 0 where none
	// needed it; Flatten says whether images are divided by their illumination.
	Repair  int  `json:"repair,omitempty"`
	Flatten bool `json:"flatten,omitempty"`
	// Values are the labels' values in the file, in the order of classes.
	Values []int `json:"values"`
	// Kind, ValuesOf and Void say how labels are read where the values do not.
	Kind     string     `json:"kind,omitempty"`
	ValuesOf [][]string `json:"values_of,omitempty"`
	Void     string     `json:"void,omitempty"`
	// Sizes are the height and width of each image of the set, where one was
	// resampled.
	Sizes [][2]int `json:"sizes,omitempty"`
}

// OwnFile identifies a stack by content.
type OwnFile struct {
	SHA256 string `json:"sha256"`
	Array  string `json:"array,omitempty"`
}

// own determines a set made of a user's files.
type own struct {
	Format    int     `json:"format"`
	Own       Own     `json:"own"`
	Count     int     `json:"count"`
	Classes   int     `json:"classes"`
	PixelSize float64 `json:"pixel_size"`
}

// Import makes sets of a user's images and labels below the artifacts folder root.
// Either is a list of files of any format that package imagefile reads ("FILE" or
// "FILE:ARRAY"), folders and patterns of them; labels may also be coloured masks,
// ImageJ's regions and COCO's annotations (package outline).
//
// Every image is repaired, flattened where that is asked for, and standardised as a
// whole, by package micrograph and so as for a prediction; images that need no
// repair get the bits that the study's would.
// Without Crop, images must be square and of one size, as the symmetries of
// training and batches need, with sides that are multiples of 16, as the network
// does. With it they may have any size: the validation set is patches that cover
// the images, the training set as many, which Patches cuts anew every epoch.
// Whatever does not fit is an error that names the file and the image; images
// without a label and images of a single value are left out with a warning.
func Import(ctx context.Context, root string, images, labelPaths []string, opt ImportOptions) (Imported, error) {
	bad := func(err error) (Imported, error) { return Imported{}, err }
	if opt.PixelSize < 0 || math.IsNaN(opt.PixelSize) || math.IsInf(opt.PixelSize, 0) {
		return bad(fmt.Errorf("pixel size of %v Å", opt.PixelSize))
	}
	x, notes, err := openPages(images, false)
	if err != nil {
		return bad(err)
	}
	defer x.Close()
	y, more, err := openLabels(labelPaths, opt.ClassNames, opt.LabelKind)
	if err != nil {
		return bad(err)
	}
	defer y.Close()
	for _, n := range append(notes, more...) {
		opt.warn("%s", n)
	}
	kept, notes, err := y.pair(x)
	if err != nil {
		return bad(err)
	}
	for _, n := range notes {
		opt.warn("%s", n)
	}
	if notes, err = opt.resample(x); err != nil {
		return bad(err)
	}
	for _, n := range notes {
		opt.warn("%s", n)
	}
	if err := checkShapes(x, y, kept, opt); err != nil {
		return bad(err)
	}
	values, err := y.scan(ctx, x, kept, opt)
	if err != nil {
		return bad(err)
	}
	im := importer{ctx, root, x, y, opt, max(len(values), 2)}
	stats, kept, err := im.survey(kept)
	if err != nil {
		return bad(err)
	}
	var groups []string
	if opt.GroupBy != "" {
		if groups, err = groupsOf(x, kept, opt.GroupBy); err != nil {
			return bad(err)
		}
		distinct := map[string]bool{}
		for _, g := range groups {
			distinct[g] = true
		}
		stats.Groups = len(distinct)
	}
	train, validation, err := split(len(kept), groups, opt)
	if err != nil {
		return bad(fmt.Errorf("%s: %w", images[0], err))
	}
	for _, part := range [][]int{train, validation} {
		for k, i := range part {
			part[k] = kept[i]
		}
	}
	stats.Train, stats.Validation = len(train), len(validation)
	if opt.GroupBy == "" {
		if s := leak(x, train, validation); s != "" {
			opt.warn("images %s… both train and validate, so that validation tells little about other samples: group_by = %q, or another rule, keeps images together", s, GroupByFolder)
		}
	}
	base := Own{Values: values, Crop: opt.Crop, Flatten: opt.Flatten, Repair: min(stats.Repaired, 1) * micrograph.Version, ValuesOf: opt.LabelValues, Void: opt.Void}
	if y.kind != ClassLabels {
		base.Kind = y.kind
	}
	if base.Images, err = ownFile(x.names()); err != nil {
		return bad(err)
	}
	if base.Labels, err = y.hash(); err != nil {
		return bad(err)
	}
	out := Imported{Statistics: stats}
	for _, part := range []struct {
		name    string
		indices []int
		to      *Ready
	}{{Train, train, &out.Train}, {Validation, validation, &out.Validation}} {
		patches, err := im.patches(part.indices)
		if err != nil {
			return bad(fmt.Errorf("the %s images: %w", part.name, err))
		}
		o := own{Format, base, len(patches), im.classes, stats.PixelSize}
		o.Own.First = part.indices[0]
		o.Own.Pairs = y.pairs(x, part.indices)
		if !contiguous(part.indices) {
			o.Own.Indices = part.indices
		}
		o.Own.Sizes = x.sizes(part.indices)
		digest := digestOf(o)
		ready, err := findOrClear(ctx, files.Disk{}, root, digest, opt.Warn)
		if errors.Is(err, fs.ErrNotExist) {
			ready, err = im.write(digest, part.name, part.indices, patches, o)
		}
		if err != nil {
			return bad(err)
		}
		*part.to = ready
	}
	return out, nil
}

// resample decides on the pixel size of all images.
func (o ImportOptions) resample(x *pages) ([]string, error) {
	to := cmp.Or(o.Resample, o.PixelSize, x.pixelSize())
	if to == 0 {
		return nil, nil
	}
	if own := cmp.Or(o.PixelSize, x.pixelSize()); o.Crop == 0 {
		if o.Resample > 0 && own > 0 && math.Abs(own/o.Resample-1) > sameSize {
			return []string{fmt.Sprintf("pixels of %s, other images of the study of %s: one network sees particles of two sizes; with crop these are brought to the others'", format.PixelSize(own), format.PixelSize(o.Resample))}, nil
		}
		return nil, nil
	}
	return x.bring(to, o.PixelSize)
}

func contiguous(indices []int) bool {
	return indices[len(indices)-1]-indices[0] == len(indices)-1
}

// pairs are the places of the labels of images among all labels, nil where they
// are those of the images.
func (l *labels) pairs(x *pages, images []int) []int {
	first := make([]int, len(l.files)+1)
	for f := range l.files {
		first[f+1] = first[f] + l.files[f].n
	}
	same := true
	var at []int
	for _, i := range images {
		p := first[l.of[i].file] + l.of[i].page
		if l.rois != nil && len(l.files) > 1 { // one image each
			p = l.of[i].file
		}
		same = same && p == i
		at = append(at, p)
	}
	if same {
		return nil
	}
	return at
}

// checkShapes looks at sizes, before anything is read.
func checkShapes(x *pages, y *labels, kept []int, o ImportOptions) error {
	if len(kept) < 2 {
		return fmt.Errorf("%s holds one image: want at least one for training and one for validation", x.files[0].path)
	}
	total := 0
	first := x.list[kept[0]]
	for _, i := range kept {
		if err := y.checkSize(x, i); err != nil {
			return err
		}
		p := x.list[i]
		total += p.h * p.w
		switch where := x.describe(i); {
		case o.Crop > 0 && (p.h < o.Crop || p.w < o.Crop):
			return fmt.Errorf("%s has %d×%d pixels, fewer than crop = %d: choose a smaller one", where, p.h, p.w, o.Crop)
		case o.Crop > 0:
		case p.h != p.w:
			return fmt.Errorf("images of %s have %d×%d pixels: want square ones, training turns and mirrors them; crop = %d cuts squares", x.files[p.file].path, p.h, p.w, max(min(p.h, p.w)/32*16, 16))
		case p.h%16 != 0:
			return fmt.Errorf("images of %s have %d×%d pixels: want a multiple of 16, the network halves them four times; crop them to %d×%d, or cut patches with crop", x.files[p.file].path, p.h, p.w, p.h/16*16, p.h/16*16)
		case p.h != first.h:
			return fmt.Errorf("%s has %d×%d pixels, %s %d×%d: images of several sizes need crop, the side of the squares that are cut from them", where, p.h, p.w, x.describe(kept[0]), first.h, first.w)
		}
		if total > maxPixels {
			return fmt.Errorf("%s and the others hold %d images of %d×%d pixels and more: want at most %d pixels in a domain", x.files[0].path, len(kept), p.h, p.w, maxPixels)
		}
	}
	return nil
}

// importer makes the sets of one domain.
type importer struct {
	ctx     context.Context
	root    string
	x       *pages
	y       *labels
	opt     ImportOptions
	classes int
}

// image reads image i and makes of it what the network sees. It says whether all
// its pixels are equal, and how many were repaired.
func (im *importer) image(i int) (dst []float32, flat bool, d micrograph.Defects, err error) {
	p := im.x.list[i]
	dst = make([]float32, p.fileH*p.fileW)
	if err := im.x.at(i, dst); err != nil {
		return nil, false, d, err
	}
	where := func(err error) error {
		return fmt.Errorf("image %d of %s: %w", p.index, im.x.files[p.file].path, err)
	}
	if flat = !slices.ContainsFunc(dst, func(v float32) bool { return v != dst[0] }); flat {
		return nil, true, d, where(fmt.Errorf("every pixel has the value %g", dst[0]))
	}
	m := &micrograph.Image{H: p.fileH, W: p.fileW, Pixels: dst}
	if d, err = micrograph.Repair(m); err != nil {
		return nil, false, d, where(err)
	}
	m = m.AtSize(p.h, p.w, d)
	if im.opt.Flatten {
		micrograph.Illuminate(m, micrograph.FlatSigma).Flatten(m)
	}
	if err := micrograph.Standardize(m); err != nil {
		return nil, false, d, where(err)
	}
	return m.Pixels, false, d, nil
}

// survey looks at every image and label once and leaves out what teaches nothing.
func (im *importer) survey(all []int) (s Statistics, kept []int, err error) {
	s.LeftOut = len(im.x.list) - len(all)
	classes := make([]int64, Void+1)
	var total int64
	seen := map[[sha256.Size]byte]int{}
	var flatErr error
	s.LeastShare = 1
	known := 0.0 // pixel size in Å
	for _, i := range all {
		if err := im.ctx.Err(); err != nil {
			return s, nil, err
		}
		x, flat, defects, err := im.image(i)
		if flat {
			im.opt.warn("%v: left out", err)
			flatErr = cmp.Or(flatErr, err)
			s.LeftOut++
			continue
		} else if err != nil {
			return s, nil, err
		}
		if defects.Total() > 0 {
			im.opt.warn("%s: %v", im.x.describe(i), defects)
			s.Repaired++
		}
		h := sha256.New()
		binary.Write(h, binary.LittleEndian, x)
		sum := [sha256.Size]byte(h.Sum(nil))
		if j, twice := seen[sum]; twice {
			im.opt.warn("%s and %s are the same image", im.x.describe(j), im.x.describe(i))
		}
		seen[sum] = i
		p := im.x.list[i]
		label := make([]uint8, p.h*p.w)
		if err := im.y.read(i, p, label); err != nil {
			return s, nil, err
		}
		particle := 0
		for _, c := range label {
			classes[c]++
			if c > 0 && c != Void {
				particle++
			}
		}
		share := float64(particle) / float64(len(label))
		s.LeastShare, s.MostShare = min(s.LeastShare, share), max(s.MostShare, share)
		total += int64(len(label))
		if len(kept) == 0 {
			s.MinHeight, s.MinWidth = p.h, p.w
		}
		s.MinHeight, s.MinWidth = min(s.MinHeight, p.h), min(s.MinWidth, p.w)
		s.MaxHeight, s.MaxWidth = max(s.MaxHeight, p.h), max(s.MaxWidth, p.w)
		size := im.x.files[p.file].pixel.Side()
		switch {
		case im.opt.PixelSize > 0 || size == 0:
		case p.resampled(): // said before
		case known > 0 && math.Abs(size/known-1) > sameSize:
			im.opt.warn("%s has pixels of %s, images before it of %s: one network sees particles of two sizes; with crop they are brought to one", im.x.describe(i), format.PixelSize(size), format.PixelSize(known))
		default:
			known = size
		}
		kept = append(kept, i)
	}
	if len(kept) < 2 {
		return s, nil, errors.Join(flatErr, fmt.Errorf("%s: %d images are left: want at least one for training and one for validation", im.x.files[0].path, len(kept)))
	}
	s.PixelSize = cmp.Or(im.opt.PixelSize, im.x.pixelSize())
	if s.PixelSize > 0 && im.opt.Crop > 0 {
		s.PixelSize = cmp.Or(im.opt.Resample, s.PixelSize)
	}
	s.Images = len(kept)
	for c := range im.classes {
		s.Classes = append(s.Classes, float64(classes[c])/float64(total))
	}
	s.Void = float64(classes[Void]) / float64(total)
	if above := 1 - s.Void - s.Classes[0]; above > 0.5 {
		im.opt.warn("%s: %.0f %% of the pixels are particle: are the labels inverted? label_values = [1, 0], with the values that they have, exchanges them", im.y.files[0].path, 100*above)
	}
	return s, kept, nil
}

// patches are the images themselves or, with Crop, the squares that cover them and
// have no void pixels.
func (im *importer) patches(indices []int) ([]patch, error) {
	var all []patch
	c := im.opt.Crop
	for k, i := range indices {
		p := im.x.list[i]
		if c == 0 && im.opt.Void == "" && im.y.coco == nil {
			all = append(all, patch{k, 0, 0})
			continue
		}
		label := make([]uint8, p.h*p.w)
		if err := im.y.read(i, p, label); err != nil {
			return nil, err
		}
		if c == 0 {
			if slices.Contains(label, Void) {
				return nil, fmt.Errorf("%s has void pixels: crop = %d, or another side, cuts patches without them", im.x.describe(i), max(p.h/64*16, 16))
			}
			all = append(all, patch{k, 0, 0})
			continue
		}
		square := make([]uint8, c*c)
		for _, at := range cover(p.h, p.w, c) {
			if cut(square, label, p.w, at[0], at[1], c); !slices.Contains(square, Void) {
				all = append(all, patch{k, at[0], at[1]})
			}
		}
	}
	side := c
	if c == 0 {
		side = im.x.list[indices[0]].h
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("every patch of %d×%d pixels has void pixels: choose a smaller crop", c, c)
	case len(all) > maxPixels/(side*side):
		return nil, fmt.Errorf("%d patches of %d×%d pixels: want at most %d", len(all), side, side, maxPixels/(side*side))
	}
	return all, nil
}

// write writes one of the two sets.
func (im *importer) write(digest, name string, indices []int, patches []patch, o own) (Ready, error) {
	side := im.opt.Crop
	if side == 0 {
		side = im.x.list[indices[0]].h
	}
	n := side * side
	images, labels := make([]float32, len(patches)*n), make([]uint8, len(patches)*n)
	var whole []safetensors.Tensor
	var places []int64
	next := 0
	for k, i := range indices {
		if err := im.ctx.Err(); err != nil {
			return Ready{}, err
		}
		p := im.x.list[i]
		x, _, _, err := im.image(i)
		if err != nil {
			return Ready{}, err
		}
		y := make([]uint8, len(x))
		if err := im.y.read(i, p, y); err != nil {
			return Ready{}, err
		}
		for ; next < len(patches) && patches[next].image == k; next++ {
			q := patches[next]
			cut(images[next*n:], x, p.w, q.y, q.x, side)
			cut(labels[next*n:], y, p.w, q.y, q.x, side)
			places = append(places, int64(q.image), int64(q.y), int64(q.x))
		}
		if im.opt.Crop > 0 && name == Train {
			whole = append(whole,
				safetensors.Tensor{Name: fmt.Sprintf("image %d", k), Shape: []int{p.h, p.w}, Data: x},
				safetensors.Tensor{Name: fmt.Sprintf("label %d", k), Shape: []int{p.h, p.w}, Data: y})
		}
	}
	dir, err := setDir(im.root, digest)
	if err != nil {
		return Ready{}, err
	}
	m := &Manifest{
		Format: Format, Kind: OwnImages, Digest: digest, Split: name,
		Count: o.Count, Height: side, Width: side, Classes: o.Classes, PixelSize: o.PixelSize,
		Own: &o.Own,
	}
	if whole != nil {
		whole = append(whole, safetensors.Tensor{Name: "patches", Shape: []int{len(patches), 3}, Data: places})
		if err := (files.Disk{}).Mkdir(dir); err != nil {
			return Ready{}, err
		}
		f, err := files.Create(filepath.Join(dir, wholeFile), func(out io.Writer) error {
			return safetensors.Write(out, whole, map[string]string{"digest": digest})
		})
		if err != nil {
			return Ready{}, err
		}
		m.Files = map[string]content{wholeFile: contentOf(f)}
	}
	if err := writeSet(files.Disk{}, dir, m, images, labels); err != nil {
		return Ready{}, err
	}
	return m.ready(dir)
}
