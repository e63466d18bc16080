package study

import (
	"math"
	"time"

	"github.com/refocus-em/refocus/harness/hrtem"
	"github.com/refocus-em/refocus/harness/nn"
)

// Estimate is what a plan asks of a machine.
type Estimate struct {
	Domains    int   `json:"domains"`
	Structures int   `json:"structures"`  // to simulate; domains of equal specimens share them
	Images     int   `json:"images"`      // simulated, training and validation, over all domains
	ImageBytes int64 `json:"image_bytes"` // images and their labels
	// WaveBytes are those of the structures' exit waves, which need not be kept.
	WaveBytes int64 `json:"wave_bytes"`

	Pretrainings         int `json:"pretrainings"`          // in this plan
	PretrainingsShared   int `json:"pretrainings_shared"`   // with pretrain_sharing = "seed"
	PretrainingsUnshared int `json:"pretrainings_unshared"` // with pretrain_sharing = "none"
	Models               int `json:"models"`

	// ImageSteps counts samples that pass forward and backward: images ×
	// symmetries × epochs over all runs. ValidationImages pass forward only:
	// every epoch of every run validates on every domain.
	ImageSteps       int64 `json:"image_steps"`
	ValidationImages int64 `json:"validation_images"`
	// FLOPs of training and validation, counting each multiply-add as two,
	// convolutions only and as if all were computed directly.
	FLOPs float64 `json:"flops"`

	// ModelBytes are those of the weights that all runs leave, KeptBytes those of the
	// KeptModels runs whose weights stay (Study.Keep).
	ModelBytes int64 `json:"model_bytes"`
	KeptBytes  int64 `json:"kept_bytes"`
	KeptModels int   `json:"kept_models"`
	// WaitingBytes are those of weights that do not stay and are there for long: of
	// pretrainings that several transfers share.
	WaitingBytes int64 `json:"waiting_bytes"`
	// CheckpointBytes are those of what is kept of one run while it is trained.
	CheckpointBytes int64 `json:"checkpoint_bytes"`
	// RecordBytes are those of manifests, histories, records of attempts and logs, on
	// a disk of blocks of 4 KiB, and of the file of a network from elsewhere.
	RecordBytes int64 `json:"record_bytes"`

	// AssumedSize is the side in pixels that stands for own data whose spec has
	// no size, 0 where there is none of that.
	AssumedSize int `json:"assumed_size,omitempty"`

	simulation float64 // see SimulationTime
}

// Estimate counts the plan's work.
func (p *Plan) Estimate() Estimate {
	s := p.Study
	e := Estimate{Domains: len(p.Domains)}
	work := networkWork{p.Network, map[networkTask]float64{}}
	size := func(d *Domain) int {
		n, assumed := p.size(d)
		if assumed {
			e.AssumedSize = n
		}
		return n
	}

	structures := map[hrtem.Config]int{} // specimens by what determines them
	var validation int64
	var forward float64 // of validating once on every domain
	for i := range p.Domains {
		d := &p.Domains[i]
		validation += int64(d.ValidationImages)
		forward += float64(d.ValidationImages) * work.flops(size(d), "")
		if d.Own != nil {
			continue
		}
		n := d.TrainImages + d.ValidationImages
		e.Images += n
		pixels := int64(d.Simulation.Crop) * int64(d.Simulation.Crop)
		e.ImageBytes += int64(n) * pixels * (4 + 1)
		if m := d.Simulation; structures[m] == 0 {
			structures[m] = n
			e.Structures += n
			e.WaveBytes += int64(n) * (int64(m.Phonons)*int64(m.Output)*int64(m.Output)*8 + pixels)
			e.simulation += float64(n) * simulationWork(m)
		}
	}

	symmetries := int64(1)
	if s.Training.Dihedral {
		symmetries = 8
	}
	sources := map[string]bool{} // pretrainings if they were shared
	for _, r := range p.Runs {
		switch r.Kind {
		case PretrainRun:
			e.Pretrainings++
		case TransferRun:
			e.Models++
			e.PretrainingsUnshared++
			sources[pretrainID(r.Source, r.Parent.LearningRate, r.Seed)] = true
		case SingleRun:
			e.Models++
		}
		epochs := int64(r.Epochs)
		for _, part := range r.Mixture {
			steps := int64(part.Images) * symmetries * epochs
			e.ImageSteps += steps
			e.FLOPs += float64(steps) * work.flops(size(part.Domain), r.Frozen)
		}
		e.ValidationImages += validation * epochs
		e.FLOPs += forward * float64(epochs)
	}
	e.PretrainingsShared = len(sources)
	p.space(&e)
	return e
}

// StoreBytes are those of the store when the study is finished.
func (e Estimate) StoreBytes() int64 {
	return e.ImageBytes + e.WaveBytes + e.KeptBytes + e.RecordBytes
}

// space counts what runs take.
func (p *Plan) space(e *Estimate) {
	size := p.modelBytes()
	e.ModelBytes = size * int64(len(p.Runs))
	e.CheckpointBytes = checkpointModels * size
	targets := map[*Domain]bool{}
	for _, r := range p.Runs {
		if r.Kind != PretrainRun {
			targets[r.Target] = true
		}
		e.RecordBytes += p.recordBytes(r)
		if p.Study.Network.ONNX != "" {
			e.RecordBytes += size
		}
	}
	switch p.Study.Keep {
	case KeepBest:
		e.KeptModels = len(targets)
	case KeepMetrics:
	default:
		e.KeptModels = len(p.Runs)
	}
	e.KeptBytes = size * int64(e.KeptModels)
	if e.KeptModels < len(p.Runs) && p.Study.Training.PretrainSharing == ShareSeed {
		e.WaitingBytes = size * int64(e.Pretrainings)
	}
}

// checkpointModels is how many times the size of the weights a checkpoint has: the
// weights, the two moments of Adam, and the best weights so far.
const checkpointModels = 4

// recordBytes is what a run leaves besides weights: as much as its manifest, its
// history, the record of one attempt and its log were found to take.
func (p *Plan) recordBytes(r *Run) int64 {
	const block = 4096
	n, images := len(p.Domains), 0
	for i := range p.Domains {
		images += p.Domains[i].ValidationImages
	}
	var bytes int64
	for _, size := range []int{
		2400 + 150*n,              // manifest
		120 + r.Epochs*(110+85*n), // history
		150*n + 8*images*r.Epochs, // losses of every validation image
		1200,                      // record
		400,                       // log
	} {
		bytes += int64((size + block - 1) / block * block)
	}
	return bytes
}

// ImageSize is the side in pixels of the images of the first domain.
func (p *Plan) ImageSize() int {
	n, _ := p.size(&p.Domains[0])
	return n
}

// size is the side of a domain's images in pixels, and whether it is assumed.
func (p *Plan) size(d *Domain) (n int, assumed bool) {
	switch in := p.Network.Input.Shape; {
	case d.Own == nil:
		return d.Simulation.Crop, false
	case d.Own.Crop > 0:
		return d.Own.Crop, false
	case d.Own.Size > 0:
		return d.Own.Size, false
	case in[2] > 0:
		return in[2], true
	case p.Study.simulated():
		return p.Study.Simulation.Crop, true
	}
	return nn.LCM(512, max(1, p.Network.Multiple)), true
}

// TrainingTime is how long the FLOPs take at a sustained rate in FLOP/s.
func (e Estimate) TrainingTime(rate float64) time.Duration {
	return seconds(e.FLOPs / rate)
}

// SimulationTime is how long the structures take on a number of cores.
func (e Estimate) SimulationTime(cores int) time.Duration {
	return seconds(e.simulation * secondsPerWork / float64(max(cores, 1)))
}

// seconds saturates, so that an absurd plan gives a long time and not a wrong one.
func seconds(s float64) time.Duration {
	if s >= math.MaxInt64/1e9 {
		return math.MaxInt64
	}
	return time.Duration(s * 1e9)
}

// simulationWork is proportional to the cost of one structure: two Fourier transforms of
// the grid per slice and phonon configuration propagate, about as much again
// makes the slice's potential.
func simulationWork(m hrtem.Config) float64 {
	n := float64(m.Grid) * float64(m.Grid)
	thickness := (m.Carbon[0]+m.Carbon[1])/2 + 2*m.Radius[1] + 4
	return n * math.Log2(n) * float64(m.Phonons) * math.Ceil(thickness/m.Slice)
}

// secondsPerWork turns simulationWork into seconds of one core. Measured on a shared Zen 3
// core: 0.056 s per structure of the quick profile, 12.8 s at paper scale, which
// are 0.95e-9 and 0.91e-9 s.
const secondsPerWork = 0.93e-9

// networkWork counts the FLOPs of the study's network on one square image: those
// of inference, and those of a training step with a part frozen.
type networkWork struct {
	network *nn.Graph
	counted map[networkTask]float64
}

type networkTask struct {
	size   int
	frozen string // see Run.Frozen, "" for inference
}

func (w *networkWork) flops(size int, frozen string) float64 {
	t := networkTask{size, frozen}
	if n, ok := w.counted[t]; ok {
		return n
	}
	count := func() (int64, error) { return w.network.TrainingMultiplyAdds([]int{1, 1, size, size}, frozen) }
	if frozen == "" {
		count = func() (int64, error) { return w.network.MultiplyAdds([]int{1, 1, size, size}) }
	}
	n, err := count()
	if err != nil {
		panic(err) // an expanded study has been checked
	}
	w.counted[t] = 2 * float64(n)
	return w.counted[t]
}
