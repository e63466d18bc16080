package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/pixels"
)

// ImportOptions say what to make of a user's images.
type ImportOptions struct {
	// TrainImages and ValidationImages are the numbers of images of either split:
	// training takes the first, validation the last. A 0 takes what the other
	// leaves; if both are 0, the last ValidationFraction validates.
	TrainImages, ValidationImages int
	// ValidationFraction, 0 < f < 1; 0 is 0.2, the study's 128 of 640.
	ValidationFraction float64
	// Classes of the labels; 0 counts them, 2 at least.
	Classes int
	// PixelSize in Å overrides what the file says.
	PixelSize float64
	// Warn tells people of a set that was damaged and is made again.
	Warn func(format string, args ...any)
}

// maxPixels bounds what Import holds in memory: 2 GiB of float32.
const maxPixels = 1 << 29

// Imported are the two sets that a user's files make.
type Imported struct {
	Train, Validation Ready
}

// Own says what Import read.
type Own struct {
	// SHA256 of either file, or of all files of a folder joined, and, for files
	// that hold several arrays, the name of the one used.
	Images OwnFile `json:"images"`
	Labels OwnFile `json:"labels"`
	// First is the index in the files of this set's first image.
	First int `json:"first"`
	// Values are the labels' values in the file, in the order of classes.
	Values []int `json:"values"`
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

// Import makes sets of a user's images and label masks, each a file of any format
// that package imagefile reads ("FILE" or "FILE:ARRAY") or a folder of them, below
// the artifacts folder root.
//
// Every image is standardised to mean 0 and variance 1, as the study's are.
// Labels are whole numbers: 0, 1, … K−1 for K classes, or 0 and 255, or just 0
// and one other value, for two. Images must be square, as the symmetries of
// training need, with sides that are multiples of 16, as the network does.
// Whatever does not fit is an error that names the file and the image.
func Import(ctx context.Context, root, images, labels string, opt ImportOptions) (Imported, error) {
	bad := func(err error) (Imported, error) { return Imported{}, err }
	x, err := imagefile.Open(images)
	if err != nil {
		return bad(err)
	}
	defer x.Close()
	y, err := imagefile.Open(labels)
	if err != nil {
		return bad(err)
	}
	defer y.Close()
	if err := checkShapes(images, labels, x, y); err != nil {
		return bad(err)
	}
	if err := checkNames(x, y); err != nil {
		return bad(err)
	}
	train, validation, err := split(x.N, opt)
	if err != nil {
		return bad(fmt.Errorf("%s: %w", images, err))
	}
	if opt.PixelSize < 0 || math.IsNaN(opt.PixelSize) || math.IsInf(opt.PixelSize, 0) {
		return bad(fmt.Errorf("pixel size of %v Å", opt.PixelSize))
	}
	if opt.PixelSize == 0 {
		opt.PixelSize = x.Info(0).Pixel.Side()
	}
	var base Own
	if base.Images, err = ownFile(images, x); err != nil {
		return bad(err)
	}
	if base.Labels, err = ownFile(labels, y); err != nil {
		return bad(err)
	}
	classes, err := scanLabels(ctx, labels, y, opt.Classes)
	if err != nil {
		return bad(err)
	}
	base.Values = classes

	var out Imported
	for _, part := range []struct {
		name         string
		first, count int
		to           *Ready
	}{{Train, 0, train, &out.Train}, {Validation, x.N - validation, validation, &out.Validation}} {
		o := own{Format, base, part.count, max(len(classes), 2), opt.PixelSize}
		o.Own.First = part.first
		digest := digestOf(o)
		ready, err := findOrClear(ctx, files.Disk{}, root, digest, opt.Warn)
		if errors.Is(err, fs.ErrNotExist) {
			ready, err = importPart(ctx, root, digest, part.name, images, x, y, o)
		}
		if err != nil {
			return bad(err)
		}
		*part.to = ready
	}
	return out, nil
}

func checkShapes(images, labels string, x, y *imagefile.Stack) error {
	switch {
	case x.N != y.N:
		return fmt.Errorf("%s holds %d images, %s holds %d labels: want as many", images, x.N, labels, y.N)
	case x.H != y.H || x.W != y.W:
		return fmt.Errorf("images of %s have %d×%d pixels, labels of %s %d×%d: want the same", images, x.H, x.W, labels, y.H, y.W)
	case x.H != x.W:
		return fmt.Errorf("images of %s have %d×%d pixels: want square ones, training turns and mirrors them; cut them into squares", images, x.H, x.W)
	case x.H%16 != 0:
		return fmt.Errorf("images of %s have %d×%d pixels: want a multiple of 16, the network halves them four times; crop them to %d×%d", images, x.H, x.W, x.H/16*16, x.H/16*16)
	case x.N < 2:
		return fmt.Errorf("%s holds one image: want at least one for training and one for validation", images)
	case x.N > maxPixels/(x.H*x.W):
		return fmt.Errorf("%s holds %d images of %d×%d pixels: want at most %d of them in one file", images, x.N, x.H, x.W, maxPixels/(x.H*x.W))
	}
	return nil
}

// split is how many of n images train and how many validate.
func split(n int, opt ImportOptions) (train, validation int, err error) {
	train, validation = opt.TrainImages, opt.ValidationImages
	switch {
	case train < 0 || validation < 0:
		return 0, 0, fmt.Errorf("%d images for training and %d for validation", train, validation)
	case train == 0 && validation == 0:
		f := opt.ValidationFraction
		if f == 0 {
			f = 0.2
		}
		if !(f > 0 && f < 1) {
			return 0, 0, fmt.Errorf("a fraction of %v for validation, want one between 0 and 1", f)
		}
		validation = min(max(int(math.Round(f*float64(n))), 1), n-1)
		train = n - validation
	case train == 0:
		train = n - validation
	case validation == 0:
		validation = n - train
	}
	if train < 1 || validation < 1 || train > n-validation {
		return 0, 0, fmt.Errorf("%d images for training and %d for validation, of %d", train, validation, n)
	}
	return train, validation, nil
}

// ownFile hashes the files of a stack: a single one as sha256sum would, several
// one after the other.
func ownFile(path string, s *imagefile.Stack) (OwnFile, error) {
	h := sha256.New()
	last := ""
	for i := range s.N {
		name := s.Name(i)
		if name == last {
			continue
		}
		last = name
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
	_, array := imagefile.SplitPath(path)
	return OwnFile{hex.EncodeToString(h.Sum(nil)), array}, nil
}

// checkNames makes sure that images and labels which are files of two folders
// belong to each other: one name starts with the other, or their digits are the
// same.
func checkNames(x, y *imagefile.Stack) error {
	if x.Name(0) == x.Name(x.N-1) || y.Name(0) == y.Name(y.N-1) {
		return nil
	}
	stem := func(path string) string {
		base := filepath.Base(path)
		return strings.TrimSuffix(base, filepath.Ext(base))
	}
	digits := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r < '0' || r > '9' {
				return -1
			}
			return r
		}, s)
	}
	for i := range x.N {
		a, b := stem(x.Name(i)), stem(y.Name(i))
		if !strings.HasPrefix(a, b) && !strings.HasPrefix(b, a) && (digits(a) == "" || digits(a) != digits(b)) {
			return fmt.Errorf("image %s and label %s come at the same place of their folders, but their names do not match: name both alike or with the same numbers", x.Name(i), y.Name(i))
		}
	}
	return nil
}

// scanLabels returns the values of the classes, in order.
func scanLabels(ctx context.Context, path string, y *imagefile.Stack, classes int) ([]int, error) {
	if classes < 0 || classes == 1 || classes > 256 {
		return nil, fmt.Errorf("%d classes, want 2 to 256", classes)
	}
	var seen [256]bool
	dst := make([]float32, y.H*y.W)
	for i := range y.N {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := y.At(i, dst); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		for p, v := range dst {
			if !(v >= 0 && v <= 255) || v != float32(int(v)) {
				return nil, fmt.Errorf("label %d of %s: pixel (%d, %d) is %v: want classes, whole numbers from 0 to 255", i, path, p/y.W, p%y.W, v)
			}
			seen[int(v)] = true
		}
	}
	var values []int
	for v, ok := range seen {
		if ok {
			values = append(values, v)
		}
	}
	top := values[len(values)-1]
	switch {
	case len(values) == 1:
		return nil, fmt.Errorf("%s: every pixel is %d: there is nothing to learn", path, top)
	case classes == 0 && len(values) == 2 && values[0] == 0:
		return values, nil // 0 and 1, 0 and 255, …: two classes
	case classes == 2 && len(values) == 2 && values[0] == 0:
		return values, nil
	case classes == 0 && top == len(values)-1:
		return values, nil
	case classes > top:
		values = values[:0]
		for v := range classes {
			values = append(values, v)
		}
		return values, nil
	case classes == 0:
		return nil, fmt.Errorf("%s: the classes are %v: want 0 to %d without gaps, or say how many classes there are", path, values, len(values)-1)
	}
	return nil, fmt.Errorf("%s: a pixel is %d, but there are %d classes", path, top, classes)
}

// importPart writes one of the two sets.
func importPart(ctx context.Context, root, digest, name, path string, x, y *imagefile.Stack, o own) (Ready, error) {
	n := x.H * x.W
	images := make([]float32, o.Count*n)
	labels := make([]uint8, o.Count*n)
	class := map[float32]uint8{}
	for c, v := range o.Own.Values {
		class[float32(v)] = uint8(c)
	}
	row := make([]float32, n)
	for i := range o.Count {
		if err := ctx.Err(); err != nil {
			return Ready{}, err
		}
		k := o.Own.First + i
		dst := images[i*n:][:n]
		if err := x.At(k, dst); err != nil {
			return Ready{}, fmt.Errorf("reading %s: %w", path, err)
		}
		if err := pixels.Standardize(dst, x.W); err != nil {
			return Ready{}, fmt.Errorf("image %d of %s: %w", k, path, err)
		}
		if err := y.At(k, row); err != nil {
			return Ready{}, fmt.Errorf("reading the labels of %s: %w", path, err)
		}
		for p, v := range row {
			labels[i*n+p] = class[v]
		}
	}
	dir, err := setDir(root, digest)
	if err != nil {
		return Ready{}, err
	}
	m := &Manifest{
		Format: Format, Kind: OwnImages, Digest: digest, Split: name,
		Count: o.Count, Height: x.H, Width: x.W, Classes: o.Classes, PixelSize: o.PixelSize,
		Own: &o.Own,
	}
	if err := writeSet(files.Disk{}, dir, m, images, labels); err != nil {
		return Ready{}, err
	}
	return m.ready(dir)
}
