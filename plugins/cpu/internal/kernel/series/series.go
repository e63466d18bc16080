// Package series writes the loss of two classes once, over an abstract
// arithmetic on float64, as package winograd does with its transforms.
//
// The network's output is the softmax of two logits, and the study's loss the
// cross entropy of the softmax of that output. With d the difference of the
// logits, p₁ = 1/(1+exp(−d)), and with e the difference of the probabilities
// towards the label the loss is ln(1+exp(−e)) = ln 2 + ln cosh(e/2) − e/2. As
// |e| ≤ 1, short Taylor series do: the first terms left out are below 10⁻⁹, a
// hundredth of float32's rounding.
package series

import "math"

// Arith is the arithmetic: every method rounds once.
type Arith[V any] interface {
	Const(k float64) V
	Add(a, b V) V
	Sub(a, b V) V
	Mul(a, b V) V
	Div(a, b V) V
	FMA(a, b, c V) V // a·b + c
	FMAConst(k float64, b, c V) V
	// Clamp limits a to ±limit and keeps NaN.
	Clamp(a V, limit float64) V
	// Scale is a·2ᵏ for the k in the low bits of t's mantissa, see exp.
	Scale(a, t V) V
	// Flip is −a where label is 1.
	Flip(a, label V) V
}

// Taylor coefficients of eˣ, and of tanh(e/2)/e and ln cosh(e/2)/e² in powers
// of e².
var (
	inverseFactorials = [10]float64{1, 1, 1. / 2, 1. / 6, 1. / 24, 1. / 120, 1. / 720, 1. / 5040, 1. / 40320, 1. / 362880}
	tanhHalf          = [10]float64{
		0.5, -0.041666666666666664, 0.004166666666666667, -0.00042162698412698415, 4.271384479717813e-05,
		-4.327751723585057e-06, 4.384921919644142e-07, -4.4428539643900096e-08, 4.501552131237686e-09, -4.5610258911810394e-10,
	}
	logCoshHalf = [10]float64{
		0.125, -0.005208333333333333, 0.00034722222222222224, -2.635168650793651e-05, 2.1356922398589067e-06,
		-1.803229884827107e-07, 1.5660435427300506e-08, -1.388391863871878e-09, 1.250431147566024e-10, -1.1402564727952599e-11,
	}
)

// polynomial evaluates c₀ + c₁x + … + c₉x⁹ in pairs of pairs, which do not wait
// for each other.
func polynomial[V any](o Arith[V], x V, c *[10]float64) V {
	x2 := o.Mul(x, x)
	x4 := o.Mul(x2, x2)
	pair := func(i int) V { return o.FMAConst(c[i+1], x, o.Const(c[i])) }
	high := o.FMA(pair(8), x4, o.FMA(pair(6), x2, pair(4)))
	return o.FMA(high, x4, o.FMA(pair(2), x2, pair(0)))
}

// magic is 1.5·2⁵²: its sum with a number below 2⁵¹ is rounded to a whole
// number, which stands in the low bits of the mantissa.
const magic = 3 << 51

// expMinus is e⁻ˣ for |x| ≤ 80 with a relative error below 10⁻⁹.
func expMinus[V any](o Arith[V], x V) V {
	t := o.FMAConst(-1/math.Ln2, x, o.Const(magic))
	k := o.Sub(t, o.Const(magic))
	r := o.FMAConst(-math.Ln2, k, o.Sub(o.Const(0), x))
	return o.Scale(polynomial(o, r, &inverseFactorials), t)
}

// Softmax returns the probabilities of two classes whose logits differ by d.
func Softmax[V any](o Arith[V], d V) (p0, p1 V) {
	// Beyond ±80 the smaller probability is nought in any sum.
	x := expMinus(o, o.Clamp(d, 80))
	p1 = o.Div(o.Const(1), o.Add(o.Const(1), x))
	return o.Mul(x, p1), p1
}

// Loss returns the loss of a pixel and half its derivative with respect to the
// logit of class 1 (minus that of class 0).
func Loss[V any](o Arith[V], d, label V) (loss, half V) {
	p0, p1 := Softmax(o, d)
	e := o.Flip(o.Sub(p0, p1), label)
	w := o.Mul(e, e)
	loss = o.FMA(polynomial(o, w, &logCoshHalf), w, o.FMAConst(-0.5, e, o.Const(math.Ln2)))
	// The softmax of the probabilities gives the other class 1/2 − tanh(e/2)/2.
	other := o.FMAConst(-0.5, o.Mul(polynomial(o, w, &tanhHalf), e), o.Const(0.5))
	return loss, o.Flip(o.Mul(o.Mul(p0, p1), other), label)
}
