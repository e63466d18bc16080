// Command refocus re-runs a published machine-learning study from TOML specs
// through swappable backend plugins, compares the outcome with the published
// tables and exports the trained networks to ONNX.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/refocus-em/refocus/harness/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
