package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/bench"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/study"
)

func planCommand() *cobra.Command {
	var c common
	var count, model, task bool
	var b backendFlags
	var on deviceFlags
	var jobs, threads, cores int
	var rate []string
	var ratesFile string
	cmd := &cobra.Command{
		Use:   "plan SERIES|FILE",
		Short: "Say what a study would train, on what, and what that costs",
		Long: `Expands a spec without running anything: what varies, how many networks are
trained and in how many steps, and estimates of the time and the space: at the rates
of --rate and --rates or, without these, of two CPU cores and a workstation's GPU. Where
the time is long it says what would make the study affordable.

With --task it asks the backend, and says what one process of 'refocus reproduce' with
the same --backend, --devices, --jobs and --threads takes of a machine with so many
--cores: what to ask a cluster's scheduler for.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if count && model || count && task || model && task {
				return usagef(cmd, "either --count, --model or --task")
			}
			for _, name := range []string{"backend", "devices", "jobs", "jobs-per-device", "threads", "cores"} {
				if cmd.Flags().Changed(name) && !task {
					return usagef(cmd, "--%s is for --task", name)
				}
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
			case task:
				t, err := planTask(cmd.Context(), p, &b, &on, jobs, threads, cores, c.printer())
				if err != nil {
					return err
				}
				return writeTask(w, t, c.json)
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
	cmd.Flags().BoolVar(&task, "task", false, "print what one process of reproduce takes of a machine")
	b.register(cmd)
	on.register(cmd)
	intFlag(cmd, &jobs, "jobs", 0, 0, "runs trained at once, with --task (default: as of reproduce)")
	intFlag(cmd, &threads, "threads", 0, 0, "threads per run, with --task (default likewise)")
	intFlag(cmd, &cores, "cores", 1, runtime.GOMAXPROCS(0), "of the machine, with --task (default: this one's)")
	return cmd
}

// planTask asks the backend what a process of reproduce takes.
func planTask(ctx context.Context, p *study.Plan, b *backendFlags, on *deviceFlags, jobs, threads, cores int, out *console.Printer) (reproduce.Task, error) {
	client, err := b.launch(ctx, out)
	if err != nil {
		return reproduce.Task{}, err
	}
	defer client.Close()
	d, err := client.Describe(ctx)
	if err != nil {
		return reproduce.Task{}, err
	}
	devices, err := reproduce.Devices(d, on.devices)
	if d.Devices[0].Kind == "cpu" && d.Name != "cpu" && on.devices != "" && on.devices != "cpu" {
		// A login node has no GPU; what it is to be called says how many.
		devices, err = nil, nil
		for range strings.SplitSeq(on.devices, ",") {
			devices = append(devices, backend.Device{Kind: "gpu"})
		}
	}
	if err != nil {
		return reproduce.Task{}, err
	}
	gpus := 0
	for _, v := range devices {
		if v.Kind != "cpu" {
			gpus++
		}
	}
	slots, threads := reproduce.Slots(devices, jobs, on.perDevice, threads, cores, p.Width())
	return reproduce.NewTask(ctx, p, client, slots, threads, gpus)
}

func writeTask(w io.Writer, t reproduce.Task, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(t)
	}
	on, about := "", ""
	if t.GPUs > 0 {
		on = fmt.Sprintf(" on %d GPUs", t.GPUs)
	}
	if t.Estimated {
		about = ", as estimated: the backend does not tell what a session takes"
	}
	_, err := fmt.Fprintf(w, "%d runs at once%s, %d threads each; %s of memory%s\n", t.Runs, on, t.Threads, format.Bytes(t.MemoryBytes), about)
	return err
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
