package cli

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/cli/internal/console"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
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
				workers = runtime.GOMAXPROCS(0)
			}
			defer unhurried(cmd.Context())()
			if _, err := data.Generate(cmd.Context(), st, p, dataset.Options{Workers: workers, DropWaves: dropWaves, Progress: out}); err != nil {
				return err
			}
			if c.json {
				for _, o := range data.Own {
					out.Event("own", map[string]any{"domain": o.Domain.Key, "statistics": o.Statistics, "train": o.Train.Digest, "validation": o.Validation.Digest})
				}
				return listEvents(st.Root(), data.Named(), out)
			}
			for _, w := range data.Warnings {
				out.Printf("%s", w)
			}
			if len(data.Own) > 0 {
				if err := writeOwn(cmd.OutOrStdout(), data.Own, p.Study.Network.Classes); err != nil {
					return err
				}
			}
			if len(data.Simulated) == 0 {
				return nil
			}
			return dataset.WriteList(cmd.OutOrStdout(), st.Root(), data.Named())
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	intFlag(cmd, &workers, "jobs", 0, 0, "structures simulated at once (default: all cores)")
	dropWavesFlag(cmd, &dropWaves)
	cmd.AddCommand(dataShowCommand(), dataExportCommand())
	return cmd
}

// writeOwn writes a table of the user's own images.
func writeOwn(w io.Writer, sets []reproduce.OwnImages, names []string) error {
	if len(names) == 0 {
		names = []string{"background", "particle"}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "domain\timages\tleft out\tgroups\tpixels\tÅ/pixel\ttrain\tvalidation\t%s\tvoid\n", strings.Join(names, "\t"))
	for _, o := range sets {
		s := o.Statistics
		size := format.Size(s.MinHeight, s.MinWidth)
		if most := format.Size(s.MaxHeight, s.MaxWidth); most != size {
			size += " to " + most
		}
		part := func(images int, r dataset.Ready) string {
			if r.Count == images {
				return fmt.Sprint(images)
			}
			return fmt.Sprintf("%d (%d patches of %s)", images, r.Count, format.Size(r.Height, r.Width))
		}
		pixel, groups, void := "unknown", "–", "–"
		if s.PixelSize > 0 {
			pixel = format.Digits(s.PixelSize, 3)
		}
		if s.Groups > 0 {
			groups = fmt.Sprint(s.Groups)
		}
		if s.Void > 0 {
			void = format.Percent(s.Void)
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\t%s\t%s", o.Domain.Name, s.Images, s.LeftOut, groups, size, pixel, part(s.Train, o.Train), part(s.Validation, o.Validation))
		for _, share := range s.Classes {
			fmt.Fprintf(t, "\t%s", format.Percent(share))
		}
		fmt.Fprintf(t, "\t%s\n", void)
	}
	return t.Flush()
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
bar, of the data sets that are in the store. Images of your own are brought into the
store first; both their training and their validation images are drawn, and
statistics are printed. With --structures prints the parameters of every simulated
image's structure instead.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.plan(args[0])
			if err != nil {
				return err
			}
			open := store.Existing
			if len(p.Study.Own) > 0 { // which are brought in at once
				open = store.Open
			}
			st, err := open(c.out)
			if err != nil {
				return err
			}
			if dir == "" {
				dir = st.Report(p.Study.Name + "-" + p.Study.ProfileName() + "-data")
			}
			if err := files.Mkdir(dir); err != nil {
				return err
			}
			s := sheets{root: st.Root(), dir: dir, images: n, out: cmd.OutOrStdout()}
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
				if err := s.draw(ready, d.Name, d.Key); err != nil {
					return err
				}
			}
			if structures || len(p.Study.Own) == 0 {
				return nil
			}
			return s.own(cmd.Context(), st, p, c.printer())
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	intFlag(cmd, &n, "images", 1, 12, "images per sheet")
	cmd.Flags().StringVarP(&dir, "output", "o", "", "`DIR` of the sheets (default: in the store's reports)")
	cmd.Flags().BoolVar(&structures, "structures", false, "print the structures' parameters instead of drawing")
	return cmd
}

func dataExportCommand() *cobra.Command {
	var c common
	var dir, split string
	var domains []string
	cmd := &cobra.Command{
		Use:   "export SERIES|FILE -o DIR",
		Short: "Write a study's images and labels as TIFF",
		Long: `Writes the images of every domain, from the data sets that are in the store, for
other programs: DOMAIN.tif, a stack of float32 images with their pixel size, and
DOMAIN-labels.tif, a stack of the number of every pixel's class (background 0, particle
1). They are what networks are trained on, bit by bit, and are not standardised.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := c.plan(args[0])
			if err != nil {
				return err
			}
			if dir == "" {
				return usagef(cmd, "say which folder to write into: -o DIR")
			}
			list := make([]*study.Domain, 0, len(p.Domains))
			for _, name := range domains {
				d, err := domain(p, name)
				if err != nil {
					return err
				}
				list = append(list, d)
			}
			if len(domains) == 0 {
				for i := range p.Domains {
					list = append(list, &p.Domains[i])
				}
			}
			st, err := store.Existing(c.out)
			if err != nil {
				return err
			}
			data, err := reproduce.NewData(cmd.Context(), st, p)
			if err != nil {
				return err
			}
			if err := files.Mkdir(dir); err != nil {
				return err
			}
			for _, d := range list {
				r, err := data.Find(st, p, d, split)
				if err != nil {
					return err
				}
				if r.Count == 0 {
					continue // nothing is trained on it
				}
				path := filepath.Join(dir, d.Key+".tif")
				if err := dataset.WriteStacks(r, path, filepath.Join(dir, d.Key+"-labels.tif")); err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %d images\n", path, r.Count)
			}
			return nil
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	cmd.Flags().StringVarP(&dir, "output", "o", "", "`DIR` to write into")
	cmd.Flags().StringArrayVar(&domains, "domain", nil, "name of a `DOMAIN` to write, as 'refocus data' lists them; may be repeated (default: all)")
	choiceFlag(cmd, &split, "split", dataset.Validation, "images to write: train or validation", dataset.Train, dataset.Validation)
	return cmd
}

// domain finds a domain of the study by its name, or by its key in tables and files.
func domain(p *study.Plan, name string) (*study.Domain, error) {
	var names []string
	for i := range p.Domains {
		d := &p.Domains[i]
		if d.Name == name || d.Key == name {
			return d, nil
		}
		names = append(names, fmt.Sprintf("%q", d.Name))
	}
	return nil, fmt.Errorf("%s, profile %s, has no domain %q; there is %s", p.Study.Name, p.Study.ProfileName(), name, strings.Join(names, ", "))
}

// sheets writes contact sheets.
type sheets struct {
	root, dir string
	images    int // per sheet
	out       io.Writer
}

func (s sheets) draw(ready dataset.Ready, title, name string) error {
	im, err := dataset.ContactSheet(s.root, ready, title, s.images)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := png.Encode(&b, im); err != nil {
		return err
	}
	path := filepath.Join(s.dir, name+".png")
	if err := files.Write(path, b.Bytes()); err != nil {
		return err
	}
	fmt.Fprintln(s.out, path)
	return nil
}

// own draws the user's own images and prints their statistics.
func (s sheets) own(ctx context.Context, st *store.Store, p *study.Plan, out *console.Printer) error {
	data, err := reproduce.NewData(ctx, st, p)
	if err != nil {
		return err
	}
	for _, w := range data.Warnings {
		out.Printf("%s", w)
	}
	for _, o := range data.Own {
		for _, part := range []struct {
			dataset.Ready
			split string
		}{{o.Train, dataset.Train}, {o.Validation, dataset.Validation}} {
			if err := s.draw(part.Ready, o.Domain.Name+", "+part.split, o.Domain.Key+"-"+part.split); err != nil {
				return err
			}
		}
	}
	return writeOwn(s.out, data.Own, p.Study.Network.Classes)
}
