package engine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// dataset reads one sample at a time from a safetensors file.
type dataset struct {
	file       *safetensors.File
	id         string
	n, c, h, w int
	raw        []byte // a sample's bytes
	image      []float32
}

func openDataset(ctx context.Context, id, path, digest string) (*dataset, error) {
	if err := checkDigest(ctx, path, digest); err != nil {
		return nil, err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	d := &dataset{file: f, id: id}
	if err := d.check(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func (d *dataset) check() error {
	images, ok := d.file.Info("images")
	if !ok || images.DType != safetensors.F32 || len(images.Shape) != 4 {
		return fmt.Errorf(`needs a tensor "images" of F32 [N,C,H,W], has %s %v`, images.DType, images.Shape)
	}
	labels, ok := d.file.Info("labels")
	s := images.Shape
	if !ok || labels.DType != safetensors.U8 || len(labels.Shape) != 3 ||
		labels.Shape[0] != s[0] || labels.Shape[1] != s[2] || labels.Shape[2] != s[3] {
		return fmt.Errorf(`needs a tensor "labels" of U8 [N,H,W] for images %v, has %s %v`, s, labels.DType, labels.Shape)
	}
	d.n, d.c, d.h, d.w = s[0], s[1], s[2], s[3]
	if images.Len() == 0 {
		return fmt.Errorf("holds no images: shape %v", s)
	}
	return nil
}

// checkDigest verifies that the file is the one the host means.
func checkDigest(ctx context.Context, path, digest string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != digest {
		return fmt.Errorf("%s has SHA-256 %s, not %q: it has changed or is another file", path, got, digest)
	}
	return nil
}

// reader stops reading when its context is done.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// read puts a sample, transformed, into image [C,H,W] and labels [H,W].
func read[T float32 | float64](d *dataset, s backend.Sample, classes int, image []T, labels []uint8) error {
	if s.Index < 0 || s.Index >= d.n {
		return fmt.Errorf("sample %d: the dataset has %d", s.Index, d.n)
	}
	if s.Dihedral > 7 {
		return fmt.Errorf("sample %d: dihedral %d, must be from 0 to 7", s.Index, s.Dihedral)
	}
	if s.Dihedral != 0 && d.h != d.w {
		return fmt.Errorf("sample %d: dihedral %d of an image of %d×%d, which is not square", s.Index, s.Dihedral, d.h, d.w)
	}
	area := d.h * d.w
	n := d.c * area
	d.raw, d.image = resized(d.raw, 4*n), resized(d.image, n)
	if err := d.file.ReadRaw("images", safetensors.F32, s.Index*n, d.raw); err != nil {
		return fmt.Errorf("sample %d: %w", s.Index, err)
	}
	for i := range d.image {
		x := math.Float32frombits(binary.LittleEndian.Uint32(d.raw[4*i:]))
		if x-x != 0 { // infinite or NaN
			return fmt.Errorf("sample %d: value %v at row %d, column %d", s.Index, x, i%area/d.w, i%d.w)
		}
		d.image[i] = x
	}
	for c := range d.c {
		transform(s.Dihedral, d.h, d.w, image[c*area:][:area], d.image[c*area:][:area])
	}
	if err := d.file.ReadRaw("labels", safetensors.U8, s.Index*area, d.raw[:area]); err != nil {
		return fmt.Errorf("sample %d: %w", s.Index, err)
	}
	for i, l := range d.raw[:area] {
		if int(l) >= classes {
			return fmt.Errorf("sample %d: label %d at row %d, column %d; the network has %d classes", s.Index, l, i/d.w, i%d.w, classes)
		}
	}
	transform(s.Dihedral, d.h, d.w, labels, d.raw[:area])
	return nil
}

// transform applies a symmetry of the square to one plane.
func transform[D, S float32 | float64 | uint8](op uint8, h, w int, dst []D, src []S) {
	if op == 0 {
		for i, v := range src {
			dst[i] = D(v)
		}
		return
	}
	// The map of coordinates is affine: its values at three pixels give it.
	at := func(y, x int) int {
		y, x = backend.Dihedral(op, w, y, x)
		return y*w + x
	}
	o := at(0, 0)
	dy, dx := 0, 0
	if w > 1 {
		dy, dx = at(1, 0)-o, at(0, 1)-o
	}
	for y := range h {
		row, i := dst[y*w:][:w], o+y*dy
		for x := range row {
			row[x] = D(src[i])
			i += dx
		}
	}
}

// resized returns a slice of n elements with unspecified contents, reusing s.
func resized[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
