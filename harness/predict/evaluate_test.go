package predict

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
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
		got, err := truthOf(1, 4, c.values, c.kind)
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
