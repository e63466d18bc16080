package cli

import (
	"context"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func reportCommand() *cobra.Command {
	var c common
	var b backendFlags
	var dir string
	cmd := &cobra.Command{
		Use:   "report SERIES|FILE",
		Short: "Write the report of what the store holds of a study",
		Long: `Writes the report that 'refocus reproduce' ends with, of as much of the study as is
finished: index.html, which needs no network, the figures, results.csv and
results.pkl with the columns of the published tables, models.csv with the losses of
the weights that are kept, and the best model so far as best.onnx. The store is not
written to with --output (or --to) DIR. A second study of the same name gets a
folder of its own.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := c.printer()
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, out)
			if err != nil {
				return err
			}
			return writeReport(cmd.Context(), r, &b, report.Options{Dir: dir}, out)
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	cmd.Flags().StringVarP(&dir, "output", "o", "", "`DIR` of the report (default: in the store's reports)")
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "to" {
			name = "output"
		}
		return pflag.NormalizedName(name)
	})
	return cmd
}

// writeReport writes a study's report and says what it found and where it is.
func writeReport(ctx context.Context, r *reproduce.Resolved, b *backendFlags, o report.Options, out *console.Printer) error {
	o.Version, o.Launch = version(), b.process(out)
	sum, err := report.Write(ctx, r, o)
	if sum == nil {
		return err
	}
	for _, l := range sum.Lines {
		out.Printf("%s", l)
	}
	fields := map[string]any{"report": sum.Index}
	out.Printf("report:     %s", sum.Index)
	if sum.Best != nil {
		fields["model"] = sum.Model
		out.Printf("best model: %s (%s)", sum.Model, sum.Best)
	}
	if err == nil {
		out.Event("done", fields)
	}
	return err
}
