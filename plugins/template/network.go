package main

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// array is a tensor [N,C,H,W].
type array struct {
	shape []int
	data  []float64
}

func newArray(shape []int) *array {
	return &array{shape, make([]float64, nn.Size(shape))}
}

// pass is one run through the network, kept for the way back.
type pass struct {
	e              *loops
	values         map[string]*array
	gradients      map[string][]float64 // of values, and of parameters
	mean, variance map[string][]float64 // of each normalisation's batch
}

// forward runs the network. In training mode normalisations use the batch's
// statistics; they do not move the running ones, which only a step does.
func (e *loops) forward(images backend.Tensor, training bool) (*pass, error) {
	shapes, err := e.graph.Shapes(images.Shape)
	if err != nil {
		return nil, err
	}
	p := &pass{e, map[string]*array{e.graph.Input.Name: {images.Shape, images.Float64s()}}, map[string][]float64{}, map[string][]float64{}, map[string][]float64{}}
	for _, n := range e.graph.Nodes {
		if e.options.Stopped() {
			return nil, engine.ErrInterrupted
		}
		x, y := p.values[n.Inputs[0]], newArray(shapes[n.Outputs[0]])
		switch n.Op {
		case "Conv":
			w := e.weights[n.Inputs[1]]
			if len(n.Inputs) > 2 {
				b := e.weights[n.Inputs[2]]
				each(y, func(c, i int) { y.data[i] = b[c] })
			}
			e.products(n, x, y, func(wi, xi, step, yi, count int) {
				for i := range count {
					y.data[yi+i] += w[wi] * x.data[xi+i*step]
				}
			})
		case "BatchNormalization":
			mean, variance := e.weights[n.Inputs[3]], e.weights[n.Inputs[4]]
			if training {
				mean, variance = moments(x)
				p.mean[n.Name], p.variance[n.Name] = mean, variance
			}
			scale, shift := e.weights[n.Inputs[1]], e.weights[n.Inputs[2]]
			each(x, func(c, i int) {
				y.data[i] = (x.data[i]-mean[c])/math.Sqrt(variance[c]+epsilon(n))*scale[c] + shift[c]
			})
		case "Relu":
			for i, v := range x.data {
				y.data[i] = max(v, 0)
			}
		case "MaxPool":
			largest(n, x, y, func(xi, yi int) { y.data[yi] = x.data[xi] })
		case "Resize":
			enlarge(x, y, func(xi, yi int) { y.data[yi] = x.data[xi] })
		case "Concat":
			p.parts(n, y, func(part string, xi, yi int) { y.data[yi] = p.values[part].data[xi] })
		case "Add":
			z := p.values[n.Inputs[1]]
			if !slices.Equal(x.shape, z.shape) {
				return nil, fmt.Errorf("node %q (Add): operands of shapes %v and %v: %w", n.Name, x.shape, z.shape, backend.ErrUnsupported)
			}
			for i, v := range z.data {
				y.data[i] = x.data[i] + v
			}
		case "Softmax":
			pixels, k := y.shape[2]*y.shape[3], y.shape[1]
			for first := range len(y.data) / k {
				first = first/pixels*pixels*k + first%pixels
				top, sum := math.Inf(-1), 0.0
				for c := range k {
					top = max(top, x.data[first+c*pixels])
				}
				for c := range k {
					e := math.Exp(x.data[first+c*pixels] - top)
					y.data[first+c*pixels] = e
					sum += e
				}
				for c := range k {
					y.data[first+c*pixels] /= sum
				}
			}
		}
		p.values[n.Outputs[0]] = y
	}
	return p, nil
}

// losses is the study's loss of each image: the cross entropy of the
// probabilities taken as logits, mean over pixels.
func (p *pass) losses(labels []uint8) []float64 {
	z := p.values[p.e.graph.Output.Name]
	k, pixels := z.shape[1], z.shape[2]*z.shape[3]
	out := make([]float64, z.shape[0])
	for i, label := range labels {
		first := i/pixels*pixels*k + i%pixels
		sum := 0.0
		for c := range k {
			sum += math.Exp(z.data[first+c*pixels])
		}
		out[i/pixels] += (math.Log(sum) - z.data[first+int(label)*pixels]) / float64(pixels)
	}
	return out
}

// backward finds the gradient of the mean loss for every parameter, in
// training mode.
func (p *pass) backward(labels []uint8) error {
	e := p.e
	z := p.values[e.graph.Output.Name]
	k, pixels := z.shape[1], z.shape[2]*z.shape[3]
	dz := p.gradient(e.graph.Output.Name)
	for i, label := range labels {
		first := i/pixels*pixels*k + i%pixels
		sum := 0.0
		for c := range k {
			sum += math.Exp(z.data[first+c*pixels])
		}
		for c := range k {
			dz[first+c*pixels] = math.Exp(z.data[first+c*pixels]) / sum / float64(len(labels))
		}
		dz[first+int(label)*pixels] -= 1 / float64(len(labels))
	}
	for i := len(e.graph.Nodes) - 1; i >= 0; i-- {
		if e.options.Stopped() {
			return engine.ErrInterrupted
		}
		n := e.graph.Nodes[i]
		x, y := p.values[n.Inputs[0]], p.values[n.Outputs[0]]
		dx, dy := p.gradient(n.Inputs[0]), p.gradient(n.Outputs[0])
		switch n.Op {
		case "Conv":
			w, dw := e.weights[n.Inputs[1]], p.gradient(n.Inputs[1])
			e.products(n, x, y, func(wi, xi, step, yi, count int) {
				for i := range count {
					dx[xi+i*step] += w[wi] * dy[yi+i]
					dw[wi] += x.data[xi+i*step] * dy[yi+i]
				}
			})
			if len(n.Inputs) > 2 {
				db := p.gradient(n.Inputs[2])
				each(y, func(c, i int) { db[c] += dy[i] })
			}
		case "BatchNormalization":
			mean, variance := p.mean[n.Name], p.variance[n.Name]
			scale, dscale, dshift := e.weights[n.Inputs[1]], p.gradient(n.Inputs[1]), p.gradient(n.Inputs[2])
			each(x, func(c, i int) {
				dscale[c] += dy[i] * (x.data[i] - mean[c]) / math.Sqrt(variance[c]+epsilon(n))
				dshift[c] += dy[i]
			})
			count := float64(len(x.data) / x.shape[1])
			each(x, func(c, i int) {
				spread := math.Sqrt(variance[c] + epsilon(n))
				dx[i] += scale[c] / spread * (dy[i] - dshift[c]/count - (x.data[i]-mean[c])/spread*dscale[c]/count)
			})
		case "Relu":
			for i, v := range x.data {
				if v > 0 {
					dx[i] += dy[i]
				}
			}
		case "MaxPool":
			largest(n, x, y, func(xi, yi int) { dx[xi] += dy[yi] })
		case "Resize":
			enlarge(x, y, func(xi, yi int) { dx[xi] += dy[yi] })
		case "Concat":
			p.parts(n, y, func(part string, xi, yi int) { p.gradient(part)[xi] += dy[yi] })
		case "Add":
			other := p.gradient(n.Inputs[1])
			for i, d := range dy {
				dx[i] += d
				other[i] += d
			}
		case "Softmax":
			for first := range len(y.data) / k {
				first = first/pixels*pixels*k + first%pixels
				dot := 0.0
				for c := range k {
					dot += y.data[first+c*pixels] * dy[first+c*pixels]
				}
				for c := range k {
					dx[first+c*pixels] += y.data[first+c*pixels] * (dy[first+c*pixels] - dot)
				}
			}
		}
	}
	return nil
}

// moveStatistics blends the batch's statistics into the running ones, those of
// frozen groups too. ONNX's momentum 0.9 is PyTorch's 0.1.
func (p *pass) moveStatistics() {
	for _, n := range p.e.graph.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		keep := float64(n.Attrs.Float("momentum", 0.9))
		x := p.values[n.Inputs[0]]
		count := float64(len(x.data) / x.shape[1])
		mean, variance := p.e.weights[n.Inputs[3]], p.e.weights[n.Inputs[4]]
		for c := range mean {
			mean[c] = single(keep*mean[c] + (1-keep)*p.mean[n.Name][c])
			variance[c] = single(keep*variance[c] + (1-keep)*p.variance[n.Name][c]*count/(count-1))
		}
	}
}

// gradient is where the gradient of a value or a parameter is summed up.
func (p *pass) gradient(name string) []float64 {
	if p.gradients[name] == nil {
		n := len(p.e.weights[name])
		if v := p.values[name]; v != nil {
			n = len(v.data)
		}
		p.gradients[name] = make([]float64, n)
	}
	return p.gradients[name]
}

func epsilon(n *nn.Node) float64 { return float64(n.Attrs.Float("epsilon", 1e-5)) }

// each visits all elements with their channel.
func each(a *array, f func(c, i int)) {
	pixels := a.shape[2] * a.shape[3]
	for i := range a.data {
		f(i/pixels%a.shape[1], i)
	}
}

func moments(x *array) (mean, variance []float64) {
	mean, variance = make([]float64, x.shape[1]), make([]float64, x.shape[1])
	count := float64(len(x.data) / x.shape[1])
	each(x, func(c, i int) { mean[c] += x.data[i] / count })
	each(x, func(c, i int) { variance[c] += (x.data[i] - mean[c]) * (x.data[i] - mean[c]) / count })
	return mean, variance
}

// products visits all products of a convolution, in rows: outputs yi to
// yi+count−1 take weight wi times the inputs xi, xi+step, ….
func (e *loops) products(n *nn.Node, x, y *array, f func(wi, xi, step, yi, count int)) {
	w := e.graph.Tensor(n.Inputs[1]).Shape
	stride, pad := n.Attrs.Ints("strides", 1, 1), n.Attrs.Ints("pads", 0, 0, 0, 0)
	for wi := range w[0] * w[1] * w[2] * w[3] {
		kx, ky, c, k := wi%w[3], wi/w[3]%w[2], wi/w[3]/w[2]%w[1], wi/w[3]/w[2]/w[1]
		// Output columns first to end−1 see input columns inside the image.
		first := max(0, (pad[1]-kx+stride[1]-1)/stride[1])
		end := min(y.shape[3], (x.shape[3]-1+pad[1]-kx)/stride[1]+1)
		if first >= end {
			continue
		}
		for row := range y.shape[0] * y.shape[2] {
			b, oy := row/y.shape[2], row%y.shape[2]
			iy := oy*stride[0] - pad[0] + ky
			if iy < 0 || iy >= x.shape[2] {
				continue
			}
			xi := ((b*x.shape[1]+c)*x.shape[2]+iy)*x.shape[3] + first*stride[1] - pad[1] + kx
			yi := ((b*y.shape[1]+k)*y.shape[2]+oy)*y.shape[3] + first
			f(wi, xi, stride[1], yi, end-first)
		}
	}
}

// largest visits each window's first largest element.
func largest(n *nn.Node, x, y *array, f func(xi, yi int)) {
	kernel, stride := n.Attrs.Ints("kernel_shape"), n.Attrs.Ints("strides", 1, 1)
	for yi := range y.data {
		ox, oy, plane := yi%y.shape[3], yi/y.shape[3]%y.shape[2], yi/y.shape[3]/y.shape[2]
		best := -1
		for ky := range kernel[0] {
			for kx := range kernel[1] {
				xi := (plane*x.shape[2]+oy*stride[0]+ky)*x.shape[3] + ox*stride[1] + kx
				if best < 0 || x.data[xi] > x.data[best] {
					best = xi
				}
			}
		}
		f(best, yi)
	}
}

// enlarge visits each element of an enlarged image with the one it repeats.
func enlarge(x, y *array, f func(xi, yi int)) {
	sy, sx := y.shape[2]/x.shape[2], y.shape[3]/x.shape[3]
	for yi := range y.data {
		ox, oy, plane := yi%y.shape[3], yi/y.shape[3]%y.shape[2], yi/y.shape[3]/y.shape[2]
		f((plane*x.shape[2]+oy/sy)*x.shape[3]+ox/sx, yi)
	}
}

// parts visits each element of a concatenation with the one it came from.
func (p *pass) parts(n *nn.Node, y *array, f func(part string, xi, yi int)) {
	pixels, first := y.shape[2]*y.shape[3], 0
	for _, part := range n.Inputs {
		x := p.values[part]
		size := x.shape[1] * pixels
		for xi := range x.data {
			f(part, xi, xi/size*y.shape[1]*pixels+first*pixels+xi%size)
		}
		first += x.shape[1]
	}
}
