package crosscheck

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/random"
)

// Trials say how training is compared as a whole; zero values take the defaults.
type Trials struct {
	Seeds  int `json:"seeds"`  // pairs of trainings, default 20
	Epochs int `json:"epochs"` // that Options.Steps are divided into, default 8
	// Margin is how far the mean of a measure may be off, in standard deviations of
	// the reference over seeds: what moves it by less matters less than the choice
	// of a seed. Default 1.
	Margin float64 `json:"margin"`
	// Risk is the greatest probability with which a backend passes that is off by
	// the margin or more in any measure, and with which one is said to differ that
	// is off by less in all. Default 0.01.
	Risk float64 `json:"risk"`
}

func (t Trials) withDefaults() Trials {
	t.Seeds, t.Epochs = cmp.Or(t.Seeds, 20), cmp.Or(t.Epochs, 8)
	t.Margin, t.Risk = cmp.Or(t.Margin, 1), cmp.Or(t.Risk, 0.01)
	return t
}

// options are those of trainings.
func (t Trials) options(o Options) Options {
	o.Steps = cmp.Or(o.Steps, trainingSteps)
	return o
}

// Check returns an error if trainings of so many steps, 0 for the default, cannot be
// compared so.
func (t Trials) Check(steps int) error {
	t, steps = t.withDefaults(), t.options(Options{Steps: steps}).Steps
	switch {
	case t.Seeds < 4:
		return fmt.Errorf("%d seeds: fewer than 4 say nothing of a spread", t.Seeds)
	case t.Epochs < 2 || steps < 2*t.Epochs:
		return fmt.Errorf("%d steps in %d epochs: there must be two epochs of two steps at least", steps, t.Epochs)
	case !(t.Margin > 0):
		return fmt.Errorf("margin %g: must be above 0", t.Margin)
	case !(t.Risk > 0 && t.Risk < 0.5):
		return fmt.Errorf("risk %g: must lie between 0 and 0.5", t.Risk)
	}
	return nil
}

// Convergence is the comparison of many pairs of short trainings.
type Convergence struct {
	Trials
	// Target is the training loss, a mean of smoothing steps, that the steps to it
	// are counted to.
	Target   float64   `json:"target"`
	Measures []Measure `json:"measures"`
}

// Measure is one number that a training gives, in pairs of the same initial weights
// and batches.
type Measure struct {
	Name string    `json:"name"`
	A    []float64 `json:"a"` // by seed
	B    []float64 `json:"b"`
	// MeanA and MeanB are over the seeds, Spread is the standard deviation of B.
	MeanA  float64 `json:"mean_a"`
	MeanB  float64 `json:"mean_b"`
	Spread float64 `json:"spread"`
	// Difference is the mean of A − B, Low and High are its two confidence limits,
	// each of which is missed with the probability Trials.Risk.
	Difference float64 `json:"difference"`
	Low        float64 `json:"low"`
	High       float64 `json:"high"`
	// Margin is Trials.Margin times Spread: of these seeds, and given as it is, the
	// probabilities are those told.
	Margin float64 `json:"margin"`
	// FalseAlarm is the probability with which a backend that differs by nothing but
	// the scatter found here would not pass, and Needed the seeds that would make it
	// Trials.Risk at most.
	FalseAlarm float64 `json:"false_alarm"`
	Needed     int     `json:"needed"`
	// Differs says that the difference is beyond the margin, where it does not only
	// fail to lie within.
	Differs bool `json:"differs"`
}

// trainingSteps are what Options.Steps is by default for Converge.
const trainingSteps = 64

// smoothing is the number of steps that a training loss is the mean of.
const smoothing = 8

// Names of measures of where a training's state ends.
const (
	firstStep = "length of the first step of an epoch"
	moved     = "distance that the weights have moved"
	shrunk    = "shrinkage of the initial weights"
	means     = "root mean square of the running means"
	variances = "logarithm of the mean running variance"
)

// decay is what the learning rate falls by after every epoch: a rate that comes late
// shows.
const decay = 0.8

// training is what is kept of one.
type training struct {
	losses     []float64 // of every step
	validation []float64 // after every epoch
	first      float64   // length of an epoch's first step at a rate of 1, mean over epochs but the first
	moved      float64   // distance of the weights from where they began
	shrunk     float64   // part of the initial weights that is gone in their own direction
	means      float64   // root mean square of the running means
	variances  float64   // logarithm of the mean running variance
}

// Converge compares two backends by many short trainings each, from the same weights
// and with the same batches: for those whose precisions differ so much that no step
// agrees. Between epochs a training goes on in another session from the state of the
// one before. An error means that the comparison could not be made.
func Converge(ctx context.Context, in Input, t Trials, meter progress.Meter) (*Certificate, error) {
	if err := t.Check(in.Options.Steps); err != nil {
		return nil, err
	}
	t, in.Options = t.withDefaults(), t.options(in.Options)
	r, err := newRun(in)
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	meter = progress.Or(meter)
	meter.Begin("training", "pairs", float64(t.Seeds))
	defer meter.End()
	var of [2][]training
	for seed := range t.Seeds {
		for i := range of {
			x, err := r.train(ctx, i, t, uint64(seed))
			if err != nil {
				return nil, fmt.Errorf("training %s with seed %d: %w", r.sides()[i].name, seed, err)
			}
			of[i] = append(of[i], x)
		}
		meter.Add(1)
	}
	r.cert.Convergence = compareTrainings(of[0], of[1], t)
	r.judgeConvergence()
	if err := r.time(ctx); err != nil {
		return nil, err
	}
	r.verdict()
	return r.cert, nil
}

// train runs one training of A (0) or of B (1).
func (r *run) train(ctx context.Context, side int, t Trials, seed uint64) (training, error) {
	g := r.g.Clone()
	g.Initialize(convergenceSeed, seed)
	first := initial(g)
	now, err := encodeWeights(g, first)
	if err != nil {
		return training{}, err
	}
	var x training
	steps, rate := r.in.Options.Steps, r.in.Options.LearningRate
	batches := r.shuffled(steps, seed)
	for k := range t.Epochs {
		if now, err = r.epoch(ctx, side, &x, now, batches[k*steps/t.Epochs:(k+1)*steps/t.Epochs], rate); err != nil {
			return training{}, fmt.Errorf("epoch %d: %w", k+1, err)
		}
		rate *= decay
	}
	if _, err = r.epoch(ctx, side, &x, now, nil, 0); err != nil {
		return training{}, fmt.Errorf("after the last epoch: %w", err)
	}
	last, err := decodeState(now)
	if err != nil {
		return training{}, err
	}
	x.first /= float64(t.Epochs - 1)
	x.moved = r.distance(first, last)
	var along, length, channels float64
	for _, p := range g.Parameters() {
		for i, w := range first.values[p.Name] {
			along += (last.values[p.Name][i] - w) * w
			length += w * w
		}
	}
	x.shrunk = -along / length
	for _, n := range g.Nodes {
		if n.Op == "BatchNormalization" {
			for i, v := range last.values[n.Inputs[3]] {
				x.means += v * v
				x.variances += last.values[n.Inputs[4]][i]
				channels++
			}
		}
	}
	if channels > 0 {
		x.means, x.variances = math.Sqrt(x.means/channels), math.Log(x.variances/channels)
	}
	return x, nil
}

// epoch goes on from a state in a session of its own, and returns the state after the
// batches. What was restored is what is validated, too.
func (r *run) epoch(ctx context.Context, side int, x *training, now []byte, batches []backend.Batch, rate float64) ([]byte, error) {
	of, device, precision := r.in.A.Backend, r.in.Options.Device, r.in.Options.Precision
	if side == 1 {
		of, device, precision = r.in.B.Backend, "", backend.Float32
	}
	s, err := r.session(ctx, of, device, precision, backend.DefaultAdam)
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	defer s.Close()
	if err := s.SetState(ctx, now); err != nil {
		return nil, fmt.Errorf("setting the state: %w", err)
	}
	restored := len(x.losses) > 0
	if restored {
		e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationSet})
		if err != nil {
			return nil, fmt.Errorf("validating: %w", err)
		}
		x.validation = append(x.validation, e.MeanLoss())
	}
	steps := func(batches []backend.Batch) ([]byte, error) {
		err := s.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: rate}, func(st backend.Step) error {
			x.losses = append(x.losses, st.Loss)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", len(x.losses)+1, err)
		}
		return s.State(ctx)
	}
	if len(batches) == 0 {
		return now, nil
	}
	// The first step by itself: whether the optimiser goes on or begins anew shows in
	// its length.
	after, err := steps(batches[:1])
	if err != nil {
		return nil, err
	}
	if restored {
		from, err := decodeState(now)
		if err != nil {
			return nil, err
		}
		to, err := decodeState(after)
		if err != nil {
			return nil, err
		}
		x.first += r.distance(from, to) / rate
	}
	return steps(batches[1:])
}

// distance of the parameters of two states.
func (r *run) distance(a, b *state) float64 {
	sum := 0.0
	for _, p := range r.g.Parameters() {
		for i, w := range a.values[p.Name] {
			d := b.values[p.Name][i] - w
			sum += d * d
		}
	}
	return math.Sqrt(sum)
}

// convergenceSeed names the initial weights and the orders of the images.
const convergenceSeed = 0

// shuffled walks through the training images in orders and symmetries that a seed
// draws, anew whenever all have been seen.
func (r *run) shuffled(steps int, seed uint64) []backend.Batch {
	rng := random.Stream(convergenceSeed, "convergence", seed)
	var order []int
	out := make([]backend.Batch, steps)
	for k := range out {
		for range r.in.Options.Batch {
			if len(order) == 0 {
				order = rng.Perm(r.in.Train.Count)
			}
			out[k] = append(out[k], backend.Sample{Dataset: trainSet, Index: order[0], Dihedral: uint8(rng.IntN(8))})
			order = order[1:]
		}
	}
	return out
}

// compareTrainings makes the measures of two lists of trainings, by seed.
func compareTrainings(a, b []training, t Trials) *Convergence {
	smooth := func(x training, until int) float64 {
		from := max(0, until-smoothing)
		return stat.Mean(x.losses[from:until], nil)
	}
	// The target is what half of the reference's trainings have reached after two
	// thirds of their steps.
	steps := len(b[0].losses)
	var there []float64
	for _, x := range b {
		there = append(there, smooth(x, max(1, steps*2/3)))
	}
	slices.Sort(there)
	c := &Convergence{Trials: t, Target: stat.Quantile(0.5, stat.LinInterp, there, nil)}
	each := steps / t.Epochs
	opening := func(x training) float64 { return stat.Mean(x.losses[:each], nil) }
	// What a fault shows in: losses in most, where the weights end in those of the
	// optimiser, the running statistics in their own, whose effect on losses is small.
	for _, m := range []struct {
		name string
		of   func(training) float64
	}{
		{"training loss of the first epoch", func(x training) float64 { return opening(x) }},
		{"fall of the training loss to the last epoch", func(x training) float64 { return opening(x) - stat.Mean(x.losses[steps-each:], nil) }},
		{"validation loss after the last epoch", func(x training) float64 { return x.validation[t.Epochs-1] }},
		{"fall of the validation loss since the first epoch", func(x training) float64 { return x.validation[0] - x.validation[t.Epochs-1] }},
		{"steps to the target", func(x training) float64 {
			for k := range x.losses {
				if k+1 >= smoothing && smooth(x, k+1) <= c.Target {
					return float64(k + 1)
				}
			}
			return float64(len(x.losses) + 1)
		}},
		{firstStep, func(x training) float64 { return x.first }},
		{moved, func(x training) float64 { return x.moved }},
		{shrunk, func(x training) float64 { return x.shrunk }},
		{means, func(x training) float64 { return x.means }},
		{variances, func(x training) float64 { return x.variances }},
	} {
		x := Measure{Name: m.name}
		for i := range a {
			x.A, x.B = append(x.A, m.of(a[i])), append(x.B, m.of(b[i]))
		}
		c.Measures = append(c.Measures, x)
	}
	for i := range c.Measures {
		m := &c.Measures[i]
		m.Spread = stat.StdDev(m.B, nil)
		m.judge(t.Margin*m.Spread, t.Risk, len(c.Measures))
	}
	return c
}

// judge makes two one-sided t-tests of the mean difference of the pairs against the
// margin (Schuirmann, J. Pharmacokinet. Biopharm. 15, 657, 1987). A backend passes
// where the tests of all measures say so, thus, with one that is beyond the margin in
// any, with a probability of risk at most (Berger, Technometrics 24, 295, 1982). That
// it differs in one of so many measures is said at risk over all of them.
func (m *Measure) judge(margin, risk float64, measures int) {
	n := float64(len(m.A))
	d := make([]float64, len(m.A))
	for i := range d {
		d[i] = m.A[i] - m.B[i]
	}
	var scatter float64
	m.MeanA, m.MeanB = stat.Mean(m.A, nil), stat.Mean(m.B, nil)
	m.Difference, scatter = stat.MeanStdDev(d, nil)
	m.Margin = margin
	student := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: n - 1}
	off := scatter / math.Sqrt(n)
	quantile := student.Quantile(1 - risk)
	m.Low, m.High = m.Difference-quantile*off, m.Difference+quantile*off
	m.Differs = math.Abs(m.Difference)-student.Quantile(1-risk/float64(measures))*off > margin
	if off > 0 {
		m.FalseAlarm = min(1, 2*student.Survival(margin/off-quantile))
		if ratio := scatter / margin; ratio < 1e3 {
			z := distuv.UnitNormal.Quantile(1-risk) + distuv.UnitNormal.Quantile(1-risk/2)
			m.Needed = int(math.Ceil(ratio*ratio*z*z)) + 2
		}
	}
}

// Within reports whether the difference is shown to lie within the margin.
func (m Measure) Within() bool { return -m.Margin <= m.Low && m.High <= m.Margin }

// inSpreads is a difference in the reference's standard deviations.
func (m *Measure) inSpreads(v float64) float64 {
	switch {
	case v == 0:
		return 0
	case m.Spread == 0:
		return math.Copysign(math.Inf(1), v)
	}
	return v / m.Spread
}

// judgeConvergence adds a check for every measure: those that differ come first, for
// a fault shows in most of them.
func (r *run) judgeConvergence() {
	c := r.cert.Convergence
	var checks []Check
	for _, m := range c.Measures {
		k := Check{Stage: Training, Place: m.Name, Judged: ByMargin, A: Distance{Relative: math.Abs(m.Difference / m.MeanB)},
			Local: math.Abs(m.inSpreads(m.Difference)) + m.inSpreads(m.High-m.Difference), Limit: c.Margin}
		d := func(v float64) string { return format.Digits(v, 2) }
		if k.Share() > 1 {
			k.Note = fmt.Sprintf("%s on average where %s has %s; the difference is %s to %s standard deviations", format.Digits(m.MeanA, 4), r.cert.B.Description.Name, format.Digits(m.MeanB, 4), d(m.inSpreads(m.Low)), d(m.inSpreads(m.High)))
			if !m.Differs {
				k.Note += ", which proves nothing yet"
				if m.Needed > c.Seeds {
					k.Note += fmt.Sprintf(": of so much scatter %d seeds are needed", m.Needed)
				}
			}
		}
		checks = append(checks, k)
	}
	for _, differs := range []bool{true, false} {
		for i, k := range checks {
			if c.Measures[i].Differs == differs {
				r.add(k)
			}
		}
	}
}
