package train

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Format is raised whenever the protocol below changes what a Spec means.
const Format = 1

// Spec is everything that determines a run's result.
type Spec struct {
	Format  int            `json:"format"`
	Stage   string         `json:"stage"` // a kind of study.Run
	Network nn.UNetOptions `json:"network"`
	// ONNX is the SHA-256 of the file of a network from elsewhere, which is trained
	// in place of the U-Net; Weights says what of it models start from
	// (study.Network).
	ONNX    string `json:"onnx,omitempty"`
	Weights string `json:"weights,omitempty"`
	// ClassNames are those of the classes, the background first; nil for background
	// and particle.
	ClassNames []string   `json:"class_names,omitempty"`
	Loss       string     `json:"loss"`
	Backend    Arithmetic `json:"backend"`

	// Seed is the study's; Stream names the run's own random streams (initial
	// weights, subset, order), so that runs with equal Seed and Stream see the
	// same numbers.
	Seed   uint64 `json:"seed"`
	Stream string `json:"stream"`
	// Parent is the digest of the run whose weights this one starts from; ""
	// starts from random weights.
	Parent string `json:"parent,omitempty"`

	// Data is what the stage trains on, Validation what is evaluated after each
	// epoch; Target names the validation domain that selects the best epoch.
	Data       []Part `json:"data"`
	Validation []Set  `json:"validation"`
	Target     string `json:"target"`

	Epochs       int          `json:"epochs"`
	BatchSize    int          `json:"batch_size"`
	Dihedral     bool         `json:"dihedral"` // all eight variants of each image form an epoch
	LearningRate float64      `json:"learning_rate"`
	Decay        float64      `json:"decay"` // of the learning rate, per epoch
	Adam         backend.Adam `json:"adam"`
	Frozen       []string     `json:"frozen,omitempty"` // parameter groups
}

// Arithmetic names whose arithmetic a result has.
type Arithmetic struct {
	Name      string `json:"name"`
	Numerics  string `json:"numerics"`
	Precision string `json:"precision"`
}

// Set is a domain's data set and how many of its images are used.
type Set struct {
	Name   string `json:"name"`
	Digest string `json:"digest"` // of the data set
	Images int    `json:"images"`
}

// Part is a number of images of one domain's training set.
type Part struct {
	Set
	Of int `json:"of"` // size of the training set the images are drawn from
	// Crop is the side of patches that are cut anew every epoch, at the places that
	// the set's Patches draw; 0 where the set's images are used as they are.
	Crop int `json:"crop,omitempty"`
}

// validationWork is how many images are validated in the time of one image's
// training step: forward only against forward and two backward products.
const validationWork = 3

// epochWork is the work of an epoch in training image-steps.
func (s Spec) epochWork() float64 {
	n := 0
	for _, p := range s.Data {
		n += p.Images
	}
	if s.Dihedral {
		n *= 8
	}
	return float64(n) + s.ValidationWork()
}

// ValidationWork is the work of one validation, in the unit of Work.
func (s Spec) ValidationWork() float64 {
	v := 0
	for _, d := range s.Validation {
		v += d.Images
	}
	return float64(v) / validationWork
}

// Work is the run's work in training image-steps.
func (s Spec) Work() float64 { return s.epochWork() * float64(s.Epochs) }

// Digest addresses the run in the store.
func (s Spec) Digest() (string, error) { return store.Digest("run", s) }

// rate is the learning rate of an epoch, counted from 0: the product is formed
// by repeated multiplication, so that it does not depend on a power function.
func (s Spec) rate(epoch int) float64 {
	r := s.LearningRate
	for range epoch {
		r *= s.Decay
	}
	return r
}

// Check refuses a spec that no protocol could run.
func (s Spec) Check() error {
	switch {
	case s.Stage != study.PretrainRun && s.Stage != study.TransferRun && s.Stage != study.SingleRun:
		return fmt.Errorf("stage %q is unknown", s.Stage)
	case (s.Stage == study.TransferRun) != (s.Parent != ""):
		return fmt.Errorf("a %s run with parent %q", s.Stage, s.Parent)
	case s.Epochs < 1 || s.BatchSize < 1:
		return fmt.Errorf("%d epochs of batches of %d", s.Epochs, s.BatchSize)
	case !(s.LearningRate > 0) || math.IsInf(s.LearningRate, 0) || !(s.Decay > 0 && s.Decay <= 1):
		return fmt.Errorf("learning rate %g with decay %g", s.LearningRate, s.Decay)
	case len(s.Data) == 0:
		return fmt.Errorf("no training data")
	}
	for _, p := range s.Data {
		if p.Images < 1 || p.Images > p.Of {
			return fmt.Errorf("%d training images of the %d of %s", p.Images, p.Of, p.Name)
		}
	}
	for _, d := range s.Validation {
		if d.Name == s.Target {
			return nil
		}
	}
	return fmt.Errorf("target %q is not validated", s.Target)
}

// options are those of the session the run needs.
func (s Spec) options(job Job) backend.Options {
	return backend.Options{
		Precision: s.Backend.Precision,
		Loss:      s.Loss,
		Device:    job.Device,
		Threads:   job.Threads,
		Adam:      s.Adam,
	}
}
