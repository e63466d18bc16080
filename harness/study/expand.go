package study

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/nn"
)

// Plan is a study expanded into domains and runs.
type Plan struct {
	Study *Study
	// Network is what the runs train: the layout of the U-Net, without memory for
	// its weights, or a network from elsewhere with the weights that models start
	// from.
	Network *nn.Graph
	Domains []Domain
	// Runs are in an order in which every run comes after its Parent. The order
	// depends on nothing but the spec.
	Runs []*Run
}

// Domain is a set of labelled images that differ from those of other domains
// in their imaging conditions or their specimens.
type Domain struct {
	// Key identifies the domain in file names and tables: "-100" (Å), "30"
	// (e⁻/Å²), "w_CdSe_small", or the name of own data.
	Key string `json:"key"`
	// Name is for people: "defocus −10 nm", "dose 30 e⁻/Å²", "w_CdSe small".
	Name string `json:"name"`
	// Value is the domain's defocus (Å) or dose (e⁻/Å²), whichever varies, and
	// 0 where neither or both do.
	Value float64 `json:"value"`

	// Imaging conditions and specimen of a simulated domain.
	hrtem.Conditions
	Size       string       `json:"size,omitempty"` // name in [sizes]
	Simulation hrtem.Config `json:"simulation"`

	// Own is set for a domain of the user's own images.
	Own *OwnData `json:"own,omitempty"`

	// Number of images; 0 for own data whose spec does not say.
	TrainImages      int `json:"train_images"`
	ValidationImages int `json:"validation_images"`
}

// Kinds of run.
const (
	PretrainRun = "pretrain" // first stage of a transfer study
	TransferRun = "transfer" // second stage
	SingleRun   = "single"   // the only stage of a mixture study
)

// Run is one stage of training of one model.
type Run struct {
	// ID is unique in the study, readable and safe in file names, and depends
	// only on what the run is: "transfer_-100_150_lr1e-3_1e-4_n64_encoder_s0".
	// It also names the run's random streams.
	ID     string
	Kind   string
	Parent *Run // the pretraining that a transfer starts from, else nil
	// Source is the domain of the pretraining (transfer) or the minor domain
	// (single), nil for a pretraining. Target is the domain that the best epoch
	// is chosen on: the one trained on, or the major one.
	Source, Target *Domain
	Mixture        []Part  // what an epoch is made of
	LearningRate   float64 // of the first epoch
	Epochs         int
	Frozen         string // FreezeNone or a group of the network's parameters
	Images         int    // of all parts, before augmentation
	Seed           int    // number of the initialisation, from 0

	// As in the study's [training] table.
	Precision         string
	PrecisionFallback string
	PowerCapWatts     int
}

// Part is a number of images of one domain.
type Part struct {
	Domain *Domain
	Images int
}

// MarshalJSON writes the run with domains and parent by their keys.
func (r *Run) MarshalJSON() ([]byte, error) {
	type part struct {
		Domain string `json:"domain"`
		Images int    `json:"images"`
	}
	v := struct {
		ID                string  `json:"id"`
		Kind              string  `json:"kind"`
		Parent            string  `json:"parent,omitempty"`
		Source            string  `json:"source,omitempty"`
		Target            string  `json:"target"`
		Mixture           []part  `json:"mixture"`
		LearningRate      float64 `json:"learning_rate"`
		Epochs            int     `json:"epochs"`
		Frozen            string  `json:"frozen"`
		Images            int     `json:"images"`
		Seed              int     `json:"seed"`
		Precision         string  `json:"precision"`
		PrecisionFallback string  `json:"precision_fallback,omitempty"`
		PowerCapWatts     int     `json:"power_cap_watts,omitempty"`
	}{
		ID: r.ID, Kind: r.Kind, Target: r.Target.Key, LearningRate: r.LearningRate, Epochs: r.Epochs,
		Frozen: r.Frozen, Images: r.Images, Seed: r.Seed,
		Precision: r.Precision, PrecisionFallback: r.PrecisionFallback, PowerCapWatts: r.PowerCapWatts,
	}
	if r.Parent != nil {
		v.Parent = r.Parent.ID
	}
	if r.Source != nil {
		v.Source = r.Source.Key
	}
	for _, p := range r.Mixture {
		v.Mixture = append(v.Mixture, part{p.Domain.Key, p.Images})
	}
	return json.Marshal(v)
}

// Models is the number of trained models: each transfer with its pretraining
// counts as one.
func (p *Plan) Models() int {
	n := 0
	for _, r := range p.Runs {
		if r.Kind != PretrainRun {
			n++
		}
	}
	return n
}

// Expand returns the study's domains and runs, and reads its network. The error is
// an [*Error] for a study that the checks of a spec would refuse.
func (s *Study) Expand() (*Plan, error) {
	if found := s.check(true); len(found) > 0 {
		for i := range found {
			found[i].Key = strings.Join(found[i].path, ".")
		}
		return nil, &Error{Problems: found}
	}
	p := &Plan{Study: s, Domains: s.domains()}
	pairs := s.pairs(p.Domains)
	switch s.Kind {
	case Transfer:
		p.expandTransfer(pairs)
	case Mixture:
		p.expandMixture(pairs)
	}
	seen := make(map[string]bool, len(p.Runs))
	for _, r := range p.Runs {
		if seen[r.ID] {
			return nil, fmt.Errorf("study %s: two runs would be called %s; rename one of the domains", s.Name, r.ID)
		}
		seen[r.ID] = true
	}
	var err error
	if p.Network, err = s.Network.graph(); err != nil {
		return nil, fmt.Errorf("study %s: network: %w", s.Name, err)
	}
	if s.Network.ONNX != "" {
		if err := p.checkNetwork(); err != nil {
			return nil, fmt.Errorf("study %s: %w", s.Name, err)
		}
	}
	return p, nil
}

// pair holds indices of a study's domains.
type pair struct{ source, target int }

// pairs lists the ordered pairs of a source and another target for a transfer
// study, the unordered pairs, source first, for a mixture.
func (s *Study) pairs(domains []Domain) []pair {
	var all []pair
	seen := map[pair]bool{}
	for i := range domains {
		if !s.Source.selects(&domains[i]) {
			continue
		}
		for j := range domains {
			if i == j || !s.Target.selects(&domains[j]) {
				continue
			}
			if s.Kind == Mixture {
				if seen[pair{j, i}] {
					continue
				}
				seen[pair{i, j}] = true
			}
			all = append(all, pair{i, j})
		}
	}
	return all
}

// domains lists the grid's domains, the last axis varying fastest, then own data
// by name.
func (s *Study) domains() []Domain {
	var all []Domain
	if s.simulated() {
		sizes := s.Grid.Sizes
		if len(sizes) == 0 {
			sizes = []string{""}
		}
		for _, crystal := range s.Grid.Crystals {
			for _, size := range sizes {
				for _, defocus := range s.Grid.Defocus {
					for _, dose := range s.Grid.Dose {
						all = append(all, s.simulatedDomain(crystal, size, defocus, dose))
					}
				}
			}
		}
	}
	for _, name := range keys(s.Own) {
		o := s.Own[name]
		all = append(all, Domain{
			Key: name, Name: name, Own: &o,
			TrainImages: o.TrainImages, ValidationImages: o.ValidationImages,
		})
	}
	return all
}

func (s *Study) simulatedDomain(crystal, size string, defocus, dose float64) Domain {
	d := Domain{
		Conditions:  hrtem.Conditions{Defocus: defocus, DefocusStd: s.Grid.DefocusSpread, Dose: dose},
		Size:        size,
		Simulation:  s.sized(size).Of(crystal, s.LabelBlur),
		TrainImages: s.Grid.TrainImages, ValidationImages: s.Grid.ValidationImages,
	}
	var key, name []string
	if len(s.Grid.Crystals) > 1 || len(s.Grid.Sizes) > 1 {
		key = append(key, crystal)
		name = append(name, crystal)
		if len(s.Grid.Sizes) > 1 {
			key = append(key, size)
			name[0] += " " + size
		}
	}
	varied := 0
	if len(s.Grid.Defocus) > 1 {
		key = append(key, format.Plain(defocus))
		name = append(name, "defocus "+format.Defocus(defocus))
		d.Value = defocus
		varied++
	}
	if len(s.Grid.Dose) > 1 {
		key = append(key, format.Plain(dose))
		name = append(name, "dose "+format.Dose(dose))
		d.Value = dose
		varied++
	}
	if varied > 1 {
		d.Value = 0
	}
	if len(key) == 0 { // a grid of one domain
		key, name = []string{crystal}, []string{crystal}
	}
	d.Key, d.Name = strings.Join(key, "_"), strings.Join(name, ", ")
	return d
}

// selects reports whether the selection has the domain.
func (sel *Selection) selects(d *Domain) bool {
	if d.Own != nil {
		return sel.own(d.Key)
	}
	return sel.grid() &&
		admits(sel.Crystals, d.Simulation.Crystal) && admits(sel.Sizes, d.Size) &&
		admits(sel.Defocus, d.Defocus) && admits(sel.Dose, d.Dose)
}

func admits[T comparable](list []T, v T) bool {
	return len(list) == 0 || slices.Contains(list, v)
}

func (sel *Selection) axes() bool {
	return len(sel.Crystals)+len(sel.Sizes)+len(sel.Defocus)+len(sel.Dose) > 0
}

// grid reports whether any simulated domain can be selected.
func (sel *Selection) grid() bool { return sel.axes() || len(sel.Own) == 0 }

// own reports whether own data of that name is selected.
func (sel *Selection) own(name string) bool {
	if len(sel.Own) == 0 {
		return !sel.axes()
	}
	return slices.Contains(sel.Own, name)
}

// expandTransfer lists, for every initialisation, the pretrainings and the
// transfers. Shared pretrainings come first, so that nothing waits for them
// later; others directly before the one transfer they serve.
func (p *Plan) expandTransfer(pairs []pair) {
	s := p.Study
	combinations := s.combinations()
	shared := map[string]*Run{}
	if s.Training.PretrainSharing == ShareSeed {
		for seed := range s.Training.Initialisations {
			for i, pr := range pairs {
				if i > 0 && pairs[i-1].source == pr.source {
					continue // pairs are grouped by their source
				}
				for _, rate := range s.Pretrain.LearningRates {
					if shared[pretrainID(&p.Domains[pr.source], rate, seed)] != nil {
						continue // a zipped list may have a rate twice
					}
					r := p.pretraining(pr.source, rate, seed, "")
					shared[r.ID] = r
				}
			}
		}
	}
	for seed := range s.Training.Initialisations {
		for _, pr := range pairs {
			source, target := &p.Domains[pr.source], &p.Domains[pr.target]
			for _, c := range combinations {
				first, rate := s.Pretrain.LearningRates[c[0]], s.Transfer.LearningRates[c[1]]
				images, frozen := s.Transfer.Images[c[2]], s.Transfer.Frozen[c[3]]
				parent := shared[pretrainID(source, first, seed)]
				if parent == nil {
					parent = p.pretraining(pr.source, first, seed,
						fmt.Sprintf("_for_%s_lr%s_n%d_%s", target.Key, format.Plain(rate), images, frozen))
				}
				r := p.run(TransferRun, fmt.Sprintf("transfer_%s_%s_lr%s_%s_n%d_%s_s%d",
					source.Key, target.Key, format.Plain(first), format.Plain(rate), images, frozen, seed), seed)
				r.Parent, r.Source, r.Target = parent, source, target
				r.Mixture, r.Images = []Part{{target, images}}, images
				r.LearningRate, r.Epochs, r.Frozen = rate, s.Transfer.Epochs, frozen
			}
		}
	}
}

func pretrainID(source *Domain, rate float64, seed int) string {
	return fmt.Sprintf("pretrain_%s_lr%s_s%d", source.Key, format.Plain(rate), seed)
}

func (p *Plan) pretraining(source int, rate float64, seed int, suffix string) *Run {
	d := &p.Domains[source]
	r := p.run(PretrainRun, pretrainID(d, rate, seed)+suffix, seed)
	r.Target = d
	r.Mixture, r.Images = []Part{{d, p.Study.Pretrain.Images}}, p.Study.Pretrain.Images
	r.LearningRate, r.Epochs = rate, p.Study.Pretrain.Epochs
	return r
}

func (p *Plan) expandMixture(pairs []pair) {
	s := p.Study
	combinations := s.combinations()
	for seed := range s.Training.Initialisations {
		for _, pr := range pairs {
			major, minor := &p.Domains[pr.source], &p.Domains[pr.target]
			for _, c := range combinations {
				m, rate := s.Mixture.Images[c[0]], s.Mixture.LearningRates[c[1]]
				r := p.run(SingleRun, fmt.Sprintf("single_%s_%s_n%d-%d_lr%s_s%d",
					major.Key, minor.Key, m[0], m[1], format.Plain(rate), seed), seed)
				r.Source, r.Target = minor, major
				r.Mixture, r.Images = []Part{{major, m[0]}, {minor, m[1]}}, m[0]+m[1]
				r.LearningRate, r.Epochs = rate, s.Mixture.Epochs
			}
		}
	}
}

// run appends a run with what all runs share.
func (p *Plan) run(kind, id string, seed int) *Run {
	t := p.Study.Training
	r := &Run{
		ID: id, Kind: kind, Seed: seed, Frozen: FreezeNone,
		Precision: t.Precision, PrecisionFallback: t.PrecisionFallback, PowerCapWatts: t.PowerCapWatts,
	}
	p.Runs = append(p.Runs, r)
	return r
}
