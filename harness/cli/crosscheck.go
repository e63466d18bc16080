package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/crosscheck"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

func crosscheckCommand() *cobra.Command {
	var c common
	var b backendFlags
	var against, series string
	var o crosscheck.Options
	var trials crosscheck.Trials
	var convergence bool
	cmd := &cobra.Command{
		Use:   "crosscheck --backend A [--against B]",
		Short: "Certify how far two backends differ, and why that is acceptable",
		Long: `Gives two backends the same weights and batches of a series, compares both with the
cpu backend in float64, and judges backend A: every layer forward, running
statistics, loss, every gradient, the optimiser, every step of a longer run, freezing,
and losses over many steps. What A may be off by follows from the rounding errors of
each operator's own operands.

With --convergence, for backends that no step agrees of, both train many times from
the same weights and with the same batches, and losses, steps to a target and where
the weights end are compared over all seeds: A passes where every mean is shown to lie
within a margin of B's, which computes in float32.

Writes a certificate (JSON and HTML) into the store. Exits with 1 where A fails, and
names the first place where the two part.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, out := cmd.Context(), c.printer()
			for _, name := range []string{"seeds", "epochs", "margin", "risk"} {
				if cmd.Flags().Changed(name) && !convergence {
					return usagef(cmd, "--%s is of whole trainings: add --convergence", name)
				}
			}
			if err := trials.Check(o.Steps); convergence && err != nil {
				return usagef(cmd, "%v", err)
			}
			q, err := c.question(ctx, series, out)
			if err != nil {
				return err
			}
			in := q.in
			in.Options = o
			for _, x := range []struct {
				name string
				to   *crosscheck.Subject
			}{{b.name, &in.A}, {against, &in.B}, {"cpu", &in.Oracle}} {
				flags := backendFlags{name: x.name, allowUnlocked: b.allowUnlocked, startTimeout: b.startTimeout}
				client, subject, err := flags.subject(ctx, out)
				if err != nil {
					return err
				}
				defer client.Close()
				*x.to = subject
			}
			var cert *crosscheck.Certificate
			if convergence {
				cert, err = crosscheck.Converge(ctx, in, trials, out)
			} else {
				cert, err = crosscheck.Run(ctx, in)
			}
			if err != nil {
				return err
			}
			dir := q.folder(cert)
			if err := cert.Write(dir); err != nil {
				return fmt.Errorf("writing the certificate: %w", err)
			}
			cert.Print(cmd.OutOrStdout())
			fmt.Fprintf(cmd.OutOrStdout(), "certificate: %s\n", filepath.Join(dir, "certificate.html"))
			if !cert.Pass() {
				return &failure{silent: true}
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.StringVar(&against, "against", "cpu", "backend to compare with, named likewise")
	f.StringVar(&series, "series", "defocus", "`SERIES|FILE` whose network and images are used")
	intFlag(cmd, &o.Batch, "batch", 0, 0, "images per step (default 4)")
	intFlag(cmd, &o.Steps, "steps", 0, 0, "steps of the trajectory (default 20), or of a training of --convergence (default 64)")
	f.BoolVar(&convergence, "convergence", false, "compare many whole trainings in place of single steps")
	intFlag(cmd, &trials.Seeds, "seeds", 0, 0, "pairs of trainings (default 20)")
	intFlag(cmd, &trials.Epochs, "epochs", 0, 0, "epochs of a training, between which its state is saved and restored (default 4)")
	floatFlag(cmd, &trials.Margin, "margin", 0, 0, "how far a mean may be off, in standard deviations of B over seeds (default 0.5)")
	floatFlag(cmd, &trials.Risk, "risk", 0, 0, "greatest probability with which a backend passes that is off by more (default 0.01)")
	f.StringVar(&o.Device, "device", "", "device of the backend that is judged (default: its first)")
	f.StringVar(&o.Precision, "precision", "", "precision of the backend that is judged (default float32): tf32, bfloat16, mixed or float64")
	floatFlag(cmd, &o.Factor, "factor", 0, 0, "how many times the larger of the other backend's distance and of one rounding's the yardstick is, which decides where no bound can (default 8)")
	return cmd
}

// question is what backends are compared with: a network and images of a series.
type question struct {
	in    crosscheck.Input // without backends and options
	plan  *study.Plan
	store *store.Store
}

// question makes the images of the plan's first run, where the store lacks them.
func (c *common) question(ctx context.Context, series string, out *console.Printer) (question, error) {
	p, err := c.plan(series)
	if err != nil {
		return question{}, err
	}
	st, err := store.Open(c.out)
	if err != nil {
		return question{}, err
	}
	data, err := reproduce.NewData(ctx, st, p)
	if err != nil {
		return question{}, err
	}
	images, err := data.Generate(ctx, st, p, dataset.Options{Workers: runtime.GOMAXPROCS(0), Progress: out})
	if err != nil {
		return question{}, err
	}
	first := p.Runs[0]
	set := func(r dataset.Ready) crosscheck.ImageSet {
		return crosscheck.ImageSet{Path: r.Path, SHA256: r.SHA256, Count: r.Count}
	}
	domain := images[first.Mixture[0].Domain.Key]
	q := question{crosscheck.Input{Loss: p.Study.Training.Loss, Train: set(domain.Train), Validation: set(domain.Validation)}, p, st}
	spec := train.Spec{Seed: p.Study.Seed, Stream: first.ID}
	network, err := spec.UseNetwork(p)
	if err != nil {
		return question{}, err
	}
	q.in.Graph, err = spec.Graph(network)
	return q, err
}

// folder is where a certificate belongs.
func (q question) folder(c *crosscheck.Certificate) string {
	return q.folderOf(c.A.Description.Name, c.Options.Precision, c.B.Description.Name, c.Convergence != nil)
}

func (q question) folderOf(a, precision, b string, convergence bool) string {
	suffix := ""
	if precision != backend.Float32 {
		suffix = "-" + precision
	}
	if convergence {
		suffix += "-convergence"
	}
	return q.store.Report(fmt.Sprintf("crosscheck-%s%s-%s-%s-%s", a, suffix, b, q.plan.Study.Name, q.plan.Study.ProfileName()))
}

// subject starts a backend that is to be compared.
func (b *backendFlags) subject(ctx context.Context, out *console.Printer) (*plugin.Client, crosscheck.Subject, error) {
	client, err := b.launch(ctx, out)
	if err != nil {
		return nil, crosscheck.Subject{}, err
	}
	digest, err := b.digest()
	if err != nil {
		client.Close()
		return nil, crosscheck.Subject{}, err
	}
	return client, crosscheck.Subject{Backend: client, SHA256: digest}, nil
}
