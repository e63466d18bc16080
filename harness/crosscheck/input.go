package crosscheck

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// Subject is a backend under comparison.
type Subject struct {
	Backend backend.Backend
	SHA256  string // of its executable
}

// ImageSet is a data set.
type ImageSet struct {
	Path, SHA256 string
	Count        int
}

// Input of a cross-check. A is judged, B is the yardstick, Oracle computes in
// float64.
type Input struct {
	A, B, Oracle Subject
	Graph        *nn.Graph // with initial weights
	Train        ImageSet
	Validation   ImageSet
	Loss         string
	Options      Options
}

// Options of a cross-check; zero values take the defaults.
type Options struct {
	Batch        int     `json:"batch"` // default 4
	Steps        int     `json:"steps"` // of the trajectory, default 20
	LearningRate float64 `json:"learning_rate"`
	// Factor is how many times the yardstick's distance a distance may be.
	Factor float64 `json:"factor"`
	// Perturbations is the number of one-rounding changes of the weights.
	Perturbations int `json:"perturbations"`
	// Floors are relative distances that always pass: of values of the forward
	// pass, of gradients, of what is computed from A's own numbers, and of
	// losses. They lie well above float32 rounding (6e-8, amplified by the
	// summation of a few thousand terms and by Winograd's transforms) and well
	// below any of the planted faults of this package's tests.
	ForwardFloor  float64 `json:"forward_floor"`
	GradientFloor float64 `json:"gradient_floor"`
	LocalFloor    float64 `json:"local_floor"`
	LossFloor     float64 `json:"loss_floor"`
	Threads       int     `json:"threads"`
}

func (o Options) withDefaults() Options {
	set := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	if o.Batch == 0 {
		o.Batch = 4
	}
	if o.Steps == 0 {
		o.Steps = 20
	}
	if o.Perturbations == 0 {
		o.Perturbations = 4
	}
	set(&o.LearningRate, 1e-3)
	set(&o.Factor, 8)
	set(&o.ForwardFloor, 1e-5)
	set(&o.GradientFloor, 2e-4)
	set(&o.LocalFloor, 3e-5)
	set(&o.LossFloor, 1e-6)
	return o
}
