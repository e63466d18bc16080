package audit

import (
	"math"
	"slices"
	"testing"
)

func TestParseSample(t *testing.T) {
	for text, want := range map[string]int{ // of 250
		"20": 20, "0": 0, "300": 250, "5%": 13, "0.05": 13, "100%": 250, "all": 250, "0.4%": 1, " 2 % ": 5, "1": 1, "1.0": 250,
	} {
		s, err := ParseSample(text)
		if err != nil || s.Of(250) != want {
			t.Errorf("%q of 250 is %d, %v, want %d", text, s.Of(250), err, want)
		}
		if again, err := ParseSample(s.String()); err != nil || again.Of(250) != want {
			t.Errorf("%q is written as %q, %v", text, s, err)
		}
	}
	for _, bad := range []string{"", "-1", "101%", "1.5", "0.0", "0%", "NaN", "x", "%", "all%", "-5%", "inf"} {
		if s, err := ParseSample(bad); err == nil {
			t.Errorf("%q is read as %v", bad, s)
		}
	}
}

// Every choice is as likely as any other: χ² of the ten pairs of five over 20,000 seeds
// stays below 27.9 (9 degrees of freedom) with probability 0.999; the seeds are fixed,
// so the test is.
func TestDraw(t *testing.T) {
	count := map[[2]int]int{}
	const n = 20000
	for seed := range uint64(n) {
		d := draw(seed, "root", "runs", 5, 2)
		if len(d) != 2 || d[0] >= d[1] || d[0] < 0 || d[1] > 4 {
			t.Fatalf("drawn %v", d)
		}
		count[[2]int(d)]++
	}
	chi := 0.0
	for _, c := range count {
		chi += math.Pow(float64(c)-n/10, 2) / (n / 10)
	}
	if len(count) != 10 || chi > 27.9 {
		t.Errorf("%d pairs, χ² = %.1f", len(count), chi)
	}
	one := draw(1, "root", "runs", 1000, 20)
	if !slices.Equal(one, draw(1, "root", "runs", 1000, 20)) {
		t.Error("the same is drawn differently")
	}
	for name, other := range map[string][]int{"seed": draw(2, "root", "runs", 1000, 20), "root": draw(1, "roof", "runs", 1000, 20), "what": draw(1, "root", "images", 1000, 20)} {
		if slices.Equal(one, other) {
			t.Errorf("another %s draws the same", name)
		}
	}
	if d := draw(1, "root", "runs", 7, 7); !slices.Equal(d, []int{0, 1, 2, 3, 4, 5, 6}) {
		t.Errorf("all of seven are %v", d)
	}
}

// The bound against the probability of missing all d false ones, as a product of the
// shares that are left: below and at the bound it must lie on either side of what is
// allowed. Rounding of a product of at most 300 factors stays below 1e-13 of it.
func TestBound(t *testing.T) {
	miss := func(n, k, d int) float64 {
		p := 1.0
		for i := range k {
			p *= max(0, float64(n-d-i)) / float64(n-i)
		}
		return p
	}
	for _, c := range []struct {
		n, k       int
		confidence float64
	}{{1200, 20, 0.95}, {1200, 59, 0.95}, {10854, 299, 0.99}, {7, 1, 0.95}, {7, 3, 0.95}, {7, 6, 0.95}, {2, 1, 0.5}, {14400, 14399, 0.95}, {100, 10, 0.9}} {
		d := Bound(c.n, c.k, c.confidence)
		if d < 1 || d > c.n || miss(c.n, c.k, d) > (1-c.confidence)*(1+1e-13) || d > 1 && miss(c.n, c.k, d-1) <= (1-c.confidence)*(1-1e-13) {
			t.Errorf("%d of %d with %v: %d, which would be missed with probability %.4f, one less with %.4f", c.k, c.n, c.confidence, d, miss(c.n, c.k, d), miss(c.n, c.k, d-1))
		}
	}
	// By hand: of two with one drawn, a false one is missed half of the time.
	for _, c := range []struct {
		n, k       int
		confidence float64
		want       int
	}{{2, 1, 0.5, 1}, {2, 1, 0.6, 2}, {10, 10, 0.99, 1}, {10, 0, 0.95, 11}, {20, 10, 0.95, 4}} {
		if got := Bound(c.n, c.k, c.confidence); got != c.want {
			t.Errorf("Bound(%d, %d, %v) = %d, want %d", c.n, c.k, c.confidence, got, c.want)
		}
	}
}
