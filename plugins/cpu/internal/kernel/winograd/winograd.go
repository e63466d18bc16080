// Package winograd writes the one-dimensional transforms of Winograd's minimal
// filtering algorithms F(2,3) and F(4,3) (Lavin and Gray 2016, points 0, 1, −1,
// ∞ and 0, 1, −1, 2, −2, ∞) once, over an abstract arithmetic. The assembly
// generator interprets them as instructions and the portable kernels as
// arithmetic on eight lanes, so the two cannot disagree about a rounding.
//
// A convolution with a nearest-neighbour ×2 upsampled image sees the tile
// [a b b c] or [a b b c c e]. Its transform vanishes at the point −1: the
// polynomial of an upsampled signal has the factor 1+z. The Up transforms take
// the distinct values only and leave that point out, as do the Down transforms,
// which return the sums of pairs of outputs, that is the gradient with respect
// to the image before upsampling.
package winograd

// Arith is the arithmetic: every method rounds once.
type Arith[V any] interface {
	Add(a, b V) V
	Sub(a, b V) V
	Mul(k float32, a V) V
	FMA(k float32, a, b V) V // k·a + b
}

// Dead is the index of the point −1, which upsampled signals do not have.
const Dead = 2

// Transform is one 1-D transform, of In values to Out values. Where Skip is
// set, its input (the outputs of Up) or output at index Dead is absent: it is
// neither read nor written, and the slice holds the zero V there.
type Transform[V any] struct {
	In, Out         int
	SkipIn, SkipOut bool
	Apply           func(o Arith[V], x []V) []V
	// Element, if set, computes output i alone, with the roundings of Apply. It
	// reads the few inputs it needs, so that Square need not hold a matrix
	// between its two passes.
	Element func(o Arith[V], i int, x func(int) V) V
}

// element completes a transform that is given by its elements.
func element[V any](t Transform[V], f func(o Arith[V], i int, x func(int) V) V) Transform[V] {
	t.Element = f
	t.Apply = func(o Arith[V], x []V) []V {
		r := make([]V, t.Out)
		for i := range r {
			if !(t.SkipOut && i == Dead) {
				r[i] = f(o, i, func(k int) V { return x[k] })
			}
		}
		return r
	}
	return t
}

// Input2 is Bᵀ of F(2,3).
func Input2[V any]() Transform[V] {
	return element(Transform[V]{In: 4, Out: 4}, func(o Arith[V], i int, d func(int) V) V {
		switch i {
		case 0:
			return o.Sub(d(0), d(2))
		case 1:
			return o.Add(d(1), d(2))
		case 2:
			return o.Sub(d(2), d(1))
		}
		return o.Sub(d(1), d(3))
	})
}

// InputUp2 is Bᵀ of F(2,3) on [a b b c].
func InputUp2[V any]() Transform[V] {
	return element(Transform[V]{In: 3, Out: 4, SkipOut: true}, func(o Arith[V], i int, d func(int) V) V {
		switch i {
		case 0:
			return o.Sub(d(0), d(1))
		case 1:
			return o.Add(d(1), d(1))
		}
		return o.Sub(d(1), d(2))
	})
}

// Output2 is Aᵀ of F(2,3).
func Output2[V any]() Transform[V] {
	return element(Transform[V]{In: 4, Out: 2}, func(o Arith[V], i int, m func(int) V) V {
		if i == 0 {
			return o.Add(o.Add(m(0), m(1)), m(2))
		}
		return o.Sub(o.Sub(m(1), m(2)), m(3))
	})
}

// OutputDown2 is the sum of the two outputs of F(2,3).
func OutputDown2[V any]() Transform[V] {
	return element(Transform[V]{In: 4, Out: 1, SkipIn: true}, func(o Arith[V], _ int, m func(int) V) V {
		return o.Sub(o.FMA(2, m(1), m(0)), m(3))
	})
}

// Weight2 is G of F(2,3).
func Weight2[V any]() Transform[V] {
	return element(Transform[V]{In: 3, Out: 4}, func(o Arith[V], i int, g func(int) V) V {
		switch i {
		case 0:
			return g(0)
		case 1:
			return o.Mul(0.5, o.Add(o.Add(g(0), g(2)), g(1)))
		case 2:
			return o.Mul(0.5, o.Sub(o.Add(g(0), g(2)), g(1)))
		}
		return g(2)
	})
}

// Input4 is Bᵀ of F(4,3).
func Input4[V any]() Transform[V] {
	return Transform[V]{In: 6, Out: 6, Apply: func(o Arith[V], d []V) []V {
		t, s := o.FMA(-4, d[2], d[4]), o.FMA(-4, d[1], d[3])
		u, v := o.Sub(d[4], d[2]), o.Sub(d[3], d[1])
		return []V{
			o.FMA(4, d[0], o.FMA(-5, d[2], d[4])), o.Add(t, s), o.Sub(t, s),
			o.FMA(2, v, u), o.FMA(-2, v, u), o.FMA(4, d[1], o.FMA(-5, d[3], d[5])),
		}
	}}
}

// InputUp4 is Bᵀ of F(4,3) on [a b b c c e].
func InputUp4[V any]() Transform[V] {
	return Transform[V]{In: 4, Out: 6, SkipOut: true, Apply: func(o Arith[V], d []V) []V {
		var dead V
		a, b, c, e := d[0], d[1], d[2], d[3]
		return []V{
			o.FMA(4, a, o.FMA(-5, b, c)), o.Mul(2, o.FMA(-4, b, c)), dead,
			o.Mul(3, o.Sub(c, b)), o.Sub(b, c), o.FMA(4, b, o.FMA(-5, c, e)),
		}
	}}
}

// Gradient4 is A of F(4,3): it spreads the gradient of four outputs over the
// six points.
func Gradient4[V any]() Transform[V] {
	return Transform[V]{In: 4, Out: 6, Apply: func(o Arith[V], y []V) []V {
		e, d := o.Add(y[0], y[2]), o.Add(y[1], y[3])
		f, h := o.FMA(4, y[2], y[0]), o.FMA(4, y[3], y[1])
		return []V{y[0], o.Add(e, d), o.Sub(e, d), o.FMA(2, h, f), o.FMA(-2, h, f), y[3]}
	}}
}

// WeightGradient4 is Gᵀ of F(4,3).
func WeightGradient4[V any]() Transform[V] {
	return Transform[V]{In: 6, Out: 3, Apply: func(o Arith[V], s []V) []V {
		a, b := o.Add(s[1], s[2]), o.Add(s[3], s[4])
		return []V{
			o.FMA(0.25, s[0], o.FMA(-1./6, a, o.Mul(1./24, b))),
			o.FMA(1./12, o.Sub(s[3], s[4]), o.Mul(1./6, o.Sub(s[2], s[1]))),
			o.FMA(1./6, o.Sub(b, a), s[5]),
		}
	}}
}

// WeightGradientUp4 is Gᵀ of F(4,3) for an upsampled signal.
func WeightGradientUp4[V any]() Transform[V] {
	return Transform[V]{In: 6, Out: 3, SkipIn: true, Apply: func(o Arith[V], s []V) []V {
		b := o.Add(s[3], s[4])
		return []V{
			o.FMA(0.25, s[0], o.FMA(-1./6, s[1], o.Mul(1./24, b))),
			o.FMA(1./12, o.Sub(s[3], s[4]), o.Mul(-1./6, s[1])),
			o.FMA(1./6, o.Sub(b, s[1]), s[5]),
		}
	}}
}

// Square applies t to the columns and then to the rows of a matrix: load
// returns element (i, j) of the In×In matrix, store receives element (i, j) of
// the Out×Out result, keep and kept hold the Out×In matrix in between. Absent
// elements are never loaded, stored or kept.
func Square[V any](o Arith[V], t Transform[V], load func(i, j int) V, keep func(i, j int, v V), kept func(i, j int) V, store func(i, j int, v V)) {
	x := make([]V, t.In)
	if t.Element != nil {
		for i := range t.Out {
			if t.SkipOut && i == Dead {
				continue
			}
			for j := range t.In {
				if !(t.SkipIn && j == Dead) {
					x[j] = t.Element(o, i, func(k int) V { return load(k, j) })
				}
			}
			for j, v := range t.Apply(o, x) {
				if !(t.SkipOut && j == Dead) {
					store(i, j, v)
				}
			}
		}
		return
	}
	for j := range t.In {
		if t.SkipIn && j == Dead {
			continue
		}
		for i := range t.In {
			if !(t.SkipIn && i == Dead) {
				x[i] = load(i, j)
			}
		}
		for i, v := range t.Apply(o, x) {
			if !(t.SkipOut && i == Dead) {
				keep(i, j, v)
			}
		}
	}
	for i := range t.Out {
		if t.SkipOut && i == Dead {
			continue
		}
		for j := range t.In {
			if !(t.SkipIn && j == Dead) {
				x[j] = kept(i, j)
			}
		}
		for j, v := range t.Apply(o, x) {
			if !(t.SkipOut && j == Dead) {
				store(i, j, v)
			}
		}
	}
}
