package onnx

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// Operator sets that importGraph knows the semantics of.
const (
	minOpset = 11
	maxOpset = 17
)

// maxUnit bounds the divisibility that an import may assume of image sizes.
const maxUnit = 1024

// importGraph states the file's operators in the form of package nn.
//
// Exporters compute sizes inside the network (Shape, Gather, Mul, Concat, …)
// and resize or pad to them. The importer follows these computations with
// forms, numbers that are linear in the sizes of the input. They stay linear
// as long as sizes divide by the strides that they meet, so the importer takes
// H and W in units of m and begins again with a larger m where one does not
// divide. What was decided under that assumption holds only for sizes that are
// multiples of m, and the graph says so (nn.Graph.Multiple).
func (f *file) importGraph() (*nn.Graph, error) {
	if f.Opset < minOpset || f.Opset > maxOpset {
		return nil, fmt.Errorf("operator set %d is not supported; %d to %d are", f.Opset, minOpset, maxOpset)
	}
	if len(f.Inputs) != 1 || len(f.Outputs) != 1 {
		return nil, fmt.Errorf("%d inputs and %d outputs: networks with one of each are supported", len(f.Inputs), len(f.Outputs))
	}
	for _, v := range []struct {
		wire.Value
		what string
	}{{f.Inputs[0], "input"}, {f.Outputs[0], "output"}} {
		if v.Type != wire.Float32 {
			return nil, fmt.Errorf("%s %q has type %s; float32 is supported", v.what, v.Name, v.Type)
		}
	}
	if in := f.Inputs[0]; !in.Known || len(in.Dims) != 4 || in.Dims[1] == 0 {
		return nil, fmt.Errorf("input %q has shape %v; [N,C,H,W] with a fixed C is supported", in.Name, in.Dims)
	}
	if out := f.Outputs[0]; out.Known && len(out.Dims) != 4 {
		return nil, fmt.Errorf("output %q has shape %v; four dimensions [N,K,H,W] are supported", out.Name, out.Dims)
	}
	unit := 1
	for {
		im := &importer{file: f, unit: unit, values: map[string]*value{}, used: map[string]bool{},
			valueNames: map[string]bool{}, nodeNames: map[string]bool{}}
		g, err := im.run()
		var finer *finerError
		if !errors.As(err, &finer) {
			return g, err
		}
		if unit *= finer.factor; unit > maxUnit {
			return nil, fmt.Errorf("%w: sizes inside the network are computed in a way that is not supported", err)
		}
	}
}

// finerError asks for an import with a larger unit.
type finerError struct{ factor int }

func (e *finerError) Error() string {
	return fmt.Sprintf("a size does not divide by a stride (factor %d)", e.factor)
}

type importer struct {
	*file
	unit    int
	assumed bool // a decision holds only for multiples of unit
	values  map[string]*value
	used    map[string]bool // constants that the nodes need
	extra   []*nn.Tensor    // constants that are no initialisers
	nodes   []*nn.Node

	valueNames, nodeNames map[string]bool // taken
}

// value is what a name in the file stands for: an image in the network, a
// constant, or a small tensor computed from sizes.
type value struct {
	image    string      // the nn value's name
	dims     []form      // of an image, without transposition
	perm     []int       // the image is to be transposed so
	array    *wire.Array // constant
	constant string      // its name
	shape    []int       // of a computed tensor
	forms    []form      // its elements
	integer  bool        // its element type
	broken   string      // a computed tensor that could not be followed, and why
}

func (im *importer) run() (*nn.Graph, error) {
	in := im.Inputs[0]
	dims := make([]form, 4)
	for i, d := range in.Dims {
		switch {
		case d > 0:
			dims[i] = constant(d)
		case i == 0:
			dims[i] = form{n: 1}
		case i == 2:
			dims[i] = form{h: float64(im.unit)}
		case i == 3:
			dims[i] = form{w: float64(im.unit)}
		}
	}
	im.values[in.Name] = &value{image: in.Name, dims: dims}
	im.valueNames[in.Name] = true
	for _, t := range im.Tensors {
		im.values[t.Name] = &value{array: im.constants[t.Name], constant: t.Name}
		im.valueNames[t.Name] = true
	}
	for _, o := range im.operators {
		im.nodeNames[o.Name] = true
		for _, out := range o.Outputs {
			im.valueNames[out] = true
		}
	}
	for _, o := range im.operators {
		if err := im.operator(o); err != nil {
			return nil, &NodeError{o.Label(), err}
		}
	}
	return im.graph()
}

func (im *importer) operator(o *operator) error {
	r, ok := rules[o.Op]
	if !ok {
		return errors.New("the operator is not supported")
	}
	for i, out := range o.Outputs[1:] {
		if out != "" {
			return fmt.Errorf("output %d (%q) is not supported", i+1, out)
		}
	}
	if n := len(o.Inputs); n < r.least || n > r.most {
		return fmt.Errorf("has %d inputs, needs %d to %d", n, r.least, r.most)
	}
	for i := range r.least {
		if im.input(o, i) == nil {
			return fmt.Errorf("input %d is missing", i)
		}
	}
	a := &attributes{o: o, seen: map[string]bool{}}
	if err := r.apply(im, o, a); err != nil {
		return err
	}
	return a.err()
}

func (im *importer) graph() (*nn.Graph, error) {
	in, out := im.Inputs[0], im.Outputs[0]
	v := im.values[out.Name]
	if v.image == "" || v.perm != nil {
		return nil, fmt.Errorf("graph output %q is no image [N,K,H,W] computed from the input", out.Name)
	}
	g := &nn.Graph{Name: im.Name, Nodes: im.nodes, Input: nn.Value{Name: in.Name, Shape: in.Dims}}
	g.Output = nn.Value{Name: out.Name, Shape: make([]int, 4)}
	for i, d := range v.dims {
		k, fixed := d.integer()
		if fixed {
			g.Output.Shape[i] = k
		}
		if out.Known && out.Dims[i] > 0 && !(fixed && k == out.Dims[i]) {
			return nil, fmt.Errorf("graph output %q is declared with shape %v (0: dynamic), its dimension %d is %v", out.Name, out.Dims, i, d)
		}
	}
	if m, ok := im.Metadata[multipleKey]; ok { // from an earlier import
		var err error
		if g.Multiple, err = strconv.Atoi(m); err != nil || g.Multiple < 2 || g.Multiple > maxUnit {
			return nil, fmt.Errorf("metadata %q = %q is no number from 2 to %d", multipleKey, m, maxUnit)
		}
	}
	if im.assumed && im.unit > 1 {
		g.Multiple = nn.LCM(max(1, g.Multiple), im.unit)
	}
	if v.image != out.Name { // operators that changed nothing stood between
		if v.image == in.Name {
			return nil, errors.New("the output is the input: there is no network")
		}
		for _, n := range g.Nodes {
			for _, s := range [][]string{n.Inputs, n.Outputs} {
				for i := range s {
					if s[i] == v.image {
						s[i] = out.Name
					}
				}
			}
		}
	}
	for _, t := range im.Tensors {
		if im.used[t.Name] {
			g.Tensors = append(g.Tensors, newTensor(t.Name, im.constants[t.Name]))
		}
	}
	g.Tensors = append(g.Tensors, im.extra...)
	g.AssignRoles()
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

func newTensor(name string, a *wire.Array) *nn.Tensor {
	return &nn.Tensor{Name: name, Shape: a.Shape, Data: a.F32, Ints: a.Ints}
}

// emit appends a node that computes an image.
func (im *importer) emit(o *operator, op string, inputs []string, attrs nn.Attrs, dims []form) error {
	for i, d := range dims {
		if k, fixed := d.integer(); fixed && k < 1 || !d.whole() || !d.exact() {
			return fmt.Errorf("dimension %d of the output is %v, which is out of range", i, d)
		}
	}
	name := o.Name
	if name == "" { // the specification allows nodes without names
		name = im.fresh(im.nodeNames, o.Outputs[0])
	}
	for len(inputs) > 0 && inputs[len(inputs)-1] == "" {
		inputs = inputs[:len(inputs)-1]
	}
	out := o.Outputs[0]
	im.nodes = append(im.nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{out}, Attrs: attrs})
	im.values[out] = &value{image: out, dims: dims}
	return nil
}

// set gives the operator's output a value without a node.
func (im *importer) set(o *operator, v *value) error {
	im.values[o.Outputs[0]] = v
	return nil
}

// input returns the operator's i-th input, nil where it is omitted.
func (im *importer) input(o *operator, i int) *value {
	if i >= len(o.Inputs) || o.Inputs[i] == "" {
		return nil
	}
	return im.values[o.Inputs[i]]
}

// image returns the operator's i-th input, which must be an image.
func (im *importer) image(o *operator, i int) (*value, error) {
	v := im.input(o, i)
	switch {
	case v == nil:
		return nil, fmt.Errorf("input %d is missing", i)
	case v.image == "":
		return nil, fmt.Errorf("input %d (%q) is no image computed from the network's input", i, o.Inputs[i])
	case v.perm != nil:
		return nil, fmt.Errorf("input %d (%q) is transposed by %v, which only Softmax is supported on", i, o.Inputs[i], v.perm)
	}
	return v, nil
}

// weight returns the name and array of the operator's i-th input, a float32
// constant of the given shape (-1: any size).
func (im *importer) weight(o *operator, i int, shape ...int) (string, *wire.Array, error) {
	v := im.input(o, i)
	if v == nil {
		return "", nil, fmt.Errorf("input %d is missing", i)
	}
	if v.array == nil {
		return "", nil, fmt.Errorf("input %d (%q) is computed by the network; constants are supported", i, o.Inputs[i])
	}
	if v.array.F32 == nil {
		return "", nil, fmt.Errorf("input %d (%q) is not of type float32", i, o.Inputs[i])
	}
	ok := len(v.array.Shape) == len(shape)
	for j := range shape {
		ok = ok && (shape[j] == v.array.Shape[j] || shape[j] < 0)
	}
	if !ok {
		return "", nil, fmt.Errorf("input %d (%q) has shape %v, needs %v (-1: any)", i, o.Inputs[i], v.array.Shape, shape)
	}
	im.use(v)
	return v.constant, v.array, nil
}

// use marks a constant as needed by the graph.
func (im *importer) use(v *value) {
	if im.used[v.constant] {
		return
	}
	im.used[v.constant] = true
	if im.constants[v.constant] == nil {
		im.extra = append(im.extra, newTensor(v.constant, v.array))
	}
}

// fresh returns a name that is not taken yet.
func (im *importer) fresh(taken map[string]bool, name string) string {
	for taken[name] {
		name += "_"
	}
	taken[name] = true
	return name
}

// floor divides a size by a stride and rounds down.
func floorDiv(a form, s int) (form, error) {
	q, finer := a.floor(s)
	if finer > 1 {
		return q, &finerError{finer}
	}
	return q, nil
}

// decided records that a decision rests on the forms.
func (im *importer) decided(forms ...form) {
	for _, f := range forms {
		im.assumed = im.assumed || f.sized()
	}
}

// attributes gives typed access to an operator's attributes and finds those
// that nobody asked for.
type attributes struct {
	o     *operator
	seen  map[string]bool
	first error
}

func (a *attributes) get(name string) any {
	a.seen[name] = true
	return a.o.values[name]
}

func (a *attributes) fail(format string, args ...any) {
	if a.first == nil {
		a.first = fmt.Errorf(format, args...)
	}
}

func lookup[T any](a *attributes, name string, def T) T {
	switch v := a.get(name).(type) {
	case nil:
		return def
	case T:
		return v
	default:
		a.fail("attribute %q has type %T, needs %T", name, v, def)
		return def
	}
}

// int returns an attribute that must lie from least to most.
func (a *attributes) int(name string, def, least, most int64) int64 {
	v := lookup(a, name, def)
	if v < least || v > most {
		a.fail("attribute %q = %d is not supported (from %d to %d are)", name, v, least, most)
		return def
	}
	return v
}

// ints returns an attribute with n elements from least to most.
func (a *attributes) ints(name string, def []int64, n int, least, most int64) []int64 {
	v := lookup(a, name, def)
	if v == nil {
		return nil
	}
	if len(v) != n {
		a.fail("attribute %q = %v has %d elements, %d are supported", name, v, len(v), n)
		return def
	}
	for _, x := range v {
		if x < least || x > most {
			a.fail("attribute %q = %v is not supported (from %d to %d are)", name, v, least, most)
			return def
		}
	}
	return v
}

// oneOf returns a string attribute that must be one of the choices, the first
// of which is the default.
func (a *attributes) oneOf(name string, choices ...string) string {
	v := lookup(a, name, choices[0])
	if !slices.Contains(choices, v) {
		a.fail("attribute %q = %q is not supported (%q are)", name, v, choices)
	}
	return v
}

// keep copies the named attributes that the operator has.
func (a *attributes) keep(names ...string) nn.Attrs {
	attrs := nn.Attrs{}
	for _, n := range names {
		if v, ok := a.o.values[n]; ok {
			attrs[n] = v
		}
		a.seen[n] = true
	}
	return attrs
}

// err is the first complaint, or that of an attribute nobody asked for.
func (a *attributes) err() error {
	if a.first != nil {
		return a.first
	}
	for _, r := range a.o.Attrs {
		if !a.seen[r.Name] {
			return fmt.Errorf("attribute %q is not supported", r.Name)
		}
	}
	return nil
}
