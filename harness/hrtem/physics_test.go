package hrtem

import (
	"context"
	"math"
	"math/cmplx"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/random"
)

// The tests here check the physics of whole simulations against values from an
// independent multislice program and from weak-phase integrals; each tolerance is
// that of the reference.

func newSimulator(t testing.TB, c Config) *Simulator {
	t.Helper()
	s, err := NewSimulator(c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func simulate(t testing.TB, s *Simulator, st *Structure) *Specimen {
	t.Helper()
	sp, err := s.Simulate(context.Background(), st)
	if err != nil {
		t.Fatal(err)
	}
	return sp
}

// bare is a field without film of 0.1 Å samples and 0.2 Å pixels.
func bare(name string, grid int) Config {
	c := Paper(name)
	c.Cell = float64(grid) / 10
	c.Grid, c.Output, c.Crop = grid, grid/2, grid/2
	c.Particles = [2]int{1, 1}
	c.Gap = 0
	c.Carbon = [2]float64{}
	c.Phonons, c.FocusPhonons = 2, 2
	c.Radius = [2]float64{2, c.Cell / 2}
	c.MaxFaults = 0
	return c
}

// sphere is one particle in the middle of the field, without film.
func (s *Simulator) sphere(seed uint64, radius float64) *Structure {
	r := random.Stream(seed, "test")
	p := Particle{Radius: radius, Centre: [3]float64{s.config.Cell / 2, s.config.Cell / 2, radius}, Rotation: crystal.RandomRotation(r)}
	for i := range p.Lattice {
		p.Lattice[i] = r.Float64()
	}
	atoms := s.crystal.Sphere(radius, p.Lattice, nil)
	crystal.Place(atoms, p.Rotation, p.Centre)
	return &Structure{
		Info:      Info{Seed: seed, Split: "test", Particles: []Particle{p}, ParticleSlices: int(math.Ceil((2*radius + padding) / s.config.Slice))},
		Particles: atoms,
	}
}

func (s *Simulator) intensity(t testing.TB, sp *Specimen, defocus float64) []float32 {
	t.Helper()
	dst := make([]float32, s.config.Output*s.config.Output)
	if err := s.Intensity(context.Background(), sp, defocus, dst); err != nil {
		t.Fatal(err)
	}
	return dst
}

func moments(x []float32) (mean, std float64) {
	for _, v := range x {
		mean += float64(v) / float64(len(x))
	}
	for _, v := range x {
		std += math.Pow(float64(v)-mean, 2) / float64(len(x))
	}
	return mean, math.Sqrt(std)
}

func within(t *testing.T, name string, got, lo, hi float64) {
	t.Helper()
	if !(got >= lo && got <= hi) {
		t.Errorf("%s = %.5g, want %.5g to %.5g", name, got, lo, hi)
	}
}

// One atom at defocus Δf from its plane: intensity − 1 at the atom, from a multislice
// program written independently (±0.002 for carbon, ±1.5 % of the value for
// cadmium) and close to the weak-phase integral −2σ·Factor·∫f·sin(πλΔf·k²)·E·2πk dk.
// Underfocus makes the atom dark. In focus a heavy atom's contrast is what it scatters
// beyond the band limit, where that program limits the potential and this one does
// not: not compared.
func TestContrastOfOneAtom(t *testing.T) {
	for _, c := range []struct {
		crystal string
		z       int
		want    map[float64]float64
		within  float64
	}{
		{"dc_C", 6, map[float64]float64{100: -0.0563, -100: 0.0577, 50: -0.0798, 250: -0.0286, 0: -0.0008}, 0.002},
		{"w_CdSe", 48, map[float64]float64{100: -0.189, -100: 0.207, 50: -0.291, 250: -0.096}, 0.006},
	} {
		config := bare(c.crystal, 512)
		config.Displacement, config.Phonons, config.FocusPhonons, config.DefocusSign = 0, 1, 1, 1
		s := newSimulator(t, config)
		sp := simulate(t, s, &Structure{
			Info:      Info{ParticleSlices: 1},
			Particles: []crystal.Atom{{Z: c.z, Pos: [3]float64{25.6, 25.6, 1}}},
		})
		for defocus, want := range c.want {
			// The exit plane is one slice below the atom.
			image := s.intensity(t, sp, defocus+config.Slice)
			got := float64(image[128*256+128]) - 1
			if math.Abs(got-want) > c.within {
				t.Errorf("Z = %d at %+v Å: contrast %.4f, want %.4f ± %.4f", c.z, defocus, got, want, c.within)
			}
		}
	}
}

// A sphere's zero defocus is the distance from its centre to the exit plane within
// 2 Å, and contrast there is well below that at ±100 Å. |ψ|² falls by no more than
// what is scattered beyond the band limit.
func TestZeroDefocusOfSpheres(t *testing.T) {
	for _, c := range []struct {
		crystal string
		radius  float64
	}{{"w_CdSe", 15}, {"bcc_Fe", 15}, {"dc_C", 10}} {
		config := Reduced(c.crystal)
		config.Phonons, config.Radius, config.Carbon = 2, [2]float64{5, 20}, [2]float64{}
		s := newSimulator(t, config)
		sp := simulate(t, s, s.sphere(1, c.radius))
		within(t, c.crystal+" zero defocus", sp.Info.FocusOffset, c.radius-2, c.radius+2)
		for _, d := range []float64{-100, 100} {
			_, std := moments(s.intensity(t, sp, d))
			within(t, c.crystal+" contrast at ±100 Å over that at 0", std/sp.Info.FocusContrast, 1.25, 5)
		}
		within(t, c.crystal+" norm", sp.Info.Norm, 0.998, 1.000001)
		norm := 0.0
		for _, v := range sp.Waves[0] {
			norm += math.Pow(cmplx.Abs(complex128(v)), 2) / float64(len(sp.Waves[0]))
		}
		within(t, c.crystal+" norm after the crop", norm, 0.9975, sp.Info.Norm+1e-5)
		t.Logf("%s R = %v Å: f0 = %.1f Å, contrast there %.4f, norm %.6f, after the crop %.6f", c.crystal, c.radius, sp.Info.FocusOffset, sp.Info.FocusContrast, sp.Info.Norm, norm)
	}
}

// Films of 20 and 80 Å: speckle at three defoci counted from the mid-plane, mean
// intensity and mean phase, within 12 %, 0.002 and 2 % of the reference; at 100 Å
// the speckle agrees with the weak-phase integral, 0.107 and 0.214.
func TestSpeckleOfCarbon(t *testing.T) {
	for _, c := range []struct {
		thickness, mean, phase float64
		std                    map[float64]float64
	}{
		{20, 0.9995, 0.173, map[float64]float64{100: 0.104, 50: 0.099, 0: 0.029}},
		{80, 0.998, 0.692, map[float64]float64{100: 0.204, 50: 0.183, 0: 0.139}},
	} {
		config := Reduced("w_CdSe")
		config.Output, config.Crop = 256, 256
		config.Particles = [2]int{}
		config.Carbon = [2]float64{c.thickness, c.thickness}
		config.Phonons, config.FocusPhonons, config.DefocusSign = 1, 1, 1
		s := newSimulator(t, config)
		sp, err := s.Specimen(context.Background(), 3, "test", 0)
		if err != nil {
			t.Fatal(err)
		}
		for defocus, want := range c.std {
			// Without particles defocus counts from the film's top. Its effective
			// mid-plane is half a slice upstream, where slices act.
			mean, std := moments(s.intensity(t, sp, defocus-c.thickness/2+config.Slice/2))
			t.Logf("%v Å of carbon at %v Å: contrast %.4f (reference %.3f), mean %.5f", c.thickness, defocus, std, want, mean)
			within(t, "contrast", std, want*0.88, want*1.12)
			within(t, "mean intensity", mean, c.mean-0.002, c.mean+0.002)
		}
		phase := 0.0
		for _, v := range sp.Waves[0] {
			phase += cmplx.Phase(complex128(v)) / float64(len(sp.Waves[0]))
		}
		within(t, "mean phase", phase, 0.98*c.phase, 1.02*c.phase)
		for _, v := range sp.Label {
			if v != 0 {
				t.Fatal("a film without particles has a label")
			}
		}
	}
}

// Label areas over πR² by crystal and radius, from the independent program: mean of
// its two or three orientations, at its plane, 32 Å below the particle. 0.08 allows
// for other orientations. Our plane, right below the particle, gives outlines that
// are good to the same 0.08 or better.
func TestLabelAreas(t *testing.T) {
	for _, c := range []struct {
		crystal string
		radius  float64
		grid    int
		want    float64
	}{
		{"w_CdSe", 10, 256, 0.81},
		{"w_CdSe", 15, 384, 0.95},
		{"bcc_Fe", 10, 256, 1.00},
		{"bcc_Fe", 15, 384, 1.05},
		{"dc_C", 10, 256, 0.75},
	} {
		s := newSimulator(t, bare(c.crystal, c.grid))
		st := s.sphere(1, c.radius)
		here := simulate(t, s, st).Info
		within(t, c.crystal+" area ratio", here.AreaRatio, 0.8, 1.13)
		within(t, c.crystal+" overlap", here.IoU, 0.8, 1)
		within(t, c.crystal+" norm", here.Norm, 0.999, 1.000001)

		for i := range st.Particles {
			st.Particles[i].Pos[2] += 32
		}
		st.Info.ParticleSlices += 16
		st.Info.Particles[0].Centre[2] += 32
		below := simulate(t, s, st).Info
		within(t, c.crystal+" area ratio 32 Å below", below.AreaRatio, c.want-0.08, c.want+0.08)
		t.Logf("%s R = %v Å: area ratio %.3f, 32 Å below %.3f (reference %.2f), IoU %.3f", c.crystal, c.radius, here.AreaRatio, below.AreaRatio, c.want, here.IoU)
	}
}

// Blur and level move the edge of a disc of 20 Å by 1.2816σ − σ²/2R at level 0.1 and by
// −σ²/2R at 0.5, to 1 % of the area.
func TestLabelBlur(t *testing.T) {
	for _, c := range []struct{ sigma, level, want float64 }{{1.6, 0.5, 0.994}, {1.6, 0.1, 1.21}, {1, 0.1, 1.13}} {
		config := bare("w_CdSe", 512)
		config.LabelBlur, config.LabelLevel = c.sigma, c.level
		s := newSimulator(t, config)
		p := Particle{Radius: 20, Centre: [3]float64{25.6, 25.6, 20}}
		sp := &Specimen{Info: Info{Particles: []Particle{p}}}
		wave := make([]complex64, 256*256)
		for i := range wave {
			wave[i] = 1
			if config.covered(sp.Info.Particles, i%256, i/256) {
				wave[i] = complex64(cmplx.Rect(1, 0.5))
			}
		}
		s.label(sp, [][]complex64{wave})
		within(t, "area ratio", sp.Info.AreaRatio, c.want-0.01, c.want+0.01)
	}
}

// The phase test of the label is the arc tangent's.
func TestLabelPhase(t *testing.T) {
	config := bare("w_CdSe", 160)
	config.LabelBlur = 0
	config.LabelLevel = 0.5
	s := newSimulator(t, config)
	wave := make([]complex64, 80*80)
	for i := range wave {
		wave[i] = complex64(cmplx.Rect(0.5+float64(i%7)/7, 2*math.Pi*(float64(i)/6400-0.5)))
	}
	sp := &Specimen{}
	s.label(sp, [][]complex64{wave})
	for i, v := range wave {
		phase := cmplx.Phase(complex128(v))
		if math.Abs(phase-math.Pi/16) < 1e-6 || math.Abs(phase) > math.Pi-1e-6 {
			continue
		}
		if got := sp.Label[i] == 1; got != (phase > math.Pi/16) {
			t.Fatalf("phase %.6f is labelled %v", phase, got)
		}
	}
}

// The films' mid-plane lies below the particles', so a particle-free window has less
// speckle with the film in focus, at f0 − (R + t/2), than mirrored; the
// label of that defocus changes sign with DefocusSign.
func TestDefocusSign(t *testing.T) {
	config := Reduced("w_CdSe")
	config.Particles, config.Radius = [2]int{1, 1}, [2]float64{10, 10}
	config.Carbon = [2]float64{30, 30}
	config.Phonons, config.FocusPhonons = 2, 2
	for _, sign := range []int{-1, 1} {
		config.DefocusSign = sign
		s := newSimulator(t, config)
		sp, err := s.Specimen(context.Background(), 1, "test", 0)
		if err != nil {
			t.Fatal(err)
		}
		window := func(label float64) float64 {
			var empty []float32
			for i, v := range s.intensity(t, sp, label) {
				p := [3]float64{float64(i%128) * 0.4, float64(i/128) * 0.4}
				if config.lateral(p, sp.Info.Particles[0].Centre) > 17*17 {
					empty = append(empty, v)
				}
			}
			_, std := moments(empty)
			return std
		}
		depth := -(10 + 30.0/2) * float64(sign) // label at which the film is in focus
		inFocus, mirrored := window(depth), window(-depth)
		t.Logf("sign %+d: speckle %.4f at %+v Å, %.4f at %+v Å", sign, inFocus, depth, mirrored, -depth)
		if inFocus > 0.8*mirrored {
			t.Errorf("sign %+d: speckle %.4f with the film in focus at %+v Å, %.4f mirrored", sign, inFocus, depth, mirrored)
		}
	}
}

// Counts at 400 e⁻/Å² in 0.2 Å pixels: mean 16, and in empty carbon the standard
// deviation 16·√(1/16 + s²) with speckle s of 0.10 to 0.20.
func TestCountsOfTheDefocusSeries(t *testing.T) {
	config := Reduced("w_CdSe")
	config.Output, config.Crop = 256, 256
	config.Particles = [2]int{}
	config.Carbon = [2]float64{40, 40}
	config.Phonons, config.FocusPhonons = 1, 1
	s := newSimulator(t, config)
	sp, err := s.Specimen(context.Background(), 5, "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]float32, 256*256)
	if _, err := s.Counts(context.Background(), sp, Conditions{Defocus: 100, DefocusStd: 15, Dose: 400}, random.Stream(5, "test"), counts); err != nil {
		t.Fatal(err)
	}
	mean, std := moments(counts)
	within(t, "mean count", mean, 15.85, 16.15)
	within(t, "standard deviation", std, 4.3, 5.2)
}

// Thermal motion: 0.1 Å along x and y, none without displacement, and intensities
// that differ from the intensity of the mean wave.
func TestPhonons(t *testing.T) {
	config := bare("fcc_Ag", 384)
	s := newSimulator(t, config)
	st := s.sphere(2, 15)
	var sum, squares, n float64
	for p := range uint64(12) {
		particles, _ := s.cut(st, random.Stream(p, "test"))
		moved := map[float64][3]float64{} // heights stay and are distinct
		for _, slice := range particles {
			for _, a := range slice {
				moved[a.Pos[2]] = a.Pos
			}
		}
		for _, a := range st.Particles {
			for i := range 2 {
				d := moved[a.Pos[2]][i] - a.Pos[i]
				sum, squares, n = sum+d, squares+d*d, n+1
			}
		}
	}
	within(t, "mean displacement", sum/n, -0.002, 0.002)
	within(t, "displacement", math.Sqrt(squares/n), 0.099, 0.101)

	sp := simulate(t, s, st)
	var coherent, total float64
	for i, v := range sp.Waves[0] {
		a, b := complex128(v), complex128(sp.Waves[1][i])
		total += (math.Pow(cmplx.Abs(a), 2) + math.Pow(cmplx.Abs(b), 2)) / 2
		coherent += math.Pow(cmplx.Abs(a+b)/2, 2)
	}
	if coherent > 0.9999*total {
		t.Errorf("the mean wave has %.6f of the mean intensity: no thermal scattering", coherent/total)
	}

	config.Displacement = 0
	s = newSimulator(t, config)
	sp = simulate(t, s, st)
	for i, v := range sp.Waves[0] {
		if v != sp.Waves[1][i] {
			t.Fatal("waves differ without displacement")
		}
	}
}

// 10⁴ draws of the actual defocus scatter by 15 ± 0.4 Å around the nominal one.
func TestDefocusDraws(t *testing.T) {
	r := random.Stream(6, "test")
	var sum, squares float64
	const n = 10000
	for range n {
		d := Conditions{Defocus: -100, DefocusStd: 15}.draw(r) + 100
		sum, squares = sum+d/n, squares+d*d/n
	}
	within(t, "mean", sum, -0.5, 0.5)
	within(t, "standard deviation", math.Sqrt(squares-sum*sum), 14.6, 15.4)
}
