package pmath

import (
	"math"
	"math/big"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

// bigExp is the oracle: Taylor's series of x/2¹⁰ in 200-bit arithmetic, squared
// ten times.
func bigExp(x float64) *big.Float {
	const prec = 200
	r := new(big.Float).SetPrec(prec).SetFloat64(x)
	r.SetMantExp(r, -10)
	sum := big.NewFloat(1).SetPrec(prec)
	term := big.NewFloat(1).SetPrec(prec)
	for i := 1; i < 60; i++ {
		term.Mul(term, r)
		term.Quo(term, new(big.Float).SetPrec(prec).SetInt64(int64(i)))
		sum.Add(sum, term)
	}
	for range 10 {
		sum.Mul(sum, sum)
	}
	return sum
}

// ulps is |got − want| in units of the last place of want.
func ulps(got float64, want *big.Float) float64 {
	w, _ := want.Float64()
	d := new(big.Float).SetPrec(200).SetFloat64(got)
	d.Sub(d, want)
	f, _ := d.Float64()
	return math.Abs(f) / (math.Nextafter(math.Abs(w), math.Inf(1)) - math.Abs(w))
}

// The bound of one unit in the last place is the package's promise.
func TestExp(t *testing.T) {
	r := random.Stream(1, "test")
	worst := 0.0
	for i := range 4000 {
		x := (r.Float64() - 0.5) * []float64{1, 8, 80, 1400}[i%4]
		worst = max(worst, ulps(Exp(x), bigExp(x)))
	}
	if worst > 1 {
		t.Errorf("error up to %.3f units in the last place", worst)
	}
	t.Logf("worst error %.3f ulp", worst)
}

// log y is right when exp of it, computed by the oracle, is y: an error of d in
// the logarithm is a relative error of d in y.
func TestLog(t *testing.T) {
	r := random.Stream(2, "test")
	worst := 0.0
	for i := range 4000 {
		y := math.Exp((r.Float64() - 0.5) * []float64{0.01, 1, 8, 1400}[i%4])
		l := Log(y)
		q := new(big.Float).SetPrec(200).SetFloat64(y)
		q.Quo(q, bigExp(l))
		q.Sub(q, big.NewFloat(1))
		d, _ := q.Float64()
		a := math.Abs(l)
		worst = max(worst, math.Abs(d)/(math.Nextafter(a, math.Inf(1))-a))
	}
	if worst > 1 {
		t.Errorf("error up to %.3f units in the last place", worst)
	}
	t.Logf("worst error %.3f ulp", worst)
}

func TestSpecialValues(t *testing.T) {
	inf := math.Inf(1)
	for _, c := range []struct {
		name      string
		got, want float64
	}{
		{"Exp(0)", Exp(0), 1},
		{"Exp(-Inf)", Exp(-inf), 0},
		{"Exp(+Inf)", Exp(inf), inf},
		{"Exp(709.9)", Exp(709.9), inf},
		{"Exp(-745)", Exp(-745), 0x1p-1074},
		{"Log(0)", Log(0), -inf},
		{"Log(1)", Log(1), 0},
		{"Log(+Inf)", Log(inf), inf},
		{"Log(2^-1074)", Log(0x1p-1074), -1074 * math.Ln2},
		{"Pow(3,0)", Pow(3, 0), 1},
		{"Pow(3,13)", Pow(3, 13), 1594323},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", c.name, c.got, c.want)
		}
	}
	if !math.IsNaN(Exp(math.NaN())) || !math.IsNaN(Log(math.NaN())) || !math.IsNaN(Log(-1)) {
		t.Error("NaN is lost")
	}
}

// The functions that activations use, against the standard library's, whose
// error is below one unit in the last place; ours may be off by a few.
func TestActivationFunctions(t *testing.T) {
	r := random.Stream(4, "test")
	for name, f := range map[string][2]func(float64) float64{
		"Expm1": {Expm1, math.Expm1}, "Log1p": {Log1p, math.Log1p}, "Tanh": {Tanh, math.Tanh}, "Erf": {Erf, math.Erf},
	} {
		worst := 0.0
		for i := range 8000 {
			x := (r.Float64() - 0.5) * []float64{1e-12, 0.1, 1, 8, 80}[i%5]
			if name == "Log1p" && x <= -1 {
				x = -x
			}
			got, want := f[0](x), f[1](x)
			worst = max(worst, math.Abs(got-want)/math.Abs(want))
		}
		if !(worst < 4e-15) {
			t.Errorf("%s: relative error %g", name, worst)
		}
		t.Logf("%s: worst relative error %.2g", name, worst)
		for _, x := range []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), math.NaN()} {
			if name == "Log1p" && x < 0 {
				continue
			}
			got, want := f[0](x), f[1](x)
			if got != want && !(got != got && want != want) || math.Signbit(got) != math.Signbit(want) && got == got {
				t.Errorf("%s(%g) = %g, want %g", name, x, got, want)
			}
		}
	}
}
