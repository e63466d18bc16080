// Package backend is the contract between the harness and a backend plugin.
//
// The harness owns the protocol of a study: which samples in which order,
// learning rates, evaluation, checkpoints, randomness. A backend owns
// arithmetic only: it receives a network as ONNX, trains it on the batches it
// is told to use and answers questions about it. Every backend therefore sees
// the same numbers and can be compared with another one step by step.
//
// Backend and Session are what the harness sees of every backend. Package engine
// makes a Backend of arithmetic, which is all that a Go author writes. Package
// plugin makes a plugin of a Backend and a Backend of a plugin, package host finds
// plugins and starts those that are trusted. Authors in other languages implement
// the service in proto/ directly.
package backend

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/nn"
)

// Precisions that a session may be opened with.
const (
	Float32 = "float32" // the default
	Float64 = "float64" // an oracle: slow, obviously right
	Mixed   = "mixed"   // half-precision compute, float32 accumulation and master weights, dynamic loss scaling
	// TF32 and BFloat16 round the operands of convolutions to 10 and 7 bits of
	// mantissa, with float32's exponents, and add up in float32. BFloat16 may keep
	// what lies between convolutions in so few bits, too. Weights are float32.
	TF32     = "tf32"
	BFloat16 = "bfloat16"
)

// Precisions are all that there are.
var Precisions = []string{Float32, TF32, BFloat16, Mixed, Float64}

// Losses. The graph's last operator is a Softmax over two or more channels.
const (
	// LossOnProbabilities is the published study's loss: the cross entropy
	// applied to the softmax output as if it were logits,
	// mean over pixels of −log softmax(softmax(z))[target].
	// It cannot go below LeastOnProbabilities.
	LossOnProbabilities = "cross-entropy-on-probabilities"
	// LossOnLogits is the usual cross entropy, mean of −log softmax(z)[target].
	LossOnLogits = "cross-entropy"
)

// LeastOnProbabilities is the least value of LossOnProbabilities for two classes,
// ln(1+e⁻¹).
const LeastOnProbabilities = 0.31326168751822286

// LeastLoss is what a loss cannot go below for a number of classes: that of certainty,
// −log(e/(e+classes−1)) on probabilities.
func LeastLoss(loss string, classes int) float64 {
	switch {
	case loss != LossOnProbabilities:
		return 0
	case classes > 2:
		return math.Log1p(float64(classes-1) / math.E)
	}
	return LeastOnProbabilities
}

// CheckLoss returns an error if a mean loss over pixels cannot be one: it is not a
// number, or it is below LeastLoss by more than rounding explains. That is 10⁻⁵ where
// losses are formed in float32 or better, and half a unit in the last place of a
// bfloat16 near 1, 2⁻⁸, in lower precisions. The error continues "the loss is".
func CheckLoss(v float64, loss string, classes int, precision string) error {
	slack := 1e-5
	if precision != Float32 && precision != Float64 && precision != TF32 {
		slack = 1. / 256
	}
	switch least := LeastLoss(loss, classes); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return fmt.Errorf("%v", v)
	case v < least-slack || v < 0:
		return fmt.Errorf("%v, below %.6g, the least of %s with %d classes", v, least, loss, classes)
	}
	return nil
}

// Frozen groups are named by a prefix of parameter names: nn.Group.
//
// Determinism claims, from weakest to strongest.
const (
	DeterminismNone    = "none"    // two runs may differ
	DeterminismRun     = "run"     // two runs on one machine with the same settings give the same bits
	DeterminismThreads = "threads" // … and the number of threads does not matter
	DeterminismMachine = "machine" // … nor does the machine
)

// Description is what a backend says about itself.
type Description struct {
	Name    string // as in refocus-backend-NAME
	Version string // the software's version, for people
	// Numerics changes whenever the bits of a result may change. It enters a
	// run's digest, so results of different numerics are never mixed.
	Numerics    string
	Determinism string
	Devices     []Device
	Precisions  []string
	Losses      []string
	Operators   []Operator
	Notes       []string // one line each: limits, unavailable devices and why
}

// Device is something a session can run on; the first one is the default.
type Device struct {
	Name string // "cpu", "cuda:0"
	Kind string // "cpu", "cuda"
	Info string // "2 threads, avx2", "NVIDIA H100, 80 GiB"
	// ID is the same in every process, whichever other devices it sees, as a GPU's
	// UUID is; "" where there is none, and Name must do.
	ID     string
	Driver string // of a GPU, with its version
	Memory int64  // bytes of its own that it has in all; 0: unknown, or the machine's
}

// Operator says on which kind of device an ONNX operator runs.
type Operator struct {
	Type   string // "Conv"
	Device string // "cpu", "cuda"
	Note   string // restrictions on attributes
}

// Options of a session.
type Options struct {
	Precision string // default Float32
	Loss      string // default LossOnProbabilities
	Device    string // default: the backend's first
	Threads   int    // 0: the backend's choice; never changes the result where Determinism says so
	Adam      Adam
}

// WithDefaults fills in what is not set, except the device, which only the
// backend knows. Backends get options in this form.
func (o Options) WithDefaults() Options {
	if o.Precision == "" {
		o.Precision = Float32
	}
	if o.Loss == "" {
		o.Loss = LossOnProbabilities
	}
	if o.Adam == (Adam{}) {
		o.Adam = DefaultAdam
	}
	return o
}

// Adam holds the optimiser's constants; the learning rate comes with each
// TrainRequest. The update is PyTorch's: bias-corrected moments, ε added to
// √v̂ after the correction.
type Adam struct {
	Beta1   float64 `json:"beta1"`   // decay of the first moment
	Beta2   float64 `json:"beta2"`   // decay of the second moment
	Epsilon float64 `json:"epsilon"` // added to the root of the second moment
}

// DefaultAdam holds the study's constants.
var DefaultAdam = Adam{0.9, 0.999, 1e-8}

// Backend is a backend plugin as seen by the harness. Of arithmetic,
// engine.NewBackend makes one.
type Backend interface {
	Describe(ctx context.Context) (Description, error)
	// Open starts a session with the network and its initial weights. A graph
	// with an operator, attribute or precision the backend lacks is refused
	// with an error that names the node.
	Open(ctx context.Context, g *nn.Graph, o Options) (Session, error)
}

// Sizer is a Backend that can tell how much memory a session takes, before it is
// opened.
type Sizer interface {
	// Memory returns the bytes of the session's device, beside its data sets and
	// what every process takes. Errors are those of Open; ErrUnsupported may mean
	// that the backend cannot tell.
	Memory(ctx context.Context, g *nn.Graph, o Options, r MemoryRequest) (int64, error)
}

// MemoryRequest is the largest work that a session is to do: a step of training,
// or a pass of inference, on a batch of images [Batch,C,Height,Width].
type MemoryRequest struct {
	Batch, Height, Width int
	Training             bool
}

// Session is one network being trained or asked. Its methods are called one
// at a time. When ctx is done a method returns within a second; the session
// must then be closed (its state is unspecified after an interrupted Train).
type Session interface {
	// LoadDataset makes the safetensors file at path known as id. It holds
	// "images" F32 [N,C,H,W] and "labels" U8 [N,H,W] with class indices.
	// digest is the lower-case SHA-256 of the file, which the host has
	// verified; loading an id again replaces it.
	LoadDataset(ctx context.Context, id, path, digest string) error

	// Train takes one optimiser step per batch and reports each step, in order.
	// Frozen parameters get no gradient and no update; their BatchNormalization
	// still uses batch statistics and updates its running statistics.
	// An error from progress stops the training and is returned.
	Train(ctx context.Context, r TrainRequest, progress func(Step) error) error

	// Evaluate runs the network in inference mode over samples of a dataset, as
	// many as there are, also where the graph fixes how many it takes at once.
	Evaluate(ctx context.Context, r EvaluateRequest) (Evaluation, error)

	// Predict returns the graph's output [N,K,H,W] for images [N,C,H,W] of any
	// size the graph accepts, in inference mode. Where the graph fixes how many
	// images it takes at once, N is a multiple of that.
	Predict(ctx context.Context, images Tensor) (Tensor, error)

	// Gradients returns the loss of one batch in training mode and its gradient
	// for every parameter outside the frozen groups, in the graph's order. The
	// session's state does not change.
	Gradients(ctx context.Context, b Batch, frozen []string) (float64, []NamedTensor, error)

	// Activations returns the named values of the graph for one batch, in
	// training or inference mode. The session's state does not change.
	Activations(ctx context.Context, b Batch, names []string, training bool) ([]NamedTensor, error)

	// State returns weights, BatchNormalization statistics and optimiser state
	// as safetensors: every graph tensor that has a role under its own name,
	// Adam's moments as FirstMoment and SecondMoment + parameter name, and the
	// metadata StepKey, for mixed precision also LossScaleKey and GoodStepsKey.
	// A Float64 session writes F64, every other F32.
	State(ctx context.Context) ([]byte, error)

	// SetState restores what State returned, from any backend; F32 and F64 are
	// both accepted. All parameters and statistics must be present with the
	// right shapes, or nothing changes. Without moments and step the optimiser
	// starts afresh.
	SetState(ctx context.Context, state []byte) error

	Close() error
}

// Sample is one image of a dataset under one of the eight symmetries of the
// square, numbered as in Dihedral.
type Sample struct {
	Dataset  string // id of LoadDataset
	Index    int
	Dihedral uint8
}

// Batch is the samples of one optimiser step.
type Batch []Sample

// TrainRequest asks for one optimiser step per batch at a fixed learning rate.
type TrainRequest struct {
	Batches      []Batch
	LearningRate float64
	Frozen       []string // nn.Group names
}

// Step reports one optimiser step.
type Step struct {
	Batch     int     // index into TrainRequest.Batches
	Loss      float64 // mean over the batch's pixels, before the update
	Skipped   bool    // mixed precision: the gradients overflowed, nothing was updated
	LossScale float64 // mixed precision: the scale used in this step, else 0
}

// EvaluateRequest names the samples to evaluate; no indices means all.
type EvaluateRequest struct {
	Dataset string
	Indices []int
	// BatchSize is how many images go through the network at once; 0 is the
	// backend's choice. It does not change the result of a backend that claims
	// DeterminismThreads or more; of others, as little as rounding does.
	BatchSize int
}

// Evaluation holds one entry per requested sample.
type Evaluation struct {
	Loss []float64 // mean over the image's pixels
	// Confusion of the most probable class against the label, summed over the
	// image's pixels: Confusion[i][label*K+predicted] for K classes.
	Confusion [][]int64
	Classes   int
}

// MeanLoss is the mean of the losses, in order.
func (e Evaluation) MeanLoss() float64 {
	var s float64
	for _, l := range e.Loss {
		s += l
	}
	return s / float64(len(e.Loss))
}

// Dice is 2TP/(2TP+FP+FN) of the classes above 0, the foreground, over all
// samples; 1 where there is no foreground and none is predicted.
func (e Evaluation) Dice() float64 {
	var tp, wrong int64
	for _, c := range e.Confusion {
		for i, n := range c {
			switch label, predicted := i/e.Classes, i%e.Classes; {
			case label > 0 && predicted > 0:
				tp += n
			case label > 0 || predicted > 0:
				wrong += n
			}
		}
	}
	if tp+wrong == 0 {
		return 1
	}
	return float64(2*tp) / float64(2*tp+wrong)
}

// Tensor is an array in row-major order; exactly one of F32 and F64 is set.
type Tensor struct {
	Shape []int
	F32   []float32
	F64   []float64
}

// Check reports whether the data fill the shape.
func (t Tensor) Check() error {
	n := 1
	for _, d := range t.Shape {
		if d < 0 {
			return fmt.Errorf("negative dimension in shape %v", t.Shape)
		}
		n *= d
	}
	if (t.F32 != nil) == (t.F64 != nil) && n > 0 {
		return fmt.Errorf("tensor of shape %v has neither or both of float32 and float64 data", t.Shape)
	}
	if got := len(t.F32) + len(t.F64); got != n {
		return fmt.Errorf("%d values do not fill shape %v", got, t.Shape)
	}
	return nil
}

// Float64s returns the data in float64.
func (t Tensor) Float64s() []float64 {
	if t.F64 != nil {
		return t.F64
	}
	d := make([]float64, len(t.F32))
	for i, v := range t.F32 {
		d[i] = float64(v)
	}
	return d
}

// NamedTensor is a tensor with the name it has in the graph.
type NamedTensor struct {
	Name string
	Tensor
}

// Dihedral maps pixel (y, x) of the transformed n×n image to the pixel of the
// original that it shows: first a transposition if op&4 is set, then a
// rotation by op&3 quarter turns, as
//
//	numpy.rot90(a.T if op&4 else a, op&3)
//
// would do. Images must be square.
func Dihedral(op uint8, n, y, x int) (int, int) {
	for range op & 3 { // undo each counter-clockwise quarter turn
		y, x = x, n-1-y
	}
	if op&4 != 0 {
		y, x = x, y
	}
	return y, x
}
