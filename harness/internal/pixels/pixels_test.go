package pixels

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestStandardize(t *testing.T) {
	const h, w = 50, 41
	r := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, h*w)
	for i := range x {
		x[i] = float32(300 + 20*r.NormFloat64())
	}
	was := slices.Clone(x)
	if err := Standardize(x, w); err != nil {
		t.Fatal(err)
	}
	var mean, square float64
	for _, v := range x {
		mean += float64(v)
		square += float64(v) * float64(v)
	}
	// float32 values of rms 1 have errors of 3e-8 each, their means less.
	if n := float64(len(x)); math.Abs(mean/n) > 3e-8 || math.Abs(square/n-1) > 6e-8 {
		t.Errorf("mean %g, mean square %g", mean/n, square/n)
	}
	for i := 1; i < len(x); i++ {
		if (x[i] > x[0]) != (was[i] > was[0]) {
			t.Fatal("the order of two pixels changed")
		}
	}
	for _, bad := range []struct {
		v    float64
		says string
	}{{math.NaN(), "pixel (1, 3) is NaN"}, {math.Inf(1), "pixel (1, 3) is +Inf"}, {math.Inf(-1), "pixel (1, 3) is -Inf"}} {
		y := slices.Clone(was)
		y[w+3] = float32(bad.v)
		if err := Standardize(y, w); err == nil || !strings.Contains(err.Error(), bad.says) {
			t.Errorf("%v, want %q", err, bad.says)
		}
	}
	// The mean of a tenth, added up, is not a tenth.
	flat := slices.Repeat([]float32{0.1}, 1000)
	if err := Standardize(flat, 100); err == nil {
		t.Error("accepted a constant image")
	}
}

func TestRange(t *testing.T) {
	ramp := make([]float32, 2001)
	for i := range ramp {
		ramp[i] = float32((i * 7) % 2001) // all of 0…2000, in another order
	}
	if lo, hi := Range(ramp); lo != 10 || hi != 1990 {
		t.Errorf("0…2000 is shown from %g to %g, want 10 to 1990", lo, hi)
	}
	nan := float32(math.NaN())
	if lo, hi := Range([]float32{nan, 1, nan, 3}); lo != 1 || hi != 3 {
		t.Errorf("1 and 3 among NaN are shown from %g to %g", lo, hi)
	}
	for _, x := range [][]float32{nil, {nan}, {4, 4, 4}} {
		if lo, hi := Range(x); !(lo < hi) {
			t.Errorf("%v is shown from %g to %g", x, lo, hi)
		}
	}
}

func TestMirror(t *testing.T) {
	for n, want := range map[int][]int{
		1: {0, 0, 0, 0},
		2: {0, 1, 0, 1, 0},
		4: {0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0},
	} {
		for i, w := range want {
			if got := Mirror(i, n); got != w {
				t.Errorf("%d folded into %d pixels is %d, want %d", i, n, got, w)
			}
		}
	}
}
