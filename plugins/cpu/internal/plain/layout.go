package plain

// pick takes elements of an image along every axis: what Pad and Slice do.
type pick[T float] struct {
	x, y  *value[T]
	fill  T
	shape [4]int // of the input that the indices belong to
	index [4][]int
	from  func(shape []int) ([4][]int, error) // the element of x behind each of y's, −1 for fill
}

func newPad[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	p := &pick[T]{x: s.in[0], y: s.out}
	before, _, err := e.graph.Pads(s.node)
	if err != nil {
		return nil, refuse(s.node, "%v", err)
	}
	mode := s.node.Attrs.Str("mode", "constant")
	if mode != "constant" && mode != "reflect" && mode != "edge" {
		return nil, refuse(s.node, "mode %q", mode)
	}
	if len(s.in) > 2 && s.in[2] != nil {
		v := s.in[2]
		if v.tensor == nil || len(v.data) != 1 || len(s.in) > 3 {
			return nil, refuse(s.node, "the value to pad with must be a constant number")
		}
		p.fill = v.data[0]
	}
	p.from = func(shape []int) (index [4][]int, err error) {
		for d, n := range shape {
			for i := range p.y.shape[d] {
				i -= before[d]
				if i < 0 || i >= n {
					switch mode {
					case "edge":
						i = min(max(i, 0), n-1)
					case "reflect": // at most once: the shapes say so
						if i < 0 {
							i = -i
						} else {
							i = 2*(n-1) - i
						}
					default:
						i = -1
					}
				}
				index[d] = append(index[d], i)
			}
		}
		return index, nil
	}
	return p, nil
}

func newSlice[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	p := &pick[T]{x: s.in[0], y: s.out}
	p.from = func(shape []int) (index [4][]int, err error) {
		cuts, err := e.graph.Cuts(s.node, shape)
		for d, c := range cuts {
			for i := range c.Count {
				index[d] = append(index[d], c.Start+i*c.Step)
			}
		}
		return index, err
	}
	if _, err := p.from([]int{1, 1, 1, 1}); err != nil {
		return nil, refuse(s.node, "%v", err)
	}
	return p, nil
}

// prepare finds the indices for the shapes at hand, which have been checked.
func (p *pick[T]) prepare() {
	if s := [4]int(p.x.shape); s != p.shape || len(p.index[3]) != p.y.shape[3] {
		p.shape = s
		p.index, _ = p.from(p.x.shape)
	}
}

// rows calls f with every row of the output: where it begins, and where the row
// of the input behind it does, −1 for a row to be filled.
func (p *pick[T]) rows(e *Engine[T], f func(at, from int)) {
	c, h, w := p.y.shape[1], p.y.shape[2], p.y.shape[3]
	e.parallel(p.y.shape[0]*c, func(i int, _ *worker[T]) {
		n, ch := p.index[0][i/c], p.index[1][i%c]
		for y := range h {
			from := -1
			if iy := p.index[2][y]; n >= 0 && ch >= 0 && iy >= 0 {
				from = ((n*p.x.shape[1]+ch)*p.x.shape[2] + iy) * p.x.shape[3]
			}
			f((i*h+y)*w, from)
		}
	})
}

func (p *pick[T]) forward(e *Engine[T]) {
	p.prepare()
	w := p.y.shape[3]
	p.rows(e, func(at, from int) {
		dst := p.y.data[at:][:w]
		for x, ix := range p.index[3] {
			dst[x] = p.fill
			if from >= 0 && ix >= 0 {
				dst[x] = p.x.data[from+ix]
			}
		}
	})
}

func (p *pick[T]) backward(e *Engine[T]) {
	if !p.x.needed {
		return
	}
	dx := e.gradient(p.x)
	w := p.y.shape[3]
	// no channel of the input is behind two of the output: planes are independent
	p.rows(e, func(at, from int) {
		if from < 0 {
			return
		}
		for x, g := range p.y.grad[at:][:w] {
			if ix := p.index[3][x]; ix >= 0 {
				dx[from+ix] += g
			}
		}
	})
}

// permutation copies every element to one place: Reshape, DepthToSpace and
// SpaceToDepth.
type permutation[T float] struct {
	x, y *value[T]
	to   func(i int) int // nil: the same place
}

func newReshape[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	return &permutation[T]{x: s.in[0], y: s.out}, nil // the order of elements stays
}

func newDepthToSpace[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	p := &permutation[T]{x: s.in[0], y: s.out}
	b, mode := s.node.Attrs.Int("blocksize", 1), s.node.Attrs.Str("mode", "DCR")
	deep, flat := p.x, p.y
	if s.node.Op == "SpaceToDepth" {
		deep, flat = p.y, p.x
	}
	if mode != "DCR" && (mode != "CRD" || s.node.Op == "SpaceToDepth") {
		return nil, refuse(s.node, "mode %q", mode)
	}
	// place is where an element of the deep image lies in the flat one
	place := func(i int) int {
		c, h, w := deep.shape[1], deep.shape[2], deep.shape[3]
		x, y, ch, n := i%w, i/w%h, i/w/h%c, i/w/h/c
		channels := c / (b * b)
		block, k := ch/channels, ch%channels
		if mode == "CRD" {
			k, block = ch/(b*b), ch%(b*b)
		}
		return ((n*channels+k)*flat.shape[2]+y*b+block/b)*flat.shape[3] + x*b + block%b
	}
	if p.to = place; deep == p.y { // the inverse, by the same rule
		p.to = func(i int) int {
			c, h, w := flat.shape[1], flat.shape[2], flat.shape[3]
			x, y, k, n := i%w, i/w%h, i/w/h%c, i/w/h/c
			ch := (y%b*b+x%b)*c + k
			return ((n*deep.shape[1]+ch)*deep.shape[2]+y/b)*deep.shape[3] + x/b
		}
	}
	return p, nil
}

func (p *permutation[T]) forward(e *Engine[T]) {
	e.each(len(p.x.data), func(lo, hi int) {
		if p.to == nil {
			copy(p.y.data[lo:hi], p.x.data[lo:hi])
			return
		}
		for i := lo; i < hi; i++ {
			p.y.data[p.to(i)] = p.x.data[i]
		}
	})
}

func (p *permutation[T]) backward(e *Engine[T]) {
	if !p.x.needed {
		return
	}
	dx := e.gradient(p.x)
	e.each(len(dx), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			at := i
			if p.to != nil {
				at = p.to(i)
			}
			dx[i] += p.y.grad[at]
		}
	})
}

// reduce is a mean, sum, maximum or minimum along some axes.
type reduce[T float] struct {
	x, y *value[T]
	axes [4]bool
	kind string
}

func newReduce[T float](e *Engine[T], s *step[T]) (operator[T], error) {
	axes, err := e.graph.Reduced(s.node)
	if err != nil {
		return nil, refuse(s.node, "%v", err)
	}
	r := &reduce[T]{x: s.in[0], y: s.out, kind: s.node.Op}
	for _, a := range axes {
		r.axes[a] = true
	}
	return r, nil
}

// lines calls f with every output element and a function that visits what it
// is made of, in the order of memory.
func (r *reduce[T]) lines(e *Engine[T], f func(at int, visit func(g func(i int)))) {
	in, out := r.x.shape, r.y.shape
	span := [4]int{1, 1, 1, 1}
	for d, reduced := range r.axes {
		if reduced {
			span[d] = in[d]
		}
	}
	e.each(len(r.y.data), func(lo, hi int) {
		for at := lo; at < hi; at++ {
			x, y, c, n := at%out[3], at/out[3]%out[2], at/out[3]/out[2]%out[1], at/out[3]/out[2]/out[1]
			f(at, func(g func(i int)) {
				for dc := range span[1] {
					for dy := range span[2] {
						row := ((n*in[1]+c+dc)*in[2]+y+dy)*in[3] + x
						for dx := range span[3] {
							g(row + dx)
						}
					}
				}
			})
		}
	})
}

func (r *reduce[T]) count() float64 { return float64(len(r.x.data) / len(r.y.data)) }

func (r *reduce[T]) forward(e *Engine[T]) {
	n := r.count()
	r.lines(e, func(at int, visit func(func(int))) {
		first := true
		var best T
		var sum float64
		visit(func(i int) {
			v := r.x.data[i]
			sum += float64(v)
			if first || r.kind == "ReduceMax" && v > best || r.kind == "ReduceMin" && v < best || v != v {
				best, first = v, false
			}
		})
		switch r.kind {
		case "ReduceMean":
			best = T(sum / n)
		case "ReduceSum":
			best = T(sum)
		}
		r.y.data[at] = best
	})
}

// backward divides the gradient of an extremum among the elements that have it.
func (r *reduce[T]) backward(e *Engine[T]) {
	if !r.x.needed {
		return
	}
	dx := e.gradient(r.x)
	n := T(r.count())
	r.lines(e, func(at int, visit func(func(int))) {
		g, best := r.y.grad[at], r.y.data[at]
		extremum := false
		switch r.kind {
		case "ReduceMean":
			g /= n
		case "ReduceMax", "ReduceMin":
			extremum = true
			k := 0
			visit(func(i int) {
				if r.x.data[i] == best {
					k++
				}
			})
			g /= T(max(k, 1))
		}
		visit(func(i int) {
			if !extremum || r.x.data[i] == best {
				dx[i] += g
			}
		})
	})
}
