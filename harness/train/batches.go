package train

import (
	"fmt"
	"math/rand/v2"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/random"
)

// subset returns the n of total images that a training uses: the first n of an
// order that the study seed and the domain's name determine. A smaller subset is
// therefore part of a larger one, and two domains made of the same structures
// need not give the same ones to small subsets.
func subset(seed uint64, domain string, total, n int) ([]int, error) {
	if n < 0 || n > total {
		return nil, fmt.Errorf("domain %s: %d training images asked of %d", domain, n, total)
	}
	order := make([]int, total)
	for i := range order {
		order[i] = i
	}
	shuffle(random.Stream(seed, "subset "+domain), order)
	return order[:n:n], nil
}

// samples lists what an epoch is made of, in a fixed order: every symmetry of
// every image that the stage trains on.
func (s Spec) samples() ([]backend.Sample, error) {
	symmetries := 1
	if s.Dihedral {
		symmetries = 8
	}
	var all []backend.Sample
	for _, p := range s.Data {
		indices, err := subset(s.Seed, p.Name, p.Of, p.Images)
		if err != nil {
			return nil, err
		}
		for k, i := range indices {
			if p.Crop > 0 {
				i = k // in the file of the epoch, which has these alone
			}
			for op := range symmetries {
				all = append(all, backend.Sample{Dataset: trainID + p.Name, Index: i, Dihedral: uint8(op)})
			}
		}
	}
	return all, nil
}

// batches lists the optimiser steps of an epoch, counted from 0: its samples in
// an order that is new every epoch. Where their number is not a multiple of the
// batch size, the last batch is smaller and is trained on like the others, as
// PyTorch's loader does by default; the study's sizes always divide.
func (s Spec) batches(samples []backend.Sample, epoch int) []backend.Batch {
	order := append(backend.Batch(nil), samples...)
	shuffle(random.Stream(s.Seed, fmt.Sprintf("epoch %q %q", s.Stream, s.Stage), uint64(epoch)), order)
	var batches []backend.Batch
	for len(order) > 0 {
		n := min(s.BatchSize, len(order))
		batches = append(batches, order[:n:n])
		order = order[n:]
	}
	return batches
}

// shuffle is Fisher and Yates's. It is written out, down to the integer below n,
// because a run's bits depend on it and the methods of rand.Rand may change with
// the release of Go.
func shuffle[T any](rng *rand.Rand, s []T) {
	for i := len(s) - 1; i > 0; i-- {
		j := dataset.Below(rng, uint64(i+1))
		s[i], s[j] = s[j], s[i]
	}
}
