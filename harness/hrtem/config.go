package hrtem

import (
	"errors"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
)

// Version is the generator's format version. It enters every data digest and is
// raised whenever the bits of a specimen or an image may change.
const Version = 1

// Config is everything that determines a structure's exit waves and label. Its
// JSON form enters the data digest.
type Config struct {
	// Crystal is one of crystal.Names, for example "w_CdSe".
	Crystal string `json:"crystal"`
	// Cell is the side of the square periodic cell in Å (study: 128).
	Cell float64 `json:"cell"`
	// Grid is the number of simulation samples per side (study: 0.1 Å apart).
	// Its only prime factors are 2, 3 and 5.
	Grid int `json:"grid"`
	// Output is the number of samples per side that are kept of an exit wave
	// after the Fourier crop (study: 0.2 Å apart).
	Output int `json:"output"`
	// Crop is the side in pixels of images and labels, cut from the output
	// field at a random offset (512 of 640; our reading of the study's figures).
	Crop int `json:"crop"`
	// Radius is the range in Å of particle radii, drawn uniformly (study: 15–25,
	// small 10–20, large 25–35).
	Radius [2]float64 `json:"radius"`
	// Particles is the range of particle numbers (study: 1–5), drawn uniformly.
	Particles [2]int `json:"particles"`
	// Gap is the least lateral distance in Å between particle surfaces (study: 10).
	Gap float64 `json:"gap"`
	// Carbon is the range in Å of film thickness, drawn uniformly (study: 20–80).
	// {0, 0} leaves the film out.
	Carbon [2]float64 `json:"carbon"`
	// MaxFaults is the largest number of I1 stacking faults in a wurtzite
	// particle (study: up to 2); 0 to MaxFaults are drawn with equal probability.
	MaxFaults int `json:"max_faults"`
	// Phonons is the number of frozen-phonon draws (study: 8).
	Phonons int `json:"phonons"`
	// Displacement is the root-mean-square thermal displacement in Å along each
	// axis, the same for all elements (our choice: 0.1, that is B = 0.79 Å²).
	Displacement float64 `json:"displacement"`
	// Slice is the slice thickness in Å (our choice: 2).
	Slice float64 `json:"slice"`
	// BeamEnergy is the beam's kinetic energy in eV (study: 300 000).
	BeamEnergy float64 `json:"beam_energy"`
	// FocalSpread is the 1/e half width in Å of the focus distribution, √2 times
	// its standard deviation (study: 10; the convention is our choice, abTEM's).
	FocalSpread float64 `json:"focal_spread"`
	// DefocusSign is −1 where a positive defocus label means overfocus, +1 where
	// it means underfocus (our choice: −1).
	DefocusSign int `json:"defocus_sign"`
	// FocusPhonons is the number of phonon draws that the search for zero
	// defocus uses (our choice: 2; more move the result by less than a step).
	FocusPhonons int `json:"focus_phonons"`
	// LabelPhase is the phase in rad above which a pixel of the particles' exit
	// wave in vacuum is particle (study: π/16).
	LabelPhase float64 `json:"label_phase"`
	// LabelBlur is the standard deviation in Å of the Gaussian blur of the label
	// (study: 1.0 for diamond, iron and Co3O4, 1.6 for the others).
	LabelBlur float64 `json:"label_blur"`
	// LabelLevel is the level of the blurred label above which a pixel is
	// particle (our choice: 0.1, which reproduces the particles' outlines).
	LabelLevel float64 `json:"label_level"`
}

// Paper returns the study's values for a crystal, with the particle sizes of its
// defocus and noise series.
func Paper(crystalName string) Config {
	c := Config{
		Crystal:      crystalName,
		Cell:         128,
		Grid:         1280,
		Output:       640,
		Crop:         512,
		Radius:       [2]float64{15, 25},
		Particles:    [2]int{1, 5},
		Gap:          10,
		Carbon:       [2]float64{20, 80},
		Phonons:      8,
		Displacement: 0.1,
		Slice:        2,
		BeamEnergy:   300e3,
		FocalSpread:  10,
		DefocusSign:  -1,
		FocusPhonons: 2,
		LabelPhase:   math.Pi / 16,
		LabelBlur:    1.6,
		LabelLevel:   0.1,
	}
	switch crystalName {
	case "w_CdSe", "w_ZnS":
		c.MaxFaults = 2
	case "dc_C", "bcc_Fe", "spinel_Co3O4":
		c.LabelBlur = 1
	}
	return c
}

// Reduced returns a smaller field with smaller particles on a thinner film, and
// the study's physics: 128 pixels of 0.4 Å, band limit 1.67 1/Å. Its small and large
// particles have radii of 8–10 and 12–16 Å.
//
// Thinner particles reach the label's phase in fewer places than the study's, so
// the label is cut at 0.07 instead of 0.1: at these radii it then covers 0.65 to
// 1.17 of every crystal's discs.
func Reduced(crystalName string) Config {
	c := Paper(crystalName)
	c.Cell = 51.2
	c.Grid = 256
	c.Output = 128
	c.Crop = 128
	c.Radius = [2]float64{8, 13}
	c.Particles = [2]int{1, 3}
	c.Gap = 5
	c.Carbon = [2]float64{10, 40}
	c.Phonons = 4
	c.LabelLevel = 0.07
	return c
}

// Validate reports everything that makes c impossible to simulate. It also
// bounds what a simulation may allocate.
func (c Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	between := func(name string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) { // also catches NaN
			bad("%s is %v, want %v to %v", name, v, lo, hi)
		}
	}

	if _, err := crystal.Lookup(c.Crystal); err != nil {
		errs = append(errs, err)
	} else if c.MaxFaults != 0 && !crystal.Wurtzite(c.Crystal) {
		bad("max_faults is %d, but stacking faults are defined for wurtzite only, not %s", c.MaxFaults, c.Crystal)
	}
	between("max_faults", float64(c.MaxFaults), 0, 2)
	between("cell", c.Cell, 8, 1024)
	between("grid", float64(c.Grid), 16, 4096)
	between("output", float64(c.Output), 16, float64(c.Grid))
	between("crop", float64(c.Crop), 1, float64(c.Output))
	for _, n := range []struct {
		name string
		v    int
	}{{"grid", c.Grid}, {"output", c.Output}} {
		if n.v > 0 && (n.v%2 != 0 || !fft.Supported(n.v)) {
			bad("%s is %d, want an even product of 2, 3 and 5", n.name, n.v)
		}
	}
	if px := c.Cell / float64(c.Grid); px > 0.25 {
		bad("grid is %d for a cell of %v Å, %.3g Å per sample, want at most 0.25 Å", c.Grid, c.Cell, px)
	}
	if px := c.Cell / float64(c.Output); px > 0.5 {
		bad("output is %d for a cell of %v Å, %.3g Å per pixel, want at most 0.5 Å for lattice fringes to survive", c.Output, c.Cell, px)
	}
	between("radius minimum", c.Radius[0], 2, 200)
	between("radius maximum", c.Radius[1], c.Radius[0], 200)
	between("gap", c.Gap, 0, 1000)
	if c.Particles[0] < 0 || c.Particles[1] < c.Particles[0] || c.Particles[1] > 64 {
		bad("particles is %v, want 0 ≤ minimum ≤ maximum ≤ 64", c.Particles)
	}
	if c.Particles[1] > 0 && 2*c.Radius[1]+c.Gap > c.Cell {
		bad("a particle of radius %v Å and its gap of %v Å do not fit a cell of %v Å", c.Radius[1], c.Gap, c.Cell)
	}
	between("carbon minimum", c.Carbon[0], 0, 500)
	between("carbon maximum", c.Carbon[1], c.Carbon[0], 500)
	between("phonons", float64(c.Phonons), 1, 64)
	between("focus_phonons", float64(c.FocusPhonons), 1, float64(max(c.Phonons, 1)))
	between("displacement", c.Displacement, 0, 1)
	between("slice", c.Slice, 0.25, 10)
	between("beam_energy", c.BeamEnergy, 10e3, 2e6)
	between("focal_spread", c.FocalSpread, 0, 1000)
	if c.DefocusSign != 1 && c.DefocusSign != -1 {
		bad("defocus_sign is %d, want -1 or +1", c.DefocusSign)
	}
	between("label_phase", c.LabelPhase, 0, math.Pi)
	between("label_blur", c.LabelBlur, 0, 20)
	between("label_level", c.LabelLevel, 0, 1)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("simulation: %w", err)
	}
	return nil
}
