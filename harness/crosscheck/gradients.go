package crosscheck

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// gradients judges every parameter's gradient, from the output backwards.
func (r *run) gradients(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	var got [3]map[string][]float64
	for i, s := range r.sides() {
		_, ts, err := s.s.Gradients(ctx, r.batch, nil)
		if err != nil {
			return fmt.Errorf("gradients of %s: %w", s.name, err)
		}
		got[i] = byName(ts)
	}
	scale := r.gradientScale(got[2])
	rounding, err := r.rounding(ctx, r.first, func() (map[string][]float64, error) {
		_, ts, err := r.o.Gradients(ctx, r.batch, nil)
		return byName(ts), err
	}, got[2], scale)
	if err != nil {
		return err
	}
	var noise map[string]float64
	var own *reference.Pass
	if r.bounds {
		if own, err = r.ownPass(ctx); err != nil {
			return err
		}
		if noise, err = r.gradientNoise(ctx, own, scale); err != nil {
			return err
		}
	}
	check := func(name string, got0, exact, got1 []float64) Check {
		c := r.measured(Gradients, name, "", distance(got0, exact, scale), distance(got1, exact, scale), rounding[name], r.in.Options.GradientFloor)
		if noise != nil {
			c.Judged, c.Expected, c.Limit = ByNoise, noise[name], noiseTail*noise[name]
			c.Local = distance(got0, own.Gradients[name].Data, scale).Relative
		}
		return c
	}
	params := r.backward()
	good := "the output"
	for _, p := range params {
		o := got[2][p]
		c := r.add(check(p, got[0][p], o, got[1][p]))
		if c.Pass {
			good = p
		} else if c.Note == "" {
			c.Note = r.explainGradient(p, good, got[0][p], o)
		}
	}
	// Frozen groups must not change the gradients of the others.
	for _, frozen := range r.groups() {
		_, ts, err := r.a.Gradients(ctx, r.batch, []string{frozen})
		if err != nil {
			return fmt.Errorf("gradients of A with %s frozen: %w", frozen, err)
		}
		for name, v := range byName(ts) {
			c := r.add(check(name, v, got[2][name], got[1][name]))
			if c.Note = "with " + frozen + " frozen"; c.Pass {
				r.cert.Checks = r.cert.Checks[:len(r.cert.Checks)-1] // as before, no news
			}
		}
	}
	return nil
}

// ownPass propagates the gradient in float64 through the values that A computed: what
// rounding has blocked or passed at a Relu is then so for both.
func (r *run) ownPass(ctx context.Context) (*reference.Pass, error) {
	ts, err := r.a.Activations(ctx, r.batch, r.values(), true)
	if err != nil {
		return nil, fmt.Errorf("activations of A: %w", err)
	}
	outputs := map[string]*reference.Array{}
	for _, t := range ts {
		outputs[t.Name] = &reference.Array{Shape: t.Shape, Data: t.Float64s()}
	}
	net := r.network(r.first)
	p := net.Given(r.images, outputs)
	net.LossOf(p, r.labels, true)
	return p, nil
}

// gradientScale is the least root mean square that a gradient is compared
// relative to: some gradients are zero but for rounding, for example of what a
// normalisation cancels.
func (r *run) gradientScale(g map[string][]float64) float64 {
	var all []float64
	for _, p := range r.g.Parameters() {
		all = append(all, rms(g[p.Name]))
	}
	slices.Sort(all)
	return 1e-2 * all[len(all)/2]
}

// backward lists the parameters from the output to the input.
func (r *run) backward() []string {
	var names []string
	for i := len(r.g.Nodes) - 1; i >= 0; i-- {
		for k := len(r.g.Nodes[i].Inputs) - 1; k >= 0; k-- {
			if t := r.g.Tensor(r.g.Nodes[i].Inputs[k]); t != nil && t.Role == nn.Parameter {
				names = append(names, t.Name)
			}
		}
	}
	return names
}

// explainGradient says between which parameters the gradient went wrong, and
// through which nodes it flows there.
func (r *run) explainGradient(p, good string, got, want []float64) string {
	var nodes []string
	use := func(name string) int {
		for i, n := range r.g.Nodes {
			if slices.Contains(n.Inputs, name) {
				return i
			}
		}
		return len(r.g.Nodes)
	}
	for i := use(p) + 1; i < min(use(good)+1, len(r.g.Nodes)); i++ {
		nodes = append(nodes, r.g.Nodes[i].Name)
	}
	note := fmt.Sprintf("the gradient is right at %s and wrong here; between them lie %s", good, strings.Join(nodes, ", "))
	// A gradient also arrives from elsewhere, over a shortcut or a skip.
	for _, n := range r.g.Nodes {
		for _, in := range n.Inputs {
			if slices.Contains(nodes, r.producer(in)) && !slices.Contains(nodes, n.Name) && n.Name != r.g.Nodes[min(use(good), len(r.g.Nodes)-1)].Name {
				note += fmt.Sprintf(", and %s takes %s", n.Name, in)
			}
		}
	}
	if len(nodes) == 0 {
		note = fmt.Sprintf("the gradient is right at %s and wrong here", good)
	}
	if rms(got) == 0 && rms(want) > 0 {
		note = "it is zero; " + note
	}
	return note
}

// producer is the name of the node that makes a value, "" for none.
func (r *run) producer(value string) string {
	for _, n := range r.g.Nodes {
		if slices.Contains(n.Outputs, value) {
			return n.Name
		}
	}
	return ""
}
