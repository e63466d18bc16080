package study

import (
	"encoding/json"
	"math"
	"time"
)

// Estimate is what a plan asks of a machine.
type Estimate struct {
	Domains    int   `json:"domains"`
	Structures int   `json:"structures"` // to simulate; domains of equal specimens share them
	Images     int   `json:"images"`     // simulated, training and validation, over all domains
	DataBytes  int64 `json:"data_bytes"` // exit waves, images and labels

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

	// AssumedSize is the side in pixels that stands for own data whose spec has
	// no size, 0 where there is none of that.
	AssumedSize int `json:"assumed_size,omitempty"`

	simulation float64 // see SimulationTime
}

// Estimate counts the plan's work.
func (p *Plan) Estimate() Estimate {
	s := p.Study
	e := Estimate{Domains: len(p.Domains)}

	structures := map[string]int{} // specimens by what determines them
	var validation int64
	var forward float64 // of validating once on every domain
	for i := range p.Domains {
		d := &p.Domains[i]
		validation += int64(d.ValidationImages)
		forward += float64(d.ValidationImages) * newWork(s.Network.Width, p.size(d, &e)).forward()
		if d.Own != nil {
			continue
		}
		n := d.TrainImages + d.ValidationImages
		e.Images += n
		e.DataBytes += int64(n) * int64(d.Simulation.Crop) * int64(d.Simulation.Crop) * 4
		key := d.Simulation.key()
		if structures[key] == 0 {
			structures[key] = n
			e.Structures += n
			m := d.Simulation
			e.DataBytes += int64(n) * (int64(m.Phonons)*int64(m.Output)*int64(m.Output)*8 + int64(m.Crop)*int64(m.Crop))
			e.simulation += float64(n) * m.work()
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
			e.FLOPs += float64(steps) * newWork(s.Network.Width, p.size(part.Domain, &e)).step(r.Frozen)
		}
		e.ValidationImages += validation * epochs
		e.FLOPs += forward * float64(epochs)
	}
	e.PretrainingsShared = len(sources)
	return e
}

// size is the side of a domain's images in pixels.
func (p *Plan) size(d *Domain, e *Estimate) int {
	switch {
	case d.Own == nil:
		return d.Simulation.Crop
	case d.Own.Size > 0:
		return d.Own.Size
	case p.Study.simulated():
		e.AssumedSize = p.Study.Simulation.Crop
	default:
		e.AssumedSize = 512
	}
	return e.AssumedSize
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

// key is what makes two domains share their structures.
func (m Simulation) key() string {
	b, err := json.Marshal(m)
	if err != nil {
		panic(err) // numbers and strings always encode
	}
	return string(b)
}

// work is proportional to the cost of one structure: two Fourier transforms of
// the grid per slice and phonon configuration propagate, about as much again
// makes the slice's potential.
func (m Simulation) work() float64 {
	n := float64(m.Grid) * float64(m.Grid)
	thickness := (m.Carbon[0]+m.Carbon[1])/2 + 2*m.Radius[1] + 4
	return n * math.Log2(n) * float64(m.Phonons) * math.Ceil(thickness/m.Slice)
}

// secondsPerWork turns work into seconds of one core. Measured on a shared Zen 3
// core: 0.056 s per structure of the quick profile, 12.8 s at paper scale, which
// are 0.95e-9 and 0.91e-9 s.
const secondsPerWork = 0.93e-9

// work is the number of multiply-adds of one image in the parts of the network
// that differ in what they cost when frozen.
type work struct {
	first            float64 // first convolution, which needs no input gradient
	encoder, decoder float64 // all of each, first included
}

// newWork counts the convolutions of the U-Net of the given width on a square
// image: 7×7 and pooling, three times two residual units, four steps up, head.
func newWork(width, size int) work {
	w, p := float64(width), float64(size)*float64(size)
	conv := func(kernel, in, out, pixels float64) float64 { return kernel * in * out * pixels }
	k := work{first: conv(49, 1, w, p)}
	k.encoder = k.first
	in, pixels := w, p/4
	for range 3 {
		out := 2 * in
		pixels /= 4
		k.encoder += conv(9, in, out, pixels) + 3*conv(9, out, out, pixels) + conv(1, in, out, pixels)
		in = out
	}
	for _, skip := range []float64{4 * w, 2 * w, w, 0} {
		out := in / 2
		pixels *= 4
		k.decoder += conv(9, in+skip, out, pixels) + conv(9, out, out, pixels)
		in = out
	}
	k.decoder += conv(1, in, 2, pixels)
	return k
}

// forward is the FLOPs of inference on one image.
func (k work) forward() float64 { return 2 * (k.encoder + k.decoder) }

// step is the FLOPs of one image in a training step: forward, gradients of the
// activations as far down as something below is trained, and gradients of the
// weights that are trained.
func (k work) step(frozen string) float64 {
	switch frozen {
	case FreezeEncoder:
		return k.forward() + 4*k.decoder
	case FreezeDecoder:
		return k.forward() + 2*k.decoder + 4*k.encoder - 2*k.first
	}
	return 3*k.forward() - 2*k.first
}
