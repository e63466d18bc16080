package hrtem

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/hrtem/carbon"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/random"
)

// Structure is the atoms of one specimen before thermal motion. x and y are in
// the cell, z is the height above the top of the film: the beam comes from large
// z, meets the particles and then the film, which lies at z < 0.
type Structure struct {
	// Info is what is known of the specimen so far: all but the fields on focus,
	// norm and label.
	Info      Info
	Particles []crystal.Atom
	Film      []crystal.Atom
}

const (
	// triesPerParticle positions are drawn before a structure is begun anew, and
	// restarts of it before it gets one particle less.
	triesPerParticle = 200
	restarts         = 50
	// padding is the empty height in Å above the highest particle.
	padding = 2
)

// stream names the random numbers of one purpose in one structure. Crystal and
// sizes belong to the name, so that different domains have different structures.
func (s *Simulator) stream(seed uint64, purpose, split string, indices ...uint64) *rand.Rand {
	c := s.config
	name := fmt.Sprintf("hrtem %s %s %s %g-%g", purpose, split, c.Crystal, c.Radius[0], c.Radius[1])
	return random.Stream(seed, name, indices...)
}

// Structure draws the atoms of structure number index of a split.
func (s *Simulator) Structure(ctx context.Context, seed uint64, split string, index int) (*Structure, error) {
	if index < 0 {
		return nil, fmt.Errorf("structure %d of %q: the number is negative", index, split)
	}
	c := s.config
	r := s.stream(seed, "structure", split, uint64(index))
	st := &Structure{Info: Info{Seed: seed, Split: split, Index: index, Crystal: c.Crystal}}
	info := &st.Info

	info.ParticlesDrawn = c.Particles[0] + r.IntN(c.Particles[1]-c.Particles[0]+1)
	info.Particles, info.Tries = c.placeParticles(r, info.ParticlesDrawn)
	info.CarbonThickness = uniform(r, c.Carbon)
	for i := range info.Crop {
		info.Crop[i] = r.IntN(c.Output - c.Crop + 1)
	}

	cell := s.crystal
	height := 0.0
	for i := range info.Particles {
		p := &info.Particles[i]
		for j := range p.Lattice {
			p.Lattice[j] = r.Float64()
		}
		p.Rotation = crystal.RandomRotation(r)
		p.Faults = cell.DrawFaults(r, p.Radius, p.Lattice, r.IntN(c.MaxFaults+1))
		atoms := cell.Sphere(p.Radius, p.Lattice, p.Faults)
		crystal.Place(atoms, p.Rotation, p.Centre)
		p.Atoms = len(atoms)
		st.Particles = append(st.Particles, atoms...)
		height = max(height, 2*p.Radius)
	}
	if len(st.Particles) > 0 {
		info.ParticleSlices = int(math.Ceil((height + padding) / c.Slice))
	}

	film, _, err := carbon.Film(ctx, s.stream(seed, "carbon", split, uint64(index)), c.Cell, info.CarbonThickness)
	if err != nil {
		return nil, fmt.Errorf("structure %d of %q: %w", index, split, err)
	}
	st.Film = make([]crystal.Atom, 0, len(film))
	for _, p := range film {
		p[2] = -p[2]
		if touches(p, st.Particles, c.Cell) {
			info.CarbonRemoved++
			continue
		}
		st.Film = append(st.Film, crystal.Atom{Z: carbon.Z, Pos: p})
	}
	info.CarbonSlices = int(math.Ceil(info.CarbonThickness / c.Slice))

	info.Atoms = map[string]int{}
	for _, atoms := range [][]crystal.Atom{st.Particles, st.Film} {
		for _, a := range atoms {
			info.Atoms[s.symbols[a.Z]]++
		}
	}
	return st, nil
}

// placeParticles draws radii and lateral positions of n spheres that stand on the
// film with the gap between any two, measured in the plane. A structure for which
// that fails is drawn anew as a whole, and after a number of failures with one
// particle less.
func (c Config) placeParticles(r *rand.Rand, n int) (particles []Particle, tries int) {
	for ; ; n-- {
		for range restarts {
			particles = particles[:0]
			for len(particles) < n {
				p := Particle{Radius: uniform(r, c.Radius)}
				placed := false
				for t := 0; t < triesPerParticle && !placed; t++ {
					tries++
					p.Centre = [3]float64{float64(r.Float64() * c.Cell), float64(r.Float64() * c.Cell), p.Radius}
					placed = c.clear(p, particles)
				}
				if !placed {
					break
				}
				particles = append(particles, p)
			}
			if len(particles) == n {
				return particles, tries
			}
		}
	}
}

// clear reports whether p keeps the gap to all others.
func (c Config) clear(p Particle, others []Particle) bool {
	for _, q := range others {
		d := p.Radius + q.Radius + c.Gap
		if c.lateral(p.Centre, q.Centre) < float64(d*d) {
			return false
		}
	}
	return true
}

// lateral returns the squared distance of two points in the plane of the film, by
// the nearest image.
func (c Config) lateral(p, q [3]float64) float64 {
	s := 0.0
	for i := range 2 {
		d := math.Abs(p[i] - q[i])
		d = min(d, c.Cell-d)
		s += float64(d * d)
	}
	return s
}

// touches reports whether a film atom is too close to one of a particle's.
func touches(p [3]float64, atoms []crystal.Atom, cell float64) bool {
	if p[2] < -carbon.Distance {
		return false // particles lie above the film
	}
	for _, a := range atoms {
		if a.Pos[2] < carbon.Distance && carbon.Close(p, wrap(a.Pos, cell), cell) {
			return true
		}
	}
	return false
}

// wrap moves a point into the cell.
func wrap(p [3]float64, cell float64) [3]float64 {
	for i := range 2 {
		p[i] -= float64(math.Floor(p[i]/cell) * cell)
	}
	return p
}

func uniform(r *rand.Rand, limits [2]float64) float64 {
	return limits[0] + float64(r.Float64()*(limits[1]-limits[0]))
}
