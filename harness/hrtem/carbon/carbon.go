// Package carbon makes amorphous carbon films by random sequential addition: atoms
// at uniformly random points, each kept if no earlier one is too close.
//
// Density (2.20 g/cm³) and least distance are the defaults of Construction Zone,
// the tool the study generated its structures with.
package carbon

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
)

const (
	// Density is in atoms per Å³.
	Density = 0.1103075
	// Distance in Å is the least between two atoms.
	Distance = 1.4
	// Z is the atomic number of carbon.
	Z = 6
)

// Film returns the positions of a film's atoms in Å, x and y in [0, cell) and z in
// [0, thickness), and the number of points tried. The film is periodic in x and
// y, but not in z, so that its outermost 2 Å are a few per cent denser than the
// rest. It has round(cell²·thickness·Density) atoms.
func Film(ctx context.Context, r *rand.Rand, cell, thickness float64) (atoms [][3]float64, tries int, err error) {
	n := int(float64(cell*cell*thickness*Density) + 0.5)
	if n == 0 {
		return nil, 0, nil
	}
	// Boxes of at least Distance: neighbours are at most one box away. The
	// number of boxes divides the cell, lest a narrow last one break that.
	nx := int(cell / Distance)
	nz := max(1, int(thickness/Distance))
	head := make([]int32, nx*nx*nz) // 1 + last atom of a box, 0: none
	next := make([]int32, n)        // 1 + the atom before it in the same box
	atoms = make([][3]float64, 0, n)

	box := func(v, length float64, n int) int { return min(int(v/length*float64(n)), n-1) }
	free := func(p [3]float64, bx, by, bz int) bool {
		for dz := -1; dz <= 1; dz++ {
			z := bz + dz
			if z < 0 || z >= nz {
				continue
			}
			for dy := -1; dy <= 1; dy++ {
				y := (by + dy + nx) % nx
				for dx := -1; dx <= 1; dx++ {
					x := (bx + dx + nx) % nx
					for i := head[(z*nx+y)*nx+x]; i != 0; i = next[i-1] {
						if Close(p, atoms[i-1], cell) {
							return false
						}
					}
				}
			}
		}
		return true
	}
	for len(atoms) < n {
		if tries%65536 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, tries, err
			}
			if tries > 1000*n {
				return nil, tries, fmt.Errorf("carbon film of %v × %v × %v Å: %d of %d atoms placed after %d tries", cell, cell, thickness, len(atoms), n, tries)
			}
		}
		tries++
		p := [3]float64{float64(r.Float64() * cell), float64(r.Float64() * cell), float64(r.Float64() * thickness)}
		bx, by, bz := box(p[0], cell, nx), box(p[1], cell, nx), box(p[2], thickness, nz)
		if !free(p, bx, by, bz) {
			continue
		}
		b := (bz*nx+by)*nx + bx
		next[len(atoms)] = head[b]
		atoms = append(atoms, p)
		head[b] = int32(len(atoms))
	}
	return atoms, tries, nil
}

// Close reports whether two atoms are closer than Distance, by the nearest image
// in x and y.
func Close(p, q [3]float64, cell float64) bool {
	s := 0.0
	for i := range p {
		d := math.Abs(p[i] - q[i])
		if i < 2 && d > cell/2 {
			d = cell - d
		}
		s += float64(d * d)
	}
	return s < Distance*Distance
}
