package predict

import (
	"context"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"html/template"
	"io"
	"maps"
	"math"
	"path/filepath"
	"slices"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/measure"
	"github.com/refocus-em/refocus/harness/micrograph"
	"github.com/refocus-em/refocus/harness/report/stats"
)

// Kinds of labels that Evaluate reads.
const (
	MaskLabels     = "mask"      // two values, the smaller one is background
	ClassLabels    = "classes"   // 0 is background, every other value a class of particles
	InstanceLabels = "instances" // 0 is background, every particle has a value of its own
)

// matched is the intersection over union from which on, exclusively, a particle
// found is one of the labels. Above a half, no particle has two partners.
const matched = 0.5

// Score compares what was found with the labels, in an image or in several, whose
// pixels and particles are counted together. What is not defined is null.
type Score struct {
	Name      string `json:"name"`
	Images    int    `json:"images"`
	Labelled  int    `json:"particles_labelled"`
	Found     int    `json:"particles_found"`
	Matched   int    `json:"particles_matched"`
	Dice      Stat   `json:"dice"`
	IoU       Stat   `json:"iou"`
	Precision Stat   `json:"precision"` // of particles
	Recall    Stat   `json:"recall"`    // of particles
	// BoundaryPX is the mean distance of every border pixel to the nearest one of
	// the other's border, both ways, in pixels; Boundary95PX the 95th percentile.
	// Several images count alike.
	BoundaryPX   Stat `json:"boundary_distance_px"`
	Boundary95PX Stat `json:"boundary_distance_95_px"`
	// BoundaryNM is the same in nm, for images whose pixel size is known.
	BoundaryNM Stat `json:"boundary_distance_nm"`
	// SizeError is the mean of the relative error of matched particles' diameters.
	SizeError Stat `json:"relative_diameter_error"`
	// SizeErrorAbsolute is the mean of its absolute value.
	SizeErrorAbsolute Stat `json:"absolute_relative_diameter_error"`
}

// Stat is a value with its 95 % interval, of a bootstrap over images.
type Stat struct {
	Value    *float64    `json:"value"`
	Interval *[2]float64 `json:"interval"`
}

func (s Stat) String() string {
	if s.Value == nil {
		return "–"
	}
	t := format.Digits(*s.Value, 3)
	if s.Interval != nil {
		t += fmt.Sprintf(" [%s, %s]", format.Digits(s.Interval[0], 3), format.Digits(s.Interval[1], 3))
	}
	return t
}

// Evaluation is the scores of images, of the folders they lie in if these are
// several, and of all together.
type Evaluation struct {
	Images []Score  `json:"images"`
	Groups []Score  `json:"groups"`
	All    Score    `json:"all"`
	Notes  []string `json:"notes"`
}

// counts of one image.
type counts struct {
	both, found, truth         float64 // pixels
	nFound, nTruth, nMatched   float64
	error, absolute            float64 // sums over matched particles
	boundary, boundary95, side float64 // NaN if undefined; side of a pixel in nm, 0 if unknown
}

// EvaluateOptions say how labels are read besides how images are segmented.
type EvaluateOptions struct {
	Options
	Kind string // of labels; "": mask, where there are two values
	// Void is the value of labels' pixels that are left out; nil for none.
	Void *int
}

// paired refuses an image that comes with the labels of another, where names tell:
// one that was left out on either side would shift all that follow.
func paired(images, labels []Input) error {
	named := map[string]string{}
	for _, l := range labels {
		named[baseName(l.Path, 0, false)] = l.Path
	}
	for i, x := range images {
		name := baseName(x.Path, 0, false)
		if own, ok := named[name]; ok && baseName(labels[i].Path, 0, false) != name {
			return fmt.Errorf("%s comes with the labels %s, but %s has its name: name both in the same order", x.Path, labels[i].Path, own)
		}
	}
	return nil
}

// Evaluate segments images and compares them with labels of the same sizes, which
// come in the same order: files, folders or patterns, as of Inputs, of pixels or of
// regions of ImageJ; or with one file of COCO's annotations, which names its images.
// It writes evaluation.csv, evaluation.json and evaluation.html to dir.
func (m *Segmenter) Evaluate(ctx context.Context, images, labels []string, dir string, run Run, o EvaluateOptions) (*Evaluation, error) {
	x, err := Inputs(images)
	if err != nil {
		return nil, err
	}
	y, err := Inputs(labels)
	if err != nil {
		return nil, err
	}
	e := &Evaluation{}
	open := func(in []Input) (kept []Input) {
		for _, i := range in {
			var err error
			if !isOutlines(i.Path) {
				var st *imagefile.Stack
				if st, err = imagefile.Open(i.Path); err == nil {
					st.Close()
				}
			}
			if err != nil && i.Found {
				e.Notes = append(e.Notes, fmt.Sprintf("left out %s: %v", i.Path, err))
				continue
			}
			kept = append(kept, i)
		}
		return kept
	}
	x, y = open(x), open(y)
	label := func(i int) (truth, error) { return openTruth(y[i].Path, o) }
	if coco, err := openCOCO(y, o); err != nil {
		return nil, err
	} else if coco != nil {
		label = func(i int) (truth, error) { return coco.of(x[i].Path) }
		y = slices.Repeat(y, len(x))
	} else if len(x) != len(y) {
		return nil, fmt.Errorf("%d files of images and %d of labels: want as many", len(x), len(y))
	} else if err := paired(x, y); err != nil {
		return nil, err
	}
	var all []counts
	var names, groups []string
	for i := range x {
		t, err := label(i)
		if err != nil {
			return nil, err
		}
		c, n, err := m.evaluate(ctx, x[i], t, run, o, &e.Notes)
		t.Close()
		if err != nil {
			return nil, fmt.Errorf("%s with %s: %w", x[i].Path, y[i].Path, err)
		}
		all, names = append(all, c...), append(names, n...)
		for range c {
			groups = append(groups, filepath.Base(filepath.Dir(x[i].Path)))
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no images")
	}
	for i, c := range all {
		e.Images = append(e.Images, score(names[i], []counts{c}))
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(groups)))
	for _, g := range distinct {
		if len(distinct) == 1 {
			break
		}
		var own []counts
		for i, c := range all {
			if groups[i] == g {
				own = append(own, c)
			}
		}
		e.Groups = append(e.Groups, score(g, own))
	}
	e.All = score("all", all)
	if dir == "" {
		return e, nil
	}
	if err := files.Mkdir(dir); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		name  string
		write func(w io.Writer) error
	}{
		{"evaluation.csv", e.writeCSV},
		{"evaluation.json", func(w io.Writer) error { return writeJSON(w, e) }},
		{"evaluation.html", func(w io.Writer) error { return evaluationPage.Execute(w, e) }},
	} {
		if _, err := files.Create(filepath.Join(dir, f.name), f.write); err != nil {
			return nil, err
		}
	}
	return e, nil
}

//go:embed evaluation.html
var evaluationHTML string

var evaluationPage = template.Must(template.New("evaluation").Parse(evaluationHTML))

// evaluate counts in the images of one file.
func (m *Segmenter) evaluate(ctx context.Context, x Input, labels truth, run Run, o EvaluateOptions, notes *[]string) (all []counts, names []string, err error) {
	images, err := imagefile.Open(x.Path)
	if err != nil {
		return nil, nil, err
	}
	defer images.Close()
	for i := range images.N {
		truth, void, err := labels.at(i, images.N, images.H, images.W)
		if err != nil {
			return nil, nil, err
		}
		record, err := images.Record(i)
		if err != nil {
			return nil, nil, err
		}
		r := &Result{Name: x.Name, Source: x.Path, Page: i, Notes: record.Notes}
		if images.N > 1 {
			r.Name = pageName(x.Name, i, images.N)
		}
		r.calibrate(o.Options, record.Pixel)
		im := &micrograph.Image{H: record.H, W: record.W, Pixels: record.Pixels, Bad: record.Bad}
		s, blind, err := m.segment(ctx, r, im, run, o.Options)
		if err != nil {
			return nil, nil, err
		}
		for i, v := range void {
			if v && blind == nil {
				blind = void
				break
			}
			if v {
				blind[i] = true
			}
		}
		p := o.ParticleOptions
		p.Height, p.Width, p.Blind = r.PixelHeight, r.PixelWidth, blind
		found, _, _ := Particles(s, p)
		for i := range truth {
			if blind != nil && blind[i] {
				truth[i] = 0
			}
		}
		if share := covered(truth); share > 0.5 {
			*notes = append(*notes, fmt.Sprintf("%s: %s of the label is particle: is it inverted?", r.Name, format.Percent(share)))
		}
		dropSmall(truth, p)
		c := compare(s.H, s.W, found, truth)
		c.side = math.Sqrt(r.PixelHeight * r.PixelWidth)
		all, names = append(all, c), append(names, r.Name)
		for _, n := range r.Notes {
			*notes = append(*notes, r.Name+": "+n)
		}
	}
	return all, names, nil
}

func covered(labels []int32) float64 {
	n := 0
	for _, l := range labels {
		if l > 0 {
			n++
		}
	}
	return float64(n) / float64(len(labels))
}

// dropSmall leaves out labelled particles that would be left out were they found.
func dropSmall(labels []int32, o ParticleOptions) {
	least := o.leastArea()
	area := map[int32]int{}
	for _, l := range labels {
		area[l]++
	}
	for i, l := range labels {
		if float64(area[l]) < least {
			labels[i] = 0
		}
	}
	measure.Renumber(labels)
}

// compare counts pixels and particles of two label images.
func compare(h, w int, found, truth []int32) counts {
	var c counts
	areaF, areaT := map[int32]float64{}, map[int32]float64{}
	overlap := map[[2]int32]float64{}
	for i := range found {
		f, t := found[i], truth[i]
		if f > 0 {
			c.found++
			areaF[f]++
		}
		if t > 0 {
			c.truth++
			areaT[t]++
		}
		if f > 0 && t > 0 {
			c.both++
			overlap[[2]int32{f, t}]++
		}
	}
	c.nFound, c.nTruth = float64(len(areaF)), float64(len(areaT))
	pairs := slices.SortedFunc(maps.Keys(overlap), func(a, b [2]int32) int { return slices.Compare(a[:], b[:]) }) // sums have the same bits every time
	for _, pair := range pairs {
		f, t, n := areaF[pair[0]], areaT[pair[1]], overlap[pair]
		if n/(f+t-n) > matched {
			c.nMatched++
			d := math.Sqrt(f/t) - 1
			c.error += d
			c.absolute += math.Abs(d)
		}
	}
	c.boundary, c.boundary95 = boundaries(h, w, found, truth)
	return c
}

// boundaries returns the mean and the 95th percentile of the distances between the
// borders of two label images; NaN if one has none.
func boundaries(h, w int, a, b []int32) (mean, far float64) {
	border := func(l []int32) (inside []bool, n int) {
		inside = make([]bool, len(l)) // all but the border
		for i, v := range l {
			y, x := i/w, i%w
			edge := v > 0 && (y > 0 && l[i-w] != v || y < h-1 && l[i+w] != v || x > 0 && l[i-1] != v || x < w-1 && l[i+1] != v)
			inside[i] = !edge
			if edge {
				n++
			}
		}
		return inside, n
	}
	p, n := border(a)
	q, k := border(b)
	if n == 0 || k == 0 {
		return math.NaN(), math.NaN()
	}
	toA, toB := measure.Distance(h, w, p), measure.Distance(h, w, q)
	distances := make([]float64, 0, n+k)
	for i := range p {
		if !p[i] {
			distances = append(distances, toB[i])
		}
		if !q[i] {
			distances = append(distances, toA[i])
		}
	}
	for _, d := range distances {
		mean += d
	}
	return mean / float64(len(distances)), stats.Quantile(distances, 0.95)
}

// score pools the counts of images.
func score(name string, all []counts) Score {
	s := Score{Name: name, Images: len(all)}
	units := make([]stats.Unit, len(all))
	for i, c := range all {
		s.Labelled += int(c.nTruth)
		s.Found += int(c.nFound)
		s.Matched += int(c.nMatched)
		units[i].Cluster = fmt.Sprint(i)
	}
	to := []*Stat{&s.Dice, &s.IoU, &s.Precision, &s.Recall, &s.BoundaryPX, &s.Boundary95PX, &s.BoundaryNM, &s.SizeError, &s.SizeErrorAbsolute}
	samples := stats.NewResampler(units).Bootstrap(len(to), func(w []int, v []float64) {
		var t counts
		var px, far, nm, images, known float64
		for i, c := range all {
			k := float64(w[i])
			t.both, t.found, t.truth = t.both+k*c.both, t.found+k*c.found, t.truth+k*c.truth
			t.nFound, t.nTruth, t.nMatched = t.nFound+k*c.nFound, t.nTruth+k*c.nTruth, t.nMatched+k*c.nMatched
			t.error, t.absolute = t.error+k*c.error, t.absolute+k*c.absolute
			if !math.IsNaN(c.boundary) {
				images, px, far = images+k, px+k*c.boundary, far+k*c.boundary95
				if c.side > 0 {
					known, nm = known+k, nm+k*c.boundary*c.side
				}
			}
		}
		copy(v, []float64{2 * t.both / (t.found + t.truth), t.both / (t.found + t.truth - t.both),
			t.nMatched / t.nFound, t.nMatched / t.nTruth, px / images, far / images, nm / known, t.error / t.nMatched, t.absolute / t.nMatched})
	})
	for i, x := range samples {
		if v := x.Value; !math.IsNaN(v) {
			*to[i] = Stat{&v, x.Interval()}
		}
	}
	return s
}

// Lines are the scores in the order of the table: all, groups, images.
func (e *Evaluation) Lines() []Score {
	return slices.Concat([]Score{e.All}, e.Groups, e.Images)
}

func (e *Evaluation) writeCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	head := []string{"of", "images", "particles_labelled", "particles_found", "particles_matched"}
	for _, n := range []string{"dice", "iou", "precision", "recall", "boundary_distance_px", "boundary_distance_95_px", "boundary_distance_nm", "relative_diameter_error", "absolute_relative_diameter_error"} {
		head = append(head, n, n+"_low", n+"_high")
	}
	c.Write(head)
	for _, s := range e.Lines() {
		line := []string{s.Name, fmt.Sprint(s.Images), fmt.Sprint(s.Labelled), fmt.Sprint(s.Found), fmt.Sprint(s.Matched)}
		for _, x := range []Stat{s.Dice, s.IoU, s.Precision, s.Recall, s.BoundaryPX, s.Boundary95PX, s.BoundaryNM, s.SizeError, s.SizeErrorAbsolute} {
			cells := [3]string{}
			if x.Value != nil {
				cells[0] = number(*x.Value)
			}
			if x.Interval != nil {
				cells[1], cells[2] = number(x.Interval[0]), number(x.Interval[1])
			}
			line = append(line, cells[:]...)
		}
		c.Write(line)
	}
	c.Flush()
	return c.Error()
}
