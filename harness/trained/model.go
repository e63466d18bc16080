package trained

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// Model is a finished run with its trained network.
type Model struct {
	Digest   string
	Manifest *store.Manifest
	Spec     train.Spec
	History  *store.History
	Graph    *nn.Graph // with the weights of the best epoch

	store *store.Store
}

// Open reads the finished run with the given digest.
func Open(st *store.Store, digest string) (*Model, error) {
	m := &Model{Digest: digest, store: st}
	var err error
	if m.Manifest, err = st.Manifest(digest); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(m.Manifest.Spec, &m.Spec); err != nil {
		return nil, fmt.Errorf("run %.12s: its manifest's spec is damaged: %w", digest, err)
	}
	if m.History, err = m.Spec.ReadHistory(st, digest); err != nil {
		return nil, err
	}
	w, err := st.Weights(digest)
	if err != nil {
		return nil, err
	}
	var network []byte
	if m.Spec.ONNX != "" {
		if network, err = st.Network(digest); err != nil {
			return nil, err
		}
	}
	if m.Graph, err = m.Spec.Graph(network); err != nil {
		return nil, err
	}
	if err := train.LoadWeights(m.Graph, w); err != nil {
		return nil, fmt.Errorf("run %.12s: %w", digest, err)
	}
	return m, nil
}

// Find opens the one finished run that a word names (store.Find).
func Find(st *store.Store, word string) (*Model, error) {
	digest, err := st.Find(word)
	if err != nil {
		return nil, err
	}
	return Open(st, digest)
}

// Best opens the model with the lowest validation loss on its target among those
// of the nodes that are finished, pretrainings left aside; nil where there is none.
// A target, if it is not empty, is the one domain that is looked at.
func Best(st *store.Store, nodes []*reproduce.Node, target string) (*Model, error) {
	n, err := reproduce.Best(st, nodes, target)
	if n == nil || err != nil {
		return nil, err
	}
	return Open(st, n.Digest)
}

// NoModel is the error of those who need a finished model of a study and find none.
func NoModel(r *reproduce.Resolved) error {
	return fmt.Errorf("there is no finished model of %s in the store at %s; run 'refocus reproduce' first", r, r.Store.Root())
}

// Score is the validation on the target after the best epoch.
func (m *Model) Score() store.Score {
	return m.History.Epochs[m.History.Best-1].Validation[m.Spec.Target]
}

// Dice names the Dice coefficient on every domain that the best epoch was validated
// on, in the order of the study, the target's first. name writes a domain's key.
func (m *Model) Dice(name func(key string) string) string {
	scores := m.History.Epochs[m.History.Best-1].Validation
	text := func(domain string) string { return fmt.Sprintf("%.3f on %s", scores[domain].Dice, name(domain)) }
	all := []string{text(m.Spec.Target) + " (its target)"}
	for _, d := range m.Spec.Validation {
		if _, ok := scores[d.Name]; ok && d.Name != m.Spec.Target {
			all = append(all, text(d.Name))
		}
	}
	return "Dice coefficient " + strings.Join(all, ", ")
}

// Loss is the lowest validation loss on the target, above the minimum of the
// study's loss.
func (m *Model) Loss() float64 {
	return m.Score().Loss - backend.LeastLoss(m.Spec.Loss, m.Spec.Network.Classes)
}

// String names the run and its loss, for people.
func (m *Model) String() string {
	return fmt.Sprintf("%s, validation loss %s above its minimum on %s", m.Manifest.ID, format.Loss(m.Loss()), m.Spec.Target)
}

// Target is the domain that the model was trained for.
func (m *Model) Target() train.Set { return m.validation(m.Spec.Target) }

func (m *Model) validation(domain string) train.Set {
	for _, d := range m.Spec.Validation {
		if d.Name == domain {
			return d
		}
	}
	return train.Set{Name: domain}
}

// session opens the graph, the model's own or one that computes the same, to be
// asked something. A model trained in a precision below float32 has float32 weights
// and answers in float32.
func (m *Model) session(ctx context.Context, b backend.Backend, g *nn.Graph) (backend.Session, error) {
	precision := m.Spec.Backend.Precision
	if precision != backend.Float64 {
		precision = backend.Float32
	}
	return b.Open(ctx, g, backend.Options{Precision: precision, Loss: m.Spec.Loss, Threads: runtime.GOMAXPROCS(0)})
}
