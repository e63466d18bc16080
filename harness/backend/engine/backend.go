package engine

import (
	"context"
	"fmt"
	"runtime"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
)

// maxThreads bounds what a session may ask for.
const maxThreads = 1024

// NewBackend returns a backend of an engine. describe is called for each
// Describe and Open. compile makes an engine of a network, which it may keep; it
// copies the initial weights and refuses what it cannot execute by an error that
// names the node and wraps backend.ErrUnsupported. See Operators.
func NewBackend(describe func() (backend.Description, error), compile func(*nn.Graph, Options) (Engine, error)) backend.Backend {
	return engines{describe, compile}
}

// WithMemory adds to a backend that NewBackend has made what makes it a backend.Sizer:
// memory returns the bytes that an engine of the network would take. Options and network
// are such as compile gets.
func WithMemory(b backend.Backend, memory func(*nn.Graph, Options, backend.MemoryRequest) (int64, error)) backend.Backend {
	return sized{b.(engines), memory}
}

type sized struct {
	engines
	memory func(*nn.Graph, Options, backend.MemoryRequest) (int64, error)
}

// Memory implements backend.Sizer.
func (s sized) Memory(_ context.Context, g *nn.Graph, o backend.Options, r backend.MemoryRequest) (int64, error) {
	o, err := s.resolve(g, o)
	if err != nil {
		return 0, err
	}
	if r.Batch < 1 || r.Height < 1 || r.Width < 1 {
		return 0, fmt.Errorf("memory of a batch of %d images of %d×%d", r.Batch, r.Height, r.Width)
	}
	if _, err := g.Shapes([]int{r.Batch, g.Input.Shape[1], r.Height, r.Width}); err != nil {
		return 0, fmt.Errorf("network %q: %w", g.Name, err)
	}
	n, err := s.memory(g.Clone(), Options{Options: o}, r)
	if err != nil {
		return 0, fmt.Errorf("network %q: %w", g.Name, err)
	}
	return n, nil
}

// engines implements backend.Backend.
type engines struct {
	describe func() (backend.Description, error)
	compile  func(*nn.Graph, Options) (Engine, error)
}

// Describe implements backend.Backend.
func (e engines) Describe(context.Context) (backend.Description, error) { return e.describe() }

// Open implements backend.Backend.
func (e engines) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	o, err := e.resolve(g, o)
	if err != nil {
		return nil, err
	}
	s := newSession(g.Clone(), o)
	if s.engine, err = e.compile(s.graph, Options{Options: o, Stop: &s.stop}); err != nil {
		return nil, fmt.Errorf("network %q: %w", g.Name, err)
	}
	return s, nil
}

// resolve refuses networks and options that no engine takes, and fills in defaults.
func (e engines) resolve(g *nn.Graph, o backend.Options) (backend.Options, error) {
	d, err := e.describe()
	if err != nil {
		return o, err
	}
	if o, err = resolve(d, o); err != nil {
		return o, err
	}
	if err := g.Check(); err != nil {
		return o, fmt.Errorf("network %q: %w", g.Name, err)
	}
	if len(g.Input.Shape) != 4 || g.Input.Shape[1] < 1 {
		return o, fmt.Errorf("network %q: input of shape %v, not images [N,C,H,W] with a fixed number of channels", g.Name, g.Input.Shape)
	}
	if len(g.Nodes) == 0 {
		return o, fmt.Errorf("network %q computes nothing: it has no nodes", g.Name)
	}
	return o, nil
}

// resolve fills in defaults and refuses what a description does not list.
func resolve(d backend.Description, o backend.Options) (backend.Options, error) {
	o = o.WithDefaults()
	var devices []string
	for _, v := range d.Devices {
		devices = append(devices, v.Name)
	}
	if o.Device == "" && len(devices) > 0 {
		o.Device = devices[0]
	}
	if o.Threads == 0 {
		o.Threads = min(runtime.GOMAXPROCS(0), maxThreads)
	}
	for _, c := range []struct {
		what, asked string
		offered     []string
	}{{"precision", o.Precision, d.Precisions}, {"loss", o.Loss, d.Losses}, {"device", o.Device, devices}} {
		if !slices.Contains(c.offered, c.asked) {
			return o, fmt.Errorf("%s %q: %w; it has %q", c.what, c.asked, backend.ErrUnsupported, c.offered)
		}
	}
	if o.Threads < 0 || o.Threads > maxThreads {
		return o, fmt.Errorf("%d threads: must be from 1 to %d, or 0 for one per processor", o.Threads, maxThreads)
	}
	if a := o.Adam; !(a.Beta1 >= 0 && a.Beta1 < 1 && a.Beta2 >= 0 && a.Beta2 < 1 && a.Epsilon > 0 && a.Epsilon < 1) {
		return o, fmt.Errorf("constants %+v of Adam: β must be in [0, 1), ε in (0, 1)", a)
	}
	return o, nil
}
