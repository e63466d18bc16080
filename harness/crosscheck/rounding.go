package crosscheck

import (
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// arithmetic is how a precision rounds. Each number is the largest relative error
// of what it says, but tiny, which is absolute.
//
// One operation may be off by a whole spacing of numbers, twice what rounding to
// the nearest makes, so that processors count as correct whose products are added
// up by cutting off (tensor cores do), and so that the reference's own rounding in
// float64 needs no room of its own.
type arithmetic struct {
	unit    float64 // of an addition or multiplication
	operand float64 // of an operand of a convolution as it is rounded
	store   float64 // of a value that may be kept in fewer bits
	tiny    float64 // half the spacing of the smallest numbers of operands and kept values
	// decimal says that ε and momentum are the shortest decimals that the graph's
	// float32 numbers stand for, 10⁻⁵ and 0.9: both readings are right, and float64
	// tells them apart. A backend has one for all nodes.
	decimal bool
}

// attribute reads a number that a graph has in float32.
func (a arithmetic) attribute(v float32) float64 {
	if !a.decimal {
		return float64(v)
	}
	d, _ := strconv.ParseFloat(strconv.FormatFloat(float64(v), 'g', -1, 32), 64)
	return d
}

var arithmetics = map[string]arithmetic{
	backend.Float64:  {unit: 0x1p-52},
	backend.Float32:  {unit: 0x1p-23},
	backend.TF32:     {unit: 0x1p-23, operand: 0x1p-10}, // hardware cuts the bits off
	backend.BFloat16: {unit: 0x1p-23, operand: 0x1p-8, store: 0x1p-8},
	backend.Mixed:    {unit: 0x1p-23, operand: 0x1p-11, store: 0x1p-11, tiny: 0x1p-25},
}

// gamma is Higham's γ_n: the relative error of n operations in a row (Accuracy and
// Stability of Numerical Algorithms, 2nd ed., lemma 3.1). A sum of n products is off
// by at most γ_n Σ|aᵢbᵢ|, whatever the order in which it is added up (section 3.1).
func (a arithmetic) gamma(n int) float64 {
	x := float64(n) * a.unit
	if x >= 1 {
		return math.Inf(1)
	}
	return x / (1 - x)
}

// sum is the expected square of the error of adding up n terms one by one in a
// random order, with total t and sum of squares q: errors of single additions are
// independent and even between −unit and unit of a partial sum. Of a random k of
// the n terms the sum has the expected square (k/n)²t² + k(1−k/n)(q−t²/n)/n, which
// summed over k is about t²n/3 + q·n/6; the products' own errors add q.
func (a arithmetic) sum(n int, t, q float64) float64 {
	m := float64(n)
	return a.unit * a.unit / 3 * (m/3*t*t + (m/6+1)*q)
}

// even is the expected square of an error that is even between −e and e.
func even(e float64) float64 { return e * e / 3 }

// tail is how many times the root of its expected square an error's length may be:
// were the error one number with a normal distribution, it would be exceeded once in
// a million times, and the length of many such numbers exceeds it less often (Székely
// and Bakirov, Extremal probabilities for Gaussian quadratic forms, 2003).
const tail = 4.9

// winograd is an algorithm F(m,3) by its matrices: y = Aᵀ[(Gg) ⊙ (Bᵀd)] along each
// axis (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016).
type winograd struct {
	outputs, weights, inputs [][]float64 // Aᵀ, G, Bᵀ
}

// The largest algorithm that counts as correct: F(4×4,3×3), with the points 0, ±1,
// ±2 and ∞. Smaller ones and the direct convolution err less.
var largestWinograd = winograd{
	outputs: [][]float64{{1, 1, 1, 1, 1, 0}, {0, 1, -1, 2, -2, 0}, {0, 1, 1, 4, 4, 0}, {0, 1, -1, 8, -8, 1}},
	weights: [][]float64{{1. / 4, 0, 0}, {-1. / 6, -1. / 6, -1. / 6}, {-1. / 6, 1. / 6, -1. / 6}, {1. / 24, 1. / 12, 1. / 6}, {1. / 24, -1. / 12, 1. / 6}, {0, 0, 1}},
	inputs:  [][]float64{{4, 0, -5, 0, 1, 0}, {0, -4, -4, 1, 1, 0}, {0, 4, -4, -1, 1, 0}, {0, -2, -1, 2, 1, 0}, {0, 2, -1, -2, 1, 0}, {0, 4, 0, -5, 0, 1}},
}

// amplification is the largest that the sum of the absolute values of what the
// algorithm adds up for an output can be, of weights and inputs that are at most 1,
// in two dimensions.
func (w winograd) amplification() float64 {
	most := 0.0
	for _, a := range w.outputs {
		s := 0.0
		for i, v := range a {
			s += math.Abs(v) * norm1(w.weights[i]) * norm1(w.inputs[i])
		}
		most = max(most, s)
	}
	return most * most
}

// noise is how many times the expected square of a direct convolution's error the
// algorithm's is, in two dimensions, in the mean over its outputs, where weights and
// inputs are independent of each other.
func (w winograd) noise() float64 {
	mean := 0.0
	for _, a := range w.outputs {
		for i, v := range a {
			mean += v * v * square(w.weights[i]) * square(w.inputs[i]) / float64(len(w.outputs))
		}
	}
	return mean * mean / 81 // of a direct sum of nine products, each 1, of nine terms
}

// operations that a number goes through in the transforms: four terms and their
// factors of Bᵀ and G, six of Aᵀ, along two axes, and the product.
const transformOperations = 2*(4+4+6) + 1

// reach is how far from an output pixel the inputs of its tile may lie.
const reach = 4

var winogradAmplification, winogradNoise = largestWinograd.amplification(), largestWinograd.noise()

func norm1(v []float64) (s float64) {
	for _, x := range v {
		s += math.Abs(x)
	}
	return s
}

func square(v []float64) (s float64) {
	for _, x := range v {
		s += x * x
	}
	return s
}

// transformed reports whether a convolution may be computed by Winograd's algorithm.
func transformed(n *nn.Node, w *reference.Array) bool {
	one := func(name string) bool { v := n.Attrs.Ints(name, 1, 1); return v[0] == 1 && v[1] == 1 }
	return w.Shape[2] == 3 && w.Shape[3] == 3 && one("strides") && one("dilations") && n.Attrs.Int("group", 1) == 1
}

// operator is a node's output and how far a correct implementation may be from it,
// given what the node reads.
type operator struct {
	value *reference.Array
	bound []float64 // of each value: the most that the errors of its operations can add up to
	noise []float64 // of each value: the expected square of the error
}

// evaluate computes a node in float64 with its errors in the given arithmetic. With
// operands, noise includes the rounding of a convolution's operands.
func (a arithmetic) evaluate(net *reference.Network, n *nn.Node, in []*reference.Array, shape []int, training, operands bool) (operator, error) {
	y, err := net.Apply(n, in, shape, training)
	if err != nil {
		return operator{}, err
	}
	o := operator{y, make([]float64, len(y.Data)), make([]float64, len(y.Data))}
	switch n.Op {
	case "Conv":
		a.conv(n, in, o, operands)
	case "BatchNormalization":
		a.normalisation(n, in, o, training)
	case "Add":
		for i := range y.Data {
			size := math.Abs(in[0].Data[i]) + math.Abs(in[1].Data[i])
			// The sum may have been made first, and an operand of it.
			o.bound[i] = (a.unit + a.store) * size
			o.noise[i] = even(a.unit * size)
		}
	case "Softmax":
		a.softmax(in[0], o)
	}
	if a.store > 0 {
		for i, v := range y.Data {
			o.bound[i] += a.store*(math.Abs(v)+o.bound[i]) + a.tiny
			o.noise[i] += even(a.store*v) + even(a.tiny)
		}
	}
	return o, nil
}

// conv bounds a convolution: Σ|ab| and Σ(ab)² over each output's products.
func (a arithmetic) conv(n *nn.Node, in []*reference.Array, o operator, operands bool) {
	x, w, y := in[0], in[1], o.value
	size, squares := make([]float64, len(y.Data)), make([]float64, len(y.Data))
	reference.EachConv(n, x, w, y, func(wi, xi, step, yi, k int) {
		v := w.Data[wi]
		for i := range k {
			p := v * x.Data[xi+i*step]
			size[yi+i] += math.Abs(p)
			squares[yi+i] += p * p
		}
	})
	length := w.Shape[1] * w.Shape[2] * w.Shape[3]
	if len(in) > 2 {
		length++
		reference.EachPixel(y, func(_, c, i int) { size[i] += math.Abs(in[2].Data[c]) })
	}
	rounded := (1 + a.operand) * (1 + a.operand)
	direct, tiny := rounded*(1+a.gamma(length))-1, a.tiny*float64(length)*(largest(x.Data)+largest(w.Data))
	noisy := 1.0
	if transformed(n, w) {
		noisy = winogradNoise
		factor := rounded * winogradAmplification * a.gamma(w.Shape[1]+transformOperations)
		near := surroundings(x)
		pixels := y.Shape[2] * y.Shape[3]
		for b := range y.Shape[0] {
			for k := range w.Shape[0] {
				for c := range w.Shape[1] {
					g := factor * largest(w.Data[(k*w.Shape[1]+c)*9:][:9])
					from, to := near[(b*w.Shape[1]+c)*pixels:][:pixels], o.bound[(b*w.Shape[0]+k)*pixels:][:pixels]
					for i, v := range from {
						to[i] += g * v
					}
				}
			}
		}
	}
	for i, v := range y.Data {
		o.bound[i] += direct*size[i] + tiny
		o.noise[i] = even(a.unit)*(float64(length)/3*v*v+(float64(length)/6+1)*squares[i]*noisy) + even(tiny)
		if operands {
			o.noise[i] += 2 * even(a.operand) * squares[i]
		}
	}
}

func largest(v []float64) (m float64) {
	for _, x := range v {
		m = max(m, math.Abs(x))
	}
	return m
}

// surroundings is, for every pixel of [N,C,H,W], the largest absolute value within
// reach of it.
func surroundings(x *reference.Array) []float64 {
	h, w := x.Shape[2], x.Shape[3]
	rows, out := make([]float64, len(x.Data)), make([]float64, len(x.Data))
	for at := 0; at < len(x.Data); at += h * w {
		for i := range h * w {
			for u := max(0, i%w-reach); u <= min(w-1, i%w+reach); u++ {
				rows[at+i] = max(rows[at+i], math.Abs(x.Data[at+i/w*w+u]))
			}
		}
		for i := range h * w {
			for v := max(0, i/w-reach); v <= min(h-1, i/w+reach); v++ {
				out[at+i] = max(out[at+i], rows[at+v*w+i%w])
			}
		}
	}
	return out
}

// moments are a channel's mean and biased variance as a backend may compute them,
// with what either may be off by.
type moments struct {
	mean, variance           float64
	meanBound, varianceBound float64
	meanNoise, varianceNoise float64 // expected squares
	count                    int
}

// moments of the channels of [N,C,…]. The variance may come from squared distances or
// as E[x²]−E[x]², which errs more.
func (a arithmetic) moments(x *reference.Array) []moments {
	out := make([]moments, x.Shape[1])
	mean, variance := reference.Moments(x)
	size, squares := make([]float64, len(out)), make([]float64, len(out))
	reference.EachPixel(x, func(_, c, i int) {
		size[c] += math.Abs(x.Data[i])
		squares[c] += x.Data[i] * x.Data[i]
	})
	n := len(x.Data) / len(out)
	for c := range out {
		m := moments{mean: mean[c], variance: variance[c], count: n}
		size, square := size[c]/float64(n), squares[c]/float64(n)
		kept := a.store // what is added up may be more exact than what is kept
		m.meanBound = (a.gamma(n+1)+kept)*size + a.tiny
		m.varianceBound = (a.gamma(n+4)+2*kept)*(square+2*math.Abs(m.mean)*size+m.variance) + m.meanBound*m.meanBound
		m.meanNoise = a.sum(n, m.mean, square/float64(n)) + even(kept)*square/float64(n)
		m.varianceNoise = even(a.unit)*(float64(n)/3+4)*(square+m.mean*m.mean)*(square+m.mean*m.mean) +
			4*m.mean*m.mean*m.meanNoise + 4*even(kept)*square*square/float64(n)
		out[c] = m
	}
	return out
}

func (a arithmetic) normalisation(n *nn.Node, in []*reference.Array, o operator, training bool) {
	x, y := in[0], o.value
	var of []moments
	if training {
		of = a.moments(x)
	} else {
		of = make([]moments, x.Shape[1])
		for c := range of {
			of[c] = moments{mean: in[3].Data[c], variance: in[4].Data[c]}
		}
	}
	eps := a.attribute(n.Attrs.Float("epsilon", 1e-5))
	reference.EachPixel(y, func(_, c, i int) {
		m := of[c]
		v := m.variance + eps
		slope := math.Abs(in[1].Data[c]) / math.Sqrt(v)
		off := math.Abs(x.Data[i] - m.mean)
		least := v - m.varianceBound
		root := math.Inf(1) // relative error of 1/√v
		if least > 0 {
			root = math.Sqrt(v/least) - 1
		}
		// Either (x−µ)·a+β or x·a+(β−µ·a).
		size := slope*(math.Abs(x.Data[i])+math.Abs(m.mean)) + math.Abs(in[2].Data[c])
		o.bound[i] = slope*(m.meanBound*(1+root)+off*root) + a.gamma(8)*(1+root)*size
		o.noise[i] = slope*slope*(m.meanNoise+off*off*m.varianceNoise/(4*v*v)) + 3*even(a.unit)*size*size
	})
}

// softmax over the channels. An exponential may be off by four units and by what its
// argument is.
func (a arithmetic) softmax(z *reference.Array, o operator) {
	k, pixels := z.Shape[1], z.Shape[2]*z.Shape[3]
	for i := range z.Shape[0] {
		for q := range pixels {
			top := math.Inf(-1)
			for c := range k {
				top = max(top, z.Data[(i*k+c)*pixels+q])
			}
			mean := 0.0
			for c := range k {
				at := (i*k+c)*pixels + q
				mean += o.value.Data[at] * (top - z.Data[at])
			}
			for c := range k {
				at := (i*k+c)*pixels + q
				size := o.value.Data[at] * (top - z.Data[at] + mean + float64(k) + 10)
				o.bound[at] = a.unit*size + 0x1p-126
				o.noise[at] = even(a.unit * size)
			}
		}
	}
}
