package export

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/internal/pixels"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/consumer"
	"github.com/refocus-em/refocus/harness/onnx/onnxgo"
	"github.com/refocus-em/refocus/harness/random"
)

// Tolerances of the comparison with consumers.
const (
	// Tolerance of probabilities and, relative to the largest, of the values
	// that go into the softmax. Float32 evaluations differ by some 1e-6; the
	// failures that the comparison looks for are 0.1 and more.
	Tolerance = 1e-4
	// StandardizedTolerance holds for models that standardise. In float32 an
	// image with a mean of 30000 and a spread of 180 is known to 1e-5 of its
	// spread, and a network may amplify that; measured were up to 2e-4, and
	// 0.08 for the failure that this comparison looks for.
	StandardizedTolerance = 2e-3
	// HalfTolerance holds for probabilities from float16 weights, which have
	// three decimal digits.
	HalfTolerance = 2e-2
)

// Certificate records what was checked about an exported file.
type Certificate struct {
	File                string `json:"file"`
	SHA256              string `json:"sha256"`
	Bytes               int64  `json:"bytes"`
	Opset               int64  `json:"opset"`
	IRVersion           int64  `json:"ir_version"`
	Precision           string `json:"precision"`
	Standardizes        bool   `json:"standardizes"`
	Multiple            int    `json:"multiple"` // of heights and widths; 0 where that is unknown
	Parameters          int    `json:"parameters"`
	BatchNormalizations int    `json:"batch_normalizations"`
	// Certified says that every check passed, that no program failed, and that at
	// least one that is independent of refocus predicted with the file.
	Certified bool       `json:"certified"`
	Checks    []Check    `json:"checks"`
	Consumers []Consumer `json:"consumers"`
}

// Check is one property of the file.
type Check struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail"`
}

// Consumer is the outcome of loading the file in an outside program.
type Consumer struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	Outcome string `json:"outcome"`          // Passed, Failed, Refused or Skipped
	Detail  string `json:"detail,omitempty"` // what failed, or why it was not asked
	// Predicts is false of a program that only checks the file.
	Predicts bool `json:"predicts"`
	// Largest differences from the backend.
	Probabilities float64 `json:"probabilities"`
	Logits        float64 `json:"logits"` // relative to the largest
	Tolerance     float64 `json:"tolerance"`
	// DiceDrop is how much worse than the backend's the segmentation of the
	// held-out images is, for float16 weights.
	DiceDrop *float64 `json:"dice_drop,omitempty"`
}

// Outcomes of a consumer.
const (
	Passed  = "passed"
	Failed  = "failed"
	Refused = "refused" // it cannot run a network from elsewhere, which does not speak against the file
	Skipped = "skipped"
)

// Summary says in a line what ran, for the console and the report.
func (c *Certificate) Summary() string {
	by := map[string][]string{}
	for _, k := range c.Consumers {
		by[k.Outcome] = append(by[k.Outcome], strings.TrimSpace(k.Name+" "+k.Version))
	}
	s := "not certified, since no independent program predicted with it"
	if c.Certified {
		s = "certified"
	}
	for _, o := range []string{Passed, Failed, Refused, Skipped} {
		if len(by[o]) > 0 {
			s += "; " + o + ": " + strings.Join(by[o], ", ")
		}
	}
	return s
}

// Err lists what failed, or is nil.
func (c *Certificate) Err() error {
	var failed []string
	for _, k := range c.Checks {
		if !k.Passed {
			failed = append(failed, k.Name+": "+k.Detail)
		}
	}
	for _, k := range c.Consumers {
		if k.Outcome == Failed {
			failed = append(failed, strings.TrimSpace(k.Name+" "+k.Version)+": "+k.Detail)
		}
	}
	if failed == nil {
		return nil
	}
	return errors.New("the file does not certify: " + strings.Join(failed, "; "))
}

// certifier certifies one file against the graph it was written from.
type certifier struct {
	model        Model
	graph        *nn.Graph // in the file
	options      Options
	metadata     map[string]string
	standardized bool
	half         bool

	cert   Certificate
	trials []trial // of the file
}

func (c *certifier) check(name string, err error, detail string, args ...any) {
	k := Check{name, err == nil, fmt.Sprintf(detail, args...)}
	if err != nil {
		k.Detail = err.Error()
	}
	c.cert.Checks = append(c.cert.Checks, k)
}

// certify checks the file at path, whose bytes should be data. An error means
// that it could not be checked.
func (c *certifier) certify(ctx context.Context, path string, data []byte) (*Certificate, error) {
	c.cert = Certificate{Precision: Float32, Standardizes: c.standardized, Multiple: c.graph.Multiple}
	if c.half {
		c.cert.Precision = Float16
	}
	disk, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if string(disk) != string(data) {
		c.check("file", errors.New("the file has other bytes than were written"), "")
		return &c.cert, nil
	}
	info, err := onnx.Inspect(disk)
	c.check("structure", err, "every message, name and tensor is in order")
	if err != nil {
		return &c.cert, nil
	}
	c.cert.Opset, c.cert.IRVersion = info.Opset, info.IRVersion
	c.checkInfo(info)
	if !c.reload(disk) {
		return &c.cert, nil
	}
	c.count()
	c.shapes()
	return &c.cert, c.predictions(ctx, path)
}

func (c *certifier) checkInfo(info onnx.Info) {
	var err error
	if info.Opset != nn.Opset || info.IRVersion != onnx.IRVersion {
		err = fmt.Errorf("opset %d, IR version %d", info.Opset, info.IRVersion)
	}
	c.check("version", err, "opset %d, IR version %d", info.Opset, info.IRVersion)
	err = nil
	if !maps.Equal(info.Metadata, c.metadata) {
		err = fmt.Errorf("metadata came back as %v, written were %v", info.Metadata, c.metadata)
	}
	c.check("metadata", err, "%d entries survive", len(info.Metadata))
}

// reload reads the network back, compares every bit, and has onnx-go confirm
// the reading.
func (c *certifier) reload(disk []byte) bool {
	same, what := sameBits, "every bit the same"
	if c.half {
		same, what = sameHalf, "weights as float16 rounds them"
	}
	g, err := onnx.Unmarshal(disk)
	if err == nil {
		if c.half { // what a Cast makes comes after the file's own tensors
			order := map[string]int{}
			for i, t := range c.graph.Tensors {
				order[t.Name] = i
			}
			slices.SortStableFunc(g.Tensors, func(a, b *nn.Tensor) int { return order[a.Name] - order[b.Name] })
		}
		err = sameGraph(g, c.graph, same)
	}
	c.check("reload", err, "%d nodes and %d tensors come back, %s", len(c.graph.Nodes), len(c.graph.Tensors), what)
	if err != nil || c.half { // onnx-go reads no float16
		return err == nil
	}
	err = onnxgo.Check(disk)
	c.check("onnx-go", err, "onnx-go reads the same operators, attributes and bits")
	return err == nil
}

// sameGraph compares graphs and names the first difference.
func sameGraph(got, want *nn.Graph, same func(got, want float32) bool) error {
	for i, t := range want.Tensors {
		if i >= len(got.Tensors) {
			return fmt.Errorf("tensor %q is missing", t.Name)
		}
		u := got.Tensors[i]
		if u.Name != t.Name || !slices.Equal(u.Shape, t.Shape) || u.Role != t.Role || len(u.Data) != len(t.Data) || !slices.Equal(u.Ints, t.Ints) {
			return fmt.Errorf("tensor %q %v (%v) came back as %q %v (%v)", t.Name, t.Shape, t.Role, u.Name, u.Shape, u.Role)
		}
		for k := range t.Data {
			if !same(u.Data[k], t.Data[k]) {
				return fmt.Errorf("tensor %q, element %d is %g, was %g", t.Name, k, u.Data[k], t.Data[k])
			}
		}
	}
	a, b := *got, *want
	a.Tensors, b.Tensors = nil, nil
	if len(got.Tensors) != len(want.Tensors) || !reflect.DeepEqual(a, b) {
		return errors.New("nodes, inputs, outputs or the number of tensors differ")
	}
	return nil
}

func sameBits(got, want float32) bool { return math.Float32bits(got) == math.Float32bits(want) }

// sameHalf allows the rounding to float16: half a unit of eleven bits, or of
// the smallest subnormal number.
func sameHalf(got, want float32) bool {
	return math.Abs(float64(got)-float64(want)) <= max(math.Abs(float64(want))/(1<<11), 1.0/(1<<25))
}

func (c *certifier) count() {
	trained, file := c.model.Graph, c.graph
	c.cert.BatchNormalizations = normalizations(file)
	for _, t := range file.Parameters() {
		if trained.Tensor(t.Name) != nil { // and not of what standardises
			c.cert.Parameters += t.Len()
		}
	}
	var err error
	if c.cert.Parameters != trained.Count("") || c.cert.BatchNormalizations != normalizations(trained) {
		err = fmt.Errorf("%d parameters and %d batch normalisations, trained were %d and %d",
			c.cert.Parameters, c.cert.BatchNormalizations, trained.Count(""), normalizations(trained))
	}
	c.check("totals", err, "%d parameters, %d batch normalisations, as trained", c.cert.Parameters, c.cert.BatchNormalizations)
}

func normalizations(g *nn.Graph) int {
	n := 0
	for _, node := range g.Nodes {
		if node.Op == "BatchNormalization" {
			n++
		}
	}
	return n
}

func (c *certifier) shapes() {
	var err error
	sizes := sizes(c.graph)
	for _, s := range sizes {
		shapes, e := c.graph.Shapes(s)
		if e == nil {
			want := []int{s[0], len(c.model.ClassNames), s[2], s[3]}
			if got := shapes[c.graph.Output.Name]; !slices.Equal(got, want) {
				e = fmt.Errorf("images %v give an output %v, not %v", s, got, want)
			}
		}
		err = errors.Join(err, e)
	}
	c.check("shapes", err, "images %v give outputs of their size", sizes)
}

// sizes are image sizes to try: one image, a batch, not square.
func sizes(g *nn.Graph) [][]int {
	p := 16
	if f, err := g.Field(); err == nil {
		p = f.Period
	}
	p = nn.LCM(p, max(1, g.Multiple))
	p = max(p, 8) // small images would be all border
	out := [][]int{{1, 0, 4 * p, 6 * p}, {3, 0, 2 * p, 3 * p}, {2, 0, 5 * p, 2 * p}}
	for _, s := range out {
		for i, d := range g.Input.Shape {
			if d > 0 {
				s[i] = d
			}
		}
	}
	return out
}

// synthetic is a standardised batch: noise with a bright disc.
func synthetic(shape []int) Tensor {
	x := Tensor{shape, make([]float32, shape[0]*shape[1]*shape[2]*shape[3])}
	plane := shape[2] * shape[3]
	for i := range shape[0] * shape[1] {
		r := random.Stream(0, "certify", uint64(i), uint64(shape[2]), uint64(shape[3]))
		cy, cx := r.Float64()*float64(shape[2]), r.Float64()*float64(shape[3])
		radius := 0.3 * float64(min(shape[2], shape[3]))
		d := x.Data[i*plane:][:plane]
		for p := range d {
			v := 0.7 * r.NormFloat64()
			if math.Hypot(float64(p/shape[3])-cy, float64(p%shape[3])-cx) < radius {
				v += 1.5
			}
			d[p] = float32(v)
		}
		standardize(d, shape[3])
	}
	return x
}

// standardize makes a single pixel 0, as the nodes of Standardize do.
func standardize(d []float32, width int) {
	if pixels.Standardize(d, width) != nil {
		clear(d)
	}
}

// trial is an input for a file and the answer expected.
type trial struct {
	file   string
	image  Tensor
	want   Tensor
	logits bool
	name   string
	finite bool // only a finite answer is asked for
}

// predictions compares what the backend and the consumers make of the file.
func (c *certifier) predictions(ctx context.Context, path string) error {
	trained := c.model.Graph
	logits := withoutSoftmax(trained)
	var logitsFile string
	if logits != nil && !c.half {
		// a sibling of the file: the same nodes but for the last
		g := logits
		if c.standardized {
			var err error
			if g, err = Standardize(logits); err != nil {
				return err
			}
		}
		data, err := onnx.Marshal(g, onnx.MarshalOptions{SamePadding: true})
		if err != nil {
			return err
		}
		logitsFile = path + ".logits.onnx"
		defer os.Remove(logitsFile)
		if err := os.WriteFile(logitsFile, data, 0o600); err != nil {
			return err
		}
	}
	images, err := c.images()
	if err != nil {
		return err
	}
	var trials []trial
	for _, im := range images {
		want, err := c.options.Predict(ctx, trained, im.standard)
		if err != nil {
			return fmt.Errorf("predicting with the backend: %w", err)
		}
		if err := finite(want.Data); err != nil {
			c.check("backend", err, "")
			return nil
		}
		trials = append(trials, trial{file: path, image: im.given, want: want, name: im.name, finite: im.constant})
		if logitsFile == "" || im.constant {
			continue
		}
		if want, err = c.options.Predict(ctx, logits, im.standard); err != nil {
			return fmt.Errorf("predicting with the backend: %w", err)
		}
		trials = append(trials, trial{file: logitsFile, image: im.given, want: want, logits: true, name: im.name})
	}
	if !c.half && !c.standardized {
		c.reloaded(ctx, path, trials)
	}
	c.trials = slices.DeleteFunc(slices.Clone(trials), func(t trial) bool { return t.logits })
	for _, k := range c.options.Consumers {
		if k.Name == consumer.PyTorch.Name {
			continue
		}
		r, err := c.consume(ctx, k, path, trials)
		if err != nil {
			return err
		}
		c.cert.Consumers = append(c.cert.Consumers, r)
	}
	c.cert.Certified = c.cert.Err() == nil && slices.ContainsFunc(c.cert.Consumers, func(k Consumer) bool { return k.Predicts && k.Outcome == Passed })
	return nil
}

// pyTorch states the network in PyTorch, writes its files to dir, and has PyTorch
// predict with them. It is nil where the network has no counterpart there, which the
// certificate then says.
func (c *certifier) pyTorch(ctx context.Context, dir string) (*torchFiles, error) {
	r := Consumer{Name: consumer.PyTorch.Name, Predicts: true, Outcome: Refused, Tolerance: Tolerance}
	t, err := newTorchFiles(c.model, c.graph)
	if err != nil {
		r.Detail = err.Error() + "; the package has no PyTorch weights"
		c.cert.Consumers = append(c.cert.Consumers, r)
		return nil, nil
	}
	if !slices.ContainsFunc(c.options.Consumers, func(k consumer.Consumer) bool { return k.Name == consumer.PyTorch.Name }) {
		return t, nil
	}
	path := filepath.Join(dir, torchWeights)
	for name, data := range map[string][]byte{path: t.weights, filepath.Join(dir, torchSource): t.source} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return nil, err
		}
	}
	trials := slices.Clone(c.trials)
	for i := range trials {
		trials[i].file = path
	}
	if r, err = c.consume(ctx, consumer.PyTorch, path, trials); err != nil {
		return nil, err
	}
	if r.Outcome == Refused { // the source is ours, wherever the network is from
		r.Outcome = Failed
	}
	c.cert.Consumers = append(c.cert.Consumers, r)
	return t, nil
}

// reloaded runs the network that the file holds on the backend: the same bits
// as those of the network in memory.
func (c *certifier) reloaded(ctx context.Context, path string, trials []trial) {
	err := func() error {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		g, err := onnx.Unmarshal(data)
		if err != nil {
			return err
		}
		for _, t := range trials {
			if t.logits {
				continue
			}
			y, err := c.options.Predict(ctx, g, t.image)
			if err != nil {
				return err
			}
			// a backend that is not deterministic may differ by rounding
			if d := difference(y.Data, t.want.Data); !(d <= Tolerance/10) {
				return fmt.Errorf("%s: differs by %.2g", t.name, d)
			}
		}
		return nil
	}()
	c.check("backend", err, "the network in the file predicts what the network in memory does")
}

// input is an image as the file takes it and as the trained network does.
type input struct {
	name            string
	given, standard Tensor
	constant        bool
}

func (c *certifier) images() ([]input, error) {
	var in []input
	add := func(name string, x Tensor) { in = append(in, input{name: name, given: x, standard: x}) }
	ss := sizes(c.graph)
	if !c.standardized {
		for _, s := range ss[:2] {
			add(fmt.Sprint("synthetic image ", s), synthetic(s))
		}
		if c.model.Example.Data != nil {
			add("example image", c.model.Example)
		}
		return in, nil
	}
	for i, offset := range []float64{0, 1000, 30000} {
		x := synthetic(ss[i])
		y := Tensor{x.Shape, slices.Clone(x.Data)}
		plane := x.Shape[2] * x.Shape[3]
		for at := 0; at < len(x.Data); at += plane {
			// counts with the spread of shot noise; every image of a batch has
			// its own, so that one that used another's statistics would show
			spread := 10 + math.Sqrt(offset) + float64(at/plane)
			d := x.Data[at:][:plane]
			for p := range d {
				d[p] = float32(offset + spread*float64(d[p]))
			}
			copy(y.Data[at:], d)
			standardize(d, x.Shape[3])
		}
		in = append(in, input{name: fmt.Sprintf("images %v with offset %g", x.Shape, offset), given: y, standard: x})
	}
	flat := Tensor{ss[0], make([]float32, len(in[0].given.Data))}
	zero := Tensor{ss[0], make([]float32, len(flat.Data))}
	for i := range flat.Data {
		flat.Data[i] = 1000
	}
	in = append(in, input{name: "constant image", given: flat, standard: zero, constant: true})
	return in, nil
}

// consume asks one consumer.
func (c *certifier) consume(ctx context.Context, k consumer.Consumer, path string, trials []trial) (Consumer, error) {
	r := Consumer{Name: k.Name, Outcome: Failed, Predicts: k.Predicts, Tolerance: Tolerance}
	switch {
	case c.half && k.Name != consumer.ONNXRuntime.Name && k.Name != consumer.Checker.Name:
		r.Outcome, r.Detail = Skipped, "does not read float16 weights"
		return r, nil
	case c.half:
		r.Tolerance = HalfTolerance
	case c.standardized:
		r.Tolerance = StandardizedTolerance
	}
	var runs []consumer.Run
	for _, t := range trials {
		abs, err := filepath.Abs(t.file)
		if err != nil {
			return r, err
		}
		runs = append(runs, consumer.Run{Model: abs, Shape: t.image.Shape, Data: t.image.Data})
	}
	if c.half && k.Predicts {
		for _, h := range c.model.Holdout {
			runs = append(runs, consumer.Run{Model: path, Shape: h.Shape, Data: h.Data})
		}
	}
	version, results, err := k.Predict(ctx, runs)
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if errors.Is(err, consumer.ErrMissing) {
		r.Outcome, r.Detail = Skipped, err.Error()
		return r, nil
	}
	unable := Failed // the outcome where it does not predict, or crashes, which is an answer, too
	if c.model.Imported && k.Predicts {
		unable = Refused
	}
	if err != nil {
		r.Outcome, r.Detail = unable, err.Error()
		return r, nil
	}
	r.Version, r.Outcome = version, Passed
	for i, t := range trials {
		err := r.judge(t, k.Predicts, results[i])
		if err == nil || r.Outcome == Failed {
			continue
		}
		outcome := Failed
		if results[i].Err != nil {
			outcome = unable
		}
		if r.Outcome == Passed || outcome == Failed {
			r.Outcome, r.Detail = outcome, fmt.Sprintf("%s: %v", t.name, err)
		}
	}
	if c.half && k.Predicts && len(c.model.Holdout) > 0 {
		drop, err := c.diceDrop(ctx, results[len(trials):])
		if err != nil {
			return r, err
		}
		r.DiceDrop = &drop
	}
	return r, nil
}

// judge compares what the consumer made of a trial with the backend's result, and
// notes the distance.
func (r *Consumer) judge(t trial, predicts bool, got consumer.Result) error {
	switch {
	case got.Err != nil:
		return got.Err
	case !predicts:
		return nil
	case t.finite:
		return finite(got.Data)
	}
	d := difference(got.Data, t.want.Data)
	if t.logits {
		d /= largest(t.want.Data)
		if r.Logits = max(r.Logits, bounded(d)); !(d <= r.Tolerance) {
			return fmt.Errorf("the softmax's input differs by %.2g of its largest value from the backend's, %g is tolerated", d, r.Tolerance)
		}
		return nil
	}
	if r.Probabilities = max(r.Probabilities, bounded(d)); !(d <= r.Tolerance) {
		return fmt.Errorf("probabilities differ by %.2g from the backend's, %g is tolerated", d, r.Tolerance)
	}
	return nil
}

// diceDrop compares the segmentation of the held-out images.
func (c *certifier) diceDrop(ctx context.Context, results []consumer.Result) (float64, error) {
	var drop float64
	for i, h := range c.model.Holdout {
		if results[i].Err != nil {
			return 0, results[i].Err
		}
		want, err := c.options.Predict(ctx, c.model.Graph, h.Tensor)
		if err != nil {
			return 0, err
		}
		drop += dice(want.Data, h.Labels, want.Shape) - dice(results[i].Data, h.Labels, want.Shape)
	}
	return drop / float64(len(c.model.Holdout)), nil
}

// dice is 2|A∩B| / (|A|+|B|) of the pixels that are predicted and labelled
// other than background; 1 where both are empty.
func dice(p []float32, labels []uint8, shape []int) float64 {
	k, plane := shape[1], shape[2]*shape[3]
	var both, sum int
	for i, l := range labels {
		n, at := i/plane, i%plane
		best := nn.MostProbable(p[n*k*plane:][:k*plane], plane, at)
		if best > 0 {
			sum++
		}
		if l > 0 {
			sum++
		}
		if best > 0 && int(l) == best {
			both++
		}
	}
	if sum == 0 {
		return 1
	}
	return 2 * float64(both) / float64(sum)
}

// withoutSoftmax returns the graph up to its last softmax, nil if it has none.
func withoutSoftmax(g *nn.Graph) *nn.Graph {
	last := g.Nodes[len(g.Nodes)-1]
	if last.Op != "Softmax" || last.Outputs[0] != g.Output.Name {
		return nil
	}
	h := g.Clone()
	h.Nodes = h.Nodes[:len(h.Nodes)-1]
	h.Output.Name = last.Inputs[0]
	return h
}

// difference is the largest absolute difference; anything that is not a number
// counts as infinite, and so does an answer of another size.
func difference(a, b []float32) float64 {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	var d float64
	for i := range a {
		e := math.Abs(float64(a[i]) - float64(b[i]))
		if math.IsNaN(e) {
			return math.Inf(1)
		}
		d = max(d, e)
	}
	return d
}

// bounded makes a difference fit for JSON.
func bounded(d float64) float64 { return min(d, math.MaxFloat32) }

func largest(x []float32) float64 {
	m := 1e-30
	for _, v := range x {
		m = max(m, math.Abs(float64(v)))
	}
	return m
}

func finite(x []float32) error {
	for i, v := range x {
		if v != v || math.IsInf(float64(v), 0) {
			return fmt.Errorf("element %d of the prediction is %g", i, v)
		}
	}
	return nil
}

// Program is an outside program that certifies exports.
type Program struct {
	Name, Install  string // Install is the command that gets it
	Version, Place string // of what is installed
	Err            error  // why it cannot be asked
}

// Programs looks for the programs that certify exports.
func Programs(ctx context.Context) []Program {
	var all []Program
	for _, k := range append(consumer.All(), consumer.PyTorch) {
		p := Program{Name: k.Name, Install: k.Install}
		p.Version, p.Place, p.Err = k.Version(ctx)
		all = append(all, p)
	}
	return all
}
