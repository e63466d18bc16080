package cli

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/powercap"
	"github.com/refocus-em/refocus/harness/cli/internal/progress"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

func reproduceCommand() *cobra.Command {
	var c common
	var b backendFlags
	var jobs, threads, restarts int
	cmd := &cobra.Command{
		Use:   "reproduce SERIES|FILE",
		Short: "Simulate, train, report and export a study",
		Long: `Carries out a study from its spec to its report: simulates the micrographs that
are missing, trains the runs that are missing, writes the report and exports the
best model as ONNX. Interrupted at any moment, the same command goes on where it
stopped and ends with the same bits. Several processes, also on several machines
that share the store's file system, may work on one study at once.

The profile smoke is a first contact of about a minute, quick, which is the default,
a miniature of some minutes, and paper the study as published, which takes a
cluster; 'refocus plan' says more.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			out := c.printer()
			r, err := c.resolve(ctx, args[0], &b, store.Open, out)
			if err != nil {
				return err
			}
			if err := files.Writable(r.ReportDir()); err != nil { // and not only after the training
				return err
			}
			p, st, desc, nodes := r.Plan, r.Store, r.Backend, r.Nodes
			out.Printf("%s, profile %s: %s", p.Study.Name, p.Study.ProfileName(), p.Study.Title)
			jobs, threads = share(jobs, threads, runtime.NumCPU(), p.Study)
			out.Printf("backend %s %s, numerics %s; %d runs at once, %d threads each", desc.Name, desc.Version, desc.Numerics, jobs, threads)

			images, err := generate(ctx, st, p, r.Data, jobs*threads, out)
			if err != nil {
				return err
			}
			if watts := p.Study.Training.PowerCapWatts; watts > 0 {
				note, restore := powercap.Apply(watts)
				defer func() {
					if err := restore(); err != nil {
						out.Printf("%v", err)
					}
				}()
				out.Printf("%s", note)
				for _, n := range nodes {
					n.Notes = append(n.Notes, note)
				}
			}
			executable, err := b.digest()
			if err != nil {
				return err
			}
			studyDigest, err := store.Digest("study", p.Study)
			if err != nil {
				return err
			}
			failures, err := trainAll(ctx, st, nodes, reproduce.TrainOptions{
				Launch: b.process(out),
				SHA256: executable,
				Jobs:   jobs, Threads: threads, Restarts: restarts,
				Study: p.Study.Name + "/" + p.Study.ProfileName(), StudyDigest: studyDigest, Harness: version(), Files: images,
			}, out)
			if err != nil {
				return err
			}
			if err := writeReport(ctx, r, &b, report.Options{Failures: failures}, out); err != nil {
				return err
			}
			if len(failures) > 0 {
				return fmt.Errorf("%d of %d runs failed; the first, %s: %w", len(failures), len(nodes), failures[0].Node.Run.ID, failures[0].Err)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	cmd.Flags().IntVar(&jobs, "jobs", 0, "runs trained at once (default: from the cores and the network's size; results do not depend on it)")
	cmd.Flags().IntVar(&threads, "threads", 0, "threads per run (default likewise)")
	cmd.Flags().IntVar(&restarts, "restarts", 3, "how often a run is resumed after its backend failed")
	return cmd
}

// share divides the cores between runs and threads. Small networks gain more
// from running side by side than from threads within one; large ones would need
// too much memory.
func share(jobs, threads, cores int, s *study.Study) (int, int) {
	if jobs <= 0 && threads <= 0 && s.Network.Width <= 16 {
		return cores, 1
	}
	if jobs <= 0 {
		jobs = 1
		if threads > 0 {
			jobs = max(1, cores/threads)
		}
	}
	if threads <= 0 {
		threads = max(1, cores/jobs)
	}
	return jobs, threads
}

// generate makes the data sets with a progress display.
func generate(ctx context.Context, st *store.Store, p *study.Plan, data *reproduce.Data, workers int, out *progress.Printer) (map[string]train.Files, error) {
	begun := false
	images, err := data.Generate(ctx, st, p, dataset.Options{
		Workers: workers,
		Progress: func(e dataset.Event) {
			if !begun {
				begun = true
				out.Begin("simulating", "structures", float64(e.Total), float64(e.Done-1))
			}
			out.Add(1)
		},
		Damaged: func(path string, why error) {
			out.Printf("warning: %v: making the data set again; what was there is kept as %s", why, path)
		},
	})
	if begun {
		out.End()
	}
	return images, err
}

// trainAll trains the nodes with a progress display.
func trainAll(ctx context.Context, st *store.Store, nodes []*reproduce.Node, o reproduce.TrainOptions, out *progress.Printer) ([]reproduce.Failure, error) {
	var total, already float64
	todo := 0
	before := map[*reproduce.Node]bool{}
	for _, n := range nodes {
		total += n.Spec.Work()
		if st.HasRun(n.Digest) {
			already += n.Spec.Work()
			before[n] = true
		} else {
			todo++
		}
	}
	if todo < len(nodes) {
		out.Printf("%d of %d runs are in the store already", len(nodes)-todo, len(nodes))
	}
	if todo == 0 {
		return nil, nil
	}
	out.Begin("training", "image-steps", total, already)
	defer out.End()
	o.Progress = func(_ *reproduce.Node, e train.Event) { out.Add(e.Work) }
	o.Skipped = func(n *reproduce.Node) {
		if !before[n] { // another process has done it
			out.Add(n.Spec.Work())
		}
	}
	o.Finished = func(n *reproduce.Node, d time.Duration) {
		h, err := st.History(n.Digest)
		if err != nil {
			return // reported when the history is needed
		}
		out.Event("run", map[string]any{
			"id": n.Run.ID, "digest": n.Digest, "seconds": d.Seconds(),
			"best_epoch": h.Best, "validation_loss": h.Epochs[h.Best-1].Validation[h.Target].Loss,
		})
	}
	o.Restart = func(n *reproduce.Node, err error, k int) {
		out.Printf("%s: %v\n%s: restarting the backend, going on from the last checkpoint (%d of %d)", n.Run.ID, err, n.Run.ID, k, o.Restarts)
	}
	o.Damaged = func(n *reproduce.Node, path string, err error) {
		out.Printf("%s: warning: its checkpoint is damaged: %v\n%s: starting from its beginning, which gives the same result; the damaged file is kept as %s until the run is done", n.Run.ID, err, n.Run.ID, path)
	}
	o.Remade = func(n *reproduce.Node, path string, why error) {
		out.Printf("%s: warning: %v: making the run again; what was there is kept as %s", n.Run.ID, why, path)
	}
	o.Failed = func(n *reproduce.Node, err error) { out.Printf("%s failed: %v", n.Run.ID, err) }
	return reproduce.Train(ctx, st, nodes, o)
}
