package plain

import (
	"math"

	"github.com/refocus-em/refocus/plugins/cpu/internal/pmath"
)

// unary applies a function to every element. slope is its derivative, given
// the argument and the result.
type unary[T float] struct {
	x, y     *value[T]
	function func(x T) T
	slope    func(x, y T) T
}

// newUnary makes the constructor of a function without attributes.
func newUnary[T float](function func(x T) T, slope func(x, y T) T) func(*Engine[T], *step[T]) (operator[T], error) {
	return func(_ *Engine[T], s *step[T]) (operator[T], error) {
		return &unary[T]{s.in[0], s.out, function, slope}, nil
	}
}

// wide makes a function in the engine's precision of one in float64.
func wide[T float](f func(float64) float64) func(T) T {
	return func(x T) T { return T(f(float64(x))) }
}

// constant is a float32 attribute in the engine's precision.
func constant[T float](s *step[T], name string, def float32) T {
	c := T(s.node.Attrs.Float(name, def))
	if _, wide := any(c).(float64); wide {
		c = T(decimal(s.node.Attrs.Float(name, def)))
	}
	return c
}

func newLeakyRelu[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	alpha := constant(s, "alpha", 0.01)
	return &unary[T]{s.in[0], s.out,
		func(x T) T {
			if x < 0 {
				return alpha * x
			}
			return x
		},
		func(x, y T) T {
			if x < 0 {
				return alpha
			}
			return 1
		}}, nil
}

// newElu makes α(eˣ − 1) below zero and x above, times γ.
func newElu[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	alpha, gamma := constant(s, "alpha", 1), T(1)
	if s.node.Op == "Selu" {
		alpha, gamma = constant(s, "alpha", 1.67326319217681884765625), constant(s, "gamma", 1.05070102214813232421875)
	}
	return &unary[T]{s.in[0], s.out,
		func(x T) T {
			if x < 0 {
				return gamma * T(alpha*T(pmath.Expm1(float64(x))))
			}
			return gamma * x
		},
		func(x, y T) T {
			if x < 0 {
				return y + T(gamma*alpha)
			}
			return gamma
		}}, nil
}

func newHardSigmoid[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	alpha, beta := constant(s, "alpha", 0.2), constant(s, "beta", 0.5)
	return &unary[T]{s.in[0], s.out,
		func(x T) T { return min(max(T(alpha*x)+beta, 0), 1) },
		func(x, y T) T {
			if y > 0 && y < 1 {
				return alpha
			}
			return 0
		}}, nil
}

func sigmoid(x float64) float64 {
	if x < 0 { // keeps the exponential from overflowing
		z := pmath.Exp(x)
		return z / (1 + z)
	}
	return 1 / (1 + pmath.Exp(-x))
}

func softplus(x float64) float64 { return max(x, 0) + pmath.Log1p(pmath.Exp(-math.Abs(x))) }

// newClip keeps elements between two numbers; either may be omitted.
func newClip[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	least, most := T(math.Inf(-1)), T(math.Inf(1))
	for i, b := range []*T{&least, &most} {
		if 1+i >= len(s.in) || s.in[1+i] == nil {
			continue
		}
		v := s.in[1+i]
		if v.tensor == nil || len(v.data) != 1 || len(s.in) > 3 {
			return nil, refuse(s.node, "bounds must be constant numbers")
		}
		*b = v.data[0]
	}
	return &unary[T]{s.in[0], s.out,
		func(x T) T {
			if x < least {
				x = least
			}
			if x > most {
				x = most
			}
			return x
		},
		func(x, y T) T {
			if x < least || x > most {
				return 0
			}
			return 1
		}}, nil
}

func (u *unary[T]) forward(e *Engine[T]) {
	e.each(len(u.y.data), func(lo, hi int) {
		dst := u.y.data[lo:hi]
		for i, v := range u.x.data[lo:hi] {
			dst[i] = u.function(v)
		}
	})
}

func (u *unary[T]) backward(e *Engine[T]) {
	if !u.x.needed {
		return
	}
	dx := e.gradient(u.x)
	e.each(len(dx), func(lo, hi int) {
		x, y, dy, dst := u.x.data[lo:hi], u.y.data[lo:hi], u.y.grad[lo:hi], dx[lo:hi]
		for i := range dst {
			dst[i] += T(u.slope(x[i], y[i]) * dy[i])
		}
	})
}
