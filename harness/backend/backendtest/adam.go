package backendtest

import (
	"math"

	"github.com/refocus-em/refocus/harness/backend"
)

// adam is the plain textbook optimiser in float64.
type adam struct {
	backend.Adam
	step int
	m, v map[string][]float64
}

func newAdam(a backend.Adam) *adam {
	return &adam{a, 0, map[string][]float64{}, map[string][]float64{}}
}

// update moves the named weights against their gradients.
func (a *adam) update(rate float64, weights, gradients map[string][]float64) {
	a.step++
	c1, c2 := 1-math.Pow(a.Beta1, float64(a.step)), 1-math.Pow(a.Beta2, float64(a.step))
	for name, g := range gradients {
		if a.m[name] == nil {
			a.m[name], a.v[name] = make([]float64, len(g)), make([]float64, len(g))
		}
		w, m, v := weights[name], a.m[name], a.v[name]
		for i, d := range g {
			m[i] = a.Beta1*m[i] + (1-a.Beta1)*d
			v[i] = a.Beta2*v[i] + (1-a.Beta2)*d*d
			w[i] -= rate * (m[i] / c1) / (math.Sqrt(v[i]/c2) + a.Epsilon)
		}
	}
}
