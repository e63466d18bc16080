package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func statusCommand() *cobra.Command {
	var c common
	var b backendFlags
	var failed, watch bool
	cmd := &cobra.Command{
		Use:   "status SERIES|FILE",
		Short: "Say how much of a study the store holds",
		Long: `Counts the study's runs by their state: finished, running in some process now, begun
and waiting at a checkpoint to be gone on with, failed, and untouched; with the rate of
those that are running, and the time that is left at it.

--failed lists those that have failed, and why; 'refocus logs RUN' says more, 'refocus
retry' lets them be tried again. --watch looks again every two seconds.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, c.printer())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			for {
				if err := c.status(w, r, failed); err != nil || !watch {
					return err
				}
				select {
				case <-time.After(2 * time.Second):
				case <-cmd.Context().Done():
					return nil
				}
			}
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	cmd.Flags().BoolVar(&failed, "failed", false, "list the runs that have failed, and why")
	cmd.Flags().BoolVar(&watch, "watch", false, "look again every two seconds, until interrupted")
	return cmd
}

// status prints how far a study is.
func (c *common) status(w io.Writer, r *reproduce.Resolved, failed bool) error {
	var rate, left float64 // image-steps a second, and those to do
	var all []*store.Attempt
	s := reproduce.States{Runs: len(r.Nodes)}
	for _, n := range r.Nodes {
		state, a, err := r.Store.State(n.Digest)
		if err != nil {
			return err
		}
		s.Count(state)
		if state != store.Finished {
			left += n.Spec.Work()
			if a != nil {
				left -= min(n.Spec.Work(), a.Kept)
			}
		}
		switch state {
		case store.Running:
			if d := a.Heard.Sub(a.Started).Seconds(); d > 0 {
				rate += (a.Done - a.From) / d
			}
		case store.Failed:
			all = append(all, a)
		}
	}
	if c.json {
		return json.NewEncoder(w).Encode(struct {
			reproduce.States
			Rate     float64          `json:"image_steps_per_second"`
			Left     float64          `json:"image_steps_left"`
			Failures []*store.Attempt `json:"failures,omitempty"`
		}{s, rate, left, all})
	}
	fmt.Fprintf(w, "%s: %d of %d runs finished, %d running now, %d begun, %d failed, %d untouched\n",
		r, s.Finished, s.Runs, s.Running, s.Begun, s.Failed, s.Untouched)
	if rate > 0 {
		fmt.Fprintf(w, "%s image-steps a second in all processes, %s left\n", format.Rate(rate), format.Duration(time.Duration(left/rate*float64(time.Second))))
	}
	if failed {
		for _, a := range all {
			fmt.Fprintf(w, "%.12s  %s, %d times, lastly on %s: %s\n", a.Digest, format.Visible(a.ID), a.Failures, format.Visible(a.Host), format.Visible(a.Error))
		}
	}
	return nil
}
