package report

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// The medians that reference/README.md of the published tables demands of every
// faithful reading, columns −25 … +25 nm.
const publishedMedians = `
-10: .0235 .0200 .0155 .0146 .0195 .0845 .0213 .0207 .0205 .0255 .0302
 -5: .0392 .0339 .0254 .0184 .0173 .0664 .0186 .0213 .0221 .0320 .0398
  0: .0317 .0306 .0267 .0264 .0248 .0547 .0253 .0267 .0260 .0318 .0320
 +5: .0997 .0984 .0755 .0462 .0287 .0788 .0149 .0185 .0299 .0619 .0808
+10: .1892 .1503 .0829 .0314 .0246 .1050 .0193 .0148 .0185 .0416 .0870

-10: .0125 .0133 .0125 .0146 .0159 .0561 .0152 .0156 .0158 .0180 .0172
 -5: .0133 .0141 .0134 .0140 .0173 .0532 .0153 .0157 .0156 .0181 .0174
  0: .0156 .0170 .0164 .0179 .0184 .0547 .0169 .0182 .0181 .0203 .0195
 +5: .0138 .0154 .0147 .0158 .0174 .0541 .0149 .0138 .0155 .0179 .0170
+10: .0139 .0155 .0147 .0154 .0170 .0567 .0143 .0148 .0141 .0169 .0163
`

func TestPublishedMedians(t *testing.T) {
	s, err := publishedDefocus()
	if err != nil {
		t.Fatal(err)
	}
	before, after := s.transfers()
	blocks := strings.Split(strings.TrimSpace(publishedMedians), "\n\n")
	for b, m := range []*Matrix{before, after} {
		for i, line := range strings.Split(blocks[b], "\n") {
			for j, want := range strings.Fields(line)[1:] {
				if got := strings.TrimPrefix(fmt.Sprintf("%.4f", m.Values[i][j]), "0"); got != want {
					t.Errorf("block %d, %s → %s: median %s, want %s", b, m.Rows[i], m.Columns[j], got, want)
				}
			}
		}
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
		got, n := spearman(c.a, c.b)
		if math.Abs(got-c.want) > 1e-12 || n != c.n {
			t.Errorf("spearman(%v, %v) = %v of %d, want %v of %d", c.a, c.b, got, n, c.want, c.n)
		}
	}
	if rho, _ := spearman([]float64{1, 1, 1}, []float64{1, 2, 3}); !math.IsNaN(rho) {
		t.Errorf("no variation gave %v", rho)
	}
}

func TestQuantile(t *testing.T) {
	v := []float64{4, 1, math.NaN(), 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 0.25: 1.75} {
		if got := quantile(v, q); got != want {
			t.Errorf("quantile %g is %g, want %g", q, got, want)
		}
	}
}
