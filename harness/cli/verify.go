package cli

import (
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
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
			p := c.printer()
			var bad []files.Damage

			sets, err := dataset.Sets(st.Root())
			if err != nil {
				return err
			}
			p.Begin("data", "sets", float64(len(sets)))
			for _, d := range sets {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				if err := dataset.Verify(st.Root(), d); err != nil {
					bad = append(bad, files.Damage{Path: filepath.Join(st.Data(), d), Problem: err.Error()})
				}
				p.Add(1)
			}
			runs, err := st.Runs()
			if err != nil {
				return err
			}
			p.Begin("runs", "runs", float64(len(runs)))
			for _, d := range runs {
				if err := cmd.Context().Err(); err != nil {
					return err
				}
				bad = append(bad, st.Verify(d)...)
				p.Add(1)
			}
			p.End()
			for _, b := range bad {
				if c.json {
					json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"event": "damage", "path": b.Path, "problem": b.Problem})
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "damaged: %s: %s\n", b.Path, b.Problem)
				}
			}
			if len(bad) > 0 {
				return fmt.Errorf("%d damaged; remove the directories named and run the same reproduce command again", len(bad))
			}
			p.Printf("%d data sets and %d runs are whole", len(sets), len(runs))
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	return cmd
}
