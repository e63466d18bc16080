package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/bench"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/study"
)

func planCommand() *cobra.Command {
	var c common
	var count, model bool
	var rate []string
	var ratesFile string
	cmd := &cobra.Command{
		Use:   "plan SERIES|FILE",
		Short: "Say what a study would train, on what, and what that costs",
		Long: `Expands a spec without running anything: what varies, how many networks are
trained and in how many steps, and estimates of the time and the space: at the rates
of --rate and --rates or, without these, of two CPU cores and a workstation's GPU. Where
the time is long it says what would make the study affordable.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count && model {
				return usagef(cmd, "either --count or --model")
			}
			p, err := c.plan(args[0])
			if err != nil {
				return err
			}
			var o study.PlanOptions
			for _, text := range rate {
				r, err := study.ParseRate(text)
				if err != nil {
					return usagef(cmd, "invalid argument %q for \"--rate\" flag: %v", text, err)
				}
				o.Rates = append(o.Rates, r)
			}
			if ratesFile != "" {
				measured, err := bench.Rates(ratesFile, p.Width())
				if err != nil {
					return err
				}
				o.Rates = append(o.Rates, measured...)
			}
			w := cmd.OutOrStdout()
			unread := reproduce.ReadSizes(p)
			switch {
			case count:
				fmt.Fprintln(w, p.Models())
				return nil
			case model:
				return writeModel(w, p, c.json)
			case c.json:
				return study.WriteRuns(w, p)
			}
			if err := study.WritePlan(w, p, o); err != nil {
				return err
			}
			for _, err := range unread {
				fmt.Fprintf(w, "  %-14s %v\n", "note", err)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.jsonFlag(cmd)
	cmd.Flags().StringArrayVar(&rate, "rate", nil, "training rate in FLOP/s of a device to tell the time for, such as 30T or H100=60T (may be given several times)")
	cmd.Flags().StringVar(&ratesFile, "rates", "", "file of rates that bench train --rates has measured")
	cmd.Flags().BoolVar(&count, "count", false, "print only the number of trained models")
	cmd.Flags().BoolVar(&model, "model", false, "print the network's layers with shapes and parameters")
	return cmd
}

// writeModel prints the layer table of the plan's network at the plan's image
// size.
func writeModel(w io.Writer, p *study.Plan, asJSON bool) error {
	g := p.Network
	size := p.ImageSize()
	rows, err := g.Layers([]int{1, 1, size, size})
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(w)
		for _, r := range rows {
			if err := enc.Encode(struct {
				Name         string `json:"name"`
				Operator     string `json:"operator"`
				Shape        []int  `json:"shape"`
				Parameters   int    `json:"parameters"`
				MultiplyAdds int64  `json:"multiply_adds"`
			}{r.Node.Name, r.Node.Op, r.Shape, r.Parameters, r.MultiplyAdds}); err != nil {
				return err
			}
		}
		return nil
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "layer\toperator\toutput\tparameters\tmultiply-adds")
	var macs int64
	for _, r := range rows {
		shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(r.Shape[1:]), " ", "×"), "[]")
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", r.Node.Name, r.Node.Op, shape, format.Count(int64(r.Parameters)), format.Count(r.MultiplyAdds))
		macs += r.MultiplyAdds
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	n, encoder := g.Count(""), ""
	if k := g.Count(nn.Encoder); k > 0 {
		encoder = fmt.Sprintf(", %s of them (%s) in the encoder", format.Count(int64(k)), format.Percent(float64(k)/float64(n)))
	}
	_, err = fmt.Fprintf(w, "\n%s parameters%s; %s G multiply-adds forward for one %s image\n",
		format.Count(int64(n)), encoder, format.Digits(float64(macs)/1e9, 3), format.Size(size, size))
	return err
}
