package adapt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Names of what Run writes into its folder.
const (
	StartFile    = "start.onnx"    // the network that training starts from
	SpecFile     = "adapt.toml"    // the study of the adaptation
	EstimateFile = "estimate.json" // of the micrographs
	ModelFile    = "adapted.onnx"  // certified
)

// Options of Run.
type Options struct {
	Given    Given
	Training Training
	// Dir takes the files, Store the run and its images.
	Dir   string
	Store *store.Store

	Images []string // micrographs, as the user names them
	// Labels of the micrographs, nil for none, and how they are compared with; Run sets
	// the progress and the pixel size.
	Labels   []string
	Evaluate predict.EvaluateOptions

	// Train says how to train; of it Images and Study are set by Run.
	Train    reproduce.TrainOptions
	Backend  backend.Description
	Export   trained.ExportOptions
	Progress progress.Meter
}

// Result is a model that was brought to the conditions of micrographs.
type Result struct {
	Model   *trained.Model
	Written []export.Written
	// Before and After are the Dice coefficients, of the network as it was and as it
	// is now, on the simulated validation images.
	Before, After float64
	// LabelledBefore and LabelledAfter compare with the user's labels; nil without.
	LabelledBefore, LabelledAfter *predict.Evaluation
}

// Run brings the model to the estimated conditions: it writes the spec and what it
// needs to o.Dir, simulates, trains, exports the certified model and compares it with
// the one before. Interrupted, the same call goes on where it stopped.
func (m *Model) Run(ctx context.Context, e *Estimate, o Options) (*Result, error) {
	meter := progress.Or(o.Progress)
	o.Train.Progress = meter
	folder, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	spec, err := m.Spec(e, o.Given, o.Training, studyName(filepath.Base(folder)), StartFile)
	if err != nil {
		return nil, err
	}
	if _, err := study.Parse(SpecFile, []byte(spec)); err != nil {
		return nil, err
	}
	if err := m.write(e, o.Dir, spec); err != nil {
		return nil, err
	}
	result := &Result{}
	if len(o.Labels) > 0 { // before training, since a mistake in them shows there
		if result.LabelledBefore, err = evaluate(ctx, m.Segmenter, "before", o); err != nil {
			return nil, err
		}
	}
	plan, err := study.Load(filepath.Join(o.Dir, SpecFile), "")
	if err != nil {
		return nil, err
	}
	r, err := reproduce.Resolve(ctx, o.Store, plan, o.Backend)
	if err != nil {
		return nil, err
	}
	o.Train.Images, err = r.Generate(ctx, dataset.Options{Workers: max(1, o.Train.Jobs*o.Train.Threads), Progress: meter})
	if err != nil {
		return nil, err
	}
	failures, err := r.Train(ctx, o.Train)
	if err != nil {
		return nil, err
	}
	if len(failures) > 0 {
		return nil, failures[0].Err
	}
	if result.Model, err = trained.Best(o.Store, r.Nodes, ""); err != nil {
		return nil, err
	}
	if result.Model == nil {
		return nil, trained.NoModel(r)
	}
	process, err := o.Train.Launch(ctx)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	if result.Before, result.After, err = compare(ctx, process, plan, result.Model, o); err != nil {
		return nil, err
	}
	path := filepath.Join(o.Dir, ModelFile)
	if result.Written, err = result.Model.Export(ctx, process, path, o.Export); err != nil {
		return nil, err
	}
	if len(o.Labels) > 0 {
		adapted, err := predict.Load(path, predict.LoadOptions{})
		if err != nil {
			return nil, err
		}
		if result.LabelledAfter, err = evaluate(ctx, adapted, "after", o); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// write leaves the spec, the network and the estimate in a folder. The spec or the
// network of another adaptation there, or what a person has made of one, is not
// overwritten.
func (m *Model) write(e *Estimate, dir, spec string) error {
	network, err := onnx.Marshal(m.Segmenter.Graph, onnx.MarshalOptions{})
	if err != nil {
		return fmt.Errorf("%s: %w", m.Name, err)
	}
	estimate, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	if err := files.Mkdir(dir); err != nil {
		return err
	}
	contents := map[string][]byte{SpecFile: []byte(spec), StartFile: network}
	for _, name := range []string{SpecFile, StartFile} {
		path := filepath.Join(dir, name)
		switch old, err := os.ReadFile(path); {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case bytes.Equal(old, contents[name]):
			delete(contents, name)
		default:
			return fmt.Errorf("%s is of another adaptation, or was changed: name another folder, or run that one with 'refocus reproduce %s'", path, filepath.Join(dir, SpecFile))
		}
	}
	contents[EstimateFile] = append(estimate, '\n')
	for name, content := range contents {
		if err := files.Write(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return nil
}

// compare is the mean Dice coefficients, over the plan's domains, of its network before
// training and of the model on the validation images.
func compare(ctx context.Context, b backend.Backend, plan *study.Plan, m *trained.Model, o Options) (before, after float64, err error) {
	network, err := o.Store.Network(m.Digest)
	if err != nil {
		return 0, 0, err
	}
	g, err := m.Spec.Graph(network)
	if err != nil {
		return 0, 0, err
	}
	s, err := b.Open(ctx, g, backend.Options{Precision: m.Spec.Backend.Precision, Loss: m.Spec.Loss, Threads: max(1, o.Train.Threads), Adam: m.Spec.Adam})
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	scores := m.History.Epochs[m.History.Best-1].Validation
	n := float64(len(plan.Domains))
	for _, d := range plan.Domains {
		set := o.Train.Images[d.Key].Validation
		if err := s.LoadDataset(ctx, d.Key, set.Path, set.SHA256); err != nil {
			return 0, 0, fmt.Errorf("loading the validation images of %s: %w", d.Name, err)
		}
		e, err := s.Evaluate(ctx, backend.EvaluateRequest{Dataset: d.Key})
		if err != nil {
			return 0, 0, err
		}
		before += e.Dice() / n
		after += scores[d.Key].Dice / n
	}
	return before, after, nil
}

// evaluate compares a network with the user's labels and writes the scores.
func evaluate(ctx context.Context, network *predict.Segmenter, when string, o Options) (*predict.Evaluation, error) {
	b, err := o.Train.Launch(ctx)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	s, err := b.Open(ctx, network.Graph, backend.Options{Threads: max(1, o.Train.Threads)})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	run := func(ctx context.Context, shape []int, images []float32) ([]float32, error) {
		p, err := s.Predict(ctx, backend.Tensor{Shape: shape, F32: images})
		return p.F32, err
	}
	o.Evaluate.Progress, o.Evaluate.PixelSize = o.Progress, o.Given.PixelSize
	e, err := network.Evaluate(ctx, o.Images, o.Labels, filepath.Join(o.Dir, "evaluation-"+when), run, o.Evaluate)
	if err != nil {
		return nil, fmt.Errorf("comparing the model %s with the labels: %w", when, err)
	}
	return e, nil
}

// Lines says what came of it.
func (r *Result) Lines() []string {
	l := []string{fmt.Sprintf("Dice coefficient on simulated images of these conditions: %s before, %s now", format.Digits(r.Before, 3), format.Digits(r.After, 3))}
	if r.LabelledAfter != nil {
		l = append(l, fmt.Sprintf("on your labels: Dice %v before, %v now; IoU %v before, %v now", r.LabelledBefore.All.Dice, r.LabelledAfter.All.Dice, r.LabelledBefore.All.IoU, r.LabelledAfter.All.IoU))
	}
	return l
}
