package adapt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/harness/dataset/imagefile"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/thon"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/micrograph"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/progress"
)

// Given are the conditions that the user knows; they replace what is estimated.
type Given struct {
	PixelSize float64  // Å, 0: not given
	Dose      float64  // e⁻/Å², 0: not given
	Defocus   *float64 // label in Å, nil: not given
	Crystal   string   // "": as the model was trained
	Energy    float64  // of the beam in eV, 0: as the model was trained
}

// check refuses conditions that no simulation takes.
func (g Given) check() error {
	if p := g.PixelSize; p != 0 && !(p >= leastPixel && p <= mostPixel) {
		return fmt.Errorf("--pixel-size: no electron micrograph has pixels of %g Å", p)
	}
	c := hrtem.Conditions{Dose: 1}
	if g.Dose != 0 {
		c.Dose = g.Dose
	}
	if g.Defocus != nil {
		c.Defocus = *g.Defocus
	}
	for _, p := range c.Check() {
		return fmt.Errorf("--%s %s", p.Key, p.Message)
	}
	return nil
}

// leastPixel and mostPixel are what can be the side of a micrograph's pixel in Å.
const leastPixel, mostPixel = 1e-3, 1e6

// Value is an estimate with its standard error and where it comes from.
type Value struct {
	Value float64 `json:"value"`
	Error float64 `json:"error"`
	From  string  `json:"from"`
}

// Estimate is what micrographs say of their conditions. What is nil is not known;
// Notes say why. Lengths are in Å.
type Estimate struct {
	Images    []Micrograph `json:"images"`
	PixelSize *Value       `json:"pixel_size"`
	Dose      *Value       `json:"dose"` // e⁻/Å²
	// Defocus is the label: from the particles' middle, in the sign of the simulation
	// (DefocusSign −1: positive in overfocus). OtherSide is the value on the other
	// side of focus where the side cannot be told, and Probability that of Defocus.
	Defocus     *Value  `json:"defocus"`
	OtherSide   *Value  `json:"defocus_other_side"`
	Probability float64 `json:"defocus_side_probability"`
	// Spread is the standard deviation of the defocus between the images, 0 if unknown.
	Spread      float64 `json:"defocus_spread"`
	DefocusSign int     `json:"defocus_sign"`
	// Energy of the beam in eV, which the defocus rests on, and who says it.
	Energy Value `json:"beam_energy"`

	Notes    []string `json:"notes"`    // what was assumed
	Warnings []string `json:"warnings"` // where the model was trained far from there
}

// Micrograph is what one image says.
type Micrograph struct {
	File      string  `json:"file"`
	Page      int     `json:"page"`
	Height    int     `json:"height"`
	Width     int     `json:"width"`
	PixelSize float64 `json:"pixel_size"` // 0: unknown
	Dose      float64 `json:"dose"`       // 0: unknown
	DoseFrom  string  `json:"dose_from,omitempty"`
	// Support is the distance of the support's middle from focus and Thickness the
	// support's, where its rings fit best; Rings is by how much they fit better than
	// none (ln of the likelihood ratio).
	Support   float64 `json:"support_defocus"`
	Thickness float64 `json:"support_thickness"`
	Rings     float64 `json:"rings"`
	// Skewness of the restored phase in standard errors: positive in underfocus.
	Skewness float64 `json:"skewness"`
	// Defocus as in Estimate, of this image alone.
	Defocus   *Value   `json:"defocus"`
	OtherSide *Value   `json:"defocus_other_side"`
	Notes     []string `json:"notes,omitempty"`

	pixelFrom string
	view      *thon.View
}

// sameSize is by how much two pixel sizes may differ to count as one.
const sameSize = 0.02

// Estimate looks at the images that the user names (predict.Inputs).
func (m *Model) Estimate(ctx context.Context, args []string, g Given, meter progress.Meter) (*Estimate, error) {
	c, specimen, err := m.simulation(g)
	if err != nil {
		return nil, err
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	e := &Estimate{DefocusSign: c.DefocusSign, Energy: Value{Value: c.BeamEnergy, From: "assumed, as in the series"}, Notes: []string{specimen}, Warnings: []string{}}
	switch {
	case g.Energy > 0:
		e.Energy.From = "--beam-energy"
	case m.Trained != nil:
		e.Energy.From = "as the model's training images"
	}
	images, leftOut, err := read(ctx, args, g, c, progress.Or(meter))
	if err != nil {
		return nil, err
	}
	e.Images = images
	e.Notes = append(e.Notes, leftOut...)
	if len(images) > 1 {
		e.Notes = append(e.Notes, fmt.Sprintf("the %d images are taken for one session: one specimen, microscope and focus", len(images)))
	}
	e.pixelSize()
	e.dose(g)
	e.defocus(g, c)
	m.compare(e, c, g)
	return e, nil
}

// read looks at every image, several at once.
func read(ctx context.Context, args []string, g Given, c hrtem.Config, meter progress.Meter) ([]Micrograph, []string, error) {
	inputs, err := predict.Inputs(args)
	if err != nil {
		return nil, nil, err
	}
	var all []*Micrograph
	var notes []string
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan bool, runtime.NumCPU())
	meter.Begin("looking at micrographs", "files", float64(len(inputs)))
	defer meter.End()
	for _, in := range inputs {
		st, err := imagefile.Open(in.Path)
		if err != nil {
			if in.Found {
				notes = append(notes, fmt.Sprintf("left out %s: %v", in.Path, err))
				continue
			}
			return nil, nil, err
		}
		for i := range st.N {
			if ctx.Err() != nil {
				break
			}
			r, err := st.Record(i)
			if err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", in.Path, err))
				mu.Unlock()
				break
			}
			m := &Micrograph{File: in.Path, Page: i, Height: r.H, Width: r.W, Notes: r.Notes}
			all = append(all, m)
			slots <- true
			wg.Add(1)
			go func() {
				defer func() { <-slots; wg.Done() }()
				if err := m.look(r, g, c); err != nil {
					mu.Lock()
					errs = append(errs, fmt.Errorf("%s, image %d: %w", in.Path, i, err))
					mu.Unlock()
				}
			}()
		}
		st.Close()
		meter.Add(1)
	}
	wg.Wait()
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return nil, nil, err
	}
	if len(all) == 0 {
		return nil, nil, fmt.Errorf("no image among the %d files", len(inputs))
	}
	images := make([]Micrograph, len(all))
	for i, m := range all {
		images[i] = *m
	}
	return images, notes, nil
}

// look fills in what one record says.
func (m *Micrograph) look(r *imagefile.Record, g Given, c hrtem.Config) error {
	x, y := r.Pixel.X, r.Pixel.Y
	m.pixelFrom = r.Pixel.Origin
	if g.PixelSize > 0 {
		x, y, m.pixelFrom = g.PixelSize, g.PixelSize, "--pixel-size"
	}
	m.PixelSize = math.Sqrt(x * y)
	step := quantum(r.Pixels)
	im := &micrograph.Image{H: r.H, W: r.W, Pixels: r.Pixels, Bad: r.Bad}
	defects, err := micrograph.Repair(im)
	if err != nil {
		return err
	}
	if s := defects.String(); s != "" {
		m.Notes = append(m.Notes, s)
	}
	if r.Dose > 0 {
		m.Dose, m.DoseFrom = r.Dose, r.DoseOrigin
		if m.DoseFrom == "" {
			m.DoseFrom = "the file"
		}
	}
	if m.PixelSize == 0 {
		return nil
	}
	m.view, err = thon.Look(thon.Image{H: im.H, W: im.W, Pixels: im.Pixels, X: x, Y: y},
		thon.Optics{Energy: c.BeamEnergy, FocalSpread: c.FocalSpread, Displacement: c.Displacement})
	if err != nil {
		m.Notes = append(m.Notes, err.Error())
		return nil
	}
	if !m.view.Best.Explained() {
		m.Notes = append(m.Notes, fmt.Sprintf("its spectrum is not that of carbon under a lens without aberrations (residuals of %s errors): nothing is taken from it", format.Digits(math.Sqrt(m.view.Best.Misfit), 2)))
		m.view = nil
		return nil
	}
	m.Support, m.Thickness = m.view.Best.Defocus, m.view.Best.Thickness
	m.Rings, m.Skewness = m.view.Surface.Rings, m.view.Skewness.Score()
	if m.Dose == 0 && step > 0 {
		mean := 0.0
		for _, v := range im.Pixels {
			mean += float64(v) / float64(len(im.Pixels))
		}
		// the noise of n electrons that are counted one by one in steps of the gray
		// value is that step times the mean
		if ratio := m.view.Best.Noise * mean / (x * y * step); ratio > leastCounted && ratio < mostCounted {
			m.Dose = mean / step / (x * y)
			m.DoseFrom = "counted: the noise is that of electrons counted in steps of " + format.Number(step)
		}
	}
	return nil
}

// leastCounted and mostCounted bound the noise of counted electrons, in units of that
// of a Poisson distribution: the estimate's error, no more.
const leastCounted, mostCounted = 0.75, 1.35

// quantum is the greatest whole number whose multiples all pixels are, 0 where they
// are not whole numbers or one is negative.
func quantum(pixels []float32) float64 {
	step := uint64(0)
	for _, v := range pixels {
		if !(v >= 0 && v < 1<<24) || v != float32(math.Trunc(float64(v))) {
			return 0
		}
		a, b := uint64(v), step
		for b != 0 {
			a, b = b, a%b
		}
		if step = a; step == 1 {
			return 1
		}
	}
	return float64(step)
}

func (e *Estimate) note(format string, args ...any) {
	e.Notes = append(e.Notes, fmt.Sprintf(format, args...))
}

// pooled is the median of what images say, and half the range between the
// quartiles.
func pooled(values []float64) (median, spread float64) {
	v := slices.Sorted(slices.Values(values))
	at := func(p float64) float64 {
		x := p * float64(len(v)-1)
		i := int(x)
		return v[i] + (x-float64(i))*(v[min(i+1, len(v)-1)]-v[i])
	}
	return at(0.5), (at(0.75) - at(0.25)) / 2
}

func (e *Estimate) pixelSize() {
	var sizes []float64
	from := ""
	for _, m := range e.Images {
		if m.PixelSize > 0 {
			sizes = append(sizes, m.PixelSize)
			from = m.pixelFrom
		}
	}
	if n := len(e.Images) - len(sizes); n > 0 {
		e.note("%d of %d images do not say their pixel size, without which nothing is known of them: --pixel-size gives it", n, len(e.Images))
	}
	if len(sizes) == 0 {
		return
	}
	v := &Value{From: from}
	v.Value, v.Error = pooled(sizes)
	if lo, hi := slices.Min(sizes), slices.Max(sizes); hi-lo > sameSize*v.Value {
		e.note("pixels are from %s to %s: the images are of several magnifications", format.PixelSize(lo), format.PixelSize(hi))
	} else {
		v.Error = 0
	}
	e.PixelSize = v
}

func (e *Estimate) dose(g Given) {
	if g.Dose > 0 {
		e.Dose = &Value{Value: g.Dose, From: "--dose"}
		return
	}
	var doses []float64
	from := ""
	for _, m := range e.Images {
		if m.Dose > 0 {
			doses = append(doses, m.Dose)
			from = m.DoseFrom
		}
	}
	if 2*len(doses) <= len(e.Images) {
		e.note("the dose cannot be told: the files do not say it, and their noise is not that of counted electrons; --dose gives it")
		return
	}
	e.Dose = &Value{From: from}
	e.Dose.Value, e.Dose.Error = pooled(doses)
}

// value is a candidate in the sign of the labels.
func (e *Estimate) value(c thon.Candidate) *Value {
	return &Value{Value: float64(e.DefocusSign) * c.Underfocus, Error: c.Error, From: "the rings of the amorphous support"}
}

func (e *Estimate) defocus(g Given, c hrtem.Config) {
	geometry := thon.Geometry{Radius: c.Radius}
	var views []thon.View
	for i := range e.Images {
		m := &e.Images[i]
		if m.view == nil {
			continue
		}
		views = append(views, *m.view)
		f := thon.Locate([]thon.View{*m.view}, geometry)
		if len(f.Candidates) > 0 {
			m.Defocus = e.value(f.Candidates[0])
		}
		if len(f.Candidates) > 1 && !f.Told() {
			m.OtherSide = e.value(f.Candidates[1])
		}
	}
	if g.Defocus != nil {
		e.Defocus, e.Probability = &Value{Value: *g.Defocus, From: "--defocus"}, 1
		return
	}
	f := thon.Locate(views, geometry)
	switch {
	case len(views) == 0:
		e.note("the defocus cannot be told: no image could be looked at")
	case len(f.Candidates) == 0:
		e.note("the defocus cannot be told: no rings of amorphous carbon stand out of the noise; more images of the session, or --defocus")
	default:
		e.Defocus, e.Probability, e.Spread = e.value(f.Candidates[0]), f.Candidates[0].Probability, f.Spread
		e.note("defocus is that of the particles' middle, with the particles, of radius %g to %g Å, on the beam's side of the support", c.Radius[0], c.Radius[1])
		if !f.Told() && len(f.Candidates) > 1 {
			e.OtherSide = e.value(f.Candidates[1])
		}
		if f.Spread > farApart || e.bothSides() {
			e.Warnings = append(e.Warnings, "the images were taken at different defoci: adapt to them apart")
		}
	}
}

// bothSides reports whether several images are clearly skewed to either side, and
// not just a few of many.
func (e *Estimate) bothSides() bool {
	const clear = 2 // standard errors
	var under, over int
	for _, m := range e.Images {
		switch {
		case m.Skewness > clear:
			under++
		case m.Skewness < -clear:
			over++
		}
	}
	n := min(under, over)
	return n > 1 && 5*n > under+over
}

// farApart in Å is a spread of defocus that no session at one focus has.
const farApart = 30

// compare warns where the model was trained elsewhere.
func (m *Model) compare(e *Estimate, c hrtem.Config, g Given) {
	warn := func(format string, args ...any) { e.Warnings = append(e.Warnings, fmt.Sprintf(format, args...)) }
	if p := m.Segmenter.PixelSize; p > 0 && e.PixelSize != nil {
		if r := e.PixelSize.Value / p; r > 1.5 || r < 1/1.5 {
			what := "images are resampled"
			if r > 1 {
				what = "the adapted one is for theirs"
			}
			warn("pixels are %s, the model was trained on %s: %s", format.PixelSize(e.PixelSize.Value), format.PixelSize(p), what)
		}
	}
	if m.Trained == nil {
		return
	}
	t := m.Trained
	if e.Dose != nil && t.Conditions.Dose > 0 {
		if r := e.Dose.Value / t.Conditions.Dose; r > 1.5 || r < 1/1.5 {
			warn("the dose is %s, the model was trained at %s", format.Dose(e.doseRounded()), format.Dose(t.Conditions.Dose))
		}
	}
	if e.Defocus != nil {
		far := max(2*t.Conditions.DefocusStd, 20) + 2*e.Defocus.Error
		off := math.Abs(e.Defocus.Value - t.Conditions.Defocus)
		if e.OtherSide != nil {
			off = max(off, math.Abs(e.OtherSide.Value-t.Conditions.Defocus))
		}
		if off > far {
			warn("the defocus is %s, the model was trained at %s", e.defocusText(), format.Defocus(t.Conditions.Defocus))
		}
	}
	if t.Config.Crystal != c.Crystal {
		warn("the crystal is %s, the model was trained on %s", c.Crystal, t.Config.Crystal)
	}
	if t.Config.BeamEnergy != c.BeamEnergy {
		warn("the beam has %g keV, the model was trained at %g keV", c.BeamEnergy/1e3, t.Config.BeamEnergy/1e3)
	}
}

// imageNotes are the notes of the images, each once.
func (e *Estimate) imageNotes() []string {
	const most = 12 // lines
	count := map[string]int{}
	var first []string // that say it, and what
	var texts []string
	for _, m := range e.Images {
		for _, n := range m.Notes {
			if count[n]++; count[n] == 1 {
				texts = append(texts, n)
				first = append(first, fmt.Sprintf("%s, image %d", m.File, m.Page))
			}
		}
	}
	var lines []string
	for i, n := range texts {
		who := first[i]
		if count[n] > 1 {
			who += fmt.Sprintf(" and %d more", count[n]-1)
		}
		if i == most {
			lines = append(lines, fmt.Sprintf("%d more notes on single images", len(texts)-most))
			break
		}
		lines = append(lines, who+": "+n)
	}
	return lines
}

// text writes a defocus with its error: "−12.3 ± 1.1 nm".
func (v *Value) text() string {
	t := format.Defocus(math.Round(v.Value))
	if v.Error > 0 {
		t = strings.TrimSuffix(t, " nm") + " ± " + format.Digits(v.Error/10, 2) + " nm"
	}
	return t
}

func (e *Estimate) side(v *Value) string {
	switch u := v.Value * float64(e.DefocusSign); {
	case u > 0:
		return "underfocus"
	case u < 0:
		return "overfocus"
	}
	return "in focus"
}

func (e *Estimate) defocusText() string {
	if e.OtherSide == nil {
		return fmt.Sprintf("%s (%s)", e.Defocus.text(), e.side(e.Defocus))
	}
	return fmt.Sprintf("%s or %s", e.Defocus.text(), e.OtherSide.text())
}

// Lines says the estimate in words.
func (e *Estimate) Lines() []string {
	var l []string
	add := func(format string, args ...any) { l = append(l, fmt.Sprintf(format, args...)) }
	if e.PixelSize == nil {
		add("pixel size: unknown")
	} else {
		add("pixel size: %s (%s)", format.PixelSize(e.PixelSize.Value), e.PixelSize.From)
	}
	switch {
	case e.Dose == nil:
		add("dose: cannot be told")
	case e.Dose.Error > 0:
		add("dose: %s ± %s e⁻/Å² (%s)", format.Number(e.doseRounded()), format.Digits(e.Dose.Error, 2), e.Dose.From)
	default:
		add("dose: %s (%s)", format.Dose(e.doseRounded()), e.Dose.From)
	}
	switch {
	case e.Defocus == nil:
		add("defocus: cannot be told")
	case e.OtherSide != nil:
		add("defocus: %s or %s, whose side of focus cannot be told (the first is right with a probability of %s)", e.Defocus.text(), e.OtherSide.text(), format.Percent(e.Probability))
	default:
		add("defocus: %s, %s (%s, at %g keV, %s)", e.Defocus.text(), e.side(e.Defocus), e.Defocus.From, e.Energy.Value/1e3, e.Energy.From)
	}
	if e.Spread > 0 {
		add("defocus varies by about %s nm between the images", format.Digits(e.Spread/10, 2))
	}
	for _, n := range append(e.Notes, e.imageNotes()...) {
		add("%s", n)
	}
	for _, w := range e.Warnings {
		add("warning: %s", w)
	}
	return l
}
