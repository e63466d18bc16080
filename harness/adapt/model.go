package adapt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/hrtem/crystal"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// Model is a network to adapt and what is known of its training.
type Model struct {
	// Name is what the user calls it.
	Name string
	// Segmenter predicts with the network as it is.
	*predict.Segmenter
	// Loss is what it was trained with and goes on with; cross entropy where that is
	// unknown.
	Loss string
	// Trained is how its training images were simulated; nil where that is unknown.
	Trained *dataset.Simulation
}

// Open reads an ONNX file or, where there is no file of that name, a finished run
// of the store at root by its digest or the beginning of it.
func Open(name, root string, o predict.LoadOptions) (*Model, error) {
	if _, err := os.Stat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		s, err := predict.Load(name, o)
		if err != nil {
			return nil, err
		}
		m := &Model{Name: name, Segmenter: s, Loss: backend.LossOnLogits}
		if l := s.Metadata[trained.LossKey]; l != "" {
			m.Loss = l
		} else if s.Metadata["refocus.run_digest"] != "" { // of a refocus that did not write it
			m.Loss = backend.LossOnProbabilities
		}
		if text := s.Metadata[trained.SimulationKey]; text != "" {
			m.Trained = &dataset.Simulation{}
			if err := json.Unmarshal([]byte(text), m.Trained); err != nil {
				return nil, fmt.Errorf("%s: metadata %s: %w", name, trained.SimulationKey, err)
			}
			if err := m.Trained.Config.Validate(); err != nil {
				return nil, fmt.Errorf("%s: metadata %s: %w", name, trained.SimulationKey, err)
			}
		}
		return m, nil
	}
	st, err := store.Existing(root)
	if err != nil {
		return nil, fmt.Errorf("%s is no file; as a run: %w", name, err)
	}
	run, err := trained.Find(st, name)
	if err != nil {
		return nil, fmt.Errorf("%s is no file; as a run: %w", name, err)
	}
	s, err := predict.New(run.Graph)
	if err != nil {
		return nil, fmt.Errorf("run %.12s: %w", run.Digest, err)
	}
	m := &Model{Name: run.Manifest.ID, Segmenter: s, Loss: run.Spec.Loss}
	set, err := dataset.ReadManifest(root, run.Target().Digest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.Notes = append(s.Notes, "its images are not in the store, so that their conditions are not known")
	case err != nil:
		return nil, err
	default:
		s.PixelSize, m.Trained = set.PixelSize, set.Simulation()
	}
	return m, nil
}

// simulation is how images for the model are simulated, and why so: as those that it
// was trained on, but for what the user gives.
func (m *Model) simulation(g Given) (hrtem.Config, string, error) {
	c := hrtem.Reduced("w_CdSe")
	why := "as in the series' quick profiles, since the model does not say what it was trained on"
	if m.Trained != nil {
		c, why = m.Trained.Config, "as in the model's training"
	}
	switch {
	case g.Crystal != "":
		if _, err := crystal.Lookup(g.Crystal); err != nil {
			return c, "", fmt.Errorf("--crystal: %w", err)
		}
		if g.Crystal != c.Crystal {
			_, blurs := hrtem.PaperDefaults()
			c = c.Of(g.Crystal, blurs)
			why += " but for the crystal"
		}
	default:
		why += "; --crystal names another material"
	}
	if g.Energy > 0 {
		c.BeamEnergy = g.Energy
		for _, p := range c.CheckFields() {
			return c, "", fmt.Errorf("--beam-energy: %s %s", p.Key, p.Message)
		}
	}
	return c, fmt.Sprintf("the specimen is taken for %s: %s", describe(c), why), nil
}

func describe(c hrtem.Config) string {
	return fmt.Sprintf("%s particles of radius %g to %g Å on %g to %g Å of amorphous carbon", c.Crystal, c.Radius[0], c.Radius[1], c.Carbon[0], c.Carbon[1])
}

// start says how training starts from the network, as of study.Network: with its
// weights and classes, or with a new head where its outputs are not background and
// particle, which is what simulated images are labelled with.
func (m *Model) start() (weights string, classes [2]string, err error) {
	err = m.Segmenter.Graph.Clone().Retarget(study.Classes, false)
	switch {
	case errors.Is(err, nn.ErrHead):
		return study.WeightsNewHead, [2]string{"background", "nanoparticle"}, nil
	case err != nil:
		return "", classes, fmt.Errorf("%s cannot be trained: %w", m.Name, err)
	case len(m.Segmenter.Classes) == study.Classes:
		return study.WeightsKept, [2]string(m.Segmenter.Classes), nil
	}
	return study.WeightsKept, [2]string{"background", "nanoparticle"}, nil
}
