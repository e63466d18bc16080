package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// maxElements bounds the images of one batch.
const maxElements = 1 << 31

// session implements backend.Session.
type session struct {
	graph    *nn.Graph
	opts     backend.Options
	wide     bool         // the precision is float64
	params   []*nn.Tensor // the graph's, …
	values   []*nn.Tensor // … and with its statistics, in its order
	engine   Engine       // nil: closed
	datasets map[string]*dataset
	stop     atomic.Bool // Options.Stop

	step  int     // optimiser steps taken
	scale float64 // by which the loss is multiplied: 1 except in mixed precision
	good  int     // … and the steps since that last changed

	frozen []bool // per parameter, of the call under way
	images backend.Tensor
	labels []uint8
	output backend.Tensor

	normal [3]int // the last batch, height and width of a pass in training mode
	size   [3]int // channels, height and width of the last images …
	shape  []int  // … and the network's output for the smallest batch of them
}

func newSession(g *nn.Graph, o backend.Options) *session {
	s := &session{graph: g, opts: o, wide: o.Precision == backend.Float64, datasets: map[string]*dataset{}, scale: 1}
	s.params = g.Parameters()
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			s.values = append(s.values, t)
		}
	}
	s.frozen = make([]bool, len(s.params))
	if o.Precision == backend.Mixed {
		s.scale = initialScale
	}
	return s
}

// run calls f, which is interrupted when ctx is done.
func (s *session) run(ctx context.Context, f func() error) error {
	if s.engine == nil {
		return errors.New("the session is closed")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.stop.Store(false)
	set := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		s.stop.Store(true)
		close(set)
	})
	err := f()
	if !unhook() {
		<-set // or it could stop the next call
	}
	if errors.Is(err, ErrInterrupted) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// empty returns a tensor of zeros in the session's precision.
func (s *session) empty(shape []int) backend.Tensor { return s.fitted(backend.Tensor{}, shape) }

// fitted returns a tensor of the shape in the session's precision with
// unspecified contents, in the memory of t where that is large enough.
func (s *session) fitted(t backend.Tensor, shape []int) backend.Tensor {
	n := nn.Size(shape)
	t.Shape = append(t.Shape[:0], shape...)
	if s.wide {
		t.F64 = resized(t.F64, n)
	} else {
		t.F32 = resized(t.F32, n)
	}
	return t
}

// converted returns t in the session's precision: itself if it is.
func (s *session) converted(t backend.Tensor) backend.Tensor {
	switch {
	case s.wide && t.F64 == nil:
		t.F32, t.F64 = nil, convert(make([]float64, len(t.F32)), t.F32)
	case !s.wide && t.F32 == nil:
		t.F32, t.F64 = convert(make([]float32, len(t.F64)), t.F64), nil
	}
	return t
}

func convert[D, S float32 | float64](dst []D, src []S) []D {
	for i, v := range src {
		dst[i] = D(v)
	}
	return dst
}

// part is the images from first on, count of them, of a tensor [N,…].
func part(t backend.Tensor, first, count int) backend.Tensor {
	size := (len(t.F32) + len(t.F64)) / t.Shape[0]
	p := backend.Tensor{Shape: append([]int{count}, t.Shape[1:]...)}
	if t.F64 != nil {
		p.F64 = t.F64[first*size:][:count*size]
	} else {
		p.F32 = t.F32[first*size:][:count*size]
	}
	return p
}

// LoadDataset implements backend.Session.
func (s *session) LoadDataset(ctx context.Context, id, path, digest string) error {
	return s.run(ctx, func() error {
		d, err := openDataset(ctx, id, path, digest)
		if err != nil {
			return fmt.Errorf("dataset %q: %w", id, err)
		}
		if c := s.graph.Input.Shape[1]; d.c != c {
			d.file.Close()
			return fmt.Errorf("dataset %q: %s has images of %d channels, the network takes %d", id, path, d.c, c)
		}
		if old := s.datasets[id]; old != nil {
			old.file.Close()
		}
		s.datasets[id] = d
		return nil
	})
}

// batch reads samples into the session's buffers. The last one is repeated until
// there are atLeast.
func (s *session) batch(samples []backend.Sample, atLeast int) (Batch, error) {
	if len(samples) == 0 {
		return Batch{}, errors.New("the batch is empty")
	}
	var first *dataset
	n := max(len(samples), atLeast)
	classes, area := 0, 0
	for i := range n {
		sample := samples[min(i, len(samples)-1)]
		d := s.datasets[sample.Dataset]
		if d == nil {
			return Batch{}, fmt.Errorf("unknown dataset %q (LoadDataset names them)", sample.Dataset)
		}
		if first == nil {
			first, area = d, d.h*d.w
			if n > maxElements/(d.c*area) {
				return Batch{}, fmt.Errorf("%d images of %d×%d are too many for one batch", n, d.h, d.w)
			}
			out, err := s.outputShape(d.c, d.h, d.w)
			if err != nil {
				return Batch{}, fmt.Errorf("dataset %q: %w", d.id, err)
			}
			if out[2] != d.h || out[3] != d.w {
				return Batch{}, fmt.Errorf("dataset %q: labels of %d×%d do not fit the network's output %d×%d", d.id, d.h, d.w, out[2], out[3])
			}
			classes = out[1]
			s.images, s.labels = s.fitted(s.images, []int{n, d.c, d.h, d.w}), resized(s.labels, n*area)
		}
		if d.h != first.h || d.w != first.w {
			return Batch{}, fmt.Errorf("dataset %q has images of %d×%d in a batch of %d×%d", d.id, d.h, d.w, first.h, first.w)
		}
		size, labels := d.c*area, s.labels[i*area:][:area]
		var err error
		if s.wide {
			err = read(d, sample, classes, s.images.F64[i*size:][:size], labels)
		} else {
			err = read(d, sample, classes, s.images.F32[i*size:][:size], labels)
		}
		if err != nil {
			return Batch{}, fmt.Errorf("dataset %q: %w", d.id, err)
		}
	}
	return Batch{s.images, s.labels}, nil
}

// fixed is the number of images that the graph takes at once, 0 for any.
func (s *session) fixed() int { return s.graph.Input.Shape[0] }

// outputShape is the shape [N,K,H,W] of the network's output for the smallest
// batch of images: of one, if the graph does not fix it.
func (s *session) outputShape(c, h, w int) ([]int, error) {
	if size := [3]int{c, h, w}; size != s.size || s.shape == nil {
		shapes, err := s.graph.Shapes([]int{max(1, s.fixed()), c, h, w})
		if err != nil {
			return nil, err
		}
		out := shapes[s.graph.Output.Name]
		if len(out) != 4 {
			return nil, fmt.Errorf("the network's output has shape %v, not [N,K,H,W]", out)
		}
		s.size, s.shape = size, out
	}
	return s.shape, nil
}

// Close implements backend.Session.
func (s *session) Close() error {
	if s.engine == nil {
		return nil
	}
	errs := []error{s.engine.Close()}
	s.engine = nil
	for _, d := range s.datasets {
		errs = append(errs, d.file.Close())
	}
	s.datasets = nil
	return errors.Join(errs...)
}
