package crosscheck

import (
	"context"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
)

// samples is how many times the reference is disturbed to learn how large the errors
// of gradients are.
const samples = 16

// noiseTail is to samples what tail is to an expected square that is known: the
// largest of one normal number over the root mean square of 16 others, exceeded once
// in a million times (Student's t with 16 degrees of freedom).
const noiseTail = 7.64

// gradientNoise is, for every parameter, the relative distance of the gradient that
// roundings are expected to make on the way back through the network: the root mean
// square over passes of the reference in which every operation is disturbed by as
// much as it may round. What an error becomes in the layers that follow is not
// bounded from above, which after twenty layers would allow anything, but followed.
// p is the undisturbed pass.
func (r *run) gradientNoise(ctx context.Context, p *reference.Pass, scale float64) (map[string]float64, error) {
	d := r.disturbances(p)
	squares := map[string]float64{}
	var lock sync.Mutex
	var group sync.WaitGroup
	next := make(chan uint64)
	for range max(1, min(runtime.GOMAXPROCS(0), samples)) {
		group.Go(func() {
			for k := range next {
				got := r.disturbed(p, d, k)
				lock.Lock()
				for name, g := range got {
					e := distance(g, p.Gradients[name].Data, scale).Relative
					squares[name] += e * e / samples
				}
				lock.Unlock()
			}
		})
	}
	for k := range uint64(samples) {
		if ctx.Err() != nil {
			break
		}
		next <- k
	}
	close(next)
	group.Wait()
	for name, s := range squares {
		squares[name] = math.Sqrt(s)
	}
	return squares, ctx.Err()
}

// disturbances are the expected squares of the errors that the operations make in the
// gradients of values and of parameters, by name.
func (r *run) disturbances(p *reference.Pass) map[string][]float64 {
	d := map[string][]float64{}
	for i := len(r.g.Nodes) - 1; i >= 0; i-- {
		r.arithmetic.backward(r.g.Nodes[i], p, func(name string) []float64 {
			if d[name] == nil {
				d[name] = make([]float64, len(p.Values[name].Data))
			}
			return d[name]
		})
	}
	return d
}

// disturb adds errors of the expected squares.
func disturb(v, squares []float64, rng *rand.Rand) {
	for i, s := range squares {
		if s > 0 {
			v[i] += math.Sqrt(3*s) * (2*rng.Float64() - 1)
		}
	}
}

// disturbed is the parameters' gradients with errors.
func (r *run) disturbed(p *reference.Pass, d map[string][]float64, k uint64) map[string][]float64 {
	rng := random.Stream(0, "rounding", k)
	net := r.network(r.first)
	net.Propagated = func(n *nn.Node, gradient *reference.Array) {
		disturb(gradient.Data, d[n.Outputs[0]], rng)
	}
	if a := r.arithmetic; a.operand > 0 {
		net.Operand = func(v float64) float64 { return v + (2*rng.Float64()-1)*(a.operand*v+a.tiny) }
	}
	net.Second = func() bool { return rng.Uint64()&1 == 0 }
	p = &reference.Pass{Values: p.Values, Gradients: map[string]*reference.Array{}, Mean: p.Mean, Variance: p.Variance}
	net.LossOf(p, r.labels, true)
	out := map[string][]float64{}
	for _, t := range r.g.Parameters() {
		g := p.Gradient(t.Name).Data
		disturb(g, d[t.Name], rng)
		out[t.Name] = g
	}
	return out
}

// backward adds, to what at gives for a node's inputs, the expected squares of the
// errors that the node's own operations make in their gradients.
func (a arithmetic) backward(n *nn.Node, p *reference.Pass, at func(name string) []float64) {
	x, y, dy := p.Values[n.Inputs[0]], p.Values[n.Outputs[0]], p.Gradient(n.Outputs[0])
	kept := func(name string) {
		g := p.Gradient(name).Data
		to := at(name)
		for i, v := range g {
			to[i] += even(a.unit*v) + even(a.store*v)
		}
	}
	switch n.Op {
	case "Conv":
		w := p.Values[n.Inputs[1]]
		noisy := 1.0
		if transformed(n, w) {
			noisy = winogradNoise
		}
		dx, dw := make([]float64, len(x.Data)), make([]float64, len(w.Data)) // the node's own part of dx
		sx, sw := make([]float64, len(x.Data)), make([]float64, len(w.Data))
		reference.EachConv(n, x, w, y, func(wi, xi, step, yi, k int) {
			v := w.Data[wi]
			for i := range k {
				g, u := dy.Data[yi+i], x.Data[xi+i*step]
				dx[xi+i*step] += v * g
				sx[xi+i*step] += v * v * g * g
				dw[wi] += u * g
				sw[wi] += u * u * g * g
			}
		})
		strides := n.Attrs.Ints("strides", 1, 1)
		taps := w.Shape[2] * w.Shape[3]
		a.sums(at(n.Inputs[0]), dx, sx, max(1, w.Shape[0]*taps/int(strides[0]*strides[1])), noisy)
		a.sums(at(n.Inputs[1]), dw, sw, len(dy.Data)/dy.Shape[1], noisy)
		if len(n.Inputs) > 2 {
			a.channels(at(n.Inputs[2]), dy, func(_, i int) float64 { return dy.Data[i] })
		}
		if a.store > 0 {
			kept(n.Inputs[0])
		}
	case "BatchNormalization":
		of := a.moments(x)
		eps := a.attribute(n.Attrs.Float("epsilon", 1e-5))
		hat := func(c, i int) float64 { return (x.Data[i] - of[c].mean) / math.Sqrt(of[c].variance+eps) }
		scale, shift := p.Values[n.Inputs[1]].Data, p.Gradient(n.Inputs[2]).Data
		slope := p.Gradient(n.Inputs[1]).Data
		// Errors of the two sums, and of the standard deviation, which everything
		// is divided by.
		ds, db := make([]float64, len(of)), make([]float64, len(of))
		a.channels(ds, dy, func(c, i int) float64 { return dy.Data[i] * hat(c, i) })
		a.channels(db, dy, func(_, i int) float64 { return dy.Data[i] })
		add := func(to, from []float64) {
			for c, v := range from {
				to[c] += v
			}
		}
		to := at(n.Inputs[0])
		dx := p.Gradient(n.Inputs[0]).Data
		reference.EachPixel(dy, func(_, c, i int) {
			m, v := float64(of[c].count), of[c].variance+eps
			h := hat(c, i)
			size := math.Abs(dy.Data[i]) + math.Abs(shift[c]/m) + math.Abs(h*slope[c]/m)
			to[i] += scale[c]*scale[c]/v*((db[c]+h*h*ds[c])/m/m+4*even(a.unit)*size*size) +
				dx[i]*dx[i]*of[c].varianceNoise/(4*v*v)
		})
		for c := range ds {
			v := of[c].variance + eps
			ds[c] += slope[c] * slope[c] * of[c].varianceNoise / (4 * v * v)
			ds[c] += shift[c] * shift[c] * of[c].meanNoise / v
		}
		add(at(n.Inputs[1]), ds)
		add(at(n.Inputs[2]), db)
		if a.store > 0 {
			kept(n.Inputs[0])
		}
	case "Softmax":
		k, pixels := y.Shape[1], y.Shape[2]*y.Shape[3]
		to := at(n.Inputs[0])
		for i := range y.Shape[0] {
			for q := range pixels {
				size := 0.0
				for c := range k {
					j := (i*k+c)*pixels + q
					size += y.Data[j] * math.Abs(dy.Data[j])
				}
				for c := range k {
					j := (i*k+c)*pixels + q
					to[j] += even(8 * a.unit * y.Data[j] * (math.Abs(dy.Data[j]) + size))
				}
			}
		}
	case "Relu", "MaxPool":
	default:
		for _, name := range n.Inputs {
			if p.Gradients[name] != nil { // not the scales of a Resize
				kept(name)
			}
		}
	}
}

// sums adds the expected squares of the errors of sums of n products.
func (a arithmetic) sums(to, totals, squares []float64, n int, noisy float64) {
	for i, t := range totals {
		to[i] += even(a.unit) * (float64(n)/3*t*t + (float64(n)/6+1)*squares[i]*noisy)
	}
}

// channels adds those of sums over the pixels of every channel.
func (a arithmetic) channels(to []float64, of *reference.Array, f func(c, i int) float64) {
	totals, squares := make([]float64, len(to)), make([]float64, len(to))
	reference.EachPixel(of, func(_, c, i int) {
		v := f(c, i)
		totals[c] += v
		squares[c] += v * v
	})
	a.sums(to, totals, squares, len(of.Data)/len(to), 1)
}
