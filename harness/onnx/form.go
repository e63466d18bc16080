package onnx

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/nn"
)

// form is the number n·N + h·(H/m) + w·(W/m) + k, in which N, H and W are the
// sizes of the network's input and m is the importer's unit: the size of an
// image, of anything inside the network, or a number computed from sizes.
// Coefficients are exact (small dyadic numbers).
type form struct{ n, h, w, k float64 }

func constant(k int) form { return form{k: float64(k)} }

func (a form) add(b form) form { return form{a.n + b.n, a.h + b.h, a.w + b.w, a.k + b.k} }
func (a form) sub(b form) form { return a.add(b.scale(-1)) }
func (a form) scale(s float64) form {
	return form{a.n * s, a.h * s, a.w * s, a.k * s}
}

// fixed reports whether the number depends on no size.
func (a form) fixed() bool { return a.n == 0 && a.h == 0 && a.w == 0 }

// sized reports whether the number depends on the height or the width.
func (a form) sized() bool { return a.h != 0 || a.w != 0 }

// exact reports whether float32 arithmetic, which exporters use on sizes, has
// no rounding for any image that fits into memory.
func (a form) exact() bool {
	for _, c := range []float64{a.n, a.h, a.w, a.k} {
		if math.Abs(c) > 1<<20 || c*1024 != math.Trunc(c*1024) {
			return false
		}
	}
	return true
}

// whole reports whether the number is an integer for all sizes.
func (a form) whole() bool {
	for _, c := range []float64{a.n, a.h, a.w, a.k} {
		if c != math.Trunc(c) {
			return false
		}
	}
	return true
}

// integer returns the value of a fixed whole number.
func (a form) integer() (int, bool) {
	return int(a.k), a.fixed() && a.whole() && math.Abs(a.k) < 1<<31
}

// floor divides by s and rounds down. Sizes must divide; where they do not, a
// unit that is finer by the returned factor will do.
func (a form) floor(s int) (q form, finer int) {
	finer = 1
	for _, c := range []float64{a.n, a.h, a.w} {
		if r := int(math.Abs(c)) % s; r != 0 {
			finer = max(finer, s/nn.GCD(r, s))
		}
	}
	q = a.scale(1 / float64(s))
	q.k = math.Floor(a.k / float64(s))
	return q, finer
}

// ratio returns the whole number r ≥ 1 with a = r·b for all sizes.
func (a form) ratio(b form) (int, bool) {
	for _, p := range [][2]float64{{a.n, b.n}, {a.h, b.h}, {a.w, b.w}, {a.k, b.k}} {
		if p[1] == 0 {
			continue
		}
		r := p[0] / p[1]
		if r < 1 || r != math.Trunc(r) || b.scale(r) != a {
			return 0, false
		}
		return int(r), true
	}
	return 0, false
}

// positive reports whether the number is not below zero for any size.
func (a form) positive() bool { return min(a.n, a.h, a.w) >= 0 && a.n+a.h+a.w+a.k >= 0 }

// times is the product, if it is linear in the sizes.
func (a form) times(b form) (form, bool) {
	switch {
	case b.fixed():
		return a.scale(b.k), true
	case a.fixed():
		return b.scale(a.k), true
	}
	return form{}, false
}

func (a form) String() string {
	s := ""
	for _, t := range []struct {
		c    float64
		unit string
	}{{a.n, "N"}, {a.h, "H'"}, {a.w, "W'"}} {
		if t.c != 0 {
			s += fmt.Sprintf("%+g·%s", t.c, t.unit)
		}
	}
	if a.k != 0 || s == "" {
		s += fmt.Sprintf("%+g", a.k)
	}
	return s
}
