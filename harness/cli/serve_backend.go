package cli

import (
	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/plugins/cpu"
)

func serveBackendCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "serve-backend NAME",
		Short:  "Serve a built-in backend to the harness that started this process",
		Hidden: true,
		Args:   exactly(1, "the name of a built-in backend"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "cpu" {
				return usagef(cmd, "no built-in backend is called %q; there is cpu", args[0])
			}
			defer unhurried(cmd.Context())() // the harness says when it ends
			plugin.Serve(cpu.New(version()))
			return nil
		},
	}
}
