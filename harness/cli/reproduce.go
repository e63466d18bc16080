package cli

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/cli/internal/powercap"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func reproduceCommand() *cobra.Command {
	var c common
	var b backendFlags
	var jobs, threads, restarts, maxAttempts, breaker int
	var on deviceFlags
	var wait string
	var every time.Duration
	var dropWaves, yes bool
	cmd := &cobra.Command{
		Use:   "reproduce SERIES|FILE",
		Short: "Simulate, train, report and export a study",
		Long: `Carries out a study from its spec to its report: simulates the micrographs that
are missing, trains the runs that are missing, writes the report and exports the
best model as ONNX. Interrupted at any moment, the same command goes on where it
stopped and ends with the same bits. Several processes, also on several machines
that share the store's file system, may work on one study at once.

The profile smoke is a first contact of about a minute, quick, which is the default,
a miniature of some minutes, long what two hours of two cores give, workstation a part
of the study at its own size for a day of one GPU, and paper the study as published,
which takes a cluster; 'refocus plan' says more.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if jobs > 0 && on.perDevice > 0 {
				return usagef(cmd, "--jobs is of all devices, --jobs-per-device of each: give one of them")
			}
			ctx := cmd.Context()
			out := c.printer()
			r, err := c.resolve(ctx, args[0], &b, store.Open, out)
			if err != nil {
				return err
			}
			if err := files.Writable(r.ReportDir()); err != nil { // and not only after the training
				return err
			}
			s, desc := r.Plan.Study, r.Backend
			out.Printf("%s, profile %s: %s", s.Name, s.ProfileName(), s.Title)
			devices, err := reproduce.Devices(desc, on.devices)
			if err != nil {
				return err
			}
			b.device = devices[0].Name // for the report's predictions, too
			slots, threads := reproduce.Slots(devices, jobs, on.perDevice, threads, runtime.GOMAXPROCS(0), r.Plan.Width())
			out.Printf("backend %s %s, numerics %s; %d runs at once, %d threads each, on %s", desc.Name, desc.Version, desc.Numerics, len(slots), threads, told(devices))

			if err := consent(cmd, r, devices, runtime.GOMAXPROCS(0), yes); err != nil {
				return err
			}
			if devices[0].Memory > 0 {
				if err := checkMemory(ctx, r, &b, slots, out); err != nil {
					return err
				}
			}
			defer unhurried(ctx)()
			images, err := r.Generate(ctx, dataset.Options{Workers: len(slots) * threads, DropWaves: dropWaves, Progress: out})
			if err != nil {
				return err
			}
			if watts := s.Training.PowerCapWatts; watts > 0 {
				note, restore := powercap.Apply(watts)
				defer func() {
					if err := restore(); err != nil {
						out.Printf("%v", err)
					}
				}()
				out.Printf("%s", note)
				r.Note(note)
			}
			executable, err := b.digest()
			if err != nil {
				return err
			}
			remaining := devices
			failures, elsewhere, err := r.Train(ctx, reproduce.TrainOptions{
				Launch: b.logged(out), SHA256: executable, Harness: version(),
				Slots: slots, LeftOut: func(left []backend.Device) { remaining = left }, Threads: threads, Restarts: restarts, MaxAttempts: maxAttempts, Breaker: breaker, CheckpointEvery: every,
				Wait:   map[string]reproduce.Wait{"work": reproduce.WaitForWork, "never": reproduce.WaitNever, "all": reproduce.WaitForAll}[wait],
				Images: images, Progress: out,
			})
			if err != nil {
				return err
			}
			if elsewhere > 0 {
				out.Printf("%d runs are left to other processes, the last of which writes the report; --wait all waits for them", elsewhere)
				return failed(failures, len(r.Nodes))
			}
			b.device = remaining[0].Name
			if err := writeReport(ctx, r, &b, report.Options{Failures: failures}, out); err != nil {
				return err
			}
			if err := r.Retain(out); err != nil {
				return err
			}
			return failed(failures, len(r.Nodes))
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	on.register(cmd)
	cmd.Flags().BoolVar(&yes, "yes", false, "begin what would take this machine more than 7 days without asking")
	intFlag(cmd, &jobs, "jobs", 0, 0, "runs trained at once (default: from the cores and the network's size; results do not depend on it)")
	intFlag(cmd, &threads, "threads", 0, 0, "threads per run (default likewise)")
	dropWavesFlag(cmd, &dropWaves)
	intFlag(cmd, &restarts, "restarts", 0, 3, "how often a run is resumed after its backend failed")
	intFlag(cmd, &maxAttempts, "max-attempts", 0, 3, "leave a run alone that has failed so often, in any process, until 'refocus retry' (0: never)")
	intFlag(cmd, &breaker, "breaker", 0, 5, "give up when so many runs in a row have failed (0: never)")
	choiceFlag(cmd, &wait, "wait", "work", `how long to wait while other processes train the rest: "never", for "work", which their pretraining may yet give, or for "all"`, "never", "work", "all")
	durationFlag(cmd, &every, "checkpoint-every", 5*time.Minute, "how often what is being trained is kept, on the average of a megabyte a second and a twentieth of the time at most; it is kept too when the program is told to stop")
	return cmd
}

func failed(failures []reproduce.Failure, of int) error {
	if len(failures) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d runs failed; the first, %s: %w", len(failures), of, failures[0].Node.Run.ID, failures[0].Err)
}

// told are devices with what the backend says of them.
func told(devices []backend.Device) string {
	var all []string
	for _, d := range devices {
		if d.Info != "" {
			d.Name += " (" + d.Info + ")"
		}
		all = append(all, d.Name)
	}
	return strings.Join(all, ", ")
}

// checkMemory asks a process of the backend's whether the runs fit.
func checkMemory(ctx context.Context, r *reproduce.Resolved, b *backendFlags, slots []backend.Device, out *console.Printer) error {
	c, err := b.launch(ctx, out)
	if err != nil {
		return err
	}
	defer c.Close()
	return r.CheckMemory(ctx, c, slots)
}
