package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// Spec says which plugin to start and how to watch it.
type Spec struct {
	Name string   // the backend's name, which it must confirm
	Path string   // of the executable
	Args []string // after the program's name
	Env  []string // added to this process's environment
	// SHA256 is the executable's expected digest in lower-case hexadecimal;
	// another file is not started. Empty: not checked.
	SHA256 string
	// Logger receives the plugin's log lines and what happens to the process.
	// Nil: nobody does.
	Logger hclog.Logger

	// StartTimeout bounds the time from starting the process to its first
	// answer. Default 60 s: a GPU plugin may have libraries to load.
	StartTimeout time.Duration
	// PingInterval is the time between two health checks, default 5 s, and
	// HangTimeout how long one may take, default 30 s; the second late one in a
	// row means that the plugin hangs.
	PingInterval, HangTimeout time.Duration
	// StallTimeout bounds the time without progress: from one training step to
	// the next, and until any other method answers. Default 30 minutes, which
	// leaves room for the oracle's float64 steps at the study's full size.
	StallTimeout time.Duration
}

func (s Spec) withDefaults() Spec {
	for _, d := range []struct {
		at       *time.Duration
		default_ time.Duration
	}{{&s.StartTimeout, time.Minute}, {&s.PingInterval, 5 * time.Second}, {&s.HangTimeout, 30 * time.Second}, {&s.StallTimeout, 30 * time.Minute}} {
		if *d.at <= 0 {
			*d.at = d.default_
		}
	}
	if s.Logger == nil {
		s.Logger = hclog.NewNullLogger()
	}
	return s
}

// Client is a running plugin. It implements Backend; what its sessions answer
// has been checked (see Checked). When the plugin fails, the methods return a
// *CrashError, *HangError or *NonsenseError, and only a new Client helps.
type Client struct {
	spec    Spec
	plugin  *goplugin.Client
	process *process
	words   *ring
	rpc     pb.BackendClient
	health  grpc_health_v1.HealthClient
	stop    context.CancelFunc // of the health watch

	mu    sync.Mutex
	cause error // why the plugin is of no use any more
}

// Launch starts a plugin and waits for its first answer. ctx bounds the start
// only; Close ends the plugin.
func Launch(ctx context.Context, spec Spec) (*Client, error) {
	spec = spec.withDefaults()
	c := &Client{spec: spec, words: &ring{}}
	file, path, err := verified(spec.Path, spec.SHA256)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", spec.Name, err)
	}
	defer file.Close()

	level := spec.Logger.GetLevel()
	if level == hclog.NoLevel || level == hclog.Off {
		level = hclog.Info // for an error's last words
	}
	title := spec.Path
	if title == self() {
		title = os.Args[0] // reads better in a list of processes
	}
	tlsConfig, certificate, err := mutualTLS()
	if err != nil {
		return nil, fmt.Errorf("starting backend %s: making a certificate: %w", spec.Name, err)
	}
	c.process = newProcess(Prefix+spec.Name, &exec.Cmd{Path: path, Args: append([]string{title}, spec.Args...)})
	c.plugin = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  handshake,
		VersionedPlugins: map[int]goplugin.PluginSet{ProtocolVersion: {pluginKey: &grpcPlugin{}}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		TLSConfig:        tlsConfig,
		Logger:           quiet{spec.Logger},
		Stderr:           c.words,
		SyncStdout:       c.words, // what the plugin prints once it serves
		SyncStderr:       c.words,
		StartTimeout:     2 * spec.StartTimeout, // start has the say
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: socketFolder()},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithIdleTimeout(0), // a connection lost is a plugin lost
			grpc.WithInitialWindowSize(flowWindow),
			grpc.WithInitialConnWindowSize(flowWindow),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, folder string) (runner.Runner, error) {
			c.process.cmd.Env = append(append(cmd.Env, clientCertVariable+"="+string(certificate), logLevelVariable+"="+level.String()), spec.Env...)
			c.process.sockets = folder
			return c.process, nil
		},
	})
	if err := c.start(ctx); err != nil {
		c.Close()
		return nil, err
	}
	watch, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.watch(watch)
	return c, nil
}

// start makes the process speak, within the time it has.
func (c *Client) start(ctx context.Context) error {
	given := ctx
	ctx, cancel := context.WithTimeout(ctx, c.spec.StartTimeout)
	defer cancel()
	kill := context.AfterFunc(ctx, func() { c.process.Kill(ctx) }) // go-plugin takes no context
	defer kill()

	protocol, err := c.plugin.Client()
	if err != nil {
		return c.startError(given, ctx, err)
	}
	conn, err := protocol.Dispense(pluginKey)
	if err != nil {
		return c.startError(given, ctx, err)
	}
	c.rpc = pb.NewBackendClient(conn.(*grpc.ClientConn))
	c.health = grpc_health_v1.NewHealthClient(conn.(*grpc.ClientConn))
	d, err := c.Describe(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return c.startError(given, ctx, err)
		}
		return err
	}
	// The connection stands and is never made again. Without its socket the
	// plugin is out of others' reach, and nothing is left on disk even if this
	// process is killed.
	os.RemoveAll(c.process.sockets)
	if c.spec.Name != "" && d.Name != c.spec.Name {
		return fmt.Errorf("%s calls itself backend %q, not %q: rename the executable to refocus-backend-%s or correct what its Describe answers",
			c.spec.Path, d.Name, c.spec.Name, d.Name)
	}
	return nil
}

var incompatible = regexp.MustCompile(`incompatible API version with plugin. Plugin version: (\d+)`)

// startError explains why the plugin did not start: given is the caller's
// context, limited the one with the start's timeout.
func (c *Client) startError(given, limited context.Context, err error) error {
	switch {
	case given.Err() != nil:
		return fmt.Errorf("starting backend %s: %w", c.spec.Name, given.Err())
	case limited.Err() != nil:
		return &backend.HangError{Plugin: c.spec.Name, During: "start", After: c.spec.StartTimeout, LastWords: c.words.Lines()}
	}
	if m := incompatible.FindStringSubmatch(err.Error()); m != nil {
		var v int
		fmt.Sscan(m[1], &v)
		return fmt.Errorf("backend %s (%s) speaks version %d of the backend protocol, this harness version %d: %s",
			c.spec.Name, c.spec.Path, v, ProtocolVersion, versionAdvice(v, fmt.Sprint(ProtocolVersion)))
	}
	if c.process.pid() == 0 {
		return fmt.Errorf("starting backend %s: %w", c.spec.Name, err)
	}
	if text := err.Error(); strings.Contains(text, "Unrecognized remote plugin message") && !strings.Contains(text, "Failed to read any lines") {
		return fmt.Errorf("starting backend %s: %s is no backend plugin: it printed something else than go-plugin's handshake: %w%s",
			c.spec.Name, c.spec.Path, err, c.words.Lines())
	}
	select {
	case <-c.process.drained:
	case <-time.After(2 * time.Second): // it lives; what it said was wrong
		return fmt.Errorf("starting backend %s: %w%s", c.spec.Name, err, c.words.Lines())
	}
	return &backend.CrashError{Plugin: c.spec.Name, During: "start", Exit: c.process.exit(), LastWords: c.words.Lines()}
}

// socketFolder is where sockets go. Their paths must be shorter than about a
// hundred bytes, which a cluster's $TMPDIR may not leave room for.
func socketFolder() string {
	if runtime.GOOS != "windows" && len(os.TempDir()) > 50 {
		return "/tmp"
	}
	return ""
}

// watch checks the plugin's health until ctx is done or the plugin is lost.
func (c *Client) watch(ctx context.Context) {
	tick := time.NewTicker(c.spec.PingInterval)
	defer tick.Stop()
	late := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.process.done:
			return
		case <-tick.C:
		}
		ping, cancel := context.WithTimeout(ctx, c.spec.HangTimeout)
		r, err := c.health.Check(ping, &grpc_health_v1.HealthCheckRequest{Service: goplugin.GRPCServiceName})
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case status.Code(err) == codes.DeadlineExceeded:
			if late++; late > 1 { // the first may be this process that was stopped
				c.hung("health check", 2*c.spec.HangTimeout)
				return
			}
			continue
		case err != nil && status.Code(err) != codes.Unimplemented, err == nil && r.Status != grpc_health_v1.HealthCheckResponse_SERVING:
			c.process.Kill(ctx) // waiting calls find out and say so
			return
		}
		late = 0
	}
}

// hung ends a plugin of which nothing came for the given time.
func (c *Client) hung(during string, after time.Duration) {
	c.giveUp(&backend.HangError{Plugin: c.spec.Name, During: during, After: after, LastWords: c.words.Lines()})
	c.process.Kill(context.Background())
}

// giveUp records why the plugin is of no use any more, unless that is known,
// and returns the reason.
func (c *Client) giveUp(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = err
	}
	return c.cause
}

func (c *Client) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// call makes one call of the service. f may report progress, which defers the
// moment at which the call counts as hung.
func (c *Client) call(ctx context.Context, during string, f func(ctx context.Context, progress func()) error) error {
	if err := c.failed(); err != nil {
		return err
	}
	stall := time.AfterFunc(c.spec.StallTimeout, func() { c.hung(during, c.spec.StallTimeout) })
	defer stall.Stop()
	err := f(ctx, func() { stall.Reset(c.spec.StallTimeout) })
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := c.failed(); err != nil {
		return err
	}
	s, ok := status.FromError(err)
	if !ok {
		return err // of this side: progress, checks
	}
	patience := 500 * time.Millisecond
	switch s.Code() {
	case codes.Unimplemented:
		return &remoteError{s.Message(), true}
	case codes.Unavailable: // the connection broke, and the process with it or soon after
		patience = 2 * time.Second
	case codes.Internal, codes.Unknown, codes.Canceled: // what the connection's end may look like, too
	default:
		return &remoteError{text: s.Message()}
	}
	select {
	case <-c.process.drained:
	case <-time.After(patience):
		if s.Code() != codes.Unavailable {
			return &remoteError{text: s.Message()}
		}
		c.process.Kill(ctx)
		<-c.process.drained
		return c.giveUp(&backend.CrashError{Plugin: c.spec.Name, During: during, Exit: "the connection broke: " + s.Message(), LastWords: c.words.Lines()})
	}
	return c.giveUp(&backend.CrashError{Plugin: c.spec.Name, During: during, Exit: c.process.exit(), LastWords: c.words.Lines()})
}

// Describe implements Backend.
func (c *Client) Describe(ctx context.Context) (backend.Description, error) {
	var d backend.Description
	err := c.call(ctx, "Describe", func(ctx context.Context, _ func()) error {
		w, err := c.rpc.Describe(ctx, &pb.DescribeRequest{})
		d = descriptionFromWire(w)
		return err
	})
	if err != nil {
		return backend.Description{}, err
	}
	return d, checkDescription(d)
}

// Open implements Backend.
func (c *Client) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	o = o.WithDefaults()
	if o.Threads < 0 {
		return nil, fmt.Errorf("%d threads", o.Threads)
	}
	model, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		return nil, err
	}
	s := &session{client: c, sizes: map[string]int{}}
	err = c.call(ctx, "Open", func(ctx context.Context, _ func()) error {
		w, err := c.rpc.Open(ctx, &pb.OpenRequest{
			Model: model, Precision: o.Precision, Loss: o.Loss, Device: o.Device, Threads: uint32(o.Threads),
			Adam: &pb.Adam{Beta1: o.Adam.Beta1, Beta2: o.Adam.Beta2, Epsilon: o.Adam.Epsilon},
		})
		s.id = w.GetSession()
		return err
	})
	if err != nil {
		return nil, err
	}
	return Checked(s, c.spec.Name, g, o), nil
}

// Done is closed when the plugin's process has ended.
func (c *Client) Done() <-chan struct{} { return c.process.done }

// PID is the plugin's process number.
func (c *Client) PID() int { return c.process.pid() }

// Close ends the plugin and everything it started. It asks first, and waits
// three seconds at most.
func (c *Client) Close() error {
	c.giveUp(fmt.Errorf("backend %s was closed", c.spec.Name))
	if c.stop != nil {
		c.stop()
	}
	ended := make(chan struct{})
	go func() {
		c.plugin.Kill()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		c.process.Kill(context.Background())
		<-ended
	}
	os.RemoveAll(c.process.sockets) // of a process that did not even start
	return nil
}

// remoteError is an error that a backend returned, as opposed to one of
// reaching it. It keeps the text.
type remoteError struct {
	text        string
	unsupported bool
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Is(target error) bool { return e.unsupported && target == backend.ErrUnsupported }
