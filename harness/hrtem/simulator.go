package hrtem

import (
	"context"
	"errors"
	"math/rand/v2"
)

// Simulator makes specimens and images for one Config. It is safe for
// concurrent use.
type Simulator struct {
	config Config
}

// NewSimulator plans the transforms and tables of a valid configuration.
func NewSimulator(c Config) (*Simulator, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Simulator{config: c}, nil
}

// Specimen simulates structure number index of a split ("train" or
// "validation") under the study seed.
func (s *Simulator) Specimen(ctx context.Context, seed uint64, split string, index int) (*Specimen, error) {
	return nil, errors.New("hrtem: the simulation is being written")
}

// Image images a specimen: it draws the actual defocus and the electron counts
// from rng, crops and standardises. dst has Crop·Crop elements. It returns the
// actual defocus in Å.
func (s *Simulator) Image(ctx context.Context, sp *Specimen, c Conditions, rng *rand.Rand, dst []float32) (actual float64, err error) {
	return 0, errors.New("hrtem: the simulation is being written")
}
