package carbon

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

// A film of the study's size and its least thickness: number of atoms, box, least
// distance (a slow check of all pairs within a column of the film, and a cell list
// for the rest), uniform density along z.
func TestFilm(t *testing.T) {
	const cell, thickness = 128.0, 20.0
	atoms, tries, err := Film(context.Background(), random.Stream(1, "test"), cell, thickness)
	if err != nil {
		t.Fatal(err)
	}
	if len(atoms) != 36146 {
		t.Errorf("%d atoms, want 36146", len(atoms))
	}
	if ratio := float64(tries) / float64(len(atoms)); ratio < 2.3 || ratio > 2.6 {
		t.Errorf("%.2f tries per atom, want 2.4 to 2.5", ratio)
	}

	const bins = 10
	var histogram [bins]float64
	// Sort into columns of 8 Å; neighbours are at most one column away.
	const columns = 16
	column := map[[2]int][][3]float64{}
	for _, p := range atoms {
		if p[0] < 0 || p[0] >= cell || p[1] < 0 || p[1] >= cell || p[2] < 0 || p[2] >= thickness {
			t.Fatalf("atom at %v is outside the film", p)
		}
		histogram[int(p[2]/thickness*bins)]++
		k := [2]int{int(p[0] / 8), int(p[1] / 8)}
		column[k] = append(column[k], p)
	}
	for k, ps := range column {
		for dx := -1; dx <= 1; dx++ {
			for dy := -1; dy <= 1; dy++ {
				qs := column[[2]int{(k[0] + dx + columns) % columns, (k[1] + dy + columns) % columns}]
				for _, p := range ps {
					for _, q := range qs {
						if p == q {
							continue
						}
						d := [3]float64{p[0] - q[0], p[1] - q[1], p[2] - q[2]}
						for i := range 2 {
							d[i] -= cell * math.Round(d[i]/cell)
						}
						if r := math.Sqrt(d[0]*d[0] + d[1]*d[1] + d[2]*d[2]); r < Distance {
							t.Fatalf("atoms %.3f Å apart", r)
						}
					}
				}
			}
		}
	}

	// Atoms at a surface have fewer neighbours that exclude points, so the outer
	// bins are denser, by 5–10 %; the others are uniform. Exclusion makes
	// counts more even than Poisson's, 24.3 is the 99.9 % point of χ² with 7
	// degrees of freedom.
	t.Logf("atoms by depth: %v", histogram)
	inner := histogram[1 : bins-1]
	chi2, mean := 0.0, 0.0
	for _, h := range inner {
		mean += h / float64(len(inner))
	}
	for _, h := range inner {
		chi2 += (h - mean) * (h - mean) / mean
	}
	if chi2 > 24.3 {
		t.Errorf("χ² of the density along z is %.1f", chi2)
	}
	for _, h := range []float64{histogram[0], histogram[bins-1]} {
		if h < mean || h > 1.12*mean {
			t.Errorf("%v atoms at a surface, %.0f elsewhere", h, mean)
		}
	}
}

func TestThinAndNoFilm(t *testing.T) {
	for _, thickness := range []float64{0, 0.5, 1.4, 3} {
		atoms, _, err := Film(context.Background(), random.Stream(2, "test"), 20, thickness)
		if want := int(math.Round(20 * 20 * thickness * Density)); err != nil || len(atoms) != want {
			t.Errorf("%v Å: %d atoms, %v; want %d", thickness, len(atoms), err, want)
		}
	}
}

func TestFilmStops(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := Film(ctx, random.Stream(3, "test"), 20, 20); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
}
