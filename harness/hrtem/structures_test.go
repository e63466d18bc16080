package hrtem

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
)

// Every structure in both sizes of the structure series: particles, orientation,
// film, norm, zero defocus, and a label that follows the particles' outlines. Set
// REFOCUS_HRTEM=paper to run it at the study's scale (some minutes).
//
// A label's area is 0.6 to 1.2 times the discs', it overlaps them by 0.6 or more,
// and every particle has one.
func TestAllStructures(t *testing.T) {
	preset, focus, sizes := Reduced, 4.0, map[string][2]float64{"small": {8, 10}, "large": {12, 16}}
	if os.Getenv("REFOCUS_HRTEM") == "paper" {
		// A thick crystal along a zone axis is no thin object: its least contrast
		// may lie well off its mid-plane.
		preset, focus, sizes = Paper, 20.0, map[string][2]float64{"small": {10, 20}, "large": {25, 35}}
	}
	for _, name := range crystal.Names() {
		for _, size := range []string{"small", "large"} {
			t.Run(fmt.Sprintf("%s %s", name, size), func(t *testing.T) {
				c := preset(name)
				c.Radius = sizes[size]
				c.Phonons, c.FocusPhonons = 2, 2
				c.Carbon[1] = c.Carbon[0] // the film has no part in what is checked
				s := newSimulator(t, c)
				sp, err := s.Specimen(context.Background(), 1, "train", 0)
				if err != nil {
					t.Fatal(err)
				}
				i := sp.Info
				t.Logf("particles %d of %d, atoms %v, f0 %.1f Å (contrast %.3f), norm %.5f, label: area ratio %.3f, IoU %.3f",
					len(i.Particles), i.ParticlesDrawn, i.Atoms, i.FocusOffset, i.FocusContrast, i.Norm, i.AreaRatio, i.IoU)
				if len(i.Particles) == 0 || len(i.Particles) > c.Particles[1] {
					t.Errorf("%d particles", len(i.Particles))
				}
				within(t, "norm", i.Norm, 0.995, 1.000001)
				mean := 0.0
				for _, p := range i.Particles {
					mean += p.Radius / float64(len(i.Particles))
					if p.Radius < c.Radius[0] || p.Radius > c.Radius[1] || p.Centre[2] != p.Radius {
						t.Errorf("a particle of radius %.2f Å at height %.2f Å", p.Radius, p.Centre[2])
					}
					if len(p.Faults) > c.MaxFaults {
						t.Errorf("%d stacking faults", len(p.Faults))
					}
				}
				within(t, "zero defocus below the film's top", i.FocusOffset-float64(i.CarbonSlices)*c.Slice, mean-focus, mean+focus)
				within(t, "area ratio", i.AreaRatio, 0.6, 1.2)
				within(t, "overlap", i.IoU, 0.6, 1)
				if c.Crop == c.Output {
					for _, p := range i.Particles {
						if !c.touched(sp.Label, p) {
							t.Errorf("the particle of radius %.1f Å at %.1f has no label", p.Radius, p.Centre)
						}
					}
				}
			})
		}
	}
}

// touched reports whether the label has a pixel within half the particle's radius.
func (c Config) touched(label []uint8, p Particle) bool {
	px := c.Cell / float64(c.Output)
	for i, v := range label {
		at := [3]float64{float64(i%c.Crop) * px, float64(i/c.Crop) * px}
		if v == 1 && c.lateral(at, p.Centre) < p.Radius*p.Radius/4 {
			return true
		}
	}
	return false
}

// Placement over many draws, without simulating: gaps, numbers, restarts, crops,
// faults and orientation differ, and different splits, indices, seeds and sizes have
// different structures.
func TestPlacement(t *testing.T) {
	c := Paper("w_CdSe")
	c.Radius = [2]float64{25, 35}
	c.Carbon = [2]float64{0, 0}
	r := newSimulator(t, reducedGrid(c))
	counts, faults := map[int]int{}, map[int]int{}
	for i := range 60 {
		st, err := r.Structure(context.Background(), 1, "train", i)
		if err != nil {
			t.Fatal(err)
		}
		ps := st.Info.Particles
		counts[len(ps)]++
		if len(ps) > st.Info.ParticlesDrawn || st.Info.ParticlesDrawn > 5 || st.Info.ParticlesDrawn < 1 {
			t.Errorf("%d particles of %d drawn", len(ps), st.Info.ParticlesDrawn)
		}
		total := 0
		for j, p := range ps {
			faults[len(p.Faults)]++
			total += p.Atoms
			for _, q := range ps[:j] {
				if d := math.Sqrt(c.lateral(p.Centre, q.Centre)) - p.Radius - q.Radius; d < 10 {
					t.Errorf("a gap of %.2f Å", d)
				}
			}
		}
		if total != len(st.Particles) || st.Info.Atoms["Cd"]+st.Info.Atoms["Se"] != total {
			t.Errorf("%d atoms in %v, counted %v", total, len(st.Particles), st.Info.Atoms)
		}
		for _, a := range st.Particles {
			if a.Pos[2] < -1e-9 {
				t.Fatalf("an atom %.3g Å below the film's top", -a.Pos[2])
			}
		}
	}
	t.Logf("large particles per structure: %v, faults per particle: %v", counts, faults)
	if counts[5] > 0 && counts[1] == 0 || faults[0] == 0 || faults[1] == 0 || faults[2] == 0 {
		t.Errorf("particles per structure %v, faults per particle %v", counts, faults)
	}

	c.Radius = [2]float64{10, 20}
	small := newSimulator(t, reducedGrid(c))
	seen := map[[3]float64]string{}
	for _, d := range []struct {
		s     *Simulator
		seed  uint64
		split string
		index int
	}{{r, 1, "train", 0}, {r, 2, "train", 0}, {r, 1, "validation", 0}, {r, 1, "train", 1}, {small, 1, "train", 0}} {
		st, err := d.s.Structure(context.Background(), d.seed, d.split, d.index)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint(d.seed, d.split, d.index, d.s == small)
		if other, ok := seen[st.Info.Particles[0].Lattice]; ok {
			t.Errorf("%s and %s are the same structure", name, other)
		}
		seen[st.Info.Particles[0].Lattice] = name
	}
}

// reducedGrid keeps the atoms of a configuration and coarsens its sampling.
func reducedGrid(c Config) Config {
	c.Grid, c.Output, c.Crop = 640, 320, 256
	return c
}

// Carbon keeps its distance from the particles' atoms.
func TestCarbonKeepsClear(t *testing.T) {
	s := newSimulator(t, Reduced("dc_C"))
	removed := 0
	for i := range 4 {
		st, err := s.Structure(context.Background(), 1, "train", i)
		if err != nil {
			t.Fatal(err)
		}
		removed += st.Info.CarbonRemoved
		for _, f := range st.Film {
			if f.Pos[2] > 0 || f.Pos[2] < -st.Info.CarbonThickness {
				t.Fatalf("a film atom at height %.3f", f.Pos[2])
			}
			for _, a := range st.Particles {
				dx, dy := a.Pos[0]-f.Pos[0], a.Pos[1]-f.Pos[1]
				dx -= 51.2 * math.Round(dx/51.2)
				dy -= 51.2 * math.Round(dy/51.2)
				if d := math.Sqrt(dx*dx + dy*dy + math.Pow(a.Pos[2]-f.Pos[2], 2)); d < 1.4 {
					t.Fatalf("a film atom %.3f Å from a particle's", d)
				}
			}
		}
	}
	if removed == 0 {
		t.Error("no film atom was ever removed: the check above saw nothing")
	}
}

// FocusPhonons may be 2: all draws give the same zero defocus within half an
// ångström.
func TestFewPhononsFindFocus(t *testing.T) {
	c := Reduced("w_CdSe")
	c.Carbon = [2]float64{}
	c.Phonons = 8
	var f [2]float64
	for i, n := range []int{2, 8} {
		c.FocusPhonons = n
		sp, err := newSimulator(t, c).Specimen(context.Background(), 4, "train", 0)
		if err != nil {
			t.Fatal(err)
		}
		f[i] = sp.Info.FocusOffset
	}
	within(t, "difference in Å", f[0]-f[1], -0.5, 0.5)
}

func TestConfigIsValidated(t *testing.T) {
	for _, name := range crystal.Names() {
		for _, c := range []Config{Paper(name), Reduced(name)} {
			if err := c.Validate(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	nan := math.NaN()
	for name, change := range map[string]func(c *Config){
		"crystal":       func(c *Config) { c.Crystal = "w_CdS" },
		"faults":        func(c *Config) { c.Crystal, c.MaxFaults = "fcc_Cu", 1 },
		"many faults":   func(c *Config) { c.MaxFaults = 3 },
		"cell":          func(c *Config) { c.Cell = nan },
		"grid":          func(c *Config) { c.Grid = 1022 },
		"huge grid":     func(c *Config) { c.Grid = 1 << 20 },
		"coarse grid":   func(c *Config) { c.Grid, c.Output, c.Crop = 128, 128, 128 },
		"output":        func(c *Config) { c.Output = 512; c.Grid = 256 },
		"coarse output": func(c *Config) { c.Output, c.Crop = 96, 96 },
		"crop":          func(c *Config) { c.Crop = 129 },
		"no crop":       func(c *Config) { c.Crop = 0 },
		"radius":        func(c *Config) { c.Radius = [2]float64{9, 8} },
		"large radius":  func(c *Config) { c.Radius[1] = 25 },
		"particles":     func(c *Config) { c.Particles = [2]int{3, 2} },
		"gap":           func(c *Config) { c.Gap = -1 },
		"carbon":        func(c *Config) { c.Carbon = [2]float64{-1, 20} },
		"phonons":       func(c *Config) { c.Phonons = 0 },
		"focus phonons": func(c *Config) { c.FocusPhonons = 5 },
		"displacement":  func(c *Config) { c.Displacement = nan },
		"slice":         func(c *Config) { c.Slice = 0 },
		"energy":        func(c *Config) { c.BeamEnergy = 300 },
		"spread":        func(c *Config) { c.FocalSpread = -1 },
		"sign":          func(c *Config) { c.DefocusSign = 0 },
		"label":         func(c *Config) { c.LabelPhase, c.LabelBlur, c.LabelLevel = 4, -1, 2 },
	} {
		c := Reduced("w_CdSe")
		change(&c)
		if err := c.Validate(); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := NewSimulator(c); err == nil {
			t.Errorf("%s: a simulator is made", name)
		}
	}
}

// What a caller can get wrong is an error, and cancelling stops.
func TestImageErrors(t *testing.T) {
	s := newSimulator(t, small())
	ctx := context.Background()
	sp, err := s.Specimen(ctx, 1, "train", 0)
	if err != nil {
		t.Fatal(err)
	}
	n := small().Crop
	ok := Conditions{Defocus: 10, DefocusStd: 15, Dose: 100}
	for name, call := range map[string]func() error{
		"length":    func() error { _, err := s.Image(ctx, sp, ok, s.stream(1, "test", ""), make([]float32, 5)); return err },
		"dose":      func() error { return makeImage(s, sp, Conditions{Dose: math.NaN()}, n) },
		"huge dose": func() error { return makeImage(s, sp, Conditions{Dose: 1e30}, n) },
		"defocus":   func() error { return makeImage(s, sp, Conditions{Dose: 1, Defocus: math.Inf(1)}, n) },
		"no waves":  func() error { return makeImage(s, &Specimen{}, ok, n) },
		"waves":     func() error { return makeImage(s, &Specimen{Waves: [][]complex64{sp.Waves[0][:7]}}, ok, n) },
		"crop":      func() error { return makeImage(s, &Specimen{Waves: sp.Waves, Info: Info{Crop: [2]int{40, 0}}}, ok, n) },
		"NaN":       func() error { return makeImage(s, damaged(sp, math.NaN()), ok, n) },
		"huge wave": func() error { return makeImage(s, damaged(sp, 1e30), ok, n) },
		"index":     func() error { _, err := s.Specimen(ctx, 1, "train", -1); return err },
	} {
		if call() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := makeImage(s, sp, ok, n); err != nil {
		t.Error(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Specimen(cancelled, 1, "train", 0); err == nil {
		t.Error("a cancelled simulation goes on")
	}
}

// damaged returns a specimen with one wrong number in a wave.
func damaged(sp *Specimen, v float64) *Specimen {
	waves := slices.Clone(sp.Waves)
	waves[0] = slices.Clone(waves[0])
	waves[0][100] = complex(float32(v), 0)
	return &Specimen{Info: sp.Info, Waves: waves}
}

func makeImage(s *Simulator, sp *Specimen, c Conditions, n int) error {
	_, err := s.Image(context.Background(), sp, c, s.stream(1, "test", ""), make([]float32, n*n))
	return err
}

// The label belongs to the structure: no defocus or dose changes it, and imaging
// changes nothing of a specimen.
func TestImagingLeavesTheSpecimen(t *testing.T) {
	s := newSimulator(t, small())
	sp, err := s.Specimen(context.Background(), 1, "train", 0)
	if err != nil {
		t.Fatal(err)
	}
	wave, label := slices.Clone(sp.Waves[1]), slices.Clone(sp.Label)
	for _, c := range []Conditions{{Defocus: -200, Dose: 30}, {Defocus: 100, DefocusStd: 15, Dose: 600}} {
		if err := makeImage(s, sp, c, small().Crop); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(wave, sp.Waves[1]) || !slices.Equal(label, sp.Label) {
		t.Error("imaging changed the specimen")
	}
}
