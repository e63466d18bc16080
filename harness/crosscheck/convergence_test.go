package crosscheck

import (
	"context"
	"fmt"
	"html/template"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/testkit/seed"
	"github.com/refocus-em/refocus/plugins/cpu"
	"github.com/refocus-em/refocus/plugins/gorgonia"
)

// slow is the CPU backend with a fault that takes many steps to show.
type slow struct {
	backend.Backend
	graph func(g *nn.Graph)
	plant func(s *slowly)
}

func (b slow) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	h := g.Clone()
	if b.graph != nil {
		b.graph(h)
	}
	s, err := b.Backend.Open(ctx, h, o)
	if err != nil {
		return nil, err
	}
	f := &slowly{Session: s}
	if b.plant != nil {
		b.plant(f)
	}
	return f, nil
}

// slowly is a session of slow; nil hooks leave what the honest one does.
type slowly struct {
	backend.Session
	step, told int // steps taken, and those before the last state was told

	rate     func(rate float64, step int) float64         // of a step, from 1
	state    func(values map[string][]float32, steps int) // edits what is saved after so many steps
	restored func(values map[string][]float32, step *int) // edits what is restored, and its step
}

func (s *slowly) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	if s.rate == nil {
		s.step += len(r.Batches)
		return s.Session.Train(ctx, r, progress)
	}
	for i := range r.Batches {
		s.step++
		one := r
		one.Batches, one.LearningRate = r.Batches[i:i+1], s.rate(r.LearningRate, s.step)
		if err := s.Session.Train(ctx, one, func(st backend.Step) error { st.Batch = i; return progress(st) }); err != nil {
			return err
		}
	}
	return nil
}

func (s *slowly) State(ctx context.Context) ([]byte, error) {
	b, err := s.Session.State(ctx)
	if err != nil || s.state == nil {
		return b, err
	}
	if b, err = edit(b, 0, func(v map[string][]float32) { s.state(v, s.step-s.told) }); err != nil {
		return nil, err
	}
	s.told = s.step
	return b, s.Session.SetState(ctx, b)
}

func (s *slowly) SetState(ctx context.Context, b []byte) error {
	f, err := safetensors.Decode(b)
	if err != nil {
		return err
	}
	s.step, _ = strconv.Atoi(f.Metadata[backend.StepKey])
	if s.step > 0 && s.restored != nil {
		step := s.step
		var v map[string][]float32
		if b, err = edit(b, 0, func(values map[string][]float32) { v = values; s.restored(v, &step) }); err != nil {
			return err
		}
		if b, err = edit(b, step, func(map[string][]float32) {}); err != nil {
			return err
		}
	}
	s.told = s.step
	return s.Session.SetState(ctx, b)
}

// slowFaults are what is planted, and a measure that must show it.
func slowFaults() []struct {
	name    string
	fault   slow
	measure string
} {
	rate := func(f func(rate float64, step int) float64) slow {
		return slow{plant: func(s *slowly) { s.rate = f }}
	}
	restored := func(f func(values map[string][]float32, step *int)) slow {
		return slow{plant: func(s *slowly) { s.restored = f }}
	}
	zero := func(prefixes ...string) func(map[string][]float32, *int) {
		return func(values map[string][]float32, _ *int) {
			for name, v := range values {
				if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
					clear(v)
				}
			}
		}
	}
	return []struct {
		name    string
		fault   slow
		measure string
	}{
		// m/√v for m̂/√v̂ is the right step at another rate, but for ε.
		{"no bias correction in Adam", rate(func(r float64, t int) float64 {
			return r * (1 - math.Pow(0.9, float64(t))) / math.Sqrt(1-math.Pow(0.999, float64(t)))
		}), moved},
		{"a learning rate 5 % too high", rate(func(r float64, _ int) float64 { return 1.05 * r }), moved},
		{"the first epoch's learning rate in all", rate(func(r float64, t int) float64 { return r / math.Pow(decay, float64((t-1)/8)) }), moved},
		{"weight decay of 0.01, as AdamW has", slow{plant: func(s *slowly) {
			s.state = func(values map[string][]float32, steps int) {
				keep := float32(math.Pow(1-1e-3*0.01, float64(steps)))
				for name, v := range values {
					if !strings.HasPrefix(name, "adam.") && !strings.Contains(name, ".running_") {
						for i := range v {
							v[i] *= keep
						}
					}
				}
			}
		}}, shrunk},
		{"BN momentum 0.95 for 0.9", slow{graph: func(g *nn.Graph) {
			for _, n := range g.Nodes {
				if n.Op == "BatchNormalization" {
					n.Attrs["momentum"] = float32(0.95)
				}
			}
		}}, variances},
		{"running statistics not restored", restored(func(values map[string][]float32, _ *int) {
			for name, v := range values {
				for i := range v {
					switch {
					case strings.HasSuffix(name, ".running_mean"):
						v[i] = 0
					case strings.HasSuffix(name, ".running_var"):
						v[i] = 1
					}
				}
			}
		}), variances},
		{"moments not restored", restored(zero("adam.")), firstStep},
		{"first moments not restored", restored(zero("adam.m.")), moved},
		{"the step not restored", restored(func(_ map[string][]float32, step *int) { *step = 1 }), firstStep},
		{"an optimiser begun anew every epoch", restored(func(values map[string][]float32, _ *int) {
			for name := range values {
				if strings.HasPrefix(name, "adam.") {
					delete(values, name)
				}
			}
		}), firstStep},
	}
}

// trainings are those of a backend with the first seeds, on the network and the images
// of this package's tests at half their size.
func trainings(t *testing.T, b backend.Backend, precision string, seeds int, trials Trials) []training {
	t.Helper()
	g, err := nn.UNet(nn.UNetOptions{Width: 4, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(3, 0)
	r, err := newRun(Input{
		A: Subject{Backend: b}, B: Subject{Backend: cpu.New("test")}, Oracle: Subject{Backend: cpu.New("test")},
		Graph: g, Train: images(t, "train", 24, 16), Validation: images(t, "validation", 8, 16),
		Loss:    backend.LossOnProbabilities,
		Options: Options{Steps: trainingSteps, Threads: 1, Precision: precision},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer r.close()
	out := make([]training, seeds)
	for i := range out {
		if out[i], err = r.train(t.Context(), 0, trials, uint64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// certified is the certificate of trainings with a reference's.
func certified(a, b []training, trials Trials) *Certificate {
	r := &run{cert: &Certificate{Convergence: compareTrainings(a, b, trials)}}
	r.cert.A.Description.Name, r.cert.B.Description.Name = "A", "cpu"
	r.judgeConvergence()
	r.verdict()
	return r.cert
}

// pool is how many seeds honest trainings are run with to learn how often they fail,
// more where REFOCUS_CONVERGENCE says so.
func pool(t *testing.T) int {
	const least = 40
	if s := os.Getenv("REFOCUS_CONVERGENCE"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < least {
			t.Fatalf("REFOCUS_CONVERGENCE is %q, not a number of seeds, %d or more", s, least)
		}
		return n
	}
	return least
}

// Trainings in half precision are compared with those in float32. Honest ones, and
// those of another engine, pass, and keep passing with other seeds; every planted fault
// is found, by the measure that it concerns. The table in README.md is what it said.
func TestConvergence(t *testing.T) {
	trials := Trials{Seeds: 12}.withDefaults()
	seeds := pool(t)
	reference := trainings(t, cpu.New("reference"), backend.Float32, seeds, trials)
	few := reference[:trials.Seeds]

	// Draws from the pool stand for other seeds. A twentieth is more than what the
	// measures' own FalseAlarm add up to.
	honest := func(t *testing.T, all []training) {
		rng := seed.Rand(t)
		usual := Trials{}.withDefaults().Seeds
		const draws = 1000
		failed := 0
		for range draws {
			var a, b []training
			for _, i := range rng.Perm(len(all))[:usual] {
				a, b = append(a, all[i]), append(b, reference[i])
			}
			if c := certified(a, b, trials); !c.Pass() {
				failed++
				if failed == 1 {
					t.Log(c.Verdict())
				}
			}
		}
		t.Logf("of %d draws of %d seeds out of %d, %d fail", draws, usual, len(all), failed)
		if failed > draws/20 {
			t.Errorf("%d of %d honest draws fail", failed, draws)
		}
	}
	faults := slowFaults()
	rows := make([]string, len(faults))
	t.Run("group", func(t *testing.T) {
		t.Run("half precision", func(t *testing.T) {
			t.Parallel()
			honest(t, trainings(t, cpu.New("test"), backend.Mixed, seeds, trials))
		})
		t.Run("gorgonia", func(t *testing.T) {
			t.Parallel()
			if os.Getenv("REFOCUS_CONVERGENCE") != "" {
				honest(t, trainings(t, gorgonia.New("test"), backend.Float32, seeds, trials))
			} else if c := certified(trainings(t, gorgonia.New("test"), backend.Float32, trials.Seeds, trials), few, trials); !c.Pass() {
				t.Error(c.Verdict())
			}
		})
		for i, f := range faults {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				f.fault.Backend = cpu.New("planted fault")
				c := certified(trainings(t, f.fault, backend.Mixed, trials.Seeds, trials), few, trials)
				if c.Pass() {
					t.Fatal("passed")
				}
				at := slices.IndexFunc(c.Checks, func(k Check) bool { return k.Place == f.measure })
				if k := c.Checks[at]; k.Pass {
					t.Errorf("found by %s and not by %s", c.First.Place, f.measure)
				} else {
					rows[i] = fmt.Sprintf("| %s | %s | %s |\n", f.name, f.measure, k.Note)
				}
			})
		}
	})
	if t.Failed() {
		return
	}
	updateTable(t, "slow faults", "| planted fault | measure | what the cross-check said |\n|---|---|---|\n"+strings.Join(rows, ""), 2)
}

// The interval of the mean difference misses the true one, and a backend that is off by
// the margin passes or is said to differ, as often as Risk says and no more: 4000 trials
// of pairs with a scatter of 0.3, whose own scatter is allowed four times.
func TestErrorProbabilities(t *testing.T) {
	rng := seed.Rand(t)
	const rounds, seeds, risk, margin = 4000, 12, 0.05, 1
	for _, c := range []struct {
		name string
		off  float64
		of   func(m *Measure) bool
		want float64
	}{
		{"the interval misses the difference", 0, func(m *Measure) bool { return m.Low > 0 || m.High < 0 }, 2 * risk},
		{"a backend at the margin passes", margin, func(m *Measure) bool { return m.Low > -margin && m.High < margin }, risk},
		{"a backend at the margin differs", -margin, func(m *Measure) bool { return m.Differs }, risk},
	} {
		n := 0
		for range rounds {
			var m Measure
			for range seeds {
				b := rng.NormFloat64()
				m.A, m.B = append(m.A, b+c.off+0.3*rng.NormFloat64()), append(m.B, b)
			}
			if m.judge(margin, risk, 1); c.of(&m) {
				n++
			}
		}
		got, allowed := float64(n)/rounds, 4*math.Sqrt(c.want/rounds)
		t.Logf("%s: %.4f of the time, %.4f is wanted", c.name, got, c.want)
		if math.Abs(got-c.want) > allowed {
			t.Errorf("%s: %.4f of the time, want %.4f ± %.4f", c.name, got, c.want, allowed)
		}
	}
}

// What cannot be compared is refused.
func TestTrialsRefused(t *testing.T) {
	for want, c := range map[string]struct {
		trials Trials
		steps  int
	}{
		"3 seeds":     {Trials{Seeds: 3}, 64},
		"one epoch":   {Trials{Epochs: 1}, 64},
		"short":       {Trials{Epochs: 8}, 15},
		"margin -1":   {Trials{Margin: -1}, 64},
		"risk of 0.5": {Trials{Risk: 0.5}, 64},
	} {
		if err := c.trials.Check(c.steps); err == nil {
			t.Errorf("%s: accepted", want)
		}
	}
}

// From the backends to the page: one that is compared with itself is off by nothing, and
// one at another learning rate is said to differ.
func TestConverge(t *testing.T) {
	g, err := nn.UNet(nn.UNetOptions{Width: 2, Classes: 2})
	if err != nil {
		t.Fatal(err)
	}
	g.Initialize(3, 0)
	other := slow{Backend: cpu.New("test"), plant: func(s *slowly) { s.rate = func(rate float64, _ int) float64 { return 5 * rate } }}
	for name, c := range map[string]struct {
		a    backend.Backend
		want string
	}{
		"itself":       {cpu.New("test"), "cpu trains as cpu does: over 4 seeds the means of all 10 measures are within the margin."},
		"another rate": {other, "cpu does not train as cpu does: the "},
	} {
		cert, err := Converge(t.Context(), Input{
			A: Subject{Backend: c.a}, B: Subject{Backend: cpu.New("test")}, Oracle: Subject{Backend: cpu.New("test")},
			Graph: g, Train: images(t, "train", 6, 16), Validation: images(t, "validation", 3, 16),
			Loss:    backend.LossOnProbabilities,
			Options: Options{Steps: 16, Threads: 1},
		}, Trials{Seeds: 4, Epochs: 2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(cert.Verdict(), c.want) {
			t.Errorf("%s: %s", name, cert.Verdict())
		}
		dir := t.TempDir()
		if err := cert.Write(dir); err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(filepath.Join(dir, "certificate.html"))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{template.HTMLEscapeString(c.want), "shrinkage of the initial weights", "Both trained 4 times"} {
			if !strings.Contains(string(page), want) {
				t.Errorf("%s: the page lacks %q", name, want)
			}
		}
	}
}
