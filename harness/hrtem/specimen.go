package hrtem

import "github.com/refocus-em/refocus/harness/internal/bounds"

// Specimen is what is stored once per structure and shared by all imaging
// conditions.
type Specimen struct {
	Info Info
	// Waves holds an exit wave per phonon draw, [Phonons][Output·Output] row by
	// row, at the plane where the film ends. A vacuum has the value 1.
	Waves [][]complex64
	// Label is [Crop·Crop] row by row: 1 where there is a particle, else 0.
	Label []uint8
}

// Info says how a specimen was made, so that a reader can trace an image. It is
// the specimen's entry in a data set's manifest.
type Info struct {
	Seed  uint64 `json:"seed"`
	Split string `json:"split"`
	Index int    `json:"index"`

	Crystal   string     `json:"crystal"`
	Particles []Particle `json:"particles"`
	// ParticlesDrawn is the number first drawn; fewer are placed where they do
	// not fit.
	ParticlesDrawn int `json:"particles_drawn"`
	// Tries counts the positions drawn for particles.
	Tries int `json:"tries"`
	// Atoms is the number of atoms of each element, film included.
	Atoms map[string]int `json:"atoms"`
	// CarbonThickness is the film's thickness in Å, CarbonRemoved the number of
	// its atoms that were too close to a particle's.
	CarbonThickness float64 `json:"carbon_thickness"`
	CarbonRemoved   int     `json:"carbon_removed"`
	// ParticleSlices and CarbonSlices count the slices above and below the top
	// of the film.
	ParticleSlices int `json:"particle_slices"`
	CarbonSlices   int `json:"carbon_slices"`

	// FocusOffset is the underfocus in Å, for these exit waves, at which the
	// particles alone show least contrast: defocus label 0. FocusContrast is the
	// standard deviation of the particles' intensity there.
	FocusOffset   float64 `json:"focus_offset"`
	FocusContrast float64 `json:"focus_contrast"`
	// Norm is the mean of |ψ|² over the exit waves; 1 is no loss.
	Norm float64 `json:"norm"`

	// Crop is the offset of images and label in the output field, pixels of the
	// first column and row.
	Crop [2]int `json:"crop"`
	// LabelFraction is the part of the label's pixels that is 1. AreaRatio and
	// IoU compare the label of the whole output field with the discs of the
	// particles' radii: ratio of areas, and intersection over union.
	LabelFraction float64 `json:"label_fraction"`
	AreaRatio     float64 `json:"area_ratio"`
	IoU           float64 `json:"iou"`
}

// Particle is one sphere cut from a crystal.
type Particle struct {
	// Centre is x and y in the cell and the height above the film, in Å.
	Centre [3]float64 `json:"centre"`
	Radius float64    `json:"radius"`
	// Lattice is the fractional offset of the lattice from the centre, Rotation
	// the unit quaternion (w, x, y, z) applied to the cut sphere.
	Lattice  [3]float64 `json:"lattice"`
	Rotation [4]float64 `json:"rotation"`
	// Faults are the indices of the wurtzite bilayers with a stacking fault.
	Faults []int `json:"faults,omitempty"`
	Atoms  int   `json:"atoms"`
}

// Conditions are those of one image. Their JSON form enters the data digest.
type Conditions struct {
	// Defocus is the nominal defocus label in Å and DefocusStd the standard
	// deviation of the actual one around it (study: 15).
	Defocus    float64 `json:"defocus"`
	DefocusStd float64 `json:"defocus_std"`
	// Dose is in electrons per Å².
	Dose float64 `json:"dose"`
}

// Check lists the conditions that are out of bounds.
func (c Conditions) Check() []Problem {
	var found []Problem
	check := func(key, message string) {
		if message != "" {
			found = append(found, Problem{key, message})
		}
	}
	check("defocus", bounds.Number(c.Defocus, -maxDefocus, maxDefocus))
	check("defocus_std", bounds.Number(c.DefocusStd, 0, maxDefocus/10))
	check("dose", bounds.Positive(c.Dose, maxDose))
	return found
}
