package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/internal/wire"
)

// quantized says what an image of quantised numbers stands for.
type quantized struct{ scale, zero *wire.Array }

// scales reads the scale and the zero point of a quantisation of an image, which
// is a single one or one per index of an axis.
func (im *importer) scales(o *operator, a *attributes) (quantized, error) {
	a.int("block_size", 0, 0, 0)
	lookup(a, "axis", int64(1))
	q := quantized{scale: im.input(o, 1).known()}
	if q.scale == nil || len(q.scale.F32) == 0 {
		return q, fmt.Errorf("input 1 (%q) is no constant of type float32, or has no elements", o.Inputs[1])
	}
	if v := im.input(o, 2); v != nil {
		if q.zero = v.known(); q.zero == nil || q.zero.Ints == nil || len(q.zero.Ints) != len(q.scale.F32) {
			return q, fmt.Errorf("input 2 (%q) is no constant of integers, one for every scale", o.Inputs[2])
		}
	}
	return q, nil
}

// into is the type that QuantizeLinear quantises to.
func (q quantized) into(a *attributes) (wire.Type, error) {
	a.int("saturate", 1, 0, 1)
	a.int("precision", 0, 0, 1)
	typ := wire.Uint8
	if q.zero != nil {
		typ = q.zero.Type
	}
	if t := a.int("output_dtype", 0, 0, 64); t != 0 {
		typ = wire.Type(t)
	}
	if typ != wire.Uint8 && typ != wire.Int8 && typ != wire.Uint16 && typ != wire.Int16 {
		return typ, fmt.Errorf("quantising to %s is not supported", typ)
	}
	return typ, nil
}

// foldQuantize quantises a constant: quantisers leave some weights in float32,
// with a QuantizeLinear and a DequantizeLinear behind them.
func foldQuantize(im *importer, o *operator, a *attributes, in []*wire.Array) (*wire.Array, error) {
	q, err := im.scales(o, a)
	if err != nil {
		return nil, err
	}
	typ, err := q.into(a)
	if err != nil {
		return nil, err
	}
	c := in[0]
	if c.F32 == nil {
		return nil, fmt.Errorf("quantising a constant of type %s is not supported", c.Type)
	}
	each, err := q.each(c, lookup(a, "axis", int64(1)))
	if err != nil {
		return nil, err
	}
	least, most := typ.Range()
	r := &wire.Array{Shape: slices.Clone(c.Shape), Type: typ, Ints: make([]int64, len(c.F32))}
	for i, v := range c.F32 {
		scale, zero := each(i)
		x := math.RoundToEven(float64(v/scale)) + float64(zero)
		if x != x {
			return nil, fmt.Errorf("element %d is %g, its scale %g", i, v, scale)
		}
		r.Ints[i] = int64(min(max(x, float64(least)), float64(most)))
	}
	return r, nil
}

// quantize rounds an image to multiples of a scale. Its result is the quantised
// number less its zero point, as a floating-point number.
func (im *importer) quantize(o *operator, a *attributes) error {
	x, err := im.number(o, 0)
	if err != nil {
		return err
	}
	q, err := im.scales(o, a)
	if err != nil {
		return err
	}
	typ, err := q.into(a)
	if err != nil {
		return err
	}
	if len(q.scale.F32) != 1 {
		return errors.New("quantising an image by a scale of every channel is not supported")
	}
	scale := im.scalar(o, "scale", q.scale.F32[0])
	zero := int64(0)
	if q.zero != nil {
		zero = q.zero.Ints[0]
	}
	least, most := typ.Range()
	y, err := im.node(o, "Div", []string{x.image, scale}, nil, x.dims)
	if err == nil {
		y, err = im.node(o, "Round", []string{y}, nil, x.dims)
	}
	if err != nil {
		return err
	}
	bounds := []string{im.scalar(o, "min", float32(least-zero)), im.scalar(o, "max", float32(most-zero))}
	if err := im.pointwise(o, "Clip", &value{image: y, dims: x.dims, view: x.view}, bounds, nil); err != nil {
		return err
	}
	im.values[o.Outputs[0]].quantized = &q
	return nil
}

// dequantize folds quantised weights and scales quantised images.
func (im *importer) dequantize(o *operator, a *attributes) error {
	x := im.input(o, 0)
	q, err := im.scales(o, a)
	if err != nil {
		return err
	}
	if t := wire.Type(a.int("output_dtype", 0, 0, 64)); t != 0 && !t.IsFloat() {
		return fmt.Errorf("attribute \"output_dtype\" = %d is not supported", int64(t))
	}
	if c := x.known(); c != nil {
		w, err := q.weights(c, lookup(a, "axis", int64(1)))
		if err != nil {
			return err
		}
		return im.set(o, &value{array: w, constant: o.Outputs[0]})
	}
	if x.quantized == nil || !same(x.quantized.zero, q.zero) {
		return fmt.Errorf("input 0 (%q) is no constant, nor quantised with the same zero point", o.Inputs[0])
	}
	if len(q.scale.F32) != 1 {
		return errors.New("a scale of every channel of an image is not supported")
	}
	return im.pointwise(o, "Mul", x, []string{im.scalar(o, "scale", q.scale.F32[0])}, nil)
}

func same(a, b *wire.Array) bool {
	zero := func(a *wire.Array) int64 {
		if a == nil {
			return 0
		}
		return a.Ints[0]
	}
	return zero(a) == zero(b)
}

// weights dequantises a constant.
func (q quantized) weights(c *wire.Array, axis int64) (*wire.Array, error) {
	if c.Ints == nil {
		return nil, errors.New("the quantised constant holds no integers")
	}
	each, err := q.each(c, axis)
	if err != nil {
		return nil, err
	}
	w := &wire.Array{Shape: slices.Clone(c.Shape), Type: wire.Float32, F32: make([]float32, len(c.Ints))}
	for i, v := range c.Ints {
		scale, zero := each(i)
		w.F32[i] = float32(v-zero) * scale
	}
	return w, nil
}

// each gives the scale and the zero point of every element of a constant.
func (q quantized) each(c *wire.Array, axis int64) (func(i int) (float32, int64), error) {
	n, inner := len(q.scale.F32), 1
	if n > 1 {
		if axis < 0 {
			axis += int64(len(c.Shape))
		}
		if axis < 0 || axis >= int64(len(c.Shape)) || c.Shape[axis] != n || len(q.scale.Shape) != 1 {
			return nil, fmt.Errorf("%d scales do not fit axis %d of shape %v", n, axis, c.Shape)
		}
		inner = nn.Size(c.Shape[axis+1:])
	}
	return func(i int) (float32, int64) {
		k := i / inner % n
		if q.zero == nil {
			return q.scale.F32[k], 0
		}
		return q.scale.F32[k], q.zero.Ints[k]
	}, nil
}
