package plugin

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
)

// Prefix begins the name of a plugin's executable; the backend's name follows.
const Prefix = "refocus-backend-"

// Spec says which plugin to start and how to watch it.
type Spec struct {
	Name string   // the backend's name, which it must confirm
	Path string   // of the executable; "" is this program's own
	Args []string // after the program's name
	Env  []string // added to this process's environment
	// Device is that of sessions which name none; "" is the backend's first.
	Device string
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

// Launch starts a plugin and waits for its first answer. ctx bounds the start
// only; Close ends the plugin.
func Launch(ctx context.Context, spec Spec) (*Client, error) {
	spec = spec.withDefaults()
	own := spec.Path == ""
	if own {
		spec.Path = self()
	}
	c := &Client{spec: spec, words: &ring{}}
	prog, err := verified(spec.Path, spec.SHA256)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", spec.Name, err)
	}
	defer prog.close()

	level := spec.Logger.GetLevel()
	if level == hclog.NoLevel || level == hclog.Off {
		level = hclog.Info // for an error's last words
	}
	title := spec.Path
	if own {
		title = os.Args[0] // reads better in a list of processes
	}
	tlsConfig, certificate, err := mutualTLS()
	if err != nil {
		return nil, fmt.Errorf("starting backend %s: making a certificate: %w", spec.Name, err)
	}
	cmd := &exec.Cmd{Path: prog.path, Args: append([]string{title}, spec.Args...)}
	if prog.script && prog.memory != nil {
		cmd.ExtraFiles = []*os.File{prog.memory}
	}
	c.process = newProcess(Prefix+spec.Name, cmd)
	c.process.program = prog
	sockets := socketFolder()
	defer sockets.close()
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
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: sockets.path},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithIdleTimeout(0), // a connection lost is a plugin lost
			grpc.WithInitialWindowSize(flowWindow),
			grpc.WithInitialConnWindowSize(flowWindow),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, folder string) (runner.Runner, error) {
			env := append(append(cmd.Env, clientCertVariable+"="+string(certificate), logLevelVariable+"="+level.String()), spec.Env...)
			c.process.cmd.Env = prog.environment(env)
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
	return c.ended("start", c.process.exit())
}

// sockets is the folder for sockets, path, "" for the system's.
type sockets struct {
	path string
	open *os.File
}

// socketFolder is where sockets go. Their paths must be shorter than about a hundred
// bytes, which a cluster's $TMPDIR may not leave room for: Linux has a short path to
// every folder that is open, which serves until the connection stands.
func socketFolder() sockets {
	temp := os.TempDir()
	if runtime.GOOS == "windows" || len(temp) <= 50 {
		return sockets{}
	}
	if runtime.GOOS == "linux" {
		if f, err := os.Open(temp); err == nil {
			path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
			if st, err := os.Stat(path); err == nil && st.IsDir() {
				return sockets{path, f}
			}
			f.Close()
		}
	}
	return sockets{path: "/tmp"}
}

func (s sockets) close() {
	if s.open != nil {
		s.open.Close()
	}
}

// self is a path that leads to this program even if its file is replaced while
// it runs: a backend that is restarted must be the same one.
func self() string {
	if runtime.GOOS == "linux" {
		if _, err := os.Stat("/proc/self/exe"); err == nil {
			return "/proc/self/exe"
		}
	}
	exe, _ := os.Executable()
	return exe
}
