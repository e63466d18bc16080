package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// upsample is ONNX's Resize by nearest neighbour with whole factors: every
// pixel becomes fy×fx pixels. gorgonia.Upsample2D does the same one element at
// a time through At and SetAt.
type upsample struct{ planes, h, w, fy, fx int }

func (u upsample) compute(w *kernel.Workers, in [][]float32, out []float32) {
	ow := u.w * u.fx
	w.Run(u.planes, func(_, plane int) {
		for y := range u.h {
			src := in[0][(plane*u.h+y)*u.w:][:u.w]
			first := out[(plane*u.h+y)*u.fy*ow:][:ow]
			for x, v := range src {
				for f := range u.fx {
					first[x*u.fx+f] = v
				}
			}
			for f := 1; f < u.fy; f++ {
				copy(out[((plane*u.h+y)*u.fy+f)*ow:], first)
			}
		}
	})
}

func (u upsample) gradients(b *builder, o *op, in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(int) (*G.Node, error) {
		return b.apply(o.name, upsampleInput(u), in[0].Shape(), nil, grad)
	})
}

// upsampleInput sums the output gradient over each pixel's copies.
type upsampleInput upsample

func (u upsampleInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	ow := u.w * u.fx
	w.Run(u.planes, func(_, plane int) {
		for y := range u.h {
			dst := out[(plane*u.h+y)*u.w:][:u.w]
			clear(dst)
			for f := range u.fy {
				src := in[0][((plane*u.h+y)*u.fy+f)*ow:][:ow]
				for x := range dst {
					for q := range u.fx {
						dst[x] += src[x*u.fx+q]
					}
				}
			}
		}
	})
}
