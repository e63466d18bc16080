package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/onnx"
)

// handshake tells a plugin that the harness started it. It protects from
// mistakes, not from malice: that is what mutual TLS and the lock file do.
var handshake = goplugin.HandshakeConfig{
	MagicCookieKey:   "REFOCUS_BACKEND_PLUGIN",
	MagicCookieValue: "c6e8a1f0-refocus-backend",
}

// pluginKey names the one thing a plugin dispenses.
const pluginKey = "backend"

// Serve offers b to the harness that started this process, and returns when
// the harness is done with it. It is the whole main function of a plugin:
//
//	func main() { plugin.Serve(mine.New()) }
//
// The default loggers of log and hclog then write structured lines to stderr,
// which the harness shows among its own. Where a person started the program,
// or no protocol version is shared with the harness, Serve says so and exits
// with status 2. It exits at once when the harness vanishes.
func Serve(b backend.Backend) {
	serve(b, ProtocolVersion)
}

func serve(b backend.Backend, versions ...int) {
	if os.Getenv(handshake.MagicCookieKey) != handshake.MagicCookieValue {
		d, _ := b.Describe(context.Background())
		fmt.Fprintf(os.Stderr, "%s is a backend plugin of refocus (backend %q, version %q) and does nothing by itself.\n"+
			"Put it into plugins/bin or a folder of $REFOCUS_PLUGIN_PATH and run: refocus backends info %s\n",
			os.Args[0], d.Name, d.Version, d.Name)
		os.Exit(2)
	}
	if offered := os.Getenv("PLUGIN_PROTOCOL_VERSIONS"); !shareVersion(offered, versions) {
		fmt.Fprintf(os.Stderr, "%s speaks version %s of the backend protocol, the harness that started it version %s: %s\n",
			os.Args[0], joinInts(versions), offered, versionAdvice(slices.Max(versions), offered))
		os.Exit(2)
	}

	stderr := os.Stderr // go-plugin replaces the variable
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.LevelFromString(os.Getenv(logLevelVariable)), Output: stderr, JSONFormat: true})
	hclog.SetDefault(logger)
	log.SetFlags(0)
	log.SetOutput(logger.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true}))

	go dieWithHarness()
	if runtime.GOOS == "linux" { // the harness starts an open file, which has no name
		os.WriteFile("/proc/self/comm", []byte(filepath.Base(os.Args[0])), 0)
	}

	s := &server{backend: b, sessions: map[uint64]*served{}}
	sets := map[int]goplugin.PluginSet{}
	for _, v := range versions {
		sets[v] = goplugin.PluginSet{pluginKey: &grpcPlugin{server: s}}
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig:  handshake,
		VersionedPlugins: sets,
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: stderr, JSONFormat: true}),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
				grpc.InitialWindowSize(flowWindow), grpc.InitialConnWindowSize(flowWindow))...)
		},
	})
	s.closeAll()
}

// dieWithHarness ends this process and what it started when the harness ends,
// however that happens: the harness holds the other end of stdin, and on Linux
// the kernel sends SIGTERM.
func dieWithHarness() {
	over := make(chan os.Signal, 1)
	signal.Notify(over, syscall.SIGTERM)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		over <- os.Interrupt
	}()
	<-over
	removeSockets()
	killOwnGroup()
	os.Exit(1)
}

// removeSockets removes the folder that the harness made for this process's
// socket, in case it ended too early to do so.
func removeSockets() {
	folder := os.Getenv(goplugin.EnvUnixSocketDir)
	if !strings.HasPrefix(filepath.Base(folder), "plugin-dir") {
		return
	}
	sockets, _ := filepath.Glob(filepath.Join(folder, "plugin*"))
	for _, s := range sockets {
		os.Remove(s)
	}
	os.Remove(folder)
}

// shareVersion reports whether the harness offers one of the versions. A host
// that offers nothing is left to judge what the plugin says.
func shareVersion(offered string, versions []int) bool {
	if offered == "" {
		return true
	}
	for o := range strings.SplitSeq(offered, ",") {
		if v, err := strconv.Atoi(o); err == nil && slices.Contains(versions, v) {
			return true
		}
	}
	return false
}

// versionAdvice says which side is the older one.
func versionAdvice(plugin int, offered string) string {
	newest := 0
	for o := range strings.SplitSeq(offered, ",") {
		v, _ := strconv.Atoi(o)
		newest = max(newest, v)
	}
	if plugin < newest {
		return "update the plugin (rebuild it against the harness's version of refocus)"
	}
	return "update the harness, or use an older version of the plugin"
}

func joinInts(v []int) string {
	var s []string
	for _, i := range v {
		s = append(s, strconv.Itoa(i))
	}
	return strings.Join(s, ",")
}

// grpcPlugin connects go-plugin with the service.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	server *server
}

func (p *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pb.RegisterBackendServer(s, p.server)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, c *grpc.ClientConn) (any, error) {
	return c, nil
}

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
	code := codes.InvalidArgument
	switch {
	case ctx.Err() != nil:
		code = codes.Canceled
	case errors.Is(err, backend.ErrUnsupported):
		code = codes.Unimplemented
	}
	text := err.Error()
	if len(text) > 8<<10 { // it travels in a header
		text = text[:8<<10] + " …"
	}
	return status.Error(code, strings.ToValidUTF8(text, "\uFFFD"))
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
	a := r.GetAdam()
	o := backend.Options{
		Precision: r.GetPrecision(), Loss: r.GetLoss(), Device: r.GetDevice(), Threads: int(r.GetThreads()),
		Adam: backend.Adam{Beta1: a.GetBeta1(), Beta2: a.GetBeta2(), Epsilon: a.GetEpsilon()},
	}
	v, err := s.backend.Open(ctx, g, o.WithDefaults())
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.sessions[s.last] = &served{turn: make(chan struct{}, 1), session: v}
	return &pb.OpenResponse{Session: s.last}, nil
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
