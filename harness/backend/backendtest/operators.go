package backendtest

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

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

func (c *check) operator(o operatorCase) {
	const classes = 3
	g := small(2, classes, func(b *builder) (string, int) {
		return o.build(b, b.conv("first", "image", 2, firstChannels, 3, window(3, 1, 1, 1, 1, 1), true)), o.out
	})
	d := c.dataset(1, 4, 2, 12, 16, classes)
	b := consecutive(1, 3)
	c.separate(g, d, b)
	s, err := c.tryOpen(g, backend.Options{})
	if errors.Is(err, backend.ErrUnsupported) && !o.study {
		if !slices.ContainsFunc(g.Nodes, func(n *nn.Node) bool { return strings.Contains(err.Error(), strconv.Quote(n.Name)) }) {
			c.failf("the refusal names no node: %v", err)
		}
		c.skipf("%v", err)
	}
	c.must(err, "Open")
	c.must(s.LoadDataset(c.ctx, set, d.path, d.digest), "LoadDataset")
	c.same(s, g, reference.New(g, backend.LossOnProbabilities), d, b, tolerances[backend.Float32])
}
