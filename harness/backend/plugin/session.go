package plugin

import (
	"context"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/safetensors"
)

// session is a session of a plugin: it translates the methods of
// backend.Session into calls of the service.
type session struct {
	client *Client
	id     uint64
	sizes  map[string]int // samples of each dataset, where known
}

func (s *session) LoadDataset(ctx context.Context, id, path, digest string) error {
	err := s.client.call(ctx, "LoadDataset", func(ctx context.Context, _ func()) error {
		_, err := s.client.rpc.LoadDataset(ctx, &pb.LoadDatasetRequest{Session: s.id, Id: id, Path: path, Digest: digest})
		return err
	})
	if err != nil {
		return err
	}
	delete(s.sizes, id)
	if shape, err := imagesShape(path); err == nil {
		s.sizes[id] = shape[0]
	}
	return nil
}

// imagesShape reads the shape of a dataset's images [N,C,H,W].
func imagesShape(path string) ([]int, error) {
	f, err := safetensors.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t, ok := f.Info("images")
	if !ok || len(t.Shape) != 4 {
		return nil, fmt.Errorf("%s has no tensor \"images\" of shape [N,C,H,W]", path)
	}
	return t.Shape, nil
}

func (s *session) Train(ctx context.Context, r backend.TrainRequest, progress func(backend.Step) error) error {
	samples, err := samplesToWire(r.Batches...)
	if err != nil {
		return fmt.Errorf("training: %w", err)
	}
	w := &pb.TrainRequest{Session: s.id, Samples: samples, LearningRate: r.LearningRate, Frozen: r.Frozen}
	for _, b := range r.Batches {
		w.BatchSizes = append(w.BatchSizes, uint32(len(b)))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream when progress fails
	return s.client.call(ctx, "Train", func(ctx context.Context, alive func()) error {
		stream, err := s.client.rpc.Train(ctx, w)
		if err != nil {
			return err
		}
		for {
			p, err := stream.Recv()
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			if err := progress(backend.Step{Batch: int(p.GetBatch()), Loss: p.GetLoss(), Skipped: p.GetSkipped(), LossScale: p.GetLossScale()}); err != nil {
				return err
			}
			alive()
		}
	})
}

// evaluateChunk bounds the samples evaluated in one call, so that the time to
// an answer says something about the plugin's health.
const evaluateChunk = 64

func (s *session) Evaluate(ctx context.Context, r backend.EvaluateRequest) (backend.Evaluation, error) {
	if r.BatchSize < 0 || r.BatchSize > math.MaxInt32 {
		return backend.Evaluation{}, fmt.Errorf("evaluating dataset %q: batch size %d", r.Dataset, r.BatchSize)
	}
	indices := make([]uint32, len(r.Indices))
	for i, v := range r.Indices {
		if v < 0 || v > math.MaxUint32 {
			return backend.Evaluation{}, fmt.Errorf("evaluating dataset %q: index %d is out of range", r.Dataset, v)
		}
		indices[i] = uint32(v)
	}
	if n := s.sizes[r.Dataset]; len(indices) == 0 && n > evaluateChunk {
		for i := range n {
			indices = append(indices, uint32(i))
		}
	}
	var all backend.Evaluation
	for first := true; first || len(indices) > 0; first = false {
		n := min(len(indices), evaluateChunk)
		e, err := s.evaluate(ctx, r, indices[:n])
		if err != nil {
			return backend.Evaluation{}, err
		}
		all.Loss = append(all.Loss, e.Loss...)
		all.Confusion = append(all.Confusion, e.Confusion...)
		all.Classes = e.Classes
		indices = indices[n:]
	}
	return all, nil
}

func (s *session) evaluate(ctx context.Context, r backend.EvaluateRequest, indices []uint32) (backend.Evaluation, error) {
	var e backend.Evaluation
	err := s.client.call(ctx, "Evaluate", func(ctx context.Context, _ func()) error {
		w, err := s.client.rpc.Evaluate(ctx, &pb.EvaluateRequest{
			Session: s.id, Dataset: r.Dataset, Indices: indices, BatchSize: uint32(r.BatchSize),
		})
		if err != nil {
			return err
		}
		e.Loss, e.Classes = w.GetLoss(), int(w.GetClasses())
		cells := e.Classes * e.Classes
		if e.Classes > math.MaxUint16 || len(w.GetConfusion()) != len(e.Loss)*cells {
			return s.nonsense("Evaluate", "%d confusion counts for %d samples and %d classes", len(w.GetConfusion()), len(e.Loss), e.Classes)
		}
		for i := range e.Loss {
			e.Confusion = append(e.Confusion, w.GetConfusion()[i*cells:(i+1)*cells:(i+1)*cells])
		}
		return nil
	})
	return e, err
}

func (s *session) Predict(ctx context.Context, images backend.Tensor) (backend.Tensor, error) {
	w, err := tensorToWire(images)
	if err != nil {
		return backend.Tensor{}, fmt.Errorf("predicting: %w", err)
	}
	var out backend.Tensor
	err = s.client.call(ctx, "Predict", func(ctx context.Context, _ func()) error {
		a, err := s.client.rpc.Predict(ctx, &pb.PredictRequest{Session: s.id, Images: w})
		if err != nil {
			return err
		}
		if out, err = tensorFromWire(a.GetOutput()); err != nil {
			return s.nonsense("Predict", "output: %v", err)
		}
		return nil
	})
	return out, err
}

func (s *session) Gradients(ctx context.Context, b backend.Batch, frozen []string) (float64, []backend.NamedTensor, error) {
	w, err := samplesToWire(b)
	if err != nil {
		return 0, nil, fmt.Errorf("gradients: %w", err)
	}
	var loss float64
	var ts []backend.NamedTensor
	err = s.client.call(ctx, "Gradients", func(ctx context.Context, _ func()) error {
		a, err := s.client.rpc.Gradients(ctx, &pb.GradientsRequest{Session: s.id, Batch: w, Frozen: frozen})
		if err != nil {
			return err
		}
		loss = a.GetLoss()
		if ts, err = namedFromWire(a.GetGradients()); err != nil {
			return s.nonsense("Gradients", "%v", err)
		}
		return nil
	})
	return loss, ts, err
}

func (s *session) Activations(ctx context.Context, b backend.Batch, names []string, training bool) ([]backend.NamedTensor, error) {
	w, err := samplesToWire(b)
	if err != nil {
		return nil, fmt.Errorf("activations: %w", err)
	}
	var ts []backend.NamedTensor
	err = s.client.call(ctx, "Activations", func(ctx context.Context, _ func()) error {
		a, err := s.client.rpc.Activations(ctx, &pb.ActivationsRequest{Session: s.id, Batch: w, Names: names, Training: training})
		if err != nil {
			return err
		}
		if ts, err = namedFromWire(a.GetActivations()); err != nil {
			return s.nonsense("Activations", "%v", err)
		}
		return nil
	})
	return ts, err
}

func (s *session) State(ctx context.Context) ([]byte, error) {
	var state []byte
	err := s.client.call(ctx, "State", func(ctx context.Context, _ func()) error {
		w, err := s.client.rpc.State(ctx, &pb.StateRequest{Session: s.id})
		state = w.GetState()
		return err
	})
	return state, err
}

func (s *session) SetState(ctx context.Context, state []byte) error {
	return s.client.call(ctx, "SetState", func(ctx context.Context, _ func()) error {
		_, err := s.client.rpc.SetState(ctx, &pb.SetStateRequest{Session: s.id, State: state})
		return err
	})
}

// Close waits a little for a method that was given up to notice.
func (s *session) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err := s.client.call(ctx, "Close", func(ctx context.Context, _ func()) error {
		_, err := s.client.rpc.Close(ctx, &pb.CloseRequest{Session: s.id})
		return err
	})
	if ctx.Err() != nil {
		return fmt.Errorf("backend %s did not close a session within 10 s: its last method does not react to being cancelled", s.client.spec.Name)
	}
	return err
}

func (s *session) nonsense(method, format string, a ...any) error {
	return &backend.NonsenseError{Plugin: s.client.spec.Name, Method: method, What: fmt.Sprintf(format, a...)}
}
