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
			s := struct {
				Runs      int `json:"runs"`
				Finished  int `json:"finished"`
				Running   int `json:"running"` // in some process, now
				Begun     int `json:"begun"`   // with a checkpoint, waiting to be resumed
				Untouched int `json:"untouched"`
			}{Runs: len(r.nodes)}
			for _, n := range r.nodes {
				switch state, err := r.store.State(n.Digest); {
				case err != nil:
					return err
				case state == store.Finished:
					s.Finished++
				case state == store.Running:
					s.Running++
				case state == store.Begun:
					s.Begun++
				default:
					s.Untouched++
				}
			}
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(s)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s, profile %s, backend %s: %d of %d runs finished, %d running now, %d begun, %d untouched\n",
				r.plan.Study.Name, profileName(r.plan), r.desc.Name, s.Finished, s.Runs, s.Running, s.Begun, s.Untouched)
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	return cmd
}
