package stats

import (
	"math"
	"testing"
)

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
		got, n := Spearman(c.a, c.b, nil)
		if math.Abs(got-c.want) > 1e-12 || n != c.n {
			t.Errorf("spearman(%v, %v) = %v of %d, want %v of %d", c.a, c.b, got, n, c.want, c.n)
		}
	}
	if rho, _ := Spearman([]float64{1, 1, 1}, []float64{1, 2, 3}, nil); !math.IsNaN(rho) {
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
