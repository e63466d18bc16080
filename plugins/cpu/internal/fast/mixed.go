package fast

import "github.com/refocus-em/refocus/plugins/cpu/internal/kernel"

// Mixed precision rounds to half what PyTorch's automatic mixed precision would
// hold in half: the image, the weights that convolutions read, their outputs
// and inputs, and the complete gradient of every tensor. Everything is computed
// and summed in float32 in between. The gradient of an activation is rounded
// before its ReLU masks it, for an upsampled one after the sum over 2×2 pixels.
//
// It gives the numbers of a GPU's tensor cores and cannot be faster than float32: the
// products of halves are as many, added up in float32 as the contract says, and no
// instruction of today's x86 servers does that for more of them at once. F16C only
// converts; AVX512-FP16 adds up in half; AVX512-BF16 multiplies bfloat16, which has 7
// bits of mantissa where half has 10, and rounds its sums in a way of its own. So the
// rounding comes on top: of a step's processor time, on one thread of an AMD EPYC with
// AVX-512, 5 % at width 64 (310 ms for 296) and 8 to 13 % at width 16 (31 to 33 ms for 29).
// Halves would take half the memory, which a step that computes at three quarters of the
// peak does not wait for.

// round rounds a rectangle in place.
func (p *program) round(b kernel.Block, rows, cols int) {
	if p.mixed {
		p.e.kernels.Half(b, b, rows, cols)
	}
}

// weights is what convolutions read: the values, or in mixed precision their
// rounded copy.
func (p *program) weights(w *param) []float32 {
	if p.mixed {
		return p.e.slice(p.e.rounded, w)
	}
	return p.e.slice(p.e.values, w)
}

// chunk is how many floats of a long array a task takes.
const chunk = 16 << 10

// roundWeights appends the rounding of all weights.
func (p *program) roundWeights() {
	if !p.mixed {
		return
	}
	e := p.e
	n := len(e.values)
	p.add("rounding", nil, (n+chunk-1)/chunk, nil, func(_, task int) {
		a, b := task*chunk, min((task+1)*chunk, n)
		e.kernels.Half(flat(e.rounded[a:b]), flat(e.values[a:b]), 1, (b-a)/lanes)
	})
}

// roundGradient appends the rounding of a tensor's complete gradient.
func (p *program) roundGradient(s *stored) {
	if !p.mixed {
		return
	}
	p.add("rounding", nil, (s.grad.size+chunk-1)/chunk, []*buffer{s.grad}, func(_, task int) {
		g := s.grad.data
		b := flat(g[task*chunk : min((task+1)*chunk, len(g))])
		p.round(b, 1, len(b.Data)/lanes)
	})
}

// flat is an array as one row of pixels.
func flat(x []float32) kernel.Block { return kernel.Block{Data: x, Row: len(x), Col: lanes} }
