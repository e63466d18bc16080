package crystal

import (
	"math"
	"slices"
	"testing"

	"github.com/refocus-em/refocus/harness/random"
)

func lookup(t *testing.T, name string) *Cell {
	t.Helper()
	c, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func distance(a, b [3]float64) float64 {
	return math.Hypot(math.Hypot(a[0]-b[0], a[1]-b[1]), a[2]-b[2])
}

// Sites per cell, number density in atoms/Å³ (study and handbook densities) and
// nearest distance in Å, all to their last digit.
func TestCells(t *testing.T) {
	for _, c := range []struct {
		name    string
		sites   int
		density float64
		nearest float64
	}{
		{"w_ZnS", 4, 0.050485, 2.3421},
		{"w_CdSe", 4, 0.035633, 2.6298},
		{"fcc_Cu", 4, 0.084622, 2.5567},
		{"fcc_Ag", 4, 0.058973, 2.8837},
		{"dc_C", 8, 0.176226, 1.5447},
		{"dc_Si", 8, 0.049968, 2.3513},
		{"spinel_Fe3O4", 56, 0.094685, 1.8871},
		{"spinel_Co3O4", 56, 0.106752, 1.9157},
		{"bcc_Fe", 2, 0.084957, 2.4820},
	} {
		cell := lookup(t, c.name)
		if len(cell.Sites) != c.sites {
			t.Errorf("%s: %d sites, want %d", c.name, len(cell.Sites), c.sites)
		}
		seen := map[[3]int]bool{}
		for _, s := range cell.Sites {
			var k [3]int
			for i, f := range s.Frac {
				if f < 0 || f >= 1 {
					t.Errorf("%s: site %v is not in the cell", c.name, s.Frac)
				}
				k[i] = int(math.Round(f*1e6)) % 1e6
			}
			if seen[k] {
				t.Errorf("%s: site %v occurs twice", c.name, s.Frac)
			}
			seen[k] = true
		}
		if d := float64(len(cell.Sites)) / cell.Volume(); math.Abs(d-c.density) > 1e-6 {
			t.Errorf("%s: density %.6f, want %.6f", c.name, d, c.density)
		}
		atoms := cell.Sphere(9, [3]float64{}, nil)
		nearest := math.Inf(1)
		for i, a := range atoms {
			for _, b := range atoms[:i] {
				nearest = min(nearest, distance(a.Pos, b.Pos))
			}
		}
		if math.Abs(nearest-c.nearest) > 1e-4 {
			t.Errorf("%s: nearest distance %.4f, want %.4f", c.name, nearest, c.nearest)
		}
	}
	if len(Names()) != 9 {
		t.Errorf("%d structures, want 9", len(Names()))
	}
	if _, err := Lookup("w_CdS"); err == nil {
		t.Error("an unknown crystal is found")
	}
}

func TestSpinelOccupation(t *testing.T) {
	for name, want := range map[string][2]float64{"spinel_Fe3O4": {1.8871, 2.0590}, "spinel_Co3O4": {1.9305, 1.9157}} {
		cell := lookup(t, name)
		cations := 0
		for _, s := range cell.Sites {
			if s.Z != oxygenZ {
				cations++
			}
		}
		if cations != 24 {
			t.Errorf("%s: %d cations, want 24", name, cations)
		}
		// Around every cation inside: 4 oxygens at the tetrahedral or 6 at the
		// octahedral distance.
		atoms := cell.Sphere(8, [3]float64{0.1, 0.2, 0.3}, nil)
		for _, a := range atoms {
			if a.Z == oxygenZ || distance(a.Pos, [3]float64{}) > 5 {
				continue
			}
			n, mean := 0, 0.0
			for _, b := range atoms {
				if d := distance(a.Pos, b.Pos); b.Z == oxygenZ && d < 2.4 {
					n, mean = n+1, mean+d
				}
			}
			mean /= float64(n)
			if !(n == 4 && math.Abs(mean-want[0]) < 1e-4) && !(n == 6 && math.Abs(mean-want[1]) < 1e-4) {
				t.Errorf("%s: a cation with %d oxygens at %.4f Å", name, n, mean)
			}
		}
	}
}

// The number of atoms in a sphere of 20 Å, within 3 % of the density for any
// offset of the lattice.
func TestSphereCounts(t *testing.T) {
	r := random.Stream(1, "test")
	for _, name := range Names() {
		cell := lookup(t, name)
		want := float64(len(cell.Sites)) / cell.Volume() * 4 / 3 * math.Pi * 20 * 20 * 20
		for range 2 {
			got := len(cell.Sphere(20, [3]float64{r.Float64(), r.Float64(), r.Float64()}, nil))
			if math.Abs(float64(got)-want) > 0.03*want {
				t.Errorf("%s: %d atoms, want %.0f ± 3 %%", name, got, want)
			}
		}
	}
}

// A sphere is exactly the infinite crystal inside its radius: the slow oracle takes
// every site of a generous block of cells.
func TestSphereAgainstBlock(t *testing.T) {
	offset := [3]float64{0.83, 0.27, 0.55}
	for _, name := range Names() {
		cell := lookup(t, name)
		var want [][3]float64
		for i := -15; i <= 15; i++ {
			for j := -15; j <= 15; j++ {
				for k := -15; k <= 15; k++ {
					for _, s := range cell.Sites {
						f := [3]float64{float64(i) + s.Frac[0] + offset[0], float64(j) + s.Frac[1] + offset[1], float64(k) + s.Frac[2] + offset[2]}
						var p [3]float64
						for a := range p {
							for b := range f {
								p[a] += f[b] * cell.Basis[b][a]
							}
						}
						if distance(p, [3]float64{}) <= 9.5 {
							want = append(want, p)
						}
					}
				}
			}
		}
		got := cell.Sphere(9.5, offset, nil)
		if len(got) != len(want) {
			t.Errorf("%s: %d atoms, want %d", name, len(got), len(want))
			continue
		}
		for _, p := range want {
			if !slices.ContainsFunc(got, func(a Atom) bool { return distance(a.Pos, p) < 1e-9 }) {
				t.Errorf("%s: no atom at %v", name, p)
			}
		}
	}
}

// Every interior atom of wurtzite has four unlike neighbours within 2.7 Å (CdSe),
// with and without faults, and a fault makes cubic neighbourhoods: an ABC
// sequence.
func TestStackingFaultsKeepBonds(t *testing.T) {
	cell := lookup(t, "w_CdSe")
	for _, faults := range [][]int{nil, {0}, {-3, 2}} {
		atoms := cell.Sphere(14, [3]float64{0.3, 0.9, 0.6}, faults)
		for _, a := range atoms {
			if distance(a.Pos, [3]float64{}) > 11 {
				continue
			}
			unlike, like := 0, 0
			for _, b := range atoms {
				if d := distance(a.Pos, b.Pos); d > 0 && d < 2.7 {
					if math.Abs(d-2.6377) > 1e-4 && math.Abs(d-2.6298) > 1e-4 {
						t.Fatalf("faults %v: a bond of %.4f Å", faults, d)
					}
					if a.Z == b.Z {
						like++
					} else {
						unlike++
					}
				}
			}
			if unlike != 4 || like != 0 {
				t.Fatalf("faults %v: %d unlike and %d like neighbours, want 4 and 0", faults, unlike, like)
			}
		}
		if got := cubicBilayers(cell, atoms); got != len(faults) {
			t.Errorf("faults %v: %d cubic bilayers, want %d", faults, got, len(faults))
		}
	}
}

// cubicBilayers counts the cadmium layers whose two neighbouring layers have
// different registries.
func cubicBilayers(cell *Cell, atoms []Atom) int {
	layers := map[int][][3]float64{}
	for _, a := range atoms {
		if a.Z == cadmiumZ {
			j := int(math.Round((a.Pos[2]/cell.Basis[2][2] - 0.6) * 2))
			layers[j] = append(layers[j], a.Pos)
		}
	}
	n := 0
	for j := range layers {
		below, above := layers[j-1], layers[j+1]
		if below == nil || above == nil {
			continue
		}
		same := false
		for _, p := range below {
			for _, q := range above {
				if math.Hypot(p[0]-q[0], p[1]-q[1]) < 0.1 {
					same = true
				}
			}
		}
		if !same {
			n++
		}
	}
	return n
}

func TestDrawFaults(t *testing.T) {
	cell := lookup(t, "w_CdSe")
	r := random.Stream(5, "test")
	counts := map[int]int{}
	for range 2000 {
		radius, offset := 10+15*r.Float64(), [3]float64{r.Float64(), r.Float64(), r.Float64()}
		n := r.IntN(3)
		faults := cell.DrawFaults(r, radius, offset, n)
		if len(faults) > n || (n > 0 && len(faults) == 0) {
			t.Fatalf("%d faults drawn, want %d", len(faults), n)
		}
		if len(faults) == 2 {
			if faults[1]-faults[0] < FaultDistance {
				t.Fatalf("faults %v are too close", faults)
			}
		} else if n == 2 && radius > 2*FaultDistance*cell.Basis[2][2]/2 {
			t.Errorf("only one fault in a sphere of %.1f Å", radius)
		}
		for _, j := range faults {
			z := (float64(j)/2 + offset[2]) * cell.Basis[2][2]
			if math.Abs(z) > radius {
				t.Errorf("fault at height %.1f in a sphere of %.1f Å", z, radius)
			}
			counts[j]++
		}
	}
	if len(counts) < 10 {
		t.Errorf("faults at %d different bilayers only", len(counts))
	}
}

// 10⁴ rotations: orthogonal to 1e-12, proper, and the image of ẑ uniform on the
// sphere (bounds of about three standard errors).
func TestRotationsAreUniform(t *testing.T) {
	r := random.Stream(7, "test")
	var mean, second float64
	const n = 10000
	for range n {
		m := Matrix(RandomRotation(r))
		for i := range m {
			for j := range m {
				want := 0.0
				if i == j {
					want = 1
				}
				if math.Abs(dot(m[i], m[j])-want) > 1e-12 {
					t.Fatalf("rows %d and %d have product %v", i, j, dot(m[i], m[j]))
				}
			}
		}
		det := m[0][0]*(m[1][1]*m[2][2]-m[1][2]*m[2][1]) - m[0][1]*(m[1][0]*m[2][2]-m[1][2]*m[2][0]) + m[0][2]*(m[1][0]*m[2][1]-m[1][1]*m[2][0])
		if math.Abs(det-1) > 1e-12 {
			t.Fatalf("determinant %v", det)
		}
		mean += m[2][2] / n
		second += m[2][2] * m[2][2] / n
	}
	if math.Abs(mean) > 0.02 || math.Abs(second-1./3) > 0.01 {
		t.Errorf("z component of the image of ẑ: mean %.4f, second moment %.4f, want 0 and 1/3", mean, second)
	}
}

func TestPlaceKeepsDistances(t *testing.T) {
	cell := lookup(t, "dc_C")
	before := cell.Sphere(5, [3]float64{0.4, 0.1, 0.2}, nil)
	after := slices.Clone(before)
	Place(after, RandomRotation(random.Stream(8, "test")), [3]float64{10, 20, 30})
	for i := range before {
		if d := distance(after[i].Pos, [3]float64{10, 20, 30}); math.Abs(d-distance(before[i].Pos, [3]float64{})) > 1e-12 {
			t.Errorf("atom %d moved from %v to %v", i, before[i].Pos, after[i].Pos)
		}
	}
}
