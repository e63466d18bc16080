package thon

import (
	"context"
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/hrtem/carbon"
	"github.com/refocus-em/refocus/harness/random"
)

// The structure factor of the films that package carbon makes, summed over their atoms:
// that of hard spheres in equilibrium comes close, though atoms are added one by one.
// Means over 220 wave vectors of exponentially distributed values have errors of 7 %;
// the tolerance is three of these. It is continuous where its limit takes over.
func TestStructure(t *testing.T) {
	const cell, thickness, vectors = 60.0, 40.0, 220
	r := random.Stream(8, "thon")
	film, _, err := carbon.Film(context.Background(), r, cell, thickness)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []float64{0.3, 0.5, 0.7, 1, 1.4} {
		sum, want := 0.0, 0.0
		for range vectors {
			// a wave vector along the film, periodic in the cell
			angle := math.Pi * r.Float64()
			kx, ky := math.Round(cell*k*math.Cos(angle))/cell, math.Round(cell*k*math.Sin(angle))/cell
			var re, im float64
			for _, a := range film {
				s, c := math.Sincos(2 * math.Pi * (kx*a[0] + ky*a[1]))
				re += c
				im += s
			}
			sum += (re*re + im*im) / float64(len(film)) / vectors
			want += structure(math.Hypot(kx, ky)) / vectors
		}
		if math.Abs(sum/want-1) > 0.21 {
			t.Errorf("at %g 1/Å a film's structure factor is %.3f, expected %.3f", k, sum, want)
		}
	}
	edge := 0.2 / (2 * math.Pi * carbon.Distance)
	if below, above := structure(edge*0.999), structure(edge*1.001); math.Abs(below/above-1) > 0.02 {
		t.Errorf("structure factor %.4f below and %.4f above its limit", below, above)
	}
}
