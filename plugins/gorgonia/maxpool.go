package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// maxPool is ONNX's MaxPool without dilation; padding never wins.
//
// gorgonia.MaxPool2D gives the same numbers but takes the backing slice of a
// transposed input for its values.
type maxPool struct {
	planes, h, w   int
	kh, kw, sh, sw int
	top, left      int
	oh, ow         int
}

// argmax is the index in the plane of the first largest value of the window; a
// NaN counts as larger than any number, as in PyTorch.
func (p maxPool) argmax(x []float32, oy, ox int) int {
	y0, x0 := oy*p.sh-p.top, ox*p.sw-p.left
	best := -1
	if p.kh == 2 && p.kw == 2 && y0 >= 0 && x0 >= 0 && y0+1 < p.h && x0+1 < p.w { // most are
		best = y0*p.w + x0
		top := x[best]
		for _, i := range [...]int{best + 1, best + p.w, best + p.w + 1} {
			if v := x[i]; v > top || v != v {
				best, top = i, v
			}
		}
		return best
	}
	for y := max(y0, 0); y < min(y0+p.kh, p.h); y++ {
		for i := y*p.w + max(x0, 0); i < y*p.w+min(x0+p.kw, p.w); i++ {
			if best < 0 || x[i] > x[best] || x[i] != x[i] {
				best = i
			}
		}
	}
	return best
}

func (p maxPool) compute(w *kernel.Workers, in [][]float32, out []float32) {
	w.Run(p.planes, func(_, plane int) {
		x, y := in[0][plane*p.h*p.w:][:p.h*p.w], out[plane*p.oh*p.ow:]
		for oy := range p.oh {
			for ox := range p.ow {
				y[oy*p.ow+ox] = x[p.argmax(x, oy, ox)]
			}
		}
	})
}

func (p maxPool) gradients(b *builder, o *op, in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) {
		return b.apply(o.name, maxPoolInput(p), in[0].Shape(), nil, in[0], grad)
	})
}

// maxPoolInput computes maxPool's gradient from x and output gradient.
type maxPoolInput maxPool

func (m maxPoolInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	p := maxPool(m)
	w.Run(p.planes, func(_, plane int) {
		x, dx := in[0][plane*p.h*p.w:][:p.h*p.w], out[plane*p.h*p.w:][:p.h*p.w]
		dy := in[1][plane*p.oh*p.ow:]
		clear(dx)
		for oy := range p.oh {
			for ox := range p.ow {
				dx[p.argmax(x, oy, ox)] += dy[oy*p.ow+ox]
			}
		}
	})
}
