package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Exit codes; 0 is success.
const (
	ExitFailed      = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Main is the program: it runs the command line of the process, which signals
// interrupt, and returns the exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), stopSignals()...)
	defer stop()
	return Run(ctx, os.Args[1:])
}

// patience is how long a command may take to end once it was told to stop. One that
// waits for something else (the other end of a pipe, a file system that is away) would
// not notice; what it was writing is whole or not there.
const patience = 10 * time.Second

// unhurriedKey is of the context's count of what may take longer, see unhurried.
type unhurriedKey struct{}

// unhurried lets the command take as long as it wants to end, until done is called:
// it saves what it has.
func unhurried(ctx context.Context) (done func()) {
	n, ok := ctx.Value(unhurriedKey{}).(*atomic.Int32)
	if !ok {
		return func() {}
	}
	n.Add(1)
	return func() { n.Add(-1) }
}

// execute runs the command, and leaves it behind where it does not end when it is told
// to.
func execute(ctx context.Context, root *cobra.Command) error {
	unhurried := new(atomic.Int32)
	root.SetContext(context.WithValue(ctx, unhurriedKey{}, unhurried))
	ended := make(chan error, 1)
	go func() { ended <- root.Execute() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	for over := time.Now().Add(patience); unhurried.Load() > 0 || time.Now().Before(over); {
		select {
		case err := <-ended:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
	return ctx.Err()
}

// Run executes one command line and returns the exit code.
func Run(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := execute(ctx, root)
	if err == nil {
		return 0
	}
	text := format.Visible(err.Error()) // some of it may be others'
	var usage *usageError
	var spec *study.Error
	var name *study.NameError
	var fail *failure
	switch {
	case ctx.Err() != nil:
		fmt.Fprintf(os.Stderr, "refocus: interrupted (%v); the same command goes on from the last checkpoints\n", context.Cause(ctx))
		return ExitInterrupted
	case errors.As(err, &usage):
		fmt.Fprintf(os.Stderr, "refocus: %s\n%s\n", text, usage.hint)
		return ExitUsage
	case errors.As(err, &name):
		fmt.Fprintf(os.Stderr, "refocus: %s\n", text)
		return ExitUsage
	case errors.As(err, &spec):
		fmt.Fprintln(os.Stderr, text)
		return ExitUsage
	case errors.As(err, &fail) && fail.silent:
		return ExitFailed
	}
	fmt.Fprintf(os.Stderr, "refocus: %s\n", text)
	return ExitFailed
}

// usageError is a command line that makes no sense.
type usageError struct {
	err  error
	hint string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(cmd *cobra.Command, format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...), fmt.Sprintf("see '%s --help'", cmd.CommandPath())}
}

// failure is a failed outcome that has already been told.
type failure struct{ silent bool }

func (*failure) Error() string { return "failed" }

func newRoot() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "refocus",
		Short: "Reproduce a published study of transfer learning in HRTEM analysis",
		Long: `refocus simulates the micrographs of a published study, trains its networks in
a backend plugin, compares the outcome with the published tables and exports
the trained networks to ONNX.

A first run:  refocus reproduce defocus --profile smoke

Where a command takes SERIES|FILE, SERIES is the name of a spec that comes with
the program (` + strings.Join(study.Series(), ", ") + `), FILE the path of
one, such as ./mine.toml. Results go to the directory artifacts below the current
one unless --out names another.

Exit codes: 0 done, 1 failed, 2 the command line or the spec is wrong, 130
interrupted: by SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2 or SIGXCPU, after each of
which what is being trained is saved first.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	})
	root.SetHelpCommand(&cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Say what a command does",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return usagef(root, "there is no command %q", strings.Join(args, " "))
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usagef(cmd, "%v", err) })
	root.AddCommand(
		planCommand(), dataCommand(), reproduceCommand(), statusCommand(), logsCommand(), retryCommand(), rebuildCommand(), gcCommand(), reportCommand(), compareCommand(),
		backendsCommand(), exportCommand(), predictCommand(), evaluateCommand(), adaptCommand(), benchCommand(), crosscheckCommand(),
		verifyCommand(), auditCommand(), publishCommand(), serveCommand(), versionCommand(), serveBackendCommand(),
	)
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			group(cmd)
		}
	}
	completion(root)
	return root
}

// common holds the flags that most commands share.
type common struct {
	profile string
	out     string
	json    bool
}

func (c *common) profileFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.profile, "profile", "", `profile of the spec, of which most have "smoke", "quick", "long", "workstation" and "paper" (default quick where the spec has it)`)
}

func (c *common) outFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.out, "out", "artifacts", "directory of the store")
}

func (c *common) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print one JSON object per line for machines")
}

// printer shows progress on standard error, or events on standard output.
func (c *common) printer() *console.Printer {
	if c.json {
		return console.New(os.Stdout, console.JSON)
	}
	return console.For(os.Stderr)
}

// plan reads and expands the spec that the command line names.
func (c *common) plan(name string) (*study.Plan, error) { return study.Load(name, c.profile) }

// resolve reads the spec that the command line names, opens the store (with
// store.Open or store.Existing), asks the backend what it is and addresses every
// run.
func (c *common) resolve(ctx context.Context, name string, b *backendFlags, open func(string) (*store.Store, error), out *console.Printer) (*reproduce.Resolved, error) {
	p, err := c.plan(name)
	if err != nil {
		return nil, err
	}
	st, err := open(c.out)
	if err != nil {
		return nil, err
	}
	desc, err := b.describe(ctx, out)
	if err != nil {
		return nil, err
	}
	r, err := reproduce.Resolve(ctx, st, p, desc)
	if err != nil {
		return nil, err
	}
	for _, w := range r.Data.Warnings {
		out.Printf("%s", w)
	}
	return r, nil
}
