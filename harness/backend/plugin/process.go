package plugin

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-plugin/runner"
)

// logLevelVariable tells a plugin which of its log lines the harness will show.
const logLevelVariable = "REFOCUS_PLUGIN_LOG"

// process is a plugin's process, in the form go-plugin wants it. It differs
// from go-plugin's own runner in never leaving anything behind: the plugin and
// what it started share a process group that is killed when the plugin ends or
// is ended; the plugin is told of the harness's own end by the kernel on Linux
// and by its stdin closing everywhere.
type process struct {
	cmd            *exec.Cmd // its Process belongs to mu
	name           string    // in the log
	sockets        string    // folder of the plugin's socket
	program        *program  // nil in tests
	stdin          *os.File  // closing it asks the plugin to end
	stdout, stderr *os.File
	done           chan struct{}    // closed when the process has ended
	state          *os.ProcessState // once done is closed; nil if unknown
	drained        chan struct{}    // closed when its output has been read as well

	mu     sync.Mutex
	killed bool // perhaps before it was started
}

func newProcess(name string, cmd *exec.Cmd) *process {
	prepare(cmd)
	return &process{name: name, cmd: cmd, done: make(chan struct{}), drained: make(chan struct{})}
}

// Start starts the process on a thread of its own that lives as long as the
// process: Linux sends the parent-death signal when the starting *thread* ends.
func (p *process) Start(context.Context) (err error) {
	var child []*os.File // ends that belong to the child
	pipe := func(childReads bool) *os.File {
		if err != nil {
			return nil
		}
		var r, w *os.File
		if r, w, err = os.Pipe(); err != nil {
			return nil
		}
		if childReads {
			r, w = w, r
		}
		child = append(child, w)
		return r
	}
	p.stdin, p.stdout, p.stderr = pipe(true), pipe(false), pipe(false)
	defer func() {
		for _, f := range child {
			f.Close()
		}
		if err != nil {
			p.closePipes()
		}
	}()
	if err != nil {
		return err
	}
	// Interfaces holding files: exec passes these on as they are.
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = child[0], child[1], child[2]
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.run()
		if err != nil && p.program != nil {
			p.program.end()
		}
		started <- err
		if err != nil {
			return
		}
		p.state, _ = reap(p.cmd.Process)
		if p.program != nil {
			p.program.end()
		}
		close(p.done)
		select {
		case <-p.drained:
		case <-time.After(2 * time.Second):
			p.closePipes() // something that left the group still holds the other ends
		}
	}()
	return <-started
}

func (p *process) run() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return context.Canceled
	}
	return p.cmd.Start()
}

// Wait returns when the process has ended. go-plugin calls it once, when it has
// read all output.
func (p *process) Wait(context.Context) error {
	<-p.done
	p.closePipes()
	close(p.drained)
	if p.state == nil || !p.state.Success() {
		return errors.New(p.exit())
	}
	return nil
}

// exit says how the process ended, or "" while it runs.
func (p *process) exit() string {
	select {
	case <-p.done:
		return p.state.String()
	default:
		return ""
	}
}

// exitCode is the process's exit status, or -1 while it runs, and where a signal
// ended it.
func (p *process) exitCode() int {
	select {
	case <-p.done:
		return p.state.ExitCode()
	default:
		return -1
	}
}

func (p *process) closePipes() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// Kill ends the process and everything it started, or keeps it from starting.
func (p *process) Kill(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if p.cmd.Process == nil {
		return nil
	}
	select {
	case <-p.done: // its number may be another's by now
	default:
		killGroup(p.cmd.Process)
	}
	return nil
}

// pid is the process's number, or 0 before it was started.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd.Process == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

func (p *process) Stdout() io.ReadCloser { return p.stdout }
func (p *process) Stderr() io.ReadCloser { return p.stderr }
func (p *process) Name() string          { return p.name }

func (p *process) ID() string {
	if pid := p.pid(); pid > 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

func (p *process) Diagnose(context.Context) string { return "" }

func (p *process) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

var _ runner.Runner = (*process)(nil)
