package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/onnx"
)

// server translates the service into calls of a Backend.
type server struct {
	pb.UnimplementedBackendServer
	backend backend.Backend

	mu       sync.Mutex
	last     uint64
	sessions map[uint64]*served
}

// served is an open session. Its methods are called by whoever holds turn, so
// that a call which the harness gave up ends before the next one begins.
type served struct {
	turn    chan struct{}
	session backend.Session
	closed  bool // guarded by turn
}

// use runs f on the session, alone, and translates its error.
func (s *server) use(ctx context.Context, id uint64, f func(backend.Session) error) error {
	s.mu.Lock()
	v := s.sessions[id]
	s.mu.Unlock()
	if v == nil {
		return status.Errorf(codes.NotFound, "session %d is unknown or closed", id)
	}
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return toStatus(ctx, ctx.Err())
	}
	defer func() { <-v.turn }()
	if v.closed {
		return status.Errorf(codes.NotFound, "session %d is closed", id)
	}
	return toStatus(ctx, f(v.session))
}

// toStatus keeps an error's text and its class.
func toStatus(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, backend.ErrDeviceLost) {
		deviceLost(err)
	}
	code := codes.InvalidArgument
	var unread *onnx.NodeError
	switch {
	case ctx.Err() != nil:
		code = codes.Canceled
	case errors.Is(err, backend.ErrUnsupported), errors.As(err, &unread):
		code = codes.Unimplemented
	}
	text := err.Error()
	if len(text) > 8<<10 { // it travels in a header
		text = text[:8<<10] + " …"
	}
	return status.Error(code, strings.ToValidUTF8(text, "\uFFFD"))
}

// deviceLost ends the process: what the device held is gone, and an error of the
// request would lose the run.
func deviceLost(err error) {
	hclog.Default().Error("the device is lost", "error", err)
	removeSockets()
	os.Exit(backend.ExitDeviceLost)
}

func (s *server) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, v := range s.sessions {
		select {
		case v.turn <- struct{}{}:
			v.session.Close()
		case <-time.After(time.Second): // busy although cancelled
		}
		delete(s.sessions, id)
	}
}

func (s *server) Describe(ctx context.Context, _ *pb.DescribeRequest) (*pb.DescribeResponse, error) {
	d, err := s.backend.Describe(ctx)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	return descriptionToWire(d), nil
}

func (s *server) Open(ctx context.Context, r *pb.OpenRequest) (*pb.OpenResponse, error) {
	g, err := onnx.Unmarshal(r.GetModel())
	if err != nil {
		return nil, toStatus(ctx, fmt.Errorf("decoding the model: %w", err))
	}
	v, err := s.backend.Open(ctx, g, optionsFromWire(r))
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.sessions[s.last] = &served{turn: make(chan struct{}, 1), session: v}
	return &pb.OpenResponse{Session: s.last}, nil
}

// optionsFromWire are a session's options, with defaults.
func optionsFromWire(r *pb.OpenRequest) backend.Options {
	a := r.GetAdam()
	return backend.Options{
		Precision: r.GetPrecision(), Loss: r.GetLoss(), Device: r.GetDevice(), Threads: int(r.GetThreads()),
		Adam: backend.Adam{Beta1: a.GetBeta1(), Beta2: a.GetBeta2(), Epsilon: a.GetEpsilon()},
	}.WithDefaults()
}

func (s *server) Memory(ctx context.Context, r *pb.MemoryRequest) (*pb.MemoryResponse, error) {
	b, ok := s.backend.(backend.Sizer)
	if !ok {
		return nil, status.Error(codes.Unimplemented, "this backend does not tell how much memory a session takes")
	}
	g, err := onnx.Unmarshal(r.GetSession().GetModel())
	if err != nil {
		return nil, toStatus(ctx, fmt.Errorf("decoding the model: %w", err))
	}
	n, err := b.Memory(ctx, g, optionsFromWire(r.GetSession()), backend.MemoryRequest{
		Batch: int(r.GetBatch()), Height: int(r.GetHeight()), Width: int(r.GetWidth()), Training: r.GetTraining(),
	})
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	return &pb.MemoryResponse{Bytes: uint64(max(0, n))}, nil
}

func (s *server) LoadDataset(ctx context.Context, r *pb.LoadDatasetRequest) (*pb.LoadDatasetResponse, error) {
	return &pb.LoadDatasetResponse{}, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		return v.LoadDataset(ctx, r.GetId(), r.GetPath(), r.GetDigest())
	})
}

func (s *server) Train(r *pb.TrainRequest, stream grpc.ServerStreamingServer[pb.Step]) error {
	ctx := stream.Context()
	return s.use(ctx, r.GetSession(), func(v backend.Session) error {
		batches, err := samplesFromWire(r.GetSamples(), r.GetBatchSizes()...)
		if err != nil {
			return err
		}
		return v.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: r.GetLearningRate(), Frozen: r.GetFrozen()}, func(p backend.Step) error {
			return stream.Send(&pb.Step{Batch: uint32(p.Batch), Loss: p.Loss, Skipped: p.Skipped, LossScale: p.LossScale})
		})
	})
}

func (s *server) Evaluate(ctx context.Context, r *pb.EvaluateRequest) (*pb.EvaluateResponse, error) {
	w := &pb.EvaluateResponse{}
	return w, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		q := backend.EvaluateRequest{Dataset: r.GetDataset(), BatchSize: int(r.GetBatchSize())}
		for _, i := range r.GetIndices() {
			q.Indices = append(q.Indices, int(i))
		}
		e, err := v.Evaluate(ctx, q)
		if err != nil {
			return err
		}
		w.Loss, w.Classes = e.Loss, uint32(e.Classes)
		for _, c := range e.Confusion {
			w.Confusion = append(w.Confusion, c...)
		}
		return nil
	})
}

func (s *server) Predict(ctx context.Context, r *pb.PredictRequest) (*pb.PredictResponse, error) {
	w := &pb.PredictResponse{}
	return w, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		images, err := tensorFromWire(r.GetImages())
		if err != nil {
			return fmt.Errorf("images: %w", err)
		}
		out, err := v.Predict(ctx, images)
		if err != nil {
			return err
		}
		w.Output, err = tensorToWire(out)
		return err
	})
}

func (s *server) Gradients(ctx context.Context, r *pb.GradientsRequest) (*pb.GradientsResponse, error) {
	w := &pb.GradientsResponse{}
	return w, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		b, err := batchFromWire(r.GetBatch())
		if err != nil {
			return err
		}
		loss, gradients, err := v.Gradients(ctx, b, r.GetFrozen())
		if err != nil {
			return err
		}
		w.Loss = loss
		w.Gradients, err = namedToWire(gradients)
		return err
	})
}

func (s *server) Activations(ctx context.Context, r *pb.ActivationsRequest) (*pb.ActivationsResponse, error) {
	w := &pb.ActivationsResponse{}
	return w, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		b, err := batchFromWire(r.GetBatch())
		if err != nil {
			return err
		}
		values, err := v.Activations(ctx, b, r.GetNames(), r.GetTraining())
		if err != nil {
			return err
		}
		w.Activations, err = namedToWire(values)
		return err
	})
}

func (s *server) State(ctx context.Context, r *pb.StateRequest) (*pb.StateResponse, error) {
	w := &pb.StateResponse{}
	return w, s.use(ctx, r.GetSession(), func(v backend.Session) (err error) {
		w.State, err = v.State(ctx)
		return err
	})
}

func (s *server) SetState(ctx context.Context, r *pb.SetStateRequest) (*pb.SetStateResponse, error) {
	return &pb.SetStateResponse{}, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		return v.SetState(ctx, r.GetState())
	})
}

func (s *server) Close(ctx context.Context, r *pb.CloseRequest) (*pb.CloseResponse, error) {
	return &pb.CloseResponse{}, s.use(ctx, r.GetSession(), func(v backend.Session) error {
		s.mu.Lock()
		s.sessions[r.GetSession()].closed = true
		delete(s.sessions, r.GetSession())
		s.mu.Unlock()
		return v.Close()
	})
}
