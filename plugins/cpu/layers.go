package cpu

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/plugins/cpu/internal/fast"
)

// LayerTime is what one pass over one layer takes of a training step. The
// convolutions that read the same values have one data gradient together, which
// stands under the last one's name, with the work of that one only.
type LayerTime struct {
	Layer        string // the node; "" for the whole network
	Pass         string // "forward", "data gradient", "weight gradient", …
	MultiplyAdds int64  // of the convolution computed directly; 0 for other work
	Time         time.Duration
}

// LayerTimes takes training steps of a batch of square images of the given size
// in this process until length has passed, three at least, and returns the
// median time of each pass over each layer. The clock is the wall's. Of the
// groups of parameters in frozen no gradient is computed.
func LayerTimes(ctx context.Context, g *nn.Graph, o backend.Options, batch, size int, frozen []string, length time.Duration) ([]LayerTime, error) {
	var opened engine.Engine
	s, err := engine.NewBackend(func() (backend.Description, error) { return describe("") },
		func(g *nn.Graph, o engine.Options) (_ engine.Engine, err error) {
			opened, err = compile(g, o)
			return opened, err
		}).Open(ctx, g, o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	e, ok := opened.(*fast.Engine)
	if !ok {
		return nil, errors.New("no times per layer: this precision or network runs on plain loops")
	}
	var still []bool
	for _, t := range g.Parameters() {
		still = append(still, slices.Contains(frozen, nn.Group(t.Name)))
	}
	channels := g.Input.Shape[1]
	b := engine.Batch{
		Images: backend.Tensor{Shape: []int{batch, channels, size, size}, F32: make([]float32, batch*channels*size*size)},
		Labels: make([]uint8, batch*size*size),
	}
	rng := random.Stream(1, "layers")
	for i := range b.Images.F32 {
		b.Images.F32[i] = float32(rng.NormFloat64())
	}
	for i := range b.Labels {
		b.Labels[i] = uint8(rng.IntN(2))
	}

	start := time.Now()
	clock := func() time.Duration { return time.Since(start) }
	type pass struct{ layer, name string }
	index := map[pass]int{}
	var layers []LayerTime
	var times [][]time.Duration // per layer and pass
	add := func(step int, ph fast.Phase) {
		key := pass{ph.Layer, ph.Pass}
		i, ok := index[key]
		if !ok {
			i = len(layers)
			index[key] = i
			layers = append(layers, LayerTime{Layer: ph.Layer, Pass: ph.Pass})
			if ph.Pass != "loss" { // its phases name the last convolution
				layers[i].MultiplyAdds = ph.MultiplyAdds
			}
			times = append(times, nil)
		}
		if len(times[i]) < step {
			times[i] = append(times[i], 0)
		}
		times[i][step-1] += ph.Time
	}
	for step := 1; step <= 3 || clock() < length; step++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		phases, err := e.Profile(b, still, clock)
		if err != nil {
			return nil, err
		}
		for _, ph := range phases {
			add(step, ph)
		}
		before := clock()
		if err := e.Adam(step, 1e-4, 1, still); err != nil {
			return nil, err
		}
		add(step, fast.Phase{Pass: "Adam", Time: clock() - before})
	}
	for i := range layers {
		slices.Sort(times[i])
		layers[i].Time = times[i][len(times[i])/2]
	}
	return layers, nil
}
