package train

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/dataset"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/progress/progresstest"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/fakebackend"
)

// memory keeps a checkpoint in memory.
type memory struct {
	b       []byte
	fails   error // what Checkpoint returns
	damaged []error
}

func (m *memory) Checkpoint() ([]byte, error)  { return m.b, m.fails }
func (m *memory) SetCheckpoint(b []byte) error { m.b = b; return nil }
func (m *memory) CheckpointPath() string       { return "the/file" }
func (m *memory) Damaged(err error) error {
	m.damaged = append(m.damaged, err)
	m.b = nil
	return nil
}

// job is a small run over sets of blank images.
func job(t *testing.T) Job {
	t.Helper()
	set := func(n int) dataset.Ready {
		b, err := safetensors.Encode([]safetensors.Tensor{
			{Name: "images", Shape: []int{n, 1, 16, 16}, Data: make([]float32, n*256)},
			{Name: "labels", Shape: []int{n, 16, 16}, Data: make([]uint8, n*256)},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "set.safetensors")
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(b)
		return dataset.Ready{Path: path, SHA256: hex.EncodeToString(sum[:])}
	}
	return Job{
		Spec: Spec{
			Format: Format, Stage: study.PretrainRun, Network: nn.UNetOptions{Width: 4, Classes: 2}, Loss: backend.LossOnProbabilities,
			Backend: Arithmetic{"fake", "fake-1", backend.Float32}, Seed: 3, Stream: "a",
			Data:       []Part{{Set{"x", "dx", 4}, 6, 0}, {Set{"y", "dy", 2}, 2, 0}},
			Validation: []Set{{"x", "vx", 3}, {"y", "vy", 3}},
			Target:     "x", Epochs: 5, BatchSize: 16, Dihedral: true, LearningRate: 1e-3, Decay: 0.99,
			Adam: backend.DefaultAdam, Frozen: []string{"encoder"},
		},
		Images: map[string]Images{"x": {set(6), set(3)}, "y": {set(2), set(3)}},
	}
}

func TestProtocol(t *testing.T) {
	j := job(t)
	var told progresstest.Recorder
	r, err := Run(context.Background(), &fakebackend.Backend{}, j, &memory{}, &told)
	if err != nil {
		t.Fatal(err)
	}
	if work := told.Phases[0].Done; work != j.Spec.Work() || work != 5*(6*8+6.0/3) {
		t.Errorf("reported work %g, the spec says %g", work, j.Spec.Work())
	}
	h := r.History
	if len(h.Epochs) != 5 {
		t.Fatalf("%d epochs", len(h.Epochs))
	}
	rate := 1e-3
	best := 0
	for i, e := range h.Epochs {
		if e.LearningRate != rate {
			t.Errorf("epoch %d has learning rate %g, want %g", i+1, e.LearningRate, rate)
		}
		rate *= 0.99
		if len(e.Validation) != 2 {
			t.Errorf("epoch %d was validated on %d domains", i+1, len(e.Validation))
		}
		if e.Validation["x"].Loss < h.Epochs[best].Validation["x"].Loss {
			best = i
		}
	}
	if h.Best != best+1 {
		t.Errorf("kept epoch %d, but %d has the lowest loss on the target", h.Best, best+1)
	}
	if d := h.Epochs[0].Validation["x"].Dice; d != 0.5 {
		t.Errorf("Dice %g of one pixel in each cell of the confusion, want 0.5", d)
	}
}

// A run that is interrupted at any step ends with the same bits.
func TestResumeGivesTheSameBits(t *testing.T) {
	j := job(t)
	want, err := Run(context.Background(), &fakebackend.Backend{}, j, &memory{}, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	for stop := int64(1); stop <= 15; stop++ {
		keep := &memory{}
		broken := errors.New("pulled the plug")
		b := &fakebackend.Backend{Fault: func(n int64) error {
			if n == stop {
				return broken
			}
			return nil
		}}
		if _, err := Run(context.Background(), b, j, keep, progress.None{}); !errors.Is(err, broken) {
			t.Fatalf("stopped at %d: %v", stop, err)
		}
		var told progresstest.Recorder
		got, err := Run(context.Background(), &fakebackend.Backend{}, j, keep, &told)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.History, want.History) || !bytes.Equal(got.Weights, want.Weights) || !bytes.Equal(got.Losses, want.Losses) {
			t.Fatalf("stopped at step %d, the resumed run differs", stop)
		}
		if p := told.Phases[0]; math.Abs(p.Done+p.Skipped-j.Spec.Work()) > 1e-9 {
			t.Errorf("stopped at step %d, the resumed run reported work %g and skipped %g of %g", stop, p.Done, p.Skipped, j.Spec.Work())
		}
	}
}

// A run whose checkpoint is damaged, wherever it is, says so and begins again
// with the same result.
func TestDamagedCheckpoint(t *testing.T) {
	j := job(t)
	keep := &memory{}
	want, err := Run(context.Background(), &fakebackend.Backend{}, j, keep, progress.None{})
	if err != nil {
		t.Fatal(err)
	}
	whole := keep.b
	damages := map[string][]byte{"empty": {}, "rubbish": []byte("rubbish, long enough")}
	for i := 0; i < len(whole); i += len(whole)/100 + 1 {
		flipped := bytes.Clone(whole)
		flipped[i] ^= 1
		damages[fmt.Sprintf("bit in byte %d", i)] = flipped
		damages[fmt.Sprintf("cut to %d bytes", i)] = whole[:i]
	}
	for name, b := range damages {
		keep := &memory{b: b}
		var told progresstest.Recorder
		got, err := Run(context.Background(), &fakebackend.Backend{}, j, keep, &told)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(keep.damaged) != 1 {
			t.Errorf("%s: told %v", name, keep.damaged)
		}
		if !reflect.DeepEqual(got.History, want.History) || !bytes.Equal(got.Weights, want.Weights) || !bytes.Equal(got.Losses, want.Losses) {
			t.Errorf("%s: the result differs", name)
		}
		if work := told.Phases[0].Done; work != j.Spec.Work() {
			t.Errorf("%s: reported work %g of %g", name, told.Phases[0].Done, j.Spec.Work())
		}
	}
}

// An error about a checkpoint says where it is and what can be done.
func TestCheckpointErrors(t *testing.T) {
	j := job(t)
	keep := &memory{}
	if _, err := Run(context.Background(), &fakebackend.Backend{}, j, keep, progress.None{}); err != nil {
		t.Fatal(err)
	}
	trouble := errors.New("read the/file: input/output error")
	for name, c := range map[string]struct {
		keep *memory
		b    backend.Backend
		want []string
	}{
		"unreadable": {&memory{fails: trouble}, &fakebackend.Backend{}, []string{"the/file", "input/output", "removed"}},
		"refused":    {keep, refusing{&fakebackend.Backend{}}, []string{"the/file", "no such tensor", "removed"}},
	} {
		_, err := Run(context.Background(), c.b, j, c.keep, progress.None{})
		for _, w := range c.want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v does not say %q", name, err, w)
			}
		}
	}
}

// refusing is a backend that accepts no state.
type refusing struct{ backend.Backend }

func (r refusing) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	s, err := r.Backend.Open(ctx, g, o)
	return refusingSession{s}, err
}

type refusingSession struct{ backend.Session }

func (refusingSession) SetState(context.Context, []byte) error { return errors.New("no such tensor") }

func TestSpecDigest(t *testing.T) {
	s := job(t).Spec
	a, err := s.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Spec){
		"learning rate": func(s *Spec) { s.LearningRate *= 2 },
		"stream":        func(s *Spec) { s.Stream = "b" },
		"numerics":      func(s *Spec) { s.Backend.Numerics = "fake-2" },
		"data":          func(s *Spec) { s.Data = []Part{{Set{"x", "other", 4}, 6, 0}} },
		"frozen":        func(s *Spec) { s.Frozen = nil },
	} {
		c := s
		change(&c)
		if b, _ := c.Digest(); b == a {
			t.Errorf("a different %s has the same digest", name)
		}
	}
}

func TestSpecCheck(t *testing.T) {
	for want, change := range map[string]func(*Spec){
		"target":        func(s *Spec) { s.Target = "z" },
		"parent":        func(s *Spec) { s.Stage = study.TransferRun },
		"learning rate": func(s *Spec) { s.LearningRate = math.NaN() },
		"images of":     func(s *Spec) { s.Data[0].Images = 7 },
		"epochs":        func(s *Spec) { s.Epochs = 0 },
	} {
		j := job(t)
		change(&j.Spec)
		if err := j.Spec.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}
