package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/host"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
)

// backendFlags choose a backend.
type backendFlags struct {
	name          string
	allowUnlocked bool
	startTimeout  time.Duration
	rpcTimeout    time.Duration
	device        string // of sessions, where a command has been told
}

func (b *backendFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.name, "backend", "cpu", "name of the backend plugin, or path of its executable")
	b.registerStart(cmd)
}

// registerStart defines the flags with which a backend is started.
func (b *backendFlags) registerStart(cmd *cobra.Command) {
	durationFlag(cmd, &b.startTimeout, "start-timeout", time.Minute, "how long a backend may take to start")
	// The slowest answers that are known, to an evaluation of 64 images of the study's own
	// size by plain loops and to a float64 step of them, take minutes.
	durationFlag(cmd, &b.rpcTimeout, "rpc-timeout", 30*time.Minute, "how long a backend may take to a step of training or any other answer, before it counts as hung and is started again")
	cmd.Flags().BoolVar(&b.allowUnlocked, "allow-unlocked", false, "start an executable that "+host.LockName+" does not pin, or pins differently")
}

// deviceFlags say on what of a backend's to train.
type deviceFlags struct {
	devices   string
	perDevice int
}

func (d *deviceFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&d.devices, "devices", "", `devices to train on: names such as "cuda:0,cuda:1", a kind, or "all" of the first one's kind (default: the backend's first, of those that CUDA_VISIBLE_DEVICES or Slurm leaves)`)
	intFlag(cmd, &d.perDevice, "jobs-per-device", 0, 0, "runs trained at once on each device (default: 1 on a GPU, the cpu's as --jobs)")
}

// plugins are the backends this program knows; their warnings go to out.
func (b *backendFlags) plugins(out *console.Printer) host.Plugins {
	return host.Plugins{
		Builtin:       map[string][]string{"cpu": {"serve-backend", "cpu"}},
		AllowUnlocked: b.allowUnlocked,
		Spec: plugin.Spec{StartTimeout: b.startTimeout, StallTimeout: b.rpcTimeout, Device: b.device, Env: host.Allocated(os.LookupEnv), Logger: hclog.New(&hclog.LoggerOptions{
			Name: "backend", Level: hclog.Warn, Output: lineWriter{out}, DisableTime: true,
		})},
	}
}

// lineWriter hands log lines to a printer, which keeps them clear of a bar.
type lineWriter struct{ out *console.Printer }

func (w lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 && p[len(p)-1] == '\n' {
		p = p[:len(p)-1]
	}
	w.out.Printf("%s", p)
	return n, nil
}

// launch starts the backend's process.
func (b *backendFlags) launch(ctx context.Context, out *console.Printer) (*plugin.Client, error) {
	return unlessKilled(ctx, func() (*plugin.Client, error) { return b.plugins(out).Launch(ctx, b.name) })
}

// unlessKilled does something with a new process, and does it again, twice at most, where
// somebody has killed that, as systems that are out of memory do. One that ends by itself
// would do so again.
func unlessKilled[T any](ctx context.Context, do func() (T, error)) (T, error) {
	for try := 1; ; try++ {
		v, err := do()
		var crash *backend.CrashError
		if try == 3 || ctx.Err() != nil || !errors.As(err, &crash) || !strings.HasPrefix(crash.Exit, "signal: killed") {
			return v, err
		}
	}
}

// process is launch for those who need no more than a process.
func (b *backendFlags) process(out *console.Printer) func(context.Context) (reproduce.Process, error) {
	return func(ctx context.Context) (reproduce.Process, error) { return b.launch(ctx, out) }
}

// logged is process for those who keep what the process writes to standard error.
func (b *backendFlags) logged(out *console.Printer) func(context.Context, io.Writer) (reproduce.Process, error) {
	return func(ctx context.Context, log io.Writer) (reproduce.Process, error) {
		p := b.plugins(out)
		p.Spec.Output = log
		return p.Launch(ctx, b.name)
	}
}

// describe starts the backend for long enough to ask what it is.
func (b *backendFlags) describe(ctx context.Context, out *console.Printer) (backend.Description, error) {
	return unlessKilled(ctx, func() (backend.Description, error) {
		c, err := b.plugins(out).Launch(ctx, b.name)
		if err != nil {
			return backend.Description{}, err
		}
		defer c.Close()
		return c.Describe(ctx)
	})
}

// digest is the SHA-256 of the backend's executable; "" for the built-in one,
// which the harness's version names.
func (b *backendFlags) digest() (string, error) {
	p := b.plugins(nil)
	f, err := p.Find(b.name)
	if err != nil {
		return "", err
	}
	_, digest, err := p.Trust(f)
	var unlocked *host.UnlockedError
	if errors.As(err, &unlocked) && b.allowUnlocked {
		err = nil
	}
	return digest, err
}

func backendsCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:   "backends",
		Short: "List, describe, test and pin backend plugins",
		Long: `A backend plugin is an executable called refocus-backend-NAME. It is looked for
beside this program, in plugins/bin, in $REFOCUS_PLUGIN_PATH, in the user's data
folder and in $PATH. An executable other than the built-in cpu backend is started only
if ` + host.LockName + ` pins it ('refocus backends pin NAME'), or with
--allow-unlocked. Of a script a pin covers the interpreter and every file of code in
the folders that it imports from. The lock file is the nearest one upwards from the current
directory, in a directory itself or in its plugins, else the one beside this program,
or what $REFOCUS_LOCK names; the user's own, in the folder for configurations, decides
on what it does not name.

What is started is a copy of what was compared. Executables, lock files and the folders
that lead to them must belong to you or to root, and nobody else may write to them
('refocus backends allow FOLDER' makes an exception).`,
	})
	sub := func(use, short string, args cobra.PositionalArgs, run func(ctx context.Context, b *backendFlags, w io.Writer, out *console.Printer) error) (*cobra.Command, *backendFlags) {
		var b backendFlags
		var c common
		s := &cobra.Command{Use: use, Short: short, Args: args, RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				b.name = args[0]
			}
			return run(cmd.Context(), &b, cmd.OutOrStdout(), c.printer())
		}}
		cmd.AddCommand(s)
		return s, &b
	}
	name := exactly(1, "the name of a backend")
	sub("list", "List the backends and whether the lock file pins them", exactly(0, "no arguments"),
		func(_ context.Context, b *backendFlags, w io.Writer, out *console.Printer) error {
			return b.plugins(out).PrintList(w)
		})
	info, b := sub("info NAME", "Say what a backend is and can do", name,
		func(ctx context.Context, b *backendFlags, w io.Writer, out *console.Printer) error {
			p := b.plugins(out)
			f, err := p.Find(b.name)
			if err != nil {
				return err
			}
			d, err := b.describe(ctx, out)
			if err != nil {
				return err
			}
			trust, _, _ := p.Trust(f) // describe has acted on a refusal
			return host.PrintInfo(w, f, trust, d)
		})
	b.registerStart(info)
	var suite backendtest.Options
	verify, b := sub("verify NAME", "Run a backend through the conformance suite", name,
		func(ctx context.Context, b *backendFlags, w io.Writer, out *console.Printer) error {
			c, err := b.launch(ctx, out)
			if err != nil {
				return err
			}
			defer func() { c.Close() }()
			suite.Observe = func(x backendtest.Result) { fmt.Fprintln(w, x) }
			suite.Restart = func(ctx context.Context) (backend.Backend, error) {
				again, err := b.launch(ctx, out)
				if err != nil {
					return nil, err
				}
				c.Close()
				c = again
				return c, nil
			}
			r := backendtest.Run(ctx, c, suite)
			fmt.Fprintln(w, r.Verdict())
			if !r.OK() {
				return &failure{silent: true}
			}
			return ctx.Err()
		})
	b.registerStart(verify)
	verify.Flags().StringVar(&suite.Device, "device", "", "the device to verify (default: the backend's first)")
	verify.Flags().StringVar(&suite.Only, "only", "", `run only the checks whose names begin so, such as "network/tf32"`)
	pinned := func(w io.Writer, pin host.Pin) {
		runs := ""
		if pin.Runs > 0 {
			runs = fmt.Sprintf(", with the %s files of code that it can run", format.Count(int64(pin.Runs)))
		}
		fmt.Fprintf(w, "pinned %s %s (numerics %s)%s in %s\n", pin.Name, pin.Version, pin.Numerics, runs, (host.Plugins{}).LockFileOf(pin.Name))
	}
	pin, b := sub("pin NAME", "Pin a backend's executable as it is now, and of a script what it runs", name,
		func(ctx context.Context, b *backendFlags, w io.Writer, out *console.Printer) error {
			pin, err := b.plugins(out).Lock(ctx, b.name)
			if err != nil {
				return err
			}
			pinned(w, pin)
			return nil
		})
	pin.Aliases = []string{"lock"}
	b.registerStart(pin)
	sub("allow FOLDER", "Let plugins and lock files below a folder be used although others can write there", exactly(1, "a folder"),
		func(_ context.Context, b *backendFlags, w io.Writer, _ *console.Printer) error {
			folder, err := host.Allow(b.name)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "plugins and lock files below %s are used from now on\n", folder)
			return nil
		})
	add, b := sub("add NAME|PATH", "Link a backend from $PATH or a path into the user's plugins, and pin it", exactly(1, "the name or the path of a backend"),
		func(ctx context.Context, b *backendFlags, w io.Writer, out *console.Printer) error {
			pin, linked, err := b.plugins(out).Add(ctx, b.name)
			if linked != "" {
				fmt.Fprintf(w, "linked as %s\n", linked)
			}
			if err != nil {
				return err
			}
			pinned(w, pin)
			return nil
		})
	b.registerStart(add)
	cmd.AddCommand(scoreboardCommand())
	return cmd
}
