package kirkland

import (
	"math"
	"testing"
)

func near(t *testing.T, name string, got, want, tolerance float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tolerance) {
		t.Errorf("%s = %.9g, want %.9g ± %.2g", name, got, want, tolerance)
	}
}

// Reference values of λ, σ and h²/(2π·m·e) from CODATA 2018; half a unit of their
// last digit.
func TestConstants(t *testing.T) {
	near(t, "factor", Factor, 47.8776473, 5e-7)
	for _, c := range []struct{ energy, lambda, sigma float64 }{
		{300e3, 0.0196874890, 6.52616142e-4},
		{200e3, 0.0250793405, 7.28840104e-4},
		{80e3, 0.0417571608, 1.00870660e-3},
	} {
		near(t, "λ", Wavelength(c.energy), c.lambda, 1e-10)
		near(t, "σ", Interaction(c.energy), c.sigma, 1e-12)
	}
}

// Values computed independently from the published table, at k = 0, 0.5, 1 and
// 2 1/Å, to the digits given.
func TestScatteringFactors(t *testing.T) {
	for _, c := range []struct {
		z int
		f [4]float64
	}{
		{6, [4]float64{2.511358, 1.170045, 0.412703, 0.116831}},
		{8, [4]float64{1.989744, 1.223064, 0.542112, 0.158554}},
		{14, [4]float64{5.814284, 1.965830, 0.742282, 0.270219}},
		{16, [4]float64{5.172100, 2.327076, 0.860596, 0.297648}},
		{26, [4]float64{7.163173, 2.927474, 1.387887, 0.465796}},
		{27, [4]float64{6.852949, 2.922209, 1.416227, 0.485197}},
		{29, [4]float64{5.580662, 2.801084, 1.464282, 0.522496}},
		{30, [4]float64{6.072702, 2.884977, 1.477374, 0.540309}},
		{34, [4]float64{7.223086, 3.450276, 1.562359, 0.602622}},
		{47, [4]float64{8.672277, 4.521113, 2.184763, 0.758270}},
		{48, [4]float64{9.235654, 4.592766, 2.223145, 0.773154}},
	} {
		e, err := Lookup(c.z)
		if err != nil {
			t.Fatal(err)
		}
		for i, k := range []float64{0, 0.5, 1, 2} {
			near(t, e.Symbol, e.Scattering(k*k), c.f[i], 1e-5)
		}
	}
	if _, err := Lookup(7); err == nil {
		t.Error("nitrogen is in the table")
	}
}

// Carbon against the independent parametrisation of Lobato and Van Dyck, Acta
// Cryst. A70 (2014) 636: the two agree within 1.1 % where scattering matters.
func TestCarbonAgainstLobato(t *testing.T) {
	a := [5]float64{124.466088621343, -220.352857078963, 195.235352280479, -98.1079361269799, 0.0142023041213623}
	b := [5]float64{2.42120849256005, 2.30537943752425, 2.04851932106564, 1.93352552917547, 0.0768976818478339}
	e, err := Lookup(6)
	if err != nil {
		t.Fatal(err)
	}
	for k := 0.0; k <= 2; k += 0.25 {
		want := 0.0
		for i := range a {
			x := b[i] * k * k
			want += a[i] * (2 + x) / ((1 + x) * (1 + x))
		}
		near(t, "f", e.Scattering(k*k), want, 0.011*want)
	}
}
