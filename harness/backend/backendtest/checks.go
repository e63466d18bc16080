package backendtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// tolerance bounds distances to the reference, relative to the largest element
// of a tensor. Single precision loses about five digits on the way through a
// network's sums; a gradient loses more, because an activation that is zero to
// within rounding may pass or block its pixel's share. A mistake in an operator
// shows as 1e-2 or more.
type tolerance struct{ forward, gradient, loss float64 }

var tolerances = map[string]tolerance{
	backend.Float32: {3e-5, 3e-3, 1e-5},
	backend.Float64: {1e-10, 1e-8, 1e-11},
	backend.Mixed:   {3e-2, 3e-1, 1e-2}, // gradient: see same
}

// dataset id under which checks load their data.
const set = "set"

func (s *suite) all(ctx context.Context) {
	s.run(ctx, "describe", s.describe)
	if s.report.Results[0].Outcome != Passed {
		return
	}
	for _, o := range operators {
		s.run(ctx, "operator/"+o.name, func(c *check) { c.operator(o) })
	}
	for _, precision := range []string{backend.Float32, backend.Float64, backend.Mixed} {
		for i, n := range networks {
			if precision == backend.Float64 && i != 1 || precision == backend.Mixed && i != 3 {
				continue // one is enough to see the precision
			}
			name := fmt.Sprintf("network/%s/width %d, %d×%d×%d", precision, n.width, n.batch, n.h, n.w)
			s.run(ctx, name, func(c *check) { c.network(precision, n) })
		}
	}
	s.run(ctx, "loss/on logits", (*check).logits)
	s.run(ctx, "dihedral", (*check).dihedral)
	s.run(ctx, "train/adam and statistics", (*check).adam)
	s.run(ctx, "train/frozen encoder", func(c *check) { c.frozen(nn.Encoder, nn.Decoder) })
	s.run(ctx, "train/frozen decoder", func(c *check) { c.frozen(nn.Decoder, nn.Encoder) })
	s.run(ctx, "train/mixed precision", (*check).mixed)
	s.run(ctx, "train/cancel", (*check).cancel)
	s.run(ctx, "evaluate", (*check).evaluate)
	s.run(ctx, "questions change nothing", (*check).readOnly)
	s.run(ctx, "state/round trip", (*check).roundTrip)
	s.run(ctx, "state/float64", (*check).wideState)
	s.run(ctx, "state/without moments", (*check).freshOptimiser)
	s.run(ctx, "state/damaged", (*check).damagedState)
	s.run(ctx, "refuse/operator", (*check).unknownOperator)
	s.run(ctx, "refuse/options", (*check).unknownOptions)
	s.run(ctx, "refuse/requests", (*check).badRequests)
	s.run(ctx, "determinism/runs", func(c *check) { c.deterministic(0, 0) })
	s.run(ctx, "determinism/threads", func(c *check) { c.deterministic(1, 2) })
	s.run(ctx, "sessions/two at once", (*check).two)
	s.run(ctx, "sessions/many", (*check).many)
}

func (s *suite) describe(c *check) {
	d, err := s.backend.Describe(c.ctx)
	c.must(err, "Describe")
	s.report.Description = d
	if d.Name == "" || d.Version == "" || d.Numerics == "" {
		c.failf("name %q, version %q and numerics %q must all be given", d.Name, d.Version, d.Numerics)
	}
	if !slices.Contains([]string{backend.DeterminismNone, backend.DeterminismRun, backend.DeterminismThreads, backend.DeterminismMachine}, d.Determinism) {
		c.failf("unknown determinism %q", d.Determinism)
	}
	if !slices.Contains(d.Precisions, backend.Float32) {
		c.failf("precision float32 is not offered")
	}
	if !slices.Contains(d.Losses, backend.LossOnProbabilities) {
		c.failf("the study's loss %q is not offered", backend.LossOnProbabilities)
	}
	if len(d.Devices) == 0 {
		c.failf("no device")
	}
	kind := ""
	for _, v := range d.Devices {
		if v.Name == "" || v.Kind == "" {
			c.failf("a device has no name or kind: %+v", v)
		}
		if s.options.Device == v.Name || s.options.Device == "" && kind == "" {
			kind = v.Kind
		}
	}
	if kind == "" {
		c.failf("there is no device %q", s.options.Device)
	}
	for _, op := range []string{"Conv", "BatchNormalization", "Relu", "MaxPool", "Resize", "Concat", "Add", "Softmax"} {
		if !slices.ContainsFunc(d.Operators, func(o backend.Operator) bool { return o.Type == op }) {
			c.failf("operator %s, which the study's network needs, is not offered", op)
		}
	}
	again, err := s.backend.Describe(c.ctx)
	c.must(err, "Describe again")
	if fmt.Sprint(again) != fmt.Sprint(d) {
		c.failf("a second answer differs: %v, then %v", d, again)
	}
	c.detail = fmt.Sprintf("%s %s, numerics %s, determinism %s", d.Name, d.Version, d.Numerics, d.Determinism)
}

// session opens a session with the dataset loaded.
func (c *check) session(g *nn.Graph, o backend.Options, d *dataset) backend.Session {
	s, err := c.tryOpen(g, o)
	c.must(err, "Open")
	c.must(s.LoadDataset(c.ctx, set, d.path, d.digest), "LoadDataset")
	return s
}

func (c *check) tryOpen(g *nn.Graph, o backend.Options) (backend.Session, error) {
	o.Device = c.options.Device
	s, err := c.backend.Open(c.ctx, g, o.WithDefaults())
	if err == nil {
		c.open = append(c.open, s)
	}
	return s, err
}

// consecutive is a batch of consecutive samples.
func consecutive(first, n int) backend.Batch {
	var b backend.Batch
	for i := range n {
		b = append(b, backend.Sample{Dataset: set, Index: first + i})
	}
	return b
}

// near fails unless got is within the tolerance of want, relative to want's
// largest element or floor.
func (c *check) near(what string, got, want []float64, tolerance, floor float64) {
	if len(got) != len(want) {
		c.failf("%s has %d elements, must have %d", what, len(got), len(want))
	}
	scale := floor
	for _, v := range want {
		scale = math.Max(scale, math.Abs(v))
	}
	worst, at := 0.0, 0
	for i := range want {
		if d := math.Abs(got[i] - want[i]); !(d <= worst) { // also NaN
			worst, at = d, i
		}
	}
	if !(worst <= tolerance*scale) {
		c.failf("%s: element %d is %g, must be %g: a distance of %.2g of the largest element, allowed %.2g",
			what, at, got[at], want[at], worst/scale, tolerance)
	}
}

// distance is the length of got − want relative to that of want.
func distance(got, want []float64) float64 {
	if len(got) != len(want) {
		return math.Inf(1)
	}
	d, n := 0.0, 0.0
	for i, v := range want {
		d += (got[i] - v) * (got[i] - v)
		n += v * v
	}
	return math.Sqrt(d / n)
}

// same compares everything that a network computes from a batch with the
// reference: prediction, activations in both modes, loss, gradients.
func (c *check) same(s backend.Session, g *nn.Graph, r *reference, d *dataset, b backend.Batch, tol tolerance) {
	inference, err := r.forward(d.batch(b).images, false)
	c.must(err, "the reference")
	wantLoss, p, err := r.gradients(d.batch(b))
	c.must(err, "the reference")

	out, err := s.Predict(c.ctx, d.tensor(b[0].Index, len(b)))
	c.must(err, "Predict")
	want := inference.values[g.Output.Name]
	if !slices.Equal(out.Shape, want.shape) {
		c.failf("Predict returns shape %v, must be %v", out.Shape, want.shape)
	}
	c.near("Predict", out.Float64s(), want.data, tol.forward, 0)

	var names []string
	for _, n := range g.Nodes {
		names = append(names, n.Outputs[0])
	}
	for _, training := range []bool{false, true} {
		want := inference
		if training {
			want = p
		}
		values, err := s.Activations(c.ctx, b, names, training)
		c.must(err, "Activations")
		if len(values) != len(names) {
			c.failf("Activations returns %d values of %d", len(values), len(names))
		}
		for i, v := range values {
			w := want.values[names[i]]
			if v.Name != names[i] || !slices.Equal(v.Shape, w.shape) {
				c.failf("activation %d is %q with shape %v, must be %q with %v", i, v.Name, v.Shape, names[i], w.shape)
			}
			c.near(fmt.Sprintf("activation %q (training: %v)", v.Name, training), v.Float64s(), w.data, tol.forward, 1e-3)
		}
	}

	loss, gradients, err := s.Gradients(c.ctx, b, nil)
	c.must(err, "Gradients")
	c.near("loss", []float64{loss}, []float64{wantLoss}, tol.loss, 0)
	parameters := g.Parameters()
	if len(gradients) != len(parameters) {
		c.failf("%d gradients for %d parameters", len(gradients), len(parameters))
	}
	if tol == tolerances[backend.Mixed] {
		// Where a fraction f of a layer's pixels is blocked or passed otherwise,
		// its gradient is off by about √f of its length; in half precision that
		// is several per cent per layer. Only the whole can be compared.
		var got, want []float64
		for i, t := range parameters {
			got, want = append(got, gradients[i].Float64s()...), append(want, p.gradient(t.Name).data...)
		}
		if d := distance(got, want); !(d <= tol.gradient) {
			c.failf("the gradient is off by %.2g of its length, allowed %.2g", d, tol.gradient)
		}
		return
	}
	floor := 0.0 // some true gradients are zero: a bias before a normalisation
	for _, t := range parameters {
		for _, v := range p.gradient(t.Name).data {
			floor = math.Max(floor, 1e-3*math.Abs(v))
		}
	}
	for i, t := range parameters {
		if gradients[i].Name != t.Name || !slices.Equal(gradients[i].Shape, t.Shape) {
			c.failf("gradient %d is %q with shape %v, must be %q with %v", i, gradients[i].Name, gradients[i].Shape, t.Name, t.Shape)
		}
		c.near(fmt.Sprintf("gradient of %q", t.Name), gradients[i].Float64s(), p.gradient(t.Name).data, tol.gradient, floor)
	}
}

// operatorCase is one operator with one set of attributes, between a first
// convolution, whose gradient shows the operator's own backward pass, and the
// head. Where it changes the image's size, another operator changes it back.
type operatorCase struct {
	name  string
	study bool // the study's network has it, so it must be there
	out   int  // channels
	build func(b *builder, x string) string
}

// firstChannels is how many channels an operatorCase gets.
const firstChannels = 4

func window(kernel, stride int64, pad ...int64) nn.Attrs {
	return nn.Attrs{"kernel_shape": []int64{kernel, kernel}, "strides": []int64{stride, stride}, "pads": pad}
}

var operators = []operatorCase{
	{"Conv 3×3", true, 6, func(b *builder, x string) string {
		return b.conv("op", x, 4, 6, 3, window(3, 1, 1, 1, 1, 1), false)
	}},
	{"Conv 3×3 stride 2", true, 5, func(b *builder, x string) string {
		return b.enlarge("back", b.conv("op", x, 4, 5, 3, window(3, 2, 1, 1, 1, 1), false), 2, 2)
	}},
	{"Conv 1×1 stride 2", true, 5, func(b *builder, x string) string {
		return b.enlarge("back", b.conv("op", x, 4, 5, 1, window(1, 2, 0, 0, 0, 0), false), 2, 2)
	}},
	{"Conv 7×7", true, 3, func(b *builder, x string) string {
		return b.conv("op", x, 4, 3, 7, window(7, 1, 3, 3, 3, 3), false)
	}},
	{"Conv with bias", true, 6, func(b *builder, x string) string {
		return b.conv("op", x, 4, 6, 1, window(1, 1, 0, 0, 0, 0), true)
	}},
	{"Conv with uneven padding", false, 6, func(b *builder, x string) string {
		return b.conv("op", x, 4, 6, 3, window(3, 1, 2, 0, 0, 2), false)
	}},
	{"Conv dilated", false, 6, func(b *builder, x string) string {
		a := window(3, 1, 2, 2, 2, 2)
		a["dilations"] = []int64{2, 2}
		return b.conv("op", x, 4, 6, 3, a, false)
	}},
	{"Conv in groups", false, 6, func(b *builder, x string) string {
		a := window(3, 1, 1, 1, 1, 1)
		a["group"] = int64(2)
		return b.conv("op", x, 2, 6, 3, a, false)
	}},
	{"BatchNormalization", true, 4, func(b *builder, x string) string { return b.norm("op", x, 4) }},
	{"Relu", true, 4, func(b *builder, x string) string { return b.node("op", "Relu", nil, x) }},
	{"MaxPool 2×2", true, 4, func(b *builder, x string) string {
		return b.enlarge("back", b.node("op", "MaxPool", window(2, 2, 0, 0, 0, 0), x), 2, 2)
	}},
	{"MaxPool 3×3 overlapping", false, 4, func(b *builder, x string) string {
		return b.enlarge("back", b.node("op", "MaxPool", window(3, 2, 1, 1, 1, 1), x), 2, 2)
	}},
	{"Resize ×2", true, 4, func(b *builder, x string) string {
		return b.enlarge("op", b.node("pool", "MaxPool", window(2, 2, 0, 0, 0, 0), x), 2, 2)
	}},
	{"Resize ×3×1", false, 4, func(b *builder, x string) string {
		pool := nn.Attrs{"kernel_shape": []int64{3, 1}, "strides": []int64{3, 1}, "pads": []int64{0, 0, 0, 0}}
		return b.enlarge("op", b.node("pool", "MaxPool", pool, x), 3, 1)
	}},
	{"Concat", true, 8, func(b *builder, x string) string {
		return b.node("op", "Concat", nn.Attrs{"axis": int64(1)}, x, b.node("relu", "Relu", nil, x))
	}},
	{"Concat of three", false, 12, func(b *builder, x string) string {
		y := b.node("relu", "Relu", nil, x)
		return b.node("op", "Concat", nn.Attrs{"axis": int64(1)}, y, x, y)
	}},
	{"Add", true, 4, func(b *builder, x string) string {
		return b.node("op", "Add", nil, x, b.node("relu", "Relu", nil, x))
	}},
}

func (b *builder) enlarge(name, x string, h, w float32) string {
	b.g.Tensors = append(b.g.Tensors, &nn.Tensor{Name: "scales", Shape: []int{4}, Data: []float32{1, 1, h, w}})
	return b.node(name, "Resize", nn.Attrs{
		"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
	}, x, "", "scales")
}

func (c *check) operator(o operatorCase) {
	const classes = 3
	g := small(2, classes, func(b *builder) (string, int) {
		return o.build(b, b.conv("first", "image", 2, firstChannels, 3, window(3, 1, 1, 1, 1, 1), true)), o.out
	})
	d := c.dataset(1, 4, 2, 12, 16, classes)
	s, err := c.tryOpen(g, backend.Options{})
	if errors.Is(err, backend.ErrUnsupported) && !o.study {
		if !slices.ContainsFunc(g.Nodes, func(n *nn.Node) bool { return strings.Contains(err.Error(), strconv.Quote(n.Name)) }) {
			c.failf("the refusal names no node: %v", err)
		}
		c.skipf("%v", err)
	}
	c.must(err, "Open")
	c.must(s.LoadDataset(c.ctx, set, d.path, d.digest), "LoadDataset")
	c.same(s, g, newReference(g, backend.LossOnProbabilities), d, consecutive(1, 3), tolerances[backend.Float32])
}

type networkCase struct{ width, batch, h, w int }

// networks keep eight values or more per channel at the deepest level, where the
// image is sixteen times smaller: the statistics of two or three would make
// rounding errors large.
var networks = []networkCase{
	{2, 4, 32, 32},
	{4, 3, 32, 48}, // neither square nor a power of two, an odd batch
	{4, 1, 64, 48},
	{16, 2, 32, 32}, // wide enough for vector kernels
}

func (c *check) offered(precision string) {
	if !slices.Contains(c.report.Description.Precisions, precision) {
		c.skipf("precision %s", precision)
	}
}

func (c *check) network(precision string, n networkCase) {
	c.offered(precision)
	g := unet(n.width)
	d := c.dataset(2, n.batch+1, 1, n.h, n.w, 2)
	s := c.session(g, backend.Options{Precision: precision}, d)
	c.same(s, g, newReference(g, backend.LossOnProbabilities), d, consecutive(1, n.batch), tolerances[precision])
}

func (c *check) logits() {
	if !slices.Contains(c.report.Description.Losses, backend.LossOnLogits) {
		c.skipf("loss %s", backend.LossOnLogits)
	}
	g := unet(2)
	d := c.dataset(3, 3, 1, 16, 16, 2)
	s := c.session(g, backend.Options{Loss: backend.LossOnLogits}, d)
	c.same(s, g, newReference(g, backend.LossOnLogits), d, consecutive(0, 3), tolerances[backend.Float32])
}

// dihedral checks each symmetry on the first convolution's output, which shows
// where each pixel went, and on the loss, which shows where the labels went.
func (c *check) dihedral() {
	g := unet(4)
	d := c.dataset(4, 3, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	r := newReference(g, backend.LossOnProbabilities)
	tol := tolerances[backend.Float32]
	for op := range uint8(8) {
		b := backend.Batch{{Dataset: set, Index: 2, Dihedral: op}, {Dataset: set, Index: 0, Dihedral: 7 - op}}
		wantLoss, p, err := r.gradients(d.batch(b))
		c.must(err, "the reference")
		first := g.Nodes[0].Outputs[0]
		values, err := s.Activations(c.ctx, b, []string{first}, true)
		c.must(err, "Activations under symmetry %d", op)
		if len(values) != 1 {
			c.failf("Activations returns %d values of 1", len(values))
		}
		c.near(fmt.Sprintf("%q under symmetry %d", first, op), values[0].Float64s(), p.values[first].data, tol.forward, 0)
		loss, _, err := s.Gradients(c.ctx, b, nil)
		c.must(err, "Gradients under symmetry %d", op)
		c.near(fmt.Sprintf("loss under symmetry %d", op), []float64{loss}, []float64{wantLoss}, tol.loss, 0)
	}
}

// train takes steps and returns their losses.
func (c *check) train(s backend.Session, rate float64, frozen []string, batches ...backend.Batch) []float64 {
	losses, err := train(c.ctx, s, backend.TrainRequest{Batches: batches, LearningRate: rate, Frozen: frozen})
	c.must(err, "Train")
	if len(losses) != len(batches) {
		c.failf("Train reported %d of %d batches", len(losses), len(batches))
	}
	return losses
}

func train(ctx context.Context, s backend.Session, r backend.TrainRequest) ([]float64, error) {
	var losses []float64
	err := s.Train(ctx, r, func(p backend.Step) error {
		if p.Batch != len(losses) {
			return fmt.Errorf("step %d reported as batch %d", len(losses), p.Batch)
		}
		losses = append(losses, p.Loss)
		return nil
	})
	return losses, err
}

// steps is n batches of different sizes and symmetries.
func steps(n, samples int) []backend.Batch {
	var bs []backend.Batch
	for i := range n {
		var b backend.Batch
		for j := range 1 + (i+1)%3 {
			b = append(b, backend.Sample{Dataset: set, Index: (3*i + j) % samples, Dihedral: uint8((5*i + 3*j) % 8)})
		}
		bs = append(bs, b)
	}
	return bs
}

// adam checks every optimiser step against the textbook one, fed with the
// backend's own gradients, so that their rounding does not matter; and the
// running statistics against the reference, fed with the backend's weights.
// The constants differ from the usual ones enough to show whether ε stands
// outside the root and the corrections are there.
func (c *check) adam() {
	g := unet(4)
	d := c.dataset(5, 6, 1, 32, 32, 2)
	o := backend.Options{Adam: backend.Adam{Beta1: 0.8, Beta2: 0.95, Epsilon: 1e-3}}
	s := c.session(g, o, d)
	oracle := newAdam(o.Adam)
	before := c.state(s)
	for i, b := range steps(5, d.n) {
		what := func(name string) string { return fmt.Sprintf("%q after step %d", name, i+1) }
		rate := 2e-3 / float64(i+1)
		loss, list, err := s.Gradients(c.ctx, b, nil)
		c.must(err, "Gradients")
		gradients := map[string][]float64{}
		for _, t := range list {
			gradients[t.Name] = t.Float64s()
		}
		trained := c.train(s, rate, nil, b)
		c.near(fmt.Sprintf("loss of step %d", i+1), trained, []float64{loss}, 1e-6, 0)

		after := c.state(s)
		if after.step != strconv.Itoa(i+1) {
			c.failf("the state's step is %q after %d steps", after.step, i+1)
		}
		r := newReference(g, backend.LossOnProbabilities)
		for name := range r.values {
			if v, ok := before.data[name]; ok {
				r.values[name].data = slices.Clone(v)
			}
		}
		p, err := r.forward(d.batch(b).images, true)
		c.must(err, "the reference")
		r.moveStatistics(p)
		for _, t := range g.Statistics() {
			c.near(what(t.Name), after.data[t.Name], r.values[t.Name].data, 1e-5, 1e-2)
		}

		want := map[string][]float64{}
		for name := range gradients {
			want[name] = slices.Clone(before.data[name])
		}
		oracle.update(rate, want, gradients)
		for _, t := range g.Parameters() {
			// A weight may be off by its own rounding and by a small part of
			// the step, which at most is the rate.
			c.near(what(t.Name), after.data[t.Name], want[t.Name], 3e-7+2e-3*rate, 1)
			c.near(what("adam.m."+t.Name), after.data["adam.m."+t.Name], oracle.m[t.Name], 1e-5, 1e-9)
			c.near(what("adam.v."+t.Name), after.data["adam.v."+t.Name], oracle.v[t.Name], 1e-5, 1e-12)
		}
		before = after
	}
}

func (c *check) frozen(frozen, free string) {
	g := unet(4)
	d := c.dataset(6, 6, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	bs := steps(4, d.n)
	c.train(s, 1e-3, nil, bs[:2]...)
	before := c.state(s)
	_, gradients, err := s.Gradients(c.ctx, bs[2], []string{frozen})
	c.must(err, "Gradients")
	for _, t := range gradients {
		if nn.Group(t.Name) == frozen {
			c.failf("there is a gradient for the frozen %q", t.Name)
		}
	}
	c.train(s, 1e-3, []string{frozen}, bs[2:]...)
	after := c.state(s)
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		moved := !slices.Equal(before.data[t.Name], after.data[t.Name])
		switch group := nn.Group(t.Name); {
		case t.Role == nn.Parameter && group == frozen && moved:
			c.failf("the frozen %q moved", t.Name)
		case t.Role == nn.Parameter && group == free && !moved:
			c.failf("%q did not move although only %s is frozen", t.Name, frozen)
		case t.Role == nn.Statistic && !moved:
			c.failf("the running statistic %q did not move; those of frozen groups do too", t.Name)
		}
	}
	// The statistics moved as the reference says, through frozen layers.
	s2 := c.session(g, backend.Options{}, d)
	c.train(s2, 1e-3, []string{frozen}, bs[0])
	r := newReference(g, backend.LossOnProbabilities)
	p, err := r.forward(d.batch(bs[0]).images, true)
	c.must(err, "the reference")
	r.moveStatistics(p)
	got := c.state(s2)
	for _, t := range g.Statistics() {
		c.near(fmt.Sprintf("%q", t.Name), got.data[t.Name], r.values[t.Name].data, 1e-5, 1e-2)
	}
}

// mixed checks that training in mixed precision learns and keeps its scale.
func (c *check) mixed() {
	c.offered(backend.Mixed)
	g := unet(16)
	d := c.dataset(7, 2, 1, 32, 32, 2)
	s := c.session(g, backend.Options{Precision: backend.Mixed}, d)
	losses := c.train(s, 3e-3, nil, slices.Repeat([]backend.Batch{consecutive(0, 2)}, 12)...)
	if !(losses[11] < losses[0]) {
		c.failf("twelve steps on one batch did not lower the loss: %v", losses)
	}
	raw, err := s.State(c.ctx)
	c.must(err, "State")
	if !bytes.Contains(raw, []byte(`"loss_scale"`)) || !bytes.Contains(raw, []byte(`"good_steps"`)) {
		c.failf("the state has no metadata loss_scale and good_steps")
	}
	c.detail = fmt.Sprintf("loss %.4f to %.4f", losses[0], losses[11])
}

func (c *check) cancel() {
	g := unet(4)
	d := c.dataset(8, 8, 1, 64, 64, 2)
	s := c.session(g, backend.Options{}, d)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	n := 0
	var asked time.Time
	err := s.Train(ctx, backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{consecutive(0, 8)}, 10000), LearningRate: 1e-3}, func(backend.Step) error {
		if n++; n == 2 {
			asked = time.Now()
			cancel()
		}
		return nil
	})
	took := time.Since(asked)
	if err == nil || !errors.Is(err, context.Canceled) {
		c.failf("a cancelled Train returned %v", err)
	}
	if took > time.Second {
		c.failf("Train returned %v after it was cancelled, allowed is a second", took)
	}
	begin := time.Now()
	c.must(s.Close(), "closing a session after its Train was cancelled")
	if took := time.Since(begin); took > time.Second {
		c.failf("closing took %v after Train was cancelled, allowed is a second", took)
	}
	c.open = nil
	s = c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, consecutive(0, 1))
	c.detail = fmt.Sprintf("%.0f ms", 1e3*took.Seconds())
}

func (c *check) evaluate() {
	g := unet(4)
	d := c.dataset(9, 7, 1, 32, 48, 2)
	s := c.session(g, backend.Options{}, d)
	r := newReference(g, backend.LossOnProbabilities)
	p, err := r.forward(d.batch(consecutive(0, d.n)).images, false)
	c.must(err, "the reference")
	_, want := r.lossOf(p, d.labels, false)
	z := p.values[g.Output.Name]

	all, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set})
	c.must(err, "Evaluate")
	if len(all.Loss) != d.n || len(all.Confusion) != d.n || all.Classes != 2 {
		c.failf("%d losses and %d confusion matrices of %d classes for %d images of 2", len(all.Loss), len(all.Confusion), all.Classes, d.n)
	}
	c.near("losses", all.Loss, want, 1e-5, 0)
	pixels := d.h * d.w
	for i := range d.n {
		var counts [4]int64
		close := int64(0) // pixels whose classes are equal to within rounding
		for q := range pixels {
			p0, p1 := z.data[2*i*pixels+q], z.data[(2*i+1)*pixels+q]
			if math.Abs(p0-p1) < 1e-4 {
				close++
			}
			k := 2 * int(d.labels[i*pixels+q])
			if p1 > p0 {
				k++
			}
			counts[k]++
		}
		for k, n := range counts {
			if got := all.Confusion[i][k]; max(got-n, n-got) > close {
				c.failf("image %d: %d pixels with label %d and prediction %d, must be %d", i, got, k/2, k%2, n)
			}
		}
	}
	for _, size := range []int{1, 2, 3, 100} {
		e, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, BatchSize: size})
		c.must(err, "Evaluate with batch size %d", size)
		if !slices.Equal(e.Loss, all.Loss) {
			c.failf("losses with batch size %d are %v, with the default %v", size, e.Loss, all.Loss)
		}
	}
	order := []int{5, 0, 5, 6}
	e, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, Indices: order})
	c.must(err, "Evaluate of some")
	if len(e.Loss) != len(order) || len(e.Confusion) != len(order) {
		c.failf("%d losses for %d indices", len(e.Loss), len(order))
	}
	for i, index := range order {
		if e.Loss[i] != all.Loss[index] || !slices.Equal(e.Confusion[i], all.Confusion[index]) {
			c.failf("image %d evaluated in the order %v differs from itself among all", index, order)
		}
	}
}

func (c *check) readOnly() {
	g := unet(4)
	d := c.dataset(10, 4, 1, 32, 32, 2)
	s := c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, steps(2, d.n)...)
	before := c.state(s)
	b := consecutive(0, 2)
	for name, ask := range map[string]func() error{
		"Gradients":   func() error { _, _, err := s.Gradients(c.ctx, b, nil); return err },
		"Activations": func() error { _, err := s.Activations(c.ctx, b, []string{"decoder.head"}, true); return err },
		"Evaluate":    func() error { _, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set}); return err },
		"Predict":     func() error { _, err := s.Predict(c.ctx, d.tensor(0, 1)); return err },
	} {
		c.must(ask(), "%s", name)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s changes the session's state", name)
		}
	}
}

// roundTrip stops after half of the steps and continues in another session.
func (c *check) roundTrip() {
	g := unet(4)
	d := c.dataset(11, 6, 1, 32, 32, 2)
	bs := steps(6, d.n)
	a := c.session(g, backend.Options{}, d)
	c.train(a, 1e-3, nil, bs[:3]...)
	half := c.state(a)
	for name, n := range map[string]int{"parameters": len(g.Parameters()), "statistics": len(g.Statistics())} {
		found := 0
		for _, t := range g.Tensors {
			if _, ok := half.data[t.Name]; ok && t.Role.String()+"s" == name {
				found++
			}
		}
		if found != n {
			c.failf("the state holds %d of %d %s", found, n, name)
		}
	}
	for _, t := range g.Parameters() {
		if half.data["adam.m."+t.Name] == nil || half.data["adam.v."+t.Name] == nil {
			c.failf("the state has no moments of %q", t.Name)
		}
	}
	other := unet(4)
	other.Initialize(99, 0) // must not matter
	b := c.session(other, backend.Options{}, d)
	c.must(b.SetState(c.ctx, half.raw), "SetState")
	if !bytes.Equal(c.state(b).raw, half.raw) {
		c.failf("a restored state is not the same bytes")
	}
	la, lb := c.train(a, 1e-3, nil, bs[3:]...), c.train(b, 1e-3, nil, bs[3:]...)
	c.reproduced("training after a restored state", la, lb, c.state(a), c.state(b))
}

// reproduced compares two trainings: bit by bit if the backend claims that,
// else closely.
func (c *check) reproduced(what string, la, lb []float64, a, b state) {
	if c.report.Description.Determinism == backend.DeterminismNone {
		c.near(what+": losses", lb, la, 1e-4, 0)
		return
	}
	if !slices.Equal(la, lb) {
		c.failf("%s: the losses %v became %v", what, la, lb)
	}
	if !bytes.Equal(a.raw, b.raw) {
		for name, v := range a.data {
			if !slices.Equal(v, b.data[name]) {
				c.failf("%s: %q and perhaps others differ", what, name)
			}
		}
		c.failf("%s: the states' bytes differ", what)
	}
}

// wideState restores a state written in float64.
func (c *check) wideState() {
	g := unet(2)
	d := c.dataset(12, 3, 1, 16, 16, 2)
	a, b := c.session(g, backend.Options{}, d), c.session(g, backend.Options{}, d)
	c.train(a, 1e-3, nil, steps(2, d.n)...)
	st := c.state(a)
	c.must(b.SetState(c.ctx, c.encode(st.raw, true, func(string) bool { return true }, nil)), "SetState with F64")
	if !bytes.Equal(c.state(b).raw, st.raw) {
		c.failf("a state restored from F64 is not the same bytes")
	}
	c.offered(backend.Float64)
	w := c.session(g, backend.Options{Precision: backend.Float64}, d)
	c.must(w.SetState(c.ctx, st.raw), "SetState with F32 in a float64 session")
	wide := c.state(w)
	for name, v := range st.data {
		if !slices.Equal(wide.data[name], v) {
			c.failf("%q changed on its way into a float64 session", name)
		}
	}
	if bytes.Contains(wide.raw[:min(len(wide.raw), 4096)], []byte(`"F32"`)) {
		c.failf("a float64 session writes F32")
	}
}

// freshOptimiser restores weights alone.
func (c *check) freshOptimiser() {
	g := unet(2)
	// 16×16 would leave the deepest BatchNormalization one value in a batch of
	// one: no variance, which PyTorch refuses too.
	d := c.dataset(13, 3, 1, 32, 32, 2)
	a, b := c.session(g, backend.Options{}, d), c.session(g, backend.Options{}, d)
	bs := steps(4, d.n)
	c.train(a, 1e-3, nil, bs[:2]...)
	weights := c.encode(c.state(a).raw, false, func(name string) bool { return !strings.HasPrefix(name, "adam.") }, map[string]string{})
	c.must(a.SetState(c.ctx, weights), "SetState without moments")
	c.must(b.SetState(c.ctx, weights), "SetState without moments")
	la, lb := c.train(a, 1e-3, nil, bs[2:]...), c.train(b, 1e-3, nil, bs[2:]...)
	sa, sb := c.state(a), c.state(b)
	c.reproduced("a trained session given weights alone, and a new one", la, lb, sa, sb)
	if sa.step != "2" {
		c.failf("the step is %q two steps after weights alone were restored", sa.step)
	}
}

func (c *check) damagedState() {
	g := unet(2)
	d := c.dataset(14, 3, 1, 16, 16, 2)
	s := c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, steps(2, d.n)...)
	good := c.state(s)
	c.train(s, 1e-3, nil, steps(1, d.n)...)
	before := c.state(s)
	parameter, statistic := g.Parameters()[3].Name, g.Statistics()[2].Name
	without := func(name string) []byte {
		return c.encode(good.raw, false, func(n string) bool { return n != name }, nil)
	}
	other, err := c.tryOpen(unet(4), backend.Options{})
	c.must(err, "Open")
	for what, raw := range map[string][]byte{
		"a state without a parameter":         without(parameter),
		"a state without a statistic":         without(statistic),
		"a state of another network":          c.state(other).raw,
		"a truncated state":                   good.raw[:len(good.raw)-5],
		"an empty state":                      {},
		"a state that is something different": []byte(strings.Repeat("no state at all ", 100)),
	} {
		c.refused(s.SetState(c.ctx, raw), "%s", what)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s was refused, but something changed", what)
		}
	}
	err = s.SetState(c.ctx, without(parameter))
	if err == nil || !strings.Contains(err.Error(), parameter) {
		c.failf("the refusal of a state without %q does not name it: %v", parameter, err)
	}
}

func (c *check) unknownOperator() {
	g := small(1, 2, func(b *builder) (string, int) {
		x := b.conv("first", "image", 1, 3, 3, window(3, 1, 1, 1, 1, 1), true)
		return b.node("the odd one", "HardSwish", nil, x), 3
	})
	_, err := c.tryOpen(g, backend.Options{})
	c.refused(err, "the operator HardSwish")
	if !strings.Contains(err.Error(), "the odd one") || !strings.Contains(err.Error(), "HardSwish") {
		c.failf("the refusal names not both the node and its operator: %v", err)
	}
}

func (c *check) unknownOptions() {
	g := unet(2)
	for what, o := range map[string]backend.Options{
		"precision int3":     {Precision: "int3"},
		"loss guesswork":     {Loss: "guesswork"},
		"an Adam with β₁ 1":  {Adam: backend.Adam{Beta1: 1, Beta2: 0.999, Epsilon: 1e-8}},
		"an Adam with NaN ε": {Adam: backend.Adam{Beta1: 0.9, Beta2: 0.999, Epsilon: math.NaN()}},
	} {
		_, err := c.tryOpen(g, o)
		c.refused(err, "%s", what)
	}
	_, err := c.backend.Open(c.ctx, g, backend.Options{Device: "abacus:7"}.WithDefaults())
	c.refused(err, "device abacus:7")
}

func (c *check) badRequests() {
	g := unet(2)
	d := c.dataset(15, 3, 1, 16, 16, 2)
	s := c.session(g, backend.Options{}, d)
	square := c.dataset(16, 2, 1, 32, 16, 2)
	c.must(s.LoadDataset(c.ctx, "oblong", square.path, square.digest), "LoadDataset")
	classes := c.dataset(17, 2, 1, 16, 16, 9)
	before := c.state(s)
	want, err := s.Predict(c.ctx, d.tensor(0, 1))
	c.must(err, "Predict")

	ok := consecutive(0, 2)
	training := func(rate float64, b backend.Batch) func() error {
		return func() error {
			_, err := train(c.ctx, s, backend.TrainRequest{Batches: []backend.Batch{b}, LearningRate: rate})
			return err
		}
	}
	gradients := func(b backend.Batch) func() error {
		return func() error { _, _, err := s.Gradients(c.ctx, b, nil); return err }
	}
	for _, r := range []struct {
		what string
		ask  func() error
	}{
		{"an unknown dataset in Train", training(1e-3, backend.Batch{{Dataset: "nowhere"}})},
		{"an unknown dataset in Gradients", gradients(backend.Batch{{Dataset: "nowhere"}})},
		{"an unknown dataset in Evaluate", func() error {
			_, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: "nowhere"})
			return err
		}},
		{"index 3 of 3 images in Train", training(1e-3, consecutive(3, 1))},
		{"index 3 of 3 images in Gradients", gradients(consecutive(3, 1))},
		{"index 3 of 3 images in Evaluate", func() error {
			_, err := s.Evaluate(c.ctx, backend.EvaluateRequest{Dataset: set, Indices: []int{0, 3}})
			return err
		}},
		{"an empty batch in Train", training(1e-3, nil)},
		{"an empty batch in Gradients", gradients(nil)},
		{"learning rate NaN", training(math.NaN(), ok)},
		{"learning rate ∞", training(math.Inf(1), ok)},
		{"learning rate −1", training(-1, ok)},
		{"images of two sizes in a batch", gradients(backend.Batch{{Dataset: set}, {Dataset: "oblong"}})},
		{"a quarter turn of an oblong image", gradients(backend.Batch{{Dataset: "oblong", Dihedral: 1}})},
		{"an unknown activation", func() error {
			_, err := s.Activations(c.ctx, ok, []string{"no such value"}, false)
			return err
		}},
		{"an image whose size is no multiple of 16", func() error {
			_, err := s.Predict(c.ctx, backend.Tensor{Shape: []int{1, 1, 20, 16}, F32: make([]float32, 320)})
			return err
		}},
		{"an image with two channels", func() error {
			_, err := s.Predict(c.ctx, backend.Tensor{Shape: []int{1, 2, 16, 16}, F32: make([]float32, 512)})
			return err
		}},
		{"a file that does not exist", func() error {
			return s.LoadDataset(c.ctx, "x", filepath.Join(c.dir, "nothing.safetensors"), d.digest)
		}},
		{"a folder for a file", func() error { return s.LoadDataset(c.ctx, "x", c.dir, d.digest) }},
		{"labels beyond the classes", func() error {
			// A backend may look at labels when loading or when using them.
			if err := s.LoadDataset(c.ctx, "many classes", classes.path, classes.digest); err != nil {
				return err
			}
			_, _, err := s.Gradients(c.ctx, backend.Batch{{Dataset: "many classes"}}, nil)
			return err
		}},
	} {
		c.refused(r.ask(), "%s", r.what)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s was refused, but the state changed", r.what)
		}
	}
	got, err := s.Predict(c.ctx, d.tensor(0, 1))
	c.must(err, "Predict after refusals")
	if !slices.Equal(got.Float64s(), want.Float64s()) {
		c.failf("after refused requests the prediction differs")
	}
	c.train(s, 1e-3, nil, ok)
}

// deterministic trains and predicts twice, with the given numbers of threads.
func (c *check) deterministic(threads1, threads2 int) {
	claim := c.report.Description.Determinism
	if claim == backend.DeterminismNone || threads1 != threads2 && claim == backend.DeterminismRun {
		c.skipf("determinism is %s", claim)
	}
	g := unet(8)
	d := c.dataset(18, 4, 1, 48, 48, 2)
	bs := steps(3, d.n)
	a, b := c.session(g, backend.Options{Threads: threads1}, d), c.session(g, backend.Options{Threads: threads2}, d)
	la, lb := c.train(a, 1e-3, nil, bs...), c.train(b, 1e-3, nil, bs...)
	c.reproduced("the same training again", la, lb, c.state(a), c.state(b))
	pa, err := a.Predict(c.ctx, d.tensor(0, 3))
	c.must(err, "Predict")
	pb, err := b.Predict(c.ctx, d.tensor(0, 3))
	c.must(err, "Predict")
	if !slices.Equal(pa.Float64s(), pb.Float64s()) {
		c.failf("the same prediction again differs")
	}
}

// two trains different networks on different data at the same time.
func (c *check) two() {
	type job struct {
		g  *nn.Graph
		d  *dataset
		s  backend.Session
		l  []float64
		st state
	}
	jobs := []*job{{g: unet(4), d: c.dataset(19, 4, 1, 32, 32, 2)}, {g: unet(8), d: c.dataset(20, 4, 1, 32, 32, 2)}}
	bs := steps(4, 4)
	for _, j := range jobs { // one after the other
		s := c.session(j.g, backend.Options{}, j.d)
		j.l = c.train(s, 1e-3, nil, bs...)
		j.st = c.state(s)
		j.s = c.session(j.g, backend.Options{}, j.d)
	}
	losses, errs := make([][]float64, 2), make([]error, 2)
	var wg sync.WaitGroup
	for i, j := range jobs {
		wg.Go(func() {
			losses[i], errs[i] = train(c.ctx, j.s, backend.TrainRequest{Batches: bs, LearningRate: 1e-3})
		})
	}
	wg.Wait()
	for i, j := range jobs {
		c.must(errs[i], "Train in two sessions at once")
		c.reproduced("training beside another session", j.l, losses[i], j.st, c.state(j.s))
	}
}

// many opens and closes sessions, and uses one that is closed.
func (c *check) many() {
	g := unet(4)
	d := c.dataset(21, 2, 1, 32, 32, 2)
	for range 10 {
		s := c.session(g, backend.Options{}, d)
		c.train(s, 1e-3, nil, consecutive(0, 2))
		c.must(s.Close(), "Close")
		c.open = nil
		_, err := s.Predict(c.ctx, d.tensor(0, 1))
		c.refused(err, "a prediction by a closed session")
	}
}
