package crosscheck

import (
	"fmt"
	"math"
	"strconv"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// state is a session's state in float64.
type state struct {
	values map[string][]float64 // weights and statistics by name, moments as adam.m.NAME, adam.v.NAME
	step   int
}

func decodeState(b []byte) (*state, error) {
	f, err := safetensors.Decode(b)
	if err != nil {
		return nil, err
	}
	s := &state{values: map[string][]float64{}}
	for _, t := range f.Tensors() {
		switch t.DType {
		case safetensors.F64:
			if s.values[t.Name], err = f.Float64(t.Name); err != nil {
				return nil, err
			}
		case safetensors.F32:
			v, err := f.Float32(t.Name)
			if err != nil {
				return nil, err
			}
			d := make([]float64, len(v))
			for i, x := range v {
				d[i] = float64(x)
			}
			s.values[t.Name] = d
		}
	}
	if t, ok := f.Metadata[backend.StepKey]; ok {
		if s.step, err = strconv.Atoi(t); err != nil {
			return nil, fmt.Errorf("step %q: %w", t, err)
		}
	}
	return s, nil
}

// encodeWeights writes the graph's weights and statistics of a state in float32,
// which every backend takes and represents exactly.
func encodeWeights(g *nn.Graph, s *state) ([]byte, error) {
	var ts []safetensors.Tensor
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		d := make([]float32, t.Len())
		for i, v := range s.values[t.Name] {
			d[i] = float32(v)
		}
		ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: d})
	}
	return safetensors.Encode(ts, nil)
}

// initial is the graph's own weights.
func initial(g *nn.Graph) *state {
	s := &state{values: map[string][]float64{}}
	for _, t := range g.Tensors {
		if t.Role != nn.Constant {
			d := make([]float64, t.Len())
			for i, v := range t.Data {
				d[i] = float64(v)
			}
			s.values[t.Name] = d
		}
	}
	return s
}

// perturbed moves every parameter as Round does.
func (s *state) perturbed(g *nn.Graph, k uint64, bits int) *state {
	p := &state{values: map[string][]float64{}, step: s.step}
	for name, v := range s.values {
		p.values[name] = v
	}
	for _, t := range g.Parameters() {
		d := append([]float64(nil), s.values[t.Name]...)
		round(d, t.Name, k, bits)
		p.values[t.Name] = d
	}
	return p
}

// Round moves every parameter of the graph up or down by one spacing of numbers of the
// precision: what rounding it once more could do. How the losses of a training change
// by it is the yardstick of trajectories. k tells disturbances apart.
func Round(g *nn.Graph, k uint64, precision string) {
	for _, t := range g.Parameters() {
		d := make([]float64, len(t.Data))
		for i, v := range t.Data {
			d[i] = float64(v)
		}
		round(d, t.Name, k, bits[precision])
		for i, v := range d {
			t.Data[i] = float32(v)
		}
	}
}

// round moves the values of a parameter; numbers have so many bits of mantissa, 0 for
// float32's.
func round(d []float64, name string, k uint64, bits int) {
	rng := random.Stream(0, "one rounding/"+name, k)
	for i, v := range d {
		toward := float32(math.MaxFloat32)
		if rng.Uint64()&1 == 0 {
			toward = -toward
		}
		d[i] = float64(math.Nextafter32(float32(v), toward))
		if bits > 0 {
			d[i] = v + math.Copysign(math.Ldexp(float64(spacing(math.Abs(v))), 23-bits), float64(toward))
		}
	}
}
