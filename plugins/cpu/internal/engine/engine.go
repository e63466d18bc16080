// Package engine is the contract between the CPU backend's sessions and the
// two engines that can execute a graph: plain (obvious loops, float32 and
// float64, any supported graph) and fast (blocked layout, assembly kernels,
// float32 and mixed precision, graphs of the U-Net family).
package engine

import (
	"errors"
	"sync/atomic"
	"time"
)

// ErrUnsupported is wrapped by an engine's compiler when the graph or the
// precision is outside what it executes; the session then takes the plain
// engine, or refuses.
var ErrUnsupported = errors.New("not supported by this engine")

// ErrInterrupted is returned by a method that Options.Stop ended early; what
// the engine holds is then unspecified.
var ErrInterrupted = errors.New("interrupted")

// Options of compiling a graph.
type Options struct {
	Threads int
	// Stop, if not nil, is polled at least a few times per second of work; once
	// it is true the running method returns ErrInterrupted.
	Stop *atomic.Bool
	// OnProbabilities selects the study's loss (cross entropy on the softmax
	// output as if it were logits) instead of the cross entropy on logits.
	OnProbabilities bool
	// Mixed selects mixed precision. A convolution's weights, every node's
	// output but the final Softmax's and every value's complete gradient are
	// rounded to half precision (to nearest even, overflow to infinity); sums
	// are accumulated, and parameters' gradients kept, in float32.
	Mixed        bool
	Beta1, Beta2 float64 // Adam
	Epsilon      float64
}

// Kind selects one of the arrays an engine keeps for a tensor of the graph.
type Kind int

const (
	Value    Kind = iota // weights and BatchNormalization statistics
	Gradient             // of the last Gradients or Step
	Moment1              // Adam
	Moment2
)

// Batch is images [N,C,H,W] and labels [N,H,W] in row-major order.
type Batch struct {
	N, H, W int
	Images  []float32
	// Images64 replaces Images where set; only a float64 engine is given it.
	Images64 []float64
	Labels   []uint8
}

// Output is where results go: one of the two, or none where they are not wanted.
type Output struct {
	F32 []float32
	F64 []float64
}

// Len is the number of results that there is room for.
func (o Output) Len() int { return max(len(o.F32), len(o.F64)) }

// Engine executes one graph whose weights it keeps in its own layout. Methods
// are called one at a time. Everything an Engine computes is independent of
// the number of threads.
type Engine interface {
	// Set and Get copy an array of the named tensor, in the graph's layout.
	Set(k Kind, name string, data []float64) error
	Get(k Kind, name string, data []float64) error

	// Gradients runs forward and backward in training mode, leaving the
	// gradients (multiplied by scale, the mixed-precision loss scale, else 1)
	// to Get. frozen holds, per graph parameter, whether it needs none. With
	// statistics the running statistics are updated.
	Gradients(b Batch, frozen []bool, scale float64, statistics bool) (loss float64, err error)

	// Finite reports whether every gradient is finite.
	Finite() bool

	// Adam takes optimiser step number step (from 1) with the gradients of the
	// last call of Gradients, divided by scale.
	Adam(step int, learningRate, scale float64, frozen []bool)

	// Forward runs inference on images [N,C,H,W] and writes the graph's output
	// [N,K,H,W]; when labels are given it also returns each image's mean loss.
	Forward(b Batch, out Output) (losses []float64, err error)

	// Activations returns the named values for one batch in the graph's layout,
	// in training or inference mode, without changing any state.
	Activations(b Batch, names []string, training bool) (map[string][]float64, error)

	// Close releases threads and memory.
	Close()
}

// Profiler is an engine that can say where the time of a step goes.
type Profiler interface {
	Engine

	// Profile is Gradients without statistics, phase by phase, after one that is
	// not timed. clock is any clock: of the wall, or of the processor time of the
	// thread where the engine has one.
	Profile(b Batch, frozen []bool, clock func() time.Duration) ([]Phase, error)

	// Peak measures what the processor can do, in floating-point operations per
	// second, with all the engine's threads.
	Peak() float64
}

// Phase is one pass over one layer.
type Phase struct {
	Layer        string // the node; "" for what belongs to none
	Pass         string // "forward", "data gradient", "weight gradient", …
	MultiplyAdds int64  // of the convolution computed directly, in one pass
	Time         time.Duration
}
