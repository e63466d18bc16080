package dataset

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// writeNPY writes an array of float32 of n images of h×w pixels.
func writeNPY(t *testing.T, path string, n, h, w int, value func(i, y, x int) float32) string {
	t.Helper()
	head := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d, %d), }\n", n, h, w)
	b := []byte("\x93NUMPY\x01\x00")
	b = binary.LittleEndian.AppendUint16(b, uint16(len(head)))
	b = append(b, head...)
	for i := range n {
		for y := range h {
			for x := range w {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(value(i, y, x)))
			}
		}
	}
	path = filepath.Join(t.TempDir(), path)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// importFiles imports one file or folder of each.
func importFiles(ctx context.Context, root, images, labels string, o ImportOptions) (Imported, error) {
	return Import(ctx, root, []string{images}, []string{labels}, o)
}

func texture(i, y, x int) float32 { return float32(100*i + (y*31+x*17)%23) }

// labelsOf writes labels that cycle through the values.
func labelsOf(t *testing.T, n, size int, values ...float32) string {
	return writeNPY(t, "labels.npy", n, size, size, func(i, y, x int) float32 { return values[(i+y+x)%len(values)] })
}

func TestImport(t *testing.T) {
	images := writeNPY(t, "images.npy", 10, 32, 32, texture)
	for _, tt := range []struct {
		name    string
		values  []float32
		classes int // asked for
		want    int
	}{
		{"0 and 1", []float32{0, 1}, 0, 2},
		{"0 and 255", []float32{0, 255}, 0, 2},
		{"0 and 255, said to be two", []float32{0, 255}, 2, 2},
		{"three", []float32{0, 1, 2}, 0, 3},
		{"five, of which three occur", []float32{0, 2, 4}, 5, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			labels := labelsOf(t, 10, 32, tt.values...)
			r, err := importFiles(t.Context(), root, images, labels, ImportOptions{Classes: tt.classes, PixelSize: 0.3})
			if err != nil {
				t.Fatal(err)
			}
			if r.Train.Count != 8 || r.Validation.Count != 2 || r.Train.Classes != tt.want || r.Train.PixelSize != 0.3 {
				t.Errorf("%+v", r)
			}
			class := func(i, y, x int) uint8 {
				v := tt.values[(i+y+x)%len(tt.values)]
				if len(tt.values) == 2 {
					v = min(v, 1)
				}
				return uint8(v)
			}
			for _, part := range []struct {
				Ready
				first int
			}{{r.Train, 0}, {r.Validation, 8}} {
				m, err := part.Open()
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				pixels, label := make([]float32, 1024), make([]uint8, 1024)
				for i := range part.Count {
					if err := errors.Join(m.Image(i, pixels), m.Label(i, label)); err != nil {
						t.Fatal(err)
					}
					var sum, squares float64
					for p, v := range pixels {
						sum += float64(v)
						squares += float64(v) * float64(v)
						if want := class(part.first+i, p/32, p%32); label[p] != want {
							t.Fatalf("image %d, pixel %d: class %d, want %d", i, p, label[p], want)
						}
					}
					// 1024 values rounded to float32.
					if math.Abs(sum/1024) > 1e-6 || math.Abs(squares/1024-1) > 1e-6 {
						t.Errorf("image %d: mean %g, mean square %g", i, sum/1024, squares/1024)
					}
				}
				if err := damageOf(root, part.Digest); err != nil {
					t.Error(err)
				}
			}
			before := contents(t, root)
			again, err := importFiles(t.Context(), root, images, labels, ImportOptions{Classes: tt.classes, PixelSize: 0.3})
			if err != nil || again.Train != r.Train || again.Validation != r.Validation {
				t.Errorf("a second import gives %+v, %v", again, err)
			}
			sameContents(t, contents(t, root), before)
		})
	}
}

func TestImportSplits(t *testing.T) {
	images, labels := writeNPY(t, "i.npy", 10, 16, 16, texture), labelsOf(t, 10, 16, 0, 1)
	for _, tt := range []struct {
		opt               ImportOptions
		train, validation int
	}{
		{ImportOptions{}, 8, 2},
		{ImportOptions{ValidationFraction: 0.01}, 9, 1},
		{ImportOptions{ValidationFraction: 0.99}, 1, 9},
		{ImportOptions{TrainImages: 3}, 3, 7},
		{ImportOptions{ValidationImages: 4}, 6, 4},
		{ImportOptions{TrainImages: 2, ValidationImages: 3}, 2, 3},
		{ImportOptions{TrainImages: 8, ValidationImages: 3}, 0, 0},
		{ImportOptions{TrainImages: 10}, 0, 0},
		{ImportOptions{TrainImages: -1}, 0, 0},
		{ImportOptions{ValidationFraction: math.NaN()}, 0, 0},
		{ImportOptions{ValidationFraction: 1}, 0, 0},
	} {
		r, err := importFiles(t.Context(), t.TempDir(), images, labels, tt.opt)
		if r.Train.Count != tt.train || r.Validation.Count != tt.validation || (tt.train == 0) != (err != nil) {
			t.Errorf("%+v: %d and %d images, %v", tt.opt, r.Train.Count, r.Validation.Count, err)
		}
	}
}

// A set is named by what is in the files, not by what they are called.
func TestImportIsAddressedByContent(t *testing.T) {
	root := t.TempDir()
	digests := map[string]bool{}
	add := func(images, labels string, opt ImportOptions) {
		t.Helper()
		r, err := importFiles(t.Context(), root, images, labels, opt)
		if err != nil {
			t.Fatal(err)
		}
		digests[r.Train.Digest] = true
	}
	images, labels := writeNPY(t, "a.npy", 4, 16, 16, texture), labelsOf(t, 4, 16, 0, 1)
	add(images, labels, ImportOptions{})
	add(writeNPY(t, "b.npy", 4, 16, 16, texture), labelsOf(t, 4, 16, 0, 1), ImportOptions{})
	if len(digests) != 1 {
		t.Error("another name makes another set")
	}
	add(images, labelsOf(t, 4, 16, 1, 0), ImportOptions{})
	add(images, labels, ImportOptions{PixelSize: 2})
	add(images, labels, ImportOptions{TrainImages: 2})
	add(images, labels, ImportOptions{Classes: 3})
	if len(digests) != 5 {
		t.Errorf("%d sets, want 5", len(digests))
	}
}

func TestImportRefuses(t *testing.T) {
	good, labels := writeNPY(t, "good.npy", 4, 32, 32, texture), labelsOf(t, 4, 32, 0, 1)
	for _, tt := range []struct {
		name, images, labels string
		opt                  ImportOptions
		errorHas             []string
	}{
		{"count", good, labelsOf(t, 5, 32, 0, 1), ImportOptions{}, []string{"good.npy holds 4 images", "holds 5 labels"}},
		{"size", good, labelsOf(t, 4, 16, 0, 1), ImportOptions{}, []string{"32×32", "16×16"}},
		{"not square", writeNPY(t, "wide.npy", 4, 16, 32, texture), writeNPY(t, "l.npy", 4, 16, 32, texture), ImportOptions{}, []string{"wide.npy", "square"}},
		{"not a multiple of 16", writeNPY(t, "odd.npy", 4, 40, 40, texture), labelsOf(t, 4, 40, 0, 1), ImportOptions{}, []string{"odd.npy", "multiple of 16", "crop them to 32×32"}},
		{"one image", writeNPY(t, "one.npy", 1, 16, 16, texture), labelsOf(t, 1, 16, 0, 1), ImportOptions{}, []string{"one image"}},
		{"constant", writeNPY(t, "flat.npy", 4, 32, 32, func(int, int, int) float32 { return 0.1 }), labels, ImportOptions{}, []string{"image 0 of", "every pixel has the value"}},
		{"fractions", good, labelsOf(t, 4, 32, 0, 0.5), ImportOptions{}, []string{"label 0 of", "pixel (0, 1) is 0.5", "whole numbers"}},
		{"negative", good, labelsOf(t, 4, 32, 0, -1), ImportOptions{}, []string{"is -1"}},
		{"label NaN", good, labelsOf(t, 4, 32, 0, float32(math.NaN())), ImportOptions{}, []string{"is NaN"}},
		{"one class", good, labelsOf(t, 4, 32, 0), ImportOptions{}, []string{"every pixel is 0"}},
		{"gaps", good, labelsOf(t, 4, 32, 0, 3, 255), ImportOptions{}, []string{"[0 3 255]"}},
		{"too many", good, labelsOf(t, 4, 32, 0, 1, 2), ImportOptions{Classes: 2}, []string{"a pixel is 2", "2 classes"}},
		{"silly number of classes", good, labels, ImportOptions{Classes: 1}, []string{"1 classes"}},
		{"pixel size", good, labels, ImportOptions{PixelSize: -1}, []string{"-1 Å"}},
		{"no file", "absent.npy", labels, ImportOptions{}, []string{"absent.npy"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			_, err := importFiles(t.Context(), root, tt.images, tt.labels, tt.opt)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.errorHas {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
			if sets, _ := Sets(root); len(sets) > 1 { // the training set may be done
				t.Errorf("%d sets were made", len(sets))
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := importFiles(ctx, t.TempDir(), good, labels, ImportOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestImportFolders(t *testing.T) {
	stack, labels := writeNPY(t, "i.npy", 4, 16, 16, texture), labelsOf(t, 4, 16, 0, 1)
	want, err := importFiles(t.Context(), t.TempDir(), stack, labels, ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		image, label string
		ok           bool
	}{
		{"cell%d.npy", "cell%d_mask.npy", true},
		{"img_%03d.npy", "mask_%03d.npy", true},
		{"a%d.npy", "b%d0.npy", false},
	} {
		images, masks := t.TempDir(), t.TempDir()
		for i := range 4 {
			one := writeNPY(t, "x", 1, 16, 16, func(_, y, x int) float32 { return texture(i, y, x) })
			mask := writeNPY(t, "x", 1, 16, 16, func(_, y, x int) float32 { return float32((i + y + x) % 2) })
			if err := errors.Join(
				os.Rename(one, filepath.Join(images, fmt.Sprintf(tt.image, i+1))),
				os.Rename(mask, filepath.Join(masks, fmt.Sprintf(tt.label, i+1)))); err != nil {
				t.Fatal(err)
			}
		}
		r, err := importFiles(t.Context(), t.TempDir(), images, masks, ImportOptions{})
		if (err == nil) != tt.ok {
			t.Errorf("%s and %s: %v", tt.image, tt.label, err)
		}
		if err == nil && !slices.Equal(readImages(t, r.Train), readImages(t, want.Train)) {
			t.Errorf("%s: the images differ from those of one file", tt.image)
		}
	}
}

// The same as a user would write it in NumPy, from files that NumPy, tifffile and
// h5py wrote.
func TestImportAgainstNumPy(t *testing.T) {
	python := peers.Python(t, "numpy", "tifffile", "h5py")
	dir := t.TempDir()
	const code = `
import sys, numpy, tifffile, h5py
numpy.random.seed(1)
a = numpy.random.poisson(6, (5, 32, 32)).astype("u2")
l = (numpy.random.rand(5, 32, 32) > 0.7)
numpy.save("a.npy", numpy.asfortranarray(a.astype(">f8")))
tifffile.imwrite("a.tif", a, photometric="minisblack")
with h5py.File("a.h5", "w") as f: f.create_dataset("x", data=a, chunks=(2, 32, 32), compression="gzip")
numpy.save("l.npy", l)
tifffile.imwrite("l.tif", l.astype("u1") * 255, photometric="minisblack")
with h5py.File("l.h5", "w") as f: f["x"] = l
a = a.astype("f8")
a = (a - a.mean((1, 2), keepdims=True)) / a.std((1, 2), keepdims=True)
a[:4].astype("<f4").tofile("want")
l[:4].astype("u1").tofile("want.labels")
`
	cmd := exec.Command(python, "-c", code)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	want, wantLabels := file("want"), file("want.labels")
	for _, ext := range []string{".npy", ".tif", ".h5"} {
		r, err := importFiles(t.Context(), t.TempDir(), filepath.Join(dir, "a"+ext), filepath.Join(dir, "l"+ext), ImportOptions{})
		if err != nil {
			t.Errorf("%s: %v", ext, err)
			continue
		}
		m, err := r.Train.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		pixels, label := make([]float32, 1024), make([]uint8, 1024)
		for i := range r.Train.Count {
			if err := errors.Join(m.Image(i, pixels), m.Label(i, label)); err != nil {
				t.Fatal(err)
			}
			for p, v := range pixels {
				k := i*1024 + p
				w := math.Float32frombits(binary.LittleEndian.Uint32(want[4*k:]))
				// NumPy sums in another order: a rounding of float32 at most.
				if math.Abs(float64(v-w)) > 1e-6 || label[p] != wantLabels[k] {
					t.Fatalf("%s: image %d, pixel %d: %v of class %d, NumPy has %v of class %d", ext, i, p, v, label[p], w, wantLabels[k])
				}
			}
		}
	}
}
