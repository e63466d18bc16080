package predict

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/dataset/outline"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/measure"
)

// truth is the labels of one file of images.
type truth interface {
	// at numbers the labelled particles of image i of n, which has h rows and w
	// columns, and marks the pixels to leave out, nil for none.
	at(i, n, h, w int) (particles []int32, void []bool, err error)
	Close() error
}

const cocoExt = ".json"

// isOutlines reports whether a file has outlines for labels.
func isOutlines(path string) bool {
	return slices.Contains([]string{".roi", ".zip", cocoExt}, strings.ToLower(filepath.Ext(path)))
}

// openTruth opens labels of one file of images.
func openTruth(path string, o EvaluateOptions) (truth, error) {
	if !isOutlines(path) {
		st, err := imagefile.Open(path)
		if err != nil {
			return nil, err
		}
		return pixelTruth{st, o}, nil
	}
	if err := o.outlined(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	rois, err := outline.ROIs(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return roiTruth{rois}, nil
}

// outlined refuses options that outlines have no use for.
func (o EvaluateOptions) outlined(path string) error {
	switch {
	case o.Kind != "":
		return fmt.Errorf("%s has an outline for every particle: labels of the kind %q are pixels", path, o.Kind)
	case o.Void != nil:
		return fmt.Errorf("%s has outlines, which have no void value", path)
	}
	return nil
}

// pixelTruth is a label image for every image.
type pixelTruth struct {
	*imagefile.Stack
	o EvaluateOptions
}

func (t pixelTruth) at(i, n, h, w int) ([]int32, []bool, error) {
	if t.N != n || t.H != h || t.W != w {
		return nil, nil, fmt.Errorf("%d images of %s pixels and %d labels of %s: want the same", n, format.Size(h, w), t.N, format.Size(t.H, t.W))
	}
	values := make([]float32, h*w)
	if err := t.At(i, values); err != nil {
		return nil, nil, err
	}
	var void []bool
	if t.o.Void != nil {
		void = make([]bool, h*w)
		low := float32(0) // what void pixels count as until they are left out
		first := slices.IndexFunc(values, func(v float32) bool { return v != float32(*t.o.Void) })
		if first >= 0 {
			low = values[first]
		}
		for i, v := range values {
			if void[i] = v == float32(*t.o.Void); !void[i] {
				low = min(low, v)
			}
		}
		for i, v := range void {
			if v {
				values[i] = low
			}
		}
	}
	particles, err := numbered(h, w, values, t.o.Kind)
	return particles, void, err
}

// numbered numbers the particles of a label image.
func numbered(h, w int, values []float32, kind string) ([]int32, error) {
	low, high := values[0], values[0]
	two := true
	for i, v := range values {
		if v-v != 0 {
			return nil, fmt.Errorf("the label's pixel (%d, %d) is %g", i/w, i%w, v)
		}
		low, high = min(low, v), max(high, v)
	}
	for _, v := range values {
		two = two && (v == low || v == high)
	}
	switch {
	case kind == InstanceLabels:
		out := make([]int32, len(values))
		for i, v := range values {
			if v < 0 || v >= 1<<24 || v != float32(int32(v)) {
				return nil, fmt.Errorf("the label's pixel (%d, %d) is %g: numbered particles are whole numbers below 2²⁴", i/w, i%w, v)
			}
			out[i] = int32(v)
		}
		measure.Renumber(out)
		return out, nil
	case kind == "" && !two:
		return nil, fmt.Errorf("the labels have more than two values, from %g to %g: say whether they are %s or %s, and which value is void", low, high, InstanceLabels, ClassLabels)
	case kind == MaskLabels && !two:
		return nil, fmt.Errorf("the labels have more than two values, from %g to %g, and are no mask", low, high)
	}
	mask := make([]bool, len(values))
	for i, v := range values {
		// a label without a particle is all 0
		mask[i] = v != 0 && (kind == ClassLabels || v > low || low == high)
	}
	out, _ := measure.Components(h, w, mask)
	return out, nil
}

// roiTruth is ImageJ's regions, each a particle.
type roiTruth struct{ rois []outline.ROI }

func (roiTruth) Close() error { return nil }

func (t roiTruth) at(i, n, h, w int) ([]int32, []bool, error) {
	out := make([]int32, h*w)
	for k, r := range t.rois {
		switch {
		case r.Image > n:
			return nil, nil, fmt.Errorf("region %s lies on image %d of %d", r.Name, r.Image, n)
		case r.Image == 0 && n > 1:
			return nil, nil, fmt.Errorf("region %s does not say on which of the %d images it lies: in ImageJ's ROI Manager, do not let regions show on all slices", r.Name, n)
		case r.Image == 0 || r.Image == i+1:
			r.Fill(h, w, func(p int) { out[p] = int32(k + 1) })
		}
	}
	measure.Renumber(out)
	return out, nil, nil
}

// cocoTruth is COCO's annotations of several images.
type cocoTruth struct {
	path string
	*outline.COCO
}

// openCOCO reads annotations, nil where the labels are none.
func openCOCO(labels []Input, o EvaluateOptions) (*cocoTruth, error) {
	i := slices.IndexFunc(labels, func(l Input) bool { return strings.EqualFold(filepath.Ext(l.Path), cocoExt) })
	if i < 0 {
		return nil, nil
	}
	name := labels[i].Path
	if len(labels) > 1 {
		return nil, fmt.Errorf("%s and other labels: want one file of COCO's annotations", name)
	}
	if err := o.outlined(name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := outline.ReadCOCO(f)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return &cocoTruth{name, c}, nil
}

// of finds an image by the name of its file.
func (t *cocoTruth) of(image string) (truth, error) {
	file, _ := imagefile.SplitPath(image)
	stem := func(s string) string { return strings.TrimSuffix(path.Base(s), path.Ext(s)) }
	for _, same := range []func(a, b string) bool{
		func(a, b string) bool { return path.Base(a) == path.Base(b) },
		func(a, b string) bool { return stem(a) == stem(b) },
	} {
		found := -1
		for i, im := range t.Images {
			if same(filepath.ToSlash(im.File), filepath.ToSlash(file)) {
				if found >= 0 {
					return nil, fmt.Errorf("%s has several images of the name %s", t.path, path.Base(im.File))
				}
				found = i
			}
		}
		if found >= 0 {
			return cocoImage{t.Images[found]}, nil
		}
	}
	return nil, fmt.Errorf("%s has no image of the name %s", t.path, filepath.Base(file))
}

type cocoImage struct{ outline.COCOImage }

func (cocoImage) Close() error { return nil }

func (t cocoImage) at(_, n, h, w int) (particles []int32, void []bool, err error) {
	switch {
	case n != 1:
		return nil, nil, errors.New("COCO's annotations are of single images, not of stacks")
	case t.H > 0 && t.W > 0 && (t.H != h || t.W != w):
		return nil, nil, fmt.Errorf("an image of %s pixels, annotated as one of %s", format.Size(h, w), format.Size(t.H, t.W))
	}
	particles = make([]int32, h*w)
	for k, s := range t.Shapes {
		set := func(p int) { particles[p] = int32(k + 1) }
		if s.Crowd {
			if void == nil {
				void = make([]bool, h*w)
			}
			set = func(p int) { void[p] = true }
		}
		if err := s.Fill(h, w, set); err != nil {
			return nil, nil, err
		}
	}
	for i, p := range particles { // single particles lie above crowds
		if p > 0 && void != nil {
			void[i] = false
		}
	}
	measure.Renumber(particles)
	return particles, void, nil
}
