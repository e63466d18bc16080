package engine_test

import (
	"fmt"
	"math"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/engine"
	"github.com/refocus-em/refocus/harness/nn"
)

// pixels is the smallest engine that trains: it classifies each pixel by itself.
// Its only network is a convolution 1×1 and a Softmax, its loss the cross
// entropy on logits. It computes in float64 and keeps its arrays in the
// session's precision.
type pixels struct {
	graph   *nn.Graph
	options engine.Options
	arrays  map[engine.Kind]map[string][]float64

	// What tests look at and meddle with.
	calls []string
	fail  error // of every method but Get and Set
	hang  bool  // Forward and Gradients compute until they are stopped
}

// operators is what pixels executes.
var operators = engine.Operators{
	"Conv":    {Inputs: [2]int{3, 3}, Attributes: []string{"kernel_shape"}, Note: "1×1", Check: onePixel},
	"Softmax": {Inputs: [2]int{1, 1}, Attributes: []string{"axis"}},
}

func onePixel(g *nn.Graph, n *nn.Node) error {
	if w := g.Tensor(n.Inputs[1]); w == nil || w.Shape[2] != 1 || w.Shape[3] != 1 {
		return fmt.Errorf("a kernel of more than one pixel")
	}
	return nil
}

func describe() (backend.Description, error) {
	return backend.Description{
		Name: "pixels", Version: "1", Numerics: "pixels-1", Determinism: backend.DeterminismMachine,
		Devices:    []backend.Device{{Name: "cpu", Kind: "cpu"}},
		Precisions: []string{backend.Float32, backend.Float64, backend.Mixed},
		Losses:     []string{backend.LossOnLogits},
		Operators:  operators.Describe("cpu"),
	}, nil
}

func compile(g *nn.Graph, o engine.Options) (engine.Engine, error) {
	if err := operators.Check(g); err != nil {
		return nil, err
	}
	e := &pixels{graph: g, options: o, arrays: map[engine.Kind]map[string][]float64{}}
	for k := engine.Value; k <= engine.SecondMoment; k++ {
		e.arrays[k] = map[string][]float64{}
		for _, t := range g.Parameters() {
			e.arrays[k][t.Name] = make([]float64, t.Len())
		}
	}
	for _, t := range g.Parameters() {
		for i, v := range t.Data {
			e.arrays[engine.Value][t.Name][i] = float64(v)
		}
	}
	return e, nil
}

// network classifies pixels of so many channels.
func network(channels, classes int) *nn.Graph {
	g := &nn.Graph{
		Name:   "pixels",
		Input:  nn.Value{Name: nn.Image, Shape: []int{0, channels, 0, 0}},
		Output: nn.Value{Name: nn.Probabilities, Shape: []int{0, classes, 0, 0}},
		Nodes: []*nn.Node{
			{Name: "conv", Op: "Conv", Inputs: []string{nn.Image, "encoder.weight", "decoder.bias"}, Outputs: []string{nn.Logits}},
			{Name: "softmax", Op: "Softmax", Inputs: []string{nn.Logits}, Outputs: []string{nn.Probabilities}, Attrs: nn.Attrs{"axis": int64(1)}},
		},
		Tensors: []*nn.Tensor{
			{Name: "encoder.weight", Shape: []int{classes, channels, 1, 1}, Role: nn.Parameter},
			{Name: "decoder.bias", Shape: []int{classes}, Role: nn.Parameter},
		},
	}
	for _, t := range g.Tensors {
		t.Data = make([]float32, t.Len())
		for i := range t.Data {
			t.Data[i] = float32(i%3) - 0.75
		}
	}
	return g
}

func (e *pixels) call(format string, a ...any) error {
	e.calls = append(e.calls, fmt.Sprintf(format, a...))
	for e.hang {
		if e.options.Stopped() {
			return engine.ErrInterrupted
		}
	}
	return e.fail
}

// rounded rounds to the session's precision.
func (e *pixels) rounded(v float64) float64 {
	if e.options.Precision == backend.Float64 {
		return v
	}
	return float64(float32(v))
}

// fill puts data into a tensor.
func fill(t backend.Tensor, data []float64) {
	copy(t.F64, data)
	for i := range t.F32 {
		t.F32[i] = float32(data[i])
	}
}

func (e *pixels) Get(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		fill(t.Tensor, e.arrays[k][t.Name])
	}
	return nil
}

func (e *pixels) Set(k engine.Kind, ts []backend.NamedTensor) error {
	for _, t := range ts {
		copy(e.arrays[k][t.Name], t.Float64s())
	}
	return nil
}

// forward returns logits and probabilities [N,K,H,W].
func (e *pixels) forward(images backend.Tensor) (z, p []float64) {
	x, w, b := images.Float64s(), e.arrays[engine.Value]["encoder.weight"], e.arrays[engine.Value]["decoder.bias"]
	n, c, area, k := images.Shape[0], images.Shape[1], images.Shape[2]*images.Shape[3], len(b)
	z, p = make([]float64, n*k*area), make([]float64, n*k*area)
	for i := range n * area {
		image, pixel := i/area, i%area
		sum := 0.0
		for class := range k {
			at := (image*k+class)*area + pixel
			z[at] = b[class]
			for channel := range c {
				z[at] += w[class*c+channel] * x[(image*c+channel)*area+pixel]
			}
			sum += math.Exp(z[at])
		}
		for class := range k {
			at := (image*k+class)*area + pixel
			p[at] = math.Exp(z[at]) / sum
		}
	}
	return z, p
}

// losses is the mean cross entropy of each image.
func (e *pixels) losses(p []float64, b engine.Batch) []float64 {
	n, h, w := b.Size()
	area, k := h*w, len(p)/len(b.Labels)
	losses := make([]float64, n)
	for i, label := range b.Labels {
		losses[i/area] -= math.Log(p[(i/area*k+int(label))*area+i%area]) / float64(area)
	}
	return losses
}

func (e *pixels) Gradients(b engine.Batch, frozen []bool, scale float64, statistics bool) (float64, error) {
	if err := e.call("gradients of %d, frozen %v, scale %v, statistics %v", b.Images.Shape[0], frozen, scale, statistics); err != nil {
		return 0, err
	}
	_, p := e.forward(b.Images)
	x, c := b.Images.Float64s(), b.Images.Shape[1]
	n, h, w := b.Size()
	area, k := h*w, len(p)/len(b.Labels)
	dw, db := e.arrays[engine.Gradient]["encoder.weight"], e.arrays[engine.Gradient]["decoder.bias"]
	clear(dw)
	clear(db)
	for i, label := range b.Labels {
		image, pixel := i/area, i%area
		for class := range k {
			d := p[(image*k+class)*area+pixel]
			if class == int(label) {
				d--
			}
			d *= scale / float64(n*area)
			db[class] += d
			for channel := range c {
				dw[class*c+channel] += d * x[(image*c+channel)*area+pixel]
			}
		}
	}
	for _, d := range [][]float64{dw, db} {
		for i := range d {
			d[i] = e.rounded(d[i])
		}
	}
	loss := 0.0
	for _, l := range e.losses(p, b) {
		loss += l / float64(n)
	}
	return loss, nil
}

func (e *pixels) Finite() (bool, error) {
	if err := e.call("finite"); err != nil {
		return false, err
	}
	for _, d := range e.arrays[engine.Gradient] {
		for _, v := range d {
			if v-v != 0 {
				return false, nil
			}
		}
	}
	return true, nil
}

func (e *pixels) Adam(step int, learningRate, scale float64, frozen []bool) error {
	if err := e.call("step %d at %v, scale %v, frozen %v", step, learningRate, scale, frozen); err != nil {
		return err
	}
	a := e.options.Adam
	c1, c2 := 1-math.Pow(a.Beta1, float64(step)), 1-math.Pow(a.Beta2, float64(step))
	for i, t := range e.graph.Parameters() {
		if frozen[i] {
			continue
		}
		w, m, v := e.arrays[engine.Value][t.Name], e.arrays[engine.FirstMoment][t.Name], e.arrays[engine.SecondMoment][t.Name]
		for j, d := range e.arrays[engine.Gradient][t.Name] {
			d /= scale
			m[j] = e.rounded(a.Beta1*m[j] + (1-a.Beta1)*d)
			v[j] = e.rounded(a.Beta2*v[j] + (1-a.Beta2)*d*d)
			w[j] = e.rounded(w[j] - learningRate*(m[j]/c1)/(math.Sqrt(v[j]/c2)+a.Epsilon))
		}
	}
	return nil
}

func (e *pixels) Forward(b engine.Batch, out backend.Tensor) ([]float64, error) {
	if err := e.call("forward %d, labels %v", b.Images.Shape[0], b.Labels != nil); err != nil {
		return nil, err
	}
	_, p := e.forward(b.Images)
	fill(out, p)
	if b.Labels == nil {
		return nil, nil
	}
	return e.losses(p, b), nil
}

func (e *pixels) Activations(b engine.Batch, training bool, out []backend.NamedTensor) error {
	if err := e.call("%d activations, training %v", len(out), training); err != nil {
		return err
	}
	z, p := e.forward(b.Images)
	for _, t := range out {
		fill(t.Tensor, map[string][]float64{nn.Image: b.Images.Float64s(), nn.Logits: z, nn.Probabilities: p}[t.Name])
	}
	return nil
}

// BatchSize is small, so that tests need few images for several batches.
func (e *pixels) BatchSize(h, w int) int { return 3 }

func (e *pixels) Close() error { return e.call("close") }
