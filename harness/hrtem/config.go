package hrtem

import (
	"errors"
	"fmt"
	"maps"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/internal/bounds"
)

// Version is the generator's format version. It enters every data digest and is
// raised whenever the bits of a specimen or an image may change.
const Version = 1

// Config is everything that determines a structure's exit waves and label. Its
// JSON form enters the data digest; its JSON names are the keys of a spec's table
// [simulation], without the crystal, which a spec names in its grid.
type Config struct {
	// Crystal is one of crystal.Names, for example "w_CdSe".
	Crystal string `json:"crystal,omitempty" spec:"-"`
	// Cell is the side of the square periodic cell in Å (study: 128).
	Cell float64 `json:"cell"`
	// Grid is the number of simulation samples per side (study: 0.1 Å apart).
	// A multiple of 16 whose only prime factors are 2, 3 and 5, as is Output.
	Grid int `json:"grid"`
	// Output is the number of samples per side that are kept of an exit wave
	// after the Fourier crop (study: 0.2 Å apart).
	Output int `json:"output"`
	// Crop is the side in pixels of images and labels, cut from the output
	// field at a random offset (512 of 640; our reading of the study's figures).
	// A multiple of 16.
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

// labelBlurs are the crystals whose labels the study blurs otherwise.
var labelBlurs = map[string]float64{"dc_C": 1, "bcc_Fe": 1, "spinel_Co3O4": 1}

// PaperDefaults returns the study's values before a crystal is chosen, and the
// label blur in Å of the crystals that have their own. Config.Of combines them.
func PaperDefaults() (Config, map[string]float64) {
	return Config{
		Cell:         128,
		Grid:         1280,
		Output:       640,
		Crop:         512,
		Radius:       [2]float64{15, 25},
		Particles:    [2]int{1, 5},
		Gap:          10,
		Carbon:       [2]float64{20, 80},
		MaxFaults:    2,
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
	}, maps.Clone(labelBlurs)
}

// Of returns c for a crystal: with its label blur where blurs has one, and
// without stacking faults where the crystal is not a wurtzite.
func (c Config) Of(crystalName string, blurs map[string]float64) Config {
	c.Crystal = crystalName
	if !crystal.Wurtzite(crystalName) {
		c.MaxFaults = 0
	}
	if blur, ok := blurs[crystalName]; ok {
		c.LabelBlur = blur
	}
	return c
}

// Paper returns the study's values for a crystal, with the particle sizes of its
// defocus and noise series.
func Paper(crystalName string) Config {
	c, blurs := PaperDefaults()
	return c.Of(crystalName, blurs)
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

// Problem is one thing that makes a Config or Conditions impossible.
type Problem struct {
	Key     string // JSON name of the field
	Message string // what is wrong with it
}

// CheckFields lists the fields that are out of bounds whatever the others are.
// The bounds also limit what a simulation may allocate.
func (c Config) CheckFields() []Problem {
	const maxSide = 4096 // samples
	var found []Problem
	check := func(key, message string) {
		if message != "" {
			found = append(found, Problem{key, message})
		}
	}
	check("cell", bounds.Number(c.Cell, 8, 1024))
	for _, side := range []struct {
		key string
		n   int
	}{{"grid", c.Grid}, {"output", c.Output}} {
		check(side.key, bounds.Integer(side.n, 16, maxSide))
		if side.n > 0 && !fft.Supported(side.n) {
			check(side.key, fmt.Sprintf("must be a multiple of %d and a product of 2, 3 and 5, for the Fourier transform, but is %d", fft.Lanes, side.n))
		}
	}
	check("crop", bounds.Integer(c.Crop, 16, maxSide))
	if c.Crop%16 != 0 {
		check("crop", fmt.Sprintf("must be a multiple of 16, which the network halves four times, but is %d", c.Crop))
	}
	check("radius", bounds.Span(c.Radius, 2, 200))
	if p := c.Particles; p[0] < 0 || p[0] > p[1] || p[1] > 64 {
		check("particles", fmt.Sprintf("wants [smallest, largest] between 0 and 64, but is [%d, %d]", p[0], p[1]))
	}
	check("gap", bounds.Number(c.Gap, 0, 1000))
	check("carbon", bounds.Span(c.Carbon, 0, 500))
	check("max_faults", bounds.Integer(c.MaxFaults, 0, 2))
	check("phonons", bounds.Integer(c.Phonons, 1, 64))
	check("displacement", bounds.Number(c.Displacement, 0, 1))
	check("slice", bounds.Number(c.Slice, 0.25, 10))
	check("beam_energy", bounds.Number(c.BeamEnergy, 10e3, 2e6))
	check("focal_spread", bounds.Number(c.FocalSpread, 0, 1000))
	if c.DefocusSign != 1 && c.DefocusSign != -1 {
		check("defocus_sign", fmt.Sprintf("must be 1 (underfocus counts positive) or -1 (overfocus does), but is %d", c.DefocusSign))
	}
	check("focus_phonons", bounds.Integer(c.FocusPhonons, 1, 64))
	check("label_phase", bounds.Positive(c.LabelPhase, math.Pi))
	check("label_blur", bounds.Number(c.LabelBlur, 0, 20))
	if !(c.LabelLevel > 0 && c.LabelLevel < 1) {
		check("label_level", fmt.Sprintf("must be more than 0 and less than 1, but is %g", c.LabelLevel))
	}
	return found
}

// CheckTogether lists what is wrong between fields: particles that do not fit
// into the cell, pixels that do not show the lattice. It stands any values.
func (c Config) CheckTogether() []Problem {
	var found []Problem
	bad := func(key, format string, args ...any) {
		found = append(found, Problem{key, fmt.Sprintf(format, args...)})
	}
	if c.Crop > c.Output {
		bad("crop", "%d pixels cannot be cut out of simulation.output = %d", c.Crop, c.Output)
	}
	if c.Output > c.Grid {
		bad("output", "%d pixels cannot be made of simulation.grid = %d samples", c.Output, c.Grid)
	}
	if px := c.Cell / float64(c.Output); c.Output > 0 && px > 0.5 {
		bad("output", "%d pixels on %g Å are %.3g Å each; above 0.5 Å the lattice is lost", c.Output, c.Cell, px)
	}
	if px := c.Cell / float64(c.Grid); c.Grid > 0 && px > 0.25 {
		bad("grid", "%d samples on %g Å are %.3g Å apart; the wave needs 0.25 Å or less", c.Grid, c.Cell, px)
	}
	if c.FocusPhonons > c.Phonons {
		bad("focus_phonons", "%d are more than simulation.phonons = %d", c.FocusPhonons, c.Phonons)
	}
	if c.Particles[1] > 0 && 2*c.Radius[1]+c.Gap > c.Cell {
		bad("radius", "a particle of radius %g Å and its gap of %g Å do not fit into simulation.cell = %g Å", c.Radius[1], c.Gap, c.Cell)
	}
	return found
}

// Validate reports everything that makes c impossible to simulate.
func (c Config) Validate() error {
	var errs []error
	if _, err := crystal.Lookup(c.Crystal); err != nil {
		errs = append(errs, err)
	} else if c.MaxFaults != 0 && !crystal.Wurtzite(c.Crystal) {
		errs = append(errs, fmt.Errorf("max_faults is %d, but stacking faults are defined for wurtzite only, not %s", c.MaxFaults, c.Crystal))
	}
	for _, p := range append(c.CheckFields(), c.CheckTogether()...) {
		errs = append(errs, fmt.Errorf("%s %s", p.Key, p.Message))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("simulation: %w", err)
	}
	return nil
}
