package main

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// loops executes one network. The weights, statistics and moments are float64
// numbers that float32 holds exactly, so that a state loses nothing.
type loops struct {
	graph   *nn.Graph
	options engine.Options
	weights map[string][]float64 // of every tensor of the graph
	m, v    map[string][]float64 // Adam's moments of every parameter
	last    *pass                // whose gradients are kept
}

func single(v float64) float64 { return float64(float32(v)) }

// array is where an array is kept.
func (e *loops) array(k engine.Kind, name string) ([]float64, error) {
	var a []float64
	switch {
	case k == engine.Value:
		a = e.weights[name]
	case k == engine.FirstMoment:
		a = e.m[name]
	case k == engine.SecondMoment:
		a = e.v[name]
	case e.last != nil:
		a = e.last.gradient(name)
	}
	if a == nil {
		return nil, fmt.Errorf("tensor %q has no %v", name, k)
	}
	return a, nil
}

// Get implements engine.Engine.
func (e *loops) Get(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		a, err := e.array(k, t.Name)
		if err != nil {
			return err
		}
		fill(t.Tensor, a)
	}
	return nil
}

// Set implements engine.Engine.
func (e *loops) Set(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		a, err := e.array(k, t.Name)
		if err != nil {
			return err
		}
		copy(a, t.Float64s())
	}
	return nil
}

func fill(t backend.Tensor, data []float64) {
	for i, v := range data {
		t.F32[i] = float32(v)
	}
}

// Gradients implements engine.Engine. The gradients of frozen parameters are a
// by-product here: to leave them out is for an engine that is to be fast.
func (e *loops) Gradients(b engine.Batch, _ []bool, _ float64, statistics bool) (float64, error) {
	p, err := e.forward(b.Images, true)
	if err != nil {
		return 0, err
	}
	e.last = p
	if err := p.backward(b.Labels); err != nil {
		return 0, err
	}
	if statistics {
		p.moveStatistics()
	}
	loss := 0.0
	losses := p.losses(b.Labels)
	for _, l := range losses {
		loss += l / float64(len(losses))
	}
	return loss, nil
}

// Finite implements engine.Engine; it is asked in mixed precision only.
func (e *loops) Finite() (bool, error) { return true, nil }

// Adam implements engine.Engine.
func (e *loops) Adam(step int, learningRate, _ float64, frozen []bool) error {
	a := e.options.Adam
	c1, c2 := 1-math.Pow(a.Beta1, float64(step)), 1-math.Pow(a.Beta2, float64(step))
	for k, t := range e.graph.Parameters() {
		if frozen[k] {
			continue
		}
		w, m, v := e.weights[t.Name], e.m[t.Name], e.v[t.Name]
		for i, g := range e.last.gradient(t.Name) {
			m[i] = single(a.Beta1*m[i] + (1-a.Beta1)*g)
			v[i] = single(a.Beta2*v[i] + (1-a.Beta2)*g*g)
			w[i] = single(w[i] - learningRate*(m[i]/c1)/(math.Sqrt(v[i]/c2)+a.Epsilon))
		}
	}
	return nil
}

// Forward implements engine.Engine.
func (e *loops) Forward(b engine.Batch, out backend.Tensor) ([]float64, error) {
	p, err := e.forward(b.Images, false)
	if err != nil {
		return nil, err
	}
	fill(out, p.values[e.graph.Output.Name].data)
	if b.Labels == nil {
		return nil, nil
	}
	return p.losses(b.Labels), nil
}

// Activations implements engine.Engine.
func (e *loops) Activations(b engine.Batch, training bool, out []backend.NamedTensor) error {
	p, err := e.forward(b.Images, training)
	if err != nil {
		return err
	}
	for _, t := range out {
		fill(t.Tensor, p.values[t.Name].data)
	}
	return nil
}

// BatchSize implements engine.Engine: more images at once are not faster here.
func (e *loops) BatchSize(int, int) int { return 1 }

// Close implements engine.Engine; the garbage collector does the rest.
func (e *loops) Close() error { return nil }
