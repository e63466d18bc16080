package plugin

import (
	"context"
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

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/refocus-em/refocus/harness/backend"
	pb "github.com/refocus-em/refocus/harness/backend/proto"
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
// with status 2. It exits at once when the harness vanishes, and otherwise when the
// harness says so: SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 and SIGXCPU do not end it.
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

	go dieWithHarness(os.Getppid())
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
//
// As long as the harness lives nothing else does. Schedulers, terminals and shells send
// the signals that ask a program to stop to all processes of a job; the harness, which
// gets them too, then asks for the state of what is being trained.
func dieWithHarness(harness int) {
	told := make(chan os.Signal, 1)
	signal.Notify(told, stopSignals...)
	over := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(over)
	}()
	for alive := true; alive; {
		select {
		case <-told:
			alive = os.Getppid() == harness
		case <-over:
			alive = false
		}
	}
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
