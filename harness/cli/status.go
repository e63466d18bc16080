package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
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
those that are running, and the time that is left at it. Of those it says how their
training goes: epochs, the loss, and the validation loss and Dice coefficient on their
target after the last epoch, the least possible loss taken off.

--failed lists those that have failed, and why; 'refocus logs RUN' says more, 'refocus
retry' lets them be tried again. --watch looks again every two seconds, on a terminal in
place.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, c.printer())
			if err != nil {
				return err
			}
			w := cmd.OutOrStdout()
			screen := console.NewScreen(os.Stdout)
			for {
				var b bytes.Buffer
				if err := c.status(&b, r, failed); err != nil {
					return err
				}
				if watch && !c.json {
					err = screen.Show(b.String())
				} else {
					_, err = b.WriteTo(w)
				}
				if err != nil || !watch {
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

// mostListed running runs are described to people.
const mostListed = 30

// status prints how far a study is.
func (c *common) status(w io.Writer, r *reproduce.Resolved, failed bool) error {
	var rate, left float64 // image-steps a second, and those to do
	var running, failures []*store.Attempt
	s := reproduce.States{Runs: len(r.Nodes)}
	all, err := r.Look()
	if err != nil {
		return err
	}
	for i, n := range r.Nodes {
		state, a := all[i].State, all[i].Attempt
		s.Count(state)
		if state != store.Finished {
			left += n.Spec.Work()
			if a != nil {
				left -= min(n.Spec.Work(), a.Kept)
			}
		}
		switch state {
		case store.Running:
			rate += a.Rate()
			running = append(running, a)
		case store.Failed:
			failures = append(failures, a)
		}
	}
	if c.json {
		return json.NewEncoder(w).Encode(struct {
			reproduce.States
			Rate     float64          `json:"image_steps_per_second"`
			Left     float64          `json:"image_steps_left"`
			Attempts []*store.Attempt `json:"attempts,omitempty"` // that are running
			Failures []*store.Attempt `json:"failures,omitempty"`
		}{s, rate, left, running, failures})
	}
	fmt.Fprintf(w, "%s: %d of %d runs finished, %d running now, %d begun, %d failed, %d untouched\n",
		r, s.Finished, s.Runs, s.Running, s.Begun, s.Failed, s.Untouched)
	if rate > 0 {
		fmt.Fprintf(w, "%s image-steps a second in all processes, %s left\n", format.Rate(rate), format.Duration(time.Duration(left/rate*float64(time.Second))))
	}
	for i, a := range running {
		if i == mostListed {
			fmt.Fprintf(w, "and %d more\n", len(running)-i)
			break
		}
		fmt.Fprintf(w, "%s on %s: %s\n", format.Visible(a.ID), format.Visible(a.Host), training(a))
	}
	if failed {
		for _, a := range failures {
			fmt.Fprintf(w, "%.12s  %s, %d times, lastly on %s: %s\n", a.Digest, format.Visible(a.ID), a.Failures, format.Visible(a.Host), format.Visible(a.Error))
		}
	}
	return nil
}

// training says how an attempt's training goes.
func training(a *store.Attempt) string {
	var s []string
	if a.Total > 0 {
		s = append(s, format.Digits(100*a.Done/a.Total, 2)+" %")
	}
	if a.Epoch() > 0 {
		s = append(s, "epoch "+format.Count(int64(a.Epoch()))+" of "+format.Count(int64(a.Epochs)))
	}
	if loss := a.Curve.Loss(); !math.IsNaN(loss) {
		s = append(s, "loss "+format.Digits(loss, 3))
	}
	if loss, dice := a.Curve.Validated(); !math.IsNaN(loss) {
		s = append(s, "validation loss "+format.Digits(loss, 3), "Dice "+format.Digits(dice, 3))
	}
	if left := a.Left(); left >= 0 {
		s = append(s, format.Duration(left)+" left")
	}
	if len(s) == 0 {
		return "begun"
	}
	return strings.Join(s, ", ")
}
