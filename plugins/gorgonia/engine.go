package gorgonia

import (
	"errors"
	"fmt"
	"slices"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// maxPlans is how many compiled plans a network keeps. A training stage uses
// four: full and last batch, of training and of validation.
const maxPlans = 6

// network executes one graph. It implements engine.Engine.
type network struct {
	graph   *nn.Graph
	options engine.Options
	exec    *executor
	weights map[string]*tensor.Dense // parameters and statistics, shared by all plans
	adam    *adam
	plans   []*cached // most recently used first
	last    *plan     // whose values are readable, or nil
}

type cached struct {
	key  string
	plan *plan
}

// compile checks a graph and copies its weights to where they are trained.
func compile(g *nn.Graph, o engine.Options) (engine.Engine, error) {
	if err := checkGraph(g); err != nil {
		return nil, err
	}
	e := &network{
		graph: g, options: o,
		exec:    &executor{workers: kernel.NewWorkers(o.Threads, o.Stop), arena: newArena()},
		weights: map[string]*tensor.Dense{},
	}
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			e.weights[t.Name] = tensor.New(tensor.WithShape(t.Shape...), tensor.WithBacking(t.Data))
		}
	}
	e.adam = newAdam(o.Adam, g.Parameters(), e.exec.workers)
	return e, nil
}

// plan returns the compiled plan for a request. The values of the last one are
// gone then.
func (e *network) plan(r request) (*plan, error) {
	if e.last != nil {
		e.last.done()
		e.last = nil
	}
	key := fmt.Sprintf("%v", r)
	for i, c := range e.plans {
		if c.key == key {
			copy(e.plans[1:i+1], e.plans[:i])
			e.plans[0] = c
			return c.plan, nil
		}
	}
	p, err := newPlan(e.graph, e.exec, e.weights, r)
	if err != nil {
		return nil, err
	}
	if err := e.fits(p); err != nil {
		return nil, errors.Join(err, p.machine.Close())
	}
	e.plans = slices.Insert(e.plans, 0, &cached{key, p})
	if len(e.plans) > maxPlans {
		err = e.plans[maxPlans].plan.machine.Close()
		e.plans = e.plans[:maxPlans]
		// The memory lent to the plan's values may fit no other plan.
		e.exec.arena.release()
		e.exec.workers.Release()
	}
	return p, err
}

// run executes a request's plan on a batch. Its values are readable until the
// next one is asked for.
func (e *network) run(b engine.Batch, r request) (*plan, error) {
	r.shape = b.Images.Shape
	p, err := e.plan(r)
	if err != nil {
		return nil, err
	}
	copy(p.images.Data().([]float32), b.Images.F32)
	if p.labels != nil {
		numbers := p.labels.Data().([]float32)
		for i := range numbers {
			numbers[i] = float32(b.Labels[i])
		}
	}
	e.last = p
	return p, p.run()
}

// Gradients implements engine.Engine.
func (e *network) Gradients(b engine.Batch, frozen []bool, _ float64, statistics bool) (float64, error) {
	z, err := scored(e.graph, e.options.Loss)
	if err != nil {
		return 0, err
	}
	r := request{training: true, scored: z}
	for i, t := range e.graph.Parameters() {
		if g := nn.Group(t.Name); frozen[i] && !slices.Contains(r.frozen, g) {
			r.frozen = append(r.frozen, g)
		}
	}
	p, err := e.run(b, r)
	switch {
	case err != nil:
		return 0, err
	case statistics && e.exec.device != nil:
		err = e.exec.device.commit(p)
	case statistics:
		p.commit(e.weights)
	}
	return p.loss, err
}

// Finite implements engine.Engine; it is asked in mixed precision only.
func (e *network) Finite() (bool, error) { return true, nil }

// Adam implements engine.Engine. What is frozen has no gradient in the plan.
func (e *network) Adam(step int, learningRate, _ float64, _ []bool) error {
	p := e.last
	e.adam.step, e.adam.rate = step, learningRate
	if e.exec.device != nil {
		return e.exec.device.step(p, e.adam)
	}
	model := make([]G.ValueGrad, len(p.grads))
	for i, n := range p.grads {
		model[i] = trained{p.parameters[i], e.weights[p.parameters[i]], n.Value()}
	}
	if err := e.adam.Step(model); err != nil {
		return err
	}
	return e.exec.interrupted()
}

// Forward implements engine.Engine.
func (e *network) Forward(b engine.Batch, out backend.Tensor) ([]float64, error) {
	r := request{targets: []string{e.graph.Output.Name}}
	if b.Labels != nil {
		z, err := scored(e.graph, e.options.Loss)
		if err != nil {
			return nil, err
		}
		r.targets = append(r.targets, z)
	}
	p, err := e.run(b, r)
	if err != nil {
		return nil, err
	}
	if err := p.copyValue(out.F32, r.targets[0]); err != nil || b.Labels == nil {
		return nil, err
	}
	z, err := p.value(p.values[r.targets[1]])
	if err != nil {
		return nil, err
	}
	n, h, w := b.Size()
	losses := make([]float64, n)
	pixels, k := h*w, p.classes
	e.exec.workers.Run(n, func(_, i int) {
		losses[i] = imageLoss(z[i*k*pixels:][:k*pixels], b.Labels[i*pixels:][:pixels], k)
	})
	return losses, e.exec.interrupted()
}

// Activations implements engine.Engine.
func (e *network) Activations(b engine.Batch, training bool, out []backend.NamedTensor) error {
	var targets []string
	for _, t := range out {
		if t.Name != e.graph.Input.Name {
			targets = append(targets, t.Name)
		}
	}
	if targets == nil { // a plan needs one
		targets = []string{e.graph.Nodes[0].Outputs[0]}
	}
	slices.Sort(targets)
	p, err := e.run(b, request{training: training, targets: slices.Compact(targets)})
	if err != nil {
		return err
	}
	for _, t := range out {
		if t.Name == e.graph.Input.Name {
			copy(t.F32, b.Images.F32)
		} else if err := p.copyValue(t.F32, t.Name); err != nil {
			return err
		}
	}
	return nil
}

// BatchSize implements engine.Engine.
func (e *network) BatchSize(h, w int) int { return max(1, min(16, 1<<18/(h*w))) }

// array is where the processor keeps an array.
func (e *network) array(k engine.Kind, name string) (a []float32, err error) {
	switch k {
	case engine.Value:
		if w := e.weights[name]; w != nil {
			a = w.Data().([]float32)
		}
	case engine.Gradient:
		if n := e.gradient(name); n != nil {
			a, err = e.last.value(n)
		}
	case engine.FirstMoment:
		a = e.adam.m[name]
	case engine.SecondMoment:
		a = e.adam.v[name]
	}
	if a == nil && err == nil {
		err = noArray(k, name)
	}
	return a, err
}

func noArray(k engine.Kind, name string) error { return fmt.Errorf("tensor %q has no %v", name, k) }

// gradient is the node of a gradient that the last call of Gradients computed.
func (e *network) gradient(name string) *G.Node {
	if e.last == nil {
		return nil
	}
	if i := slices.Index(e.last.parameters, name); i >= 0 {
		return e.last.grads[i]
	}
	return nil
}

// Get implements engine.Engine.
func (e *network) Get(k engine.Kind, ts []backend.NamedTensor) error {
	if e.exec.device != nil {
		return e.exec.device.fetch(e, k, ts)
	}
	for _, t := range ts {
		a, err := e.array(k, t.Name)
		if err != nil {
			return err
		}
		copy(t.F32, a)
	}
	return nil
}

// Set implements engine.Engine.
func (e *network) Set(k engine.Kind, ts []backend.NamedTensor) error {
	if e.exec.device != nil {
		return e.exec.device.store(k, ts)
	}
	for _, t := range ts {
		a, err := e.array(k, t.Name)
		if err != nil {
			return err
		}
		copy(a, t.F32)
	}
	return nil
}

// Close implements engine.Engine.
func (e *network) Close() error {
	var errs []error
	for _, c := range e.plans {
		errs = append(errs, c.plan.machine.Close())
	}
	if e.exec.device != nil {
		errs = append(errs, e.exec.device.close())
	}
	return errors.Join(errs...)
}
