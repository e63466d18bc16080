package crosscheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// Subject is a backend under comparison.
type Subject struct {
	Backend backend.Backend
	SHA256  string // of its executable
}

// File is a data set.
type File struct {
	Path, SHA256 string
	Count        int
}

// Input of a cross-check. A is judged, B is the yardstick, Oracle computes in
// float64.
type Input struct {
	A, B, Oracle Subject
	Graph        *nn.Graph // with initial weights
	Train        File
	Validation   File
	Loss         string
	Options      Options
}

// Options of a cross-check; zero values take the defaults.
type Options struct {
	Batch        int     `json:"batch"` // default 4
	Steps        int     `json:"steps"` // of the trajectory, default 20
	LearningRate float64 `json:"learning_rate"`
	// Factor is how many times the yardstick's distance a distance may be.
	Factor float64 `json:"factor"`
	// Perturbations is the number of one-rounding changes of the weights.
	Perturbations int `json:"perturbations"`
	// Floors are relative distances that always pass: of values of the forward
	// pass, of gradients, of what is computed from A's own numbers, and of
	// losses. They lie well above float32 rounding (6e-8, amplified by the
	// summation of a few thousand terms and by Winograd's transforms) and well
	// below any of the planted faults of this package's tests.
	ForwardFloor  float64 `json:"forward_floor"`
	GradientFloor float64 `json:"gradient_floor"`
	LocalFloor    float64 `json:"local_floor"`
	LossFloor     float64 `json:"loss_floor"`
	Threads       int     `json:"threads"`
}

func (o Options) withDefaults() Options {
	set := func(v *float64, d float64) {
		if *v == 0 {
			*v = d
		}
	}
	if o.Batch == 0 {
		o.Batch = 4
	}
	if o.Steps == 0 {
		o.Steps = 20
	}
	if o.Perturbations == 0 {
		o.Perturbations = 4
	}
	set(&o.LearningRate, 1e-3)
	set(&o.Factor, 8)
	set(&o.ForwardFloor, 1e-5)
	set(&o.GradientFloor, 2e-4)
	set(&o.LocalFloor, 3e-5)
	set(&o.LossFloor, 1e-6)
	return o
}

// Run compares A with B. An error means that the comparison could not be made;
// a backend that is wrong gives a certificate that says so.
func Run(ctx context.Context, in Input) (*Certificate, error) {
	in.Options = in.Options.withDefaults()
	r := &run{in: in, g: in.Graph, cert: &Certificate{
		Format: 1, Network: in.Graph.Name, Options: in.Options, Data: in.Train.SHA256,
		Machine: fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
	}}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	for _, stage := range []func(context.Context) error{r.forward, r.statistics, r.inference, r.gradients, r.optimiser, r.freezing, r.trajectory, r.time} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
	}
	r.verdict()
	return r.cert, nil
}

type run struct {
	in      Input
	g       *nn.Graph
	cert    *Certificate
	a, b, o backend.Session
	start   []byte // the initial weights as every backend is given them
	first   *state
	batch   backend.Batch
	labels  []uint8
}

// side is one of the three with its name for errors.
type side struct {
	name string
	s    backend.Session
}

func (r *run) sides() []side {
	return []side{{"A", r.a}, {"B", r.b}, {"the oracle", r.o}}
}

const (
	trainSet      = "train"
	validationSet = "validation"
)

func (r *run) session(ctx context.Context, b backend.Backend, precision string, adam backend.Adam) (backend.Session, error) {
	s, err := b.Open(ctx, r.g, backend.Options{Precision: precision, Loss: r.in.Loss, Threads: r.in.Options.Threads, Adam: adam})
	if err != nil {
		return nil, err
	}
	for id, f := range map[string]File{trainSet: r.in.Train, validationSet: r.in.Validation} {
		if err := s.LoadDataset(ctx, id, f.Path, f.SHA256); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (r *run) open(ctx context.Context) error {
	var err error
	for _, x := range []struct {
		name      string
		of        Subject
		precision string
		to        *backend.Session
		id        *Identity
	}{
		{"A", r.in.A, backend.Float32, &r.a, &r.cert.A},
		{"B", r.in.B, backend.Float32, &r.b, &r.cert.B},
		{"the oracle", r.in.Oracle, backend.Float64, &r.o, &r.cert.Oracle},
	} {
		if x.id.Description, err = x.of.Backend.Describe(ctx); err != nil {
			return fmt.Errorf("describing %s: %w", x.name, err)
		}
		x.id.SHA256 = x.of.SHA256
		if *x.to, err = r.session(ctx, x.of.Backend, x.precision, backend.DefaultAdam); err != nil {
			return fmt.Errorf("opening a session of %s: %w", x.name, err)
		}
	}
	r.first = initial(r.g)
	if r.start, err = encodeWeights(r.g, r.first); err != nil {
		return err
	}
	sum := sha256.Sum256(r.start)
	r.cert.Weights = hex.EncodeToString(sum[:])
	r.batch = r.batches(1)[0]
	if r.labels, err = r.readLabels(r.batch); err != nil {
		return err
	}
	return r.reset(ctx, r.start)
}

func (r *run) close() {
	for _, s := range r.sides() {
		if s.s != nil {
			s.s.Close()
		}
	}
}

// reset gives all three the same state.
func (r *run) reset(ctx context.Context, state []byte) error {
	for _, s := range r.sides() {
		if err := s.s.SetState(ctx, state); err != nil {
			return fmt.Errorf("setting the state of %s: %w", s.name, err)
		}
	}
	return nil
}

// batches walks through the training images and their symmetries.
func (r *run) batches(n int) []backend.Batch {
	var out []backend.Batch
	k := 0
	for range n {
		var b backend.Batch
		for range r.in.Options.Batch {
			b = append(b, backend.Sample{Dataset: trainSet, Index: k % r.in.Train.Count, Dihedral: uint8(k * 3 % 8)})
			k++
		}
		out = append(out, b)
	}
	return out
}

// readLabels is the batch's labels as a backend sees them.
func (r *run) readLabels(b backend.Batch) ([]uint8, error) {
	f, err := safetensors.Open(r.in.Train.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i, ok := f.Info("labels")
	if !ok || len(i.Shape) != 3 || i.Shape[1] != i.Shape[2] {
		return nil, fmt.Errorf("%s: no labels [N,H,H]", r.in.Train.Path)
	}
	n := i.Shape[1]
	var out []uint8
	one := make([]uint8, n*n)
	for _, s := range b {
		if err := f.ReadUint8("labels", s.Index*n*n, one); err != nil {
			return nil, err
		}
		for y := range n {
			for x := range n {
				v, u := backend.Dihedral(s.Dihedral, n, y, x)
				out = append(out, one[v*n+u])
			}
		}
	}
	return out, nil
}

// judge adds a comparison with the yardstick rule.
func (r *run) judge(stage, place, operator string, a, b Distance, rounding, floor float64) *Check {
	limit := max(r.in.Options.Factor*max(b.Relative, rounding), floor)
	return r.add(Check{Stage: stage, Place: place, Operator: operator, A: a, B: b, Rounding: rounding, Limit: limit})
}

// add completes a check whose limit is set.
func (r *run) add(c Check) *Check {
	c.Pass = c.A.Relative <= c.Limit // false for NaN
	r.cert.Checks = append(r.cert.Checks, c)
	return &r.cert.Checks[len(r.cert.Checks)-1]
}

// values are the outputs of all nodes, in order.
func (r *run) values() []string {
	var names []string
	for _, n := range r.g.Nodes {
		names = append(names, n.Outputs[0])
	}
	return names
}

// compareActivations judges every node's output, in the graph's order, given
// the states that the three sessions have.
func (r *run) compareActivations(ctx context.Context, stage string, training bool, now *state) error {
	names := r.values()
	var got [3]map[string][]float64
	for i, s := range r.sides() {
		ts, err := s.s.Activations(ctx, r.batch, names, training)
		if err != nil {
			return fmt.Errorf("activations of %s: %w", s.name, err)
		}
		got[i] = byName(ts)
	}
	rounding, err := r.rounding(ctx, now, func() (map[string][]float64, error) {
		ts, err := r.o.Activations(ctx, r.batch, names, training)
		return byName(ts), err
	}, got[2], 0)
	if err != nil {
		return err
	}
	for _, n := range r.g.Nodes {
		v := n.Outputs[0]
		o := got[2][v]
		r.judge(stage, n.Name, n.Op, distance(got[0][v], o, 0), distance(got[1][v], o, 0), rounding[v], r.in.Options.ForwardFloor)
	}
	if training {
		return r.compareLoss(ctx, got[0][r.g.Output.Name])
	}
	return nil
}

// rounding is, for every named result of the oracle, the largest relative
// distance that one rounding of the weights makes. The oracle has its former
// weights again afterwards.
func (r *run) rounding(ctx context.Context, now *state, ask func() (map[string][]float64, error), exact map[string][]float64, scale float64) (map[string]float64, error) {
	most := map[string]float64{}
	for k := range r.in.Options.Perturbations {
		b, err := encodeWeights(r.g, now.perturbed(r.g, uint64(k)))
		if err != nil {
			return nil, err
		}
		if err := r.o.SetState(ctx, b); err != nil {
			return nil, fmt.Errorf("setting the state of the oracle: %w", err)
		}
		got, err := ask()
		if err != nil {
			return nil, fmt.Errorf("asking the oracle: %w", err)
		}
		for name, v := range got {
			most[name] = max(most[name], distance(v, exact[name], scale).Relative)
		}
	}
	b, err := encodeWeights(r.g, now)
	if err != nil {
		return nil, err
	}
	return most, r.o.SetState(ctx, b)
}

func (r *run) forward(ctx context.Context) error {
	return r.compareActivations(ctx, Forward, true, r.first)
}

// compareLoss judges A's reported loss by the loss of its own output.
func (r *run) compareLoss(ctx context.Context, output []float64) error {
	reported, _, err := r.a.Gradients(ctx, r.batch, nil)
	if err != nil {
		return fmt.Errorf("the loss of A: %w", err)
	}
	classes := len(output) / len(r.labels)
	want := loss(output, r.labels, classes, r.in.Options.Batch, r.in.Loss)
	d := distance([]float64{reported}, []float64{want}, 0)
	c := r.add(Check{Stage: Loss, Place: "loss of A's own output", A: d, Limit: r.in.Options.LocalFloor / 10})
	if !c.Pass {
		c.Note = fmt.Sprintf("A reports %.7g, its output has the loss %.7g", reported, want)
		for _, other := range []string{backend.LossOnLogits, backend.LossOnProbabilities} {
			if l := loss(output, r.labels, classes, r.in.Options.Batch, other); other != r.in.Loss && math.Abs(l-reported) < 1e-4*math.Abs(l) {
				c.Note += "; it is " + other + " instead"
			}
		}
	}
	return nil
}

// loss of class probabilities [N,K,H,W] against labels [N,H,W].
func loss(p []float64, labels []uint8, classes, n int, kind string) float64 {
	pixels := len(labels) / n
	var sum float64
	for i := range n {
		for k := range pixels {
			at := func(c int) float64 { return p[(i*classes+c)*pixels+k] }
			target := at(int(labels[i*pixels+k]))
			if kind == backend.LossOnLogits {
				sum -= math.Log(target)
				continue
			}
			var s float64
			for c := range classes {
				s += math.Exp(at(c))
			}
			sum += math.Log(s) - target
		}
	}
	return sum / float64(len(labels))
}

// statistics judges the running statistics after one step by A's own
// activations: what they moved by, against the batch's mean and unbiased
// variance of the normalisation's input.
func (r *run) statistics(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	ts, err := r.a.Activations(ctx, r.batch, r.values(), true)
	if err != nil {
		return fmt.Errorf("activations of A: %w", err)
	}
	values := byName(ts)
	shapes := map[string][]int{}
	for _, t := range ts {
		shapes[t.Name] = t.Shape
	}
	after, err := r.step(ctx, r.a, r.in.Options.LearningRate, nil)
	if err != nil {
		return fmt.Errorf("a training step of A: %w", err)
	}
	for _, n := range r.g.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		x, ok := values[n.Inputs[0]]
		if !ok {
			continue // normalises the image
		}
		mean, variance, count := channelStatistics(x, shapes[n.Inputs[0]])
		m := float64(n.Attrs.Float("momentum", 0.9))
		for k, want := range [][]float64{mean, variance} {
			name := n.Inputs[3+k]
			before, now := r.first.values[name], after.values[name]
			got, expected := make([]float64, len(want)), make([]float64, len(want))
			for c := range want {
				got[c] = now[c]
				expected[c] = m*before[c] + (1-m)*want[c]
			}
			// The floor applies to the batch's own statistic, which enters with
			// the weight 1−m.
			scale := (1 - m) * rms(want)
			d := distance(got, expected, 0)
			d.Relative *= rms(expected) / max(scale, 1e-30)
			limit := r.in.Options.LocalFloor
			if k == 0 {
				// A mean may be the small difference of large values.
				limit *= max(1, math.Sqrt(rms(variance))/max(rms(mean), 1e-30))
			}
			// Rounding of the stored value itself.
			limit += 2e-7 * rms(expected) / max(scale, 1e-30)
			c := r.add(Check{Stage: Statistics, Place: name, Operator: n.Op, A: d, Limit: limit})
			if !c.Pass {
				c.Note = explainStatistic(k, m, before, now, want, count)
			}
		}
	}
	return nil
}

// explainStatistic tries the usual mistakes.
func explainStatistic(k int, m float64, before, now, want []float64, count int) string {
	near := func(f func(c int) float64) bool {
		expected := make([]float64, len(now))
		for c := range expected {
			expected[c] = f(c)
		}
		return distance(now, expected, 0).Relative < 1e-5
	}
	switch {
	case k == 1 && near(func(c int) float64 { return m*before[c] + (1-m)*want[c]*float64(count-1)/float64(count) }):
		return "the biased variance was used, not the unbiased one"
	case near(func(c int) float64 { return before[c] }):
		return "it did not move"
	case near(func(c int) float64 { return (1-m)*before[c] + m*want[c] }):
		return "the momentum is taken for its complement"
	}
	// A momentum that fits all channels?
	var num, den float64
	for c := range now {
		num += (now[c] - want[c]) * (before[c] - want[c])
		den += (before[c] - want[c]) * (before[c] - want[c])
	}
	if fit := num / den; near(func(c int) float64 { return fit*before[c] + (1-fit)*want[c] }) {
		return fmt.Sprintf("it moved as with momentum %.4g, the graph says %.4g", fit, m)
	}
	return ""
}

// channelStatistics are the mean and the unbiased variance over N, H and W.
func channelStatistics(x []float64, shape []int) (mean, variance []float64, count int) {
	n, channels, pixels := shape[0], shape[1], shape[2]*shape[3]
	mean, variance = make([]float64, channels), make([]float64, channels)
	count = n * pixels
	for c := range channels {
		var s, q float64
		for i := range n {
			for _, v := range x[(i*channels+c)*pixels : (i*channels+c+1)*pixels] {
				s += v
			}
		}
		mean[c] = s / float64(count)
		for i := range n {
			for _, v := range x[(i*channels+c)*pixels : (i*channels+c+1)*pixels] {
				q += (v - mean[c]) * (v - mean[c])
			}
		}
		variance[c] = q / float64(count-1)
	}
	return mean, variance, count
}

// step trains one step and returns the state after it.
func (r *run) step(ctx context.Context, s backend.Session, rate float64, frozen []string) (*state, error) {
	err := s.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{r.batch}, LearningRate: rate, Frozen: frozen}, func(backend.Step) error { return nil })
	if err != nil {
		return nil, err
	}
	b, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	return decodeState(b)
}

// inference judges inference mode with statistics that one of the oracle's steps
// has moved.
func (r *run) inference(ctx context.Context) error {
	if err := r.reset(ctx, r.start); err != nil {
		return err
	}
	moved, err := r.step(ctx, r.o, r.in.Options.LearningRate, nil)
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
	params := r.backward()
	good := "the output"
	for _, p := range params {
		o := got[2][p]
		c := r.judge(Gradients, p, "", distance(got[0][p], o, scale), distance(got[1][p], o, scale), rounding[p], r.in.Options.GradientFloor)
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
			c := r.judge(Gradients, name, "", distance(v, got[2][name], scale), distance(got[1][name], got[2][name], scale), rounding[name], r.in.Options.GradientFloor)
			if c.Note = "with " + frozen + " frozen"; c.Pass {
				c.Note = ""
				r.cert.Checks = r.cert.Checks[:len(r.cert.Checks)-1] // as before, no news
			}
		}
	}
	return nil
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

// groups of parameters, in the graph's order.
func (r *run) groups() []string {
	var out []string
	for _, p := range r.g.Parameters() {
		if g := nn.Group(p.Name); !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// optimiser judges A's steps by Adam in float64 on A's own gradients and
// moments: with the study's ε and with one large enough that its place in the
// formula shows, at rates that change from call to call.
func (r *run) optimiser(ctx context.Context) error {
	for _, epsilon := range []float64{backend.DefaultAdam.Epsilon, 1e-3} {
		adam := backend.DefaultAdam
		adam.Epsilon = epsilon
		s, err := r.session(ctx, r.in.A.Backend, backend.Float32, adam)
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
	moment := func(kind string, i int) float64 {
		if v := before.values["adam."+kind+"."+name]; v != nil {
			return v[i]
		}
		return 0
	}
	var got, want []float64
	update := func(i int, correct bool, eps func(v, c float64) float64) float64 {
		m := adam.Beta1*moment("m", i) + (1-adam.Beta1)*grad[i]
		v := adam.Beta2*moment("v", i) + (1-adam.Beta2)*grad[i]*grad[i]
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

// freezing judges that frozen weights do not move by one bit while their
// normalisations' statistics do.
func (r *run) freezing(ctx context.Context) error {
	for _, frozen := range r.groups() {
		if err := r.a.SetState(ctx, r.start); err != nil {
			return fmt.Errorf("setting the state of A: %w", err)
		}
		after, err := r.step(ctx, r.a, r.in.Options.LearningRate, []string{frozen})
		if err != nil {
			return fmt.Errorf("a training step of A with %s frozen: %w", frozen, err)
		}
		for _, t := range r.g.Tensors {
			if t.Role == nn.Constant {
				continue
			}
			before, now := r.first.values[t.Name], after.values[t.Name]
			moved := !slices.Equal(before, now)
			should := t.Role == nn.Statistic || nn.Group(t.Name) != frozen
			c := Check{Stage: Freezing, Place: t.Name}
			if moved != should {
				c.A.Relative = max(distance(now, before, 0).Relative, 1)
				c.Note = fmt.Sprintf("with %s frozen it moved by %.2g, it should not", frozen, distance(now, before, 0).Relative)
				if should {
					c.Note = fmt.Sprintf("with %s frozen it did not move, it should", frozen)
				}
			}
			r.add(c)
		}
	}
	return nil
}

// losses trains the trajectory's steps from a state and validates after them.
func (r *run) losses(ctx context.Context, s backend.Session, from []byte) (train []float64, validation float64, err error) {
	if err := s.SetState(ctx, from); err != nil {
		return nil, 0, err
	}
	err = s.Train(ctx, backend.TrainRequest{Batches: r.batches(r.in.Options.Steps), LearningRate: r.in.Options.LearningRate}, func(st backend.Step) error {
		train = append(train, st.Loss)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationSet})
	return train, e.MeanLoss(), err
}

// trajectory judges losses over many steps by how far one rounding of the
// initial weights drives the backends' own.
func (r *run) trajectory(ctx context.Context) error {
	var curves [3][]float64
	var final [3]float64
	for i, s := range r.sides() {
		var err error
		if curves[i], final[i], err = r.losses(ctx, s.s, r.start); err != nil {
			return fmt.Errorf("training %s: %w", s.name, err)
		}
	}
	names := []string{r.cert.A.Description.Name, r.cert.B.Description.Name, "oracle (float64)"}
	for i, c := range curves {
		r.cert.Trajectory = append(r.cert.Trajectory, Curve{names[i], c})
	}
	// One rounding of the weights, in A and in B: where a gradient is nothing but
	// rounding, Adam makes a full step of it, and how soon that happens depends
	// on how a backend rounds.
	envelope := make([]float64, r.in.Options.Steps)
	var finalEnvelope float64
	for k := range r.in.Options.Perturbations {
		b, err := encodeWeights(r.g, r.first.perturbed(r.g, uint64(k)))
		if err != nil {
			return err
		}
		for i, s := range r.sides()[:2] {
			c, f, err := r.losses(ctx, s.s, b)
			if err != nil {
				return fmt.Errorf("training %s from rounded weights: %w", s.name, err)
			}
			r.cert.Trajectory = append(r.cert.Trajectory, Curve{fmt.Sprintf("%s, weights rounded once (%d)", names[i], k+1), c})
			for t := range c {
				envelope[t] = max(envelope[t], math.Abs(c[t]-curves[i][t]))
			}
			finalEnvelope = max(finalEnvelope, math.Abs(f-final[i]))
		}
	}
	var largest, distanceB float64
	for t := range envelope {
		largest = max(largest, envelope[t])
		distanceB = max(distanceB, math.Abs(curves[1][t]-curves[2][t]))
		o := curves[2][t]
		r.judge(Trajectory, fmt.Sprintf("loss of step %d", t+1), "", distance(curves[0][t:t+1], curves[2][t:t+1], 0),
			Distance{Relative: distanceB / o}, largest/o, r.in.Options.LossFloor)
	}
	r.judge(Trajectory, "validation loss after the last step", "", distance(final[:1], final[2:], 0),
		distance(final[1:2], final[2:], 0), max(finalEnvelope, largest)/final[2], r.in.Options.LossFloor)
	return nil
}

// time measures steps of A and B in turn.
func (r *run) time(ctx context.Context) error {
	const rounds = 7
	var took [2][]float64
	for range rounds {
		for i, s := range r.sides()[:2] {
			start := time.Now()
			if err := s.s.Train(ctx, backend.TrainRequest{Batches: r.batches(1), LearningRate: r.in.Options.LearningRate}, func(backend.Step) error { return nil }); err != nil {
				return fmt.Errorf("a training step of %s: %w", s.name, err)
			}
			took[i] = append(took[i], time.Since(start).Seconds())
		}
	}
	for i, id := range []*Identity{&r.cert.A, &r.cert.B} {
		slices.Sort(took[i])
		id.StepSeconds = took[i][rounds/2]
	}
	return nil
}

// verdict finds the first failure.
func (r *run) verdict() {
	for _, stage := range Stages {
		for i := range r.cert.Checks {
			if c := &r.cert.Checks[i]; c.Stage == stage && !c.Pass {
				r.cert.First = c
				return
			}
		}
	}
}
