package gorgonia

import (
	"math"
	"math/big"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// ulps is how many units in the last place of want got is from it.
func ulps(got, want float64) float64 {
	return math.Abs(got-want) / (math.Nextafter(math.Abs(want), math.Inf(1)) - math.Abs(want))
}

// The series against the standard library's functions, which are within one unit in
// the last place of the truth: a Horner scheme, its argument and its factors round a few
// times at the end.
func TestSeries(t *testing.T) {
	r := seed.Rand(t)
	for i := range 200000 {
		x := -math.Exp(r.Float64()*40 - 33.5) // from 1e-15 to 660
		if got, want := exponential(x), math.Exp(x); ulps(got, want) > 2 {
			t.Fatalf("exp(%v) is %v, not %v", x, got, want)
		}
		v := 1 + math.Exp(r.Float64()*40-34)
		if i%2 == 0 {
			v = 1 + float64(i)/100000
		}
		if got, want := logarithm(v), math.Log(v); ulps(got, want) > 4 && got != want {
			t.Fatalf("ln(%v) is %v, not %v", v, got, want)
		}
	}
	nan := math.NaN()
	for _, c := range [][2]float64{{exponential(0), 1}, {exponential(-700.1), 0}, {exponential(math.Inf(-1)), 0}, {logarithm(1), 0}, {logarithm(math.Inf(1)), math.Inf(1)}} {
		if c[0] != c[1] {
			t.Errorf("%v, not %v", c[0], c[1])
		}
	}
	if v := exponential(nan); v == v {
		t.Errorf("exp(NaN) is %v", v)
	}
	if v := logarithm(nan); v == v {
		t.Errorf("ln(NaN) is %v", v)
	}
	// The two parts of ln 2 are it, and a whole number of the first is exact.
	sum := new(big.Float).SetPrec(200).Add(big.NewFloat(ln2High), big.NewFloat(ln2Low))
	if d, _ := sum.Sub(sum, new(big.Float).SetPrec(200).SetFloat64(math.Ln2)).Float64(); math.Abs(d) > 1e-16 {
		t.Errorf("ln 2 is off by %v", d)
	}
	if math.Float64bits(ln2High)&(1<<11-1) != 0 {
		t.Error("ln2High has no zeros at its end")
	}
}
