package crosscheck

import (
	"cmp"
	"math"

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
	// Factor is how many times the larger distance the yardstick is.
	Factor float64 `json:"factor"`
	// Perturbations is the number of one-rounding changes of the weights.
	Perturbations int `json:"perturbations"`
	// Floors are the least yardsticks: of values of the forward pass, of gradients
	// and of losses. They lie well above float32 rounding (6e-8, amplified by the
	// summation of a few thousand terms and by Winograd's transforms) and well
	// below any of the planted faults of this package's tests.
	ForwardFloor  float64 `json:"forward_floor"`
	GradientFloor float64 `json:"gradient_floor"`
	LossFloor     float64 `json:"loss_floor"`
	Threads       int     `json:"threads"`
	// Precision is A's: backend.Float32, the default, backend.Float64, or one that
	// rounds the operands of convolutions further. B computes in float32 and the oracle in float64 all the
	// same; one rounding of the weights is one to A's precision.
	Precision string `json:"precision,omitempty"`
	// Device is A's, by default its first.
	Device string `json:"device,omitempty"`
}

// bits of mantissa, after the point, to which a precision rounds the operands of
// convolutions; 0 is float32's own 23.
var bits = map[string]int{backend.Float32: 0, backend.Float64: 0, backend.TF32: 10, backend.BFloat16: 7, backend.Mixed: 10}

// WithDefaults fills in what is not set.
func (o Options) WithDefaults() Options {
	o.Precision = cmp.Or(o.Precision, backend.Float32)
	return o.withFloors(bits[o.Precision])
}

// withFloors fills in what is not set. The floors of a precision that rounds to n
// bits of mantissa are multiples of u = 2^−(n+1), the relative error of one
// rounding. In norms, which take the mean over all values, a convolution of rounded
// operands is off by about u. Forward: 4 of these. Loss: a mean over all pixels,
// whose errors have both signs, u/4. Gradients, where pixels are blocked or passed
// otherwise, a fraction of the order of u per layer: 4 √u of their length.
func (o Options) withFloors(n int) Options {
	forward, gradient, loss := 1e-5, 2e-4, 1e-6
	if n > 0 {
		u := math.Ldexp(1, -n-1)
		forward, gradient, loss = 4*u, 4*math.Sqrt(u), u/4
	}
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
	set(&o.ForwardFloor, forward)
	set(&o.GradientFloor, gradient)
	set(&o.LossFloor, loss)
	return o
}
