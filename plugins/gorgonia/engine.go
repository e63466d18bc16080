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
	x, err := newExecutor(o)
	if err != nil {
		return nil, err
	}
	e := &network{graph: g, options: o, exec: x, weights: map[string]*tensor.Dense{},
		adam: &adam{Adam: o.Adam, m: map[string]*tensor.Dense{}, v: map[string]*tensor.Dense{}, exec: x}}
	if err := x.do(e.allocate); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// allocate makes the device hold the network's arrays.
func (e *network) allocate() error {
	for _, t := range e.graph.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		if err := e.array(e.weights, t, t.Data); err != nil {
			return err
		}
		if t.Role == nn.Parameter {
			zeros := make([]float32, t.Len())
			if err := errors.Join(e.array(e.adam.m, t, zeros), e.array(e.adam.v, t, zeros)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (e *network) array(of map[string]*tensor.Dense, t *nn.Tensor, values []float32) error {
	a, err := e.exec.permanent(t.Shape...)
	if err == nil {
		of[t.Name] = a
		err = e.exec.set(a, values)
	}
	if err != nil {
		return fmt.Errorf("tensor %q: %w", t.Name, err)
	}
	return nil
}

// plan returns the compiled plan for a request. The values of the last one are
// gone then.
func (e *network) plan(r request) (*plan, error) {
	if e.last != nil {
		e.exec.arena.reclaim()
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
	if err = within(r.shape, e.needs(p), e.exec); err == nil {
		err = e.exec.do(p.prepare)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	e.plans = slices.Insert(e.plans, 0, &cached{key, p})
	if len(e.plans) > maxPlans {
		err = e.plans[maxPlans].plan.close()
		e.plans = e.plans[:maxPlans]
		// The memory lent to the plan's values may fit no other plan.
		err = errors.Join(err, e.exec.do(e.exec.arena.release))
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
	e.last = p
	return p, p.run(b)
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
	if err != nil {
		return 0, err
	}
	err = e.exec.do(func() error {
		if statistics {
			if err := p.commit(e.weights); err != nil {
				return err
			}
		}
		return e.exec.done()
	})
	return p.loss, err
}

// Finite implements engine.Engine; it is asked in mixed precision only.
func (e *network) Finite() (bool, error) { return true, nil }

// Adam implements engine.Engine. What is frozen has no gradient in the plan.
func (e *network) Adam(step int, learningRate, _ float64, _ []bool) error {
	p := e.last
	e.adam.step, e.adam.rate = step, learningRate
	model := make([]G.ValueGrad, len(p.grads))
	for i, n := range p.grads {
		model[i] = trained{p.parameters[i], e.weights[p.parameters[i]], n.Value()}
	}
	if err := e.exec.do(func() error { return e.adam.Step(model) }); err != nil {
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
	var losses func() []float64
	err = e.exec.do(func() (err error) {
		if err := e.exec.get(out.F32, p.value(r.targets[0])); err != nil {
			return err
		}
		if b.Labels != nil {
			if losses, err = p.imageLosses(r.targets[1], b); err != nil {
				return err
			}
		}
		return e.exec.done()
	})
	if err != nil || losses == nil {
		return nil, err
	}
	return losses(), e.exec.interrupted()
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
	return e.exec.do(func() error {
		for _, t := range out {
			if t.Name == e.graph.Input.Name {
				copy(t.F32, b.Images.F32)
			} else if err := e.exec.get(t.F32, p.value(t.Name)); err != nil {
				return err
			}
		}
		return e.exec.done()
	})
}

// BatchSize implements engine.Engine. A GPU wants work for all its multiprocessors.
func (e *network) BatchSize(h, w int) int {
	if e.exec.gpu != nil {
		return max(1, min(64, 1<<22/(h*w)))
	}
	return max(1, min(16, 1<<18/(h*w)))
}

// find is an array of the network's.
func (e *network) find(k engine.Kind, name string) (a *tensor.Dense, err error) {
	switch k {
	case engine.Value:
		a = e.weights[name]
	case engine.Gradient:
		if e.last != nil {
			if i := slices.Index(e.last.parameters, name); i >= 0 {
				a = e.last.grads[i].Value().(*tensor.Dense)
			}
		}
	case engine.FirstMoment:
		a = e.adam.m[name]
	case engine.SecondMoment:
		a = e.adam.v[name]
	}
	if a == nil {
		return nil, fmt.Errorf("tensor %q has no %v", name, k)
	}
	return a, nil
}

// Get implements engine.Engine.
func (e *network) Get(k engine.Kind, ts []backend.NamedTensor) error {
	return e.exec.do(func() error {
		for _, t := range ts {
			a, err := e.find(k, t.Name)
			if err == nil {
				err = e.exec.get(t.F32, a)
			}
			if err != nil {
				return err
			}
		}
		return e.exec.done()
	})
}

// Set implements engine.Engine.
func (e *network) Set(k engine.Kind, ts []backend.NamedTensor) error {
	return e.exec.do(func() error {
		for _, t := range ts {
			a, err := e.find(k, t.Name)
			if err == nil {
				err = e.exec.set(a, t.F32)
			}
			if err != nil {
				return err
			}
		}
		return e.exec.done()
	})
}

// Close implements engine.Engine.
func (e *network) Close() error {
	var errs []error
	for _, c := range e.plans {
		errs = append(errs, c.plan.close())
	}
	return errors.Join(append(errs, e.exec.close())...)
}
