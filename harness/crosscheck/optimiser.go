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
		s, err := r.session(ctx, r.in.A.Backend, r.in.Options.Device, r.in.Options.Precision, adam)
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
		grads, again, err := r.ownGradients(ctx, s, r.batch)
		if err != nil {
			return err
		}
		scale := r.gradientScale(grads)
		after, err := r.step(ctx, s, r.batch, rate, nil)
		if err != nil {
			return fmt.Errorf("a training step of A: %w", err)
		}
		if after.step != k+1 {
			c := r.add(Check{Stage: Optimiser, Place: "step count", Judged: Exactly, A: Distance{Relative: math.Abs(float64(after.step - k - 1))}, Limit: 0})
			c.Note = fmt.Sprintf("the state says step %d after step %d", after.step, k+1)
		}
		for _, p := range r.g.Parameters() {
			if c, ok := r.adamStep(p.Name, adam, rate, previous, k+1, before, after, grads[p.Name], again[p.Name], scale); ok {
				r.add(c)
			}
		}
		before, previous = after, rate
	}
	return nil
}

// ownGradients are A's gradients of a batch, and a second time where A does not
// claim that they are the same.
func (r *run) ownGradients(ctx context.Context, s backend.Session, b backend.Batch) (first, second map[string][]float64, err error) {
	var got [2]map[string][]float64
	for i := range got {
		if i > 0 && r.cert.A.Description.Determinism != backend.DeterminismNone {
			return got[0], got[0], nil
		}
		_, ts, err := s.Gradients(ctx, b, nil)
		if err != nil {
			return nil, nil, fmt.Errorf("gradients of A: %w", err)
		}
		got[i] = byName(ts)
	}
	return got[0], got[1], nil
}

// adamStep judges one parameter's update. Values whose gradient is no more than
// rounding are left out: Adam turns it into a full step in either direction.
func (r *run) adamStep(name string, adam backend.Adam, rate, previous float64, step int, before, after *state, grad, again []float64, scale float64) (Check, bool) {
	moment := func(prefix string, i int) float64 {
		if v := before.values[prefix+name]; v != nil {
			return v[i]
		}
		return 0
	}
	var got, want, bound []float64
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
	least := max(scale, rms(grad)) * 1e-2
	for i := range grad {
		if math.Abs(grad[i]) < least {
			continue
		}
		used = append(used, i)
		got = append(got, after.values[name][i]-before.values[name][i])
		want = append(want, update(i, true, standard))
		bound = append(bound, r.adamBound(adam, rate, step, moment(backend.FirstMoment, i), moment(backend.SecondMoment, i), grad[i], 2*math.Abs(grad[i]-again[i]), want[len(want)-1], after.values[name][i]))
	}
	if len(used) == 0 {
		return Check{}, false
	}
	c := Check{Stage: Optimiser, Place: name, A: distance(got, want, 0)}
	noise := make([]float64, len(bound)) // factors that are off are so for every value
	for k, b := range bound {
		noise[k] = b * b
	}
	c.bounded(got, want, bound, noise)
	if c.Share() <= 1 {
		return c, true
	}
	limit := 2 * c.Expected
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
	return c, true
}

// adamBound is the most that an update can be off by: its moments m and v before,
// the gradient g, which itself may be off, and the weight w after it.
func (r *run) adamBound(adam backend.Adam, rate float64, step int, m, v, g, off, update, w float64) float64 {
	u := r.arithmetic.unit
	// 1−β and 1−βᵗ may have been computed from β in the backend's precision.
	correction := func(beta float64) float64 {
		power := math.Pow(beta, float64(step))
		return u + float64(step+1)*u*power/(1-power)
	}
	newV := adam.Beta2*v + (1-adam.Beta2)*g*g
	boundM := 3*u*(math.Abs(adam.Beta1*m)+math.Abs((1-adam.Beta1)*g)) + u*math.Abs(g) + (1-adam.Beta1)*off
	relativeV := 4*u + (u*g*g+2*(1-adam.Beta2)*math.Abs(g)*off)/newV
	relative := (relativeV+correction(adam.Beta2))/2 + correction(adam.Beta1) + 8*u
	slope := rate / (1 - math.Pow(adam.Beta1, float64(step))) / (math.Sqrt(newV/(1-math.Pow(adam.Beta2, float64(step)))) + adam.Epsilon)
	return math.Abs(update)*relative + slope*boundM + u*math.Abs(w)
}
