package gorgonia

import (
	G "gorgonia.org/gorgonia"

	"github.com/refocus-em/refocus/plugins/gorgonia/internal/kernel"
)

// concat is ONNX's Concat along channels; sizes holds each input's values per
// image. gorgonia.Concat would do, but copies element by element, and the
// gradient for one input alone cannot be had.
type concat struct {
	n     int
	sizes []int
}

// offset is where input i starts within an image of the output, and the
// image's size.
func (c concat) offset(i int) (start, total int) {
	for j, s := range c.sizes {
		if j < i {
			start += s
		}
		total += s
	}
	return
}

func (c concat) compute(w *kernel.Workers, in [][]float32, out []float32) {
	for i, s := range c.sizes {
		start, total := c.offset(i)
		w.Run(c.n, func(_, n int) { copy(out[n*total+start:][:s], in[i][n*s:]) })
	}
}

func (c concat) gradients(b *builder, o *op, in G.Nodes, _, grad *G.Node, need []bool) (G.Nodes, error) {
	return only(need, func(i int) (*G.Node, error) {
		return b.apply(o.name, concatInput{c, i}, in[i].Shape(), nil, grad)
	})
}

// concatInput takes the part of input i out of the output gradient.
type concatInput struct {
	concat
	i int
}

func (c concatInput) compute(w *kernel.Workers, in [][]float32, out []float32) {
	start, total := c.offset(c.i)
	s := c.sizes[c.i]
	w.Run(c.n, func(_, n int) { copy(out[n*s:][:s], in[0][n*total+start:]) })
}
