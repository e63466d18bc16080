package cli

import (
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func rebuildCommand() *cobra.Command {
	var c common
	var b backendFlags
	var threads, restarts int
	cmd := &cobra.Command{
		Use:   "rebuild RUN...",
		Short: "Train runs again whose weights were dropped, to the same bits",
		Long: `Brings back the weights of finished runs that were dropped because their study does
not keep them (keep = "best" or "metrics" in its spec): trains each again from what its
manifest says alone, and puts the weights back if they and the history are, bit by bit,
those that the manifest lists. Where a run starts from another one's weights that were
dropped, too, that one is trained again for it and stays dropped. Interrupted, the same
command goes on where it stopped. RUN is a digest, the beginning of one, or the run's
name.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "rebuild takes at least one run")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			var manifests []*store.Manifest
			work := 0.0
			for _, word := range args {
				digest, err := st.Find(word)
				if err != nil {
					return err
				}
				m, err := st.Manifest(digest)
				if err != nil {
					return err
				}
				manifests = append(manifests, m)
				if !st.Dropped(digest) {
					continue
				}
				w, err := reproduce.Work(m)
				if err != nil {
					return err
				}
				work += w
			}
			if threads <= 0 {
				threads = runtime.GOMAXPROCS(0)
			}
			out := c.printer()
			r, err := reproduce.NewRetrainer(st, reproduce.RetrainOptions{Launch: b.logged(out), Threads: threads, Restarts: restarts, Progress: out})
			if err != nil {
				return err
			}
			defer r.Close()
			if work > 0 {
				out.Begin("training", "image-steps", work)
				defer out.End()
			}
			for _, m := range manifests {
				did, err := r.Rebuild(cmd.Context(), m.Digest)
				var busy *store.BusyError
				switch {
				case errors.As(err, &busy):
					return fmt.Errorf("%s (%.12s): %w", m.ID, m.Digest, err)
				case err != nil:
					return err
				case did:
					out.Printf("%s (%.12s): its weights are back, with the bits that its manifest lists", m.ID, m.Digest)
				default:
					out.Printf("%s (%.12s): its weights are there", m.ID, m.Digest)
				}
				out.Event("rebuilt", map[string]any{"id": m.ID, "digest": m.Digest, "trained": did})
			}
			return nil
		},
	}
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	intFlag(cmd, &threads, "threads", 0, 0, "threads to train with (default: all cores; results do not depend on it)")
	intFlag(cmd, &restarts, "restarts", 0, 3, "how often a run is resumed after its backend failed")
	return cmd
}
