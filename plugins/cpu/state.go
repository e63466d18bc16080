package cpu

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
	"github.com/refocus-em/refocus/plugins/cpu/internal/engine"
)

// array is one entry of a session's state.
type array struct {
	entry  string // its name in the state
	kind   engine.Kind
	tensor *nn.Tensor
}

// arrays lists the state's entries in their order: values, then moments.
func (s *session) arrays() []array {
	var r []array
	for _, t := range s.graph.Tensors {
		if t.Role != nn.Constant {
			r = append(r, array{t.Name, engine.Value, t})
		}
	}
	for _, t := range s.params {
		r = append(r, array{"adam.m." + t.Name, engine.Moment1, t})
	}
	for _, t := range s.params {
		r = append(r, array{"adam.v." + t.Name, engine.Moment2, t})
	}
	return r
}

// State implements backend.Session.
func (s *session) State(ctx context.Context) ([]byte, error) {
	var state []byte
	err := s.run(ctx, func() error {
		var ts []safetensors.Tensor
		for _, a := range s.arrays() {
			d := make([]float64, a.tensor.Len())
			if err := s.engine.Get(a.kind, a.tensor.Name, d); err != nil {
				return err
			}
			t := safetensors.Tensor{Name: a.entry, Shape: a.tensor.Shape, Data: d}
			if s.opts.Precision != backend.Float64 {
				t.Data = narrow(d)
			}
			ts = append(ts, t)
		}
		meta := map[string]string{"step": strconv.Itoa(s.step)}
		if s.opts.Precision == backend.Mixed {
			meta["loss_scale"] = strconv.FormatFloat(s.scale, 'g', -1, 64)
			meta["good_steps"] = strconv.Itoa(s.good)
		}
		var err error
		state, err = safetensors.Encode(ts, meta)
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
	var data [][]float64
	arrays := s.arrays()
	for _, a := range arrays {
		d, err := read(f, a.entry, a.tensor.Shape)
		if err != nil {
			return err
		}
		if d == nil && a.kind == engine.Value {
			return fmt.Errorf("it lacks %q, of shape %v", a.entry, a.tensor.Shape)
		}
		if d != nil && a.kind != engine.Value {
			moments++
		}
		data = append(data, d)
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
	// Nothing can fail from here on: names and lengths are the graph's own.
	for i, a := range arrays {
		if data[i] == nil {
			data[i] = make([]float64, a.tensor.Len())
		}
		if err := s.engine.Set(a.kind, a.tensor.Name, data[i]); err != nil {
			return err
		}
	}
	s.step, s.scale, s.good = step, scale, good
	return nil
}

// counters parses the metadata that go with the moments.
func (s *session) counters(meta map[string]string) (step int, scale float64, good int, err error) {
	step, err = strconv.Atoi(meta["step"])
	if err != nil || step < 0 {
		return 0, 0, 0, fmt.Errorf("its step is %q, not a count", meta["step"])
	}
	if s.opts.Precision != backend.Mixed {
		return step, 0, 0, nil
	}
	scale = initialScale
	if v, ok := meta["loss_scale"]; ok { // absent in a state of another precision
		scale, err = strconv.ParseFloat(v, 64)
		if err != nil || !(scale > 0) || math.IsInf(scale, 1) {
			return 0, 0, 0, fmt.Errorf("its loss_scale is %q, not a positive number", v)
		}
		if good, err = strconv.Atoi(meta["good_steps"]); err != nil || good < 0 || good >= growAfter {
			return 0, 0, 0, fmt.Errorf("its good_steps is %q, not a count below %d", meta["good_steps"], growAfter)
		}
	}
	return step, scale, good, nil
}

// read returns an entry, or nil where it is absent.
func read(f *safetensors.File, name string, shape []int) ([]float64, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, nil
	}
	if !slices.Equal(info.Shape, shape) {
		return nil, fmt.Errorf("%q has shape %v, not %v: it belongs to another network", name, info.Shape, shape)
	}
	switch info.DType {
	case safetensors.F64:
		return f.Float64(name)
	case safetensors.F32:
		d, err := f.Float32(name)
		if err != nil {
			return nil, err
		}
		r := make([]float64, len(d))
		for i, v := range d {
			r[i] = float64(v)
		}
		return r, nil
	}
	return nil, errors.New(strconv.Quote(name) + " is " + string(info.DType) + ", not F32 or F64")
}
