package trained

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Result is what was measured of a finished model: a transfer with the
// pretraining it started from, or a single-stage run.
type Result struct {
	Run      *study.Run
	Pretrain *store.History // nil for a single stage
	Final    *store.History
	Digest   string
	// TrainSeconds of the final stage, without validation.
	TrainSeconds float64
}

// Results reads those of the finished models among the nodes, in their order.
func Results(st *store.Store, nodes []*reproduce.Node) ([]Result, error) {
	histories := map[string]*store.History{}
	history := func(digest string) (*store.History, error) {
		if h, ok := histories[digest]; ok {
			return h, nil
		}
		h, err := st.History(digest)
		if err == nil {
			histories[digest] = h
		}
		return h, err
	}
	var results []Result
	for _, n := range nodes {
		if n.Run.Kind == study.PretrainRun || !st.HasRun(n.Digest) {
			continue
		}
		man, err := st.Manifest(n.Digest)
		if err != nil {
			return nil, fmt.Errorf("run %s: %w", n.Run.ID, err)
		}
		r := Result{Run: n.Run, Digest: n.Digest, TrainSeconds: man.TrainSeconds}
		if r.Final, err = history(n.Digest); err != nil {
			return nil, fmt.Errorf("run %s: %w", n.Run.ID, err)
		}
		if n.Spec.Parent != "" {
			if r.Pretrain, err = history(n.Spec.Parent); err != nil {
				return nil, fmt.Errorf("the pretraining of %s: %w", n.Run.ID, err)
			}
		}
		results = append(results, r)
	}
	return results, nil
}
