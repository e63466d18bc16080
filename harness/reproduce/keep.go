package reproduce

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/internal/parallel"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
)

// Best is the run with the lowest validation loss on its target among those of the
// nodes that are finished, pretrainings left aside, and of equals the first; nil where
// there is none. A target, if it is not empty, is the one domain that is looked at.
func Best(st *store.Store, nodes []*Node, target string) (*Node, error) {
	losses := make([]float64, len(nodes))
	err := parallel.Each(len(nodes), func(i int) (err error) {
		n := nodes[i]
		losses[i] = math.Inf(1)
		if n.Spec.Stage == study.PretrainRun || target != "" && n.Spec.Target != target {
			return nil
		}
		if m := st.Finished(n.Digest); m != nil {
			losses[i], err = n.loss(st, m)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var best *Node
	lowest := math.Inf(1)
	for i, l := range losses {
		if l < lowest {
			best, lowest = nodes[i], l
		}
	}
	return best, nil
}

// loss is the lowest validation loss of a finished run on its target.
func (n *Node) loss(st *store.Store, m *store.Manifest) (float64, error) {
	h, err := n.Spec.HistoryOf(st, m)
	if err != nil {
		return 0, err
	}
	l, ok := h.BestLoss(n.Spec.Target)
	if !ok {
		l = math.Inf(1)
	}
	return l, nil
}

// Repeatable reports whether weights that a backend of some claim has trained can be
// rebuilt to the same bits, on the same machine at least.
func Repeatable(determinism string) bool {
	return determinism == backend.DeterminismMachine || determinism == backend.DeterminismThreads
}

// claimed says for people when a backend claims to come to the same bits.
func claimed(determinism string) string {
	switch determinism {
	case backend.DeterminismMachine:
		return "on every machine"
	case backend.DeterminismThreads:
		return "on the same machine"
	case backend.DeterminismRun:
		return "on the same machine with as many threads"
	}
	return "never"
}

// retention finds the runs of a study whose weights it does not keep, as runs finish.
// It knows of runs what it was told: while several processes train, each of them may
// keep more than the study asks for, and what the last one finds is right.
type retention struct {
	st    *store.Store
	keep  string // see study.Study
	nodes []*Node

	order    map[*Node]int
	children map[*Node][]*Node

	mu   sync.Mutex
	done map[*Node]bool
	best map[string]scored // by target
}

type scored struct {
	node *Node
	loss float64
}

func newRetention(st *store.Store, nodes []*Node, keep string) *retention {
	k := &retention{st: st, keep: keep, nodes: nodes, order: map[*Node]int{}, children: map[*Node][]*Node{}, done: map[*Node]bool{}, best: map[string]scored{}}
	for i, n := range nodes {
		k.order[n] = i
		if n.Parent != nil {
			k.children[n.Parent] = append(k.children[n.Parent], n)
		}
	}
	return k
}

// all reports whether all weights stay.
func (k *retention) all() bool { return k.keep == study.KeepWeights || k.keep == "" }

// finished notes that a run is finished and returns those whose weights need not stay
// any more because of it.
func (k *retention) finished(n *Node) ([]*Node, error) {
	if k.all() {
		return nil, nil
	}
	loss := math.Inf(1)
	if n.Spec.Stage != study.PretrainRun {
		m, err := k.st.Manifest(n.Digest)
		if err == nil {
			loss, err = n.loss(k.st, m)
		}
		if err != nil {
			return nil, err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done[n] = true
	candidates := []*Node{n, n.Parent}
	if n.Spec.Stage != study.PretrainRun {
		before, ok := k.best[n.Spec.Target]
		if !ok || loss < before.loss || loss == before.loss && k.order[n] < k.order[before.node] {
			k.best[n.Spec.Target] = scored{n, loss}
			candidates = append(candidates, before.node)
		}
	}
	var drop []*Node
	for _, c := range candidates {
		if c != nil && k.droppable(c) {
			drop = append(drop, c)
		}
	}
	return drop, nil
}

// droppable reports whether nothing needs a run's weights as long as the study goes on.
func (k *retention) droppable(n *Node) bool {
	if !k.done[n] || k.best[n.Spec.Target].node == n {
		return false
	}
	for _, c := range k.children[n] {
		if !k.done[c] {
			return false
		}
	}
	return true
}

// why is what a mark in the place of dropped weights says.
func (k *retention) why() string { return fmt.Sprintf("keep = %q", k.keep) }

// Superfluous lists the study's finished runs whose weights it does not keep, those
// included that were dropped.
func (r *Resolved) Superfluous() ([]*Node, error) {
	k := newRetention(r.Store, r.Nodes, r.Plan.Study.Keep)
	if k.all() {
		return nil, nil
	}
	err := parallel.Each(len(r.Nodes), func(i int) error {
		if !r.Store.HasRun(r.Nodes[i].Digest) {
			return nil
		}
		_, err := k.finished(r.Nodes[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	if k.keep == study.KeepMetrics && len(k.done) == len(r.Nodes) {
		clear(k.best)
	}
	var drop []*Node
	for _, n := range r.Nodes {
		if k.droppable(n) {
			drop = append(drop, n)
		}
	}
	return drop, nil
}

// Retain drops the weights that the study does not keep and says how many. It is called
// when its report is written. Weights that a backend could not rebuild stay.
func (r *Resolved) Retain(meter progress.Meter) error {
	nodes, err := r.Superfluous()
	if err != nil {
		return err
	}
	n, bytes := 0, int64(0)
	for _, node := range nodes {
		freed, err := dropRun(r.Store, node.Digest, fmt.Sprintf("keep = %q", r.Plan.Study.Keep))
		if err != nil {
			return err
		}
		if freed > 0 {
			n++
			bytes += freed
		}
	}
	if n > 0 {
		progress.Or(meter).Printf("dropped the weights of %d runs, %s (keep = %q); 'refocus rebuild RUN' trains one again, to the same bits", n, format.Bytes(bytes), r.Plan.Study.Keep)
	}
	return nil
}

// dropRun drops a run's weights if they can be rebuilt and nobody works on it.
func dropRun(st *store.Store, digest, why string) (freed int64, err error) {
	if st.Dropped(digest) {
		return 0, nil
	}
	m, err := st.Manifest(digest)
	if err != nil || !Repeatable(m.Backend.Determinism) {
		return 0, err
	}
	freed, err = st.Drop(digest, why)
	if errors.Is(err, store.ErrBusy) {
		return 0, nil
	}
	return freed, err
}
