package store

import (
	"math"
	"testing"
)

// A curve of any length has few points, which lie on it: of a loss that falls linearly
// in the epochs the mean over a part is that of the part's middle.
func TestCurve(t *testing.T) {
	for _, steps := range []int{0, 1, 7, 99, 100, 101, 1000, 54_321} {
		const perEpoch = 50
		var r Recorder
		for i := 1; i <= steps; i++ {
			at := float64(i) / perEpoch
			r.Step(at, 1/(1+at))
			r.Step(at, math.NaN()) // was skipped
			if i%perEpoch == 0 {
				r.Validated(i/perEpoch, 1/(1+at), 1-1/(1+at))
			}
		}
		c := r.Curve()
		if steps == 0 {
			if c != nil {
				t.Errorf("a curve of nothing: %v", c)
			}
			continue
		}
		if n := len(c.Training); n > mostPoints || n < min(steps, mostPoints/2) {
			t.Errorf("%d steps: %d points", steps, n)
		}
		if n, epochs := len(c.Validation), steps/perEpoch; n > mostPoints || n < min(epochs, mostPoints/2) {
			t.Errorf("%d epochs: %d points", epochs, n)
		}
		before := 0.0
		for _, p := range c.Training {
			// between the part's ends, to the four digits that are kept
			if most, least := 1/(1+before), 1/(1+p[0]); !(p[0] > before) || p[1] > 1.001*most || p[1] < 0.999*least {
				t.Fatalf("%d steps: loss %v at %v, after %v", steps, p[1], p[0], before)
			}
			before = p[0]
		}
		if last := float64(steps) / perEpoch; math.Abs(before-last) > 1e-3*last {
			t.Errorf("%d steps: the last point is at %v, not %v", steps, before, last)
		}
		if n := len(c.Validation); n > 0 {
			if v, last := c.Validation[n-1], float64(steps/perEpoch); v[0] != last || math.Abs(v[1]+v[2]-1) > 1e-3 {
				t.Errorf("%d steps: the last validation is %v, not that of epoch %v", steps, v, last)
			}
		}
	}
}

// The record of an attempt is written with the curve while it is running, for others to
// read, and however long that and an error are it has room.
func TestCurveInRecord(t *testing.T) {
	st, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	digest, m := run("a")
	c, err := st.Claim(digest)
	if err != nil {
		t.Fatal(err)
	}
	var r Recorder
	for i := range 100_000 {
		r.Step(float64(i+1)/10, 0.123456789)
		r.Validated(i+1, 0.123456789, 0.987654321)
	}
	c.Sample(func(a *Attempt) { a.Curve = r.Curve() })
	wild := make([]byte, maxError)
	for i := range wild {
		wild[i] = 1 // six bytes of JSON each
	}
	for _, text := range []string{"", string(wild[:maxError/3]), string(wild)} {
		c.Update(func(a *Attempt) { a.Error = text })
		a, err := st.Last(digest)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(wild) && (a.Error != text || a.Curve == nil || a.Curve.Validation[len(a.Curve.Validation)-1] != [3]float64{100_000, 0.1235, 0.9877}) {
			t.Errorf("%d bytes of an error: read %d, and %v", len(text), len(a.Error), a.Curve)
		}
		if !a.Running() || a.Number != 1 {
			t.Errorf("%+v", a)
		}
	}
	if err := c.Commit(m, map[string][]byte{HistoryFile: []byte("{}"), WeightsFile: []byte("weights")}); err != nil {
		t.Fatal(err)
	}
	if a, err := st.Last(digest); err != nil || a.Curve != nil || a.Outcome != OutcomeFinished {
		t.Errorf("finished: %v, %+v", err, a)
	}
}
