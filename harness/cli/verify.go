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
			p := c.printer()
			var bad []files.Damage
			check := func(found []files.Damage, setAside func() (string, error)) error {
				bad = append(bad, found...)
				p.Add(1)
				if len(found) == 0 || !repair {
					return cmd.Context().Err()
				}
				path, err := setAside()
				if err == nil {
					p.Printf("set aside as %s", path)
				}
				return err
			}

			sets, err := dataset.Sets(st.Root())
			if err != nil {
				return err
			}
			p.Begin("data", "sets", float64(len(sets)))
			for _, d := range sets {
				var found []files.Damage
				if err := dataset.Verify(st.Root(), d); err != nil {
					found = []files.Damage{{Path: filepath.Join(st.Data(), d), Problem: err.Error()}}
				}
				if err := check(found, func() (string, error) { return dataset.SetAside(cmd.Context(), st.Root(), d) }); err != nil {
					return err
				}
			}
			runs, err := st.Runs()
			if err != nil {
				return err
			}
			p.Begin("runs", "runs", float64(len(runs)))
			for _, d := range runs {
				if err := check(st.Verify(d), func() (string, error) { return st.SetAside(d) }); err != nil {
					return err
				}
			}
			p.End()
			for _, b := range bad {
				if c.json {
					json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"event": "damage", "path": b.Path, "problem": b.Problem})
				} else {
					fmt.Fprintf(cmd.OutOrStdout(), "damaged: %s: %s\n", b.Path, b.Problem)
				}
			}
			switch {
			case len(bad) > 0 && repair:
				p.Printf("%d damaged and set aside; run the same reproduce command again", len(bad))
				return nil
			case len(bad) > 0:
				return fmt.Errorf("%d damaged; verify --repair sets what is damaged aside, then run the same reproduce command again", len(bad))
			}
			p.Printf("%d data sets and %d runs are whole", len(sets), len(runs))
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().BoolVar(&repair, "repair", false, "set aside what is damaged, to be made again")
	return cmd
}
