package stats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os/exec"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// python runs a program that reads in as JSON from its standard input and prints
// its answer as JSON.
func python(t *testing.T, program string, in, out any) {
	t.Helper()
	cmd := exec.Command(peers.Python(t, "numpy", "scipy.stats"), "-c", "import json, sys\nimport numpy as np\nfrom scipy import stats\nx = json.load(sys.stdin)\n"+program)
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(b), &stderr
	if b, err = cmd.Output(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if err := json.Unmarshal(b, out); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}

// points are three related columns with ties, and how often each point counts.
func points(n int) (a, b, z, w []float64, times []int) {
	r := random.Stream(3, "points")
	for range n {
		x := r.NormFloat64()
		z = append(z, math.Round(4*x)/4)
		a = append(a, math.Round(10*(x+r.NormFloat64()))/10)
		b = append(b, x-0.5*r.NormFloat64())
		k := r.IntN(4)
		w, times = append(w, float64(k)), append(times, k)
	}
	return a, b, z, w, times
}

// TestAgainstScipy compares with NumPy and SciPy on points that are repeated in
// place of being weighted. All are sums over some hundred values: 1e-12 is far
// above their rounding.
func TestAgainstScipy(t *testing.T) {
	a, b, z, w, times := points(60)
	var want struct{ Rho, Partial, Median, Quantile, Deviation, Mean float64 }
	python(t, `
a, b, z = (np.repeat(x[k], x["w"]) for k in "abz")
ranks = [stats.rankdata(v) for v in (a, b, z)]
left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
print(json.dumps(dict(Rho=stats.spearmanr(a, b)[0], Partial=stats.pearsonr(*left)[0], Median=np.median(a),
    Quantile=np.quantile(a, 0.95), Deviation=np.std(a), Mean=np.mean(a))))
`, map[string]any{"a": a, "b": b, "z": z, "w": times}, &want)
	var s Sorted
	for i, v := range a {
		s.Add(i, v)
	}
	rho, _ := Spearman(a, b, w)
	for name, v := range map[string][2]float64{
		"Spearman": {rho, want.Rho}, "Partial": {Partial(a, b, z, w), want.Partial}, "Median": {s.Median(times), want.Median},
		"Quantile": {s.Quantile(times, 0.95), want.Quantile}, "Deviation": {s.Deviation(times), want.Deviation}, "Share": {s.Share(times), want.Mean},
	} {
		if math.Abs(v[0]-v[1]) > 1e-12 {
			t.Errorf("%s is %v, want %v", name, v[0], v[1])
		}
	}
}

// TestBootstrapAgainstScipy compares the interval of a median and of a
// correlation of independent observations with SciPy's. The ends of both are
// quantiles of resamples of their own: with 2000 against 20000 of them the
// standard error of an end of these intervals is about 0.02 of their length.
func TestBootstrapAgainstScipy(t *testing.T) {
	a, b, _, _, _ := points(60)
	var want struct{ Median, Rho [2]float64 }
	python(t, `
def ends(data, f, **more):
    r = stats.bootstrap(data, f, n_resamples=20000, method="percentile", vectorized=False, random_state=1, **more)
    return list(r.confidence_interval)
print(json.dumps(dict(Median=ends((x["b"],), np.median),
    Rho=ends((x["a"], x["b"]), lambda u, v: stats.spearmanr(u, v)[0], paired=True))))
`, map[string]any{"a": a, "b": b}, &want)
	var s Sorted
	var units []Unit
	for i, v := range b {
		s.Add(i, v)
		units = append(units, Unit{Cluster: fmt.Sprint(i)})
	}
	got := NewResampler(units).Bootstrap(2, func(w []int, v []float64) {
		f := make([]float64, len(w))
		for i := range w {
			f[i] = float64(w[i])
		}
		v[0] = s.Median(w)
		v[1], _ = Spearman(a, b, f)
	})
	for k, want := range [][2]float64{want.Median, want.Rho} {
		i := got[k].Interval()
		for end := range 2 {
			if math.Abs(i[end]-want[end]) > 0.1*(want[1]-want[0]) {
				t.Errorf("statistic %d: interval %v, SciPy's %v", k, *i, want)
			}
		}
	}
}

// TestClusters checks the spread of the mean of observations in clusters and
// blocks against its closed form: with n clusters of which each has m equal
// observations, it is that of n values, and the number of observations does not
// narrow it.
func TestClusters(t *testing.T) {
	const n, m = 12, 30
	r := random.Stream(1, "clusters")
	var values []float64
	var units []Unit
	var s Sorted
	for c := range n {
		v := r.NormFloat64()
		values = append(values, v)
		for k := range m {
			s.Add(len(units), v)
			units = append(units, Unit{"", fmt.Sprint(c), fmt.Sprint(k % 3)})
		}
	}
	for i := range s.values { // Sorted.Add keeps both in step
		if s.values[i] != values[s.at[i]/m] {
			t.Fatal("observations and values are out of step")
		}
	}
	b := NewResampler(units)
	if b.Clusters() != n {
		t.Errorf("%d clusters", b.Clusters())
	}
	mean := b.Bootstrap(1, func(w []int, v []float64) {
		total := 0
		for _, k := range w {
			total += k
		}
		if total != n*m {
			t.Fatalf("%d observations were drawn of %d", total, n*m)
		}
		v[0] = s.Share(w)
	})[0]
	want := Deviation(values) / math.Sqrt(n)
	if got := Deviation(mean.draws); math.Abs(got-want) > 0.08*want { // 5 standard errors of a deviation of 2000 draws
		t.Errorf("the mean's deviation is %g, want %g", got, want)
	}
	again := b.Bootstrap(1, func(w []int, v []float64) { v[0] = s.Share(w) })[0]
	if !slices.Equal(again.draws, mean.draws) {
		t.Error("the same resampling gave other values")
	}
}

// TestRedrawn draws the values again, too: their deviation adds to that of the
// resamples, and every redraw serves as many of them as every other, in order.
func TestRedrawn(t *testing.T) {
	const n, redraws = 12, 200
	r := random.Stream(1, "redrawn")
	var values, shifts []float64
	var units []Unit
	var s Sorted
	for i := range n {
		values = append(values, r.NormFloat64())
		units = append(units, Unit{Cluster: fmt.Sprint(i)})
		s.Add(i, values[i])
	}
	for range redraws {
		shifts = append(shifts, r.NormFloat64())
	}
	var asked []int
	served := map[int]int{}
	mean := NewResampler(units).BootstrapRedrawn(1, redraws, func(k int) Statistic {
		asked = append(asked, k)
		return func(w []int, v []float64) {
			v[0] = s.Share(w)
			if k >= 0 {
				v[0] += shifts[k]
				served[k]++
			}
		}
	})[0]
	for i, k := range asked {
		if k != i-1 {
			t.Fatalf("asked for redraws %v", asked)
		}
	}
	if len(asked) != redraws+1 || len(served) != redraws || served[0] != Draws/redraws || served[redraws-1] != Draws/redraws {
		t.Errorf("asked for %d redraws, used %d, the first %d times", len(asked), len(served), served[0])
	}
	if want := s.Share(slices.Repeat([]int{1}, n)); mean.Value != want {
		t.Errorf("the value is %v, that of what was observed %v", mean.Value, want)
	}
	// The shifts' deviation is exact; that of the means has a standard error of a 60th.
	want := math.Hypot(Deviation(shifts), Deviation(values)/math.Sqrt(n))
	if got := Deviation(mean.draws); math.Abs(got-want) > 0.08*want {
		t.Errorf("the deviation is %g, want %g", got, want)
	}
}

// TestStrata checks that strata keep their number of observations and that
// nothing has an interval where nothing independent was repeated.
func TestStrata(t *testing.T) {
	units := []Unit{{"a", "1", ""}, {"a", "2", ""}, {"b", "1", ""}, {"b", "2", ""}, {"b", "3", ""}}
	NewResampler(units).Bootstrap(1, func(w []int, v []float64) {
		if w[0]+w[1] != 2 || w[2]+w[3]+w[4] != 3 {
			t.Fatalf("drawn %v", w)
		}
	})
	once := NewResampler([]Unit{{"a", "1", "x"}, {"a", "1", "x"}, {"b", "1", "x"}})
	s := once.Bootstrap(1, func(w []int, v []float64) { v[0] = 2 })[0]
	if s.Value != 2 || s.Interval() != nil || s.P(1) != 1 {
		t.Errorf("one cluster a stratum gives %v, interval %v, p %g", s.Value, s.Interval(), s.P(1))
	}
}

func TestP(t *testing.T) {
	s := Sample{Value: 2}
	for i := range 999 {
		s.draws = append(s.draws, 1+float64(i)/999)
	}
	for limit, want := range map[float64]float64{0.5: 0.002, 1: 0.004, 1 + 99.0/999: 0.202, 3: 1 / 500.0} {
		if got := s.P(limit); math.Abs(got-want) > 1e-9 {
			t.Errorf("p of %g is %g, want %g", limit, got, want)
		}
	}
}

// TestHolm adjusts a family by hand: 5 × 0.005, 4 × 0.01, 3 × 0.03, then what may
// not be less than the one before.
func TestHolm(t *testing.T) {
	got := Holm([]float64{0.01, 0.04, 0.03, 0.005, 0.9})
	for i, want := range []float64{0.04, 0.09, 0.09, 0.025, 0.9} {
		if math.Abs(got[i]-want) > 1e-12 {
			t.Errorf("adjusted %v", got)
			break
		}
	}
}
