package crosscheck

import (
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// network is the reference with a state's weights.
func (r *run) network(s *state) *reference.Network {
	net := reference.New(r.g, r.in.Loss)
	net.Attribute = r.arithmetic.attribute
	for name, v := range s.values {
		if a := net.Values[name]; a != nil && len(a.Data) == len(v) {
			a.Data = v
		}
	}
	return net
}

// prepareBounds says in the certificate why there are no bounds if the reference
// cannot run the network, or makes something else of the batch than the oracle: an
// attribute that it does not know.
func (r *run) prepareBounds(oracle map[string][]float64) {
	if work := r.referenceWork(); work > mostWork {
		r.cert.NoBounds = fmt.Sprintf("the reference would take %.2g multiply-adds, more than %.2g: take fewer or smaller images", work, mostWork)
		return
	}
	p, err := r.network(r.first).Forward(r.images, true)
	if err != nil {
		r.cert.NoBounds = err.Error()
		return
	}
	for _, n := range r.g.Nodes {
		v := n.Outputs[0]
		if d := distance(oracle[v], p.Values[v].Data, 0).Relative; !(d < 1e-6) {
			r.cert.NoBounds = fmt.Sprintf("node %q (%s): reference and oracle are %.1e apart", n.Name, n.Op, d)
			return
		}
	}
	r.bounds = true
}

// mostWork bounds the multiply-adds of the reference's passes, some minutes of its
// plain loops.
const mostWork = 1e12

// referenceWork is the multiply-adds of all passes that the bounds take.
func (r *run) referenceWork() float64 {
	h, w := r.images.Shape[2], r.images.Shape[3]
	shapes, err := r.g.Shapes([]int{1, r.images.Shape[1], h, w})
	if err != nil {
		return 0 // the pass says why
	}
	var sum float64
	for _, n := range r.g.Nodes {
		if n.Op == "Conv" {
			t := r.g.Tensor(n.Inputs[1])
			sum += float64(nn.Size(shapes[n.Outputs[0]])) * float64(t.Len()/t.Shape[0])
		}
	}
	return sum * float64(r.images.Shape[0]) * 3 * (samples + 4)
}

// within judges a node's output by what the node makes of A's own values.
func (r *run) within(c *Check, net *reference.Network, n *nn.Node, values map[string][]float64, shapes map[string][]int, training bool) error {
	in := make([]*reference.Array, len(n.Inputs))
	for i, name := range n.Inputs {
		switch v, ok := values[name]; {
		case ok:
			in[i] = &reference.Array{Shape: shapes[name], Data: v}
		case name == r.g.Input.Name:
			in[i] = r.images
		default:
			in[i] = net.Values[name]
		}
	}
	o, err := r.arithmetic.evaluate(net, n, in, shapes[n.Outputs[0]], training, true)
	if err != nil {
		return err
	}
	// A convolution that is added to something may be known by the sum alone.
	if sum := r.sumOf(n.Outputs[0]); sum != "" {
		a := r.arithmetic
		for i, v := range values[sum] {
			e := (a.unit + a.store) * math.Abs(v)
			o.bound[i] += e
			o.noise[i] += even(e)
		}
	}
	c.bounded(values[n.Outputs[0]], o.value.Data, o.bound, o.noise)
	return nil
}

// readAttributes finds out which of the two readings of a graph's numbers A has, by all
// normalisations of a pass.
func (r *run) readAttributes(now *state, values map[string][]float64, shapes map[string][]int, training bool) error {
	off := map[bool]float64{}
	for _, r.arithmetic.decimal = range []bool{true, false} {
		net := r.network(now)
		for _, n := range r.g.Nodes {
			if n.Op == "BatchNormalization" {
				var c Check
				if err := r.within(&c, net, n, values, shapes, training); err != nil {
					return err
				}
				off[r.arithmetic.decimal] += c.Local * c.Local
			}
		}
	}
	r.arithmetic.decimal = off[true] < off[false]
	return nil
}

// sumOf is what the only reader of a value, an Add, makes of it; "" if there is none.
func (r *run) sumOf(value string) string {
	sum, readers := "", 0
	for _, n := range r.g.Nodes {
		if slices.Contains(n.Inputs, value) {
			if readers++; n.Op == "Add" {
				sum = n.Outputs[0]
			}
		}
	}
	if readers != 1 {
		return ""
	}
	return sum
}

// bounded compares values with what they should be, within their bounds and the
// expected squares of their errors.
func (c *Check) bounded(got, want, bound, noise []float64) {
	c.Judged = ByBound
	var diff, size, expected float64
	for i, v := range want {
		d := math.Abs(got[i] - v)
		switch {
		case d == 0:
		case !(d <= math.MaxFloat64):
			c.Bound = math.Inf(1)
		default:
			c.Bound = max(c.Bound, d/bound[i]) // +Inf where nothing is allowed
		}
		diff, size, expected = diff+d*d, size+v*v, expected+noise[i]
	}
	if size == 0 {
		size = 1
	}
	c.Local = math.Sqrt(diff / size)
	c.Expected = math.Sqrt(expected / size)
	c.Limit = tail * c.Expected
	if c.Limit == 0 && c.Local > 0 {
		c.Bound = math.Inf(1)
	}
}
