package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/serve"
	"github.com/refocus-em/refocus/harness/store"
)

func serveCommand() *cobra.Command {
	var c common
	var b backendFlags
	var address string
	var specs, models, backends []string
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Open the workbench: a local web page over the store",
		Long: `Serves a web page on this machine alone, until it is interrupted, and prints its
address, of which a token is part: who does not have it cannot look. DIR is the store,
artifacts if it is left out.

The page shows what runs now in every process that shares the store, with losses and
Dice coefficients as they come, the figures of its studies with filters, single runs with
their predictions, comparisons, the images of every domain, and segments micrographs that
are dropped on it. Nothing is loaded from
elsewhere, and nothing leaves the machine. A view's state is in its address.

From a cluster:  ssh -L 8080:127.0.0.1:8080 HOST refocus serve --address 127.0.0.1:8080`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usagef(cmd, "serve takes one store at most")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				c.out = args[0]
			}
			st, err := store.Open(c.out)
			if err != nil {
				return err
			}
			out := c.printer()
			launch := func(ctx context.Context, name string) (reproduce.Process, error) {
				one := b
				one.name = name
				return one.launch(ctx, out)
			}
			s, err := serve.New(cmd.Context(), address, serve.Options{
				Store: st, Specs: specs, Models: models, Backends: backends, Version: version(), Launch: launch,
				Describe: func(ctx context.Context, name string) (backend.Description, error) {
					one := b
					one.name = name
					return one.describe(ctx, out)
				},
			})
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), s.URL())
			return s.Serve()
		},
	}
	c.out = "artifacts"
	b.registerStart(cmd)
	f := cmd.Flags()
	f.StringVar(&address, "address", "127.0.0.1:0", "`HOST:PORT` of this machine to listen on, port 0 for a free one")
	f.StringArrayVar(&specs, "spec", nil, "`FILE` of a study to show besides those that come with the program; may be repeated")
	f.StringArrayVar(&models, "model", nil, "`FILE` of a model to segment with, besides those of the store's reports; may be repeated")
	f.StringArrayVar(&backends, "backend", []string{"cpu"}, "`NAME` of a backend whose runs are shown, the first predicts; may be repeated")
	return cmd
}
