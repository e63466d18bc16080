package crosscheck

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/half"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/plugins/cpu"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

// planted is the CPU backend with one fault.
type planted struct {
	backend.Backend
	graph   func(g *nn.Graph)        // changes what is executed
	options func(o *backend.Options) // changes how
	session func(f *faulty)          // changes answers
}

func (p planted) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	h := g.Clone()
	if p.graph != nil {
		p.graph(h)
	}
	if p.options != nil {
		p.options(&o)
	}
	s, err := p.Backend.Open(ctx, h, o)
	if err != nil || p.session == nil {
		return s, err
	}
	f := &faulty{Session: s, b: p.Backend, g: h, o: o, sets: map[string][2]string{}}
	p.session(f)
	return f, nil
}

// faulty is a session with some methods replaced.
type faulty struct {
	backend.Session
	b    backend.Backend
	g    *nn.Graph
	o    backend.Options
	sets map[string][2]string
	step int // the one under way, from 1

	// Hooks; nil leaves the honest session's behaviour.
	onState     func(name string, v []float32) // both ways
	gradients   func(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error)
	rate        func(rate float64) float64
	afterStep   func(before, after map[string][]float32, b backend.Batch, frozen []string) // edits after
	activations func(values map[string][]float32)                                          // edits the values of all nodes
	adam        func(a adamStep) float64                                                   // the update, before the rate
}

type adamStep struct {
	m, v    float64 // new moments
	step    int
	c1, c2  float64 // 1−βᵗ
	epsilon float64
}

func (f *faulty) LoadDataset(ctx context.Context, id, path, digest string) error {
	f.sets[id] = [2]string{path, digest}
	return f.Session.LoadDataset(ctx, id, path, digest)
}

// edit rewrites a state in float32.
func edit(b []byte, step int, change func(values map[string][]float32)) ([]byte, error) {
	file, err := safetensors.Decode(b)
	if err != nil {
		return nil, err
	}
	values := map[string][]float32{}
	for _, t := range file.Tensors() {
		if values[t.Name], err = file.Float32(t.Name); err != nil {
			return nil, err
		}
	}
	change(values)
	var ts []safetensors.Tensor
	for _, t := range file.Tensors() {
		if values[t.Name] == nil {
			continue // it was taken out
		}
		ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: values[t.Name]})
	}
	meta := map[string]string{}
	for k, v := range file.Metadata {
		meta[k] = v
	}
	if step > 0 {
		meta["step"] = strconv.Itoa(step)
	}
	return safetensors.Encode(ts, meta)
}

func (f *faulty) State(ctx context.Context) ([]byte, error) {
	b, err := f.Session.State(ctx)
	if err != nil || f.onState == nil {
		return b, err
	}
	return edit(b, 0, func(v map[string][]float32) {
		for name, d := range v {
			f.onState(name, d)
		}
	})
}

func (f *faulty) SetState(ctx context.Context, b []byte) error {
	if f.onState != nil {
		var err error
		if b, err = edit(b, 0, func(v map[string][]float32) {
			for name, d := range v {
				f.onState(name, d)
			}
		}); err != nil {
			return err
		}
	}
	return f.Session.SetState(ctx, b)
}

func (f *faulty) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	if f.gradients != nil {
		return f.gradients(ctx, b, frozen)
	}
	l, ts, err := f.Session.Gradients(ctx, b, frozen)
	if f.onState != nil {
		for _, t := range ts {
			f.onState(t.Name, t.F32)
		}
	}
	return l, ts, err
}

func (f *faulty) Activations(ctx context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	ts, err := f.Session.Activations(ctx, b, names, training)
	if err == nil && f.activations != nil {
		values := map[string][]float32{}
		for _, t := range ts {
			values[t.Name] = t.F32
		}
		f.activations(values)
	}
	return ts, err
}

func (f *faulty) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	if f.rate != nil {
		r.LearningRate = f.rate(r.LearningRate)
	}
	if f.afterStep == nil && f.adam == nil && f.gradients == nil {
		return f.Session.Train(ctx, r, progress)
	}
	for i, b := range r.Batches {
		before, err := f.Session.State(ctx)
		if err != nil {
			return err
		}
		var loss float64
		frozen := r.Frozen
		var grads []backend.NamedTensor
		if f.adam != nil || f.gradients != nil {
			if _, grads, err = f.Gradients(ctx, b, r.Frozen); err != nil {
				return err
			}
			frozen = []string{nn.Encoder, nn.Decoder} // the honest session moves the statistics alone
		}
		err = f.Session.Train(ctx, backend.TrainRequest{Batches: r.Batches[i : i+1], LearningRate: r.LearningRate, Frozen: frozen},
			func(s backend.Step) error { loss = s.Loss; return nil })
		if err != nil {
			return err
		}
		after, err := f.Session.State(ctx)
		if err != nil {
			return err
		}
		old, err := safetensors.Decode(before)
		if err != nil {
			return err
		}
		step, _ := strconv.Atoi(old.Metadata["step"])
		f.step = step + 1
		changed, err := edit(after, step+1, func(v map[string][]float32) {
			was := map[string][]float32{}
			for name := range v {
				was[name], _ = old.Float32(name)
			}
			for _, g := range grads {
				f.update(v, was, g, step+1, r.LearningRate)
			}
			if f.afterStep != nil {
				f.afterStep(was, v, b, r.Frozen)
			}
		})
		if err != nil {
			return err
		}
		if err := f.Session.SetState(ctx, changed); err != nil {
			return err
		}
		if err := progress(backend.Step{Batch: i, Loss: loss}); err != nil {
			return err
		}
	}
	return nil
}

// update takes an Adam step, the honest one where f.adam is nil.
func (f *faulty) update(now, was map[string][]float32, g backend.NamedTensor, step int, rate float64) {
	a := f.o.Adam
	m, v, w := now["adam.m."+g.Name], now["adam.v."+g.Name], now[g.Name]
	for i, d := range g.Float64s() {
		s := adamStep{step: step, epsilon: a.Epsilon, c1: 1 - math.Pow(a.Beta1, float64(step)), c2: 1 - math.Pow(a.Beta2, float64(step))}
		s.m = a.Beta1*float64(was["adam.m."+g.Name][i]) + (1-a.Beta1)*d
		s.v = a.Beta2*float64(was["adam.v."+g.Name][i]) + (1-a.Beta2)*d*d
		m[i], v[i] = float32(s.m), float32(s.v)
		u := s.m / s.c1 / (math.Sqrt(s.v/s.c2) + s.epsilon)
		if f.adam != nil {
			u = f.adam(s)
		}
		w[i] = float32(float64(was[g.Name][i]) - rate*u)
	}
}

func node(g *nn.Graph, name string) *nn.Node {
	for _, n := range g.Nodes {
		if n.Name == name {
			return n
		}
	}
	panic("no node " + name)
}

const (
	flippedConv = "encoder.down2.unit1.conv1"
	resized     = "decoder.up2.resize"
	swapped     = "decoder.up2.concat"
	halfConv    = "decoder.up3.conv2"
	cutShortcut = "encoder.down2.unit2.add"
	movingConv  = "encoder.down1.unit2.conv1.weight"
)

// detached computes gradients in a graph in which one operand of a node is a
// constant with the value it has for the batch: no gradient flows through it.
func detached(f *faulty, name string, operand int) {
	f.gradients = func(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
		h := f.g.Clone()
		n := node(h, name)
		ts, err := f.Session.Activations(ctx, b, []string{n.Inputs[operand]}, true)
		if err != nil {
			return 0, nil, err
		}
		h.Tensors = append(h.Tensors, &nn.Tensor{Name: "detached", Shape: ts[0].Shape, Data: ts[0].F32})
		n.Inputs[operand] = "detached"
		s, err := f.b.Open(ctx, h, f.o)
		if err != nil {
			return 0, nil, err
		}
		defer s.Close()
		for id, set := range f.sets {
			if err := s.LoadDataset(ctx, id, set[0], set[1]); err != nil {
				return 0, nil, err
			}
		}
		state, err := f.Session.State(ctx)
		if err != nil {
			return 0, nil, err
		}
		if err := s.SetState(ctx, state); err != nil {
			return 0, nil, err
		}
		return s.Gradients(ctx, b, frozen)
	}
}

// faults lists every planted fault with where the cross-check must find it.
func faults() []struct {
	name  string
	fault planted
	stage string
	place string // contained in the place
	note  string // contained in the note
} {
	honest := cpu.New("planted fault")
	type row = struct {
		name  string
		fault planted
		stage string
		place string
		note  string
	}
	adam := func(u func(s adamStep) float64) planted {
		return planted{Backend: honest, session: func(f *faulty) { f.adam = u }}
	}
	return []row{
		{"BN momentum 0.99 for 0.9", planted{Backend: honest, graph: func(g *nn.Graph) {
			for _, n := range g.Nodes {
				if n.Op == "BatchNormalization" {
					n.Attrs["momentum"] = float32(0.99)
				}
			}
		}}, Statistics, "encoder.init.bn.running_mean", "as with momentum 0.99"},
		{"biased variance in the running statistics", planted{Backend: honest, session: func(f *faulty) {
			f.afterStep = func(before, after map[string][]float32, b backend.Batch, _ []string) {
				shapes, err := f.g.Shapes([]int{len(b), 1, 32, 32})
				if err != nil {
					panic(err)
				}
				for _, n := range f.g.Nodes {
					if n.Op != "BatchNormalization" {
						continue
					}
					s := shapes[n.Inputs[0]]
					count := float64(s[0] * s[2] * s[3])
					m := float64(n.Attrs.Float("momentum", 0.9))
					was, now := before[n.Inputs[4]], after[n.Inputs[4]]
					for c := range now {
						unbiased := (float64(now[c]) - m*float64(was[c])) / (1 - m)
						now[c] = float32(m*float64(was[c]) + (1-m)*unbiased*(count-1)/count)
					}
				}
			}
		}}, Statistics, "running_var", "biased variance"},
		{"ε added under the root in Adam", adam(func(s adamStep) float64 { return s.m / s.c1 / math.Sqrt(s.v/s.c2+s.epsilon) }),
			Optimiser, ".", "under the root"},
		{"ε added before the bias correction in Adam", adam(func(s adamStep) float64 {
			return s.m / s.c1 / ((math.Sqrt(s.v) + s.epsilon) / math.Sqrt(s.c2))
		}), Optimiser, ".", "before the correction"},
		{"no bias correction in Adam", adam(func(s adamStep) float64 { return s.m / (math.Sqrt(s.v) + s.epsilon) }),
			Optimiser, ".", "not corrected for their bias"},
		{"flipped kernel in " + flippedConv, planted{Backend: honest, graph: func(g *nn.Graph) {
			flip(flippedConv+".weight", g.Tensor(flippedConv+".weight").Data)
		}, session: func(f *faulty) { f.onState = flip }}, Forward, flippedConv, ""},
		{"half-pixel upsampling in " + resized, planted{Backend: honest, graph: func(g *nn.Graph) {
			node(g, resized).Attrs = nn.Attrs{"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
		}}, Forward, resized, ""},
		{"loss without the inner softmax", planted{Backend: honest, options: func(o *backend.Options) { o.Loss = backend.LossOnLogits }},
			Loss, "loss", "cross-entropy instead"},
		{"dropped gradient of the shortcut into " + cutShortcut, planted{Backend: honest, session: func(f *faulty) { detached(f, cutShortcut, 1) }},
			Gradients, "encoder.down2.unit1.conv2.weight", cutShortcut},
		{"a frozen weight that moves, " + movingConv, planted{Backend: honest, session: func(f *faulty) {
			f.afterStep = func(_, after map[string][]float32, _ backend.Batch, frozen []string) {
				if slices.Contains(frozen, nn.Encoder) {
					after[movingConv][5] = math.Nextafter32(after[movingConv][5], 1)
				}
			}
		}}, Freezing, movingConv, "it should not"},
		{"float16 accumulation in " + halfConv, planted{Backend: honest, session: func(f *faulty) {
			n := node(f.g, halfConv)
			f.activations = func(values map[string][]float32) {
				halfConvolution(values[n.Outputs[0]], values[n.Inputs[0]], f.g.Tensor(n.Inputs[1]))
			}
		}}, Forward, halfConv, ""},
		{"float16 arithmetic", planted{Backend: honest, options: func(o *backend.Options) {
			if o.Precision == backend.Float32 {
				o.Precision = backend.Mixed
			}
		}}, Forward, "encoder.init.conv", ""},
		{"a learning rate one call late", planted{Backend: honest, session: func(f *faulty) {
			last := 0.0
			f.rate = func(rate float64) float64 {
				use := last
				if last = rate; use == 0 {
					use = rate
				}
				return use
			}
		}}, Optimiser, ".", "that of the call before"},
		{"Adam's bias correction stuck from step 10 on", adam(func(s adamStep) float64 {
			t := float64(min(s.step, 10))
			return s.m / (1 - math.Pow(0.9, t)) / (math.Sqrt(s.v/(1-math.Pow(0.999, t))) + s.epsilon)
		}), LongRun, "step 11", ""},
		{"every seventh step takes the one before again", planted{Backend: honest, session: func(f *faulty) {
			last := map[string][]float32{}
			f.afterStep = func(before, after map[string][]float32, _ backend.Batch, _ []string) {
				for _, p := range f.g.Parameters() {
					now := make([]float32, p.Len())
					for i := range now {
						now[i] = after[p.Name][i] - before[p.Name][i]
						if f.step%7 == 0 {
							after[p.Name][i] += last[p.Name][i]
						}
					}
					last[p.Name] = now
				}
			}
		}}, LongRun, "step 7", ""},
		{"BN momentum that is 0.901 after eight steps", planted{Backend: honest, session: func(f *faulty) {
			f.afterStep = func(before, after map[string][]float32, _ backend.Batch, _ []string) {
				for _, s := range f.g.Statistics() {
					for i := range after[s.Name] {
						if f.step > 8 {
							after[s.Name][i] -= 0.01 * (after[s.Name][i] - before[s.Name][i])
						}
					}
				}
			}
		}}, LongRun, "step 9", "momentum 0.901"},
		{"swapped operands of " + swapped, planted{Backend: honest, graph: func(g *nn.Graph) {
			n := node(g, swapped)
			n.Inputs[0], n.Inputs[1] = n.Inputs[1], n.Inputs[0]
		}}, Forward, swapped, ""},
	}
}

// halfConvolution computes a 3×3 convolution of stride 1 whose sums are rounded to
// float16 after every addition, for all images of the batch.
func halfConvolution(out, in []float32, w *nn.Tensor) {
	const side = 16 // of decoder.up3's values for images of 32×32
	const pixels = side * side
	outC, inC := w.Shape[0], w.Shape[1]
	for n := range len(in) / inC / pixels {
		for o := range outC {
			for y := range side {
				for x := range side {
					var sum float32
					for c := range inC {
						for k := range 9 {
							v, u := y+k/3-1, x+k%3-1
							if v >= 0 && v < side && u >= 0 && u < side {
								sum = half.Round(sum + in[(n*inC+c)*pixels+v*side+u]*w.Data[(o*inC+c)*9+k])
							}
						}
					}
					out[(n*outC+o)*pixels+y*side+x] = sum
				}
			}
		}
	}
}

// flip mirrors the kernels of one convolution, and its moments.
func flip(name string, v []float32) {
	if strings.TrimPrefix(strings.TrimPrefix(name, "adam.m."), "adam.v.") == flippedConv+".weight" {
		for i := 0; i < len(v); i += 9 {
			slices.Reverse(v[i : i+9])
		}
	}
}

// Every planted fault fails the cross-check, which names the place. The table in
// README.md is what it said: REFOCUS_UPDATE=1 writes it anew.
func TestFaults(t *testing.T) {
	var table strings.Builder
	table.WriteString("| planted fault | stage | place | what the cross-check said |\n|---|---|---|---|\n")
	for _, f := range faults() {
		f.fault.Backend = cpu.New("planted fault")
		// A batch of one where a constant of the batch's shape stands in for a
		// value: the sessions check shapes with single images.
		o := Options{Steps: 2, Perturbations: 2, Threads: 2}
		if strings.HasPrefix(f.name, "dropped") {
			o.Batch = 1
		}
		if f.stage == LongRun {
			o.Steps = 12
		}
		c := check(t, f.fault, gorgonia.New("test"), o, true)
		if c.Pass() {
			t.Errorf("%s: passed", f.name)
			continue
		}
		k := c.First
		if k.Stage != f.stage || !strings.Contains(k.Place, f.place) || !strings.Contains(k.Note, f.note) {
			t.Errorf("%s: found at %s, %s (%s); want %s, %s (%s)", f.name, k.Stage, k.Place, k.Note, f.stage, f.place, f.note)
		}
		fmt.Fprintf(&table, "| %s | %s | `%s` | %s%s |\n", f.name, k.Stage, k.Place, k.Said(), prefix("; ", k.Note))
	}
	updateTable(t, "faults", table.String(), 3)
}

// updateTable compares the first columns of a table with those that README.md has of
// that name: the distances may differ in the last digit between machines, what was
// found where may not. REFOCUS_UPDATE=1 writes it anew.
func updateTable(t *testing.T, name, table string, columns int) {
	t.Helper()
	const file, end = "README.md", "<!-- end -->\n"
	begin := "<!-- " + name + " -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), begin)
	old, after, found := strings.Cut(rest, end)
	if !ok || !found {
		t.Fatalf("%s has no place for the table of %s", file, name)
	}
	if os.Getenv("REFOCUS_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(before+begin+table+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, want := places(table, columns), places(old, columns); got != want {
		t.Errorf("the table of %s in %s is out of date (REFOCUS_UPDATE=1 writes it):\n%s", name, file, table)
	}
}

// places keeps a table's first columns.
func places(table string, columns int) string {
	var b strings.Builder
	for line := range strings.Lines(table) {
		if f := strings.Split(line, "|"); len(f) > columns+1 {
			b.WriteString(strings.Join(f[1:columns+1], "|") + "\n")
		}
	}
	return b.String()
}

func prefix(p, s string) string {
	if s == "" {
		return ""
	}
	return p + s
}
