package adapt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/predict"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/trained"
)

// Model is a network to adapt and what is known of its training.
type Model struct {
	// Name is what the user calls it.
	Name string
	// Segmenter predicts with the network as it is.
	*predict.Segmenter
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
		m := &Model{Name: name, Segmenter: s}
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
	m := &Model{Name: run.Manifest.ID, Segmenter: s}
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
// was trained on, with the crystal that the user names.
func (m *Model) simulation(crystal string) (hrtem.Config, []string) {
	var notes []string
	c := hrtem.Reduced("w_CdSe")
	switch {
	case m.Trained != nil:
		c = m.Trained.Config
		notes = append(notes, "the specimen is simulated as the model's training images were: "+describe(c))
	default:
		notes = append(notes, "the model does not say what it was trained on: the specimen is simulated as in the series' quick profiles, "+describe(c))
	}
	if crystal != "" && crystal != c.Crystal {
		_, blurs := hrtem.PaperDefaults()
		c = c.Of(crystal, blurs)
		notes = append(notes, "but for the crystal, "+crystal+", as asked for")
	} else if crystal == "" {
		notes = append(notes, "--crystal names another one")
	}
	return c, notes
}

func describe(c hrtem.Config) string {
	return fmt.Sprintf("%s particles of radius %g to %g Å on %g to %g Å of amorphous carbon", c.Crystal, c.Radius[0], c.Radius[1], c.Carbon[0], c.Carbon[1])
}

// graph is the network whose weights training starts from.
func (m *Model) graph() *nn.Graph { return m.Segmenter.Graph }
