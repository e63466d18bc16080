package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func verifyCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Re-hash everything in the store and name what is damaged",
		Long: `Compares the SHA-256 of every file of every data set and run with what was recorded
when it was made. What is damaged is listed on standard output; where its directory
is removed, 'refocus reproduce' makes it again.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			out := c.printer()
			v, err := reproduce.Verify(cmd.Context(), st, out)
			if err != nil {
				return err
			}
			for _, b := range v.Damaged {
				if c.json {
					json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"event": "damage", "path": b.Path, "problem": b.Problem})
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "damaged: %s: %s\n", b.Path, b.Problem)
				}
			}
			if n := len(v.Damaged); n > 0 {
				return fmt.Errorf("%d damaged; remove the directories named and run the same reproduce command again", n)
			}
			out.Printf("%d data sets and %d runs are whole", v.Sets, v.Runs)
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	return cmd
}
