package train

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
)

// parts chooses the images the stage trains on.
func (s Spec) parts() ([]dataset.Part, error) {
	parts := make([]dataset.Part, len(s.Data))
	for i, p := range s.Data {
		indices, err := dataset.Subset(s.Seed, p.Name, p.Of, p.Images)
		if err != nil {
			return nil, err
		}
		parts[i] = dataset.Part{Set: i, Indices: indices}
	}
	return parts, nil
}

// batches lists the optimiser steps of an epoch, counted from 0.
func (s Spec) batches(parts []dataset.Part, epoch int) ([]backend.Batch, error) {
	samples, err := dataset.Epoch(parts, dataset.EpochOptions{
		Seed: s.Seed, Run: s.Stream, Stage: s.Stage, Epoch: epoch, Dihedral: s.Dihedral, Batch: s.BatchSize,
	})
	if err != nil {
		return nil, err
	}
	batches := make([]backend.Batch, len(samples))
	for i, b := range samples {
		for _, x := range b {
			batches[i] = append(batches[i], backend.Sample{Dataset: trainID + s.Data[x.Set].Name, Index: x.Index, Dihedral: x.Dihedral})
		}
	}
	return batches, nil
}
