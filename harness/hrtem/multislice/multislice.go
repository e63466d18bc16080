// Package multislice sends a plane wave of fast electrons through slices of
// atoms.
//
// With projected potentials V_s in V·Å the wave after slice s is
//
//	ψ ← F⁻¹[P·F[exp(iσV_s)·ψ]],  P(k) = exp(−iπλΔz·k²) for |k| ≤ k_max, else 0
//
// starting from ψ = 1, where k_max is two thirds of the grid's Nyquist frequency
// (E. J. Kirkland, "Advanced Computing in Electron Microscopy", chapter 6). An
// atom's whole potential is put into its slice:
//
//	V(x) = 1/A · Σ_k Factor·f(k)·S(k)·exp(2πi·k·x),  S(k) = Σ_j exp(−2πi·k·x_j)
//
// for |k| up to 0.95 of the Nyquist frequency, where A is the cell's area and f the
// scattering factor. The zero frequency is kept, so that phases count from vacuum.
// The structure factor S comes from atoms deposited as truncated Gaussians, whose
// transform is divided out again: positions are not rounded to the grid, and the
// potential is right to 0.2 % of an atom's peak.
//
// The potential keeps frequencies beyond k_max because exp(iσV) of a heavy atom
// mixes them down: against a grid of 0.025 Å, a CdSe particle's exit wave on 0.1 Å
// is wrong by 5.0 % (root mean square of ψ−1, up to 2.5 1/Å) with the potential
// limited to k_max, by 2.7 % with this; on 0.2 Å (up to 1.25 1/Å) by 7.1 % and
// 4.0 %. Limiting exp(iσV) itself, too, at the price of two more transforms a
// slice, changes these figures by less than a tenth.
package multislice

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/kernel"
	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
)

// Options say what is propagated and on which grid.
type Options struct {
	Grid     int     // samples per side
	Output   int     // samples per side of exit waves, ≤ Grid
	Cell     float64 // side in Å of the periodic cell
	Slice    float64 // slice thickness in Å
	Energy   float64 // eV
	Elements []int   // atomic numbers that may occur
}

// Multislice holds the tables of a grid. It is safe for concurrent use.
type Multislice struct {
	o            Options
	band         int // largest frequency index up to k_max
	grid, output *fft.Plan
	propagator   fft.Field         // P/Grid²
	phase        map[int][]float32 // by atomic number: σ·Factor·f/(A·transform of the Gaussian)
}

// New makes the tables.
func New(o Options) (*Multislice, error) {
	m := &Multislice{o: o, phase: map[int][]float32{}}
	var err error
	if m.grid, err = fft.NewPlan(o.Grid); err != nil {
		return nil, fmt.Errorf("multislice grid: %w", err)
	}
	if m.output, err = fft.NewPlan(o.Output); err != nil {
		return nil, fmt.Errorf("multislice output: %w", err)
	}
	if o.Output > o.Grid {
		return nil, fmt.Errorf("multislice: output of %d samples from a grid of %d", o.Output, o.Grid)
	}
	m.band = o.Grid / 3
	lambda := kirkland.Wavelength(o.Energy)
	area := float64(o.Cell * o.Cell)
	m.propagator = fft.NewField(o.Grid)
	scale := 1 / float64(o.Grid*o.Grid)
	// |k| ≤ k_max in units of 1/Cell: 9·(kx² + ky²) ≤ Grid².
	m.eachFrequency(1, 9, func(i int, k2 float64) {
		s, c := portable.SinCos(float64(math.Pi * lambda * o.Slice * k2))
		m.propagator.Re[i], m.propagator.Im[i] = float32(scale*c), float32(-scale*s)
	})
	sigma := kirkland.Interaction(o.Energy)
	px := o.Cell / float64(o.Grid)
	for _, z := range o.Elements {
		e, err := kirkland.Lookup(z)
		if err != nil {
			return nil, err
		}
		if m.phase[z] != nil {
			continue
		}
		table := make([]float32, o.Grid*o.Grid)
		// The values are functions of k² alone, and few of these differ.
		known := map[float64]float32{}
		m.eachFrequency(361, 1600, func(i int, k2 float64) {
			v, ok := known[k2]
			if !ok {
				gauss := portable.Exp(-2 * math.Pi * math.Pi * width * width * px * px * k2)
				v = float32(sigma * kirkland.Factor * e.Scattering(k2) / area / gauss)
				known[k2] = v
			}
			table[i] = v
		})
		m.phase[z] = table
	}
	return m, nil
}

// eachFrequency calls f with the index and k² (1/Å²) of every frequency with k² up to
// p/q·(Grid/Cell)²: 1/4 would be the square of Nyquist's, 1/9 is that of two thirds
// of it, 361/1600 that of 0.95.
func (m *Multislice) eachFrequency(p, q int, f func(i int, k2 float64)) {
	n := m.o.Grid
	for kx := range n {
		for ky := range n {
			fx, fy := fft.Frequency(n, kx), fft.Frequency(n, ky)
			if r := fx*fx + fy*fy; q*r <= p*n*n {
				f(fft.Index(n, kx, ky), float64(r)/float64(m.o.Cell*m.o.Cell))
			}
		}
	}
}

// Wave is a wave on its way through the slices, with the memory that this needs.
type Wave struct {
	m       *Multislice
	psi     fft.Field
	vacuum  bool // psi is 1
	phase   fft.Field
	density map[int]fft.Field // atoms of one element: first slice real, second imaginary
	line    [2][2*reach + 1]float32
}

// NewWave returns a wave; Start must be called before it is used.
func (m *Multislice) NewWave() *Wave {
	return &Wave{m: m, psi: fft.NewField(m.o.Grid), phase: fft.NewField(m.o.Grid), density: map[int]fft.Field{}}
}

// Start sets the wave to the incident plane wave.
func (w *Wave) Start() {
	for i := range w.psi.Re {
		w.psi.Re[i], w.psi.Im[i] = 1, 0
	}
	w.vacuum = true
}

// Pass sends the wave through slices, of which any may be empty. The potentials of
// two slices are found together, one as the real and one as the imaginary part of
// a transform.
func (w *Wave) Pass(slices [][]crystal.Atom) {
	for i := 0; i < len(slices); i += 2 {
		first, second := slices[i], []crystal.Atom(nil)
		if i+1 < len(slices) {
			second = slices[i+1]
		}
		if len(first)+len(second) > 0 {
			w.phases(first, second)
		}
		w.slice(w.phase.Re, len(first) == 0)
		if i+1 < len(slices) {
			w.slice(w.phase.Im, len(second) == 0)
		}
	}
}

// slice is one multislice step.
func (w *Wave) slice(phase []float32, empty bool) {
	if empty && w.vacuum {
		return
	}
	if !empty {
		kernel.Best.Transmit(kernel.Planes(w.psi), phase)
		w.vacuum = false
	}
	w.m.grid.Filter(w.psi, w.m.band, fft.Term{Src: w.psi, Re: w.m.propagator.Re, Im: w.m.propagator.Im})
}

// phases sets w.phase to σV of two slices.
func (w *Wave) phases(first, second []crystal.Atom) {
	var terms []fft.Term
	for _, z := range w.m.o.Elements {
		if !has(first, z) && !has(second, z) {
			continue
		}
		d, ok := w.density[z]
		if !ok {
			d = fft.NewField(w.m.o.Grid)
			w.density[z] = d
		}
		clear(d.Re)
		clear(d.Im)
		w.deposit(d.Re, first, z)
		w.deposit(d.Im, second, z)
		terms = append(terms, fft.Term{Src: d, Re: w.m.phase[z]})
	}
	w.m.grid.Filter(w.phase, w.m.o.Grid/2, terms...)
}

func has(atoms []crystal.Atom, z int) bool {
	for _, a := range atoms {
		if a.Z == z {
			return true
		}
	}
	return false
}

const (
	width = 1.2 // standard deviation in samples of the Gaussian that atoms are deposited as
	reach = 6   // samples on each side that it covers
)

// deposit adds the atoms of one element to a density.
func (w *Wave) deposit(density []float32, atoms []crystal.Atom, z int) {
	n := w.m.o.Grid
	px := w.m.o.Cell / float64(n)
	for _, a := range atoms {
		if a.Z != z {
			continue
		}
		x0, y0 := spread(&w.line[0], a.Pos[0]/px), spread(&w.line[1], a.Pos[1]/px)
		x0, y0 = modulo(x0, n), modulo(y0, n)
		for i, wx := range w.line[0] {
			x := x0 + i
			if x >= n {
				x -= n
			}
			y := y0
			for _, wy := range w.line[1] {
				density[fft.Index(n, y, x)] += float32(wx * wy)
				if y++; y == n {
					y = 0
				}
			}
		}
	}
}

// spread sets the weights of a Gaussian at position u (samples) and returns the
// sample of the first weight.
func spread(weights *[2*reach + 1]float32, u float64) int {
	centre := math.Floor(u + 0.5)
	d := u - centre
	// exp(−(j−d)²/2w²) = exp(−d²/2w²)·exp(d/w²)^j·exp(−j²/2w²)
	e := portable.Exp(d / (width * width))
	v := float64(gaussPeak * portable.Exp(-float64(d*d)/(2*width*width)))
	up, down := v, v
	weights[reach] = float32(v)
	for j := 1; j <= reach; j++ {
		up, down = float64(up*e), down/e
		weights[reach+j] = float32(up * gauss[j])
		weights[reach-j] = float32(down * gauss[j])
	}
	return int(centre) - reach
}

const gaussPeak = 0.39894228040143267794 / width // 1/(w·√(2π))

// gauss holds exp(−j²/2w²).
var gauss = func() (g [reach + 1]float64) {
	for j := range g {
		g[j] = portable.Exp(-float64(j*j) / (2 * width * width))
	}
	return g
}()

func modulo(i, n int) int {
	i %= n
	if i < 0 {
		i += n
	}
	return i
}

// Exit writes the wave, cropped in Fourier space to Output² samples, row by row.
// The unpaired highest frequencies are set to zero. The wave stays as it is.
func (w *Wave) Exit(rows []complex64) {
	n, o := w.m.o.Grid, w.m.o.Output
	if w.vacuum {
		for i := range rows {
			rows[i] = 1
		}
		return
	}
	spectrum := w.phase // free until the next pair of slices
	w.m.grid.Forward(spectrum, w.psi)
	small := fft.NewField(o)
	scale := float32(1 / float64(n*n))
	for kx := range o {
		for ky := range o {
			fx, fy := fft.Frequency(o, kx), fft.Frequency(o, ky)
			if fx == -o/2 || fy == -o/2 {
				continue
			}
			from, to := fft.Index(n, modulo(fx, n), modulo(fy, n)), fft.Index(o, kx, ky)
			small.Re[to], small.Im[to] = spectrum.Re[from]*scale, spectrum.Im[from]*scale
		}
	}
	w.m.output.Inverse(small, small)
	small.Rows(o, rows)
}

// Norm returns the mean of |ψ|²; what is missing to 1 has been scattered beyond
// the band limit.
func (w *Wave) Norm() float64 {
	s := 0.0
	for i, re := range w.psi.Re {
		im := w.psi.Im[i]
		s += float64(float64(re)*float64(re)) + float64(float64(im)*float64(im))
	}
	return s / float64(len(w.psi.Re))
}
