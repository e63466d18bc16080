package multislice

import (
	"math"
	"math/cmplx"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/hrtem/fft"
	"github.com/refocus-em/refocus/harness/hrtem/internal/kernel"
	"github.com/refocus-em/refocus/harness/hrtem/kirkland"
	"github.com/refocus-em/refocus/harness/random"
)

const energy = 300e3

func newMultislice(t testing.TB, o Options) *Multislice {
	t.Helper()
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// potential returns the projected potential in V·Å of one slice, row by row.
func potential(m *Multislice, atoms []crystal.Atom) []float64 {
	w := m.NewWave()
	w.phases(atoms, nil)
	n := m.o.Grid
	v := make([]float64, n*n)
	for y := range n {
		for x := range n {
			v[y*n+x] = float64(w.phase.Re[fft.Index(n, y, x)]) / kirkland.Interaction(energy)
		}
	}
	return v
}

// direct is the definition of the potential, summed in float64 over all
// frequencies up to 0.95 of Nyquist's.
func direct(o Options, atoms []crystal.Atom) []float64 {
	n := o.Grid
	v := make([]float64, n*n)
	for ky := -n / 2; ky < n/2; ky++ {
		for kx := -n / 2; kx < n/2; kx++ {
			if 1600*(kx*kx+ky*ky) > 361*n*n {
				continue
			}
			var c complex128
			for _, a := range atoms {
				e, _ := kirkland.Lookup(a.Z)
				f := kirkland.Factor * e.Scattering(float64(kx*kx+ky*ky)/(o.Cell*o.Cell)) / (o.Cell * o.Cell)
				c += cmplx.Rect(f, -2*math.Pi*(float64(kx)*a.Pos[0]+float64(ky)*a.Pos[1])/o.Cell)
			}
			for y := range n {
				for x := range n {
					phase := 2 * math.Pi * float64((kx*x+ky*y)%n) / float64(n)
					v[y*n+x] += real(c)*math.Cos(phase) - imag(c)*math.Sin(phase)
				}
			}
		}
	}
	return v
}

// The sum over deposited atoms against the definition. The Gaussian's aliases make
// 0.2 % of one atom's peak: 0.5 % of the highest is allowed.
func TestPotentialAgainstDirectSum(t *testing.T) {
	o := Options{Grid: 48, Output: 48, Cell: 6, Slice: 2, Energy: energy, Elements: []int{48, 34, 6}}
	r := random.Stream(1, "test")
	var atoms []crystal.Atom
	for i := range 50 {
		// Some lie outside the cell, as displaced atoms may.
		atoms = append(atoms, crystal.Atom{Z: o.Elements[i%3], Pos: [3]float64{12*r.Float64() - 3, 12*r.Float64() - 3, 0}})
	}
	got, want := potential(newMultislice(t, o), atoms), direct(o, atoms)
	peak, worst := 0.0, 0.0
	for i := range want {
		peak = max(peak, math.Abs(want[i]))
		worst = max(worst, math.Abs(got[i]-want[i]))
	}
	t.Logf("largest difference %.3g of a peak of %.5g V·Å", worst, peak)
	if worst > 0.005*peak {
		t.Errorf("potentials differ by %.3g V·Å, the peak is %.5g", worst, peak)
	}
}

// Moving all atoms by a fraction of a sample multiplies the spectrum by a phase
// ramp. Aliases are allowed 0.2 % of the largest coefficient.
func TestPotentialMovesWithItsAtoms(t *testing.T) {
	o := Options{Grid: 96, Output: 96, Cell: 9.6, Slice: 2, Energy: energy, Elements: []int{26, 8}}
	m := newMultislice(t, o)
	r := random.Stream(2, "test")
	var atoms, moved []crystal.Atom
	for i := range 50 {
		p := [3]float64{9.6 * r.Float64(), 9.6 * r.Float64(), 0}
		atoms = append(atoms, crystal.Atom{Z: o.Elements[i%2], Pos: p})
		moved = append(moved, crystal.Atom{Z: o.Elements[i%2], Pos: [3]float64{p[0] + 0.37*0.1, p[1] + 0.61*0.1, 0}})
	}
	a, b := spectrum(m, atoms), spectrum(m, moved)
	worst, largest := 0.0, 0.0
	n := o.Grid
	for kx := range n {
		for ky := range n {
			i := fft.Index(n, kx, ky)
			shift := -2 * math.Pi * (0.37*float64(fft.Frequency(n, kx)) + 0.61*float64(fft.Frequency(n, ky))) / float64(n)
			worst = max(worst, cmplx.Abs(b(i)-a(i)*cmplx.Rect(1, shift)))
			largest = max(largest, cmplx.Abs(a(i)))
		}
	}
	if worst > 0.002*largest {
		t.Errorf("spectra differ by %.2g of the largest coefficient", worst/largest)
	}
}

func spectrum(m *Multislice, atoms []crystal.Atom) func(i int) complex128 {
	w := m.NewWave()
	w.phases(atoms, nil)
	clear(w.phase.Im)
	m.grid.Forward(w.phase, w.phase)
	return func(i int) complex128 { return complex(float64(w.phase.Re[i]), float64(w.phase.Im[i])) }
}

// One atom on a sample: integral Factor·f(0), and peaks computed in float64 from the
// definition for a sharp limit at 3.3333 1/Å, which this grid has at 0.95 of its Nyquist
// frequency (3.509 1/Å), to 0.5 % for the frequencies that straddle the limit.
func TestOneAtom(t *testing.T) {
	o := Options{Grid: 320, Output: 256, Cell: 320 / 7.0175, Slice: 2, Energy: energy, Elements: []int{6, 26, 34, 48}}
	m := newMultislice(t, o)
	for _, c := range []struct {
		z              int
		integral, peak float64
	}{{6, 120.238, 306.71}, {26, 342.956, 1028.1}, {34, 345.824, 1246.4}, {48, 442.181, 1667.3}} {
		v := potential(m, []crystal.Atom{{Z: c.z, Pos: [3]float64{160 / 7.0175, 80 / 7.0175, 0}}})
		sum, lowest := 0.0, 0.0
		for _, x := range v {
			sum += x / (7.0175 * 7.0175)
			lowest = min(lowest, x)
		}
		if math.Abs(sum-c.integral) > 1e-4*c.integral {
			t.Errorf("Z = %d: integral %.3f, want %.3f V·Å³", c.z, sum, c.integral)
		}
		if p := v[80*320+160]; math.Abs(p-c.peak) > 0.005*c.peak {
			t.Errorf("Z = %d: peak %.2f, want %.2f V·Å", c.z, p, c.peak)
		}
		// The sharp limit makes the potential ring below zero.
		if c.z == 6 && (lowest > -0.2 || lowest < -0.4) {
			t.Errorf("carbon's least potential is %.2f, want about -0.29 V·Å", lowest)
		}
	}
}

// Lattice spacings in Å, from the peak of the potential's spectrum of a sphere seen
// along a zone axis. A peak's centre of gravity is good to 0.4 %.
func TestSpacings(t *testing.T) {
	const pi = math.Pi
	turn := func(axis int, angle float64) [4]float64 { // about x, y or z
		q := [4]float64{math.Cos(angle / 2)}
		q[1+axis] = math.Sin(angle / 2)
		return q
	}
	none := [4]float64{1}
	for _, c := range []struct {
		name string
		q    [4]float64
		d    float64    // Å
		k    [2]float64 // where the reflection is, 1/Å
	}{
		{"w_CdSe", none, 3.7226, [2]float64{0, 1 / 3.7226}},                                // (010) along c
		{"w_CdSe", none, 2.1493, [2]float64{1 / 2.1493, 0}},                                // (110)
		{"w_CdSe", turn(1, pi/2), 3.5076, [2]float64{1 / 3.5076, 0}},                       // (002) along a basal direction
		{"w_CdSe", turn(1, pi/2), 3.2883, [2]float64{1 / 7.0152, 1 / 3.7226}},              // (011)
		{"w_ZnS", none, 3.3106, [2]float64{0, 1 / 3.3106}},                                 // (010)
		{"fcc_Cu", turn(0, pi/4), 2.0875, [2]float64{1 / 3.6157, math.Sqrt2 / 3.6157}},     // (111) along [011]
		{"bcc_Fe", none, 2.0266, [2]float64{1 / 2.866, 1 / 2.866}},                         // (110) along [001]
		{"spinel_Fe3O4", turn(0, pi/4), 4.8463, [2]float64{1 / 8.394, math.Sqrt2 / 8.394}}, // (111)
		{"spinel_Fe3O4", turn(0, pi/4), 2.5309, [2]float64{3 / 8.394, math.Sqrt2 / 8.394}}, // (311)
	} {
		cell, err := crystal.Lookup(c.name)
		if err != nil {
			t.Fatal(err)
		}
		atoms := cell.Sphere(20, [3]float64{}, nil)
		crystal.Place(atoms, c.q, [3]float64{25.6, 25.6, 25})
		o := Options{Grid: 256, Output: 128, Cell: 51.2, Slice: 2, Energy: energy, Elements: cell.Elements()}
		f := spectrum(newMultislice(t, o), atoms)
		// The largest coefficient there, then the centre of gravity of |F|² around
		// it.
		best, at := 0.0, [2]int{}
		each(o.Grid, func(i, kx, ky int) {
			if math.Hypot(float64(kx)-51.2*c.k[0], float64(ky)-51.2*c.k[1]) < 1 {
				if a := cmplx.Abs(f(i)); a > best {
					best, at = a, [2]int{kx, ky}
				}
			}
		})
		var sum, sx, sy float64
		each(o.Grid, func(i, kx, ky int) {
			if math.Hypot(float64(kx-at[0]), float64(ky-at[1])) < 2.3 {
				p := math.Pow(cmplx.Abs(f(i)), 2)
				sum, sx, sy = sum+p, sx+p*float64(kx), sy+p*float64(ky)
			}
		})
		if got := 51.2 / math.Hypot(sx/sum, sy/sum); math.Abs(got-c.d) > 0.004*c.d {
			t.Errorf("%s: spacing %.4f, want %.4f Å", c.name, got, c.d)
		}
		if mean := cmplx.Abs(f(0)); best < 0.05*mean {
			t.Errorf("%s: the peak at %.4f Å has %.3f of the mean", c.name, c.d, best/mean)
		}
	}
}

func each(n int, f func(i, kx, ky int)) {
	for kx := range n {
		for ky := range n {
			f(fft.Index(n, kx, ky), fft.Frequency(n, kx), fft.Frequency(n, ky))
		}
	}
}

// waveOf returns a wave with the given values.
func waveOf(m *Multislice, f func(x, y float64) complex128) *Wave {
	w := m.NewWave()
	w.Start()
	w.vacuum = false
	n := m.o.Grid
	for y := range n {
		for x := range n {
			v := f(float64(x)*m.o.Cell/float64(n), float64(y)*m.o.Cell/float64(n))
			i := fft.Index(n, y, x)
			w.psi.Re[i], w.psi.Im[i] = float32(real(v)), float32(imag(v))
		}
	}
	return w
}

// A cosine phase grating of amplitude 1 rad has diffraction orders J_n(1).
func TestPhaseGrating(t *testing.T) {
	o := Options{Grid: 96, Output: 96, Cell: 10, Slice: 2, Energy: energy}
	m := newMultislice(t, o)
	w := m.NewWave()
	w.Start()
	n := o.Grid
	for y := range n {
		for x := range n {
			w.phase.Re[fft.Index(n, y, x)] = float32(math.Cos(2 * math.Pi * 2 * float64(x) / float64(n)))
		}
	}
	kernel.Best.Transmit(kernel.Planes(w.psi), w.phase.Re)
	if d := math.Abs(w.Norm() - 1); d > 3e-7 {
		t.Errorf("norm differs from 1 by %.2g", d)
	}
	m.grid.Forward(w.psi, w.psi)
	total := 0.0
	for order := -20; order <= 20; order++ {
		i := fft.Index(n, modulo(2*order, n), 0)
		a := math.Hypot(float64(w.psi.Re[i]), float64(w.psi.Im[i])) / float64(n*n)
		total += a * a
		if want := math.Abs(math.Jn(order, 1)); math.Abs(a-want) > 1e-6 {
			t.Errorf("order %d: %.6f, want %.6f", order, a, want)
		}
	}
	if math.Abs(total-1) > 1e-6 {
		t.Errorf("all orders together: %.7f", total)
	}
}

// Propagation of an arbitrary band-limited wave keeps the norm, and many thin
// slices are one thick slice. The wave is kept in float32: 2·10⁻⁶ allows for the
// roundings of 16 transforms.
func TestVacuumPropagation(t *testing.T) {
	o := Options{Grid: 96, Output: 96, Cell: 20, Slice: 3, Energy: energy}
	thick := o
	thick.Slice = 24
	f := func(x, y float64) complex128 {
		u := 2 * math.Pi / o.Cell
		return 1 + 0.3*cmplx.Rect(1, u*(3*x-7*y)) + 0.2i*cmplx.Rect(1, u*(-20*x+11*y))
	}
	a, b := waveOf(newMultislice(t, o), f), waveOf(newMultislice(t, thick), f)
	norm := a.Norm()
	a.Pass(make([][]crystal.Atom, 8))
	b.Pass(make([][]crystal.Atom, 1))
	if d := math.Abs(a.Norm()/norm - 1); d > 2e-6 {
		t.Errorf("norm changed by %.2g", d)
	}
	for i := range a.psi.Re {
		if d := math.Hypot(float64(a.psi.Re[i]-b.psi.Re[i]), float64(a.psi.Im[i]-b.psi.Im[i])); d > 5e-6 {
			t.Fatalf("8 slices of 3 Å and one of 24 Å differ by %.2g", d)
		}
	}
}

// Talbot: an amplitude grating repeats after 2d²/λ and appears shifted by half a
// period at half of that distance.
func TestTalbot(t *testing.T) {
	const d = 3.7226
	full := 2 * d * d / kirkland.Wavelength(energy)
	if math.Abs(full-1407.77) > 0.01 {
		t.Errorf("Talbot distance %.2f, want 1407.77 Å", full)
	}
	o := Options{Grid: 96, Output: 96, Cell: 3 * d, Slice: full / 8, Energy: energy}
	m := newMultislice(t, o)
	grating := func(x, _ float64) complex128 {
		return complex(1+0.4*math.Cos(2*math.Pi*x/d)+0.1*math.Cos(4*math.Pi*x/d), 0)
	}
	w := waveOf(m, grating)
	for _, shift := range []float64{d / 2, 0} {
		w.Pass(make([][]crystal.Atom, 4))
		want := waveOf(m, func(x, y float64) complex128 { return grating(x+shift, y) })
		for i := range w.psi.Re {
			if e := math.Hypot(float64(w.psi.Re[i]-want.psi.Re[i]), float64(w.psi.Im[i]-want.psi.Im[i])); e > 5e-6 {
				t.Fatalf("shift %.3f: error %.2g", shift, e)
			}
		}
	}
}

// The Fourier crop keeps vacuum and every frequency of the coarse grid, and drops
// those beyond.
func TestExitCrop(t *testing.T) {
	o := Options{Grid: 192, Output: 96, Cell: 19.2, Slice: 2, Energy: energy}
	m := newMultislice(t, o)
	for _, c := range []struct {
		k    float64
		kept bool
	}{{0, true}, {2, true}, {3, false}} { // Nyquist frequency of the output: 2.5 1/Å
		// 2 and 3 1/Å become the nearest frequencies of the cell.
		k := math.Round(c.k*o.Cell) / o.Cell
		w := waveOf(m, func(x, _ float64) complex128 { return complex(math.Cos(2*math.Pi*k*x), 0) })
		rows := make([]complex64, o.Output*o.Output)
		w.Exit(rows)
		for i, v := range rows {
			want := 0.0
			if c.kept {
				want = math.Cos(2 * math.Pi * k * float64(i%o.Output) * 0.2)
			}
			if cmplx.Abs(complex128(v)-complex(want, 0)) > 1e-6 {
				t.Fatalf("k = %v: value %v, want %.6f", k, v, want)
			}
		}
	}
	w := m.NewWave()
	w.Start()
	w.Pass(make([][]crystal.Atom, 3))
	rows := make([]complex64, o.Output*o.Output)
	w.Exit(rows)
	for _, v := range rows {
		if v != 1 {
			t.Fatalf("vacuum is %v", v)
		}
	}
}

// A slice is the same whichever of a pair it is, and whatever the other holds, up
// to the roundings of the transforms.
func TestPairsOfSlices(t *testing.T) {
	o := Options{Grid: 96, Output: 96, Cell: 10, Slice: 2, Energy: energy, Elements: []int{29, 6}}
	m := newMultislice(t, o)
	slices := [][]crystal.Atom{
		{{Z: 29, Pos: [3]float64{1, 2, 0}}}, nil, {{Z: 6, Pos: [3]float64{3, 2, 0}}, {Z: 29, Pos: [3]float64{8, 2.2, 0}}}, {{Z: 6, Pos: [3]float64{9, 4, 0}}}, nil,
	}
	a, b := m.NewWave(), m.NewWave()
	a.Start()
	a.Pass(slices)
	b.Start()
	for _, s := range slices {
		b.Pass([][]crystal.Atom{s})
	}
	for i := range a.psi.Re {
		if d := math.Hypot(float64(a.psi.Re[i]-b.psi.Re[i]), float64(a.psi.Im[i]-b.psi.Im[i])); d > 3e-6 {
			t.Fatalf("in pairs and one by one differ by %.2g", d)
		}
	}
}

func TestOptionsAreChecked(t *testing.T) {
	good := Options{Grid: 96, Output: 48, Cell: 10, Slice: 2, Energy: energy, Elements: []int{6}}
	newMultislice(t, good)
	for name, change := range map[string]func(o *Options){
		"grid":    func(o *Options) { o.Grid = 97 },
		"output":  func(o *Options) { o.Output = 50 },
		"larger":  func(o *Options) { o.Output = 160 },
		"element": func(o *Options) { o.Elements = []int{6, 7} },
	} {
		o := good
		change(&o)
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
