// Package crystal holds the study's nine crystal structures and cuts spherical
// nanoparticles from them, with stacking faults where the crystal is wurtzite.
//
// Lattice constants are those of the study. Sites are the usual ones of the
// space groups; the free internal parameters (u of wurtzite and of the spinel
// oxygens) are literature values and our choice: ZnS 0.3748, CdSe 0.376, Fe3O4
// 0.2548 (Hamilton 1958), Co3O4 0.2632. Fractional coordinates become Å with
//
//	r = x·a1 + y·a2 + z·a3
//
// where hexagonal cells have a1 = a(1, 0, 0), a2 = a(−1/2, √3/2, 0), a3 = c(0, 0, 1)
// and cubic ones a·I.
package crystal
