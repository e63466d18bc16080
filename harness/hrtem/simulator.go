package hrtem

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/hrtem/carbon"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
	"github.com/refocus-em/refocus/harness/hrtem/multislice"
	"github.com/refocus-em/refocus/harness/hrtem/optics"
)

// Simulator makes specimens and images for one Config. It is safe for concurrent
// use: one specimen is one thread's work, and its bits depend on no other.
type Simulator struct {
	config  Config
	crystal *crystal.Cell
	symbols map[int]string
	slices  *multislice.Multislice
	lens    *optics.Imager
	blur    []float32 // Fourier filter of the label
	plan    *fft.Plan // of the output field
	waves   chan *multislice.Wave
}

// NewSimulator plans the transforms and makes the tables of a configuration.
func NewSimulator(c Config) (*Simulator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	cell, err := crystal.Lookup(c.Crystal)
	if err != nil {
		return nil, err
	}
	s := &Simulator{config: c, crystal: cell, symbols: map[int]string{}}
	var elements []int
	for _, z := range append(cell.Elements(), carbon.Z) {
		e, err := kirkland.Lookup(z)
		if err != nil {
			return nil, err
		}
		if _, ok := s.symbols[z]; !ok {
			s.symbols[z] = e.Symbol
			elements = append(elements, z)
		}
	}
	s.slices, err = multislice.New(multislice.Options{
		Grid: c.Grid, Output: c.Output, Cell: c.Cell, Slice: c.Slice, Energy: c.BeamEnergy, Elements: elements,
	})
	if err != nil {
		return nil, err
	}
	s.lens, err = optics.New(optics.Options{Samples: c.Output, Cell: c.Cell, Energy: c.BeamEnergy, FocalSpread: c.FocalSpread})
	if err != nil {
		return nil, err
	}
	if s.plan, err = fft.NewPlan(c.Output); err != nil {
		return nil, err
	}
	s.blur = c.blurFilter()
	// Waves are large; keep those of finished specimens for the next ones.
	s.waves = make(chan *multislice.Wave, 64)
	return s, nil
}

// Config returns what the simulator was made for.
func (s *Simulator) Config() Config { return s.config }

// Specimen simulates structure number index of a split ("train", "validation")
// under the study seed.
func (s *Simulator) Specimen(ctx context.Context, seed uint64, split string, index int) (*Specimen, error) {
	st, err := s.Structure(ctx, seed, split, index)
	if err != nil {
		return nil, err
	}
	sp, err := s.Simulate(ctx, st)
	if err != nil {
		return nil, fmt.Errorf("structure %d of %q: %w", index, split, err)
	}
	return sp, nil
}

// Waves are the exit waves of a structure, one for each phonon draw, [Output·Output]
// row by row.
type Waves struct {
	Vacuum [][]complex64 // of the particles alone, at the top of the film
	Full   [][]complex64 // below the film
	Norm   float64       // mean of |ψ|² of Full, before the Fourier crop
}

// ExitWaves sends the electron wave through a structure. The beam meets the particles
// first and a slice ends at the top of the film, so that the wave at that plane is
// that of the particles in vacuum.
func (s *Simulator) ExitWaves(ctx context.Context, st *Structure) (*Waves, error) {
	c := s.config
	wave := s.getWave()
	defer s.putWave(wave)
	w := &Waves{}
	for p := range c.Phonons {
		r := s.stream(st.Info.Seed, "phonon", st.Info.Split, uint64(st.Info.Index), uint64(p))
		particles, film := s.cut(st, r)
		wave.Start()
		for _, part := range []struct {
			slices [][]crystal.Atom
			exits  *[][]complex64
		}{{particles, &w.Vacuum}, {film, &w.Full}} {
			if err := pass(ctx, wave, part.slices); err != nil {
				return nil, err
			}
			exit := make([]complex64, c.Output*c.Output)
			wave.Exit(exit)
			*part.exits = append(*part.exits, exit)
		}
		w.Norm += wave.Norm() / float64(c.Phonons)
	}
	return w, nil
}

// Simulate makes a structure's specimen: its exit waves, and from those of the
// particles in vacuum its label and zero defocus.
func (s *Simulator) Simulate(ctx context.Context, st *Structure) (*Specimen, error) {
	c := s.config
	w, err := s.ExitWaves(ctx, st)
	if err != nil {
		return nil, err
	}
	sp := &Specimen{Info: st.Info, Waves: w.Full}
	sp.Info.Norm = w.Norm
	vacuum := w.Vacuum
	s.label(sp, vacuum)
	if len(st.Info.Particles) == 0 {
		sp.Info.FocusOffset = c.filmDepth(st)
		return sp, nil
	}

	var spectra []fft.Field
	for _, v := range vacuum[:c.FocusPhonons] {
		spectra = append(spectra, s.lens.Spectrum(v))
	}
	// A thin object shows least contrast in focus at its mid-plane.
	guess := 0.0
	for _, p := range st.Info.Particles {
		guess += p.Centre[2] / float64(len(st.Info.Particles))
	}
	f0, contrast, err := s.lens.ZeroDefocus(ctx, spectra, guess, focusSpan)
	if err != nil {
		return nil, err
	}
	sp.Info.FocusOffset, sp.Info.FocusContrast = f0+c.filmDepth(st), contrast
	return sp, nil
}

// focusSpan is the half range in Å of the search for zero defocus.
const focusSpan = 40

// filmDepth is the distance in Å from the top of the film to the exit plane.
func (c Config) filmDepth(st *Structure) float64 {
	return float64(float64(st.Info.CarbonSlices) * c.Slice)
}

// pass sends the wave through slices, and looks for cancellation now and then.
func pass(ctx context.Context, wave *multislice.Wave, slices [][]crystal.Atom) error {
	for len(slices) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(2, len(slices))
		wave.Pass(slices[:n])
		slices = slices[n:]
	}
	return nil
}

// cut displaces the atoms by one draw of thermal motion and sorts them into
// slices, in the order that the beam meets them. An atom belongs to the slice of
// its undisplaced height, and motion along the beam has no effect.
func (s *Simulator) cut(st *Structure, r *rand.Rand) (particles, film [][]crystal.Atom) {
	c := s.config
	particles = make([][]crystal.Atom, st.Info.ParticleSlices)
	film = make([][]crystal.Atom, st.Info.CarbonSlices)
	sort := func(slices [][]crystal.Atom, atoms []crystal.Atom, slice func(height float64) int) {
		for _, a := range atoms {
			i := min(max(slice(a.Pos[2]), 0), len(slices)-1)
			x, y := portable.Normal2(r)
			a.Pos[0] += float64(c.Displacement * x)
			a.Pos[1] += float64(c.Displacement * y)
			slices[i] = append(slices[i], a)
		}
	}
	sort(particles, st.Particles, func(z float64) int { return len(particles) - 1 - int(math.Floor(z/c.Slice)) })
	sort(film, st.Film, func(z float64) int { return int(-z / c.Slice) })
	return particles, film
}

func (s *Simulator) getWave() *multislice.Wave {
	select {
	case w := <-s.waves:
		return w
	default:
		return s.slices.NewWave()
	}
}

func (s *Simulator) putWave(w *multislice.Wave) {
	select {
	case s.waves <- w:
	default:
	}
}
