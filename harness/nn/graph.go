package nn

import (
	"fmt"
	"slices"
	"strings"
)

// Opset is the ONNX operator set whose semantics graphs have.
const Opset = 13

// Graph is a network with one image input [N,C,H,W] and one output [N,K,H,W].
type Graph struct {
	Name   string
	Input  Value
	Output Value
	// Multiple is set on networks from elsewhere that compute sizes: height and
	// width must be multiples of it. 0 says nothing.
	Multiple int
	// Nodes in execution order: a node's inputs are the graph's input, tensors,
	// or outputs of earlier nodes.
	Nodes   []*Node
	Tensors []*Tensor
}

// Value is a graph input or output. A dimension of 0 is dynamic.
type Value struct {
	Name  string
	Shape []int
}

// Node is one operator.
type Node struct {
	Name    string
	Op      string   // ONNX operator type
	Inputs  []string // value names; "" omits an optional input
	Outputs []string
	Attrs   Attrs
}

// Attrs holds a node's attributes as int64, []int64, float32, []float32 or
// string.
type Attrs map[string]any

// Int returns the attribute or def where it is absent.
func (a Attrs) Int(name string, def int) int {
	if v, ok := a[name].(int64); ok {
		return int(v)
	}
	return def
}

// Ints returns the attribute or def where it is absent.
func (a Attrs) Ints(name string, def ...int) []int {
	v, ok := a[name].([]int64)
	if !ok {
		return def
	}
	r := make([]int, len(v))
	for i := range v {
		r[i] = int(v[i])
	}
	return r
}

// Float returns the attribute or def where it is absent.
func (a Attrs) Float(name string, def float32) float32 {
	if v, ok := a[name].(float32); ok {
		return v
	}
	return def
}

// Str returns the attribute or def where it is absent.
func (a Attrs) Str(name, def string) string {
	if v, ok := a[name].(string); ok {
		return v
	}
	return def
}

// Role says what a tensor is to training.
type Role int

const (
	Constant  Role = iota // part of the graph's structure, such as Resize scales
	Parameter             // trained by the optimiser
	Statistic             // BatchNormalization running mean or variance
)

func (r Role) String() string {
	return [...]string{"constant", "parameter", "statistic"}[r]
}

// Tensor is a constant of the graph. Exactly one of Data and Ints is used.
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
	Ints  []int64
	Role  Role
}

// Len is the number of elements.
func (t *Tensor) Len() int { return Size(t.Shape) }

// Group is the part of a tensor's name before the first dot.
func Group(name string) string {
	g, _, _ := strings.Cut(name, ".")
	return g
}

// Tensor returns the named tensor, or nil.
func (g *Graph) Tensor(name string) *Tensor {
	for _, t := range g.Tensors {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// Parameters lists the trainable tensors in the graph's order.
func (g *Graph) Parameters() []*Tensor { return g.withRole(Parameter) }

// Statistics lists the running means and variances in the graph's order.
func (g *Graph) Statistics() []*Tensor { return g.withRole(Statistic) }

func (g *Graph) withRole(r Role) []*Tensor {
	var ts []*Tensor
	for _, t := range g.Tensors {
		if t.Role == r {
			ts = append(ts, t)
		}
	}
	return ts
}

// Count is the number of trainable parameters in a group; "" counts all.
func (g *Graph) Count(group string) int {
	n := 0
	for _, t := range g.Parameters() {
		if group == "" || Group(t.Name) == group {
			n += t.Len()
		}
	}
	return n
}

// Clone returns a copy that shares nothing with g.
func (g *Graph) Clone() *Graph {
	c := &Graph{Name: g.Name, Input: g.Input.clone(), Output: g.Output.clone(), Multiple: g.Multiple}
	for _, n := range g.Nodes {
		m := &Node{n.Name, n.Op, append([]string(nil), n.Inputs...), append([]string(nil), n.Outputs...), Attrs{}}
		for k, v := range n.Attrs {
			switch v := v.(type) {
			case []int64:
				m.Attrs[k] = append([]int64(nil), v...)
			case []float32:
				m.Attrs[k] = append([]float32(nil), v...)
			default:
				m.Attrs[k] = v
			}
		}
		c.Nodes = append(c.Nodes, m)
	}
	for _, t := range g.Tensors {
		c.Tensors = append(c.Tensors, &Tensor{t.Name, append([]int(nil), t.Shape...), append([]float32(nil), t.Data...), append([]int64(nil), t.Ints...), t.Role})
	}
	return c
}

func (v Value) clone() Value { return Value{v.Name, append([]int(nil), v.Shape...)} }

// AssignRoles sets every tensor's role from how the nodes use it. Parameters are
// the weights and biases of convolutions, the scales and shifts of normalisations,
// also where a Mul and an Add by one number for every channel are these, and the
// slopes of PRelu; running means and variances are statistics, everything else is
// constant. So is what prepares the input for the first layer.
func (g *Graph) AssignRoles() {
	perChannel, tensor := map[string]bool{}, map[string]bool{}
	for _, t := range g.Tensors {
		tensor[t.Name] = true
		if k := len(t.Shape); k == 3 || k == 4 {
			c := t.Shape[k-3]
			perChannel[t.Name] = t.Data != nil && c > 1 && c == t.Len()
		}
	}
	roles := map[string]Role{}
	prepared := map[string]bool{g.Input.Name: true} // the input, and what is made of it before the first layer
	for _, n := range g.Nodes {
		raw := !slices.ContainsFunc(n.Inputs, func(in string) bool { return in != "" && !tensor[in] && !prepared[in] })
		switch n.Op {
		case "InstanceNormalization", "Add", "Sub", "Mul", "Div", "Clip", "Concat":
			for _, out := range n.Outputs {
				prepared[out] = raw
			}
		}
		for i, in := range n.Inputs {
			switch {
			case n.Op == "BatchNormalization" && i >= 3:
				roles[in] = Statistic
			case n.Op == "BatchNormalization" && i >= 1,
				n.Op == "Conv" && i >= 1, n.Op == "ConvTranspose" && i >= 1, n.Op == "PRelu" && i >= 1,
				n.Op == "InstanceNormalization" && i >= 1 && !raw,
				(n.Op == "Mul" || n.Op == "Add") && perChannel[in] && !raw:
				roles[in] = Parameter
			}
		}
	}
	for _, t := range g.Tensors {
		t.Role = roles[t.Name]
	}
}

// Check verifies the graph's structure: unique names, inputs defined before
// use, data that fill their shapes, the output produced.
func (g *Graph) Check() error {
	defined := map[string]bool{g.Input.Name: true}
	for _, t := range g.Tensors {
		if t.Name == "" || defined[t.Name] {
			return fmt.Errorf("tensor %q: name missing or used twice", t.Name)
		}
		defined[t.Name] = true
		for _, d := range t.Shape {
			if d < 0 {
				return fmt.Errorf("tensor %q: negative dimension in shape %v", t.Name, t.Shape)
			}
		}
		if t.Data != nil && t.Ints != nil {
			return fmt.Errorf("tensor %q: has both float and integer data", t.Name)
		}
		if n := len(t.Data) + len(t.Ints); n != t.Len() {
			return fmt.Errorf("tensor %q: %d values do not fill shape %v", t.Name, n, t.Shape)
		}
	}
	names := map[string]bool{}
	for _, n := range g.Nodes {
		if n.Name == "" || names[n.Name] {
			return fmt.Errorf("node %q (%s): name missing or used twice", n.Name, n.Op)
		}
		names[n.Name] = true
		for _, in := range n.Inputs {
			if in != "" && !defined[in] {
				return fmt.Errorf("node %q (%s): input %q is not defined before it (missing initializer or cycle?)", n.Name, n.Op, in)
			}
		}
		for _, out := range n.Outputs {
			if out == "" {
				continue
			}
			if defined[out] {
				return fmt.Errorf("node %q (%s): output %q is already defined", n.Name, n.Op, out)
			}
			defined[out] = true
		}
	}
	if !defined[g.Output.Name] {
		return fmt.Errorf("output %q is produced by no node", g.Output.Name)
	}
	return nil
}
