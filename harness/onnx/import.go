package onnx

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// Operator sets that importGraph knows the semantics of. MaxOpset is the newest
// that onnx has released.
const (
	minOpset = 7
	maxOpset = 28
)

// maxUnit bounds the divisibility that an import may assume of image sizes.
const maxUnit = 1024

// importGraph states the file's operators, as far as the named output needs
// them, in the form of package nn. No name means the first output.
//
// Exporters compute sizes inside the network (Shape, Gather, Mul, Concat, …)
// and resize or pad to them. The importer follows these computations with
// forms, numbers that are linear in the sizes of the input. They stay linear
// as long as sizes divide by the strides that they meet, so the importer takes
// H and W in units of m and begins again with a larger m where one does not
// divide. What was decided under that assumption holds only for sizes that are
// multiples of m, and the graph says so (nn.Graph.Multiple).
func (f *file) importGraph(output string) (*nn.Graph, error) {
	if f.Opset < minOpset || f.Opset > maxOpset {
		return nil, fmt.Errorf("operator set %d is not supported; %d to %d are", f.Opset, minOpset, maxOpset)
	}
	if len(f.Inputs) != 1 || len(f.Outputs) == 0 {
		return nil, fmt.Errorf("%d inputs and %d outputs: networks with one input are supported", len(f.Inputs), len(f.Outputs))
	}
	in, out := f.Inputs[0], f.Outputs[0]
	if output != "" {
		i := slices.IndexFunc(f.Outputs, func(v wire.Value) bool { return v.Name == output })
		if i < 0 {
			return nil, fmt.Errorf("no output %q; there are %q", output, f.outputNames())
		}
		out = f.Outputs[i]
	}
	if !in.Type.IsFloat() {
		return nil, fmt.Errorf("input %q has type %s; floating-point numbers are supported", in.Name, in.Type)
	}
	if !in.Known || len(in.Dims) != 4 {
		return nil, fmt.Errorf("input %q has shape %v; [N,C,H,W] with a fixed C is supported", in.Name, in.Dims)
	}
	f.operators = f.needed(out.Name)
	unit := 1
	for {
		im := &importer{file: f, in: in, out: out, unit: unit, values: map[string]*value{}, used: map[string]bool{},
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

func (f *file) outputNames() []string {
	var r []string
	for _, v := range f.Outputs {
		r = append(r, v.Name)
	}
	return r
}

// needed lists the operators that a value is computed by, in their order.
func (f *file) needed(name string) []*operator {
	need := map[string]bool{name: true}
	var r []*operator
	for _, o := range slices.Backward(f.operators) {
		if slices.ContainsFunc(o.Outputs, func(s string) bool { return s != "" && need[s] }) {
			for _, in := range o.Inputs {
				need[in] = true
			}
			r = append(r, o)
		}
	}
	slices.Reverse(r)
	return r
}

// finerError asks for an import with a larger unit.
type finerError struct{ factor int }

func (e *finerError) Error() string {
	return fmt.Sprintf("a size does not divide by a stride (factor %d)", e.factor)
}

type importer struct {
	*file
	in, out wire.Value
	unit    int
	assumed bool // a decision holds only for multiples of unit
	values  map[string]*value
	sized   map[[3]form]*value // the first image of a batch, height and width
	budget  int                // elements that computed values may still have
	used    map[string]bool    // constants that the nodes need
	extra   []*nn.Tensor       // constants that are no initialisers
	nodes   []*nn.Node

	valueNames, nodeNames map[string]bool // taken
}

func (im *importer) run() (*nn.Graph, error) {
	view, err := im.layout()
	if err != nil {
		return nil, err
	}
	dims := make([]form, 4)
	for i, d := range im.in.Dims {
		at := i
		if view != nil {
			at = view[i]
		}
		switch {
		case d > 0:
			dims[at] = constant(d)
		case at == 0:
			dims[at] = form{n: 1}
		case at == 1:
			return nil, fmt.Errorf("input %q has shape %v; [N,C,H,W] with a fixed C is supported", im.in.Name, im.in.Dims)
		case at == 2:
			dims[at] = form{h: float64(im.unit)}
		case at == 3:
			dims[at] = form{w: float64(im.unit)}
		}
	}
	v := &value{image: im.in.Name, dims: dims, view: view}
	im.values[im.in.Name] = v
	im.sizedAs(v)
	im.valueNames[im.in.Name] = true
	im.budget = maxFolded
	for _, c := range im.constants {
		im.budget += 4 * c.Len()
	}
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

// layout is the view of the input: [N,H,W,C] where all that reads it turns it
// into [N,C,H,W] first, as networks that come from TensorFlow do.
func (im *importer) layout() ([]int, error) {
	readers := 0
	for _, o := range im.operators {
		if !slices.Contains(o.Inputs, im.in.Name) {
			continue
		}
		perm, _ := o.values["perm"].([]int64)
		if o.Op != "Transpose" || !slices.Equal(perm, []int64{0, 3, 1, 2}) {
			return nil, nil
		}
		readers++
	}
	if readers == 0 {
		return nil, errors.New("the output does not depend on the input: there is no network")
	}
	return []int{0, 2, 3, 1}, nil
}

func (im *importer) operator(o *operator) error {
	r, ok := rules[o.Op]
	if !ok {
		return errors.New("the operator is not supported")
	}
	for i, out := range o.Outputs[1:] {
		if out != "" && !r.several {
			im.values[out] = broken(fmt.Errorf("output %d (%q) of %s is not supported", i+1, out, o.Label()))
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
	apply := r.apply
	if r.fold != nil && im.folds(o) {
		apply = func(im *importer, o *operator, a *attributes) error { return im.fold(o, a, r.fold) }
	}
	if err := apply(im, o, a); err != nil {
		return err
	}
	return a.err()
}

// graph puts the nodes together that the output needs. An output that the file
// gives in another order of dimensions, or without those of size one, is the
// image [N,K,H,W].
func (im *importer) graph() (*nn.Graph, error) {
	in, out := im.in, im.out
	v, err := im.result()
	if err != nil {
		return nil, err
	}
	g := &nn.Graph{Name: im.Name,
		Input:  nn.Value{Name: in.Name, Shape: fixedSizes(im.values[in.Name].dims)},
		Output: nn.Value{Name: out.Name, Shape: fixedSizes(v.dims)},
	}
	if g.Multiple, err = im.multiple(); err != nil {
		return nil, err
	}
	if v.image != out.Name {
		im.rename(v.image, out.Name)
	}
	g.Nodes = live(im.nodes, out.Name)
	needed := map[string]bool{}
	for _, n := range g.Nodes {
		for _, in := range n.Inputs {
			needed[in] = true
		}
	}
	for _, t := range im.Tensors {
		if im.used[t.Name] && needed[t.Name] {
			g.Tensors = append(g.Tensors, newTensor(t.Name, im.constants[t.Name]))
		}
	}
	for _, t := range im.extra {
		if needed[t.Name] {
			g.Tensors = append(g.Tensors, t)
		}
	}
	g.AssignRoles()
	if err := g.Check(); err != nil {
		return nil, err
	}
	return g, nil
}

// result is the image that the output shows, as the file declares it.
func (im *importer) result() (*value, error) {
	out := im.out
	v := im.values[out.Name]
	switch {
	case v != nil && v.broken != "":
		return nil, fmt.Errorf("graph output %q is no image [N,K,H,W] computed from the input: %s", out.Name, v.broken)
	case v == nil || v.image == "" || v.quantized != nil || slices.Contains(v.view, merged):
		return nil, fmt.Errorf("graph output %q is no image [N,K,H,W] computed from the input", out.Name)
	case v.image == im.in.Name:
		return nil, errors.New("the output is the input: there is no network")
	case !inOrder(v.view, 0, 1, 2, 3) && !inOrder(v.view, 0, 2, 3, 1):
		return nil, fmt.Errorf("graph output %q has its dimensions in the order %v of [N,K,H,W]; [N,K,H,W] and [N,H,W,K] are supported", out.Name, v.view)
	case !out.Type.IsFloat() && !v.integer:
		return nil, fmt.Errorf("output %q has type %s; floating-point numbers, and integers of an ArgMax, are supported", out.Name, out.Type)
	}
	sizes, err := v.sizes()
	if err != nil {
		return nil, err
	}
	if out.Known && len(out.Dims) != len(sizes) {
		return nil, fmt.Errorf("graph output %q is declared with shape %v, it has %d dimensions", out.Name, out.Dims, len(sizes))
	}
	for i, d := range out.Dims {
		if k, fixed := sizes[i].integer(); d > 0 && !(fixed && k == d) {
			return nil, fmt.Errorf("graph output %q is declared with shape %v (0: dynamic), its dimension %d is %v", out.Name, out.Dims, i, sizes[i])
		}
	}
	o := &operator{Node: &wire.Node{Outputs: []string{out.Name}}}
	switch {
	case v.spread:
		return im.materialized(o, v)
	case v.integer:
		w := *v
		w.image, err = im.node(o, "Cast", []string{v.image}, nn.Attrs{"to": int64(wire.Float32)}, v.dims)
		return &w, err
	}
	return v, nil
}

// fixedSizes are dimensions as package nn has them, 0 for those that are not
// fixed.
func fixedSizes(dims []form) []int {
	shape := make([]int, len(dims))
	for i, d := range dims {
		if k, fixed := d.integer(); fixed {
			shape[i] = k
		}
	}
	return shape
}

// multiple is nn.Graph.Multiple: what this import assumes, and an earlier one
// has.
func (im *importer) multiple() (int, error) {
	k := 0
	if m, ok := im.Metadata[multipleKey]; ok {
		var err error
		if k, err = strconv.Atoi(m); err != nil || k < 2 || k > maxUnit {
			return 0, fmt.Errorf("metadata %q = %q is no number from 2 to %d", multipleKey, m, maxUnit)
		}
	}
	if im.assumed && im.unit > 1 {
		k = nn.LCM(max(1, k), im.unit)
	}
	return k, nil
}

// inOrder reports whether the dimensions of a view come in an order, some perhaps
// left out.
func inOrder(view []int, order ...int) bool {
	for _, d := range view {
		if d == inserted {
			continue
		}
		i := slices.Index(order, d)
		if i < 0 {
			return false
		}
		order = order[i+1:]
	}
	return true
}

// rename gives the value that the output shows its name: operators that
// changed nothing, or only the order of dimensions, stood between. A value of
// that name that is in the way takes the other's.
func (im *importer) rename(from, to string) {
	for _, n := range im.nodes {
		for _, s := range [][]string{n.Inputs, n.Outputs} {
			for i := range s {
				switch s[i] {
				case from:
					s[i] = to
				case to:
					s[i] = from
				}
			}
		}
	}
}

// live lists the nodes that a value is computed by, in their order.
func live(nodes []*nn.Node, name string) []*nn.Node {
	need := map[string]bool{name: true}
	var r []*nn.Node
	for _, n := range slices.Backward(nodes) {
		if need[n.Outputs[0]] {
			for _, in := range n.Inputs {
				need[in] = true
			}
			r = append(r, n)
		}
	}
	slices.Reverse(r)
	return r
}

func newTensor(name string, a *wire.Array) *nn.Tensor {
	return &nn.Tensor{Name: name, Shape: a.Shape, Data: a.F32, Ints: a.Ints}
}

// node appends a node that computes an image and returns the image's name,
// which no name of the file is.
func (im *importer) node(o *operator, op string, inputs []string, attrs nn.Attrs, dims []form) (string, error) {
	if err := inRange(dims); err != nil {
		return "", err
	}
	name := o.Outputs[0] + "." + strings.ToLower(op)
	out := im.fresh(im.valueNames, name)
	im.append(im.fresh(im.nodeNames, name), op, inputs, attrs, out, dims)
	return out, nil
}

// emit appends a node that computes the operator's output, an image.
func (im *importer) emit(o *operator, op string, inputs []string, attrs nn.Attrs, dims []form) error {
	if err := inRange(dims); err != nil {
		return err
	}
	name := o.Name
	if name == "" { // the specification allows nodes without names
		name = im.fresh(im.nodeNames, o.Outputs[0])
	}
	im.values[o.Outputs[0]] = im.append(name, op, inputs, attrs, o.Outputs[0], dims)
	return nil
}

func (im *importer) append(name, op string, inputs []string, attrs nn.Attrs, out string, dims []form) *value {
	for len(inputs) > 0 && inputs[len(inputs)-1] == "" {
		inputs = inputs[:len(inputs)-1]
	}
	if attrs == nil {
		attrs = nn.Attrs{}
	}
	im.nodes = append(im.nodes, &nn.Node{Name: name, Op: op, Inputs: inputs, Outputs: []string{out}, Attrs: attrs})
	v := &value{image: out, dims: dims}
	im.sizedAs(v)
	return v
}

// sizedAs remembers an image for others that are to have its size.
func (im *importer) sizedAs(v *value) {
	if im.sized == nil {
		im.sized = map[[3]form]*value{}
	}
	if size := [3]form{v.dims[0], v.dims[2], v.dims[3]}; im.sized[size] == nil {
		im.sized[size] = &value{image: v.image, dims: v.dims}
	}
}

// maxFolded bounds the elements of all values that are computed on import, beside
// what the file's own constants justify.
const maxFolded = 1 << 16

func inRange(dims []form) error {
	for i, d := range dims {
		if k, fixed := d.integer(); fixed && k < 1 || !d.whole() || !d.exact() {
			return fmt.Errorf("dimension %d of the output is %v, which is out of range", i, d)
		}
	}
	return nil
}

// set gives the operator's output a value without a node.
func (im *importer) set(o *operator, v *value) error {
	im.budget -= len(v.forms)
	if v.array != nil && im.constants[v.constant] == nil {
		im.budget -= v.array.Len()
	}
	if im.budget < 0 {
		return errors.New("computes more constants than the file has")
	}
	im.values[o.Outputs[0]] = v
	return nil
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
