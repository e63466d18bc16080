package gorgonia

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// dataset reads the samples of one safetensors file as they are asked for.
type dataset struct {
	file       *safetensors.File
	n, c, h, w int
}

// openDataset checks the digest and the layout, with the network's channels.
func openDataset(ctx context.Context, path, digest string, channels int) (*dataset, error) {
	got, err := hashFile(ctx, path)
	if err != nil {
		return nil, err
	}
	if got != digest {
		return nil, fmt.Errorf("%s has SHA-256 %s, expected %s: it has changed or is another file", path, got, digest)
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	d, err := newDataset(f, channels)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		_, err := io.CopyN(h, f, 16<<20)
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("reading %s: %w", path, err)
		}
	}
}

func newDataset(f *safetensors.File, channels int) (*dataset, error) {
	images, ok := f.Info("images")
	if !ok || images.DType != safetensors.F32 || len(images.Shape) != 4 {
		return nil, fmt.Errorf(`needs a tensor "images" of type F32 and shape [N,C,H,W]`)
	}
	labels, ok := f.Info("labels")
	s := images.Shape
	if !ok || labels.DType != safetensors.U8 || len(labels.Shape) != 3 ||
		labels.Shape[0] != s[0] || labels.Shape[1] != s[2] || labels.Shape[2] != s[3] {
		return nil, fmt.Errorf(`needs a tensor "labels" of type U8 and shape [%d,%d,%d]`, s[0], s[2], s[3])
	}
	if s[1] != channels {
		return nil, fmt.Errorf("images have %d channels, the network takes %d", s[1], channels)
	}
	if images.Len() == 0 {
		return nil, fmt.Errorf("holds no images: shape %v", s)
	}
	return &dataset{f, s[0], s[1], s[2], s[3]}, nil
}

// sample reads image and labels under a symmetry of the square. image and label
// hold c·h·w and h·w values; scratch is lent by the caller.
func (d *dataset) sample(s backend.Sample, classes int, image []float32, label []uint8, scratch *scratch) error {
	where := func() string { return fmt.Sprintf("dataset %q, image %d", s.Dataset, s.Index) }
	if s.Index < 0 || s.Index >= d.n {
		return fmt.Errorf("%s: the dataset has %d images", where(), d.n)
	}
	if s.Dihedral > 7 {
		return fmt.Errorf("%s: dihedral operation %d is not one of 0 to 7", where(), s.Dihedral)
	}
	if s.Dihedral != 0 && d.h != d.w {
		return fmt.Errorf("%s: dihedral operation %d needs square images, not %d×%d", where(), s.Dihedral, d.h, d.w)
	}
	pixels := d.h * d.w
	rawImage, rawLabel := image, label
	if s.Dihedral != 0 {
		rawImage, rawLabel = scratch.get(d.c*pixels, pixels)
	}
	if err := d.file.ReadFloat32("images", s.Index*d.c*pixels, rawImage); err != nil {
		return fmt.Errorf("%s: %w", where(), err)
	}
	if err := d.file.ReadUint8("labels", s.Index*pixels, rawLabel); err != nil {
		return fmt.Errorf("%s: %w", where(), err)
	}
	for i, v := range rawImage {
		if v-v != 0 { // infinite or not a number
			return fmt.Errorf("%s: value %g at pixel (%d, %d)", where(), v, i%pixels/d.w, i%d.w)
		}
	}
	for i, l := range rawLabel {
		if int(l) >= classes {
			return fmt.Errorf("%s: label %d at pixel (%d, %d), the network has %d classes", where(), l, i/d.w, i%d.w, classes)
		}
	}
	if s.Dihedral == 0 {
		return nil
	}
	// A symmetry is affine in (y, x): three points give its source's start and steps.
	n := d.h
	at := func(y, x int) int { y, x = backend.Dihedral(s.Dihedral, n, y, x); return y*n + x }
	start, down, right := at(0, 0), at(1, 0)-at(0, 0), at(0, 1)-at(0, 0)
	for y := range n {
		for x, from := 0, start+y*down; x < n; x, from = x+1, from+right {
			label[y*n+x] = rawLabel[from]
			for c := range d.c {
				image[c*pixels+y*n+x] = rawImage[c*pixels+from]
			}
		}
	}
	return nil
}

// scratch is memory for one untransformed sample.
type scratch struct {
	image []float32
	label []uint8
}

func (s *scratch) get(floats, bytes int) ([]float32, []uint8) {
	if len(s.image) < floats {
		s.image = make([]float32, floats)
	}
	if len(s.label) < bytes {
		s.label = make([]uint8, bytes)
	}
	return s.image[:floats], s.label[:bytes]
}
