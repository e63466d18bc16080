package kernel

//go:generate go run ./gen -out kernel_amd64.s -stubs stubs_amd64.go -pkg kernel

import (
	"fmt"
	"os"
)

// Lanes is the number of channels of a block: one AVX2 register of float32.
const Lanes = 8

// Block is a rectangle of pixels of eight channels each; pixel (r, c) is
// Data[r*Row+c*Col:][:8].
type Block struct {
	Data     []float32
	Row, Col int
}

// extent panics unless the block holds rows×cols pixels.
func (b Block) extent(rows, cols int) {
	if rows > 0 && cols > 0 {
		_ = b.Data[(rows-1)*b.Row+(cols-1)*b.Col+Lanes-1]
	}
}

// Params are constants per channel, Sums running sums per channel.
type (
	Params [3][Lanes]float32
	Sums   [2][Lanes]float32
)

// Gemm computes c (+)= a·b, where c has rows rows of 8 or 16 columns, a is
// rows×depth and b depth×columns. Element (i, k) of a is a[i*ars+k*ads], row k
// of b starts at b[k*bds], row i of c at c[i*crs]. Each element of c is one
// chain of fused multiply-adds over k, starting from zero or, with acc, from c.
type Gemm func(c []float32, crs int, a []float32, ars, ads int, b []float32, bds, rows, depth int, acc bool)

// Conv is Gemm with outer steps: Σₒ aₒ·bₒ, where aₒ starts at a[o*aos] and bₒ at
// b[o*bos]. Each element of c is one chain over o and, within, over k.
type Conv func(c []float32, crs int, a []float32, ars, ads, aos int, b []float32, bds, bos, rows, depth, outer int, acc bool)

// Transform applies a two-dimensional Winograd transform to tiles. Vectors of
// eight lanes are addressed, in floats, as
//
//	pixels, weights: [tile*Tile + row*Row + column*8]
//	points:          [tile*Tile + point*Row], point = row*n + column
//
// with the strides of dst or src. Weights are 3×3 pixels with Row 24.
type Transform func(dst []float32, dstRow, dstTile int, src []float32, srcRow, srcTile, tiles int)

// PeakFlops is the work of Set.Peak for n = 1: 48 fused multiply-adds of eight
// lanes.
const PeakFlops = 48 * 2 * Lanes

// Set is one implementation of every kernel. All sets give the same bits.
type Set struct {
	Name string // portable, avx2 or avx512

	Gemm16, Gemm8 Gemm
	Conv16, Conv8 Conv

	// F(2,3): pixels to points, also of an image to be upsampled; points to
	// pixels, also summed 2×2; weights to points.
	Input2, InputUp2, Output2, OutputDown2, Weight2 Transform
	// F(4,3) for weight gradients: pixels to points; gradient pixels to points;
	// points to weights.
	Input4, InputUp4, Gradient4, WeightGradient4, WeightGradientUp4 Transform

	// Kernels over rows×cols pixels; x and r have a Col of 8.

	// Copy: dst = g.
	Copy func(dst, g Block, rows, cols int)
	// Half: dst = g rounded to half precision.
	Half func(dst, g Block, rows, cols int)
	// Act: dst = max(0, p₀·g + p₁).
	Act func(dst, g Block, rows, cols int, p *Params)
	// Stats: dst = g; s₀ += Σ dst, s₁ += Σ dst².
	Stats func(dst, g Block, rows, cols int, s *Sums)
	// AddStats: dst = g + x; s₀ += Σ dst, s₁ += Σ dst².
	AddStats func(dst, g, x Block, rows, cols int, s *Sums)
	// Mask: dst = g where p₀·x + p₁ > 0, else 0; s₀ += Σ dst, s₁ += Σ dst·(x−p₂).
	Mask func(dst, g, x Block, rows, cols int, p *Params, s *Sums)
	// Affine: dst = p₀·g + (p₁·x + p₂).
	Affine func(dst, g, x Block, rows, cols int, p *Params)
	// AffineAdd: dst = p₀·g + (p₁·x + p₂) + r.
	AffineAdd func(dst, g, x, r Block, rows, cols int, p *Params)

	// Pool: each of rows×cols pixels of dst is the maximum of max(0, p₀·src + p₁)
	// over 2×2 pixels of src. Unpool: the first of the largest of 2×2 pixels of
	// src gives its pixel of dst the gradient g, the others give zero. Every Col
	// is 8.
	Pool   func(dst, src Block, rows, cols int, p *Params)
	Unpool func(dst, g, src Block, rows, cols int, p *Params)

	// Transpose8 turns count blocks of 8×8 and reverses their order, as the
	// gradient of a convolution does with the kernel's taps; rows are Row floats
	// apart, blocks Block floats.
	Transpose8 func(dst []float32, dstRow, dstBlock int, src []float32, srcRow, srcBlock, count int)

	// Peak does PeakFlops·n floating-point operations, as fast as the processor
	// can and to no end: the yardstick of benchmarks. It is nil where multiply-adds
	// are emulated.
	Peak func(n int)

	// The loops of the methods Softmax2 and Loss2, over four pixels at a time; g
	// may be nil, twice is twice the unit.
	softmax2 func(p0, p1 []float32, z []float32, quads int)
	loss2    func(g []float32, twice float64, z []float32, labels []uint8, quads int) lossSums

	// Adam updates weights w and moments m and v with gradients g; all lengths
	// are equal multiples of 8.
	Adam func(w, m, v, g []float32, a *Adam)
}

// Gemm is Gemm8 or Gemm16.
func (s *Set) Gemm(columns int) Gemm {
	if columns == Lanes {
		return s.Gemm8
	}
	return s.Gemm16
}

// Conv is Conv8 or Conv16.
func (s *Set) Conv(columns int) Conv {
	if columns == Lanes {
		return s.Conv8
	}
	return s.Conv16
}

// Adam holds the constants of one optimiser step:
//
//	ĝ = InvScale·g, m = Beta1·m + OneMinusBeta1·ĝ, v = Beta2·v + OneMinusBeta2·ĝ²
//	w = w + Rate·m/(√v·InvRootCorrection + Epsilon)
type Adam struct {
	InvScale, Beta1, OneMinusBeta1, Beta2, OneMinusBeta2, InvRootCorrection, Epsilon, Rate float32
}

// sets lists what is there, best first.
var sets = append(native, &portable)

// Select returns the named set: portable, avx2, avx512, or for "" what the
// environment variable REFOCUS_ISA names, else the best that the processor has.
func Select(name string) (*Set, error) {
	if name == "" {
		name = os.Getenv("REFOCUS_ISA")
	}
	for _, set := range sets {
		if name == "" || name == set.Name {
			return set, nil
		}
	}
	switch name {
	case "avx2":
		return nil, fmt.Errorf("REFOCUS_ISA=%s: this processor has no AVX2 with FMA and F16C", name)
	case "avx512":
		return nil, fmt.Errorf("REFOCUS_ISA=%s: this processor or its system has no AVX-512 with F, VL, DQ and BW", name)
	}
	return nil, fmt.Errorf("REFOCUS_ISA=%s: the kernels here are portable, avx2 and avx512", name)
}
