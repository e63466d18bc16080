package crosscheck

import (
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
)

// Distance says how far values are from the oracle's.
type Distance struct {
	// Relative is the Euclidean norm of the difference over that of the oracle.
	Relative float64 `json:"relative"`
	// MaxULP and MedianULP are of the differences of single values in units of
	// the float32 spacing at the oracle's value, or at the root mean square of
	// all values where that is larger.
	MaxULP    float64 `json:"max_ulp"`
	MedianULP float64 `json:"median_ulp"`
}

// distance compares x with the oracle's o. scale is the least norm per root of
// the number of values that a relative distance refers to.
func distance(x, o []float64, scale float64) Distance {
	var diff, norm float64
	for i := range o {
		d := x[i] - o[i]
		diff += d * d
		norm += o[i] * o[i]
	}
	n := float64(len(o))
	rms := math.Sqrt(norm / n)
	base := max(rms, scale)
	if base == 0 {
		base = 1
	}
	d := Distance{Relative: math.Sqrt(diff/n) / base}
	ulps := make([]float64, len(o))
	for i := range o {
		ulps[i] = math.Abs(x[i]-o[i]) / spacing(max(math.Abs(o[i]), base))
	}
	slices.Sort(ulps)
	d.MaxULP, d.MedianULP = ulps[len(ulps)-1], ulps[len(ulps)/2]
	if math.IsNaN(diff) {
		nan := math.Inf(1)
		d = Distance{nan, nan, nan}
	}
	return d
}

// spacing is the distance from |v| to the next larger float32.
func spacing(v float64) float64 {
	f := float32(v)
	return float64(math.Nextafter32(f, math.MaxFloat32) - f)
}

func rms(v []float64) float64 {
	var s float64
	for _, x := range v {
		s += x * x
	}
	return math.Sqrt(s / float64(len(v)))
}

// byName makes tensors accessible by name, in float64.
func byName(ts []backend.NamedTensor) map[string][]float64 {
	m := make(map[string][]float64, len(ts))
	for _, t := range ts {
		m[t.Name] = t.Float64s()
	}
	return m
}
