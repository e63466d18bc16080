package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func gcCommand() *cobra.Command {
	var c common
	var b backendFlags
	var remove bool
	cmd := &cobra.Command{
		Use:   "gc [SERIES|FILE...]",
		Short: "List what a store holds and nobody needs, and remove it",
		Long: `Lists what the store could do without, with its size; --remove removes it, and without
it nothing is touched. That is

  weights  of runs whose study does not keep them (keep = "best" or "metrics" in its
           spec), for the studies that are named: 'refocus rebuild RUN' brings them back,
           bit for bit, and where their backend does not claim that, they stay
  work     what attempts at runs have left that no later one would go on from: all of
           finished runs, all but the newest checkpoint of others
  damaged  what was set aside as damaged and has been made again
  data     simulated images and exit waves that no finished run and no study that is
           named has, and that nobody has asked for in the last day

What a process works on stays, and so do weights that its run starts from, and those
that one of the studies keeps. Name all studies that share runs. A user's own images
stay. Killed at any moment it leaves a store that is whole.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			out := c.printer()
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			var studies []*reproduce.Resolved
			for _, name := range args {
				r, err := c.resolve(cmd.Context(), name, &b, func(string) (*store.Store, error) { return st, nil }, out)
				if err != nil {
					return err
				}
				studies = append(studies, r)
			}
			waste, notes, err := reproduce.FindWaste(cmd.Context(), st, studies)
			if err != nil {
				return err
			}
			for _, n := range notes {
				out.Printf("%s", n)
			}
			w := cmd.OutOrStdout()
			var freed int64
			for _, x := range waste {
				if remove {
					err := x.Remove()
					if errors.Is(err, reproduce.ErrInUse) {
						out.Printf("%v", err)
						continue
					}
					if err != nil {
						return err
					}
				}
				freed += x.Bytes
				if c.json {
					out.Event("waste", map[string]any{"kind": x.Kind, "path": x.Path, "digest": x.Digest, "why": x.Why, "bytes": x.Bytes, "removed": remove})
				} else {
					fmt.Fprintf(w, "%-8s %9s  %s (%s)\n", x.Kind, format.Bytes(x.Bytes), x.Path, x.Why)
				}
				if err := cmd.Context().Err(); err != nil {
					return err
				}
			}
			switch {
			case len(waste) == 0:
				out.Printf("there is nothing to remove")
			case remove:
				out.Printf("removed %s", format.Bytes(freed))
			default:
				out.Printf("%s can go; nothing was removed: --remove does", format.Bytes(freed))
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	cmd.Flags().BoolVar(&remove, "remove", false, "remove what is listed")
	return cmd
}
