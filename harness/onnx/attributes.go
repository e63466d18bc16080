package onnx

import (
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/nn"
)

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

// axis returns the dimension of an image that the attribute "axis" names.
func (a *attributes) axis(x *value, def int64) (int, error) {
	d, err := x.axis(lookup(a, "axis", def))
	if err != nil {
		err = fmt.Errorf("attribute \"axis\": %w", err)
	}
	return d, err
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
