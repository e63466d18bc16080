package gorgonia

import (
	"fmt"
	"math"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend"
)

// adam is a gorgonia.Solver with PyTorch's update.
//
// gorgonia.AdamSolver computes the same formula, but keeps its moments and its
// step counter unexported and by position in the list of parameters: they can
// neither be saved nor restored, and a change of the frozen groups mixes them
// up. It also allocates six tensors per parameter and overwrites the gradient.
type adam struct {
	backend.Adam
	rate float64
	step int                      // from 1
	m, v map[string]*tensor.Dense // by parameter; all parameters have both
	exec *executor
}

var _ G.Solver = (*adam)(nil)

// trained is a parameter with its gradient, as a Solver takes it.
type trained struct {
	name        string
	value, grad G.Value
}

func (t trained) Name() string           { return t.name }
func (t trained) Value() G.Value         { return t.value }
func (t trained) Grad() (G.Value, error) { return t.grad, nil }

// corrected is the step's size and the root of the second moment's correction.
func (a *adam) corrected() (size, root2 float64) {
	return a.rate / (1 - math.Pow(a.Beta1, float64(a.step))), math.Sqrt(1 - math.Pow(a.Beta2, float64(a.step)))
}

// Step takes optimiser step number step at rate; the model consists of trained values.
func (a *adam) Step(model []G.ValueGrad) error {
	if a.exec.gpu != nil {
		for _, p := range model {
			t := p.(trained)
			if err := a.launch(a.exec.gpu, spanOf(t.value), spanOf(a.m[t.name]), spanOf(a.v[t.name]), spanOf(t.grad)); err != nil {
				return fmt.Errorf("parameter %q: %w", t.name, err)
			}
		}
		return nil
	}
	size64, root64 := a.corrected()
	size, root2 := float32(size64), float32(root64)
	b1, b2 := float32(1-a.Beta1), float32(1-a.Beta2)
	keep2, epsilon := float32(a.Beta2), float32(a.Epsilon)
	a.exec.workers.Run(len(model), func(_, i int) {
		t := model[i].(trained)
		w, g := t.value.Data().([]float32), t.grad.Data().([]float32)
		m, v := a.m[t.name].Data().([]float32)[:len(w)], a.v[t.name].Data().([]float32)[:len(w)]
		for j, d := range g[:len(w)] {
			m[j] += float32((d - m[j]) * b1)
			v[j] = float32(v[j]*keep2) + float32(float32(d*d)*b2)
			w[j] -= float32(size * (m[j] / (float32(math.Sqrt(float64(v[j])))/root2 + epsilon)))
		}
	})
	return nil
}
