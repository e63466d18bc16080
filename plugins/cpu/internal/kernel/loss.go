package kernel

import (
	"math"

	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel/series"
)

// lossSums are the sums of the losses of pixels, by pixel modulo four.
type lossSums [4]float64

// Softmax2 sets p0 and p1 to the probabilities of two classes with the logits z[8i] and z[8i+1].
func (s *Set) Softmax2(p0, p1 []float32, z []float32) {
	n := len(p0)
	p1, z = p1[:n], z[:n*Lanes]
	q := n / 4
	if q > 0 {
		s.softmax2(p0, p1, z, q)
	}
	if n > 4*q {
		var pad [4 * Lanes]float32
		var a, b [4]float32
		copy(pad[:], z[4*q*Lanes:])
		s.softmax2(a[:], b[:], pad[:], 1)
		copy(p0[4*q:], a[:])
		copy(p1[4*q:], b[:])
	}
}

// Loss2 returns the sum over pixels of the study's loss for the logits z[8i]
// and z[8i+1] and labels of 0 or 1 (package series). Unless g is nil, it also
// sets g[8i] and g[8i+1] to unit times the derivatives with respect to the
// logits, the other lanes to zero.
func (s *Set) Loss2(g, z []float32, labels []uint8, unit float64) float64 {
	n := len(labels)
	z = z[:n*Lanes]
	var sums, more lossSums
	q := n / 4
	if q > 0 {
		sums = s.loss2(g, 2*unit, z, labels, q)
	}
	if n > 4*q {
		var pad, to [4 * Lanes]float32
		var class [4]uint8
		copy(pad[:], z[4*q*Lanes:])
		copy(class[:], labels[4*q:])
		if g == nil {
			more = s.loss2(nil, 0, pad[:], class[:], 1)
		} else {
			more = s.loss2(to[:], 2*unit, pad[:], class[:], 1)
			copy(g[4*q*Lanes:n*Lanes], to[:])
		}
		for l := range n - 4*q {
			sums[l] += more[l]
		}
	}
	return (sums[0] + sums[1]) + (sums[2] + sums[3])
}

func portableSoftmax2(p0, p1 []float32, z []float32, quads int) {
	for i := range 4 * quads {
		a, b := series.Softmax[float64](scalar{}, float64(z[i*Lanes+1])-float64(z[i*Lanes]))
		p0[i], p1[i] = float32(a), float32(b)
	}
}

func portableLoss2(g []float32, twice float64, z []float32, labels []uint8, quads int) (sums lossSums) {
	for i := range 4 * quads {
		d := float64(z[i*Lanes+1]) - float64(z[i*Lanes])
		l, half := series.Loss[float64](scalar{}, d, math.Float64frombits(uint64(labels[i])))
		sums[i%4] += l
		if g == nil {
			continue
		}
		up := float32(half * twice)
		clear(g[i*Lanes : i*Lanes+Lanes])
		g[i*Lanes], g[i*Lanes+1] = -up, up
	}
	return sums
}

// scalar is the arithmetic of package series; a label is its bits.
type scalar struct{}

func (scalar) Const(k float64) float64          { return k }
func (scalar) Add(a, b float64) float64         { return a + b }
func (scalar) Sub(a, b float64) float64         { return a - b }
func (scalar) Mul(a, b float64) float64         { return float64(a * b) }
func (scalar) Div(a, b float64) float64         { return a / b }
func (scalar) FMA(a, b, c float64) float64      { return math.FMA(a, b, c) }
func (scalar) FMAConst(k, b, c float64) float64 { return math.FMA(k, b, c) }
func (scalar) Clamp(a, limit float64) float64   { return max(-limit, min(limit, a)) }
func (scalar) Scale(a, t float64) float64 {
	return float64(a * math.Float64frombits(math.Float64bits(1)+math.Float64bits(t)<<52))
}
func (scalar) Flip(a, label float64) float64 {
	return math.Float64frombits(math.Float64bits(a) ^ math.Float64bits(label)<<63)
}
