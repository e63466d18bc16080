package main

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/progress"
	"github.com/refocus-em/refocus/plugins/cpu"
)

// backendFlags choose a backend.
type backendFlags struct {
	name          string
	allowUnlocked bool
	sha256        string // of the executable, once launched
}

func (b *backendFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&b.name, "backend", "cpu", "name of the backend plugin")
	cmd.Flags().BoolVar(&b.allowUnlocked, "allow-unlocked", false, "start a backend whose executable refocus.lock.toml does not pin, or pins differently")
}

// launch starts the backend's process.
func (b *backendFlags) launch(ctx context.Context, out *progress.Printer) (*backend.Client, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	return backend.Launch(ctx, backend.Spec{Name: "cpu", Path: self, Args: []string{"serve-backend", "cpu"}})
}

// describe starts the backend for long enough to ask what it is.
func (b *backendFlags) describe(ctx context.Context, out *progress.Printer) (backend.Description, error) {
	c, err := b.launch(ctx, out)
	if err != nil {
		return backend.Description{}, err
	}
	defer c.Close()
	return c.Describe(ctx)
}

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "serve-backend NAME",
		Short:  "Serve a built-in backend to the harness that started this process",
		Hidden: true,
		Args:   exactly(1, "the name of a built-in backend"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "cpu" {
				return usagef(cmd, "no built-in backend is called %q; there is cpu", args[0])
			}
			backend.Serve(cpu.New(version()))
			return nil
		},
	}
}
