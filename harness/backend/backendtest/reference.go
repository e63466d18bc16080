package backendtest

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// array is a row-major float64 array.
type array struct {
	shape []int
	data  []float64
}

func newArray(shape ...int) *array {
	return &array{shape, make([]float64, nn.Size(shape))}
}

// at addresses element [n,c,y,x] of a four-dimensional array.
func (a *array) at(n, c, y, x int) *float64 {
	return &a.data[((n*a.shape[1]+c)*a.shape[2]+y)*a.shape[3]+x]
}

// reference executes a graph in float64 by the most obvious loops there are,
// and differentiates it. It is the suite's oracle and shares no code with any
// backend.
type reference struct {
	graph  *nn.Graph
	loss   string
	values map[string]*array // parameters, statistics, constants

	computed func(n *nn.Node, out *array) error // sees each node's output before the next node does
	operand  func(float64) float64              // rounds the operands of convolutions, forwards and backwards; nil: not
}

// operands are the arrays that a convolution multiplies.
func (r *reference) operands(in ...*array) []*array {
	if r.operand == nil {
		return in
	}
	out := make([]*array, len(in))
	for i, a := range in {
		out[i] = newArray(a.shape...)
		for k, v := range a.data {
			out[i].data[k] = r.operand(v)
		}
	}
	return out
}

func newReference(g *nn.Graph, loss string) *reference {
	r := &reference{graph: g, loss: loss, values: map[string]*array{}}
	for _, t := range g.Tensors {
		a := newArray(t.Shape...)
		for i, v := range t.Data {
			a.data[i] = float64(v)
		}
		r.values[t.Name] = a
	}
	return r
}

// batch is one batch in the orientation in which the network sees it.
type batch struct {
	images *array // [N,C,H,W]
	labels []uint8
}

// pass holds what one run through the network computed.
type pass struct {
	values    map[string]*array
	gradients map[string]*array
	mean      map[string][]float64 // of a BatchNormalization node's batch
	variance  map[string][]float64 // biased
}

func (p *pass) gradient(name string) *array {
	if p.gradients[name] == nil {
		p.gradients[name] = newArray(p.values[name].shape...)
	}
	return p.gradients[name]
}

// forward runs the network; in training mode it normalises with the batch's
// statistics. Running statistics stay as they are: see moveStatistics.
func (r *reference) forward(images *array, training bool) (*pass, error) {
	shapes, err := r.graph.Shapes(images.shape)
	if err != nil {
		return nil, err
	}
	p := &pass{map[string]*array{}, map[string]*array{}, map[string][]float64{}, map[string][]float64{}}
	for name, a := range r.values {
		p.values[name] = a
	}
	p.values[r.graph.Input.Name] = images
	for _, n := range r.graph.Nodes {
		in := make([]*array, len(n.Inputs))
		for i, name := range n.Inputs {
			in[i] = p.values[name]
		}
		out := newArray(shapes[n.Outputs[0]]...)
		p.values[n.Outputs[0]] = out
		switch n.Op {
		case "Conv":
			o := r.operands(in[0], in[1])
			eachConv(n, in[0], in[1], out, func(wi, xi, step, yi, n int) {
				for i := range n {
					out.data[yi+i] += o[1].data[wi] * o[0].data[xi+i*step]
				}
			})
			if len(in) > 2 {
				eachPixel(out, func(k, c, i int) { out.data[i] += in[2].data[c] })
			}
		case "BatchNormalization":
			mean, variance := in[3].data, in[4].data
			if training {
				mean, variance = moments(in[0])
				p.mean[n.Name], p.variance[n.Name] = mean, variance
			}
			eps := float64(n.Attrs.Float("epsilon", 1e-5))
			eachPixel(out, func(_, c, i int) {
				out.data[i] = (in[0].data[i]-mean[c])/math.Sqrt(variance[c]+eps)*in[1].data[c] + in[2].data[c]
			})
		case "Relu":
			for i, v := range in[0].data {
				out.data[i] = math.Max(v, 0)
			}
		case "MaxPool":
			eachPool(n, in[0], out, func(best, _, y int) { out.data[y] = in[0].data[best] })
		case "Resize":
			eachResize(in[0], in[2].data, out, func(x, y *float64) { *y = *x })
		case "Concat":
			eachConcat(in, out, func(x, y *float64, _ int) { *y = *x })
		case "Add":
			for i := range out.data {
				out.data[i] = in[0].data[i] + in[1].data[i]
			}
		case "Softmax":
			softmax(in[0], out)
		default:
			return nil, fmt.Errorf("node %q: the reference has no operator %s", n.Name, n.Op)
		}
		if r.computed != nil {
			if err := r.computed(n, out); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// lossOf is the mean loss over the labelled pixels of a finished pass, and one
// per image. With backward it also fills p.gradients.
func (r *reference) lossOf(p *pass, labels []uint8, backward bool) (mean float64, each []float64) {
	z := p.values[r.graph.Output.Name] // probabilities
	n, k := z.shape[0], z.shape[1]
	pixels := z.shape[2] * z.shape[3]
	each = make([]float64, n)
	var d *array
	if backward {
		d = p.gradient(r.graph.Output.Name)
	}
	for i := range n {
		for q := range pixels {
			at := func(c int) int { return (i*k+c)*pixels + q }
			target := int(labels[i*pixels+q])
			if r.loss == backend.LossOnLogits {
				// −log of the probability itself.
				each[i] -= math.Log(z.data[at(target)])
				if backward {
					d.data[at(target)] -= 1 / z.data[at(target)] / float64(n*pixels)
				}
				continue
			}
			sum := 0.0
			for c := range k {
				sum += math.Exp(z.data[at(c)])
			}
			each[i] += math.Log(sum) - z.data[at(target)]
			if backward {
				for c := range k {
					d.data[at(c)] += math.Exp(z.data[at(c)]) / sum / float64(n*pixels)
				}
				d.data[at(target)] -= 1 / float64(n*pixels)
			}
		}
		mean += each[i]
		each[i] /= float64(pixels)
	}
	if backward {
		r.backward(p)
	}
	return mean / float64(n*pixels), each
}

// gradients is the training-mode loss of a batch and the pass that holds its
// gradients.
func (r *reference) gradients(b batch) (float64, *pass, error) {
	p, err := r.forward(b.images, true)
	if err != nil {
		return 0, nil, err
	}
	loss, _ := r.lossOf(p, b.labels, true)
	return loss, p, nil
}

// backward propagates the output's gradient through all nodes, in training
// mode.
func (r *reference) backward(p *pass) {
	for i := len(r.graph.Nodes) - 1; i >= 0; i-- {
		n := r.graph.Nodes[i]
		dy, y := p.gradient(n.Outputs[0]), p.values[n.Outputs[0]]
		in := make([]*array, len(n.Inputs))
		for i, name := range n.Inputs {
			in[i] = p.values[name]
		}
		dx := p.gradient(n.Inputs[0])
		switch n.Op {
		case "Conv":
			dw := p.gradient(n.Inputs[1])
			o := r.operands(in[0], in[1], dy)
			eachConv(n, in[0], in[1], y, func(wi, xi, step, yi, n int) {
				for i := range n {
					dx.data[xi+i*step] += o[1].data[wi] * o[2].data[yi+i]
					dw.data[wi] += o[0].data[xi+i*step] * o[2].data[yi+i]
				}
			})
			if len(in) > 2 {
				db := p.gradient(n.Inputs[2])
				eachPixel(dy, func(_, c, i int) { db.data[c] += dy.data[i] })
			}
		case "BatchNormalization":
			eps := float64(n.Attrs.Float("epsilon", 1e-5))
			mean, variance := p.mean[n.Name], p.variance[n.Name]
			dg, db := p.gradient(n.Inputs[1]), p.gradient(n.Inputs[2])
			hat := func(c, i int) float64 { return (in[0].data[i] - mean[c]) / math.Sqrt(variance[c]+eps) }
			eachPixel(dy, func(_, c, i int) {
				dg.data[c] += dy.data[i] * hat(c, i)
				db.data[c] += dy.data[i]
			})
			m := float64(len(dy.data) / dy.shape[1])
			eachPixel(dy, func(_, c, i int) {
				dx.data[i] += in[1].data[c] / math.Sqrt(variance[c]+eps) * (dy.data[i] - db.data[c]/m - hat(c, i)*dg.data[c]/m)
			})
		case "Relu":
			for i, v := range in[0].data {
				if v > 0 {
					dx.data[i] += dy.data[i]
				}
			}
		case "MaxPool":
			eachPool(n, in[0], y, func(best, _, y int) { dx.data[best] += dy.data[y] })
		case "Resize":
			eachResize(dx, in[2].data, dy, func(x, y *float64) { *x += *y })
		case "Concat":
			ds := make([]*array, len(in))
			for i, name := range n.Inputs {
				ds[i] = p.gradient(name)
			}
			eachConcat(ds, dy, func(x, y *float64, _ int) { *x += *y })
		case "Add":
			other := p.gradient(n.Inputs[1])
			for i, v := range dy.data {
				dx.data[i] += v
				other.data[i] += v
			}
		case "Softmax":
			k, pixels := y.shape[1], y.shape[2]*y.shape[3]
			for i := range y.shape[0] {
				for q := range pixels {
					dot := 0.0
					for c := range k {
						at := (i*k+c)*pixels + q
						dot += y.data[at] * dy.data[at]
					}
					for c := range k {
						at := (i*k+c)*pixels + q
						dx.data[at] += y.data[at] * (dy.data[at] - dot)
					}
				}
			}
		}
	}
}

// moveStatistics updates the running statistics after a training-mode pass.
func (r *reference) moveStatistics(p *pass) {
	for _, n := range r.graph.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		keep := float64(n.Attrs.Float("momentum", 0.9))
		x := p.values[n.Inputs[0]]
		m := float64(len(x.data) / x.shape[1])
		for c := range x.shape[1] {
			mean, variance := &r.values[n.Inputs[3]].data[c], &r.values[n.Inputs[4]].data[c]
			*mean = keep**mean + (1-keep)*p.mean[n.Name][c]
			*variance = keep**variance + (1-keep)*p.variance[n.Name][c]*m/(m-1)
		}
	}
}

// eachPixel visits every element of [N,C,…] with its image, channel and index.
func eachPixel(a *array, f func(n, c, i int)) {
	pixels := len(a.data) / (a.shape[0] * a.shape[1])
	for i := range a.data {
		f(i/pixels/a.shape[1], i/pixels%a.shape[1], i)
	}
}

// moments is the mean and the biased variance of each channel.
func moments(x *array) (mean, variance []float64) {
	mean, variance = make([]float64, x.shape[1]), make([]float64, x.shape[1])
	m := float64(len(x.data) / x.shape[1])
	eachPixel(x, func(_, c, i int) { mean[c] += x.data[i] / m })
	eachPixel(x, func(_, c, i int) { variance[c] += (x.data[i] - mean[c]) * (x.data[i] - mean[c]) / m })
	return mean, variance
}

// eachConv visits the products of a convolution, a row of the output at a time:
// output elements yi, yi+1, …, yi+n−1 each take weight wi times the input
// elements xi, xi+step, ….
func eachConv(n *nn.Node, x, w, y *array, f func(wi, xi, step, yi, n int)) {
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	perGroup := w.shape[0] / n.Attrs.Int("group", 1)
	width := y.shape[3]
	for b := range y.shape[0] {
		for k := range y.shape[1] {
			for c := range w.shape[1] {
				for ky := range w.shape[2] {
					for kx := range w.shape[3] {
						wi := ((k*w.shape[1]+c)*w.shape[2]+ky)*w.shape[3] + kx
						left := kx*d[1] - p[1] // input column of output column 0
						first, last := 0, width
						for first < width && first*s[1]+left < 0 {
							first++
						}
						for last > first && (last-1)*s[1]+left >= x.shape[3] {
							last--
						}
						for oy := range y.shape[2] {
							iy := oy*s[0] - p[0] + ky*d[0]
							if iy < 0 || iy >= x.shape[2] {
								continue
							}
							xi := ((b*x.shape[1]+k/perGroup*w.shape[1]+c)*x.shape[2]+iy)*x.shape[3] + left
							yi := ((b*y.shape[1]+k)*y.shape[2] + oy) * width
							f(wi, xi+first*s[1], s[1], yi+first, last-first)
						}
					}
				}
			}
		}
	}
}

// eachPool visits every output element of a MaxPool with the indices of the
// first largest input in its window and of the largest of the others, -1 where
// there is none.
func eachPool(n *nn.Node, x, y *array, f func(best, second, y int)) {
	kernel := n.Attrs.Ints("kernel_shape")
	s, p, d := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0), n.Attrs.Ints("dilations", 1, 1)
	yi := 0
	for b := range y.shape[0] {
		for c := range y.shape[1] {
			for oy := range y.shape[2] {
				for ox := range y.shape[3] {
					best, second := -1, -1
					for ky := range kernel[0] {
						for kx := range kernel[1] {
							iy, ix := oy*s[0]-p[0]+ky*d[0], ox*s[1]-p[1]+kx*d[1]
							if iy < 0 || ix < 0 || iy >= x.shape[2] || ix >= x.shape[3] {
								continue
							}
							i := ((b*x.shape[1]+c)*x.shape[2]+iy)*x.shape[3] + ix
							switch {
							case best < 0 || x.data[i] > x.data[best]:
								best, second = i, best
							case second < 0 || x.data[i] > x.data[second]:
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
func eachResize(x *array, scales []float64, y *array, f func(x, y *float64)) {
	for n := range y.shape[0] {
		for c := range y.shape[1] {
			for oy := range y.shape[2] {
				for ox := range y.shape[3] {
					iy, ix := int(float64(oy)/scales[2]), int(float64(ox)/scales[3])
					f(x.at(n, c, iy, ix), y.at(n, c, oy, ox))
				}
			}
		}
	}
}

// eachConcat visits every element of a concatenation along channels.
func eachConcat(in []*array, out *array, f func(x, y *float64, input int)) {
	first := 0
	for k, x := range in {
		for n := range x.shape[0] {
			for c := range x.shape[1] {
				for y := range x.shape[2] {
					for q := range x.shape[3] {
						f(x.at(n, c, y, q), out.at(n, first+c, y, q), k)
					}
				}
			}
		}
		first += x.shape[1]
	}
}

// softmax normalises over the channels.
func softmax(x, y *array) {
	for n := range x.shape[0] {
		for i := range x.shape[2] {
			for j := range x.shape[3] {
				largest, sum := math.Inf(-1), 0.0
				for c := range x.shape[1] {
					largest = math.Max(largest, *x.at(n, c, i, j))
				}
				for c := range x.shape[1] {
					sum += math.Exp(*x.at(n, c, i, j) - largest)
				}
				for c := range x.shape[1] {
					*y.at(n, c, i, j) = math.Exp(*x.at(n, c, i, j)-largest) / sum
				}
			}
		}
	}
}

// turned returns the image [H,W] of which numpy.rot90(a.T if op&4 else a, op&3)
// would be the result, built by whole transpositions and quarter turns rather
// than by the contract's index arithmetic.
func turned[T any](a []T, n int, op uint8) []T {
	if op&4 != 0 {
		b := make([]T, len(a))
		for y := range n {
			for x := range n {
				b[y*n+x] = a[x*n+y]
			}
		}
		a = b
	}
	for range op & 3 {
		b := make([]T, len(a)) // a quarter turn counter-clockwise: the last column becomes the first row
		for y := range n {
			for x := range n {
				b[y*n+x] = a[x*n+n-1-y]
			}
		}
		a = b
	}
	return a
}

// adam is the plain textbook optimiser in float64.
type adam struct {
	backend.Adam
	step int
	m, v map[string][]float64
}

func newAdam(a backend.Adam) *adam {
	return &adam{a, 0, map[string][]float64{}, map[string][]float64{}}
}

// update moves the named weights against their gradients.
func (a *adam) update(rate float64, weights, gradients map[string][]float64) {
	a.step++
	c1, c2 := 1-math.Pow(a.Beta1, float64(a.step)), 1-math.Pow(a.Beta2, float64(a.step))
	for name, g := range gradients {
		if a.m[name] == nil {
			a.m[name], a.v[name] = make([]float64, len(g)), make([]float64, len(g))
		}
		w, m, v := weights[name], a.m[name], a.v[name]
		for i, d := range g {
			m[i] = a.Beta1*m[i] + (1-a.Beta1)*d
			v[i] = a.Beta2*v[i] + (1-a.Beta2)*d*d
			w[i] -= rate * (m[i] / c1) / (math.Sqrt(v[i]/c2) + a.Epsilon)
		}
	}
}
