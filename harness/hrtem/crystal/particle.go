package crystal

import (
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/hrtem/internal/portable"
)

// Explicit conversions around products below keep the compiler from fusing
// them into the sums that follow, so that positions have the same bits on
// every architecture.

// Sphere returns the atoms within radius (Å) of the origin of a crystal whose
// lattice is moved by the fractional vector offset. faults are the indices of
// bilayers with an I1 stacking fault; only a wurtzite crystal can have any.
func (c *Cell) Sphere(radius float64, offset [3]float64, faults []int) []Atom {
	if c.u != 0 {
		return c.wurtziteSphere(radius, offset, faults)
	}
	n := [3]int{}
	for i := range n {
		n[i] = int(radius/c.Basis[i][i]) + 2 // cubic: the basis is diagonal
	}
	var atoms []Atom
	for i := -n[0]; i <= n[0]; i++ {
		for j := -n[1]; j <= n[1]; j++ {
			for k := -n[2]; k <= n[2]; k++ {
				for _, s := range c.Sites {
					p := c.position([3]float64{
						float64(i) + s.Frac[0] + offset[0],
						float64(j) + s.Frac[1] + offset[1],
						float64(k) + s.Frac[2] + offset[2],
					})
					if inside(p, radius) {
						atoms = append(atoms, Atom{s.Z, p})
					}
				}
			}
		}
	}
	return atoms
}

// wurtziteSphere builds the crystal from bilayers: a cation layer with the
// anions directly above it. Bilayer j lies at height j·c/2 and is shifted in its
// plane by a registry of 0, 1 or 2 times (a1 + 2·a2)/3. Perfect wurtzite
// alternates between two registries; at a stacking fault the third one comes
// in and the alternation goes on from there:
//
//	perfect  …A B A B A B A B…
//	I1       …A B A B C B C B…
//
// All bonds stay tetrahedral.
func (c *Cell) wurtziteSphere(radius float64, offset [3]float64, faults []int) []Atom {
	isFault := map[int]bool{}
	for _, j := range faults {
		isFault[j] = true
	}
	first, last := c.bilayers(radius, offset[2])
	first-- // the anions of the bilayer below may reach into the sphere
	n := int(radius/c.Basis[1][1]) + 3

	var atoms []Atom
	below, previous := registry(first-2), registry(first-1) // registries of the two bilayers below j
	for j := first; j <= last; j++ {
		r := below
		if isFault[j] {
			r = 3 - below - previous
		}
		below, previous = previous, r
		shift := float64(r) / 3
		for k := -2 * n; k <= 2*n; k++ {
			for l := -n; l <= n; l++ {
				for _, s := range []Site{{c.Sites[0].Z, [3]float64{}}, {c.Sites[1].Z, [3]float64{0, 0, c.u}}} {
					p := c.position([3]float64{
						float64(k) + shift + offset[0],
						float64(l) + float64(2*shift) + offset[1],
						float64(float64(j)/2) + s.Frac[2] + offset[2],
					})
					if inside(p, radius) {
						atoms = append(atoms, Atom{s.Z, p})
					}
				}
			}
		}
	}
	return atoms
}

// registry of bilayer j in the perfect crystal: it puts the cations where the
// unit cell has them.
func registry(j int) int {
	return 1 + j&1
}

// bilayers returns the range of bilayers whose cation plane lies within radius
// of the origin.
func (c *Cell) bilayers(radius, offset float64) (first, last int) {
	h := c.Basis[2][2]
	return int(math.Ceil(2 * (-radius/h - offset))), int(math.Floor(2 * (radius/h - offset)))
}

// FaultDistance is the least number of bilayers between two stacking faults.
const FaultDistance = 6

// DrawFaults draws up to n (0 to 2) stacking faults, uniform over the bilayers of a
// wurtzite sphere. Where no second one fits at FaultDistance it returns one.
func (c *Cell) DrawFaults(r *rand.Rand, radius float64, offset [3]float64, n int) []int {
	first, last := c.bilayers(radius, offset[2])
	if n == 0 || last < first {
		return nil
	}
	a := first + r.IntN(last-first+1)
	if n == 1 {
		return []int{a}
	}
	var rest []int
	for b := first; b <= last; b++ {
		if b <= a-FaultDistance || b >= a+FaultDistance {
			rest = append(rest, b)
		}
	}
	if len(rest) == 0 {
		return []int{a}
	}
	b := rest[r.IntN(len(rest))]
	return []int{min(a, b), max(a, b)}
}

// RandomRotation returns a unit quaternion (w, x, y, z), uniform over rotations:
// four normal variates, normalised.
func RandomRotation(r *rand.Rand) [4]float64 {
	for {
		var q [4]float64
		norm := 0.0
		for i := range q {
			q[i] = portable.Normal(r)
			norm += float64(q[i] * q[i])
		}
		if norm < 1e-12 {
			continue
		}
		norm = math.Sqrt(norm)
		for i := range q {
			q[i] /= norm
		}
		return q
	}
}

// Matrix returns the rotation matrix of a unit quaternion, rows first.
func Matrix(q [4]float64) [3][3]float64 {
	w, x, y, z := q[0], q[1], q[2], q[3]
	xx, yy, zz := float64(x*x), float64(y*y), float64(z*z)
	xy, xz, yz := float64(x*y), float64(x*z), float64(y*z)
	wx, wy, wz := float64(w*x), float64(w*y), float64(w*z)
	return [3][3]float64{
		{1 - float64(2*(yy+zz)), 2 * (xy - wz), 2 * (xz + wy)},
		{2 * (xy + wz), 1 - float64(2*(xx+zz)), 2 * (yz - wx)},
		{2 * (xz - wy), 2 * (yz + wx), 1 - float64(2*(xx+yy))},
	}
}

// Place rotates atoms about the origin by the unit quaternion q and then moves
// them to centre, in place.
func Place(atoms []Atom, q [4]float64, centre [3]float64) {
	m := Matrix(q)
	for i := range atoms {
		p := atoms[i].Pos
		for j := range centre {
			atoms[i].Pos[j] = dot(m[j], p) + centre[j]
		}
	}
}

// position converts fractional coordinates to Å.
func (c *Cell) position(f [3]float64) [3]float64 {
	var p [3]float64
	for j := range p {
		p[j] = float64(f[0]*c.Basis[0][j]) + float64(f[1]*c.Basis[1][j]) + float64(f[2]*c.Basis[2][j])
	}
	return p
}

func inside(p [3]float64, radius float64) bool {
	return dot(p, p) <= float64(radius*radius)
}

func dot(a, b [3]float64) float64 {
	return float64(a[0]*b[0]) + float64(a[1]*b[1]) + float64(a[2]*b[2])
}
