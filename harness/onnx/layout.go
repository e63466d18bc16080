package onnx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// same is the name of a constant with these integers: the file's own if it has
// them.
func (im *importer) same(v *value, o *operator, what string, x ...int64) string {
	if v != nil && v.array != nil && v.constant != "" && slices.Equal(v.array.Shape, []int{len(x)}) && v.array.Type == wire.Int64 && slices.Equal(v.array.Ints, x) {
		im.use(v)
		return v.constant
	}
	return im.ints(o, what, x...)
}

func (im *importer) transpose(o *operator, a *attributes) error {
	x := im.input(o, 0)
	var c *value
	rank := len(x.views())
	if x.image == "" {
		var err error
		if c, err = x.computed(); err != nil {
			a.keep("perm")
			return im.set(o, broken(err))
		}
		rank = len(c.shape)
	}
	def := make([]int64, rank)
	for i := range def {
		def[i] = int64(rank - 1 - i)
	}
	perm := a.ints("perm", def, rank, 0, int64(rank-1))
	if a.first != nil {
		return a.first
	}
	if err := permutation(perm); err != nil {
		return err
	}
	if x.image == "" {
		return im.set(o, c.transposed(perm))
	}
	var view []int
	for _, p := range perm {
		view = append(view, x.views()[p])
	}
	return im.set(o, x.as(view))
}

func permutation(perm []int64) error {
	seen := make([]bool, len(perm))
	for _, p := range perm {
		if seen[p] {
			return fmt.Errorf("attribute \"perm\" = %v is no permutation", perm)
		}
		seen[p] = true
	}
	return nil
}

// resized emits an operator that changes the size of x and keeps its view.
func (im *importer) resized(o *operator, op string, x *value, inputs []string, attrs nn.Attrs, dims []form) error {
	if err := im.emit(o, op, append([]string{x.image}, inputs...), attrs, dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

func (im *importer) concat(o *operator, a *attributes) error {
	if a.get("axis") == nil {
		return errors.New("attribute \"axis\" is missing")
	}
	computed := true
	for i := range o.Inputs {
		computed = computed && im.input(o, i) != nil && im.input(o, i).image == ""
	}
	if computed {
		return im.concatComputed(o, a)
	}
	if s := im.stacked(o, lookup(a, "axis", int64(0))); s != nil {
		return im.set(o, s)
	}
	var names []string
	var dims []form
	var view []int
	for i := range o.Inputs {
		v, err := im.number(o, i)
		if err != nil {
			return err
		}
		axis, err := a.axis(v, 0)
		if err != nil {
			return err
		}
		if axis != 1 {
			return fmt.Errorf("attribute \"axis\" = %d is not supported; joining channels (1) is", lookup(a, "axis", int64(0)))
		}
		if i == 0 {
			dims, view = slices.Clone(v.dims), v.view
			dims[1] = form{}
		}
		if !slices.Equal(view, v.view) {
			return errors.New("joins images with different orders of dimensions")
		}
		for _, d := range []int{0, 2, 3} {
			if v.dims[d] != dims[d] {
				return fmt.Errorf("images of different size (%v and %v in dimension %d)", dims[d], v.dims[d], d)
			}
		}
		dims[1] = dims[1].add(v.dims[1])
		names = append(names, v.image)
	}
	if err := im.emit(o, "Concat", names, nn.Attrs{"axis": int64(1)}, dims); err != nil {
		return err
	}
	return im.seen(o, view)
}

// expand repeats dimensions of size one.
func (im *importer) expand(o *operator, a *attributes) error {
	if im.input(o, 0).image == "" {
		return im.expandComputed(o)
	}
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	c, err := im.input(o, 1).computed()
	if err != nil {
		return fmt.Errorf("shape: %w", err)
	}
	first := len(x.views()) - len(c.forms)
	if first < 0 {
		return fmt.Errorf("shape %v of more dimensions than the image is not supported", c.forms)
	}
	dims := slices.Clone(x.dims)
	for i, n := range c.forms {
		d := x.views()[first+i]
		switch {
		case n == constant(1):
		case d == inserted || d == merged:
			return fmt.Errorf("shape %v is not supported", c.forms)
		case n == x.dims[d]:
		case x.dims[d] == constant(1):
			dims[d] = n
		default:
			return fmt.Errorf("shape %v does not fit an image of %v", c.forms, x.dims)
		}
	}
	im.decided(c.forms...)
	if slices.Equal(dims, x.dims) {
		return im.set(o, x)
	}
	if dims[2] != x.dims[2] || dims[3] != x.dims[3] || dims[0] != x.dims[0] {
		if x.dims[2] != constant(1) || x.dims[3] != constant(1) || dims[0] != x.dims[0] || dims[1] != x.dims[1] {
			return fmt.Errorf("repeating an image of %v to %v is not supported", x.dims, dims)
		}
		return im.set(o, &value{image: x.image, dims: dims, view: x.view, spread: true})
	}
	k, _ := dims[1].integer()
	ones := make([]float32, k)
	for i := range ones {
		ones[i] = 1
	}
	return im.resized(o, "Mul", x, []string{im.tensor(o, "ones", []int{1, k, 1, 1}, ones)}, nil, dims)
}

// tile repeats the channels of an image.
func (im *importer) tile(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	times, err := im.input(o, 1).integers()
	if err != nil {
		return fmt.Errorf("repeats: %w", err)
	}
	if len(times) != len(x.views()) {
		return fmt.Errorf("repeats %v of %d dimensions", times, len(x.views()))
	}
	names := []string{x.image}
	dims := slices.Clone(x.dims)
	for i, k := range times {
		switch d := x.views()[i]; {
		case k == 1:
		case d != 1 || k < 1 || k > maxComputed:
			return fmt.Errorf("repeats %v: repeating channels is supported", times)
		default:
			names = slices.Repeat(names, k)
			dims[1] = dims[1].scale(float64(k))
		}
	}
	if len(names) == 1 {
		return im.set(o, x)
	}
	if err := im.emit(o, "Concat", names, nn.Attrs{"axis": int64(1)}, dims); err != nil {
		return err
	}
	return im.seen(o, x.view)
}

// depthToSpace is DepthToSpace or SpaceToDepth.
func (im *importer) depthToSpace(o *operator, a *attributes, x *value) error {
	b := int(a.int("blocksize", 0, 1, maxWindow))
	if a.first != nil {
		return a.first
	}
	attrs := nn.Attrs{"blocksize": int64(b)}
	dims := slices.Clone(x.dims)
	c, _ := x.dims[1].integer()
	if o.Op == "SpaceToDepth" {
		a.oneOf("mode", "DCR") // opset 28
		dims[1] = constant(c * b * b)
		for d := 2; d < 4; d++ {
			q, err := floorDiv(x.dims[d], b)
			if err != nil {
				return err
			}
			if dims[d] = q; q.scale(float64(b)) != x.dims[d] {
				return fmt.Errorf("attribute \"blocksize\" = %d does not divide %v", b, x.dims[d])
			}
		}
		return im.emit(o, o.Op, []string{x.image}, attrs, dims)
	}
	if a.oneOf("mode", "DCR", "CRD") == "CRD" { // opset 11
		attrs["mode"] = "CRD"
	}
	if c%(b*b) != 0 {
		return fmt.Errorf("attribute \"blocksize\" = %d does not fit %d channels", b, c)
	}
	dims[1] = constant(c / (b * b))
	dims[2], dims[3] = dims[2].scale(float64(b)), dims[3].scale(float64(b))
	return im.emit(o, o.Op, []string{x.image}, attrs, dims)
}

func (im *importer) identity(o *operator, a *attributes) error {
	return im.set(o, im.input(o, 0))
}

// dropout does nothing outside training; during training refocus does not
// drop.
func (im *importer) dropout(o *operator, a *attributes) error {
	a.keep("ratio", "seed")
	if v := im.input(o, 2); v != nil {
		if k, ok := number(v.known()); !ok || k != 0 {
			return fmt.Errorf("input 2 (%q): %w", o.Inputs[2], errTraining)
		}
	}
	return im.set(o, im.input(o, 0))
}

// reshapeImage follows a Reshape that inserts or removes dimensions of size
// one, takes the pixels as one dimension, or takes channels in groups.
func (im *importer) reshapeImage(o *operator, x *value, want []form) error {
	sizes, err := x.sizes()
	flat := slices.Contains(x.views(), merged)
	if err != nil && !flat {
		return err
	}
	// −1 stands for what is left
	open := form{k: -1}
	is := func(t, n form) bool { return t == open || t == n }
	if !flat {
		if view := reviewed(x.views(), sizes, want, open); view != nil {
			im.decided(want...)
			return im.set(o, x.as(view))
		}
	}
	var k int // channels of the result
	known := func(t form) bool {
		var ok bool
		k, ok = t.integer()
		return ok && k > 0 && k <= maxChannel
	}
	c, fixed := x.dims[1].integer()
	if !fixed {
		return fmt.Errorf("reshaping an image of %v to %v is not supported", x.dims, want)
	}
	switch {
	case x.view == nil && len(want) == 3 && is(want[0], x.dims[0]) && known(want[1]) && c%k == 0:
		// [N,K,pixels of C/K channels]
		rest := want[2] == open
		if p, ok := x.dims[2].times(x.dims[3]); ok && !rest {
			rest = want[2].scale(float64(k)) == p.scale(float64(c))
		}
		if !rest {
			break
		}
		v, err := im.blocks(o, x, k)
		if err != nil {
			return err
		}
		im.decided(want...)
		return im.set(o, v.as([]int{0, 1, merged}))
	case slices.Equal(x.view, []int{0, 1, merged}) && len(want) == 4 && is(want[0], x.dims[0]),
		x.view == nil && len(want) == 4 && is(want[0], x.dims[0]):
		// [N,K,H,W], perhaps with channels divided or joined
		if want[1] == open {
			if want[3] != x.dims[3] || want[2] == open {
				break
			}
			r, ok := x.dims[2].scale(float64(c)).ratio(want[2])
			if !ok {
				break
			}
			k = r
		} else if !known(want[1]) {
			break
		}
		if !is(want[3], x.dims[3]) || want[2] != open && want[2].scale(float64(k)) != x.dims[2].scale(float64(c)) {
			break
		}
		dims, err := blockDims(x, k)
		if err != nil {
			return err
		}
		im.decided(want...)
		if k == c {
			return im.set(o, x.as(nil))
		}
		shape := im.same(im.input(o, 1), o, "shape", 0, int64(k), -1, 0)
		return im.emit(o, "Reshape", []string{x.image, shape}, nil, dims)
	}
	return fmt.Errorf("reshaping an image of %v to %v is not supported", x.dims, want)
}

// reviewed is the view after a Reshape that only inserts or removes dimensions
// of size one, nil where it does more.
func reviewed(view []int, sizes, want []form, open form) []int {
	one := constant(1)
	r := []int{}
	at := 0
	for i, t := range want {
		rest := 0 // dimensions that are still to come and not one
		for _, u := range want[i+1:] {
			if u != one {
				rest++
			}
		}
		for at < len(sizes) && sizes[at] == one && t != one && t != open {
			at++
		}
		switch {
		case at < len(sizes) && (t == sizes[at] || t == open && len(sizes)-at > rest):
			if t == open { // takes a dimension that is not one, if there is
				for at+1 < len(sizes) && sizes[at] == one && len(sizes)-at-1 > rest {
					at++
				}
			}
			r = append(r, view[at])
			at++
		case t == one || t == open:
			r = append(r, inserted)
		default:
			return nil
		}
	}
	for ; at < len(sizes); at++ {
		if sizes[at] != one {
			return nil
		}
	}
	return r
}
