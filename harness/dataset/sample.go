package dataset

import (
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/random"
)

// Sample is one image of one of several sets under one of the eight symmetries
// of the square: numpy.rot90(a.T if Dihedral&4 else a, Dihedral&3).
type Sample struct {
	Set      int // index into the sets of the training
	Index    int // of the image
	Dihedral uint8
}

// Subset returns the n of total images that a training uses: the first n of an
// order that the study seed and name determine. A smaller subset is therefore
// part of a larger one. name is that of the domain, so that two domains made of
// the same structures need not give the same ones to small subsets.
func Subset(seed uint64, name string, total, n int) ([]int, error) {
	if n < 0 || n > total {
		return nil, fmt.Errorf("domain %s: %d training images asked of %d", name, n, total)
	}
	order := make([]int, total)
	for i := range order {
		order[i] = i
	}
	shuffle(random.Stream(seed, "subset "+name), order)
	return order[:n:n], nil
}

// Part is the images of one set that a training uses, from Subset. A mixture has
// several.
type Part struct {
	Set     int
	Indices []int
}

// EpochOptions say which of the epochs of a study it is and what it is made of.
type EpochOptions struct {
	// Seed of the study, the Run's and the Stage's names and the Epoch's number
	// together name the random stream of the order.
	Seed       uint64
	Run, Stage string
	Epoch      int
	// Dihedral makes all eight symmetries of every image part of the epoch.
	Dihedral bool
	// Batch is the number of samples of one optimiser step (study: 16).
	Batch int
}

// Epoch returns the batches of one epoch: every symmetry of every image of the
// parts exactly once, in an order that is new every epoch. Where the number of
// samples is not a multiple of the batch, the last batch is smaller and is
// trained on like the others, as PyTorch's loader does by default; the study's
// sizes always divide.
func Epoch(parts []Part, o EpochOptions) ([][]Sample, error) {
	if o.Batch < 1 {
		return nil, fmt.Errorf("batch of %d samples", o.Batch)
	}
	symmetries := 1
	if o.Dihedral {
		symmetries = 8
	}
	var samples []Sample
	for _, p := range parts {
		for _, i := range p.Indices {
			for d := range symmetries {
				samples = append(samples, Sample{p.Set, i, uint8(d)})
			}
		}
	}
	if len(samples) == 0 {
		return nil, fmt.Errorf("run %s, %s: no training images", o.Run, o.Stage)
	}
	shuffle(random.Stream(o.Seed, fmt.Sprintf("epoch %q %q", o.Run, o.Stage), uint64(o.Epoch)), samples)
	var batches [][]Sample
	for len(samples) > 0 {
		n := min(o.Batch, len(samples))
		batches = append(batches, samples[:n:n])
		samples = samples[n:]
	}
	return batches, nil
}

// shuffle is Fisher and Yates's. It is written out, down to the integer below n,
// because a run's bits depend on it and the methods of rand.Rand may change with
// the release of Go.
func shuffle[T any](rng *rand.Rand, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := below(rng, uint64(i+1))
		s[i], s[j] = s[j], s[i]
	}
}

// below returns a uniform integer in [0, n): the high word of a 128-bit product,
// rejecting the few low words that would favour some results.
func below(rng *rand.Rand, n uint64) uint64 {
	for {
		hi, lo := bits.Mul64(rng.Uint64(), n)
		if lo >= -n%n {
			return hi
		}
	}
}
