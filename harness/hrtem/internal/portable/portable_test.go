package portable

import (
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

// The standard library is the oracle; 9e-16 relative is four units in the last
// place.
func TestAgainstStandardLibrary(t *testing.T) {
	r := random.Stream(1, "test")
	near := func(name string, x, got, want, scale float64) {
		t.Helper()
		if math.Abs(got-want) > 9e-16*scale {
			t.Errorf("%s(%v) = %v, want %v", name, x, got, want)
		}
	}
	for range 20000 {
		x := (r.Float64() - 0.5) * 1300
		near("Exp", x, Exp(x), math.Exp(x), math.Exp(x))
		x = (r.Float64() - 0.5) * 4
		near("Exp", x, Exp(x), math.Exp(x), math.Exp(x))
		x = math.Exp((r.Float64() - 0.5) * 1300)
		near("Log", x, Log(x), math.Log(x), math.Abs(math.Log(x)))
		x = 0.5 + r.Float64()
		near("Log", x, Log(x), math.Log(x), math.Abs(math.Log(x)))
		for _, span := range []float64{1, 300, 1e6} {
			x = (r.Float64() - 0.5) * span
			s, c := SinCos(x)
			near("sin", x, s, math.Sin(x), 1)
			near("cos", x, c, math.Cos(x), 1)
		}
	}
}

func TestSpecialValues(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"Exp(0)", Exp(0), 1},
		{"Exp(-800)", Exp(-800), 0},
		{"Exp(800)", Exp(800), math.Inf(1)},
		{"Log(1)", Log(1), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
	if s, c := SinCos(0); s != 0 || c != 1 {
		t.Errorf("SinCos(0) = %v, %v", s, c)
	}
	if !math.IsNaN(Exp(math.NaN())) {
		t.Error("Exp(NaN) is a number")
	}
}

// Mean, variance and fourth moment of 2·10⁵ variates; the bounds are about four
// standard errors.
func TestNormalMoments(t *testing.T) {
	r := random.Stream(2, "test")
	const n = 100000
	var m1, m2, m4, xy float64
	for range n {
		x, y := Normal2(r)
		m1 += (x + y) / (2 * n)
		m2 += (x*x + y*y) / (2 * n)
		m4 += (x*x*x*x + y*y*y*y) / (2 * n)
		xy += x * y / n
	}
	if math.Abs(m1) > 0.01 || math.Abs(m2-1) > 0.013 || math.Abs(m4-3) > 0.09 || math.Abs(xy) > 0.013 {
		t.Errorf("moments %.4f %.4f %.4f, covariance %.4f, want 0 1 3, 0", m1, m2, m4, xy)
	}
}
