package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
)

// The address of a set of one stack each, in order, is that of earlier releases.
func TestImportKeepsItsDigests(t *testing.T) {
	images, masks := writeNPY(t, "i.npy", 5, 16, 16, texture), labelsOf(t, 5, 16, 0, 1)
	r, err := importFiles(t.Context(), t.TempDir(), images, masks, ImportOptions{Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	sum := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s := sha256.Sum256(b)
		return hex.EncodeToString(s[:])
	}
	want := sha256.Sum256(fmt.Appendf(nil, `{"format":1,"own":{"images":{"sha256":"%s"},"labels":{"sha256":"%s"},"first":4,"values":[0,1]},"count":1,"classes":2,"pixel_size":0}`, sum(images), sum(masks)))
	if got := hex.EncodeToString(want[:]); r.Validation.Digest != got {
		t.Errorf("digest %s, want %s", r.Validation.Digest, got)
	}
}

// writePNG writes a mask whose pixel (y, x) is the colour of (x+y) modulo their
// number, as a palette or as colours.
func writePNG(t *testing.T, path string, h, w int, palette bool, colours ...color.Color) {
	t.Helper()
	p := image.NewPaletted(image.Rect(0, 0, w, h), colours)
	for y := range h {
		for x := range w {
			p.SetColorIndex(x, y, uint8((x+y)%len(colours)))
		}
	}
	var m image.Image = p
	if !palette {
		rgb := image.NewNRGBA(p.Rect)
		for y := range h {
			for x := range w {
				rgb.Set(x, y, p.At(x, y))
			}
		}
		m = rgb
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := png.Encode(f, m); err != nil {
		t.Fatal(err)
	}
}

// write moves what writeNPY makes to a path.
func write(t *testing.T, path string, h, w int, value func(i, y, x int) float32) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(writeNPY(t, "x", 1, h, w, value), path); err != nil {
		t.Fatal(err)
	}
}

func TestLabelKinds(t *testing.T) {
	black, white, red, green := color.NRGBA{A: 255}, color.NRGBA{255, 255, 255, 255}, color.NRGBA{255, 0, 0, 255}, color.NRGBA{0, 255, 0, 255}
	const n = 16
	// labels whose pixel (y, x) is of class want[(x+y) modulo their number].
	for _, tt := range []struct {
		name     string
		values   []float32     // of an NPY file, or
		colours  []color.Color // of a PNG file,
		palette  bool
		opt      ImportOptions
		want     []uint8
		errorHas string
	}{
		{name: "instances", values: []float32{0, 1, 2, 700}, opt: ImportOptions{LabelKind: InstanceLabels}, want: []uint8{0, 1, 1, 1}},
		{name: "instances unsaid", values: []float32{0, 1, 2, 3}, errorHas: `label_kind = "instances"`},
		{name: "soft edges", values: []float32{0, 0, 0, 60, 200, 255, 255, 255, 255, 255, 255}, opt: ImportOptions{LabelKind: MaskLabels}, want: []uint8{0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1}},
		{name: "soft edges unsaid", values: []float32{0, 0, 0, 60, 200, 255, 255, 255, 255, 255, 255}, errorHas: `label_kind = "mask"`},
		{name: "fractions", values: []float32{0, 0.25, 0.5, 1}, opt: ImportOptions{LabelKind: MaskLabels}, want: []uint8{0, 0, 1, 1}},
		{name: "fractions unsaid", values: []float32{0, 0.25, 0.5, 1}, errorHas: `label_kind = "mask"`},
		{name: "values", values: []float32{7, 0, 128}, opt: ImportOptions{LabelValues: [][]string{{"0", "7"}, {"128"}}}, want: []uint8{0, 0, 1}},
		{name: "inverted", values: []float32{0, 255, 255}, opt: ImportOptions{LabelValues: [][]string{{"255"}, {"0"}}}, want: []uint8{1, 0, 0}},
		{name: "value missing", values: []float32{0, 7}, opt: ImportOptions{LabelValues: [][]string{{"0"}, {"1"}}}, errorHas: "7 is the value of 50 % of the pixels"},
		{name: "three classes", values: []float32{0, 1, 2}, opt: ImportOptions{Classes: 3}, want: []uint8{0, 1, 2}},
		{name: "void unsaid", values: []float32{0, 1, 255}, errorHas: "void = 255"},
		{name: "void without crop", values: []float32{0, 1, 255}, opt: ImportOptions{Void: "255"}, errorHas: "void pixels"},
		{name: "void of a mask without crop", values: []float32{0, 40, 100, 255}, opt: ImportOptions{LabelKind: MaskLabels, Void: "255"}, errorHas: "void pixels"},
		{name: "void of instances without crop", values: []float32{0, 1, 2, 255}, opt: ImportOptions{LabelKind: InstanceLabels, Void: "255"}, errorHas: "void pixels"},
		{name: "all void", values: []float32{255}, opt: ImportOptions{Void: "255"}, errorHas: "which is void"},
		{name: "red on black", colours: []color.Color{black, red}, want: []uint8{0, 1}},
		{name: "palette with colours", colours: []color.Color{black, red, green}, palette: true, opt: ImportOptions{Classes: 3}, want: []uint8{0, 1, 2}},
		{name: "inverting palette", colours: []color.Color{white, black}, palette: true, want: []uint8{1, 0}},
		{name: "colours", colours: []color.Color{green, black, red}, opt: ImportOptions{Classes: 3, LabelValues: [][]string{{"#000000"}, {"#ff0000"}, {"#00FF00"}}}, want: []uint8{2, 0, 1}},
		{name: "colours unsaid", colours: []color.Color{black, red, green}, errorHas: "#00ff00"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var images, labels []string
			for i := range 3 {
				x := filepath.Join(dir, fmt.Sprintf("img%d.npy", i))
				write(t, x, n, n, func(_, y, x int) float32 { return texture(i, y, x) })
				y := filepath.Join(dir, fmt.Sprintf("mask%d.npy", i))
				if tt.colours != nil {
					y += ".png"
					writePNG(t, y, n, n, tt.palette, tt.colours...)
				} else {
					write(t, y, n, n, func(_, y, x int) float32 { return tt.values[(x+y)%len(tt.values)] })
				}
				images, labels = append(images, x), append(labels, y)
			}
			if tt.opt.Classes == 0 {
				tt.opt.Classes = 2
			}
			r, err := Import(t.Context(), t.TempDir(), images, labels, tt.opt)
			if tt.errorHas != "" {
				if err == nil || !strings.Contains(err.Error(), tt.errorHas) {
					t.Fatalf("%v, want %q", err, tt.errorHas)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			m, err := r.Train.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			got := make([]uint8, n*n)
			if err := m.Label(0, got); err != nil {
				t.Fatal(err)
			}
			for p, c := range got {
				if want := tt.want[(p%n+p/n)%len(tt.want)]; c != want {
					t.Fatalf("pixel %d is of class %d, want %d", p, c, want)
				}
			}
		})
	}
}

// Lists, patterns and folders give the same set, in natural order, whatever else
// lies there; an image without label and a blank one are left out with a word.
func TestImportLists(t *testing.T) {
	dir := t.TempDir()
	for i := range 12 {
		write(t, filepath.Join(dir, "x", fmt.Sprintf("img%d.npy", i)), 16, 16, func(_, y, x int) float32 {
			if i == 3 {
				return 5
			}
			return texture(i, y, x) * float32(1+(x*y+i)%5)
		})
		if i != 7 {
			write(t, filepath.Join(dir, "y", fmt.Sprintf("img%d_mask.npy", i)), 16, 16, func(_, y, x int) float32 { return float32((x + y + i) % 3 / 2) })
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "x", "Thumbs.db"), []byte("stray"), 0o644); err != nil {
		t.Fatal(err)
	}
	var list []string
	for i := range 12 {
		list = append(list, filepath.Join(dir, "x", fmt.Sprintf("img%d.npy", i)))
	}
	var digest string
	for _, images := range [][]string{list, {filepath.Join(dir, "x", "*.npy")}, {filepath.Join(dir, "x")}} {
		var notes []string
		r, err := Import(t.Context(), t.TempDir(), images, []string{filepath.Join(dir, "y")}, ImportOptions{
			Classes: 2, Warn: func(f string, a ...any) { notes = append(notes, fmt.Sprintf(f, a...)) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if digest == "" {
			digest = r.Train.Digest
		}
		all := strings.Join(notes, "\n")
		if r.Train.Digest != digest || r.Statistics.Images != 10 || r.Statistics.LeftOut != 2 ||
			!strings.Contains(all, "img7.npy has no label") || !strings.Contains(all, "img3.npy: every pixel has the value 5") {
			t.Errorf("%v: %+v\n%s", images, r.Statistics, all)
		}
		// The last ones validate: in natural order 10 and 11.
		m, err := ReadManifest(filepath.Dir(filepath.Dir(filepath.Dir(r.Validation.Path))), r.Validation.Digest)
		if err != nil || m.Own.First != 10 {
			t.Errorf("validation begins with %+v, %v", m.Own, err)
		}
	}
	if got, want := cover(100, 64, 64), [][2]int{{0, 0}, {36, 0}}; !slices.Equal(got, want) {
		t.Errorf("cover: %v, want %v", got, want)
	}
}

// Images of several sizes, with void pixels: patches for validation cover them,
// those to train on lie anywhere, are parts of the images and free of the void, and
// depend on nothing but seed, purpose, epoch and number.
func TestImportCrops(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	sizes := [][2]int{{40, 56}, {32, 32}, {70, 33}, {48, 48}}
	for i, s := range sizes {
		write(t, filepath.Join(dir, "x", fmt.Sprintf("%d.npy", i)), s[0], s[1], func(_, y, x int) float32 { return float32(1000*i + 37*y + x*x) })
		write(t, filepath.Join(dir, "y", fmt.Sprintf("%d.npy", i)), s[0], s[1], func(_, y, x int) float32 {
			if i == 0 && y < 3 && x > 50 {
				return 255
			}
			return float32((y/5 + x/7) % 2)
		})
	}
	o := ImportOptions{Crop: 32, Classes: 2, Void: "255", ValidationImages: 1}
	images, labels := []string{filepath.Join(dir, "x")}, []string{filepath.Join(dir, "y")}
	r, err := Import(t.Context(), root, images, labels, o)
	if err != nil {
		t.Fatal(err)
	}
	// 2·2 less one with void, 1, 3·2; 2·2.
	if r.Train.Count != 3+1+6 || r.Validation.Count != 4 || r.Train.Height != 32 || r.Statistics.Void == 0 {
		t.Fatalf("%+v", r)
	}
	train, validation, side, err := Sizes(images, o)
	if err != nil || train != 11 || validation != 4 || side != 32 { // headers do not tell of the void
		t.Errorf("sizes %d, %d, %d, %v", train, validation, side, err)
	}
	p, err := r.Train.Patches()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	places := map[string]bool{}
	for epoch := range 8 {
		indices := []int{0, 2, 3, 9}
		path := filepath.Join(dir, "patches")
		first, err := p.Write(t.Context(), path, indices, 5, "crop", epoch)
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.Write(t.Context(), path, indices, 5, "crop", epoch)
		if err != nil || again.SHA256 != first.SHA256 {
			t.Fatalf("epoch %d: written again, %v, %v", epoch, again, err)
		}
		set, err := Ready{Path: path, SHA256: first.SHA256, Count: 4, Height: 32, Width: 32}.Open()
		if err != nil {
			t.Fatal(err)
		}
		x, y := make([]float32, 1024), make([]uint8, 1024)
		for k, i := range indices {
			if err := set.Image(k, x); err != nil {
				t.Fatal(err)
			}
			if err := set.Label(k, y); err != nil {
				t.Fatal(err)
			}
			if slices.Contains(y, Void) {
				t.Error("a patch with void pixels")
			}
			image := []int{0, 0, 0, 1, 2, 2, 2, 2, 2, 2}[i]
			h, w := sizes[image][0], sizes[image][1]
			whole, err := p.f.Float32(fmt.Sprintf("image %d", image))
			if err != nil {
				t.Fatal(err)
			}
			found := ""
			square := make([]float32, 1024)
			for at := range (h - 31) * (w - 31) {
				cy, cx := at/(w-31), at%(w-31)
				if cut(square, whole, w, cy, cx, 32); slices.Equal(square, x) {
					found = fmt.Sprint(image, cy, cx)
					for q, c := range y {
						if want := uint8(((cy+q/32)/5 + (cx+q%32)/7) % 2); c != want {
							t.Fatalf("patch at %s: label %d at %d, want %d", found, c, q, want)
						}
					}
				}
			}
			if found == "" {
				t.Fatalf("epoch %d: patch %d is no part of image %d", epoch, i, image)
			}
			places[found] = true
		}
		set.Close()
	}
	if len(places) < 16 { // of 8·3 + 1 that may coincide
		t.Errorf("patches lie at %d places only", len(places))
	}
	if err := damageOf(root, r.Train.Digest); err != nil {
		t.Error(err)
	}
	for _, tt := range []struct {
		crop int
		want string
	}{{0, "crop"}, {48, "fewer than crop = 48"}} {
		if _, err := Import(t.Context(), root, images, labels, ImportOptions{Crop: tt.crop, Classes: 2, Void: "255"}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("crop %d: %v", tt.crop, err)
		}
	}
}

// Void pixels of masks, instances and COCO's crowds are left out of patches, and do
// not count as the greatest value of a mask.
func TestVoid(t *testing.T) {
	const h, w = 32, 64 // void on the right half
	for _, tt := range []struct {
		name  string
		opt   ImportOptions
		value func(y, x int) float32
	}{
		{"mask", ImportOptions{LabelKind: MaskLabels, Void: "255"}, func(y, x int) float32 { return 100 * float32(x/8%2) }},
		{"instances", ImportOptions{LabelKind: InstanceLabels, Void: "255"}, func(y, x int) float32 { return float32(x / 8) }},
		{"classes", ImportOptions{Void: "255"}, func(y, x int) float32 { return float32(x / 8 % 2) }},
		{"COCO", ImportOptions{}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			var images, labels []string
			coco := `{"images": [`
			shapes := `"annotations": [`
			for i := range 2 {
				x := filepath.Join(dir, fmt.Sprintf("img%d.npy", i))
				write(t, x, h, w, func(_, y, x int) float32 { return texture(i, y, x) })
				images = append(images, x)
				if tt.value != nil {
					y := filepath.Join(dir, fmt.Sprintf("mask%d.npy", i))
					write(t, y, h, w, func(_, y, x int) float32 {
						if x >= w/2 {
							return 255
						}
						return tt.value(y, x)
					})
					labels = append(labels, y)
				}
				comma := map[int]string{0: ","}[i]
				coco += fmt.Sprintf(`{"id": %d, "file_name": "img%d.npy"}%s`, i, i, comma)
				for _, box := range [][2]int{{8, 16}, {24, 32}} {
					shapes += fmt.Sprintf(`{"image_id": %d, "category_id": 1, "segmentation": [[%d, 0, %d, 0, %d, 32, %d, 32]]},`, i, box[0], box[1], box[1], box[0])
				}
				shapes += fmt.Sprintf(`{"image_id": %d, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [32, 64], "counts": [1024, 1024]}}%s`, i, comma)
			}
			if tt.value == nil {
				y := filepath.Join(dir, "coco.json")
				if err := os.WriteFile(y, []byte(coco+`], "categories": [{"id": 1, "name": "particle"}], `+shapes+"]}"), 0o666); err != nil {
					t.Fatal(err)
				}
				labels = []string{y}
			}
			tt.opt.Classes = 2
			if _, err := Import(t.Context(), t.TempDir(), images, labels, tt.opt); err == nil || !strings.Contains(err.Error(), "crop") {
				t.Errorf("without crop: error %v", err)
			}
			tt.opt.Crop = 32
			r, err := Import(t.Context(), t.TempDir(), images, labels, tt.opt)
			if err != nil {
				t.Fatal(err)
			}
			if r.Train.Count != 1 || r.Statistics.Void != 0.5 {
				t.Fatalf("%+v", r)
			}
			m, err := r.Train.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			got := make([]uint8, 32*32)
			if err := m.Label(0, got); err != nil {
				t.Fatal(err)
			}
			for p, c := range got {
				want := uint8(p % 32 / 8 % 2)
				if tt.name == "instances" {
					want = min(1, uint8(p%32/8))
				}
				if c != want {
					t.Fatalf("pixel %d is of class %d, want %d", p, c, want)
				}
			}
		})
	}
}

// Images of several pixel sizes are brought to one, with their labels: that asked
// for, or the first.
func TestImportResamples(t *testing.T) {
	dir := t.TempDir()
	var images, labels []string
	sizes := []struct {
		n     int
		pixel float64
	}{{64, 0.2}, {32, 0.4}, {32, 0.404}, {48, 0}}
	for i, s := range sizes {
		pixels := make([]float32, s.n*s.n)
		for p := range pixels {
			pixels[p] = texture(i, p/s.n, p%s.n)
		}
		x := filepath.Join(dir, fmt.Sprintf("img%d.tif", i))
		f, err := os.Create(x)
		if err != nil {
			t.Fatal(err)
		}
		if err := imagefile.WriteTIFF(f, s.n, s.n, s.pixel, pixels); err != nil {
			t.Fatal(err)
		}
		f.Close()
		y := filepath.Join(dir, fmt.Sprintf("mask%d.npy", i))
		write(t, y, s.n, s.n, func(_, y, x int) float32 { return float32(4 * x / s.n % 2) })
		images, labels = append(images, x), append(labels, y)
	}
	for _, tt := range []struct {
		resample float64
		size     float64
		sides    []int
	}{{0, 0.2, []int{64, 64, 65, 48}}, {0.4, 0.4, []int{32, 32, 32, 48}}} {
		var said []string
		r, err := Import(t.Context(), t.TempDir(), images, labels, ImportOptions{Crop: 16, Classes: 2, Resample: tt.resample, ValidationImages: 1,
			Warn: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }})
		if err != nil {
			t.Fatal(err)
		}
		if r.Train.PixelSize != tt.size || r.Statistics.PixelSize != tt.size {
			t.Errorf("to %v Å: the set has pixels of %v, %v Å", tt.size, r.Train.PixelSize, r.Statistics.PixelSize)
		}
		train, _, _, err := Sizes(images, ImportOptions{Crop: 16, Resample: tt.resample, ValidationImages: 1})
		if err != nil || train != r.Train.Count {
			t.Errorf("%d patches planned, %d made (%v)", train, r.Train.Count, err)
		}
		p, err := r.Train.Patches()
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for i, n := range tt.sides[:3] {
			info, _ := p.f.Info(fmt.Sprintf("image %d", i))
			if !slices.Equal(info.Shape, []int{n, n}) {
				t.Errorf("to %v Å: image %d has the shape %v, want %d", tt.size, i, info.Shape, n)
			}
			row := make([]uint8, n)
			if err := p.f.ReadUint8(fmt.Sprintf("label %d", i), 0, row); err != nil {
				t.Fatal(err)
			}
			for x, c := range row { // bands of a quarter; the middle of a pixel tells
				if want := uint8((8*x + 4) / (2 * n) % 2); c != want {
					t.Errorf("to %v Å: image %d, column %d is of class %d, want %d", tt.size, i, x, c, want)
				}
			}
		}
		if text := strings.Join(said, "; "); !strings.Contains(text, "brought to pixels of") {
			t.Errorf("nothing is said: %s", text)
		}
	}
	// Without crop they stay, and it is said.
	var said []string
	_, err := Import(t.Context(), t.TempDir(), images[1:3], labels[1:3], ImportOptions{Classes: 2, Resample: 0.2,
		Warn: func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }})
	if err != nil || !strings.Contains(strings.Join(said, "; "), "0.2 Å") {
		t.Errorf("without crop: %v, error %v", said, err)
	}
}

func TestSplit(t *testing.T) {
	groups := []string{"a", "a", "b", "c", "c", "c", "d", "e"}
	seen := make([]int, len(groups))
	for fold := 1; fold <= 3; fold++ {
		train, validation, err := split(8, groups, ImportOptions{Folds: 3, Fold: fold, Shuffle: true, Seed: 4, Name: "x"})
		if err != nil {
			t.Fatal(err)
		}
		if len(train)+len(validation) != 8 || len(validation) < 2 || len(validation) > 3 {
			t.Errorf("fold %d: %v and %v", fold, train, validation)
		}
		for _, v := range validation {
			seen[v]++
			for _, i := range train {
				if groups[i] == groups[v] {
					t.Errorf("fold %d divides group %s", fold, groups[v])
				}
			}
		}
	}
	if slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
		t.Errorf("images validate %v times", seen)
	}
	train, validation, err := split(8, groups, ImportOptions{ValidationFraction: 0.2})
	if err != nil || !slices.Equal(validation, []int{6, 7}) || len(train) != 6 {
		t.Errorf("%v, %v, %v", train, validation, err)
	}
	a, _, _ := split(100, nil, ImportOptions{Shuffle: true, Seed: 1, Name: "x"})
	b, _, _ := split(100, nil, ImportOptions{Shuffle: true, Seed: 1, Name: "x"})
	c, v, _ := split(100, nil, ImportOptions{Shuffle: true, Seed: 2, Name: "x"})
	both := append(slices.Clone(c), v...)
	slices.Sort(both)
	if !slices.Equal(a, b) || slices.Equal(a, c) || len(slices.Compact(both)) != 100 {
		t.Errorf("shuffled: %v, %v, %v", a, b, c)
	}
	if _, _, err := split(4, []string{"a", "a", "a", "a"}, ImportOptions{}); err == nil {
		t.Error("one group is split")
	}
}

func TestGroupsAndLeaks(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for _, n := range []string{"s1_1", "s2_1", "s1_2", "s2_2", "s1_3"} {
		names = append(names, filepath.Join(dir, n+".npy"))
		write(t, names[len(names)-1], 16, 16, texture)
	}
	x, _, err := openPages(names, false)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	g, err := groupsOf(x, []int{0, 1, 4}, `/(s\d+)_`)
	if want := []string{"s1", "s2", "s1"}; err != nil || !reflect.DeepEqual(g, want) {
		t.Errorf("groups %v, %v", g, err)
	}
	if _, err := groupsOf(x, []int{0}, `(z)`); err == nil || !strings.Contains(err.Error(), "does not match") {
		t.Error(err)
	}
	if s := leak(x, []int{0, 1, 2, 3}, []int{4}); !strings.Contains(s, "s1_") {
		t.Errorf("leak: %q", s)
	}
	if s := leak(x, []int{0, 2, 4}, []int{1, 3}); s != "" {
		t.Errorf("no leak, but %q", s)
	}
}

// A missing and a hot pixel are filled and told, cost the rest of the image nothing
// and make another set.
func TestImportRepairs(t *testing.T) {
	noise := func(i, y, x int) float32 { return float32(1000 + (i*7919+y*104729+x*1299709)%211) }
	damaged := func(i, y, x int) float32 {
		switch {
		case i == 1 && y == 5 && x == 6:
			return float32(math.NaN())
		case i == 1 && y == 20 && x == 9:
			return 30000
		}
		return noise(i, y, x)
	}
	masks := labelsOf(t, 4, 32, 0, 1)
	read := func(value func(i, y, x int) float32) (Imported, []float32, string) {
		var notes []string
		r, err := importFiles(t.Context(), t.TempDir(), writeNPY(t, "i.npy", 4, 32, 32, value), masks, ImportOptions{
			Classes: 2, Warn: func(f string, a ...any) { notes = append(notes, fmt.Sprintf(f, a...)) },
		})
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.Train.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		x := make([]float32, 1024)
		if err := m.Image(1, x); err != nil {
			t.Fatal(err)
		}
		return r, x, strings.Join(notes, "\n")
	}
	clean, want, _ := read(noise)
	r, got, notes := read(damaged)
	if clean.Statistics.Repaired != 0 || r.Statistics.Repaired != 1 || !strings.Contains(notes, "image 1 of") || r.Train.Digest == clean.Train.Digest {
		t.Errorf("%+v, %+v, %q", clean.Statistics, r.Statistics, notes)
	}
	for p := range got {
		// Two of 1024 pixels more or less move the mean by their part of it.
		if p != 5*32+6 && p != 20*32+9 && math.Abs(float64(got[p]-want[p])) > 0.01 {
			t.Fatalf("pixel %d is %g, without the bad ones %g", p, got[p], want[p])
		}
	}
}

// The same files with other arrays are other data.
func TestOwnFileTellsArraysApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.h5")
	if err := os.WriteFile(path, []byte("any"), 0o600); err != nil {
		t.Fatal(err)
	}
	seen := map[OwnFile]string{}
	for _, arrays := range []string{"", "x", "y", "x y", "z y", "y x"} {
		var paths []string
		for _, a := range strings.Split(arrays, " ") {
			paths = append(paths, strings.TrimSuffix(path+":"+a, ":"))
		}
		f, err := ownFile(paths)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := seen[f]; ok {
			t.Errorf("arrays %q are taken for %q", arrays, other)
		}
		seen[f] = arrays
	}
	one, err := ownFile([]string{path + ":x", path + ":x"})
	if err != nil || one.Array != "x" {
		t.Errorf("%+v, %v: want the array's name once", one, err)
	}
}
