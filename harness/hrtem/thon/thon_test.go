package thon_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
	"github.com/refocus-em/refocus/harness/hrtem/thon"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/random"
)

// scale is a size of simulated micrographs.
type scale struct {
	name   string
	config hrtem.Config
	side   int // of images in pixels
}

// quick has the pixels, particles and fields of the quick profiles, fine those of the
// study at 0.2 Å but for a smaller field.
func quick() scale {
	c := hrtem.Reduced("w_CdSe")
	c.Phonons = 2
	return scale{"64 × 0.4 Å", c, 64}
}

func fine() scale {
	c := hrtem.Paper("w_CdSe")
	c.Cell, c.Grid, c.Output, c.Crop = 102.4, 512, 512, 512
	c.Particles = [2]int{1, 4}
	c.Phonons = 4
	return scale{"512 × 0.2 Å", c, 512}
}

// paper has the study's simulation in every number.
func paper() scale { return scale{"512 × 0.2 Å, study", hrtem.Paper("w_CdSe"), 512} }

// micrographs images structures, which are simulated once, at some conditions.
type micrographs struct {
	scale
	sim   *hrtem.Simulator
	mu    sync.Mutex
	cache map[int]*hrtem.Specimen
}

func newMicrographs(t testing.TB, s scale) *micrographs {
	t.Helper()
	sim, err := hrtem.NewSimulator(s.config)
	if err != nil {
		t.Fatal(err)
	}
	return &micrographs{scale: s, sim: sim, cache: map[int]*hrtem.Specimen{}}
}

func (m *micrographs) specimen(t testing.TB, i int) *hrtem.Specimen {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cache[i] == nil {
		sp, err := m.sim.Specimen(context.Background(), 7, "validation", i)
		if err != nil {
			t.Fatal(err)
		}
		m.cache[i] = sp
	}
	return m.cache[i]
}

// image is the electrons that are counted of structure i, in the middle of its field.
func (m *micrographs) image(t testing.TB, i int, defocus, spread, dose float64) thon.Image {
	c := m.config
	all := make([]float32, c.Crop*c.Crop)
	cond := hrtem.Conditions{Defocus: defocus, DefocusStd: spread, Dose: dose}
	rng := random.Stream(3, "thon", uint64(i), uint64(int(defocus)+1000), uint64(dose))
	if _, err := m.sim.Counts(context.Background(), m.specimen(t, i), cond, rng, all); err != nil {
		t.Fatal(err)
	}
	px := c.Cell / float64(c.Output)
	im := thon.Image{H: m.side, W: m.side, Pixels: make([]float32, 0, m.side*m.side), X: px, Y: px}
	at := (c.Crop - m.side) / 2
	for y := range m.side {
		row := (at+y)*c.Crop + at
		im.Pixels = append(im.Pixels, all[row:row+m.side]...)
	}
	return im
}

func (m *micrographs) optics() thon.Optics {
	return thon.Optics{Energy: m.config.BeamEnergy, FocalSpread: m.config.FocalSpread, Displacement: m.config.Displacement}
}

// session is the estimate from images of structures, from the first one on. Their
// defoci vary as the study's do; that of a single image is the session's.
func (m *micrographs) session(t testing.TB, first, images int, defocus, dose float64) (*thon.Focus, []thon.View) {
	views := make([]thon.View, images)
	spread := 15.0
	if images == 1 {
		spread = 0
	}
	slots := make(chan bool, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range views {
		wg.Add(1)
		slots <- true
		go func() {
			defer func() { <-slots; wg.Done() }()
			v, err := thon.Look(m.image(t, first+i, defocus, spread, dose), m.optics())
			if err != nil {
				t.Error(err)
				return
			}
			views[i] = *v
		}()
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return thon.Locate(views, thon.Geometry{Radius: m.config.Radius}), views
}

// row is what came out of several sessions under the same conditions.
type row struct {
	sessions, none, told, wrong, within, covered int
	bias, square                                 float64
	noise                                        float64
}

func (m *micrographs) row(t testing.TB, sessions, images int, defocus, dose float64) row {
	r := row{sessions: sessions}
	for s := range sessions {
		f, views := m.session(t, s*images, images, defocus, dose)
		for _, v := range views {
			r.noise += v.Best.Noise * dose / float64(sessions*images)
		}
		if len(f.Candidates) == 0 {
			r.none++
			continue
		}
		// positive labels are overfocus
		label := func(c thon.Candidate) float64 { return -c.Underfocus }
		best := f.Candidates[0]
		if f.Told() {
			r.told++
			if label(best)*defocus < 0 {
				r.wrong++
			}
		} else if len(f.Candidates) > 1 && math.Abs(label(f.Candidates[1])-defocus) < math.Abs(label(best)-defocus) {
			best = f.Candidates[1] // both are given
		}
		e := label(best) - defocus
		r.bias += e
		r.square += e * e
		if math.Abs(e) <= 30 {
			r.within++
		}
		if math.Abs(e) <= 2*best.Error {
			r.covered++
		}
	}
	return r
}

func (r row) write(b *bytes.Buffer, name string, images int, defocus, dose float64) {
	n := float64(r.sessions - r.none)
	bias, rms := format.None, format.None
	if n > 0 {
		bias, rms = format.Signed(r.bias/n/10, 1), fmt.Sprintf("%.1f", math.Sqrt(r.square/n)/10)
	}
	given := r.sessions - r.none
	fmt.Fprintf(b, "| %s | %d | %s | %s | %d of %d | %s | %s | %d | %d | %d | %d | %.2f |\n",
		name, images, format.Plain(dose), format.Signed(defocus/10, 0), given, r.sessions, bias, rms, r.within, r.covered, r.told, r.wrong, r.noise)
}

// Micrographs of hidden conditions, at the study's dose: the defocus of sessions of
// six small images is found within 3 nm, and the side of focus is not told wrongly.
// What is simulated shares the scattering factors with the estimator and nothing
// else: a multislice calculation of atoms stands against a formula.
func TestHiddenConditions(t *testing.T) {
	m := newMicrographs(t, quick())
	told := 0
	for _, defocus := range []float64{-250, -150, -100, 100, 150, 250} {
		r := m.row(t, 2, 6, defocus, 400)
		if r.within != r.sessions || r.wrong > 0 {
			t.Errorf("defocus %s: of %d sessions %d gave a defocus, %d within 3 nm; %d sides told, %d wrongly", format.Defocus(defocus), r.sessions, r.sessions-r.none, r.within, r.told, r.wrong)
		}
		// of 12 images, whose noise has an error of about 6 % each
		if math.Abs(r.noise-1) > 0.15 {
			t.Errorf("defocus %s: noise is %.2f of that of 400 e⁻/Å²", format.Defocus(defocus), r.noise)
		}
		told += r.told
	}
	if told < 8 {
		t.Errorf("the side of focus was told of %d of 12 sessions", told)
	}
}

// One image with the study's pixels is enough.
func TestOneImage(t *testing.T) {
	m := newMicrographs(t, fine())
	for i, defocus := range []float64{-200, -100, 100, 200} {
		f, v := m.session(t, i, 1, defocus, 400)
		if len(f.Candidates) != 2 {
			t.Fatalf("defocus %s: %+v", format.Defocus(defocus), f)
		}
		best := f.Candidates[0]
		if !f.Told() && math.Abs(f.Candidates[1].Underfocus+defocus) < math.Abs(best.Underfocus+defocus) {
			best = f.Candidates[1]
		}
		if math.Abs(best.Underfocus+defocus) > 30 {
			t.Errorf("defocus %s is taken for %s ± %.0f Å (score %.1f)", format.Defocus(defocus), format.Defocus(-best.Underfocus), best.Error, f.Score)
		}
		if n := v[0].Best.Noise * 400; math.Abs(n-1) > 0.1 {
			t.Errorf("defocus %s: noise is %.2f of that of 400 e⁻/Å²", format.Defocus(defocus), n)
		}
	}
}

// The table of README.md, over doses, defoci and sessions: some minutes, so that
// REFOCUS_HRTEM=paper asks for it.
func TestTable(t *testing.T) {
	if os.Getenv("REFOCUS_HRTEM") != "paper" {
		t.Skip("takes minutes: set REFOCUS_HRTEM=paper")
	}
	var table bytes.Buffer
	for _, s := range []struct {
		scale
		sessions, images int
		doses            []float64
	}{
		{paper(), 8, 1, []float64{400}},
		{fine(), 8, 1, []float64{100, 400, 1600}},
		{quick(), 12, 1, []float64{400, 1600}},
		{quick(), 6, 8, []float64{100, 200, 400, 800, 1600}},
	} {
		m := newMicrographs(t, s.scale)
		for _, dose := range s.doses {
			for _, defocus := range []float64{-250, -150, -100, 100, 150, 250} {
				r := m.row(t, s.sessions, s.images, defocus, dose)
				r.write(&table, s.name, s.images, defocus, dose)
				if r.wrong > 0 {
					t.Errorf("%s, %d images, dose %g, defocus %g: a side was told wrongly", s.name, s.images, dose, defocus)
				}
			}
		}
	}
	const file, begin, end = "README.md", "<!-- table -->\n", "<!-- /table -->"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	text := head + begin + "| images | in a session | dose e⁻/Å² | defocus nm | given | bias nm | rms error nm | within 3 nm | within 2 errors | side told | wrongly | noise × dose |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n" + table.String() + end + tail
	if os.Getenv("REFOCUS_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	} else if text != string(page) {
		t.Errorf("the table in %s is out of date (REFOCUS_UPDATE=1 writes it):\n%s", file, table.String())
	}
}

// What shows no rings gives no defocus, however many images there are: counting noise
// alone, and a lattice in it.
func TestNoRings(t *testing.T) {
	const n, mean, images = 128, 16, 12
	r := random.Stream(5, "thon")
	views := map[string][]thon.View{}
	for range images {
		noise, lattice := make([]float32, n*n), make([]float32, n*n)
		angle := r.Float64()
		for i := range noise {
			noise[i] = float32(mean + math.Sqrt(mean)*r.NormFloat64())
			x, y := float64(i%n)*0.4, float64(i/n)*0.4 // Å
			c, s := math.Cos(angle)/3.5, math.Sin(angle)/3.5
			lattice[i] = noise[i] + float32(4*math.Cos(2*math.Pi*(c*x+s*y))+4*math.Cos(2*math.Pi*(s*x-c*y)))
		}
		for name, pixels := range map[string][]float32{"noise": noise, "a lattice": lattice} {
			v, err := thon.Look(thon.Image{H: n, W: n, Pixels: pixels, X: 0.4, Y: 0.4}, thon.Optics{Energy: 300e3, FocalSpread: 10, Displacement: 0.1})
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Best.Noise / (0.16 / mean); math.Abs(got-1) > 0.1 { // its error is about 2 %
				t.Errorf("%s: noise %.3f times what it is", name, got)
			}
			views[name] = append(views[name], *v)
			if f := thon.Locate([]thon.View{*v}, thon.Geometry{}); len(f.Candidates) > 0 {
				t.Errorf("an image of %s has a defocus: %+v", name, f)
			}
		}
	}
	for name, v := range views {
		if f := thon.Locate(v, thon.Geometry{Radius: [2]float64{15, 25}}); len(f.Candidates) > 0 {
			t.Errorf("%d images of %s have a defocus: %+v", images, name, f)
		}
	}
}

// A lens with a spherical aberration of 1 mm gives other rings, which are not taken for
// those of a defocus; the same image without it is.
func TestAberration(t *testing.T) {
	const n, px, thickness, defocus, mean = 512, 0.4, 50, 400, 64
	carbon, err := kirkland.Lookup(6)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := fft.NewPlan(n)
	if err != nil {
		t.Fatal(err)
	}
	lambda := kirkland.Wavelength(300e3)
	for _, cs := range []float64{0, 1e7} { // Å
		r := random.Stream(6, "thon")
		rows := make([]complex64, n*n)
		for i := range rows {
			rows[i] = complex(float32(r.NormFloat64()), 0)
		}
		f := fft.NewField(n)
		f.FromRows(n, rows)
		plan.Forward(f, f)
		for kx := range n {
			for ky := range n {
				k2 := (math.Pow(float64(fft.Frequency(n, kx)), 2) + math.Pow(float64(fft.Frequency(n, ky)), 2)) / (n * px * n * px)
				chi := math.Pi*lambda*defocus*k2 - math.Pi/2*cs*lambda*lambda*lambda*k2*k2
				amplitude := 2 * kirkland.Interaction(300e3) * kirkland.Factor * carbon.Scattering(k2) * math.Sqrt(0.11*thickness) * math.Sin(chi)
				i := fft.Index(n, kx, ky)
				f.Re[i] *= float32(amplitude / px / (n * n))
				f.Im[i] *= float32(amplitude / px / (n * n))
			}
		}
		plan.Inverse(f, f)
		im := thon.Image{H: n, W: n, X: px, Y: px}
		for y := range n {
			for x := range n {
				m := mean * (1 + float64(f.Re[fft.Index(n, y, x)]))
				im.Pixels = append(im.Pixels, float32(m+math.Sqrt(m)*r.NormFloat64()))
			}
		}
		v, err := thon.Look(im, thon.Optics{Energy: 300e3})
		if err != nil {
			t.Fatal(err)
		}
		if v.Best.Explained() != (cs == 0) || cs == 0 && math.Abs(v.Best.Defocus-defocus) > 10 {
			t.Errorf("spherical aberration %g mm: %+v", cs/1e7, v.Best)
		}
	}
}

// Images that cannot be looked at are refused in words.
func TestRefused(t *testing.T) {
	o := thon.Optics{Energy: 300e3, FocalSpread: 10}
	for want, im := range map[string]thon.Image{
		"too few":     {H: 32, W: 64, Pixels: pixels(32*64, 1), X: 0.4, Y: 0.4},
		"mean":        {H: 64, W: 64, Pixels: pixels(64*64, -1), X: 0.4, Y: 0.4},
		"of 64×64":    {H: 64, W: 64, Pixels: pixels(64, 1), X: 0.4, Y: 0.4},
		"of 0 × 0.4":  {H: 64, W: 64, Pixels: pixels(64*64, 1), Y: 0.4},
		"no contrast": {H: 64, W: 64, Pixels: pixels(64*64, 1), X: 0.4, Y: 0.4},
		"not finite":  {H: 64, W: 64, Pixels: pixels(64*64, float32(math.NaN())), X: 0.4, Y: 0.4},
	} {
		if _, err := thon.Look(im, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func pixels(n int, v float32) []float32 {
	p := make([]float32, n)
	for i := range p {
		p[i] = v
	}
	return p
}
