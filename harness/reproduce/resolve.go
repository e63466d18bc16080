package reproduce

import (
	"context"
	"fmt"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/train"
)

// Node is a run with the address of its result.
type Node struct {
	Run    *study.Run
	Spec   train.Spec
	Digest string
	Parent *Node
	Notes  []string // what the plan asked for and the backend cannot do
}

// Data says how to make a plan's data sets.
type Data struct {
	Sources []dataset.Source // simulated
	sets    map[setKey]set
}

type setKey struct{ domain, split string }

// set is one domain's training or validation images; its digest is known before
// they are made.
type set struct {
	digest string
	count  int
}

// Source is the simulated set of a domain's images.
func Source(s *study.Study, d *study.Domain, split string) dataset.Source {
	n := d.TrainImages
	if split == dataset.Validation {
		n = d.ValidationImages
	}
	return dataset.Source{
		Config:     d.Simulation,
		Conditions: d.Conditions,
		Seed:       s.Seed,
		Split:      split,
		Count:      n,
	}
}

// NewData lists the data sets a plan needs: validation images of every domain,
// training images of every domain that some run trains on. The user's own
// images are imported at once.
func NewData(ctx context.Context, st *store.Store, p *study.Plan) (*Data, error) {
	d := &Data{sets: map[setKey]set{}}
	trained := map[string]bool{}
	for _, r := range p.Runs {
		for _, part := range r.Mixture {
			trained[part.Domain.Key] = true
		}
	}
	for i := range p.Domains {
		dom := &p.Domains[i]
		if dom.Own != nil {
			if err := d.own(ctx, st, dom); err != nil {
				return nil, err
			}
			continue
		}
		for _, split := range []string{dataset.Train, dataset.Validation} {
			if split == dataset.Train && !trained[dom.Key] {
				continue
			}
			src := Source(p.Study, dom, split)
			d.Sources = append(d.Sources, src)
			d.sets[setKey{dom.Key, split}] = set{src.Digest(), src.Count}
		}
	}
	return d, nil
}

// Resolve gives every run of the plan its Spec and digest for the backend.
func Resolve(p *study.Plan, data *Data, b backend.Description) ([]*Node, error) {
	s := p.Study
	var validation []train.Domain
	for _, dom := range p.Domains {
		v := data.sets[setKey{dom.Key, dataset.Validation}]
		validation = append(validation, train.Domain{Name: dom.Key, Digest: v.digest, Images: v.count})
	}
	nodes := make([]*Node, len(p.Runs))
	byRun := map[*study.Run]*Node{}
	for i, r := range p.Runs {
		n := &Node{Run: r}
		precision, err := n.precision(b)
		if err != nil {
			return nil, err
		}
		n.Spec = train.Spec{
			Format:  train.Format,
			Stage:   r.Kind,
			Network: nn.UNetOptions{Width: s.Network.Width, Classes: 2},
			Loss:    s.Training.Loss,
			Backend: train.Backend{Name: b.Name, Numerics: b.Numerics, Precision: precision},
			Seed:    s.Seed, Stream: r.ID,
			Validation:   validation,
			Target:       r.Target.Key,
			Epochs:       r.Epochs,
			BatchSize:    s.Training.Batch,
			Dihedral:     s.Training.Dihedral,
			LearningRate: r.LearningRate,
			Decay:        s.Training.LearningRateDecay,
			Adam:         s.Training.Adam,
		}
		if r.Frozen != study.FreezeNone && r.Frozen != "" {
			n.Spec.Frozen = []string{r.Frozen}
		}
		for _, part := range r.Mixture {
			t, ok := data.sets[setKey{part.Domain.Key, dataset.Train}]
			if !ok {
				return nil, fmt.Errorf("run %s: domain %s has no training images", r.ID, part.Domain.Key)
			}
			n.Spec.Data = append(n.Spec.Data, train.Part{
				Domain: train.Domain{Name: part.Domain.Key, Digest: t.digest, Images: part.Images}, Of: t.count,
			})
		}
		if r.Parent != nil {
			n.Parent = byRun[r.Parent]
			n.Spec.Parent = n.Parent.Digest
		}
		if err := n.Spec.Check(); err != nil {
			return nil, fmt.Errorf("run %s: %w", r.ID, err)
		}
		if n.Digest, err = n.Spec.Digest(); err != nil {
			return nil, err
		}
		nodes[i], byRun[r] = n, n
	}
	return nodes, nil
}

// precision is what the run will be trained in: what the spec asks for, or its
// fallback where the backend lacks that.
func (n *Node) precision(b backend.Description) (string, error) {
	want, fallback := n.Run.Precision, n.Run.PrecisionFallback
	switch {
	case slices.Contains(b.Precisions, want):
		return want, nil
	case fallback != "" && slices.Contains(b.Precisions, fallback):
		n.Notes = append(n.Notes, fmt.Sprintf("trained in %s: backend %s cannot do %s", fallback, b.Name, want))
		return fallback, nil
	}
	return "", fmt.Errorf("run %s asks for precision %s, which backend %s lacks (it has %v); set training.precision_fallback to allow another", n.Run.ID, want, b.Name, b.Precisions)
}

// Count is the number of images of a domain's set.
func (d *Data) Count(domain, split string) int { return d.sets[setKey{domain, split}].count }
