package predict

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/measure"
)

func TestCompare(t *testing.T) {
	labels := func(rows ...string) (out []int32) {
		for _, r := range rows {
			for _, c := range r {
				out = append(out, int32(max(0, c-'0')))
			}
		}
		return out
	}
	// one is found a column too wide, one not at all, one where none is
	truth := labels(
		".........",
		".11...22.",
		".11...22.",
		".........",
		".........")
	found := labels(
		".........",
		".111.....",
		".111.....",
		".........",
		"......22.")
	c := compare(5, 9, found, truth)
	if c.both != 4 || c.found != 8 || c.truth != 8 || c.nFound != 2 || c.nTruth != 2 || c.nMatched != 1 {
		t.Errorf("%+v", c)
	}
	if want := math.Sqrt(6.0/4) - 1; math.Abs(c.error-want) > 1e-12 || c.absolute != c.error {
		t.Errorf("error of the diameter %g, want %g", c.error, want)
	}
	// every pixel is border. Found to truth: of 6 pixels 4 are on it and 2 a pixel
	// away, two are 2 away; truth to found: 4 on it, 4 of the second particle: 2 in
	// row 1 are 3 away, 2 in row 2 are 2.
	if want := (2*1 + 2*2 + 2*3 + 2*2) / 16.0; math.Abs(c.boundary-want) > 1e-12 {
		t.Errorf("boundary distance %g, want %g", c.boundary, want)
	}
	s := score("one", []counts{c})
	for name, x := range map[string]struct {
		got  Stat
		want float64
	}{"dice": {s.Dice, 0.5}, "iou": {s.IoU, 1. / 3}, "precision": {s.Precision, 0.5}, "recall": {s.Recall, 0.5}} {
		if x.got.Value == nil || math.Abs(*x.got.Value-x.want) > 1e-12 || x.got.Interval != nil {
			t.Errorf("%s %v, want %g without an interval", name, x.got, x.want)
		}
	}
	if s.BoundaryNM.Value != nil {
		t.Error("a distance in nm without a pixel size")
	}
	empty := score("empty", []counts{compare(5, 9, make([]int32, 45), make([]int32, 45))})
	if empty.Dice.Value != nil || empty.Precision.Value != nil {
		t.Errorf("nothing found where nothing is: %+v", empty)
	}
}

func TestTruth(t *testing.T) {
	for _, c := range []struct {
		values []float32
		kind   string
		want   string // of an error, or the labels
	}{
		{[]float32{0, 255, 0, 255}, "", "[0 1 0 2]"},
		{[]float32{0, 0, 0, 0}, "", "[0 0 0 0]"},
		{[]float32{0, 1, 2, 0}, "", "more than two"},
		{[]float32{0, 1, 2, 0}, MaskLabels, "no mask"},
		{[]float32{0, 1, 2, 0}, ClassLabels, "[0 1 1 0]"},
		{[]float32{0, 7, 3, 0}, InstanceLabels, "[0 1 2 0]"},
		{[]float32{0, 0.5, 3, 0}, InstanceLabels, "whole numbers"},
	} {
		got, err := numbered(1, 4, c.values, c.kind)
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, c.want) {
			t.Errorf("%v as %q: %s, want %s", c.values, c.kind, text, c.want)
		}
	}
}

func TestEvaluate(t *testing.T) {
	m, run := trained(t)
	dir := t.TempDir()
	const h, w = 90, 130
	for i, group := range []string{"a", "a", "b"} {
		im, truth := discs(h+16*i, w)
		label := make([]float32, len(truth))
		for k, v := range truth {
			label[k] = 255 * float32(v)
		}
		name := string(rune('1'+i)) + ".tif"
		write(t, filepath.Join(dir, group, name), func(out io.Writer) error { return imagefile.WriteTIFF(out, im.H, im.W, 0.2, im.Pixels) })
		write(t, filepath.Join(dir, "labels", name), func(out io.Writer) error { return imagefile.WriteTIFF(out, im.H, im.W, 0, label) })
	}
	out := filepath.Join(dir, "out")
	e, err := m.Evaluate(context.Background(), []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, []string{filepath.Join(dir, "labels")}, out, run,
		EvaluateOptions{Options: Options{ParticleOptions: ParticleOptions{MinArea: 12}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Images) != 3 || len(e.Groups) != 2 || e.Groups[0].Images != 2 || e.All.Images != 3 {
		t.Fatalf("%d images, %d groups", len(e.Images), len(e.Groups))
	}
	a := e.All
	if *a.Dice.Value < 0.85 || *a.Recall.Value < 0.8 || *a.Precision.Value < 0.8 || !(*a.BoundaryPX.Value < 3) || math.Abs(*a.SizeError.Value) > 0.3 {
		t.Errorf("the test network on its own images: %+v", a)
	}
	if math.Abs(*a.BoundaryNM.Value-0.02**a.BoundaryPX.Value) > 1e-6 {
		t.Errorf("boundary %g nm and %g pixels of 0.02 nm", *a.BoundaryNM.Value, *a.BoundaryPX.Value)
	}
	if i := a.Dice.Interval; i == nil || !(i[0] <= *a.Dice.Value && *a.Dice.Value <= i[1]) {
		t.Errorf("Dice %v", a.Dice)
	}
	if e.Images[0].Dice.Interval != nil {
		t.Error("one image has an interval")
	}
	for _, f := range []string{"evaluation.csv", "evaluation.json", "evaluation.html"} {
		if b, err := os.ReadFile(filepath.Join(out, f)); err != nil || !strings.Contains(string(b), "all") {
			t.Errorf("%s: %v", f, err)
		}
	}
	if _, err := m.Evaluate(context.Background(), []string{filepath.Join(dir, "a")}, []string{filepath.Join(dir, "labels")}, "", run, EvaluateOptions{}); err == nil || !strings.Contains(err.Error(), "want as many") {
		t.Errorf("two images and three labels: %v", err)
	}
}

// Regions of ImageJ and COCO's annotations give the scores of the masks that they
// outline; void pixels, and crowds, count on neither side.
func TestEvaluateOutlines(t *testing.T) {
	m, run := trained(t)
	dir := t.TempDir()
	const w = 130
	var images, masks, voids, rois []string
	coco := map[string]any{"categories": []any{map[string]any{"id": 7, "name": "disc"}}}
	var cocoImages, shapes, crowds []any
	for i := range 2 {
		im, truth := discs(90+16*i, w)
		file := func(name string) string { return filepath.Join(dir, fmt.Sprintf("%d%s", i, name)) }
		labels, n := measure.Components(im.H, w, func() []bool {
			mask := make([]bool, len(truth))
			for k, v := range truth {
				mask[k] = v > 0
			}
			return mask
		}())
		var outlines []measure.Named
		regions := measure.Regions(im.H, w, labels, n)
		for k := range regions {
			l := int32(k + 1)
			outlines = append(outlines, measure.Named{Name: fmt.Sprint(l), Outline: measure.Outline(im.H, w, labels, l, &regions[k])})
			shapes = append(shapes, map[string]any{"image_id": i, "category_id": 7, "segmentation": map[string]any{"size": []int{im.H, w}, "counts": runs(im.H, w, func(p int) bool { return labels[p] == l })}})
		}
		left := func(p int) bool { return p%w < 60 }
		crowds = append(crowds, map[string]any{"image_id": i, "category_id": 7, "iscrowd": 1, "segmentation": map[string]any{"size": []int{im.H, w}, "counts": runs(im.H, w, left)}})
		mask, void := make([]float32, len(truth)), make([]float32, len(truth))
		for p, v := range truth {
			mask[p], void[p] = 255*float32(v), 255*float32(v)
			if left(p) && v == 0 { // a crowd lies below what is outlined
				void[p] = 9
			}
		}
		write(t, file(".tif"), func(out io.Writer) error { return imagefile.WriteTIFF(out, im.H, w, 0.2, im.Pixels) })
		write(t, file("-mask.tif"), func(out io.Writer) error { return imagefile.WriteTIFF(out, im.H, w, 0, mask) })
		write(t, file("-void.tif"), func(out io.Writer) error { return imagefile.WriteTIFF(out, im.H, w, 0, void) })
		write(t, file("-rois.zip"), func(out io.Writer) error { return measure.WriteROI(out, outlines) })
		images, masks, voids, rois = append(images, file(".tif")), append(masks, file("-mask.tif")), append(voids, file("-void.tif")), append(rois, file("-rois.zip"))
		cocoImages = append(cocoImages, map[string]any{"id": i, "file_name": fmt.Sprintf("folder/%d.png", i)})
	}
	annotated := func(name string, shapes []any) []string {
		coco["images"], coco["annotations"] = cocoImages, shapes
		path := filepath.Join(dir, name)
		write(t, path, func(out io.Writer) error { return json.NewEncoder(out).Encode(coco) })
		return []string{path}
	}
	o := EvaluateOptions{Options: Options{ParticleOptions: ParticleOptions{MinArea: 12}}}
	evaluate := func(labels []string, o EvaluateOptions) Score {
		t.Helper()
		e, err := m.Evaluate(t.Context(), images, labels, "", run, o)
		if err != nil {
			t.Fatal(err)
		}
		return e.All
	}
	same := func(name string, got, want Score) {
		t.Helper()
		if got.Labelled != want.Labelled || got.Found != want.Found || got.Matched != want.Matched || *got.Dice.Value != *want.Dice.Value || *got.BoundaryPX.Value != *want.BoundaryPX.Value {
			t.Errorf("%s: %+v, masks %+v", name, got, want)
		}
	}
	of := evaluate(masks, o)
	same("regions of ImageJ", evaluate(rois, o), of)
	same("COCO", evaluate(annotated("coco.json", shapes), o), of)
	nine := 9
	void := o
	void.Void = &nine
	without := evaluate(voids, void)
	if *without.Dice.Value == *of.Dice.Value || without.Found > of.Found {
		t.Errorf("with void pixels %+v, without %+v", without, of)
	}
	same("COCO's crowds", evaluate(annotated("crowds.json", append(shapes, crowds...)), o), without)
	for _, c := range []struct {
		labels []string
		o      EvaluateOptions
		want   string
	}{
		{voids, o, "which value is void"},
		{rois[:1], o, "want as many"},
		{rois, void, "no void value"},
		{rois, EvaluateOptions{Kind: MaskLabels}, "are pixels"},
		{append(annotated("coco.json", shapes), masks[0]), o, "one file of COCO"},
		{[]string{rois[0], filepath.Join(dir, "nothing.zip")}, o, "nothing.zip"},
	} {
		if _, err := m.Evaluate(t.Context(), images, c.labels, "", run, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: error %v, want %q", c.labels, err, c.want)
		}
	}
	cocoImages = cocoImages[:1]
	if _, err := m.Evaluate(t.Context(), images, annotated("one.json", shapes[:1]), "", run, o); err == nil || !strings.Contains(err.Error(), "no image of the name 1.tif") {
		t.Errorf("an image without annotations: %v", err)
	}
}

// runs are COCO's lengths of pixels outside and inside by turns, down the columns.
func runs(h, w int, inside func(p int) bool) []int {
	all := []int{0}
	now := false
	for x := range w {
		for y := range h {
			if inside(y*w+x) != now {
				now = !now
				all = append(all, 0)
			}
			all[len(all)-1]++
		}
	}
	return all
}

// Images and labels that names tell apart are not compared with each other's.
func TestPaired(t *testing.T) {
	inputs := func(paths ...string) (in []Input) {
		for _, p := range paths {
			in = append(in, Input{Path: p})
		}
		return in
	}
	for _, c := range []struct {
		images, labels []Input
		want           string
	}{
		{inputs("i/a.tif", "i/b.tif"), inputs("l/a.png", "l/b.png"), ""},
		{inputs("i/a.tif", "i/b.tif"), inputs("l/1.png", "l/2.png"), ""},
		{inputs("s1/1.tif", "s2/1.tif"), inputs("l1/1.png", "l2/1.png"), ""},
		{inputs("i/a.tif", "i/c.tif", "i/d.tif"), inputs("l/a.png", "l/b.png", "l/c.png"), "i/c.tif comes with the labels l/b.png, but l/c.png has its name"},
	} {
		err := paired(c.images, c.labels)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.images, err, c.want)
		}
	}
}
