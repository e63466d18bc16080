package crosscheck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"runtime"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/reference"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// Run compares A with B. An error means that the comparison could not be made;
// a backend that is wrong gives a certificate that says so.
func Run(ctx context.Context, in Input) (*Certificate, error) {
	return compare(ctx, in, false)
}

// compare is Run, which can end with the stage that fails first.
func compare(ctx context.Context, in Input, first bool) (*Certificate, error) {
	r, err := newRun(in)
	if err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	defer r.close()
	for _, stage := range []func(context.Context) error{r.forward, r.statistics, r.inference, r.gradients, r.optimiser, r.longRun, r.freezing, r.trajectory, r.time} {
		if err := stage(ctx); err != nil {
			return nil, err
		}
		if r.verdict(); first && r.cert.First != nil {
			break
		}
	}
	return r.cert, nil
}

func newRun(in Input) (*run, error) {
	if _, ok := bits[in.Options.Precision]; !ok && in.Options.Precision != "" {
		return nil, fmt.Errorf("precision %q: a cross-check is in one of %v", in.Options.Precision, slices.Sorted(maps.Keys(bits)))
	}
	in.Options = in.Options.WithDefaults()
	return &run{in: in, g: in.Graph, arithmetic: arithmetics[in.Options.Precision], cert: &Certificate{
		Format: 3, Network: in.Graph.Name, Options: in.Options, Data: in.Train.SHA256,
		Machine: fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU()),
	}}, nil
}

// run is a cross-check in progress. Each stage, in a file of its own, adds its
// comparisons to the certificate.
type run struct {
	in      Input
	g       *nn.Graph
	cert    *Certificate
	a, b, o backend.Session
	start   []byte // the initial weights as every backend is given them
	first   *state
	batch   backend.Batch
	images  *reference.Array
	labels  []uint8

	arithmetic arithmetic
	bounds     bool // the reference can run the network
}

// side is one of the three with its name for errors.
type side struct {
	name string
	s    backend.Session
}

func (r *run) sides() []side {
	return []side{{"A", r.a}, {"B", r.b}, {"the oracle", r.o}}
}

const (
	trainSet      = "train"
	validationSet = "validation"
)

func (r *run) session(ctx context.Context, b backend.Backend, device, precision string, adam backend.Adam) (backend.Session, error) {
	s, err := b.Open(ctx, r.g, backend.Options{Device: device, Precision: precision, Loss: r.in.Loss, Threads: r.in.Options.Threads, Adam: adam})
	if err != nil {
		return nil, err
	}
	for id, f := range map[string]ImageSet{trainSet: r.in.Train, validationSet: r.in.Validation} {
		if err := s.LoadDataset(ctx, id, f.Path, f.SHA256); err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

func (r *run) open(ctx context.Context) error {
	var err error
	for _, x := range []struct {
		name              string
		of                Subject
		device, precision string
		to                *backend.Session
		id                *Identity
	}{
		{"A", r.in.A, r.in.Options.Device, r.in.Options.Precision, &r.a, &r.cert.A},
		{"B", r.in.B, "", backend.Float32, &r.b, &r.cert.B},
		{"the oracle", r.in.Oracle, "", backend.Float64, &r.o, &r.cert.Oracle},
	} {
		if x.id.Description, err = x.of.Backend.Describe(ctx); err != nil {
			return fmt.Errorf("describing %s: %w", x.name, err)
		}
		x.id.SHA256 = x.of.SHA256
		if *x.to, err = r.session(ctx, x.of.Backend, x.device, x.precision, backend.DefaultAdam); err != nil {
			return fmt.Errorf("opening a session of %s: %w", x.name, err)
		}
	}
	r.first = initial(r.g)
	if r.start, err = encodeWeights(r.g, r.first); err != nil {
		return err
	}
	sum := sha256.Sum256(r.start)
	r.cert.Weights = hex.EncodeToString(sum[:])
	r.batch = r.batches(1)[0]
	if r.images, r.labels, err = r.readBatch(r.batch); err != nil {
		return err
	}
	return r.reset(ctx, r.start)
}

func (r *run) close() {
	for _, s := range r.sides() {
		if s.s != nil {
			s.s.Close()
		}
	}
}

// reset gives all three the same state.
func (r *run) reset(ctx context.Context, state []byte) error {
	for _, s := range r.sides() {
		if err := s.s.SetState(ctx, state); err != nil {
			return fmt.Errorf("setting the state of %s: %w", s.name, err)
		}
	}
	return nil
}

// batches walks through the training images and their symmetries.
func (r *run) batches(n int) []backend.Batch {
	var out []backend.Batch
	k := 0
	for range n {
		var b backend.Batch
		for range r.in.Options.Batch {
			b = append(b, backend.Sample{Dataset: trainSet, Index: k % r.in.Train.Count, Dihedral: uint8(k * 3 % 8)})
			k++
		}
		out = append(out, b)
	}
	return out
}

// readBatch is the batch as a backend sees it: images [N,C,H,W] and labels [N,H,W].
func (r *run) readBatch(b backend.Batch) (*reference.Array, []uint8, error) {
	f, err := safetensors.Open(r.in.Train.Path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	i, ok := f.Info("labels")
	if !ok || len(i.Shape) != 3 || i.Shape[1] != i.Shape[2] {
		return nil, nil, fmt.Errorf("%s: no labels [N,H,H]", r.in.Train.Path)
	}
	n := i.Shape[1]
	i, ok = f.Info("images")
	if !ok || len(i.Shape) != 4 || i.Shape[2] != n || i.Shape[3] != n {
		return nil, nil, fmt.Errorf("%s: no images [N,C,%d,%d]", r.in.Train.Path, n, n)
	}
	channels := i.Shape[1]
	images := reference.NewArray(len(b), channels, n, n)
	labels := make([]uint8, len(b)*n*n)
	pixels, one := make([]float32, channels*n*n), make([]uint8, n*n)
	for k, s := range b {
		if err := f.ReadFloat32("images", s.Index*len(pixels), pixels); err != nil {
			return nil, nil, err
		}
		if err := f.ReadUint8("labels", s.Index*n*n, one); err != nil {
			return nil, nil, err
		}
		for y := range n {
			for x := range n {
				v, u := backend.Dihedral(s.Dihedral, n, y, x)
				labels[(k*n+y)*n+x] = one[v*n+u]
				for c := range channels {
					*images.At(k, c, y, x) = float64(pixels[(c*n+v)*n+u])
				}
			}
		}
	}
	return images, labels, nil
}

// groups of parameters, in the graph's order.
func (r *run) groups() []string {
	var out []string
	for _, p := range r.g.Parameters() {
		if g := nn.Group(p.Name); !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

// step trains one step and returns the state after it.
func (r *run) step(ctx context.Context, s backend.Session, b backend.Batch, rate float64, frozen []string) (*state, error) {
	err := s.Train(ctx, backend.TrainRequest{Batches: []backend.Batch{b}, LearningRate: rate, Frozen: frozen}, func(backend.Step) error { return nil })
	if err != nil {
		return nil, err
	}
	now, err := s.State(ctx)
	if err != nil {
		return nil, err
	}
	return decodeState(now)
}

// rounding is, for every named result of the oracle, the largest relative
// distance that one rounding of the weights makes. The oracle has its former
// weights again afterwards.
func (r *run) rounding(ctx context.Context, now *state, ask func() (map[string][]float64, error), exact map[string][]float64, scale float64) (map[string]float64, error) {
	most := map[string]float64{}
	for k := range r.in.Options.Perturbations {
		b, err := encodeWeights(r.g, now.perturbed(r.g, uint64(k), bits[r.in.Options.Precision]))
		if err != nil {
			return nil, err
		}
		if err := r.o.SetState(ctx, b); err != nil {
			return nil, fmt.Errorf("setting the state of the oracle: %w", err)
		}
		got, err := ask()
		if err != nil {
			return nil, fmt.Errorf("asking the oracle: %w", err)
		}
		for name, v := range got {
			most[name] = max(most[name], distance(v, exact[name], scale).Relative)
		}
	}
	b, err := encodeWeights(r.g, now)
	if err != nil {
		return nil, err
	}
	return most, r.o.SetState(ctx, b)
}

// measured is a check of A beside the yardstick, by which it is judged unless
// something else is set.
func (r *run) measured(stage, place, operator string, a, b Distance, rounding, floor float64) Check {
	limit := max(r.in.Options.Factor*max(b.Relative, rounding), floor)
	return Check{Stage: stage, Place: place, Operator: operator, A: a, B: b, Rounding: rounding, Yardstick: limit, Limit: limit, Judged: ByYardstick}
}

// add completes a check whose limit is set.
func (r *run) add(c Check) *Check {
	c.Pass = c.Share() <= 1
	if c.Pass && c.Judged != ByYardstick && c.Yardstick > 0 && c.A.Relative > c.Yardstick && c.Note == "" {
		c.Note = "beyond the yardstick, and possible by rounding"
	}
	r.cert.Checks = append(r.cert.Checks, c)
	return &r.cert.Checks[len(r.cert.Checks)-1]
}

// verdict finds the first failure.
func (r *run) verdict() {
	for _, stage := range Stages {
		for i := range r.cert.Checks {
			if c := r.cert.Checks[i]; c.Stage == stage && !c.Pass {
				r.cert.First = &c
				return
			}
		}
	}
}
