//go:build cuda

package gorgonia

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend/engine"
)

// deviceMachine is a gorgonia.VM that runs a graph on a device: it calls the
// operators' CUDADo in Gorgonia's order.
//
// Gorgonia's tape machine could, in principle. In v0.9.18 each one creates a
// CUDA context of its own (so that two plans cannot share weights), copies all
// weights to the device in every run, queues copies that operators calling
// cuDNN would overtake, never makes the channel that its device goroutine sends
// on, and cannot add two gradients, because the kernels of its "standard
// library" are not part of the module.
type deviceMachine struct {
	device   *device
	plan     *plan
	order    G.Nodes
	children map[*G.Node]G.Nodes
	values   map[*G.Node]G.Value
	own      []span // images, labels, statistics: the machine's until Close
	norms    []norm
	images   span
	labels   span
	imageIs  string
}

func (d *device) machine(b *builder, p *plan) (G.VM, error) {
	m := &deviceMachine{device: d, plan: p, children: map[*G.Node]G.Nodes{}, norms: b.norms, imageIs: b.net.Input.Name}
	sorted, err := G.Sort(b.graph)
	if err != nil {
		return nil, err
	}
	slices.Reverse(sorted) // Sort puts readers before what they read
	m.order = sorted
	for _, n := range sorted {
		if o := own(n); o != nil {
			m.children[n] = b.inputs[o]
			continue
		}
		for it := b.graph.From(n.ID()); it.Next(); {
			m.children[n] = append(m.children[n], it.Node().(*G.Node))
		}
		if n.Op() != nil && len(m.children[n]) > 0 && !isSum(n) {
			return nil, fmt.Errorf("operator %v has no implementation on the device", n.Op())
		}
	}
	return m, d.do(func() error {
		claim := func(t *tensor.Dense) (s span, err error) {
			if t == nil {
				return
			}
			if s, err = d.floats(t.Shape().TotalSize()); err == nil {
				m.own = append(m.own, s)
			}
			return
		}
		var err1, err2 error
		m.images, err1 = claim(p.images)
		m.labels, err2 = claim(p.labels)
		for _, n := range m.norms {
			s := &deviceStatistics{}
			for _, v := range []*span{&s.mean, &s.variance, &s.savedMean, &s.savedInverse} {
				var err error
				if *v, err = d.floats(len(n.batch.mean)); err != nil {
					return err
				}
				m.own = append(m.own, *v)
				// cuDNN blends the first two with their old values, weight 0 or not.
				if err := d.copyTo(*v, make([]float32, v.n)); err != nil {
					return err
				}
			}
			n.batch.device = s
		}
		return errors.Join(err1, err2)
	})
}

// isSum recognises Gorgonia's own addition of two tensors, with which it sums
// the gradients of a value that several operators read.
func isSum(n *G.Node) bool {
	return fmt.Sprintf("%T", n.Op()) == "gorgonia.elemBinOp" && strings.HasPrefix(fmt.Sprint(n.Op()), "+")
}

// span is the device memory of a value of the last run.
func (m *deviceMachine) span(n *G.Node) span { return spanOf(m.values[n]) }

func spanOf(v G.Value) span {
	if f, ok := v.(*G.F32); ok {
		return span{n: 1, scalar: float32(*f)}
	}
	return span{DevicePtr: pointerOf(v), n: v.Shape().TotalSize()}
}

func (m *deviceMachine) RunAll() error { return m.device.do(m.run) }

func (m *deviceMachine) run() error {
	d, p := m.device, m.plan
	d.last, m.values = m, map[*G.Node]G.Value{}
	if err := d.copyTo(m.images, p.images.Data().([]float32)); err != nil {
		return err
	}
	if p.labels != nil {
		if err := d.copyTo(m.labels, p.labels.Data().([]float32)); err != nil {
			return err
		}
	}
	for _, n := range m.order {
		if err := p.exec.interrupted(); err != nil {
			return err
		}
		v, err := m.node(n)
		if err != nil {
			return fmt.Errorf("%v: %w", n.Op(), err)
		}
		m.values[n] = v
		for _, c := range m.children[n] {
			d.used(m.values[c])
		}
	}
	return nil
}

func (m *deviceMachine) node(n *G.Node) (G.Value, error) {
	d := m.device
	inputs := make([]G.Value, len(m.children[n]))
	for i, c := range m.children[n] {
		inputs[i] = m.values[c]
	}
	switch o := n.Op().(type) {
	case nil: // an input
		switch name := n.Name(); name {
		case m.imageIs:
			return denseOf(n.Shape(), m.images.DevicePtr), nil
		case labelsName:
			return denseOf(n.Shape(), m.labels.DevicePtr), nil
		default:
			return denseOf(n.Shape(), d.arrays[engine.Value][name].DevicePtr), nil
		}
	case G.CUDADoer:
		if own(n) != nil {
			return o.CUDADo(d, G.Device(0), nil, inputs...)
		}
		// A sum of two gradients; of one with itself if there is one child.
		out, err := d.lend(n.Shape(), 0)
		if err != nil {
			return nil, err
		}
		s := spanOf(out)
		return out, d.launch("add", s.n, s, spanOf(inputs[0]), spanOf(inputs[len(inputs)-1]))
	default: // a constant
		return n.Value(), nil
	}
}

// lend allocates a value for a number of reads, or for the run if that is 0.
func (d *device) lend(shape tensor.Shape, uses int) (*tensor.Dense, error) {
	bytes := int64(shape.TotalSize()) * 4
	m, err := d.Get(G.Device(0), bytes)
	if err != nil {
		return nil, err
	}
	v := denseOf(shape, pointer(m))
	d.live[pointer(m)] = &deviceLoan{bytes, uses}
	return v, nil
}

// used notes that an operator has read v.
func (d *device) used(v G.Value) {
	l := d.live[pointerOf(v)]
	if l == nil || l.uses == 0 {
		return
	}
	if l.uses--; l.uses == 0 {
		delete(d.live, pointerOf(v))
		d.put(pointerOf(v), l.bytes)
	}
}

// Reset does nothing: values stay until the plan's user is done with them.
func (m *deviceMachine) Reset() {}

// Close gives the machine's memory back to the driver.
func (m *deviceMachine) Close() error {
	return m.device.do(func() error {
		for _, s := range m.own {
			m.device.put(s.DevicePtr, int64(s.n)*4)
		}
		m.own = nil
		return m.device.trim()
	})
}
