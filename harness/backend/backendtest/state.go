package backendtest

import (
	"bytes"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// roundTrip stops after half of the steps and continues in another session.
func (c *check) roundTrip() {
	g := unet(4)
	d := c.dataset(11, 6, 1, 32, 32, 2)
	bs := steps(6, d.n)
	a := c.session(g, backend.Options{}, d)
	c.train(a, 1e-3, nil, bs[:3]...)
	half := c.state(a)
	for name, n := range map[string]int{"parameters": len(g.Parameters()), "statistics": len(g.Statistics())} {
		found := 0
		for _, t := range g.Tensors {
			if _, ok := half.data[t.Name]; ok && t.Role.String()+"s" == name {
				found++
			}
		}
		if found != n {
			c.failf("the state holds %d of %d %s", found, n, name)
		}
	}
	for _, t := range g.Parameters() {
		if half.data["adam.m."+t.Name] == nil || half.data["adam.v."+t.Name] == nil {
			c.failf("the state has no moments of %q", t.Name)
		}
	}
	other := unet(4)
	other.Initialize(99, 0) // must not matter
	b := c.session(other, backend.Options{}, d)
	c.must(b.SetState(c.ctx, half.raw), "SetState")
	if !bytes.Equal(c.state(b).raw, half.raw) {
		c.failf("a restored state is not the same bytes")
	}
	la, lb := c.train(a, 1e-3, nil, bs[3:]...), c.train(b, 1e-3, nil, bs[3:]...)
	c.reproduced("training after a restored state", la, lb, c.state(a), c.state(b))
}

// wideState restores a state written in float64.
func (c *check) wideState() {
	g := unet(2)
	d := c.dataset(12, 3, 1, 16, 16, 2)
	a, b := c.session(g, backend.Options{}, d), c.session(g, backend.Options{}, d)
	c.train(a, 1e-3, nil, steps(2, d.n)...)
	st := c.state(a)
	c.must(b.SetState(c.ctx, c.encode(st.raw, true, func(string) bool { return true }, nil)), "SetState with F64")
	if !bytes.Equal(c.state(b).raw, st.raw) {
		c.failf("a state restored from F64 is not the same bytes")
	}
	c.offered(backend.Float64)
	w := c.session(g, backend.Options{Precision: backend.Float64}, d)
	c.must(w.SetState(c.ctx, st.raw), "SetState with F32 in a float64 session")
	wide := c.state(w)
	for name, v := range st.data {
		if !slices.Equal(wide.data[name], v) {
			c.failf("%q changed on its way into a float64 session", name)
		}
	}
	if bytes.Contains(wide.raw[:min(len(wide.raw), 4096)], []byte(`"F32"`)) {
		c.failf("a float64 session writes F32")
	}
}

// freshOptimiser restores weights alone.
func (c *check) freshOptimiser() {
	g := unet(2)
	// 16×16 would leave the deepest BatchNormalization one value in a batch of
	// one: no variance, which PyTorch refuses too.
	d := c.dataset(13, 3, 1, 32, 32, 2)
	a, b := c.session(g, backend.Options{}, d), c.session(g, backend.Options{}, d)
	bs := steps(4, d.n)
	c.train(a, 1e-3, nil, bs[:2]...)
	weights := c.encode(c.state(a).raw, false, func(name string) bool { return !strings.HasPrefix(name, "adam.") }, map[string]string{})
	c.must(a.SetState(c.ctx, weights), "SetState without moments")
	c.must(b.SetState(c.ctx, weights), "SetState without moments")
	la, lb := c.train(a, 1e-3, nil, bs[2:]...), c.train(b, 1e-3, nil, bs[2:]...)
	sa, sb := c.state(a), c.state(b)
	c.reproduced("a trained session given weights alone, and a new one", la, lb, sa, sb)
	if sa.step != "2" {
		c.failf("the step is %q two steps after weights alone were restored", sa.step)
	}
}

func (c *check) damagedState() {
	g := unet(2)
	d := c.dataset(14, 3, 1, 16, 16, 2)
	s := c.session(g, backend.Options{}, d)
	c.train(s, 1e-3, nil, steps(2, d.n)...)
	good := c.state(s)
	c.train(s, 1e-3, nil, steps(1, d.n)...)
	before := c.state(s)
	parameter, statistic := g.Parameters()[3].Name, g.Statistics()[2].Name
	without := func(name string) []byte {
		return c.encode(good.raw, false, func(n string) bool { return n != name }, nil)
	}
	other, err := c.tryOpen(unet(4), backend.Options{})
	c.must(err, "Open")
	for what, raw := range map[string][]byte{
		"a state without a parameter":         without(parameter),
		"a state without a statistic":         without(statistic),
		"a state of another network":          c.state(other).raw,
		"a truncated state":                   good.raw[:len(good.raw)-5],
		"an empty state":                      {},
		"a state that is something different": []byte(strings.Repeat("no state at all ", 100)),
	} {
		c.refused(s.SetState(c.ctx, raw), "%s", what)
		if !bytes.Equal(c.state(s).raw, before.raw) {
			c.failf("%s was refused, but something changed", what)
		}
	}
	err = s.SetState(c.ctx, without(parameter))
	if err == nil || !strings.Contains(err.Error(), parameter) {
		c.failf("the refusal of a state without %q does not name it: %v", parameter, err)
	}
}

// state is a session's state, decoded.
type state struct {
	raw  []byte
	step string
	data map[string][]float64
}

func (c *check) state(s backend.Session) state {
	raw, err := s.State(c.ctx)
	c.must(err, "State")
	return c.decode(raw)
}

func (c *check) decode(raw []byte) state {
	f, err := safetensors.Decode(raw)
	c.must(err, "decoding a state")
	st := state{raw, f.Metadata["step"], map[string][]float64{}}
	for _, t := range f.Tensors() {
		var v backend.Tensor
		switch t.DType {
		case safetensors.F32:
			v.F32, err = f.Float32(t.Name)
		case safetensors.F64:
			v.F64, err = f.Float64(t.Name)
		default:
			c.failf("the state holds %q as %s, must be F32 or F64", t.Name, t.DType)
		}
		c.must(err, "reading %q of a state", t.Name)
		st.data[t.Name] = v.Float64s()
	}
	return st
}

// encode is a state made of what keep lets through, in float64 if wide.
func (c *check) encode(raw []byte, wide bool, keep func(name string) bool, metadata map[string]string) []byte {
	f, err := safetensors.Decode(raw)
	c.must(err, "decoding a state")
	st := c.decode(raw)
	var ts []safetensors.Tensor
	for _, t := range f.Tensors() {
		if !keep(t.Name) {
			continue
		}
		v := safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: st.data[t.Name]}
		if !wide && t.DType == safetensors.F32 {
			v.Data, err = f.Float32(t.Name)
			c.must(err, "reading %q of a state", t.Name)
		}
		ts = append(ts, v)
	}
	if metadata == nil {
		metadata = f.Metadata
	}
	out, err := safetensors.Encode(ts, metadata)
	c.must(err, "encoding a state")
	return out
}
