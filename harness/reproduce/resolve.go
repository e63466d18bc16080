package reproduce

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/internal/parallel"
	"github.com/refocus-em/refocus/harness/progress"
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
	// Network is the file of a network from elsewhere, nil for the U-Net; see
	// train.Spec.UseNetwork.
	Network []byte
	Notes   []string // what the plan asked for and the backend cannot do
}

// Data is the data sets of a plan and how to make them.
type Data struct {
	Simulated []Simulated
	Own       []OwnImages
	// Warnings tell of sets of the user's own images that were damaged and have been
	// made again.
	Warnings []string
	sets     map[setKey]set
}

// Simulated is a domain's training or validation images that are simulated.
type Simulated struct {
	Domain *study.Domain
	Source dataset.Source
}

// OwnImages are a domain's sets of the user's own images.
type OwnImages struct {
	Domain *study.Domain
	dataset.Imported
}

type setKey struct{ domain, split string }

// set is one domain's training or validation images; its digest is known before
// they are made.
type set struct {
	digest string
	count  int
	crop   int // see train.Part
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
			if err := d.own(ctx, st, p, dom); err != nil {
				return nil, err
			}
			continue
		}
		for _, split := range []string{dataset.Train, dataset.Validation} {
			if split == dataset.Train && !trained[dom.Key] {
				continue
			}
			src := Source(p.Study, dom, split)
			d.Simulated = append(d.Simulated, Simulated{dom, src})
			d.sets[setKey{dom.Key, split}] = set{src.Digest(), src.Count, 0}
		}
	}
	return d, nil
}

// Find finds a domain's training or validation images in the store; none (Count is 0)
// where the study has no use for them.
func (d *Data) Find(st *store.Store, p *study.Plan, dom *study.Domain, split string) (dataset.Ready, error) {
	s, ok := d.sets[setKey{dom.Key, split}]
	if !ok {
		return dataset.Ready{}, nil
	}
	r, err := dataset.Find(st.Root(), s.digest)
	if errors.Is(err, fs.ErrNotExist) {
		err = missing(st, p, dom)
	}
	return r, err
}

// Named lists the simulated sets under the names of their domains.
func (d *Data) Named() []dataset.Named {
	var sets []dataset.Named
	for _, s := range d.Simulated {
		sets = append(sets, dataset.Named{Name: s.Domain.Name, Source: s.Source})
	}
	return sets
}

// Resolved is a plan whose every run has its place in a store.
type Resolved struct {
	Plan    *study.Plan
	Store   *store.Store
	Backend backend.Description // that trains, or has trained
	Data    *Data
	Nodes   []*Node // in the plan's order
}

// Resolve addresses the plan's runs as the backend trains them.
func Resolve(ctx context.Context, st *store.Store, p *study.Plan, b backend.Description) (*Resolved, error) {
	data, err := NewData(ctx, st, p)
	if err != nil {
		return nil, err
	}
	nodes, err := resolve(p, data, b)
	if err != nil {
		return nil, err
	}
	return &Resolved{p, st, b, data, nodes}, nil
}

// String names the study, the profile and the backend: "defocus, profile smoke,
// backend cpu".
func (r *Resolved) String() string {
	return fmt.Sprintf("%s, profile %s, backend %s", r.Plan.Study.Name, r.Plan.Study.ProfileName(), r.Backend.Name)
}

// Generate makes the simulated data sets that are missing and returns where every
// domain's images are.
func (r *Resolved) Generate(ctx context.Context, o dataset.Options) (map[string]train.Images, error) {
	return r.Data.Generate(ctx, r.Store, r.Plan, o)
}

// Train is the function Train for the study's runs, whose manifests name the
// study.
func (r *Resolved) Train(ctx context.Context, o TrainOptions) (failures []Failure, elsewhere int, err error) {
	s := *r.Plan.Study
	s.Keep = "" // it says nothing of what is trained
	if o.StudyDigest, err = store.Digest("study", &s); err != nil {
		return nil, 0, err
	}
	if o.Keep = r.Plan.Study.Keep; o.Keep != study.KeepWeights && !Repeatable(r.Backend.Determinism) {
		progress.Or(o.Progress).Printf("keep = %q drops nothing: backend %s comes to the same bits again %s, so that dropped weights could not be rebuilt", o.Keep, r.Backend.Name, claimed(r.Backend.Determinism))
		o.Keep = study.KeepWeights
	}
	o.Study = r.Plan.Study.Name + "/" + r.Plan.Study.ProfileName()
	return Train(ctx, r.Store, r.Nodes, o)
}

// Note adds a line to the manifests of the runs that will be trained.
func (r *Resolved) Note(text string) {
	for _, n := range r.Nodes {
		n.Notes = append(n.Notes, text)
	}
}

// States counts a study's runs by how far they are.
type States struct {
	Runs      int `json:"runs"`
	Finished  int `json:"finished"`
	Running   int `json:"running"` // in some process, now
	Begun     int `json:"begun"`   // with a checkpoint, waiting to be resumed
	Failed    int `json:"failed"`  // the last attempt has failed
	Untouched int `json:"untouched"`
}

// States looks at every run in the store.
func (r *Resolved) States() (States, error) {
	s := States{Runs: len(r.Nodes)}
	all, err := r.Look()
	for _, v := range all {
		s.Count(v.State)
	}
	return s, err
}

// Seen is how far a run is, with its last attempt (store.Store.State).
type Seen struct {
	State   store.State
	Attempt *store.Attempt
}

// Look looks at every run in the store, in the order of Nodes.
func (r *Resolved) Look() ([]Seen, error) {
	all := make([]Seen, len(r.Nodes))
	return all, parallel.Each(len(r.Nodes), func(i int) (err error) {
		all[i].State, all[i].Attempt, err = r.Store.State(r.Nodes[i].Digest)
		return err
	})
}

// Count adds a run of a state.
func (s *States) Count(state store.State) {
	switch state {
	case store.Finished:
		s.Finished++
	case store.Running:
		s.Running++
	case store.Begun:
		s.Begun++
	case store.Failed:
		s.Failed++
	default:
		s.Untouched++
	}
}

// Radii are the radii in Å of the particles in the domains' simulated images, as
// far as these have been made.
func (r *Resolved) Radii() (map[string][]float64, error) {
	radii := map[string][]float64{}
	for _, s := range r.Data.Simulated {
		m, err := dataset.ReadManifest(r.Store.Root(), s.Source.Digest())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		for _, im := range m.Images {
			for _, p := range im.Structure.Particles {
				radii[s.Domain.Key] = append(radii[s.Domain.Key], p.Radius)
			}
		}
	}
	return radii, nil
}

// resolve gives every run of the plan its Spec and digest for the backend.
func resolve(p *study.Plan, data *Data, b backend.Description) ([]*Node, error) {
	s := p.Study
	var validation []train.Set
	for _, dom := range p.Domains {
		v := data.sets[setKey{dom.Key, dataset.Validation}]
		validation = append(validation, train.Set{Name: dom.Key, Digest: v.digest, Images: v.count})
	}
	var common train.Spec
	network, err := common.UseNetwork(p)
	if err != nil {
		return nil, err
	}
	nodes := make([]*Node, len(p.Runs))
	byRun := map[*study.Run]*Node{}
	for i, r := range p.Runs {
		n := &Node{Run: r, Network: network}
		precision, err := n.precision(b)
		if err != nil {
			return nil, err
		}
		n.Spec = train.Spec{
			Format:  train.Format,
			Stage:   r.Kind,
			Network: common.Network, ONNX: common.ONNX, Weights: common.Weights, ClassNames: common.ClassNames,
			Loss:    s.Training.Loss,
			Backend: train.Arithmetic{Name: b.Name, Numerics: b.Numerics, Precision: precision},
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
				Set: train.Set{Name: part.Domain.Key, Digest: t.digest, Images: part.Images}, Of: t.count, Crop: t.crop,
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
