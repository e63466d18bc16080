package onnx

import (
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

func (f *file) importGraph() (*nn.Graph, error) {
	if f.opset < 11 || f.opset > 17 {
		return nil, fmt.Errorf("operator set %d: versions 11 to 17 are supported", f.opset)
	}
	if len(f.inputs) != 1 || len(f.outputs) != 1 {
		return nil, fmt.Errorf("%d inputs and %d outputs: networks with one of each are supported", len(f.inputs), len(f.outputs))
	}
	g := &nn.Graph{Name: f.name}
	for _, v := range []struct {
		raw  rawValue
		to   *nn.Value
		what string
	}{{f.inputs[0], &g.Input, "input"}, {f.outputs[0], &g.Output, "output"}} {
		if v.raw.dtype != typeFloat {
			return nil, fmt.Errorf("%s %q has type %s; float32 is supported", v.what, v.raw.name, typeName(v.raw.dtype))
		}
		if !v.raw.known || len(v.raw.dims) != 4 {
			return nil, fmt.Errorf("%s %q has shape %v; four dimensions [N,C,H,W] are supported", v.what, v.raw.name, v.raw.dims)
		}
		*v.to = nn.Value{Name: v.raw.name, Shape: v.raw.dims}
	}
	for _, t := range f.tensors {
		a := f.constants[t.name]
		g.Tensors = append(g.Tensors, &nn.Tensor{Name: t.name, Shape: a.shape, Data: a.f, Ints: a.i})
	}
	for i, o := range f.operators {
		r, ok := rules[o.op]
		if !ok {
			return nil, fmt.Errorf("%s: the operator is not supported", o.label())
		}
		n := &nn.Node{Name: o.name, Op: o.op, Inputs: o.inputs, Outputs: o.outputs, Attrs: nn.Attrs{}}
		if n.Name == "" {
			n.Name = fmt.Sprintf("%s_%d", o.op, i)
		}
		for k, v := range o.values {
			if !slices.Contains(r.attrs, k) {
				return nil, fmt.Errorf("%s: attribute %q is not supported", o.label(), k)
			}
			n.Attrs[k] = v
		}
		g.Nodes = append(g.Nodes, n)
	}
	g.AssignRoles()
	return g, g.Check()
}

type rule struct{ attrs []string }

var rules = map[string]rule{
	"Conv":               {[]string{"dilations", "group", "kernel_shape", "pads", "strides"}},
	"BatchNormalization": {[]string{"epsilon", "momentum"}},
	"Relu":               {},
	"MaxPool":            {[]string{"kernel_shape", "pads", "strides"}},
	"Resize":             {[]string{"mode", "coordinate_transformation_mode", "nearest_mode"}},
	"Concat":             {[]string{"axis"}},
	"Add":                {},
	"Softmax":            {[]string{"axis"}},
}
