package cli

import (
	"encoding/json"
	"io"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/store"
)

func compareCommand() *cobra.Command {
	var c common
	var b backendFlags
	cmd := &cobra.Command{
		Use:   "compare SERIES|FILE",
		Short: "Set what the store holds of a study beside the published results",
		Long: `Prints medians of our models beside those of the published tables, the rank
correlation of the two beside that of a rule that needs no model, and what becomes
of the published findings on ours, all with 95 % intervals. The report shows the
same with figures.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, c.printer())
			if err != nil {
				return err
			}
			in, err := report.Gather(cmd.Context(), r, report.Options{})
			if err != nil {
				return err
			}
			compared, err := report.Compare(in)
			if err != nil {
				return err
			}
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(compared)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), compared.Text())
			return err
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	return cmd
}
