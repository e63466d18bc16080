package fakebackend

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// Backend counts its steps over all sessions.
type Backend struct {
	Steps atomic.Int64
	// Fault, when set, is asked before every step (counted from 1 over all
	// sessions) for an error to fail with.
	Fault  func(step int64) error
	Closed atomic.Bool
}

// Describe names the backend "fake".
func (b *Backend) Describe(context.Context) (backend.Description, error) {
	return backend.Description{
		Name: "fake", Version: "1", Numerics: "fake-1", Determinism: backend.DeterminismMachine,
		Devices: []backend.Device{{Name: "cpu", Kind: "cpu", Info: "fake"}}, Precisions: []string{backend.Float32},
		Losses: []string{backend.LossOnProbabilities},
	}, nil
}

// Open starts a session whose state begins with the graph's weights.
func (b *Backend) Open(_ context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	s := &session{b: b, g: g, sets: map[string]int{}}
	h := sha256.New()
	for _, t := range g.Tensors {
		binary.Write(h, binary.LittleEndian, t.Data)
	}
	s.value = binary.LittleEndian.Uint64(h.Sum(nil))
	return s, nil
}

// Close ends the pretended process.
func (b *Backend) Close() error { b.Closed.Store(true); return nil }

type session struct {
	b     *Backend
	g     *nn.Graph
	sets  map[string]int
	value uint64
}

func (s *session) fold(v any) {
	h := sha256.New()
	fmt.Fprintf(h, "%d %v", s.value, v)
	s.value = binary.LittleEndian.Uint64(h.Sum(nil))
}

// unit maps the state to [0,1).
func (s *session) unit() float64 { return float64(s.value>>11) / (1 << 53) }

func (s *session) LoadDataset(_ context.Context, id, path, digest string) error {
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	i, ok := f.Info("images")
	if !ok {
		return errors.New("no images")
	}
	s.sets[id] = i.Shape[0]
	return nil
}

func (s *session) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	for i, b := range r.Batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		if n := s.b.Steps.Add(1); s.b.Fault != nil {
			if err := s.b.Fault(n); err != nil {
				return err
			}
		}
		for _, x := range b {
			if n, ok := s.sets[x.Dataset]; !ok || x.Index < 0 || x.Index >= n {
				return fmt.Errorf("no sample %v", x)
			}
		}
		s.fold(fmt.Sprint(b, r.LearningRate, r.Frozen))
		if err := progress(backend.Step{Batch: i, Loss: backend.LeastOnProbabilities + s.unit()}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) Evaluate(_ context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	n, ok := s.sets[r.Dataset]
	if !ok {
		return backend.Evaluation{}, fmt.Errorf("no data set %q", r.Dataset)
	}
	e := backend.Evaluation{Classes: 2}
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s", s.value, r.Dataset))
	for i := range n {
		e.Loss = append(e.Loss, backend.LeastOnProbabilities+float64(h[i%len(h)])/256)
		e.Confusion = append(e.Confusion, []int64{1, 1, 1, 1})
	}
	return e, nil
}

func (s *session) State(context.Context) ([]byte, error) {
	var ts []safetensors.Tensor
	for _, t := range s.g.Tensors {
		if t.Role != nn.Constant {
			d := make([]float32, t.Len())
			d[0] = float32(s.value % (1 << 20))
			ts = append(ts, safetensors.Tensor{Name: t.Name, Shape: t.Shape, Data: d})
		}
	}
	return safetensors.Encode(ts, map[string]string{"value": fmt.Sprint(s.value)})
}

func (s *session) SetState(_ context.Context, state []byte) error {
	f, err := safetensors.Decode(state)
	if err != nil {
		return err
	}
	if v, ok := f.Metadata["value"]; ok {
		_, err := fmt.Sscan(v, &s.value)
		return err
	}
	// Weights alone, of a finished run.
	t := f.Tensors()[0]
	d, err := f.Float32(t.Name)
	if err != nil {
		return err
	}
	s.value = uint64(d[0])
	return nil
}

var errAsked = errors.New("the fake backend does not answer this")

func (s *session) Predict(context.Context, backend.Tensor) (backend.Tensor, error) {
	return backend.Tensor{}, errAsked
}

func (s *session) Gradients(context.Context, backend.Batch, []string) (float64, []backend.NamedTensor, error) {
	return 0, nil, errAsked
}

func (s *session) Activations(context.Context, backend.Batch, []string, bool) ([]backend.NamedTensor, error) {
	return nil, errAsked
}

func (s *session) Close() error { return nil }
