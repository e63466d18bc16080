package stats

import (
	"math"
	"testing"
)

func TestSignTest(t *testing.T) {
	for _, c := range []struct {
		k, n int
		want float64
	}{{0, 5, 0.0625}, {5, 5, 0.0625}, {1, 5, 0.375}, {2, 4, 1}, {9, 10, 0.021484375}} {
		if got := SignTest(c.k, c.n); math.Abs(got-c.want) > 1e-12 {
			t.Errorf("signTest(%d, %d) = %v, want %v", c.k, c.n, got, c.want)
		}
	}
}

// TestInterval has the ranks of tables of the sign test: the interval leaves out
// k − 1 values on either side.
func TestInterval(t *testing.T) {
	for n, k := range map[int]int{6: 1, 8: 1, 9: 2, 20: 6, 50: 18, 100: 40} {
		var v []float64
		for i := range n {
			v = append(v, float64((i*7)%n+1)) // 1 … n where 7 and n have no common factor
		}
		if n%7 == 0 {
			t.Fatal("choose another n")
		}
		if low, high := Interval(v); low != float64(k) || high != float64(n+1-k) {
			t.Errorf("of %d: values %g to %g, want %d to %d", n, low, high, k, n+1-k)
		}
	}
	if low, _ := Interval(make([]float64, 5)); !math.IsNaN(low) {
		t.Error("five values gave an interval")
	}
}

func TestByColumn(t *testing.T) {
	m := &Matrix{Rows: []string{"a", "b"}, Columns: []string{"x", "y"}, Values: [][]float64{{1, 2}, {1, 2}}}
	never := func(string, string) bool { return false }
	if got := ByColumn(m, never); math.Abs(got-1) > 1e-12 {
		t.Errorf("columns alone decide, and explain %g", got)
	}
	m.Values = [][]float64{{1, 1}, {2, 2}}
	if got := ByColumn(m, never); math.Abs(got) > 1e-12 {
		t.Errorf("rows alone decide, and columns explain %g", got)
	}
}

func TestSpearman(t *testing.T) {
	for _, c := range []struct {
		a, b []float64
		want float64
		n    int
	}{
		{[]float64{1, 2, 3, 4}, []float64{10, 20, 30, 40}, 1, 4},
		{[]float64{1, 2, 3, 4}, []float64{4, 3, 2, 1}, -1, 4},
		// With ties: NumPy's corrcoef of the mean ranks.
		{[]float64{1, 2, 2, 4, 5}, []float64{3, 1, 2, 2, 9}, 0.2894736842105263, 5},
		{[]float64{1, math.NaN(), 3, 4}, []float64{1, 5, 3, 4}, 1, 3},
	} {
		got, n := Spearman(c.a, c.b)
		if math.Abs(got-c.want) > 1e-12 || n != c.n {
			t.Errorf("spearman(%v, %v) = %v of %d, want %v of %d", c.a, c.b, got, n, c.want, c.n)
		}
	}
	if rho, _ := Spearman([]float64{1, 1, 1}, []float64{1, 2, 3}); !math.IsNaN(rho) {
		t.Errorf("no variation gave %v", rho)
	}
}

func TestQuantile(t *testing.T) {
	v := []float64{4, 1, math.NaN(), 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 0.25: 1.75} {
		if got := Quantile(v, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
}
