package plugin

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"os"
	"sync"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

// Client is a running plugin. It implements backend.Backend; what its sessions
// answer has been checked (see Checked). When the plugin fails, the methods
// return a *backend.CrashError, *backend.HangError or *backend.NonsenseError, and
// only a new Client helps.
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
		return &remoteError{format.Visible(s.Message()), true}
	case codes.Unavailable: // the connection broke, and the process with it or soon after
		patience = 2 * time.Second
	case codes.Internal, codes.Unknown, codes.Canceled: // what the connection's end may look like, too
	default:
		return &remoteError{text: format.Visible(s.Message())}
	}
	select {
	case <-c.process.drained:
	case <-time.After(patience):
		if s.Code() != codes.Unavailable {
			return &remoteError{text: format.Visible(s.Message())}
		}
		c.process.Kill(ctx)
		<-c.process.drained
		return c.giveUp(c.ended(during, "the connection broke: "+format.Visible(s.Message())))
	}
	return c.giveUp(c.ended(during, c.process.exit()))
}

// Describe implements backend.Backend.
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

// Open implements backend.Backend.
func (c *Client) Open(ctx context.Context, g *nn.Graph, o backend.Options) (backend.Session, error) {
	o = o.WithDefaults()
	o.Device = cmp.Or(o.Device, c.spec.Device)
	r, err := openRequest(g, o)
	if err != nil {
		return nil, err
	}
	s := &session{client: c, sizes: map[string]int{}}
	err = c.call(ctx, "Open", func(ctx context.Context, _ func()) error {
		w, err := c.rpc.Open(ctx, r)
		s.id = w.GetSession()
		return err
	})
	if err != nil {
		return nil, err
	}
	return Checked(s, c.spec.Name, g, o), nil
}

func openRequest(g *nn.Graph, o backend.Options) (*pb.OpenRequest, error) {
	if o.Threads < 0 {
		return nil, fmt.Errorf("%d threads", o.Threads)
	}
	model, err := onnx.Marshal(g, onnx.MarshalOptions{})
	if err != nil {
		return nil, err
	}
	return &pb.OpenRequest{
		Model: model, Precision: o.Precision, Loss: o.Loss, Device: o.Device, Threads: uint32(o.Threads),
		Adam: &pb.Adam{Beta1: o.Adam.Beta1, Beta2: o.Adam.Beta2, Epsilon: o.Adam.Epsilon},
	}, nil
}

// Memory implements backend.Sizer. A plugin that does not tell answers
// backend.ErrUnsupported.
func (c *Client) Memory(ctx context.Context, g *nn.Graph, o backend.Options, q backend.MemoryRequest) (int64, error) {
	o.Device = cmp.Or(o.Device, c.spec.Device)
	session, err := openRequest(g, o.WithDefaults())
	if err != nil {
		return 0, err
	}
	for _, n := range []int{q.Batch, q.Height, q.Width} {
		if n < 1 || n > math.MaxInt32 {
			return 0, fmt.Errorf("the memory of a batch of %d images of %d×%d", q.Batch, q.Height, q.Width)
		}
	}
	var bytes uint64
	err = c.call(ctx, "Memory", func(ctx context.Context, _ func()) error {
		w, err := c.rpc.Memory(ctx, &pb.MemoryRequest{
			Session: session, Batch: uint32(q.Batch), Height: uint32(q.Height), Width: uint32(q.Width), Training: q.Training,
		})
		bytes = w.GetBytes()
		return err
	})
	if err == nil && (bytes == 0 || bytes > 1<<50) {
		err = &backend.NonsenseError{Plugin: c.spec.Name, Method: "Memory", What: fmt.Sprintf("a session needs %d bytes", bytes)}
	}
	return int64(bytes), err
}

// ended is the error of a method that was waiting when the process ended. A
// connection that broke, or none, is told by exit.
func (c *Client) ended(during, exit string) error {
	if c.process.exitCode() == backend.ExitDeviceLost {
		return &backend.DeviceLostError{Plugin: c.spec.Name, During: during, LastWords: c.words.Lines()}
	}
	return &backend.CrashError{Plugin: c.spec.Name, During: during, Exit: exit, LastWords: c.words.Lines()}
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
