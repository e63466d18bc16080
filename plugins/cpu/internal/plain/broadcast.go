package plain

import "github.com/refocus-em/refocus/harness/nn"

// binary is a function of two operands, whose dimensions of size one are
// repeated. slopes are its derivatives by either.
type binary[T float] struct {
	in       [2]*value[T]
	y        *value[T]
	function func(a, b T) T
	slopes   func(a, b T) (da, db T)
}

func newBinary[T float](function func(a, b T) T, slopes func(a, b T) (da, db T)) func(*Engine[T], *step[T]) (operator[T], error) {
	return func(_ *Engine[T], s *step[T]) (operator[T], error) {
		for _, v := range s.in {
			if len(v.shape) > 4 {
				return nil, refuse(s.node, "input %q has shape %v", v.name, v.shape)
			}
		}
		return &binary[T]{[2]*value[T](s.in), s.out, function, slopes}, nil
	}
}

// same reports whether the operand has the output's shape.
func (o *binary[T]) same(i int) bool { return nn.Aligned(o.in[i].shape) == nn.Aligned(o.y.shape) }

// rows calls f with every row of the output from row lo to row hi: where it
// begins there and in the operands, and how far their elements are apart.
func (o *binary[T]) rows(lo, hi int, f func(at int, from, step [2]int)) {
	shape := o.y.shape
	var strides [2][4]int
	for i, v := range o.in {
		n := 1
		s := nn.Aligned(v.shape)
		for d := 3; d >= 0; d-- {
			if s[d] > 1 || shape[d] == 1 {
				strides[i][d] = n
			}
			n *= s[d]
		}
	}
	step := [2]int{strides[0][3], strides[1][3]}
	for r := lo; r < hi; r++ {
		y, c, n := r%shape[2], r/shape[2]%shape[1], r/shape[2]/shape[1]
		var from [2]int
		for i, s := range strides {
			from[i] = n*s[0] + c*s[1] + y*s[2]
		}
		f(r*shape[3], from, step)
	}
}

// eachRow runs rows in parallel.
func (o *binary[T]) eachRow(e *Engine[T], f func(at int, from, step [2]int)) {
	s := o.y.shape
	planes := s[0] * s[1]
	e.parallel(planes, func(i int, _ *worker[T]) { o.rows(i*s[2], (i+1)*s[2], f) })
}

func (o *binary[T]) forward(e *Engine[T]) {
	w := o.y.shape[3]
	o.eachRow(e, func(at int, from, step [2]int) {
		a, b, y := o.in[0].data[from[0]:], o.in[1].data[from[1]:], o.y.data[at:][:w]
		for i := range y {
			y[i] = o.function(a[i*step[0]], b[i*step[1]])
		}
	})
}

func (o *binary[T]) backward(e *Engine[T]) {
	w := o.y.shape[3]
	for k, x := range o.in {
		if !x.needed {
			continue
		}
		dx := e.gradient(x)
		slope := func(a, b T) T {
			da, db := o.slopes(a, b)
			return []T{da, db}[k]
		}
		if o.same(k) {
			o.eachRow(e, func(at int, from, step [2]int) {
				a, b, dy, dst := o.in[0].data[from[0]:], o.in[1].data[from[1]:], o.y.grad[at:][:w], dx[from[k]:][:w]
				for i, g := range dy {
					dst[i] += T(slope(a[i*step[0]], b[i*step[1]]) * g)
				}
			})
			continue
		}
		// a repeated operand's gradient is a sum, always in the same order
		sums := make([]float64, len(dx))
		o.rows(0, len(o.y.data)/w, func(at int, from, step [2]int) {
			a, b := o.in[0].data[from[0]:], o.in[1].data[from[1]:]
			for i, g := range o.y.grad[at:][:w] {
				sums[from[k]+i*step[k]] += float64(T(slope(a[i*step[0]], b[i*step[1]]) * g))
			}
		})
		for i, s := range sums {
			dx[i] += T(s)
		}
	}
}
