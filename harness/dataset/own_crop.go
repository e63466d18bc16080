package dataset

import (
	"context"
	"fmt"
	"io"
	"math/bits"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// wholeFile holds the images that patches are cut from: "image K" F32 [H,W] and
// "label K" U8 [H,W], Void among the classes, and "patches" I64 [N,3], image, row
// and column of each patch of the set.
const wholeFile = "whole.safetensors"

// patch is a square of an image.
type patch struct{ image, y, x int }

// cover lists the upper left corners of squares that cover an image of h rows and
// w columns, as few as can be and spread evenly.
func cover(h, w, crop int) [][2]int {
	along := func(n int) []int {
		k := (n + crop - 1) / crop
		at := make([]int, k)
		for i := range at {
			if k > 1 {
				at[i] = i * (n - crop) / (k - 1)
			}
		}
		return at
	}
	var all [][2]int
	for _, y := range along(h) {
		for _, x := range along(w) {
			all = append(all, [2]int{y, x})
		}
	}
	return all
}

// cut copies a square of rows of the given width.
func cut[T any](dst, src []T, width, y, x, crop int) {
	for r := range crop {
		copy(dst[r*crop:][:crop], src[(y+r)*width+x:])
	}
}

// Patches cut the squares of one epoch from the whole images of a set.
type Patches struct {
	set     Ready
	f       *safetensors.File
	patches []int64
}

// Patches opens the whole images of a set whose patches are cut anew every epoch.
func (r Ready) Patches() (*Patches, error) {
	path := filepath.Join(filepath.Dir(r.Path), wholeFile)
	if err := r.check(path, r.whole); err != nil {
		return nil, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	p := &Patches{set: r, f: f}
	if p.patches, err = f.Int64("patches"); err == nil && len(p.patches) != 3*r.Count {
		err = &files.Damage{Path: path, Problem: fmt.Sprintf("it has %d patches, not %d", len(p.patches)/3, r.Count)}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

// Close closes the file.
func (p *Patches) Close() error { return p.f.Close() }

// tries is how often a place is drawn that has no void pixel.
const tries = 32

// Write writes a set of the given patches of the set to path, every one cut at a
// place of its image that the stream of (seed, purpose, epoch, patch) draws
// uniformly. Places with void pixels are drawn again and, in the end, replaced by
// the set's own.
func (p *Patches) Write(ctx context.Context, path string, indices []int, seed uint64, purpose string, epoch int) (files.File, error) {
	c := p.set.Height
	images, labels := make([]float32, len(indices)*c*c), make([]uint8, len(indices)*c*c)
	for k, i := range indices {
		if err := ctx.Err(); err != nil {
			return files.File{}, err
		}
		image := p.patches[3*i]
		name := fmt.Sprintf(" %d", image)
		info, ok := p.f.Info("image" + name)
		if !ok || len(info.Shape) != 2 || info.Shape[0] < c || info.Shape[1] < c {
			return files.File{}, &files.Damage{Path: filepath.Join(filepath.Dir(p.set.Path), wholeFile), Problem: fmt.Sprintf("image %d has shape %v", image, info.Shape)}
		}
		h, w := info.Shape[0], info.Shape[1]
		rng := random.Stream(seed, purpose, uint64(epoch), uint64(i))
		label := labels[k*c*c:][:c*c]
		var y, x int
		for try := 0; ; try++ {
			y, x = int(Below(rng, uint64(h-c+1))), int(Below(rng, uint64(w-c+1)))
			if try == tries {
				y, x = int(p.patches[3*i+1]), int(p.patches[3*i+2])
			}
			for r := range c {
				if err := p.f.ReadUint8("label"+name, (y+r)*w+x, label[r*c:][:c]); err != nil {
					return files.File{}, err
				}
			}
			if try == tries || !slices.Contains(label, Void) {
				break
			}
		}
		for r := range c {
			if err := p.f.ReadFloat32("image"+name, (y+r)*w+x, images[k*c*c+r*c:][:c]); err != nil {
				return files.File{}, err
			}
		}
	}
	return files.Create(path, func(out io.Writer) error {
		return safetensors.Write(out, []safetensors.Tensor{
			{Name: "images", Shape: []int{len(indices), 1, c, c}, Data: images},
			{Name: "labels", Shape: []int{len(indices), c, c}, Data: labels},
		}, nil)
	})
}

// Below returns a uniform integer in [0, n): the high word of a 128-bit product,
// rejecting the few low words that would favour some results. It is written out
// because bits depend on it and the methods of rand.Rand may change.
func Below(rng *rand.Rand, n uint64) uint64 {
	for {
		hi, lo := bits.Mul64(rng.Uint64(), n)
		if lo >= -n%n {
			return hi
		}
	}
}
