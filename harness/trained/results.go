package trained

import (
	"fmt"

	"github.com/refocus-em/refocus/harness/internal/parallel"
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
	manifests, histories := make([]*store.Manifest, len(nodes)), make([]*store.History, len(nodes))
	failed := make([]error, len(nodes)) // of pretrainings, which matter where a transfer is finished
	err := parallel.Each(len(nodes), func(i int) (err error) {
		n := nodes[i]
		if n.Run.Kind == study.PretrainRun {
			histories[i], failed[i] = n.Spec.ReadHistory(st, n.Digest)
			return nil
		}
		m := st.Finished(n.Digest)
		if m == nil {
			return nil
		}
		manifests[i] = m
		if histories[i], err = n.Spec.HistoryOf(st, m); err != nil {
			return fmt.Errorf("run %s: %w", n.Run.ID, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	index := map[*reproduce.Node]int{}
	for i, n := range nodes {
		index[n] = i
	}
	var results []Result
	for i, n := range nodes {
		if manifests[i] == nil {
			continue
		}
		r := Result{Run: n.Run, Digest: n.Digest, TrainSeconds: manifests[i].TrainSeconds, Final: histories[i]}
		if n.Parent != nil {
			k, ok := index[n.Parent]
			if ok {
				r.Pretrain, err = histories[k], failed[k]
			} else {
				r.Pretrain, err = n.Parent.Spec.ReadHistory(st, n.Parent.Digest)
			}
			if err != nil {
				return nil, fmt.Errorf("the pretraining of %s: %w", n.Run.ID, err)
			}
		}
		results = append(results, r)
	}
	return results, nil
}
