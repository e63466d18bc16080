package crosscheck

import (
	"context"
	"fmt"

	"github.com/refocus-em/refocus/harness/backend"
)

func (r *run) forward(ctx context.Context) error {
	return r.compareActivations(ctx, Forward, true, r.first)
}

// inference judges inference mode with statistics that one of the oracle's steps
// has moved.
func (r *run) inference(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	moved, err := r.step(ctx, r.o, r.batch, r.in.Options.LearningRate, nil)
	if err != nil {
		return fmt.Errorf("a training step of the oracle: %w", err)
	}
	b, err := encodeWeights(r.g, moved)
	if err != nil {
		return err
	}
	if err := r.reset(ctx, b); err != nil {
		return err
	}
	rounded, err := decodeState(b)
	if err != nil {
		return err
	}
	return r.compareActivations(ctx, Inference, false, rounded)
}

// compareActivations judges every node's output, in the graph's order, given
// the states that the three sessions have.
func (r *run) compareActivations(ctx context.Context, stage string, training bool, now *state) error {
	names := r.values()
	var got [3]map[string][]float64
	shapes := map[string][]int{}
	for i, s := range r.sides() {
		ts, err := s.s.Activations(ctx, r.batch, names, training)
		if err != nil {
			return fmt.Errorf("activations of %s: %w", s.name, err)
		}
		got[i] = byName(ts)
		for _, t := range ts {
			shapes[t.Name] = t.Shape
		}
	}
	if training {
		r.prepareBounds(got[2])
	}
	rounding, err := r.rounding(ctx, now, func() (map[string][]float64, error) {
		ts, err := r.o.Activations(ctx, r.batch, names, training)
		return byName(ts), err
	}, got[2], 0)
	if err != nil {
		return err
	}
	if training && r.bounds && r.in.Options.Precision == backend.Float64 {
		if err := r.readAttributes(now, got[0], shapes, training); err != nil {
			return err
		}
	}
	net := r.network(now)
	for _, n := range r.g.Nodes {
		v := n.Outputs[0]
		o := got[2][v]
		c := r.measured(stage, n.Name, n.Op, distance(got[0][v], o, 0), distance(got[1][v], o, 0), rounding[v], r.in.Options.ForwardFloor)
		if r.bounds {
			if err := r.within(&c, net, n, got[0], shapes, training); err != nil {
				return err
			}
		}
		r.add(c)
	}
	if training {
		return r.compareLoss(ctx, got[0][r.g.Output.Name])
	}
	return nil
}

// values are the outputs of all nodes, in order.
func (r *run) values() []string {
	var names []string
	for _, n := range r.g.Nodes {
		names = append(names, n.Outputs[0])
	}
	return names
}
