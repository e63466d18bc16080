package reference

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// Array is a row-major array.
type Array struct {
	Shape []int
	Data  []float64
}

// NewArray is an array of zeros.
func NewArray(shape ...int) *Array {
	return &Array{shape, make([]float64, nn.Size(shape))}
}

// At addresses element [n,c,y,x] of a four-dimensional array.
func (a *Array) At(n, c, y, x int) *float64 {
	return &a.Data[((n*a.Shape[1]+c)*a.Shape[2]+y)*a.Shape[3]+x]
}

// Network executes a graph and differentiates it. The functions, where they are
// set, take a hand in a pass.
type Network struct {
	Graph  *nn.Graph
	Loss   string
	Values map[string]*Array // parameters, statistics, constants

	// Computed sees each node's output before the next node does, and may change it.
	Computed func(n *nn.Node, out *Array) error
	// Propagated sees the gradient of each node's output before the node does, and
	// may change it.
	Propagated func(n *nn.Node, gradient *Array)
	// Operand rounds the operands of convolutions, forwards and backwards.
	Operand func(float64) float64
	// Second says whether the gradient goes to the second of a MaxPool's window whose
	// two largest values are equal, in place of the first.
	Second func() bool
	// Attribute reads a number that the graph has in float32, ε or a momentum; nil
	// takes it as it is.
	Attribute func(float32) float64
}

// attribute is the value of a number of a node's.
func (r *Network) attribute(n *nn.Node, name string, def float32) float64 {
	v := n.Attrs.Float(name, def)
	if r.Attribute != nil {
		return r.Attribute(v)
	}
	return float64(v)
}

// operands are the arrays that a convolution multiplies.
func (r *Network) operands(in ...*Array) []*Array {
	if r.Operand == nil {
		return in
	}
	out := make([]*Array, len(in))
	for i, a := range in {
		out[i] = NewArray(a.Shape...)
		for k, v := range a.Data {
			out[i].Data[k] = r.Operand(v)
		}
	}
	return out
}

// New is the network with the graph's own weights.
func New(g *nn.Graph, loss string) *Network {
	r := &Network{Graph: g, Loss: loss, Values: map[string]*Array{}}
	for _, t := range g.Tensors {
		a := NewArray(t.Shape...)
		for i, v := range t.Data {
			a.Data[i] = float64(v)
		}
		r.Values[t.Name] = a
	}
	return r
}

// Pass holds what one run through the network computed.
type Pass struct {
	Values    map[string]*Array
	Gradients map[string]*Array
	Mean      map[string][]float64 // of a BatchNormalization node's batch
	Variance  map[string][]float64 // biased
}

// Gradient is that of a value, zeros at first.
func (p *Pass) Gradient(name string) *Array {
	if p.Gradients[name] == nil {
		p.Gradients[name] = NewArray(p.Values[name].Shape...)
	}
	return p.Gradients[name]
}

// Forward runs the network; in training mode it normalises with the batch's
// statistics. Running statistics stay as they are: see MoveStatistics.
func (r *Network) Forward(images *Array, training bool) (*Pass, error) {
	shapes, err := r.Graph.Shapes(images.Shape)
	if err != nil {
		return nil, err
	}
	p := r.pass(images)
	for _, n := range r.Graph.Nodes {
		in := make([]*Array, len(n.Inputs))
		for i, name := range n.Inputs {
			in[i] = p.Values[name]
		}
		out, err := r.Apply(n, in, shapes[n.Outputs[0]], training)
		if err != nil {
			return nil, err
		}
		if n.Op == "BatchNormalization" && training {
			p.Mean[n.Name], p.Variance[n.Name] = Moments(in[0])
		}
		p.Values[n.Outputs[0]] = out
		if r.Computed != nil {
			if err := r.Computed(n, out); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func (r *Network) pass(images *Array) *Pass {
	p := &Pass{map[string]*Array{}, map[string]*Array{}, map[string][]float64{}, map[string][]float64{}}
	for name, a := range r.Values {
		p.Values[name] = a
	}
	p.Values[r.Graph.Input.Name] = images
	return p
}

// Given is a pass in training mode whose nodes' outputs somebody else has computed,
// for LossOf to propagate gradients through.
func (r *Network) Given(images *Array, outputs map[string]*Array) *Pass {
	p := r.pass(images)
	for name, a := range outputs {
		p.Values[name] = a
	}
	for _, n := range r.Graph.Nodes {
		if n.Op == "BatchNormalization" {
			p.Mean[n.Name], p.Variance[n.Name] = Moments(p.Values[n.Inputs[0]])
		}
	}
	return p
}

// Apply is a node's output, of the given shape, for these inputs.
func (r *Network) Apply(n *nn.Node, in []*Array, shape []int, training bool) (*Array, error) {
	out := NewArray(shape...)
	switch n.Op {
	case "Conv":
		o := r.operands(in[0], in[1])
		EachConv(n, in[0], in[1], out, func(wi, xi, step, yi, n int) {
			for i := range n {
				out.Data[yi+i] += o[1].Data[wi] * o[0].Data[xi+i*step]
			}
		})
		if len(in) > 2 {
			EachPixel(out, func(k, c, i int) { out.Data[i] += in[2].Data[c] })
		}
	case "BatchNormalization":
		mean, variance := in[3].Data, in[4].Data
		if training {
			mean, variance = Moments(in[0])
		}
		eps := r.attribute(n, "epsilon", 1e-5)
		EachPixel(out, func(_, c, i int) {
			out.Data[i] = (in[0].Data[i]-mean[c])/math.Sqrt(variance[c]+eps)*in[1].Data[c] + in[2].Data[c]
		})
	case "Relu":
		for i, v := range in[0].Data {
			out.Data[i] = math.Max(v, 0)
		}
	case "MaxPool":
		EachPool(n, in[0], out, func(best, _, y int) { out.Data[y] = in[0].Data[best] })
	case "Resize":
		eachResize(in[0], in[2].Data, out, func(x, y *float64) { *y = *x })
	case "Concat":
		eachConcat(in, out, func(x, y *float64, _ int) { *y = *x })
	case "Add":
		for i := range out.Data {
			out.Data[i] = in[0].Data[i] + in[1].Data[i]
		}
	case "Softmax":
		softmax(in[0], out)
	default:
		return nil, fmt.Errorf("node %q: the reference has no operator %s", n.Name, n.Op)
	}
	return out, nil
}

// LossOf is the mean loss over the labelled pixels of a finished pass, and one
// per image. With backward it also fills p.Gradients.
func (r *Network) LossOf(p *Pass, labels []uint8, backward bool) (mean float64, each []float64) {
	z := p.Values[r.Graph.Output.Name] // probabilities
	n, k := z.Shape[0], z.Shape[1]
	pixels := z.Shape[2] * z.Shape[3]
	each = make([]float64, n)
	var d *Array
	if backward {
		d = p.Gradient(r.Graph.Output.Name)
	}
	for i := range n {
		for q := range pixels {
			at := func(c int) int { return (i*k+c)*pixels + q }
			target := int(labels[i*pixels+q])
			if r.Loss == backend.LossOnLogits {
				// −log of the probability itself.
				each[i] -= math.Log(z.Data[at(target)])
				if backward {
					d.Data[at(target)] -= 1 / z.Data[at(target)] / float64(n*pixels)
				}
				continue
			}
			sum := 0.0
			for c := range k {
				sum += math.Exp(z.Data[at(c)])
			}
			each[i] += math.Log(sum) - z.Data[at(target)]
			if backward {
				for c := range k {
					d.Data[at(c)] += math.Exp(z.Data[at(c)]) / sum / float64(n*pixels)
				}
				d.Data[at(target)] -= 1 / float64(n*pixels)
			}
		}
		mean += each[i]
		each[i] /= float64(pixels)
	}
	if backward {
		r.Backward(p)
	}
	return mean / float64(n*pixels), each
}

// Gradients is the training-mode loss of a batch and the pass that holds its
// gradients.
func (r *Network) Gradients(images *Array, labels []uint8) (float64, *Pass, error) {
	p, err := r.Forward(images, true)
	if err != nil {
		return 0, nil, err
	}
	loss, _ := r.LossOf(p, labels, true)
	return loss, p, nil
}

// Backward propagates the output's gradient through all nodes, in training
// mode.
func (r *Network) Backward(p *Pass) {
	for i := len(r.Graph.Nodes) - 1; i >= 0; i-- {
		n := r.Graph.Nodes[i]
		dy, y := p.Gradient(n.Outputs[0]), p.Values[n.Outputs[0]]
		in := make([]*Array, len(n.Inputs))
		for i, name := range n.Inputs {
			in[i] = p.Values[name]
		}
		if r.Propagated != nil {
			r.Propagated(n, dy)
		}
		dx := p.Gradient(n.Inputs[0])
		switch n.Op {
		case "Conv":
			dw := p.Gradient(n.Inputs[1])
			o := r.operands(in[0], in[1], dy)
			EachConv(n, in[0], in[1], y, func(wi, xi, step, yi, n int) {
				for i := range n {
					dx.Data[xi+i*step] += o[1].Data[wi] * o[2].Data[yi+i]
					dw.Data[wi] += o[0].Data[xi+i*step] * o[2].Data[yi+i]
				}
			})
			if len(in) > 2 {
				db := p.Gradient(n.Inputs[2])
				EachPixel(dy, func(_, c, i int) { db.Data[c] += dy.Data[i] })
			}
		case "BatchNormalization":
			eps := r.attribute(n, "epsilon", 1e-5)
			mean, variance := p.Mean[n.Name], p.Variance[n.Name]
			dg, db := p.Gradient(n.Inputs[1]), p.Gradient(n.Inputs[2])
			hat := func(c, i int) float64 { return (in[0].Data[i] - mean[c]) / math.Sqrt(variance[c]+eps) }
			EachPixel(dy, func(_, c, i int) {
				dg.Data[c] += dy.Data[i] * hat(c, i)
				db.Data[c] += dy.Data[i]
			})
			m := float64(len(dy.Data) / dy.Shape[1])
			EachPixel(dy, func(_, c, i int) {
				dx.Data[i] += in[1].Data[c] / math.Sqrt(variance[c]+eps) * (dy.Data[i] - db.Data[c]/m - hat(c, i)*dg.Data[c]/m)
			})
		case "Relu":
			for i, v := range in[0].Data {
				if v > 0 {
					dx.Data[i] += dy.Data[i]
				}
			}
		case "MaxPool":
			EachPool(n, in[0], y, func(best, second, y int) {
				if r.Second != nil && second >= 0 && in[0].Data[best] == in[0].Data[second] && r.Second() {
					best = second
				}
				dx.Data[best] += dy.Data[y]
			})
		case "Resize":
			eachResize(dx, in[2].Data, dy, func(x, y *float64) { *x += *y })
		case "Concat":
			ds := make([]*Array, len(in))
			for i, name := range n.Inputs {
				ds[i] = p.Gradient(name)
			}
			eachConcat(ds, dy, func(x, y *float64, _ int) { *x += *y })
		case "Add":
			other := p.Gradient(n.Inputs[1])
			for i, v := range dy.Data {
				dx.Data[i] += v
				other.Data[i] += v
			}
		case "Softmax":
			k, pixels := y.Shape[1], y.Shape[2]*y.Shape[3]
			for i := range y.Shape[0] {
				for q := range pixels {
					dot := 0.0
					for c := range k {
						at := (i*k+c)*pixels + q
						dot += y.Data[at] * dy.Data[at]
					}
					for c := range k {
						at := (i*k+c)*pixels + q
						dx.Data[at] += y.Data[at] * (dy.Data[at] - dot)
					}
				}
			}
		}
	}
}

// MoveStatistics updates the running statistics after a training-mode pass.
func (r *Network) MoveStatistics(p *Pass) {
	for _, n := range r.Graph.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		keep := r.attribute(n, "momentum", 0.9)
		x := p.Values[n.Inputs[0]]
		m := float64(len(x.Data) / x.Shape[1])
		for c := range x.Shape[1] {
			mean, variance := &r.Values[n.Inputs[3]].Data[c], &r.Values[n.Inputs[4]].Data[c]
			*mean = keep**mean + (1-keep)*p.Mean[n.Name][c]
			*variance = keep**variance + (1-keep)*p.Variance[n.Name][c]*m/(m-1)
		}
	}
}

// EachPixel visits every element of [N,C,…] with its image, channel and index.
func EachPixel(a *Array, f func(n, c, i int)) {
	pixels := len(a.Data) / (a.Shape[0] * a.Shape[1])
	for i := range a.Data {
		f(i/pixels/a.Shape[1], i/pixels%a.Shape[1], i)
	}
}

// Moments is the mean and the biased variance of each channel.
func Moments(x *Array) (mean, variance []float64) {
	mean, variance = make([]float64, x.Shape[1]), make([]float64, x.Shape[1])
	m := float64(len(x.Data) / x.Shape[1])
	EachPixel(x, func(_, c, i int) { mean[c] += x.Data[i] / m })
	EachPixel(x, func(_, c, i int) { variance[c] += (x.Data[i] - mean[c]) * (x.Data[i] - mean[c]) / m })
	return mean, variance
}

// EachConv visits the products of a convolution, a row of the output at a time:
// output elements yi, yi+1, …, yi+n−1 each take weight wi times the input
// elements xi, xi+step, ….
func EachConv(n *nn.Node, x, w, y *Array, f func(wi, xi, step, yi, n int)) {
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	perGroup := w.Shape[0] / n.Attrs.Int("group", 1)
	width := y.Shape[3]
	for b := range y.Shape[0] {
		for k := range y.Shape[1] {
			for c := range w.Shape[1] {
				for ky := range w.Shape[2] {
					for kx := range w.Shape[3] {
						wi := ((k*w.Shape[1]+c)*w.Shape[2]+ky)*w.Shape[3] + kx
						left := kx*d[1] - p[1] // input column of output column 0
						first, last := 0, width
						for first < width && first*s[1]+left < 0 {
							first++
						}
						for last > first && (last-1)*s[1]+left >= x.Shape[3] {
							last--
						}
						for oy := range y.Shape[2] {
							iy := oy*s[0] - p[0] + ky*d[0]
							if iy < 0 || iy >= x.Shape[2] {
								continue
							}
							xi := ((b*x.Shape[1]+k/perGroup*w.Shape[1]+c)*x.Shape[2]+iy)*x.Shape[3] + left
							yi := ((b*y.Shape[1]+k)*y.Shape[2] + oy) * width
							f(wi, xi+first*s[1], s[1], yi+first, last-first)
						}
					}
				}
			}
		}
	}
}

// EachPool visits every output element of a MaxPool with the indices of the
// first largest input in its window and of the largest of the others, -1 where
// there is none.
func EachPool(n *nn.Node, x, y *Array, f func(best, second, y int)) {
	kernel := n.Attrs.Ints("kernel_shape")
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	yi := 0
	for b := range y.Shape[0] {
		for c := range y.Shape[1] {
			for oy := range y.Shape[2] {
				for ox := range y.Shape[3] {
					best, second := -1, -1
					for ky := range kernel[0] {
						for kx := range kernel[1] {
							iy, ix := oy*s[0]-p[0]+ky*d[0], ox*s[1]-p[1]+kx*d[1]
							if iy < 0 || ix < 0 || iy >= x.Shape[2] || ix >= x.Shape[3] {
								continue
							}
							i := ((b*x.Shape[1]+c)*x.Shape[2]+iy)*x.Shape[3] + ix
							switch {
							case best < 0 || x.Data[i] > x.Data[best]:
								best, second = i, best
							case second < 0 || x.Data[i] > x.Data[second]:
								second = i
							}
						}
					}
					f(best, second, yi)
					yi++
				}
			}
		}
	}
}

// eachResize visits every output element of a nearest-neighbour enlargement
// ("asymmetric", "floor") with its input element.
func eachResize(x *Array, scales []float64, y *Array, f func(x, y *float64)) {
	for n := range y.Shape[0] {
		for c := range y.Shape[1] {
			for oy := range y.Shape[2] {
				for ox := range y.Shape[3] {
					iy, ix := int(float64(oy)/scales[2]), int(float64(ox)/scales[3])
					f(x.At(n, c, iy, ix), y.At(n, c, oy, ox))
				}
			}
		}
	}
}

// eachConcat visits every element of a concatenation along channels.
func eachConcat(in []*Array, out *Array, f func(x, y *float64, input int)) {
	first := 0
	for k, x := range in {
		for n := range x.Shape[0] {
			for c := range x.Shape[1] {
				for y := range x.Shape[2] {
					for q := range x.Shape[3] {
						f(x.At(n, c, y, q), out.At(n, first+c, y, q), k)
					}
				}
			}
		}
		first += x.Shape[1]
	}
}

// softmax normalises over the channels.
func softmax(x, y *Array) {
	for n := range x.Shape[0] {
		for i := range x.Shape[2] {
			for j := range x.Shape[3] {
				largest, sum := math.Inf(-1), 0.0
				for c := range x.Shape[1] {
					largest = math.Max(largest, *x.At(n, c, i, j))
				}
				for c := range x.Shape[1] {
					sum += math.Exp(*x.At(n, c, i, j) - largest)
				}
				for c := range x.Shape[1] {
					*y.At(n, c, i, j) = math.Exp(*x.At(n, c, i, j)-largest) / sum
				}
			}
		}
	}
}
