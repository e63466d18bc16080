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
when it was made, manifests included, and histories with what their training can
give, and lists on standard output what is damaged, half there or of no use. Links are
followed. With --repair it is taken out of the way: sets and runs are set aside, exit
waves that are damaged are removed, and the next 'refocus reproduce' makes them again.
A run or a set that lacks a file 'refocus reproduce' finds and makes again by itself.
Weights that were dropped because their study does not keep them are no damage.`,
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
				return fmt.Errorf("%d damaged; verify --repair takes what is damaged out of the way, then run the same reproduce command again", n)
			}
			if n > 0 {
				did, err := v.Repair(cmd.Context(), st)
				for _, text := range did {
					out.Printf("%s", text)
				}
				if err != nil {
					return err
				}
				out.Printf("%d damaged, and out of the way now; run the same reproduce command again", n)
				return nil
			}
			out.Printf("%d data sets and %d runs are whole", v.Sets, v.Runs)
			if v.Dropped > 0 {
				out.Printf("of %d of the runs the weights were dropped; 'refocus rebuild RUN' trains one again, to the same bits", v.Dropped)
			}
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().BoolVar(&repair, "repair", false, "take what is damaged out of the way, to be made again")
	return cmd
}
