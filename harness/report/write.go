package report

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/report/series"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Options of Write.
type Options struct {
	Version string // of refocus
	// Dir is where the report goes, the study's folder in the store if it is empty.
	Dir string
	// Failures are the runs that could not be trained.
	Failures []reproduce.Failure
	// Launch starts the backend, which predicts with the trained models.
	Launch func(context.Context) (reproduce.Process, error)
}

// Write writes the report of what the store holds of a study, with its best model
// as best.onnx, unless its weights were dropped. It fails where no model is finished and
// none has failed. Where only
// the export fails, the report is there and says so, and its Summary is returned
// with the error.
func Write(ctx context.Context, r *reproduce.Resolved, o Options) (*Summary, error) {
	dir := o.Dir
	if dir == "" {
		dir = r.ReportDir()
	}
	if err := files.Writable(dir); err != nil { // before the work, and the folder after what can fail
		return nil, fmt.Errorf("the report would have no place (report -o names another): %w", err)
	}
	in, err := Gather(ctx, r, o)
	if err != nil {
		return nil, err
	}
	if o.Dir == "" {
		dir, err = r.ClaimReportDir()
	} else {
		err = files.Mkdir(dir)
	}
	if err != nil {
		return nil, err
	}
	m, err := trained.Best(r.Store, r.Nodes, "")
	var dropped *store.DroppedError
	if errors.As(err, &dropped) { // its history is what the report is about
		in.Environment = append(in.Environment, Fact{"best model", dropped.Error() + "; the report then has its file and its predictions"})
	} else if err != nil {
		return nil, err
	}
	var exportErr error // the report is worth having without the model
	if m != nil {
		if exportErr, err = in.show(ctx, r, m, dir, o); err != nil {
			return nil, err
		}
	}
	sum, err := Build(ctx, in, dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("writing the report: %w", err), exportErr)
	}
	if m != nil && exportErr == nil {
		sum.Model, sum.Best = filepath.Join(dir, in.Exported[0].Name), m
	}
	return sum, exportErr
}

// show adds the best model to the input: pictures of its predictions, its file,
// which it exports to dir, and the page that runs it. What keeps the model from
// being exported is returned apart from other errors.
func (in *Input) show(ctx context.Context, r *reproduce.Resolved, m *trained.Model, dir string, o Options) (exportErr, err error) {
	in.Environment = append(in.Environment, Fact{"best model", fmt.Sprintf("%s (%s)", m, m.Digest)})
	b, err := o.Launch(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	picture := Picture{
		Name:    "predictions",
		Caption: "Validation images with the outlines of their labels (orange) and of what the best model of each domain predicts (blue).",
	}
	if picture.PNG, err = trained.Predictions(ctx, b, r, m); err != nil {
		return nil, fmt.Errorf("drawing predictions: %w", err)
	}
	in.Sheets = append(in.Sheets, picture)
	const model = "best.onnx"
	written, err := m.Export(ctx, b, filepath.Join(dir, model), trained.ExportOptions{})
	if err != nil {
		exportErr = fmt.Errorf("exporting the best model: %w", err)
		in.Failures = append(in.Failures, exportErr.Error())
		return exportErr, nil
	}
	for _, w := range written {
		in.Exported = append(in.Exported, Exported{Name: filepath.Base(w.Path), Standardizes: w.Certificate.Standardizes, Certificate: w.Certificate.Summary()})
	}
	in.Multiple, in.Dice = written[0].Certificate.Multiple, m.Dice(in.Series(series.Kept).Name)
	return nil, nil
}

// Gather reads what a report shows from the store, without pictures and the
// exported model. It fails where no model is finished and none has failed.
func Gather(ctx context.Context, r *reproduce.Resolved, o Options) (Input, error) {
	in := Input{Plan: r.Plan}
	var err error
	if in.Models, err = trained.Results(r.Store, r.Nodes); err != nil {
		return in, err
	}
	if len(in.Models)+len(o.Failures) == 0 {
		return in, trained.NoModel(r)
	}
	if err := in.redraw(r); err != nil {
		return in, err
	}
	if in.Companion, err = companion(ctx, r); err != nil {
		return in, err
	}
	if g := r.Plan.Study.Grid; len(g.Crystals) > 1 || len(g.Sizes) > 1 {
		if in.Particles, err = r.Radii(); err != nil {
			return in, err
		}
	}
	for _, f := range o.Failures {
		in.Failures = append(in.Failures, fmt.Sprintf("%s: %v", f.Node.Run.ID, f.Err))
	}
	b := r.Backend
	in.Environment = []Fact{
		{"refocus", o.Version},
		{"backend", fmt.Sprintf("%s %s, numerics %s, determinism claim: %s", b.Name, b.Version, b.Numerics, b.Determinism)},
		{"command", fmt.Sprintf("refocus reproduce %s --profile %s --backend %s", r.Plan.Study.Name, r.Plan.Study.ProfileName(), b.Name)},
	}
	seen := map[string]bool{}
	for _, n := range r.Nodes {
		for _, note := range n.Notes {
			if !seen[note] {
				seen[note] = true
				in.Environment = append(in.Environment, Fact{"note", note})
			}
		}
	}
	return in, nil
}

// companion is the series that a report compares this one with, transfer with
// single-stage training, as far as the store holds it at the same profile; nil
// for other studies and where it holds nothing.
func companion(ctx context.Context, r *reproduce.Resolved) (*Input, error) {
	name := map[string]string{"defocus": "baseline", "baseline": "defocus"}[r.Plan.Study.Name]
	if name == "" {
		return nil, nil
	}
	plan, err := study.Load(name, r.Plan.Study.Profile)
	if err != nil {
		return nil, nil // a profile that only this study has
	}
	other, err := reproduce.Resolve(ctx, r.Store, plan, r.Backend)
	if err != nil {
		return nil, err
	}
	models, err := trained.Results(r.Store, other.Nodes)
	if err != nil || len(models) == 0 {
		return nil, err
	}
	in := &Input{Plan: plan, Models: models}
	return in, in.redraw(other)
}
