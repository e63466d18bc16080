package backendtest

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
)

// Margin says how far a network's values are from where its gradient jumps: a
// Relu's input of 0, and a change of the largest input in a MaxPool's window.
type Margin struct {
	Relu float64 // smallest distance of a Relu's input from 0
	Pool float64 // smallest distance of a window's largest input from the next
}

// PoolMargin is the Margin.Pool that Separate gives.
const PoolMargin = 3e-4

// Separate changes a graph of the study's operators and a batch of images
// [N,C,H,W] a little, so that in training mode no value is near where the
// gradient jumps. Two programs that sum in different orders may otherwise part by
// a thousand times their rounding errors, and both be right.
//
// The bias of a BatchNormalization or Conv before a Relu is moved, channel by
// channel, so that 0 lies amidst the widest gap between neighbours among the
// middle half of the values: between a quarter and three quarters of them pass
// the Relu. n values of standard deviation 1 leave a gap of about 3·ln(n)/n. In a
// MaxPool's window whose two largest values are close, a pixel is changed by
// 1/16.
//
// Separate computes in float64 and draws nothing, so it gives the same everywhere
// but for the last digits. It fails if windows stay close.
func Separate(g *nn.Graph, images backend.Tensor) (Margin, error) {
	if err := images.Check(); err != nil {
		return Margin{}, fmt.Errorf("images: %w", err)
	}
	if images.F32 == nil {
		return Margin{}, errors.New("images: must be float32")
	}
	beforeRelu, rectified := map[string]bool{}, map[string]bool{}
	for _, n := range g.Nodes {
		if n.Op == "Relu" {
			beforeRelu[n.Inputs[0]], rectified[n.Outputs[0]] = true, true
		}
	}
	closePools := errors.New("windows of a MaxPool stay within the margin")
	var m Margin
	pass := func() error {
		m = Margin{math.Inf(1), math.Inf(1)}
		r := reference.New(g, backend.LossOnProbabilities)
		x := &reference.Array{Shape: images.Shape, Data: images.Float64s()}
		values := map[string]*reference.Array{g.Input.Name: x}
		r.Computed = func(n *nn.Node, out *reference.Array) error {
			values[n.Outputs[0]] = out
			if beforeRelu[n.Outputs[0]] {
				if (n.Op == "BatchNormalization" || n.Op == "Conv") && len(n.Inputs) > 2 {
					moveBias(g.Tensor(n.Inputs[2]), r.Values[n.Inputs[2]], out)
				}
				for _, v := range out.Data {
					m.Relu = min(m.Relu, math.Abs(v))
				}
			}
			if n.Op != "MaxPool" {
				return nil
			}
			in := values[n.Inputs[0]]
			touched := map[int]bool{} // pixels of the images
			reference.EachPool(n, in, out, func(best, second, i int) {
				// Among the zeros of a Relu it does not matter which is taken: the
				// Relu stops the gradient.
				if second < 0 || rectified[n.Inputs[0]] && in.Data[best] == 0 {
					return
				}
				d := in.Data[best] - in.Data[second]
				m.Pool = min(m.Pool, d)
				if d < PoolMargin {
					h, w := out.Shape[2], out.Shape[3]
					image, y, x := i/(out.Shape[1]*h*w), i/w%h*images.Shape[2]/h, i%w*images.Shape[3]/w
					touched[(image*images.Shape[1]*images.Shape[2]+y)*images.Shape[3]+x] = true
				}
			})
			for i := range touched {
				images.F32[i] += 1. / 16
			}
			if len(touched) > 0 {
				return closePools
			}
			return nil
		}
		_, err := r.Forward(x, true)
		return err
	}
	err := pass()
	for try := 0; errors.Is(err, closePools) && try < 20; try++ {
		err = pass()
	}
	return m, err
}

// moveBias moves the bias of each channel so that 0 lies in the widest gap of the
// values that it was added to.
func moveBias(t *nn.Tensor, bias, out *reference.Array) {
	channels := make([][]float64, out.Shape[1])
	reference.EachPixel(out, func(_, c, i int) { channels[c] = append(channels[c], out.Data[i]) })
	shift := make([]float64, len(channels))
	for c, v := range channels {
		slices.Sort(v)
		widest, middle := 0.0, 0.0
		for i := len(v) / 4; i+1 < len(v)-len(v)/4; i++ {
			if gap := v[i+1] - v[i]; gap > widest {
				widest, middle = gap, (v[i]+v[i+1])/2
			}
		}
		t.Data[c] -= float32(middle)
		shift[c] = float64(t.Data[c]) - bias.Data[c]
		bias.Data[c] += shift[c]
	}
	reference.EachPixel(out, func(_, c, i int) { out.Data[i] += shift[c] })
}
