package trained

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx/export"
	"github.com/refocus-em/refocus/harness/store"
)

// ExportOptions say what to write. Predict is the model's own.
type ExportOptions struct {
	export.Options
	// Authors of a BioImage Model Zoo package, and its Maintainers, by their names on
	// GitHub; its License, an SPDX identifier; and publications to cite. Where they are
	// empty those of refocus stand, but not for a network from elsewhere, whose package
	// needs authors and a licence.
	Authors, Maintainers []string
	License              string
	Cite                 []export.Citation
}

// Export writes the model to path, certified with images of its target's
// validation set and the backend's predictions of them, and returns what
// was written.
func (m *Model) Export(ctx context.Context, b backend.Backend, path string, o ExportOptions) ([]export.Written, error) {
	e, err := m.Describe()
	if err != nil {
		return nil, err
	}
	if len(o.Authors) > 0 {
		e.Authors = o.Authors
	}
	e.Maintainers = o.Maintainers
	if o.License != "" {
		e.License = o.License
	}
	if len(o.Cite) > 0 {
		e.Cite = o.Cite
	}
	o.Predict = func(ctx context.Context, g *nn.Graph, x export.Tensor) (export.Tensor, error) {
		s, err := m.session(ctx, b, g)
		if err != nil {
			return export.Tensor{}, err
		}
		defer s.Close()
		y, err := s.Predict(ctx, backend.Tensor{Shape: x.Shape, F32: x.Data})
		if err != nil {
			return export.Tensor{}, err
		}
		r := export.Tensor{Shape: y.Shape, Data: y.F32}
		if y.F64 != nil {
			r.Data = make([]float32, len(y.F64))
			for i, v := range y.F64 {
				r.Data[i] = float32(v)
			}
		}
		return r, nil
	}
	return export.Write(ctx, path, e, o.Options)
}

// Metadata of exported models, for those who train them on.
const (
	SimulationKey = "refocus.simulation" // how their images were simulated, as JSON of a dataset.Simulation
	LossKey       = "refocus.loss"       // that they were trained with
)

// holdout is how many validation images a model is certified with.
const holdout = 8

// classNames are the classes of the output's channels, in order.
func (m *Model) classNames() []string {
	if len(m.Spec.ClassNames) > 0 {
		return m.Spec.ClassNames
	}
	return []string{"background", "nanoparticle"}
}

// Describe says what the model is for its users, with the first images of its
// target's validation set, which must be in the store.
func (m *Model) Describe() (export.Model, error) {
	target := m.Target()
	root := m.store.Root()
	ready, err := dataset.Find(root, target.Digest)
	if err != nil {
		return export.Model{}, fmt.Errorf("the images of domain %s are needed to certify the model: %w", target.Name, err)
	}
	set, err := dataset.ReadManifest(root, target.Digest)
	if err != nil {
		return export.Model{}, err
	}
	what := "domain " + target.Name
	short := what
	if set.Config != nil {
		defocus, dose := format.Defocus(set.Conditions.Defocus), format.Dose(set.Conditions.Dose)
		short = fmt.Sprintf("%s, %s, %s", set.Config.Crystal, defocus, dose)
		what = fmt.Sprintf("%s, defocus %s, dose %s", set.Config.Crystal, defocus, dose)
	}
	e := export.Model{
		Graph:    m.Graph,
		Imported: m.Spec.ONNX != "",
		Title:    "HRTEM nanoparticle segmentation, " + short,
		Description: fmt.Sprintf("%s, trained by refocus on %s (%s stage, run %s of study %s). "+
			"It gives every pixel the probabilities of %s.",
			m.network(), what, m.Spec.Stage, m.Manifest.ID, m.Manifest.Study, strings.Join(m.classNames(), " and ")),
		Study:          m.Manifest.Study,
		SpecDigest:     m.Manifest.StudyDigest,
		RunDigest:      m.Digest,
		Domain:         target.Name,
		PixelSize:      ready.PixelSize,
		ValidationLoss: m.Loss(),
		ClassNames:     m.classNames(),
		Finished:       m.Manifest.Finished,
		Version:        m.Manifest.Harness,
		Validation: fmt.Sprintf("On %d validation images of structures that it was not trained on, the loss is %s above its minimum and the Dice coefficient %.4f.",
			target.Images, format.Loss(m.Loss()), m.Score().Dice),
	}
	e.Metadata = map[string]string{LossKey: m.Spec.Loss}
	if sim := set.Simulation(); sim != nil {
		text, err := json.Marshal(sim)
		if err != nil {
			return export.Model{}, err
		}
		e.Metadata[SimulationKey] = string(text)
	}
	if !e.Imported { // of a network from elsewhere we do not know
		e.License = "CC-BY-4.0"
		e.Authors = []string{"The refocus developers"}
		e.Cite = []export.Citation{{
			Text: "L. Rangel DaCosta, H. Oill, M. C. Scott: Strategies for effective transfer learning for HRTEM analysis with neural networks. Elemental Microscopy (2025)",
			DOI:  "10.69761/kjte5358",
		}}
	}
	for _, f := range m.Manifest.Files {
		if f.Name == store.WeightsFile {
			e.WeightsDigest = f.SHA256
		}
	}
	images, err := ready.Open()
	if err != nil {
		return export.Model{}, err
	}
	defer images.Close()
	n := ready.Height * ready.Width
	for i := range min(holdout, ready.Count) {
		l := export.Labelled{Tensor: export.Tensor{Shape: []int{1, 1, ready.Height, ready.Width}, Data: make([]float32, n)}, Labels: make([]uint8, n)}
		if err := images.Image(i, l.Data); err != nil {
			return export.Model{}, fmt.Errorf("%s: %w", ready.Path, err)
		}
		if err := images.Label(i, l.Labels); err != nil {
			return export.Model{}, fmt.Errorf("%s: %w", ready.Path, err)
		}
		e.Holdout = append(e.Holdout, l)
	}
	e.Example = e.Holdout[0].Tensor
	return e, nil
}

// network names the network for people.
func (m *Model) network() string {
	if m.Spec.ONNX != "" {
		return fmt.Sprintf("Network imported from ONNX (%q)", m.Graph.Name)
	}
	return fmt.Sprintf("U-Net of width %d with a ResNet encoder", m.Spec.Network.Width)
}
