package gorgonia

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	G "gorgonia.org/gorgonia"
	"gorgonia.org/tensor"

	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// plan is a compiled expression graph for one input shape.
type plan struct {
	exec   *executor
	images *tensor.Dense
	labels *tensor.Dense // [N,H,W] as numbers, on a GPU as bytes in its first quarter; nil without a loss
	loss   float64       // of the last run
	norms  []norm
	// grads holds a node per trainable parameter, in the graph's order.
	grads      G.Nodes
	parameters []string
	classes    int // K of the output [N,K,H,W]
	output     []int
	values     map[string]*G.Node
	machine    G.VM
	ops        []*op
	// lent and others are how many numbers a run holds, by whoever allocates them.
	lent, others int64
}

// request says what a plan computes.
type request struct {
	shape    []int    // [N,C,H,W]
	training bool     // batch statistics instead of running ones
	scored   string   // the value to compute a loss and its gradients from, or ""
	frozen   []string // groups without a gradient
	targets  []string // values to keep
}

// building guards Gorgonia's package-level state (pooled types and nodes,
// shared constants), which building a graph touches and running one does not.
var building sync.Mutex

// newPlan builds, differentiates and compiles.
func newPlan(net *nn.Graph, exec *executor, weights map[string]*tensor.Dense, r request) (p *plan, err error) {
	// Gorgonia panics where its types or shapes do not fit; a session survives.
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("gorgonia cannot build the network for input shape %v: %v", r.shape, v)
		}
	}()
	shapes, err := net.Shapes(r.shape)
	if err != nil {
		return nil, err
	}
	images := 4.0
	for _, d := range r.shape {
		images *= float64(d)
	}
	if err := within(r.shape, int64(min(images, 1<<62)), exec); err != nil {
		return nil, err
	}
	building.Lock()
	defer building.Unlock()
	// Gorgonia merges nodes with equal 32-bit hashes. Two of a few hundred
	// collide once in a hundred thousand graphs; then another salt does it.
	for salt := range 8 {
		p, distinct, err := buildPlan(net, exec, weights, r, shapes, salt)
		if err != nil || distinct {
			return p, err
		}
	}
	return nil, fmt.Errorf("hashes of Gorgonia nodes keep colliding")
}

func buildPlan(net *nn.Graph, exec *executor, weights map[string]*tensor.Dense, r request, shapes map[string][]int, salt int) (p *plan, distinct bool, err error) {
	b := &builder{net: net, exec: exec, graph: G.NewGraph(), salt: salt, inputs: map[*op]G.Nodes{},
		shapes: shapes, weights: weights, train: map[string]bool{}, training: r.training}
	out := shapes[net.Output.Name]
	p = &plan{exec: exec, classes: out[1], output: out}
	defer func() {
		if err != nil || !distinct {
			err = errors.Join(err, p.close())
		}
	}()
	if p.images, err = p.permanent(r.shape...); err != nil {
		return nil, false, err
	}
	if r.scored != "" {
		for _, t := range net.Parameters() {
			b.train[t.Name] = !slices.Contains(r.frozen, nn.Group(t.Name))
		}
	}
	image := G.NewTensor(b.graph, tensor.Float32, 4, G.WithShape(r.shape...), G.WithName(net.Input.Name), G.WithValue(p.images))
	targets := r.targets
	if r.scored != "" {
		targets = append(slices.Clone(targets), r.scored)
	}
	if err := b.forward(image, targets...); err != nil {
		return nil, false, err
	}
	keep := map[*G.Node]bool{}
	for _, t := range r.targets {
		keep[b.values[t]] = true
	}
	if r.scored != "" {
		if err := p.addLoss(b, r.scored); err != nil {
			return nil, false, err
		}
	}
	p.values, p.norms = b.values, b.norms
	for _, n := range p.grads {
		keep[n] = true
	}
	b.countUses(keep)
	seen := map[uint32]bool{}
	for _, n := range b.graph.AllNodes() {
		if h := n.Hashcode(); seen[h] {
			return nil, false, nil
		} else {
			seen[h] = true
		}
	}
	if p.lent, p.others, err = b.floats(); err != nil {
		return nil, false, err
	}
	p.ops = b.ops
	if exec.gpu != nil {
		p.machine = G.NewTapeMachine(b.graph, G.WithEngine(onGPU{exec}))
	} else {
		p.machine = G.NewTapeMachine(b.graph)
	}
	return p, true, nil
}

// permanent is the executor's, called from another goroutine than the device's.
func (p *plan) permanent(shape ...int) (t *tensor.Dense, err error) {
	err = p.exec.do(func() error {
		t, err = p.exec.permanent(shape...)
		return err
	})
	return t, err
}

// prepare uploads what the operators need besides their inputs.
func (p *plan) prepare() error {
	if p.exec.gpu == nil {
		return nil
	}
	for _, o := range p.ops {
		if a, ok := o.arithmetic.(prepared); ok {
			if err := a.prepare(p.exec.gpu, o); err != nil {
				return fmt.Errorf("%v: %w", o, err)
			}
		}
	}
	return nil
}

// close frees the machine and what the plan holds of the device.
func (p *plan) close() error {
	var errs []error
	if p.machine != nil {
		errs = append(errs, p.machine.Close())
	}
	errs = append(errs, p.exec.do(func() error {
		var errs []error
		for _, t := range []*tensor.Dense{p.images, p.labels} {
			if t != nil {
				errs = append(errs, p.exec.arena.memory.free(t))
			}
		}
		for _, o := range p.ops {
			for _, t := range o.tables {
				errs = append(errs, p.exec.gpu.Free(t))
			}
		}
		return errors.Join(errs...)
	}))
	return errors.Join(errs...)
}

// pixelwise reports an output that has not one class vector per label.
func (p *plan) pixelwise() error {
	in := p.images.Shape()
	if p.output[2] != in[2] || p.output[3] != in[3] {
		return fmt.Errorf("the network turns images of %d×%d into %d×%d, labels have the size of the images", in[2], in[3], p.output[2], p.output[3])
	}
	return nil
}

// labelsName is no value's name in an ONNX graph.
const labelsName = "labels of the loss"

func (p *plan) addLoss(b *builder, z string) error {
	if err := p.pixelwise(); err != nil {
		return err
	}
	s := b.shapes[z]
	var err error
	if p.labels, err = p.permanent(s[0], s[2], s[3]); err != nil {
		return err
	}
	labels := G.NewTensor(b.graph, tensor.Float32, 3, G.WithShape(s[0], s[2], s[3]), G.WithName(labelsName), G.WithValue(p.labels))
	x := b.values[z]
	cost, err := b.apply("loss", crossEntropy{softmax{s[0], s[1], s[2] * s[3]}, &p.loss}, nil, []bool{b.need[x], false}, x, labels)
	if err != nil {
		return err
	}
	var wrt G.Nodes
	for _, t := range b.net.Parameters() {
		if b.train[t.Name] {
			wrt = append(wrt, b.values[t.Name])
			p.parameters = append(p.parameters, t.Name)
		}
	}
	if len(wrt) == 0 {
		return nil
	}
	if p.grads, err = G.Grad(cost, wrt...); err != nil {
		return fmt.Errorf("differentiating: %w", err)
	}
	return nil
}

// countUses tells each operator how many own operators read its result. Results
// to keep, and those that Gorgonia's own operators read (the sums of several
// gradients, which may reuse the memory), stay until the end of the run.
func (b *builder) countUses(keep map[*G.Node]bool) {
	uses := map[*G.Node]int{}
	for _, o := range b.ops {
		for _, n := range b.inputs[o] {
			uses[n]++
		}
	}
	for _, n := range b.graph.AllNodes() {
		if own(n) == nil {
			for it := b.graph.From(n.ID()); it.Next(); {
				keep[it.Node().(*G.Node)] = true
			}
		}
	}
	for _, n := range b.graph.AllNodes() {
		if o := own(n); o != nil && !keep[n] {
			o.uses = uses[n]
		}
	}
}

// run executes the plan on a batch: on a GPU it only queues the work. Values are
// readable until the arena reclaims them.
func (p *plan) run(b engine.Batch) error {
	x := p.exec
	x.failed, x.after = nil, x.after[:0]
	if err := x.do(func() error { return p.load(b) }); err != nil {
		return err
	}
	err := p.machine.RunAll()
	p.machine.Reset()
	if stop := x.interrupted(); stop != nil {
		return stop
	}
	if x.failed != nil {
		return x.failed
	}
	return err
}

// load puts a batch where the graph reads it.
func (p *plan) load(b engine.Batch) error {
	if err := p.exec.set(p.images, b.Images.F32); err != nil || p.labels == nil {
		return err
	}
	if p.exec.gpu != nil {
		return p.exec.gpu.Upload(spanOf(p.labels).Pointer, b.Labels)
	}
	numbers := p.labels.Data().([]float32)
	for i := range numbers {
		numbers[i] = float32(b.Labels[i])
	}
	return nil
}

// value is what the last run computed for a value of the graph.
func (p *plan) value(name string) *tensor.Dense { return p.values[name].Value().(*tensor.Dense) }

// imageLosses computes the images' losses from a value of the last run, and returns
// them when it is called after the executor is done.
func (p *plan) imageLosses(scored string, b engine.Batch) (func() []float64, error) {
	n, h, w := b.Size()
	pixels, k, z := h*w, p.classes, p.value(scored)
	if d := p.exec.gpu; d != nil {
		at, err := p.exec.arena.tensor(tensor.Shape{ceil(len(b.Labels), 4)}, 0)
		if err != nil {
			return nil, err
		}
		labels := spanOf(at).Pointer
		if err := d.Upload(labels, b.Labels); err != nil {
			return nil, err
		}
		return softmax{n, k, pixels}.imageLosses(d, spanOf(z).Pointer, labels)
	}
	losses := make([]float64, n)
	data := z.Data().([]float32)
	p.exec.workers.Run(n, func(_, i int) {
		losses[i] = imageLoss(data[i*k*pixels:][:k*pixels], b.Labels[i*pixels:][:pixels], k)
	})
	return func() []float64 { return losses }, nil
}

// commit moves the running statistics as a training step does.
func (p *plan) commit(weights map[string]*tensor.Dense) error {
	for _, n := range p.norms {
		m, v := weights[n.node.Inputs[3]], weights[n.node.Inputs[4]]
		if d := p.exec.gpu; d != nil {
			if err := n.running(d, spanOf(m), spanOf(v)); err != nil {
				return err
			}
			continue
		}
		mean, variance := m.Data().([]float32), v.Data().([]float32)
		count := float64(n.batch.count)
		for c := range mean {
			mean[c] = float32(float64(n.momentum*float64(mean[c])) + float64((1-n.momentum)*n.batch.mean[c]))
			variance[c] = float32(float64(n.momentum*float64(variance[c])) + (1-n.momentum)*n.batch.variance[c]*count/(count-1))
		}
	}
	return nil
}
