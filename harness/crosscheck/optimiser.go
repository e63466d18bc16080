package crosscheck

import (
	"context"
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
)

// optimiser judges A's steps by Adam in float64 on A's own gradients and
// moments: with the study's ε and with one large enough that its place in the
// formula shows, at rates that change from call to call.
func (r *run) optimiser(ctx context.Context) error {
	for _, epsilon := range []float64{backend.DefaultAdam.Epsilon, 1e-3} {
		adam := backend.DefaultAdam
		adam.Epsilon = epsilon
		s, err := r.session(ctx, r.in.A.Backend, r.in.Options.Precision, adam)
		if err != nil {
			return fmt.Errorf("opening a session of A: %w", err)
		}
		err = r.adamSteps(ctx, s, adam)
		s.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) adamSteps(ctx context.Context, s backend.Session, adam backend.Adam) error {
	if err := s.SetState(ctx, r.start); err != nil {
		return fmt.Errorf("setting the state of A: %w", err)
	}
	before := &state{values: r.first.values}
	previous := 0.0
	for k, rate := range []float64{1e-3, 4e-4, 2e-3} {
		_, ts, err := s.Gradients(ctx, r.batch, nil)
		if err != nil {
			return fmt.Errorf("gradients of A: %w", err)
		}
		grads := byName(ts)
		scale := r.gradientScale(grads)
		after, err := r.step(ctx, s, rate, nil)
		if err != nil {
			return fmt.Errorf("a training step of A: %w", err)
		}
		if after.step != k+1 {
			c := r.add(Check{Stage: Optimiser, Place: "step count", A: Distance{Relative: math.Abs(float64(after.step - k - 1))}, Limit: 0})
			c.Note = fmt.Sprintf("the state says step %d after step %d", after.step, k+1)
		}
		for _, p := range r.g.Parameters() {
			r.adamStep(p.Name, adam, rate, previous, k+1, before, after, grads[p.Name], scale)
		}
		before, previous = after, rate
	}
	return nil
}

// adamStep judges one parameter's update. Values whose gradient is no more than
// rounding are left out: Adam turns it into a full step in either direction.
func (r *run) adamStep(name string, adam backend.Adam, rate, previous float64, step int, before, after *state, grad []float64, scale float64) {
	moment := func(prefix string, i int) float64 {
		if v := before.values[prefix+name]; v != nil {
			return v[i]
		}
		return 0
	}
	var got, want []float64
	update := func(i int, correct bool, eps func(v, c float64) float64) float64 {
		m := adam.Beta1*moment(backend.FirstMoment, i) + (1-adam.Beta1)*grad[i]
		v := adam.Beta2*moment(backend.SecondMoment, i) + (1-adam.Beta2)*grad[i]*grad[i]
		c1, c2 := 1-math.Pow(adam.Beta1, float64(step)), 1-math.Pow(adam.Beta2, float64(step))
		if !correct {
			c1, c2 = 1, 1
		}
		return -rate * (m / c1) / eps(v, c2)
	}
	standard := func(v, c float64) float64 { return math.Sqrt(v/c) + adam.Epsilon }
	var used []int
	for i := range grad {
		if math.Abs(grad[i]) < max(scale, rms(grad))*1e-2 {
			continue
		}
		used = append(used, i)
		got = append(got, after.values[name][i]-before.values[name][i])
		want = append(want, update(i, true, standard))
	}
	if len(used) == 0 {
		return
	}
	// The new weight is rounded to float32 once.
	var rounding float64
	for _, i := range used {
		rounding = max(rounding, spacing(math.Abs(after.values[name][i])))
	}
	limit := r.in.Options.LocalFloor*10 + rounding/rms(want)
	c := r.add(Check{Stage: Optimiser, Place: name, A: distance(got, want, 0), Limit: limit})
	if c.Pass {
		return
	}
	near := func(f func(i int) float64) bool {
		v := make([]float64, len(used))
		for k, i := range used {
			v[k] = f(i)
		}
		return distance(got, v, 0).Relative <= limit
	}
	c.Note = fmt.Sprintf("step %d at rate %g, ε %g", step, rate, adam.Epsilon)
	switch {
	case rms(got) == 0:
		c.Note += "; the weights did not move"
	case near(func(i int) float64 { return update(i, false, standard) }):
		c.Note += "; the moments were not corrected for their bias"
	case near(func(i int) float64 {
		return update(i, true, func(v, c float64) float64 { return math.Sqrt(v/c + adam.Epsilon) })
	}):
		c.Note += "; ε was added under the root"
	case near(func(i int) float64 {
		return update(i, true, func(v, c float64) float64 { return (math.Sqrt(v) + adam.Epsilon) / math.Sqrt(c) })
	}):
		c.Note += "; ε was added before the correction"
	case previous > 0 && near(func(i int) float64 { return update(i, true, standard) * previous / rate }):
		c.Note += fmt.Sprintf("; the rate was %g, that of the call before", previous)
	default:
		var num, den float64
		for k := range got {
			num += got[k] * want[k]
			den += want[k] * want[k]
		}
		if f := num / den; near(func(i int) float64 { return f * update(i, true, standard) }) {
			c.Note += fmt.Sprintf("; the step is %.4g times what it should be", f)
		}
	}
}
