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
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Re-hash everything in the store and name what is damaged",
		Long: `Compares the SHA-256 of every file of every data set and run with what was recorded
when it was made, and lists on standard output what is damaged. With --repair it is
set aside too, and the next 'refocus reproduce' makes it again. A run or a set that
lacks a file 'refocus reproduce' finds and makes again by itself.`,
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
			n := len(v.Damaged)
			if n > 0 && !repair {
				return fmt.Errorf("%d damaged; verify --repair sets what is damaged aside, then run the same reproduce command again", n)
			}
			if n > 0 {
				aside, err := v.SetAside(cmd.Context(), st)
				for _, path := range aside {
					out.Printf("set aside as %s", path)
				}
				if err != nil {
					return err
				}
				out.Printf("%d damaged and set aside; run the same reproduce command again", n)
				return nil
			}
			out.Printf("%d data sets and %d runs are whole", v.Sets, v.Runs)
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().BoolVar(&repair, "repair", false, "set aside what is damaged, to be made again")
	return cmd
}
