package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/store"
)

func statusCommand() *cobra.Command {
	var c common
	var b backendFlags
	cmd := &cobra.Command{
		Use:   "status SERIES|FILE",
		Short: "Say how much of a study the store holds",
		Long: `Counts the study's runs by their state: finished, running in some process now, begun
and waiting at a checkpoint to be gone on with, and untouched.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, c.printer())
			if err != nil {
				return err
			}
			s, err := r.States()
			if err != nil {
				return err
			}
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d of %d runs finished, %d running now, %d begun, %d failed, %d untouched\n",
				r, s.Finished, s.Runs, s.Running, s.Begun, s.Failed, s.Untouched)
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	return cmd
}
