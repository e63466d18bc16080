package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/backendtest"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/crosscheck"
)

func scoreboardCommand() *cobra.Command {
	var c common
	var b backendFlags
	var series, to string
	var resume bool
	var trials crosscheck.Trials
	cmd := &cobra.Command{
		Use:   "scoreboard NAME NAME...",
		Short: "Verify and cross-check backends in every precision, and tell it in one table",
		Long: `Runs every backend through the conformance suite and, in each precision that it
offers, through 'refocus crosscheck' and 'refocus crosscheck --convergence' against the
first backend named, the first against the second. Writes scoreboard.md and
scoreboard.json; the certificates go into the store. Exits with 1 where anything fails.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usagef(cmd, "scoreboard takes the names of two backends or more")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, out, w := cmd.Context(), c.printer(), cmd.OutOrStdout()
			if err := trials.Check(0); err != nil {
				return usagef(cmd, "%v", err)
			}
			q, err := c.question(ctx, series, out)
			if err != nil {
				return err
			}
			oracle, subject, err := (&backendFlags{name: "cpu"}).subject(ctx, out)
			if err != nil {
				return err
			}
			defer oracle.Close()
			q.in.Oracle = subject
			var board crosscheck.Scoreboard
			for i, name := range args {
				against := args[0]
				if i == 0 {
					against = args[1]
				}
				pair := scored{question: q, resume: resume, trials: trials}
				for _, x := range []struct {
					name   string
					to     *crosscheck.Subject
					client **plugin.Client
				}{{name, &pair.in.A, &pair.client}, {against, &pair.in.B, new(*plugin.Client)}} {
					flags := b
					flags.name = x.name
					client, subject, err := flags.subject(ctx, out)
					if err != nil {
						return err
					}
					defer client.Close()
					*x.to, *x.client = subject, client
				}
				if err := pair.score(ctx, &board, out); err != nil {
					return fmt.Errorf("%s against %s: %w", name, against, err)
				}
			}
			if to == "" {
				to = q.store.Report("scoreboard")
			}
			if err := board.Write(to); err != nil {
				return fmt.Errorf("writing the scoreboard: %w", err)
			}
			fmt.Fprint(w, board.Markdown())
			if !board.OK() {
				return &failure{silent: true}
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	b.registerStart(cmd)
	f := cmd.Flags()
	f.StringVar(&series, "series", "defocus", "`SERIES|FILE` whose network and images are used")
	f.StringVar(&to, "to", "", "folder of scoreboard.md and scoreboard.json (default: reports/scoreboard in the store)")
	f.BoolVar(&resume, "resume", false, "take certificates that the store has of the same backends, options and images; of a script that is not pinned, changes of its modules go unnoticed")
	intFlag(cmd, &trials.Seeds, "seeds", 0, 0, "pairs of trainings (default 20)")
	return cmd
}

// scored is a backend under comparison with another.
type scored struct {
	question
	client *plugin.Client // of A
	resume bool
	trials crosscheck.Trials
}

// score adds a row for each precision that A offers.
func (s *scored) score(ctx context.Context, board *crosscheck.Scoreboard, out *console.Printer) error {
	d, err := s.client.Describe(ctx)
	if err != nil {
		return err
	}
	suite := backendtest.Run(ctx, s.client, backendtest.Options{Observe: func(r backendtest.Result) {
		if r.Outcome == backendtest.Failed {
			out.Printf("%s", r)
		}
	}})
	out.Printf("%s", suite.Verdict())
	for _, precision := range d.Precisions {
		var of [2]*crosscheck.Certificate
		for i, t := range []*crosscheck.Trials{nil, &s.trials} {
			if of[i], err = s.certificate(ctx, d.Name, precision, t, out); err != nil {
				return fmt.Errorf("%s: %w", precision, err)
			}
			out.Printf("%s %s: %s", d.Name, precision, of[i].Verdict())
		}
		count := map[backendtest.Outcome]int{}
		for _, r := range suite.Results {
			if concerns(r.Name, precision) {
				count[r.Outcome]++
			}
		}
		board.Add(of[0], of[1], count[backendtest.Passed], count[backendtest.Failed], count[backendtest.NotOffered])
	}
	return ctx.Err()
}

// concerns reports whether a check of the suite is not of another precision.
func concerns(check, precision string) bool {
	return !slices.ContainsFunc(strings.Split(check, "/"), func(word string) bool {
		return word != precision && slices.Contains(backend.Precisions, word)
	})
}

// certificate makes a certificate, of whole trainings where t is set, or takes the
// store's.
func (s *scored) certificate(ctx context.Context, name, precision string, t *crosscheck.Trials, out *console.Printer) (*crosscheck.Certificate, error) {
	in := s.in
	in.Options.Precision = precision
	d, err := in.B.Backend.Describe(ctx)
	if err != nil {
		return nil, err
	}
	dir := s.folderOf(name, precision, d.Name, t != nil)
	if s.resume {
		if c, err := crosscheck.Read(dir); err == nil && c.Answers(ctx, in, t) {
			return c, nil
		}
	}
	var c *crosscheck.Certificate
	if t == nil {
		c, err = crosscheck.Run(ctx, in)
	} else {
		c, err = crosscheck.Converge(ctx, in, *t, out)
	}
	if err != nil {
		return nil, err
	}
	return c, c.Write(dir)
}
