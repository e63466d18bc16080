package fast

import (
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/plugins/cpu/internal/kernel"
)

const lanes = kernel.Lanes

// blocks is the number of blocks of eight that hold n channels.
func blocks(n int) int { return (n + lanes - 1) / lanes }

// network is a graph in the terms of this engine: convolutions and one kind of
// pooling that read activations and write tensors. Everything between two
// convolutions (normalisation, ReLU, upsampling, concatenation, addition) is
// part of how they read and write.
type network struct {
	graph   *nn.Graph
	inputs  int // channels of the image
	classes int
	params  []*param
	byName  map[string]*param
	norms   []*norm
	tensors []*tensor
	ops     []*op // in execution order; the last one is the head
	values  map[string]*value
}

// param is a tensor of the graph in the engine's layout, a range of the arrays
// of values, gradients and moments.
type param struct {
	t      *nn.Tensor
	index  int // among graph.Parameters(), −1 for a statistic
	offset int // in floats
	length int // a multiple of 8
	op     *op // of a convolution's weight, which is packed
}

// tensor is an activation that is kept in memory, before normalisation.
type tensor struct {
	name     string
	channels int
	reduce   int // the image is this many times larger
	measured bool
	readers  []*op
	producer *op // nil for the image
}

// part is a tensor as a range of the channels of an activation.
type part struct {
	t     *tensor
	up    bool // upsampled ×2
	first int  // block of the activation
	// firstChannel counts channels without the padding of each part.
	firstChannel int
}

// norm is a BatchNormalization with the ReLU that follows it.
type norm struct {
	node              *nn.Node
	parts             []part
	channels          int
	scale, shift      *param
	mean, variance    *param
	epsilon, momentum float64
	readers           []*op
	blocks, position  int
}

type opKind int

const (
	convolution opKind = iota
	pooling
)

// op is a convolution or a 2×2 maximum pooling.
type op struct {
	kind  opKind
	node  *nn.Node
	norm  *norm // of the input; nil reads the tensor as it is
	parts []part
	out   *tensor
	// convolutions
	kernel, stride, pad   int
	inBlocks, outChannels int
	inChannels            int
	image                 bool // reads the image
	weight, bias          *param
	residual              *tensor // added to the output
}

// taps is the number of weights per pair of channels.
func (o *op) taps() int { return o.kernel * o.kernel }

// depth is the number of input channels as the weights count them: the image
// has no padding.
func (o *op) depth() int {
	if o.image {
		return o.inChannels
	}
	return o.inBlocks * lanes
}

// winograd reports whether the convolution runs as F(2,3). With few channels,
// transforms would take longer than what they save.
func (o *op) winograd() bool {
	few := o.inBlocks == 1 && o.outChannels <= lanes && !o.parts[0].up
	return o.kernel == 3 && o.stride == 1 && !o.image && !few && !o.upsampled()
}

// value is what a name of the graph stands for.
type value struct {
	parts []part
	norm  *norm
	relu  bool
	head  *op // logits
	final bool
	minus *tensor // the residual that is added to a convolution's output as it is written
}

// compiler turns a graph into a network by following its nodes.
type compiler struct {
	*network
	uses map[string]int
	// made holds the convolutions whose output an Add may still extend.
	made map[string]*op
}

func unsupported(n *nn.Node, format string, args ...any) error {
	return fmt.Errorf("node %q (%s): %s: %w", n.Name, n.Op, fmt.Sprintf(format, args...), backend.ErrUnsupported)
}

// compile recognises the operators of the U-Net family; the error wraps
// backend.ErrUnsupported for any other graph.
func compile(g *nn.Graph) (*network, error) {
	if err := g.Check(); err != nil {
		return nil, err
	}
	if len(g.Input.Shape) != 4 || g.Input.Shape[1] < 1 || len(g.Nodes) == 0 {
		return nil, fmt.Errorf("graph %q: the input must be [N,C,H,W] with a known number of channels: %w", g.Name, backend.ErrUnsupported)
	}
	c := &compiler{
		network: &network{graph: g, inputs: g.Input.Shape[1], byName: map[string]*param{}, values: map[string]*value{}},
		uses:    map[string]int{}, made: map[string]*op{},
	}
	for i, t := range g.Parameters() {
		c.byName[t.Name] = &param{t: t, index: i, length: blocks(t.Len()) * lanes}
		c.params = append(c.params, c.byName[t.Name])
	}
	for _, t := range g.Statistics() {
		c.byName[t.Name] = &param{t: t, index: -1, length: blocks(t.Len()) * lanes}
		c.params = append(c.params, c.byName[t.Name])
	}
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			c.uses[in]++
		}
	}
	image := &tensor{name: g.Input.Name, channels: c.inputs, reduce: 1}
	c.values[g.Input.Name] = &value{parts: []part{{t: image}}}
	for _, n := range g.Nodes {
		if len(n.Outputs) != 1 {
			return nil, unsupported(n, "has %d outputs", len(n.Outputs))
		}
		v, err := c.node(n)
		if err != nil {
			return nil, err
		}
		c.values[n.Outputs[0]] = v
	}
	if v := c.values[g.Output.Name]; v == nil || !v.final {
		return nil, fmt.Errorf("graph %q: the output is no Softmax over channels: %w", g.Name, backend.ErrUnsupported)
	}
	offset := 0
	for _, p := range c.params {
		p.offset = offset
		offset += p.length
	}
	return c.network, c.check()
}

// size is the number of floats of all parameters and statistics.
func (n *network) size() int {
	p := n.params[len(n.params)-1]
	return p.offset + p.length
}

// operators turn a node into what its output stands for, given what its first
// input stands for.
var operators = map[string]func(*compiler, *nn.Node, *value) (*value, error){
	"Conv":               (*compiler).conv,
	"BatchNormalization": (*compiler).normalisation,
	"Relu":               (*compiler).relu,
	"MaxPool":            (*compiler).pool,
	"Resize":             (*compiler).resize,
	"Concat":             (*compiler).concat,
	"Add":                (*compiler).sum,
	"Softmax":            (*compiler).softmax,
}

func (c *compiler) node(n *nn.Node) (*value, error) {
	x, err := c.input(n, 0)
	if err != nil {
		return nil, err
	}
	f := operators[n.Op]
	if f == nil {
		return nil, unsupported(n, "no such operator here")
	}
	return f(c, n, x)
}

// input is the activation that a node reads.
func (c *compiler) input(n *nn.Node, i int) (*value, error) {
	if i < len(n.Inputs) {
		if v := c.values[n.Inputs[i]]; v != nil && !v.final {
			return v, nil
		}
	}
	return nil, unsupported(n, "input %d is not an activation", i)
}

// plain reports whether the value is made of tensors as they are in memory,
// neither normalised nor the logits.
func (v *value) plain() bool { return v.norm == nil && v.head == nil }

// single is the value's only part, if it is a plain tensor that an operator of
// the graph made.
func (v *value) single() (p part, ok bool) {
	if !v.plain() || len(v.parts) != 1 || v.parts[0].t.producer == nil {
		return part{}, false
	}
	return v.parts[0], true
}

func (c *compiler) normalisation(n *nn.Node, x *value) (*value, error) {
	if !x.plain() || x.parts[0].t.producer == nil || len(n.Inputs) != 5 || n.Attrs.Int("training_mode", 0) != 0 {
		return nil, unsupported(n, "input is no sum, convolution, pooling or concatenation of these")
	}
	m := &norm{node: n, parts: x.parts, position: len(c.norms), epsilon: float64(n.Attrs.Float("epsilon", 1e-5)), momentum: float64(n.Attrs.Float("momentum", 0.9))}
	for i, p := range []**param{&m.scale, &m.shift, &m.mean, &m.variance} {
		if *p = c.byName[n.Inputs[1+i]]; *p == nil || c.uses[n.Inputs[1+i]] != 1 {
			return nil, unsupported(n, "input %d is no tensor of its own", 1+i)
		}
	}
	for _, p := range m.parts {
		m.channels += p.t.channels
		m.blocks += blocks(p.t.channels)
		p.t.measured = true
	}
	if m.scale.t.Len() != m.channels || m.scale.index < 0 || m.shift.index < 0 || m.mean.index >= 0 || m.variance.index >= 0 {
		return nil, unsupported(n, "its tensors do not fit %d channels", m.channels)
	}
	c.norms = append(c.norms, m)
	return &value{parts: x.parts, norm: m}, nil
}

func (c *compiler) relu(n *nn.Node, x *value) (*value, error) {
	if x.norm == nil || x.relu || c.uses[n.Inputs[0]] != 1 {
		return nil, unsupported(n, "does not directly follow a BatchNormalization")
	}
	return &value{parts: x.parts, norm: x.norm, relu: true}, nil
}

func (c *compiler) pool(n *nn.Node, x *value) (*value, error) {
	if !x.relu || len(x.parts) != 1 || x.parts[0].up || !ints(n, "kernel_shape", 2, 2) || !ints(n, "strides", 2, 2) ||
		!ints(n, "pads", 0, 0, 0, 0) || !ints(n, "dilations", 1, 1) || n.Attrs.Int("ceil_mode", 0) != 0 || n.Attrs.Str("auto_pad", "NOTSET") != "NOTSET" {
		return nil, unsupported(n, "only 2×2 windows after a ReLU are supported")
	}
	t := x.parts[0].t
	o := &op{kind: pooling, node: n, norm: x.norm, parts: x.parts}
	return c.add(o, &tensor{channels: t.channels, reduce: 2 * t.reduce}), nil
}

func (c *compiler) resize(n *nn.Node, x *value) (*value, error) {
	p, ok := x.single()
	if !ok || p.up || len(n.Inputs) != 3 || n.Inputs[1] != "" || !doubling(c.graph.Tensor(n.Inputs[2])) ||
		n.Attrs.Str("mode", "nearest") != "nearest" || n.Attrs.Str("coordinate_transformation_mode", "") != "asymmetric" || n.Attrs.Str("nearest_mode", "") != "floor" {
		return nil, unsupported(n, "only nearest-neighbour ×2 of a tensor is supported")
	}
	return &value{parts: []part{{t: p.t, up: true}}}, nil
}

// doubling reports whether a Resize with these scales doubles height and width.
func doubling(scales *nn.Tensor) bool {
	return scales != nil && slices.Equal(scales.Data, []float32{1, 1, 2, 2})
}

func (c *compiler) concat(n *nn.Node, _ *value) (*value, error) {
	if a := n.Attrs.Int("axis", 0); a != 1 && a != -3 {
		return nil, unsupported(n, "axis %d", a)
	}
	v := &value{}
	block, channel := 0, 0
	for i := range n.Inputs {
		x, err := c.input(n, i)
		if err != nil {
			return nil, err
		}
		p, ok := x.single()
		if !ok {
			return nil, unsupported(n, "input %d is no tensor", i)
		}
		if p.up && i > 0 {
			return nil, unsupported(n, "an upsampled input must be the first")
		}
		p.first, p.firstChannel = block, channel
		block, channel = block+blocks(p.t.channels), channel+p.t.channels
		v.parts = append(v.parts, p)
	}
	return v, nil
}

// sum makes the later convolution of the two add the other operand while it
// writes its output.
func (c *compiler) sum(n *nn.Node, x *value) (*value, error) {
	y, err := c.input(n, 1)
	if err != nil {
		return nil, err
	}
	if len(n.Inputs) == 2 {
		if v := c.residual(n, n.Inputs[0], x, y); v != nil {
			return v, nil
		}
		if v := c.residual(n, n.Inputs[1], y, x); v != nil {
			return v, nil
		}
	}
	return nil, unsupported(n, "is no residual added to a convolution used nowhere else")
}

// residual adds b to the convolution that made a, the value of that name; nil
// where this is not possible.
func (c *compiler) residual(n *nn.Node, name string, a, b *value) *value {
	o := c.made[name]
	if o == nil || c.uses[name] != 1 || c.ops[len(c.ops)-1] != o || o.bias != nil {
		return nil
	}
	p, ok := b.single()
	if !ok || p.up || p.t == a.parts[0].t || p.t.channels != o.outChannels || p.t.reduce != o.out.reduce {
		return nil
	}
	o.residual = p.t
	o.out.name = n.Outputs[0]
	delete(c.made, name)
	c.values[name] = &value{parts: []part{{t: o.out}}, minus: p.t}
	return &value{parts: []part{{t: o.out}}}
}

func (c *compiler) softmax(n *nn.Node, x *value) (*value, error) {
	if a := n.Attrs.Int("axis", -1); x.head == nil || a != 1 && a != -3 || n.Outputs[0] != c.graph.Output.Name {
		return nil, unsupported(n, "is not the softmax over the channels of the last convolution")
	}
	return &value{head: x.head, final: true}, nil
}

// add appends an operator, which writes out.
func (c *compiler) add(o *op, out *tensor) *value {
	out.name, out.producer = o.node.Outputs[0], o
	o.out = out
	if o.norm != nil {
		o.norm.readers = append(o.norm.readers, o)
	}
	for _, p := range o.parts {
		p.t.readers = append(p.t.readers, o)
	}
	c.ops = append(c.ops, o)
	c.tensors = append(c.tensors, out)
	return &value{parts: []part{{t: out}}}
}

func (c *compiler) conv(n *nn.Node, x *value) (*value, error) {
	if x.head != nil || x.norm != nil && !x.relu {
		return nil, unsupported(n, "reads a BatchNormalization without ReLU, or the logits")
	}
	w := c.byName[n.Inputs[1]]
	if w == nil || w.index < 0 || len(w.t.Shape) != 4 || c.uses[n.Inputs[1]] != 1 {
		return nil, unsupported(n, "weight is no parameter of its own")
	}
	o := &op{
		kind: convolution, node: n, norm: x.norm, parts: x.parts, image: x.parts[0].t.producer == nil,
		weight: w, outChannels: w.t.Shape[0], inChannels: w.t.Shape[1],
	}
	if err := o.window(); err != nil {
		return nil, err
	}
	for _, p := range x.parts {
		o.inBlocks += blocks(p.t.channels)
	}
	if (len(x.parts) > 1 || x.parts[0].up) && (x.norm == nil || !o.winograd() && !o.upsampled()) {
		return nil, unsupported(n, "a concatenated or upsampled input needs a normalised 3×3 convolution of stride 1")
	}
	w.op = o
	w.length = blocks(o.outChannels) * lanes * o.depth() * o.taps()
	if len(n.Inputs) > 2 && n.Inputs[2] != "" {
		return c.head(o)
	}
	v := c.output(o)
	c.made[n.Outputs[0]] = o
	return v, nil
}

// window takes the geometry of a convolution from its node.
func (o *op) window() error {
	n, shape := o.node, o.weight.t.Shape
	k := shape[2]
	o.kernel = k
	o.stride = n.Attrs.Ints("strides", 1, 1)[0]
	o.pad = n.Attrs.Ints("pads", 0, 0, 0, 0)[0]
	if shape[3] != k || !ints(n, "kernel_shape", k, k) || !ints(n, "strides", o.stride, o.stride) || !ints(n, "pads", o.pad, o.pad, o.pad, o.pad) ||
		!ints(n, "dilations", 1, 1) || n.Attrs.Int("group", 1) != 1 || n.Attrs.Str("auto_pad", "NOTSET") != "NOTSET" {
		return unsupported(n, "only square kernels without groups and dilations are supported")
	}
	if k%2 == 0 || o.pad != k/2 || o.stride != 1 && o.stride != 2 || k > 7 {
		return unsupported(n, "a %d×%d kernel with padding %d and stride %d is not supported", k, k, o.pad, o.stride)
	}
	return nil
}

// head is the convolution with a bias that makes the logits.
func (c *compiler) head(o *op) (*value, error) {
	n := o.node
	if o.bias = c.byName[n.Inputs[2]]; o.bias == nil || o.bias.index < 0 || c.uses[n.Inputs[2]] != 1 {
		return nil, unsupported(n, "bias is no parameter of its own")
	}
	if o.kernel != 1 || o.stride != 1 || o.outChannels > lanes || o.norm != nil || o.image {
		return nil, unsupported(n, "a bias is only supported in a 1×1 head of at most %d classes on a plain tensor", lanes)
	}
	c.output(o)
	c.classes = o.outChannels
	return &value{head: o}, nil
}

// output appends a convolution with a tensor of the size that it makes.
func (c *compiler) output(o *op) *value {
	t := &tensor{channels: o.outChannels, reduce: o.stride * o.parts[0].t.reduce}
	if o.parts[0].up {
		t.reduce /= 2
	}
	return c.add(o, t)
}

// ints reports whether an attribute is absent or has the value given.
func ints(n *nn.Node, name string, want ...int) bool {
	return slices.Equal(n.Attrs.Ints(name, want...), want)
}

// check refuses what single nodes do not show: which gradients must be summed.
func (n *network) check() error {
	g := n.graph
	if len(n.ops) == 0 || n.classes == 0 || n.ops[len(n.ops)-1].bias == nil {
		return fmt.Errorf("graph %q: the last operator is no 1×1 convolution with a bias: %w", g.Name, backend.ErrUnsupported)
	}
	for i, o := range n.ops {
		last := i == len(n.ops)-1
		if (o.bias != nil) != last {
			return unsupported(o.node, "only the last convolution may have a bias")
		}
		if o.norm == nil && !o.image && !last {
			return unsupported(o.node, "input is not normalised")
		}
		if last && len(o.parts[0].t.readers) != 1 {
			return unsupported(o.node, "the head shares its input")
		}
	}
	// The readers of one activation are one 3×3 convolution of stride 1, one
	// pooling, or directly computed convolutions whose gradients are summed.
	for _, m := range n.norms {
		if len(m.readers) == 0 {
			return unsupported(m.node, "nothing reads it")
		}
		if len(m.readers) > 1 {
			for _, o := range m.readers {
				if o.kind != convolution || o.winograd() || o.upsampled() || o.stride != m.readers[0].stride {
					return unsupported(m.node, "its readers cannot be combined")
				}
			}
		}
	}
	return nil
}
