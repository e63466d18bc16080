package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// kinds are the arrays of a state: what is put before a tensor's name, and
// whether all values have them or only parameters.
var kinds = []struct {
	kind   Kind
	prefix string
	values bool
}{{Value, "", true}, {FirstMoment, backend.FirstMoment, false}, {SecondMoment, backend.SecondMoment, false}}

// tensors returns tensors to be filled, one for each of the graph's.
func (s *session) tensors(graph []*nn.Tensor) []backend.NamedTensor {
	var r []backend.NamedTensor
	for _, t := range graph {
		r = append(r, backend.NamedTensor{Name: t.Name, Tensor: s.empty(t.Shape)})
	}
	return r
}

// State implements backend.Session.
func (s *session) State(ctx context.Context) ([]byte, error) {
	var state []byte
	err := s.run(ctx, func() error {
		var entries []safetensors.Tensor
		for _, k := range kinds {
			graph := s.params
			if k.values {
				graph = s.values
			}
			ts := s.tensors(graph)
			if err := s.engine.Get(k.kind, ts); err != nil {
				return err
			}
			for _, t := range ts {
				e := safetensors.Tensor{Name: k.prefix + t.Name, Shape: t.Shape, Data: t.F32}
				if s.wide {
					e.Data = t.F64
				}
				entries = append(entries, e)
			}
		}
		meta := map[string]string{backend.StepKey: strconv.Itoa(s.step)}
		if s.opts.Precision == backend.Mixed {
			meta[backend.LossScaleKey] = strconv.FormatFloat(s.scale, 'g', -1, 64)
			meta[backend.GoodStepsKey] = strconv.Itoa(s.good)
		}
		var err error
		state, err = safetensors.Encode(entries, meta)
		return err
	})
	return state, err
}

// SetState implements backend.Session.
func (s *session) SetState(ctx context.Context, state []byte) error {
	return s.run(ctx, func() error {
		if err := s.setState(state); err != nil {
			return fmt.Errorf("setting the state: %w", err)
		}
		return nil
	})
}

func (s *session) setState(state []byte) error {
	f, err := safetensors.Decode(state)
	if err != nil {
		return err
	}
	moments := 0
	all := make([][]backend.NamedTensor, len(kinds))
	for i, k := range kinds {
		graph := s.params
		if k.values {
			graph = s.values
		}
		for _, t := range graph {
			x, ok, err := s.entry(f, k.prefix+t.Name, t.Shape)
			switch {
			case err != nil:
				return err
			case ok && !k.values:
				moments++
			case !ok && k.values:
				return fmt.Errorf("it lacks %q, of shape %v", t.Name, t.Shape)
			}
			all[i] = append(all[i], backend.NamedTensor{Name: t.Name, Tensor: x})
		}
	}
	step, scale, good := 0, s.scale, 0
	switch moments {
	case 0: // the optimiser starts afresh
		if s.opts.Precision == backend.Mixed {
			scale = initialScale
		}
	case 2 * len(s.params):
		if step, scale, good, err = s.counters(f.Metadata); err != nil {
			return err
		}
	default:
		return fmt.Errorf("it holds %d of the optimiser's %d moments: all or none are needed", moments, 2*len(s.params))
	}
	// Only a device can fail from here on: names and lengths are the graph's own.
	for i, k := range kinds {
		if err := s.engine.Set(k.kind, all[i]); err != nil {
			return err
		}
	}
	s.step, s.scale, s.good = step, scale, good
	return nil
}

// counters parses the metadata that go with the moments.
func (s *session) counters(meta map[string]string) (step int, scale float64, good int, err error) {
	step, err = strconv.Atoi(meta[backend.StepKey])
	if err != nil || step < 0 {
		return 0, 0, 0, fmt.Errorf("its %s is %q, not a count", backend.StepKey, meta[backend.StepKey])
	}
	if s.opts.Precision != backend.Mixed {
		return step, 1, 0, nil
	}
	scale = initialScale
	if v, ok := meta[backend.LossScaleKey]; ok { // absent in a state of another precision
		scale, err = strconv.ParseFloat(v, 64)
		if err != nil || !(scale > 0) || math.IsInf(scale, 1) {
			return 0, 0, 0, fmt.Errorf("its %s is %q, not a positive number", backend.LossScaleKey, v)
		}
		if good, err = strconv.Atoi(meta[backend.GoodStepsKey]); err != nil || good < 0 || good >= growAfter {
			return 0, 0, 0, fmt.Errorf("its %s is %q, not a count below %d", backend.GoodStepsKey, meta[backend.GoodStepsKey], growAfter)
		}
	}
	return step, scale, good, nil
}

// entry reads an entry of a state in the session's precision. Where there is
// none, ok is false and the tensor is 0.
func (s *session) entry(f *safetensors.File, name string, shape []int) (t backend.Tensor, ok bool, err error) {
	info, ok := f.Info(name)
	if !ok {
		return s.empty(shape), false, nil
	}
	if !slices.Equal(info.Shape, shape) {
		return t, true, fmt.Errorf("%q has shape %v, not %v: it belongs to another network", name, info.Shape, shape)
	}
	t.Shape = shape
	switch info.DType {
	case safetensors.F64:
		t.F64, err = f.Float64(name)
	case safetensors.F32:
		t.F32, err = f.Float32(name)
	default:
		err = fmt.Errorf("%q is %s, not F32 or F64", name, info.DType)
	}
	if err != nil {
		return t, true, err
	}
	return s.converted(t), true, nil
}
