package gorgonia

import (
	"math"

	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// adam is a gorgonia.Solver with PyTorch's update.
//
// gorgonia.AdamSolver computes the same formula, but keeps its moments and its
// step counter unexported and by position in the list of parameters: they can
// neither be saved nor restored, and a change of the frozen groups mixes them
// up. It also allocates six tensors per parameter and overwrites the gradient.
type adam struct {
	backend.Adam
	rate    float64
	step    int                  // from 1
	m, v    map[string][]float32 // by parameter; all parameters have both
	workers *kernel.Workers
}

func newAdam(constants backend.Adam, parameters []*nn.Tensor, w *kernel.Workers) *adam {
	a := &adam{Adam: constants, m: map[string][]float32{}, v: map[string][]float32{}, workers: w}
	for _, t := range parameters {
		a.m[t.Name], a.v[t.Name] = make([]float32, t.Len()), make([]float32, t.Len())
	}
	return a
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
	size64, root64 := a.corrected()
	size, root2 := float32(size64), float32(root64)
	b1, b2 := float32(1-a.Beta1), float32(1-a.Beta2)
	keep2, epsilon := float32(a.Beta2), float32(a.Epsilon)
	a.workers.Run(len(model), func(_, i int) {
		t := model[i].(trained)
		w, g := t.value.Data().([]float32), t.grad.Data().([]float32)
		m, v := a.m[t.name][:len(w)], a.v[t.name][:len(w)]
		for j, d := range g[:len(w)] {
			m[j] += float32((d - m[j]) * b1)
			v[j] = float32(v[j]*keep2) + float32(float32(d*d)*b2)
			w[j] -= float32(size * (m[j] / (float32(math.Sqrt(float64(v[j])))/root2 + epsilon)))
		}
	})
	return nil
}
