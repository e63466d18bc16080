package onnx

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

// resize is Resize or its predecessor Upsample.
func (im *importer) resize(o *operator, a *attributes, x *value) error {
	attrs := nn.Attrs{}
	mode := a.oneOf("mode", "nearest", "linear", "cubic")
	transform, rounding := "asymmetric", "floor" // until opset 10
	if im.Opset >= 11 {
		transform = a.oneOf("coordinate_transformation_mode", "half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
		rounding = a.oneOf("nearest_mode", "round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
		outside := a.int("exclude_outside", 0, 0, 1)
		cubic := lookup(a, "cubic_coeff_a", float32(-0.75))
		if mode == "cubic" {
			if outside != 0 {
				attrs["exclude_outside"] = outside
			}
			if cubic != -0.75 {
				attrs["cubic_coeff_a"] = cubic
			}
			if cubic != cubic || math.IsInf(float64(cubic), 0) {
				a.fail("attribute \"cubic_coeff_a\" = %g is not supported", cubic)
			}
		}
		lookup(a, "extrapolation_value", float32(0)) // of another coordinate mode
		a.oneOf("keep_aspect_ratio_policy", "stretch")
	}
	antialias := a.int("antialias", 0, 0, 1)
	if a.first != nil {
		return a.first
	}
	factors, name, err := im.factors(o, a, x)
	if err != nil {
		return err
	}
	dims := slices.Clone(x.dims)
	for i, f := range factors {
		if transform == "align_corners" && f.scale != float32(int(f.scale)) {
			im.decided(x.dims[i])
		}
		if dims[i], err = f.of(x.dims[i]); err != nil {
			return err
		}
		if i < 2 && dims[i] != x.dims[i] {
			return fmt.Errorf("resizing dimension %d from %v to %v is not supported", i, x.dims[i], dims[i])
		}
		if n, ok := x.dims[i].integer(); ok && transform == "align_corners" && !f.sized && float32(int(float32(n)*f.scale)) != float32(n)*f.scale {
			return fmt.Errorf("scale %g of %d pixels with aligned corners is not supported: programs differ where the size is no whole number", f.scale, n)
		}
		if antialias == 1 && f.scale < 1 {
			return errors.New("attribute \"antialias\" = 1 is not supported where an image shrinks")
		}
	}
	if spread, dims := factors[2].one && factors[3].one, dims; spread {
		im.values[o.Outputs[0]] = &value{image: x.image, dims: dims, spread: true}
		return nil
	}
	attrs["mode"], attrs["coordinate_transformation_mode"] = mode, transform
	if transform == "pytorch_half_pixel" && !(shrinksToOne(x.dims[2], dims[2]) || shrinksToOne(x.dims[3], dims[3])) {
		// differs from half_pixel only where the output has one element; for an
		// input of one both read that one
		attrs["coordinate_transformation_mode"] = "half_pixel"
	}
	if mode == "nearest" {
		attrs["nearest_mode"] = rounding
		if repeats(transform, rounding, factors[2].scale) && repeats(transform, rounding, factors[3].scale) {
			attrs["coordinate_transformation_mode"], attrs["nearest_mode"] = "asymmetric", "floor"
		}
	}
	if name == "" {
		name = im.fresh(im.valueNames, o.Outputs[0]+".scales")
		im.extra = append(im.extra, &nn.Tensor{Name: name, Shape: []int{4}, Data: []float32{1, 1, factors[2].scale, factors[3].scale}})
	}
	return im.emit(o, "Resize", []string{x.image, "", name}, attrs, dims)
}

// shrinksToOne reports whether an axis of more than one element may come out
// with one.
func shrinksToOne(in, out form) bool { return out == constant(1) && in != constant(1) }

// factor is how an axis is resized.
type factor struct {
	scale float32
	size  form // of the output, where the file gives it
	sized bool
	one   bool // one element becomes a size that depends on the image
}

// of is the size that an axis comes out with.
func (f factor) of(in form) (form, error) {
	if f.sized {
		return f.size, nil
	}
	if k, ok := in.integer(); ok {
		return constant(int(float32(k) * f.scale)), nil
	}
	if !(f.scale > 0) || f.scale > maxWindow {
		return in, fmt.Errorf("scale %g is not supported", f.scale)
	}
	for q := range 64 { // a fraction
		if p := float64(f.scale) * float64(q+1); p == math.Trunc(p) {
			return floorDiv(in.scale(p), q+1)
		}
	}
	return in, fmt.Errorf("scale %g is not supported on an image of any size; fractions are", f.scale)
}

// factors reads scales or sizes of all four dimensions, and the name of the
// constant with the scales if the file has one.
func (im *importer) factors(o *operator, a *attributes, x *value) (r [4]factor, name string, err error) {
	var scales, sizes *value
	switch {
	case im.Opset < 9: // Upsample-7
		s := lookup(a, "scales", []float32(nil))
		scales = &value{shape: []int{len(s)}}
		for _, v := range s {
			scales.forms = append(scales.forms, form{k: float64(v)})
		}
	case im.Opset < 11:
		scales = im.input(o, 1)
	default:
		scales, sizes = im.input(o, 2), im.input(o, 3)
	}
	if scales != nil && scales.array != nil && scales.array.Len() == 0 {
		scales = nil // opset 11 has no omitted inputs
	}
	if (scales == nil) == (sizes == nil) {
		return r, "", errors.New("needs either scales or sizes")
	}
	given, what := scales, "scale"
	if scales == nil {
		given, what = sizes, "size"
	}
	c, err := given.computed()
	if err != nil {
		return r, "", fmt.Errorf("%ss: %w", what, err)
	}
	axes := lookup(a, "axes", []int64{0, 1, 2, 3}) // opset 18
	if len(c.forms) != len(axes) {
		return r, "", fmt.Errorf("%d %ss, needs %d", len(c.forms), what, len(axes))
	}
	for i := range r {
		r[i] = factor{scale: 1}
	}
	for k, s := range c.forms {
		i, err := x.axis(axes[k])
		if err != nil {
			return r, "", fmt.Errorf("attribute \"axes\" = %v: %w", axes, err)
		}
		if scales != nil {
			if !s.fixed() || !(s.k > 0) || s.k > maxWindow {
				return r, "", fmt.Errorf("scale %v of dimension %d is not supported; constants up to %d are", s, i, maxWindow)
			}
			r[i].scale = float32(s.k)
			continue
		}
		if r[i], err = im.sizeFactor(s, x.dims[i]); err != nil {
			return r, "", fmt.Errorf("size %v of dimension %d: %w", s, i, err)
		}
	}
	if scales != nil && scales.array != nil && scales.constant != "" && len(axes) == 4 && a.o.values["axes"] == nil {
		im.use(scales)
		name = scales.constant
	}
	return r, name, nil
}

// sizeFactor is the scale by which an axis of size in becomes one of size out.
func (im *importer) sizeFactor(out, in form) (factor, error) {
	im.decided(out)
	i, inFixed := in.integer()
	n, outFixed := out.integer()
	switch {
	case inFixed && outFixed && i > 0 && n > 0:
		scale := float32(n) / float32(i)
		for range 4 { // rounding must not lose the last element
			if int(float32(i)*scale) == n {
				return factor{scale: scale, size: out, sized: true}, nil
			}
			scale = math.Nextafter32(scale, math.MaxFloat32)
		}
	case in == constant(1):
		return factor{scale: 1, size: out, sized: true, one: true}, nil
	}
	for q := 1; q <= 64; q++ { // a fraction
		if p, ok := out.scale(float64(q)).ratio(in); ok && p <= maxWindow*q {
			return factor{scale: float32(float64(p) / float64(q)), size: out, sized: true}, nil
		}
	}
	return factor{}, fmt.Errorf("is no multiple of %v, which is not supported", in)
}

// repeats reports whether nearest-neighbour interpolation by a scale repeats
// every pixel k times, as asymmetric with floor does.
func repeats(transform, rounding string, scale float32) bool {
	k := int(scale)
	if float32(k) != scale || k < 1 {
		return false
	}
	for i := range k { // one period; index 0 of the input must be read
		var x float64
		switch transform {
		case "asymmetric":
			x = float64(i) / float64(k)
		case "half_pixel", "pytorch_half_pixel":
			x = (float64(i)+0.5)/float64(k) - 0.5
		default:
			return false // align_corners depends on the size
		}
		switch rounding {
		case "floor":
			x = math.Floor(x)
		case "ceil":
			x = math.Ceil(x)
		case "round_prefer_floor":
			x = math.Ceil(x - 0.5)
		case "round_prefer_ceil":
			x = math.Floor(x + 0.5)
		}
		if x != 0 {
			return false
		}
	}
	return true
}
