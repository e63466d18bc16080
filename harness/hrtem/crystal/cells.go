package crystal

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Atom is an atom at a position in Å.
type Atom struct {
	Z   int // atomic number
	Pos [3]float64
}

// Site is one atom of a unit cell.
type Site struct {
	Z    int
	Frac [3]float64 // fractional coordinates in [0, 1)
}

// Cell is a crystal's unit cell.
type Cell struct {
	Name  string
	Basis [3][3]float64 // lattice vectors in Å, one a row
	Sites []Site

	// u is the internal parameter of a wurtzite cell, 0 for the others.
	u float64
}

// Atomic numbers of the elements in use.
const (
	carbonZ   = 6
	oxygenZ   = 8
	siliconZ  = 14
	sulphurZ  = 16
	ironZ     = 26
	cobaltZ   = 27
	copperZ   = 29
	zincZ     = 30
	seleniumZ = 34
	silverZ   = 47
	cadmiumZ  = 48
)

// cells are in the order of the study's figures.
var cells = []*Cell{
	wurtzite("w_ZnS", zincZ, sulphurZ, 3.8227, 6.2607, 0.3748),
	wurtzite("w_CdSe", cadmiumZ, seleniumZ, 4.2985, 7.0152, 0.376),
	cubic("fcc_Cu", 3.6157, centred(copperZ, [3]float64{})),
	cubic("fcc_Ag", 4.0782, centred(silverZ, [3]float64{})),
	cubic("dc_C", 3.5673, diamond(carbonZ)),
	cubic("dc_Si", 5.430, diamond(siliconZ)),
	cubic("spinel_Fe3O4", 8.394, spinel(ironZ, 0.2548)),
	cubic("spinel_Co3O4", 8.065, spinel(cobaltZ, 0.2632)),
	cubic("bcc_Fe", 2.866, []Site{{ironZ, [3]float64{}}, {ironZ, [3]float64{0.5, 0.5, 0.5}}}),
}

// Names returns the names of all structures, those of the study's notebooks.
func Names() []string {
	names := make([]string, len(cells))
	for i, c := range cells {
		names[i] = c.Name
	}
	return names
}

// Lookup returns the structure of that name.
func Lookup(name string) (*Cell, error) {
	for _, c := range cells {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("no crystal is named %q, want one of %s", name, strings.Join(Names(), ", "))
}

// Wurtzite reports whether the named structure is wurtzite, so that stacking
// faults are defined for it.
func Wurtzite(name string) bool {
	c, err := Lookup(name)
	return err == nil && c.u != 0
}

// Volume returns the cell's volume in Å³.
func (c *Cell) Volume() float64 {
	a, b := c.Basis[0], c.Basis[1]
	// The third vector of every cell here is along z.
	return (float64(a[0]*b[1]) - float64(a[1]*b[0])) * c.Basis[2][2]
}

// wurtzite is space group 186 with cation and anion on 2b.
func wurtzite(name string, cation, anion int, a, c, u float64) *Cell {
	return &Cell{
		Name:  name,
		Basis: [3][3]float64{{a, 0, 0}, {-a / 2, a * (math.Sqrt(3) / 2), 0}, {0, 0, c}},
		Sites: []Site{
			{cation, [3]float64{1. / 3, 2. / 3, 0}},
			{anion, [3]float64{1. / 3, 2. / 3, u}},
			{cation, [3]float64{2. / 3, 1. / 3, 0.5}},
			{anion, [3]float64{2. / 3, 1. / 3, 0.5 + u}},
		},
		u: u,
	}
}

func cubic(name string, a float64, sites []Site) *Cell {
	return &Cell{Name: name, Basis: [3][3]float64{{a, 0, 0}, {0, a, 0}, {0, 0, a}}, Sites: sites}
}

// centred returns a site and its face-centred translations, wrapped into the
// cell.
func centred(z int, f [3]float64) []Site {
	var sites []Site
	for _, t := range [][3]float64{{0, 0, 0}, {0, 0.5, 0.5}, {0.5, 0, 0.5}, {0.5, 0.5, 0}} {
		var g [3]float64
		for i := range g {
			g[i] = f[i] + t[i]
			g[i] -= math.Floor(g[i])
		}
		sites = append(sites, Site{z, g})
	}
	return sites
}

func diamond(z int) []Site {
	return slices.Concat(centred(z, [3]float64{}), centred(z, [3]float64{0.25, 0.25, 0.25}))
}

// spinel is space group 227 with origin choice 2: cations on 8a and 16d, oxygen
// on 32e. All cations are the same element; charge order is ignored.
func spinel(cation int, u float64) []Site {
	v := 0.25 - u
	var sites []Site
	for _, f := range [][3]float64{
		{1. / 8, 1. / 8, 1. / 8}, {7. / 8, 7. / 8, 7. / 8}, // 8a, tetrahedral
		{1. / 2, 1. / 2, 1. / 2}, {1. / 2, 1. / 4, 1. / 4}, {1. / 4, 1. / 2, 1. / 4}, {1. / 4, 1. / 4, 1. / 2}, // 16d, octahedral
	} {
		sites = append(sites, centred(cation, f)...)
	}
	for _, f := range [][3]float64{{u, u, u}, {u, v, v}, {v, u, v}, {v, v, u}} {
		sites = append(sites, centred(oxygenZ, f)...)
		sites = append(sites, centred(oxygenZ, [3]float64{-f[0], -f[1], -f[2]})...)
	}
	return sites
}

// Elements returns the atomic numbers that occur in the cell, each once.
func (c *Cell) Elements() []int {
	var zs []int
	for _, s := range c.Sites {
		if !slices.Contains(zs, s.Z) {
			zs = append(zs, s.Z)
		}
	}
	return zs
}
