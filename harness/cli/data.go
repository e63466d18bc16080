package cli

import (
	"bytes"
	"fmt"
	"image/png"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func dataCommand() *cobra.Command {
	var c common
	var workers int
	var dropWaves bool
	cmd := &cobra.Command{
		Use:   "data SERIES|FILE",
		Short: "Simulate a study's data sets, list and draw them",
		Long: `Makes the data sets a study needs that the store lacks, and lists them. Exit waves
are simulated once per structure and serve every defocus and dose. Interrupted, the
same command goes on where it stopped; the bytes are the same either way.

Exit waves are most of what is stored (25 MiB a structure in the paper profile). They
are kept for other series of the same structures; with --drop-waves they are not.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.plan(args[0])
			if err != nil {
				return err
			}
			st, err := store.Open(c.out)
			if err != nil {
				return err
			}
			out := c.printer()
			data, err := reproduce.NewData(cmd.Context(), st, p)
			if err != nil {
				return err
			}
			if workers <= 0 {
				workers = runtime.NumCPU()
			}
			if _, err := data.Generate(cmd.Context(), st, p, dataset.Options{Workers: workers, DropWaves: dropWaves, Progress: out}); err != nil {
				return err
			}
			if c.json {
				return listEvents(st.Root(), data.Named(), out)
			}
			return dataset.WriteList(cmd.OutOrStdout(), st.Root(), data.Named())
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	intFlag(cmd, &workers, "jobs", 0, 0, "structures simulated at once (default: all cores)")
	dropWavesFlag(cmd, &dropWaves)
	cmd.AddCommand(dataShowCommand())
	return cmd
}

// listEvents tells machines what dataset.WriteList tells people.
func listEvents(root string, sets []dataset.Named, out *console.Printer) error {
	for _, n := range sets {
		st, err := dataset.StatusOf(root, n.Source)
		if err != nil {
			return err
		}
		out.Event("set", map[string]any{
			"domain": n.Name, "split": n.Source.Split, "images": n.Source.Count, "digest": n.Source.Digest(),
			"ready": st.Ready, "finished": st.Finished, "bytes": st.Bytes,
		})
	}
	return nil
}

func dropWavesFlag(cmd *cobra.Command, drop *bool) {
	cmd.Flags().BoolVar(drop, "drop-waves", false, "do not keep exit waves that are simulated now; images of other defoci or doses then need them simulated again")
}

func dataShowCommand() *cobra.Command {
	var c common
	var n int
	var dir string
	var structures bool
	cmd := &cobra.Command{
		Use:   "show SERIES|FILE",
		Short: "Draw a contact sheet of every domain",
		Long: `Writes a PNG per domain with the first images, their labels outlined and a scale
bar, of the data sets that are in the store. With --structures prints the
parameters of every image's structure instead.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.plan(args[0])
			if err != nil {
				return err
			}
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			if dir == "" {
				dir = st.Report(p.Study.Name + "-" + p.Study.ProfileName() + "-data")
			}
			if err := files.Mkdir(dir); err != nil {
				return err
			}
			for i := range p.Domains {
				d := &p.Domains[i]
				if d.Own != nil {
					continue
				}
				src, ready, err := reproduce.FindImages(st, p, d)
				if err != nil {
					return err
				}
				if structures {
					m, err := dataset.ReadManifest(st.Root(), ready.Digest)
					if err != nil {
						return err
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%s, %s\n", d.Name, src.Split)
					if err := dataset.WriteStructures(cmd.OutOrStdout(), m); err != nil {
						return err
					}
					continue
				}
				im, err := dataset.ContactSheet(st.Root(), ready, d.Name, n)
				if err != nil {
					return err
				}
				var b bytes.Buffer
				if err := png.Encode(&b, im); err != nil {
					return err
				}
				path := filepath.Join(dir, d.Key+".png")
				if err := files.Write(path, b.Bytes()); err != nil {
					return err
				}
				fmt.Fprintln(cmd.OutOrStdout(), path)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	intFlag(cmd, &n, "images", 1, 12, "images per sheet")
	cmd.Flags().StringVarP(&dir, "output", "o", "", "`DIR` of the sheets (default: in the store's reports)")
	cmd.Flags().BoolVar(&structures, "structures", false, "print the structures' parameters instead of drawing")
	return cmd
}
