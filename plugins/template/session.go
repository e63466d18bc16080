package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// session is one network in training. The weights, statistics and moments are
// float64 numbers that float32 holds exactly, so that State loses nothing.
type session struct {
	graph    *nn.Graph
	adam     backend.Adam
	weights  map[string][]float64 // of every tensor of the graph
	m, v     map[string][]float64 // Adam's moments of every parameter
	step     int
	datasets map[string]*dataset
	closed   bool
}

var errClosed = errors.New("the session is closed")

// forget starts the optimiser afresh.
func (s *session) forget() {
	s.step = 0
	for _, t := range s.graph.Parameters() {
		s.m[t.Name], s.v[t.Name] = make([]float64, t.Len()), make([]float64, t.Len())
	}
}

func single(v float64) float64 { return float64(float32(v)) }

// dataset is a file of images [N,C,H,W] and labels [N,H,W], in memory.
type dataset struct {
	shape  []int
	images []float32
	labels []uint8
}

// LoadDataset implements backend.Session. The harness has verified the digest.
func (s *session) LoadDataset(_ context.Context, id, path, _ string) error {
	if s.closed {
		return errClosed
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return fmt.Errorf("dataset %q: %w", id, err)
	}
	defer f.Close()
	d := &dataset{}
	images, _ := f.Info("images")
	labels, _ := f.Info("labels")
	if len(images.Shape) != 4 || !slices.Equal(labels.Shape, []int{images.Shape[0], images.Shape[2], images.Shape[3]}) {
		return fmt.Errorf("dataset %q: images %v and labels %v are not [N,C,H,W] and [N,H,W]", id, images.Shape, labels.Shape)
	}
	d.shape, d.labels = images.Shape, make([]uint8, labels.Len())
	if d.images, err = f.Float32("images"); err == nil {
		err = f.ReadUint8("labels", 0, d.labels)
	}
	if err != nil {
		return fmt.Errorf("dataset %q: %w", id, err)
	}
	if k := s.graph.Output.Shape[1]; len(d.labels) > 0 && int(slices.Max(d.labels)) >= k {
		return fmt.Errorf("dataset %q: there is a label %d, the network has %d classes", id, slices.Max(d.labels), k)
	}
	s.datasets[id] = d
	return nil
}

// gather collects a batch in the orientation asked for.
func (s *session) gather(b backend.Batch) (*array, []uint8, error) {
	if s.closed {
		return nil, nil, errClosed
	}
	if len(b) == 0 {
		return nil, nil, errors.New("an empty batch")
	}
	var images *array
	var labels []uint8
	for i, x := range b {
		d := s.datasets[x.Dataset]
		switch {
		case d == nil:
			return nil, nil, fmt.Errorf("sample %d: dataset %q was not loaded", i, x.Dataset)
		case x.Index < 0 || x.Index >= d.shape[0]:
			return nil, nil, fmt.Errorf("sample %d: index %d, dataset %q has %d images", i, x.Index, x.Dataset, d.shape[0])
		case x.Dihedral > 7 || x.Dihedral != 0 && d.shape[2] != d.shape[3]:
			return nil, nil, fmt.Errorf("sample %d: symmetry %d of an image %d×%d", i, x.Dihedral, d.shape[2], d.shape[3])
		}
		c, h, w := d.shape[1], d.shape[2], d.shape[3]
		if images == nil {
			images = newArray([]int{len(b), c, h, w})
		} else if !slices.Equal(images.shape[1:], d.shape[1:]) {
			return nil, nil, fmt.Errorf("sample %d: an image of shape %v among others of %v", i, d.shape[1:], images.shape[1:])
		}
		for y := range h {
			for q := range w {
				sy, sx := y, q
				if x.Dihedral != 0 {
					sy, sx = backend.Dihedral(x.Dihedral, h, y, q)
				}
				for ch := range c {
					images.data[((i*c+ch)*h+y)*w+q] = float64(d.images[((x.Index*c+ch)*h+sy)*w+sx])
				}
				labels = append(labels, d.labels[(x.Index*h+sy)*w+sx])
			}
		}
	}
	return images, labels, nil
}

// differentiate is the mean loss of a batch and the pass with its gradients.
func (s *session) differentiate(ctx context.Context, b backend.Batch) (float64, *pass, error) {
	images, labels, err := s.gather(b)
	if err != nil {
		return 0, nil, err
	}
	p, err := s.forward(ctx, images, true)
	if err != nil {
		return 0, nil, err
	}
	loss := 0.0
	for _, l := range p.losses(labels) {
		loss += l / float64(len(b))
	}
	return loss, p, p.backward(ctx, labels)
}

// Train implements backend.Session.
func (s *session) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	if !(r.LearningRate >= 0) || math.IsInf(r.LearningRate, 1) {
		return fmt.Errorf("learning rate %v", r.LearningRate)
	}
	for i, b := range r.Batches {
		loss, p, err := s.differentiate(ctx, b)
		if err != nil {
			return fmt.Errorf("batch %d: %w", i, err)
		}
		s.update(p, r)
		if err := progress(backend.Step{Batch: i, Loss: loss}); err != nil {
			return err
		}
	}
	return nil
}

// update takes an optimiser step and moves the running statistics, those of
// frozen groups too.
func (s *session) update(p *pass, r backend.TrainRequest) {
	s.step++
	b1, b2 := s.adam.Beta1, s.adam.Beta2
	c1, c2 := 1-math.Pow(b1, float64(s.step)), 1-math.Pow(b2, float64(s.step))
	for _, t := range s.graph.Parameters() {
		if slices.Contains(r.Frozen, nn.Group(t.Name)) {
			continue
		}
		w, m, v := s.weights[t.Name], s.m[t.Name], s.v[t.Name]
		for i, g := range p.gradient(t.Name) {
			m[i] = single(b1*m[i] + (1-b1)*g)
			v[i] = single(b2*v[i] + (1-b2)*g*g)
			w[i] = single(w[i] - r.LearningRate*(m[i]/c1)/(math.Sqrt(v[i]/c2)+s.adam.Epsilon))
		}
	}
	for _, n := range s.graph.Nodes {
		if n.Op != "BatchNormalization" {
			continue
		}
		keep := float64(n.Attrs.Float("momentum", 0.9))
		x := p.values[n.Inputs[0]]
		count := float64(len(x.data) / x.shape[1])
		mean, variance := s.weights[n.Inputs[3]], s.weights[n.Inputs[4]]
		for c := range mean {
			mean[c] = single(keep*mean[c] + (1-keep)*p.mean[n.Name][c])
			variance[c] = single(keep*variance[c] + (1-keep)*p.variance[n.Name][c]*count/(count-1))
		}
	}
}

// Evaluate implements backend.Session. It takes one image at a time, whatever
// the batch size.
func (s *session) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	e := backend.Evaluation{Classes: s.graph.Output.Shape[1]}
	if d := s.datasets[r.Dataset]; len(r.Indices) == 0 && d != nil {
		for i := range d.shape[0] {
			r.Indices = append(r.Indices, i)
		}
	}
	if len(r.Indices) == 0 {
		r.Indices = []int{0} // gather finds out what is missing
	}
	for _, index := range r.Indices {
		images, labels, err := s.gather(backend.Batch{{Dataset: r.Dataset, Index: index}})
		if err != nil {
			return e, err
		}
		p, err := s.forward(ctx, images, false)
		if err != nil {
			return e, err
		}
		z := p.values[s.graph.Output.Name].data
		confusion := make([]int64, e.Classes*e.Classes)
		for i, label := range labels {
			best := 0
			for c := range e.Classes {
				if z[c*len(labels)+i] > z[best*len(labels)+i] {
					best = c
				}
			}
			confusion[int(label)*e.Classes+best]++
		}
		e.Loss = append(e.Loss, p.losses(labels)...)
		e.Confusion = append(e.Confusion, confusion)
	}
	return e, nil
}

// Predict implements backend.Session.
func (s *session) Predict(ctx context.Context, images backend.Tensor) (backend.Tensor, error) {
	if s.closed {
		return backend.Tensor{}, errClosed
	}
	if err := images.Check(); err != nil {
		return backend.Tensor{}, err
	}
	p, err := s.forward(ctx, &array{images.Shape, images.Float64s()}, false)
	if err != nil {
		return backend.Tensor{}, err
	}
	return outward(p.values[s.graph.Output.Name]), nil
}

// outward is an array in the contract's form.
func outward(a *array) backend.Tensor {
	t := backend.Tensor{Shape: a.shape, F32: make([]float32, len(a.data))}
	for i, v := range a.data {
		t.F32[i] = float32(v)
	}
	return t
}

// Gradients implements backend.Session.
func (s *session) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	loss, p, err := s.differentiate(ctx, b)
	if err != nil {
		return 0, nil, err
	}
	var ts []backend.NamedTensor
	for _, t := range s.graph.Parameters() {
		if !slices.Contains(frozen, nn.Group(t.Name)) {
			ts = append(ts, backend.NamedTensor{Name: t.Name, Tensor: outward(&array{t.Shape, p.gradient(t.Name)})})
		}
	}
	return loss, ts, nil
}

// Activations implements backend.Session.
func (s *session) Activations(ctx context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	images, _, err := s.gather(b)
	if err != nil {
		return nil, err
	}
	p, err := s.forward(ctx, images, training)
	if err != nil {
		return nil, err
	}
	var ts []backend.NamedTensor
	for _, name := range names {
		v := p.values[name]
		if v == nil {
			return nil, fmt.Errorf("the network has no value %q", name)
		}
		ts = append(ts, backend.NamedTensor{Name: name, Tensor: outward(v)})
	}
	return ts, nil
}

// entries lists everything a state holds, by name and in order.
func (s *session) entries(visit func(name string, shape []int, data []float64)) {
	for _, t := range s.graph.Tensors {
		if t.Role != nn.Constant {
			visit(t.Name, t.Shape, s.weights[t.Name])
		}
	}
	for _, t := range s.graph.Parameters() {
		visit("adam.m."+t.Name, t.Shape, s.m[t.Name])
		visit("adam.v."+t.Name, t.Shape, s.v[t.Name])
	}
}

// State implements backend.Session.
func (s *session) State(context.Context) ([]byte, error) {
	if s.closed {
		return nil, errClosed
	}
	var ts []safetensors.Tensor
	s.entries(func(name string, shape []int, data []float64) {
		ts = append(ts, safetensors.Tensor{Name: name, Shape: shape, Data: outward(&array{shape, data}).F32})
	})
	return safetensors.Encode(ts, map[string]string{"step": strconv.Itoa(s.step)})
}

// SetState implements backend.Session. Everything is read before anything is
// changed.
func (s *session) SetState(_ context.Context, state []byte) error {
	if s.closed {
		return errClosed
	}
	f, err := safetensors.Decode(state)
	if err != nil {
		return err
	}
	_, resumed := f.Metadata["step"]
	read := map[string][]float64{}
	s.entries(func(name string, shape []int, _ []float64) {
		_, isWeight := s.weights[name]
		t, ok := f.Info(name)
		switch {
		case err != nil || !ok && !isWeight && !resumed:
			return
		case !ok:
			err = fmt.Errorf("the state has no tensor %q", name)
			return
		case !slices.Equal(t.Shape, shape):
			err = fmt.Errorf("the state's %q has shape %v, must be %v", name, t.Shape, shape)
			return
		}
		var v backend.Tensor
		if t.DType == safetensors.F64 {
			v.F64, err = f.Float64(name)
		} else {
			v.F32, err = f.Float32(name)
		}
		read[name] = v.Float64s()
	})
	step := 0
	if err == nil && resumed {
		if step, err = strconv.Atoi(f.Metadata["step"]); err == nil && step < 0 {
			err = fmt.Errorf("step %d", step)
		}
	}
	if err != nil {
		return err
	}
	s.forget()
	s.entries(func(name string, _ []int, data []float64) {
		for i, v := range read[name] { // none of a moment in weights alone
			data[i] = single(v)
		}
	})
	s.step = step
	return nil
}

// Close implements backend.Session.
func (s *session) Close() error {
	*s = session{graph: s.graph, closed: true, weights: map[string][]float64{}}
	return nil
}
