package engine

import (
	"errors"
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/backend"
)

// ErrInterrupted is what an engine's method returns when Options.Stop ended it
// early. What the engine holds is then unspecified, but it must be able to go on.
var ErrInterrupted = errors.New("interrupted")

// Options of compiling a network: the session's, with nothing left to a default.
// Device is one of the description's, Threads at least 1.
type Options struct {
	backend.Options
	// Stop interrupts the method under way once it is true; nil never does.
	Stop *atomic.Bool
}

// Stopped is to be asked a few times per second of work at least, on any
// goroutine. Once it is true the method under way returns ErrInterrupted.
func (o Options) Stopped() bool { return o.Stop != nil && o.Stop.Load() }

// Kind is one of the arrays that an engine keeps for a tensor of the graph.
type Kind int

// The kinds of arrays.
const (
	Value       Kind = iota // weights, and the running statistics of BatchNormalization
	Gradient                // of the last call of Gradients, for parameters that were not frozen
	FirstMoment             // Adam's moments of parameters, 0 at first
	SecondMoment
)

func (k Kind) String() string {
	return [...]string{"value", "gradient", "first moment", "second moment"}[k]
}

// Batch is images [N,C,H,W] and their labels [N,H,W], each below the number of
// classes; without labels only an output is asked for. Both belong to the caller
// and are as they are until the method returns.
type Batch struct {
	Images backend.Tensor
	Labels []uint8
}

// Size returns N, H and W.
func (b Batch) Size() (n, h, w int) { return b.Images.Shape[0], b.Images.Shape[2], b.Images.Shape[3] }

// Engine executes one network, whose arrays it keeps in a layout of its own. Its
// methods are called one at a time. Tensors that go in or out are in the graph's
// layout, row-major, and of the session's precision: F64 is set if that is
// backend.Float64, F32 if it is any other. Those to be filled have their final
// shape and room for their data.
//
// An error leaves the engine able to go on with another call.
type Engine interface {
	// Get fills the tensors with the arrays of a kind that their names say; Set
	// takes the arrays from them, and must not keep the tensors. They are given
	// many tensors at once so that a device need not be waited for each time.
	Get(k Kind, ts []backend.NamedTensor) error
	Set(k Kind, ts []backend.NamedTensor) error

	// Gradients runs a batch forwards and backwards in training mode and returns
	// the loss: its mean over all pixels. It keeps the gradients, multiplied by
	// scale, for Adam and Get. frozen holds, for each of the graph's parameters,
	// whether its gradient is not wanted. With statistics it moves the running
	// statistics; otherwise values stay as they are. A network that has no loss,
	// because it does not end in a Softmax, is refused.
	Gradients(b Batch, frozen []bool, scale float64, statistics bool) (loss float64, err error)

	// Finite reports whether every gradient that is kept is finite. It is asked
	// in backend.Mixed only.
	Finite() (bool, error)

	// Adam takes optimiser step number step, from 1, with the gradients of the
	// last call of Gradients, divided by scale.
	Adam(step int, learningRate, scale float64, frozen []bool) error

	// Forward runs a batch in inference mode and fills out with the graph's
	// output [N,K,H,W]. If the batch has labels it returns the mean loss of each
	// image, which must not depend on the others.
	Forward(b Batch, out backend.Tensor) (losses []float64, err error)

	// Activations runs a batch in training or inference mode, without changing
	// anything, and fills the tensors with the values of the graph that their
	// names say: its input, or results of its nodes.
	Activations(b Batch, training bool, out []backend.NamedTensor) error

	// BatchSize is how many images of a size Forward had best be given at once:
	// enough to occupy all threads, few enough for the memory.
	BatchSize(h, w int) int

	// Close frees threads, memory and the device. It is the last call.
	Close() error
}
