package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/store"
)

func logsCommand() *cobra.Command {
	var c common
	var number int
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "Show what was said during the attempts at a run",
		Long: `Shows the record of the last attempt at a run, or of the one that --attempt names:
where and when, how it ended and why, and what the program and its backend said. RUN is
a digest, the beginning of one, or the run's name, as 'refocus status --failed' lists
them.`,
		Args: exactly(1, "a run"),
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			digest, err := st.FindAttempted(args[0])
			if err != nil {
				return err
			}
			all, err := st.Attempts(digest)
			if err != nil {
				return err
			}
			var a *store.Attempt
			for _, x := range all {
				if number == 0 || x.Number == number {
					a = x
				}
			}
			if a == nil {
				return fmt.Errorf("run %.12s has no attempt %d: it has %d", digest, number, len(all))
			}
			w := cmd.OutOrStdout()
			if c.json {
				return json.NewEncoder(w).Encode(a)
			}
			writeAttempt(w, a, len(all))
			b, err := os.ReadFile(st.LogPath(digest, a.Number))
			if err != nil && !os.IsNotExist(err) {
				return err
			}
			b = bytes.Trim(b, "\x00")
			if len(b) > 0 {
				fmt.Fprintln(w)
				for line := range strings.Lines(string(b)) {
					fmt.Fprintln(w, format.Visible(strings.TrimRight(line, "\n")))
				}
			}
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	intFlag(cmd, &number, "attempt", 0, 0, "number of the attempt (default: the last)")
	return cmd
}

func writeAttempt(w io.Writer, a *store.Attempt, of int) {
	fmt.Fprintf(w, "%s (%s), attempt %d of %d\n", format.Visible(a.ID), a.Digest, a.Number, of)
	fmt.Fprintf(w, "study     %s\n", format.Visible(a.Study))
	fmt.Fprintf(w, "on        %s, process %d, backend %s %s\n", format.Visible(a.Host), a.PID, format.Visible(a.Backend), format.Visible(a.Device))
	fmt.Fprintf(w, "started   %s\n", a.Started.Format(time.RFC3339))
	if !a.Ended.IsZero() {
		fmt.Fprintf(w, "ended     %s\n", a.Ended.Format(time.RFC3339))
	}
	outcome := a.Outcome
	if a.Running() {
		outcome = "running, or ended without a word since " + a.Heard.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "outcome   %s\n", outcome)
	if a.Error != "" {
		fmt.Fprintf(w, "error     %s\n", format.Visible(a.Error))
	}
	if a.Total > 0 {
		fmt.Fprintf(w, "work      %s of %s image-steps, %s kept\n", format.Count(int64(a.Done)), format.Count(int64(a.Total)), format.Count(int64(a.Kept)))
	}
	if a.CPUSeconds > 0 {
		fmt.Fprintf(w, "backend   %s s of processors, %s of memory at most\n", format.Digits(a.CPUSeconds, 3), format.Bytes(a.MemoryBytes))
	}
}

func retryCommand() *cobra.Command {
	var c common
	cmd := &cobra.Command{
		Use:   "retry [RUN...]",
		Short: "Let runs that have failed be tried again",
		Long: `Forgets the failures of runs, all of the store's or those that are named, so that the
next 'refocus reproduce' tries them again where they had failed as often as it allows
(--max-attempts). What they have kept stays.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			digests, err := st.Attempted()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				digests = nil
				for _, word := range args {
					d, err := st.FindAttempted(word)
					if err != nil {
						return err
					}
					digests = append(digests, d)
				}
			}
			n := 0
			for _, d := range digests {
				again, err := st.Retry(d)
				if err != nil {
					return fmt.Errorf("run %.12s: %w", d, err)
				}
				if again {
					n++
				}
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d runs will be tried again\n", n)
			return nil
		},
	}
	c.outFlag(cmd)
	return cmd
}
