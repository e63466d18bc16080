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
	history := func(n *reproduce.Node) (*store.History, error) {
		if h, ok := histories[n.Digest]; ok {
			return h, nil
		}
		h, err := n.Spec.ReadHistory(st, n.Digest)
		if err == nil {
			histories[n.Digest] = h
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
		if r.Final, err = history(n); err != nil {
			return nil, fmt.Errorf("run %s: %w", n.Run.ID, err)
		}
		if n.Parent != nil {
			if r.Pretrain, err = history(n.Parent); err != nil {
				return nil, fmt.Errorf("the pretraining of %s: %w", n.Run.ID, err)
			}
		}
		results = append(results, r)
	}
	return results, nil
}
