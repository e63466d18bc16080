package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/trained"
)

func exportCommand() *cobra.Command {
	var c common
	var b backendFlags
	var series, output, target string
	var consumers bool
	var cite []string
	var o trained.ExportOptions
	cmd := &cobra.Command{
		Use:   "export RUN|best -o FILE",
		Short: "Write a trained model as ONNX or as a BioImage Model Zoo package",
		Long: `Exports the model of a finished run, named by its digest or the beginning of it,
or the best one of a series, the one with the lowest validation loss on its target. The
file is certified before it gets its name: read back, compared bit by bit, and
its predictions compared with the backend's and, where they are installed, with
those of ONNX Runtime and OpenCV. The certificate, written beside it, says which of
them passed and which were skipped; only a file that one of them predicted with is
certified.

Two models are written: the bare network, whose images have to be given zero mean and
unit variance first, and FILE-standardizing.onnx, which takes images as they were
recorded.

--consumers lists the programs that are found, and the command that gets the others.
It looks for npm's onnxruntime-node and @opencvjs/web in $REFOCUS_NODE_MODULES or
./node_modules, and for Python's onnxruntime, cv2 and onnx in $REFOCUS_PYTHON, the
active environment, python3 on the path and /usr/bin/python3.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if consumers && len(args) == 0 {
				return nil
			}
			return exactly(1, "a run or the word best")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if consumers {
				return listConsumers(cmd.Context(), c.printer())
			}
			if output == "" {
				return usagef(cmd, "say with -o which file to write")
			}
			for _, text := range cite {
				k, err := export.ParseCitation(text)
				if err != nil {
					return usagef(cmd, "--cite: %v", err)
				}
				o.Cite = append(o.Cite, k)
			}
			if len(o.Authors)+len(o.Maintainers) > 0 && o.Format != export.BioImageIO {
				return usagef(cmd, "--author and --maintainer are for --format %s", export.BioImageIO)
			}
			ctx, out := cmd.Context(), c.printer()
			m, err := c.model(ctx, args[0], series, target, &b, out)
			if err != nil {
				return err
			}
			client, err := b.launch(ctx, out)
			if err != nil {
				return err
			}
			defer client.Close()
			files, err := m.Export(ctx, client, output, o)
			if err != nil {
				return err
			}
			out.Printf("%s; %s", m, m.Dice(func(key string) string { return key }))
			for _, f := range files {
				out.Printf("wrote %s, %s", f.Path, f.Certificate.Summary())
				out.Printf("wrote %s", f.CertificatePath)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "`FILE` to write")
	f.StringVar(&series, "series", "defocus", "`SERIES|FILE` whose best model is meant")
	choiceFlag(cmd, &o.Format, "format", export.ONNX, `"onnx" or "bioimageio"`, export.ONNX, export.BioImageIO)
	choiceFlag(cmd, &o.Precision, "precision", export.Float32, `of the stored weights: "float32" or "float16"`, export.Float32, export.Float16)
	f.StringArrayVar(&o.Authors, "author", nil, "`NAME` of an author of the BioImage Model Zoo package; may be repeated")
	f.StringArrayVar(&o.Maintainers, "maintainer", nil, "`NAME` on GitHub of a maintainer of the package, whom the zoo asks for; may be repeated")
	f.StringVar(&o.License, "license", "", "`SPDX` identifier of the licence (default CC-BY-4.0); a package of a network from elsewhere needs it and --author")
	f.StringArrayVar(&cite, "cite", nil, "`TEXT` of a publication to cite, which ends in its DOI or address (default the published study); may be repeated")
	f.StringVar(&target, "target", "", "the `DOMAIN` whose best model is meant, instead of the best of all")
	f.BoolVar(&o.Bare, "bare", false, "leave out the model that takes images as they were recorded")
	f.BoolVar(&consumers, "consumers", false, "list the programs that certify exports, and how to get those that are missing")
	return cmd
}

// model opens the run that an argument names: "best" of a series, or a digest.
func (c *common) model(ctx context.Context, arg, series, target string, b *backendFlags, out *console.Printer) (*trained.Model, error) {
	if arg != "best" {
		st, err := store.Existing(c.out)
		if err != nil {
			return nil, err
		}
		return trained.Find(st, arg)
	}
	r, err := c.resolve(ctx, series, b, store.Existing, out)
	if err != nil {
		return nil, err
	}
	if target != "" {
		d, err := domain(r.Plan, target)
		if err != nil {
			return nil, err
		}
		target = d.Key
	}
	m, err := trained.Best(r.Store, r.Nodes, target)
	if err == nil && m == nil {
		if err = trained.NoModel(r); target != "" {
			err = fmt.Errorf("of domain %q: %w", target, err)
		}
	}
	return m, err
}

// listConsumers prints which of the programs that certify exports are here.
func listConsumers(ctx context.Context, out *console.Printer) error {
	var missing []string
	for _, p := range export.Programs(ctx) {
		if p.Err != nil {
			out.Printf("%v", p.Err)
			missing = append(missing, p.Install)
			continue
		}
		out.Printf("%-24s %s, in %s", p.Name, p.Version, p.Place)
	}
	if len(missing) > 0 {
		out.Printf("to get the others: %s", strings.Join(missing, " && "))
	}
	return ctx.Err()
}
