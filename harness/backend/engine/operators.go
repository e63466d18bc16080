package engine

import (
	"fmt"
	"maps"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// Operators is what an engine executes, by the type of ONNX operator.
type Operators map[string]Operator

// Operator says which of its nodes an engine executes.
type Operator struct {
	Inputs     [2]int   // the least and the greatest number
	Attributes []string // those that the engine heeds; a node with another is refused
	Note       string   // restrictions, for people
	// Check says what else of a node is not supported. Nil means nothing.
	Check func(g *nn.Graph, n *nn.Node) error
}

// Describe lists the operators as a description does.
func (o Operators) Describe(device string) []backend.Operator {
	var r []backend.Operator
	for _, t := range slices.Sorted(maps.Keys(o)) {
		r = append(r, backend.Operator{Type: t, Device: device, Note: o[t].Note})
	}
	return r
}

// Check refuses a graph with a node that is not supported. The error names it
// and wraps backend.ErrUnsupported.
func (o Operators) Check(g *nn.Graph) error {
	for _, n := range g.Nodes {
		if err := o.check(g, n); err != nil {
			return fmt.Errorf("node %q (%s): %w: %w", n.Name, n.Op, err, backend.ErrUnsupported)
		}
	}
	return nil
}

func (o Operators) check(g *nn.Graph, n *nn.Node) error {
	op, ok := o[n.Op]
	if !ok {
		return fmt.Errorf("this operator")
	}
	for _, a := range slices.Sorted(maps.Keys(n.Attrs)) {
		if !slices.Contains(op.Attributes, a) {
			return fmt.Errorf("attribute %q", a)
		}
	}
	if k := len(n.Inputs); k < op.Inputs[0] || k > op.Inputs[1] {
		return fmt.Errorf("%d inputs, from %d to %d are", k, op.Inputs[0], op.Inputs[1])
	}
	if len(n.Outputs) != 1 || n.Outputs[0] == "" {
		return fmt.Errorf("outputs %q, one is", n.Outputs)
	}
	if op.Check == nil {
		return nil
	}
	return op.Check(g, n)
}
