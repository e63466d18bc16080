package plain

import "math"

// resize samples a larger image from a smaller one, by nearest neighbour or
// linear interpolation, in any of ONNX's coordinate systems.
type resize[T float] struct {
	x, y          *value[T]
	scales        []float32
	mode, nearest string
	shape         [4]int // input and output sizes that the taps belong to
	rows, columns []tap
}

// tap says that an output coordinate is (1−w)·x[a] + w·x[b].
type tap struct {
	a, b int
	w    float64
}

func newResize[T float](_ *Engine[T], s *step[T]) (operator[T], error) {
	if len(s.in) != 3 || s.in[0] == nil || s.in[2] == nil || s.in[2].tensor == nil || len(s.in[2].tensor.Data) != 4 {
		return nil, refuse(s.node, "needs an input and constant scales [1,1,sH,sW]")
	}
	a := s.node.Attrs
	r := &resize[T]{x: s.in[0], y: s.out, scales: s.in[2].tensor.Data[2:],
		mode: a.Str("coordinate_transformation_mode", "half_pixel")}
	switch r.mode {
	case "asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners":
	default:
		return nil, refuse(s.node, "coordinate_transformation_mode %q", r.mode)
	}
	outside := a.Int("exclude_outside", 0) != 0
	switch mode := a.Str("mode", "nearest"); mode {
	case "cubic":
		return &cubic[T]{resize: *r, coefficient: float64(a.Float("cubic_coeff_a", -0.75)), inside: outside}, nil
	case "linear":
	case "nearest":
		r.nearest = a.Str("nearest_mode", "round_prefer_floor")
		switch r.nearest {
		case "floor", "ceil", "round_prefer_floor", "round_prefer_ceil":
		default:
			return nil, refuse(s.node, "nearest_mode %q", r.nearest)
		}
	default:
		return nil, refuse(s.node, "mode %q", mode)
	}
	if outside {
		return nil, refuse(s.node, "exclude_outside 1 of an interpolation that is not cubic")
	}
	return r, nil
}

// coordinate is where output coordinate i lies in the input.
func (r *resize[T]) coordinate(i, in, out int, scale float64) float64 {
	switch {
	case r.mode == "half_pixel" || r.mode == "pytorch_half_pixel" && out > 1:
		return (float64(i)+0.5)/scale - 0.5
	case r.mode == "pytorch_half_pixel":
		return 0
	case r.mode == "align_corners" && out > 1:
		return float64(i*(in-1)) / float64(out-1)
	case r.mode == "align_corners":
		return 0
	}
	return float64(i) / scale
}

// taps lists the taps of one axis.
func (r *resize[T]) taps(in, out int, scale float64) []tap {
	taps := make([]tap, out)
	for i := range taps {
		x := r.coordinate(i, in, out, scale)
		switch r.nearest {
		case "floor":
			x = math.Floor(x)
		case "ceil":
			x = math.Ceil(x)
		case "round_prefer_floor":
			x = math.Ceil(x - 0.5)
		case "round_prefer_ceil":
			x = math.Floor(x + 0.5)
		}
		x = min(max(x, 0), float64(in-1))
		a := int(x)
		taps[i] = tap{a, min(a+1, in-1), x - float64(a)}
	}
	return taps
}

func (r *resize[T]) prepare() {
	s := [4]int{r.x.shape[2], r.x.shape[3], r.y.shape[2], r.y.shape[3]}
	if s != r.shape {
		r.shape = s
		r.rows = r.taps(s[0], s[2], float64(r.scales[0]))
		r.columns = r.taps(s[1], s[3], float64(r.scales[1]))
	}
}

func (r *resize[T]) forward(e *Engine[T]) {
	r.prepare()
	a, oa, w, ow := area(r.x), area(r.y), r.x.shape[3], r.y.shape[3]
	e.parallel(r.x.shape[0]*r.x.shape[1], func(i int, _ *worker[T]) {
		x, y := r.x.data[i*a:][:a], r.y.data[i*oa:][:oa]
		for oy, v := range r.rows {
			top, bottom, dst := x[v.a*w:][:w], x[v.b*w:][:w], y[oy*ow:][:ow]
			for ox, h := range r.columns {
				if r.nearest != "" {
					dst[ox] = top[h.a]
					continue
				}
				t := float64((1-h.w)*float64(top[h.a])) + float64(h.w*float64(top[h.b]))
				b := float64((1-h.w)*float64(bottom[h.a])) + float64(h.w*float64(bottom[h.b]))
				dst[ox] = T(float64((1-v.w)*t) + float64(v.w*b))
			}
		}
	})
}

func (r *resize[T]) backward(e *Engine[T]) {
	a, oa, w, ow := area(r.x), area(r.y), r.x.shape[3], r.y.shape[3]
	dx := e.gradient(r.x)
	e.parallel(r.x.shape[0]*r.x.shape[1], func(i int, _ *worker[T]) {
		dst, dy := dx[i*a:][:a], r.y.grad[i*oa:][:oa]
		for oy, v := range r.rows {
			top, bottom := dst[v.a*w:][:w], dst[v.b*w:][:w]
			for ox, h := range r.columns {
				g := dy[oy*ow+ox]
				if r.nearest != "" {
					top[h.a] += g
					continue
				}
				top[h.a] += T((1 - v.w) * (1 - h.w) * float64(g))
				top[h.b] += T((1 - v.w) * h.w * float64(g))
				bottom[h.a] += T(v.w * (1 - h.w) * float64(g))
				bottom[h.b] += T(v.w * h.w * float64(g))
			}
		}
	})
}

// cubic interpolates by the four pixels around along either axis.
type cubic[T float] struct {
	resize[T]
	coefficient   float64 // a in Keys' kernel
	inside        bool    // weights of pixels beyond the image are zero
	rows, columns []quad
}

// quad says that an output coordinate is Σ w·x[at].
type quad struct {
	at [4]int
	w  [4]float64
}

func (c *cubic[T]) quads(in, out int, scale float64) []quad {
	a := c.coefficient
	near := func(d float64) float64 { return float64(float64(float64(float64((a+2)*d)-(a+3))*d)*d) + 1 }
	far := func(d float64) float64 {
		return float64(float64(float64(float64(float64(a*d)-5*a)*d)+8*a)*d) - 4*a
	}
	quads := make([]quad, out)
	for i := range quads {
		x := c.coordinate(i, in, out, scale)
		first := math.Floor(x)
		d := x - first
		q := quad{w: [4]float64{far(d + 1), near(d), near(1 - d), far(2 - d)}}
		var sum float64
		for k := range q.at {
			at := int(first) - 1 + k
			q.at[k] = min(max(at, 0), in-1)
			if c.inside && at != q.at[k] {
				q.w[k] = 0
			}
			sum += q.w[k]
		}
		if c.inside {
			for k := range q.w {
				q.w[k] /= sum
			}
		}
		quads[i] = q
	}
	return quads
}

func (c *cubic[T]) forward(e *Engine[T]) {
	s := [4]int{c.x.shape[2], c.x.shape[3], c.y.shape[2], c.y.shape[3]}
	if s != c.shape {
		c.shape = s
		c.rows = c.quads(s[0], s[2], float64(c.scales[0]))
		c.columns = c.quads(s[1], s[3], float64(c.scales[1]))
	}
	a, oa, w, ow := area(c.x), area(c.y), c.x.shape[3], c.y.shape[3]
	e.parallel(c.x.shape[0]*c.x.shape[1], func(i int, _ *worker[T]) {
		x, y := c.x.data[i*a:][:a], c.y.data[i*oa:][:oa]
		for oy, v := range c.rows {
			dst := y[oy*ow:][:ow]
			for ox, h := range c.columns {
				var sum float64
				for j, wy := range v.w {
					row := x[v.at[j]*w:][:w]
					var t float64
					for k, wx := range h.w {
						t += float64(wx * float64(row[h.at[k]]))
					}
					sum += float64(wy * t)
				}
				dst[ox] = T(sum)
			}
		}
	})
}

func (c *cubic[T]) backward(e *Engine[T]) {
	if !c.x.needed {
		return
	}
	a, oa, w, ow := area(c.x), area(c.y), c.x.shape[3], c.y.shape[3]
	dx := e.gradient(c.x)
	e.parallel(c.x.shape[0]*c.x.shape[1], func(i int, _ *worker[T]) {
		dst, dy := dx[i*a:][:a], c.y.grad[i*oa:][:oa]
		for oy, v := range c.rows {
			for ox, h := range c.columns {
				g := float64(dy[oy*ow+ox])
				for j, wy := range v.w {
					for k, wx := range h.w {
						dst[v.at[j]*w+h.at[k]] += T(float64(float64(wy*wx) * g))
					}
				}
			}
		}
	})
}
