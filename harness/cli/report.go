package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/progress"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/dataset/sheet"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/report"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
)

func reportCommand() *cobra.Command {
	var c common
	var b backendFlags
	var tryPage bool
	cmd := &cobra.Command{
		Use:   "report SERIES|FILE",
		Short: "Write the report of what the store holds of a study",
		Long: `Writes the report that 'refocus reproduce' ends with, of as much of the study as is
finished: index.html, which needs no network, the figures, results.csv with the
columns of the published tables, and the best model so far as best.onnx.`,
		Args: exactly(1, "a series or a file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			out := c.printer()
			r, err := c.resolve(cmd.Context(), args[0], &b, store.Existing, out)
			if err != nil {
				return err
			}
			return r.report(cmd.Context(), nil, tryPage, &b, out)
		},
	}
	c.profileFlag(cmd)
	c.outFlag(cmd)
	c.jsonFlag(cmd)
	b.register(cmd)
	cmd.Flags().BoolVar(&tryPage, "browser", false, "also write try.html, a page that runs the best model on images dropped into it (needs npm's onnxruntime-web, see $REFOCUS_NODE_MODULES)")
	return cmd
}

// noModel says that the store holds nothing that could be reported.
func (r *resolved) noModel() error {
	return fmt.Errorf("the store at %s has no finished model of %s, profile %s, and backend %s; run 'refocus reproduce' first",
		r.store.Root(), r.plan.Study.Name, profileName(r.plan), r.desc.Name)
}

// input gathers what a report shows, without pictures.
func (r *resolved) input(ctx context.Context, failures []reproduce.Failure) (report.Input, error) {
	in := report.Input{Plan: r.plan}
	var err error
	if in.Models, err = report.Load(r.store, addressed(r.nodes)); err != nil {
		return in, err
	}
	if in.Companion, err = r.companion(ctx); err != nil {
		return in, err
	}
	if in.Particles, err = r.particles(); err != nil {
		return in, err
	}
	for _, f := range failures {
		in.Failures = append(in.Failures, fmt.Sprintf("%s: %v", f.Node.Run.ID, f.Err))
	}
	in.Environment = []report.Fact{
		{Name: "refocus", Text: version()},
		{Name: "backend", Text: fmt.Sprintf("%s %s, numerics %s, determinism claim: %s", r.desc.Name, r.desc.Version, r.desc.Numerics, r.desc.Determinism)},
		{Name: "command", Text: fmt.Sprintf("refocus reproduce %s --profile %s --backend %s", r.plan.Study.Name, profileName(r.plan), r.desc.Name)},
	}
	seen := map[string]bool{}
	for _, n := range r.nodes {
		for _, note := range n.Notes {
			if !seen[note] {
				seen[note] = true
				in.Environment = append(in.Environment, report.Fact{Name: "note", Text: note})
			}
		}
	}
	return in, nil
}

func addressed(nodes []*reproduce.Node) []report.Addressed {
	var runs []report.Addressed
	for _, n := range nodes {
		runs = append(runs, report.Addressed{Run: n.Run, Digest: n.Digest, Parent: n.Spec.Parent})
	}
	return runs
}

// companion is the series that a report compares this one with, transfer with
// single-stage training, as far as the store holds it at the same profile; nil
// for other studies and where it holds nothing.
func (r *resolved) companion(ctx context.Context) (*report.Input, error) {
	name := map[string]string{"defocus": "baseline", "baseline": "defocus"}[r.plan.Study.Name]
	if name == "" {
		return nil, nil
	}
	plan, err := (&common{profile: r.plan.Study.Profile}).plan(name)
	if err != nil {
		return nil, nil // a profile that only this study has
	}
	data, err := reproduce.NewData(ctx, r.store, plan)
	if err != nil {
		return nil, err
	}
	nodes, err := reproduce.Resolve(plan, data, r.desc)
	if err != nil {
		return nil, err
	}
	models, err := report.Load(r.store, addressed(nodes))
	if err != nil || len(models) == 0 {
		return nil, err
	}
	return &report.Input{Plan: plan, Models: models}, nil
}

// particles are the radii of the particles in a structure series' images, as far
// as these have been made.
func (r *resolved) particles() (map[string][]float64, error) {
	if g := r.plan.Study.Grid; len(g.Crystals) < 2 && len(g.Sizes) < 2 {
		return nil, nil
	}
	radii := map[string][]float64{}
	for i := range r.plan.Domains {
		d := &r.plan.Domains[i]
		if d.Own != nil {
			continue
		}
		for _, split := range []string{dataset.Train, dataset.Validation} {
			m, err := dataset.ReadManifest(r.store.Root(), reproduce.Source(r.plan.Study, d, split).Digest())
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return nil, err
			}
			for _, im := range m.Images {
				for _, p := range im.Structure.Particles {
					radii[d.Key] = append(radii[d.Key], p.Radius)
				}
			}
		}
	}
	return radii, nil
}

// report writes the study's report and exports its best model, with a page to try
// the model in a browser where tryPage asks for it.
func (r *resolved) report(ctx context.Context, failures []reproduce.Failure, tryPage bool, b *backendFlags, out *progress.Printer) error {
	in, err := r.input(ctx, failures)
	if err != nil {
		return err
	}
	if len(in.Models)+len(failures) == 0 {
		return r.noModel()
	}
	name := r.plan.Study.Name + "-" + profileName(r.plan)
	if r.desc.Name != "cpu" {
		name += "-" + r.desc.Name
	}
	dir := r.store.Report(name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	m, err := best(r.store, r.nodes)
	if err != nil {
		return err
	}
	var exportErr error // the report is worth having without the model
	if m != nil {
		in.Exported = "best.onnx"
		in.Environment = append(in.Environment, report.Fact{Name: "best model", Text: fmt.Sprintf(
			"run %s (%s): validation loss %.4g above its minimum on %s", m.manifest.ID, m.digest, m.loss(), m.spec.Target)})
		client, err := b.launch(ctx, out)
		if err != nil {
			return err
		}
		defer client.Close()
		picture, err := r.predictions(ctx, client, m)
		if err != nil {
			return fmt.Errorf("drawing predictions: %w", err)
		}
		in.Sheets = append(in.Sheets, picture)
		if _, err := m.export(ctx, r.store, filepath.Join(dir, in.Exported), export.Options{}, client); err != nil {
			exportErr = fmt.Errorf("exporting the best model: %w", err)
			in.Exported = ""
			in.Failures = append(in.Failures, exportErr.Error())
		} else if tryPage {
			in.Browser = "try.html"
			if err := m.browserPage(r.store, filepath.Join(dir, in.Exported), filepath.Join(dir, in.Browser)); err != nil {
				return fmt.Errorf("writing the page that runs the model: %w", err)
			}
		}
	}
	sum, err := report.Build(ctx, in, dir)
	if err != nil {
		return errors.Join(fmt.Errorf("writing the report: %w", err), exportErr)
	}
	for _, l := range sum.Lines {
		out.Printf("%s", l)
	}
	fields := map[string]any{"report": sum.Index}
	out.Printf("report:     %s", sum.Index)
	if exportErr != nil {
		return exportErr
	}
	if m != nil {
		fields["model"] = filepath.Join(dir, in.Exported)
		out.Printf("best model: %s (%s, validation loss %.4g above its minimum)", filepath.Join(dir, in.Exported), m.manifest.ID, m.loss())
	}
	out.Event("done", fields)
	return nil
}

// predictions draws validation images of every domain with their labels and what
// the domain's best model makes of them; overall stands in where none was
// trained for the domain.
func (r *resolved) predictions(ctx context.Context, b backend.Backend, overall *model) (report.Picture, error) {
	const tiles = 24
	per := max(1, min(2, tiles/len(r.plan.Domains)))
	byTarget := map[string][]*reproduce.Node{}
	for _, n := range r.nodes {
		byTarget[n.Spec.Target] = append(byTarget[n.Spec.Target], n)
	}
	var all []sheet.Tile
	pixel := 0.0
	for i := range r.plan.Domains {
		d := &r.plan.Domains[i]
		m, err := best(r.store, byTarget[d.Key])
		if err != nil {
			return report.Picture{}, err
		}
		if m == nil {
			m = overall
		}
		var digest string
		for _, v := range m.spec.Validation {
			if v.Name == d.Key {
				digest = v.Digest
			}
		}
		ready, err := dataset.Find(r.store.Root(), digest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return report.Picture{}, err
		}
		pixel = ready.PixelSize
		ts, err := predicted(ctx, b, m, ready, per)
		if err != nil {
			return report.Picture{}, err
		}
		for k := range ts {
			ts[k].Caption = d.Name
		}
		all = append(all, ts...)
	}
	im, err := sheet.Draw(all, sheet.Options{PixelSize: pixel, Side: 160})
	if err != nil {
		return report.Picture{}, err
	}
	var buf bytes.Buffer
	if err := png.Encode(&buf, im); err != nil {
		return report.Picture{}, err
	}
	return report.Picture{
		Name:    "predictions",
		Caption: "Validation images with the outlines of their labels (orange) and of what the best model of each domain predicts (blue).",
		PNG:     buf.Bytes(),
	}, nil
}

// predicted is the first n images of a set that show particles and ground, with
// labels and a model's prediction; others fill up where there are too few.
func predicted(ctx context.Context, b backend.Backend, m *model, ready dataset.Ready, n int) ([]sheet.Tile, error) {
	images, err := ready.Open()
	if err != nil {
		return nil, err
	}
	defer images.Close()
	s, err := b.Open(ctx, m.graph, sessionOptions(m.spec))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	size := ready.Height * ready.Width
	var chosen, others []int
	label := make([]uint8, size)
	for i := range ready.Count {
		if err := images.Label(i, label); err != nil {
			return nil, err
		}
		particle := 0
		for _, l := range label {
			if l > 0 {
				particle++
			}
		}
		if particle > size/20 && particle < size-size/20 {
			chosen = append(chosen, i)
		} else {
			others = append(others, i)
		}
	}
	chosen = append(chosen, others...)
	var tiles []sheet.Tile
	for _, i := range chosen[:min(n, len(chosen))] {
		t := sheet.Tile{H: ready.Height, W: ready.Width, Pixels: make([]float32, size), Label: make([]uint8, size), Prediction: make([]uint8, size)}
		if err := images.Image(i, t.Pixels); err != nil {
			return nil, err
		}
		if err := images.Label(i, t.Label); err != nil {
			return nil, err
		}
		p, err := s.Predict(ctx, backend.Tensor{Shape: []int{1, 1, ready.Height, ready.Width}, F32: t.Pixels})
		if err != nil {
			return nil, err
		}
		v := p.Float64s()
		for k := range t.Prediction {
			for c := 1; c < m.spec.Network.Classes; c++ {
				if v[c*size+k] > v[int(t.Prediction[k])*size+k] {
					t.Prediction[k] = uint8(c)
				}
			}
		}
		tiles = append(tiles, t)
	}
	return tiles, nil
}
