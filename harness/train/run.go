package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/refocus-em/refocus/harness/dataset"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/safetensors"
	"github.com/refocus-em/refocus/harness/store"
)

// Images are a domain's data sets. Train is needed only for domains trained on.
type Images struct{ Train, Validation dataset.Ready }

// Job is one run to do.
type Job struct {
	Spec    Spec
	Network []byte            // see Spec.Graph
	Parent  []byte            // weights of the parent run, as stored
	Images  map[string]Images // by domain name
	Threads int
	Device  string // "": the backend's first
	// Work is a folder for the patches of an epoch, which are gone when Run returns.
	Work string
}

// Checkpoints keeps an unfinished run's last checkpoint.
type Checkpoints interface {
	Checkpoint() ([]byte, error) // nil where there is none
	SetCheckpoint([]byte) error
	CheckpointPath() string // for error messages
	// Damaged is told that the checkpoint is damaged, and how. It takes it out
	// of the way; the run starts from its beginning, which costs time only.
	Damaged(err error) error
}

// Result is a finished stage.
type Result struct {
	History store.History
	// Weights holds the graph's tensors after the best epoch as safetensors.
	Weights []byte
	Seconds Seconds
}

// Seconds of wall time, summed over all attempts.
type Seconds struct {
	Train    float64 `json:"train"`
	Evaluate float64 `json:"evaluate"`
}

// Run trains the job on a new session of b, from its last checkpoint where
// there is one that is whole. The result does not depend on interruptions. The
// meter counts work in the unit of Spec.Work, after every optimiser step and every
// validation set; what the checkpoint saves doing again is skipped. Its phases are
// the caller's.
func Run(ctx context.Context, b backend.Backend, job Job, keep Checkpoints, meter progress.Meter) (*Result, error) {
	s := job.Spec
	if err := s.Check(); err != nil {
		return nil, err
	}
	g, err := s.Graph(job.Network)
	if err != nil {
		return nil, err
	}
	sess, err := b.Open(ctx, g, s.options(job))
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	defer sess.Close()
	if err := load(ctx, sess, job); err != nil {
		return nil, err
	}

	samples, err := s.samples()
	if err != nil {
		return nil, err
	}
	r := &runner{spec: s, samples: samples, sess: sess, graph: g, meter: meter}
	for _, p := range s.Data {
		if p.Crop > 0 {
			c, err := newCropper(job, p)
			if err != nil {
				return nil, err
			}
			defer c.Close()
			r.crops = append(r.crops, c)
		}
	}
	c, err := keep.Checkpoint()
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint (where it is removed, the run starts from its beginning): %w", err)
	}
	var state []byte
	if c != nil {
		if state, err = r.restore(c); err != nil {
			if err := keep.Damaged(err); err != nil {
				return nil, fmt.Errorf("the checkpoint %s is damaged (remove it, and the run starts from its beginning): %w", keep.CheckpointPath(), err)
			}
		}
	}
	switch {
	case state != nil:
		if err := sess.SetState(ctx, state); err != nil {
			return nil, fmt.Errorf("restoring the checkpoint %s (where it is removed, the run starts from its beginning): %w", keep.CheckpointPath(), err)
		}
		n := len(r.result.History.Epochs)
		meter.Skip(s.epochWork() * float64(n))
	case s.Parent != "":
		if err := sess.SetState(ctx, job.Parent); err != nil {
			return nil, fmt.Errorf("starting from run %.12s: %w", s.Parent, err)
		}
	}
	r.result.History.Stage, r.result.History.Target = s.Stage, s.Target
	for epoch := len(r.result.History.Epochs); epoch < s.Epochs; epoch++ {
		state, err := r.epoch(ctx, epoch)
		if err != nil {
			return nil, fmt.Errorf("epoch %d: %w", epoch+1, err)
		}
		c, err := r.checkpoint(state)
		if err != nil {
			return nil, err
		}
		if err := keep.SetCheckpoint(c); err != nil {
			return nil, fmt.Errorf("writing the checkpoint: %w", err)
		}
	}
	return &r.result, nil
}

// Prefixes of the ids under which a domain's two sets are loaded.
const (
	trainID      = "train/"
	validationID = "validation/"
)

func load(ctx context.Context, sess backend.Session, job Job) error {
	set := func(id string, f dataset.Ready) error {
		if f.Path == "" {
			return fmt.Errorf("data set %s is missing", id)
		}
		if err := sess.LoadDataset(ctx, id, f.Path, f.SHA256); err != nil {
			return fmt.Errorf("loading data set %s: %w", id, err)
		}
		return nil
	}
	for _, p := range job.Spec.Data {
		if p.Crop > 0 {
			continue // patches, every epoch
		}
		if err := set(trainID+p.Name, job.Images[p.Name].Train); err != nil {
			return err
		}
	}
	for _, d := range job.Spec.Validation {
		if err := set(validationID+d.Name, job.Images[d.Name].Validation); err != nil {
			return err
		}
	}
	return nil
}

type runner struct {
	spec    Spec
	samples []backend.Sample
	sess    backend.Session
	graph   *nn.Graph
	meter   progress.Meter
	result  Result
	crops   []*cropper
}

// epoch trains and validates one epoch, counted from 0, and returns the state
// after it.
func (r *runner) epoch(ctx context.Context, epoch int) ([]byte, error) {
	s := r.spec
	e := store.Epoch{LearningRate: s.rate(epoch), Validation: map[string]store.Score{}}
	batches := s.batches(r.samples, epoch)
	start := time.Now()
	steps := 0
	for _, c := range r.crops {
		if err := c.load(ctx, r.sess, epoch); err != nil {
			return nil, err
		}
	}
	err := r.sess.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: e.LearningRate, Frozen: s.Frozen},
		func(st backend.Step) error {
			e.TrainLoss += st.Loss
			if st.Skipped {
				e.Skipped++
			}
			r.meter.Add(float64(len(batches[steps])))
			steps++
			return nil
		})
	if err != nil {
		return nil, err
	}
	e.TrainLoss /= float64(len(batches))
	r.result.Seconds.Train += time.Since(start).Seconds()

	start = time.Now()
	for _, d := range s.Validation {
		ev, err := r.sess.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationID + d.Name})
		if err != nil {
			return nil, fmt.Errorf("validating on %s: %w", d.Name, err)
		}
		e.Validation[d.Name] = store.Score{Loss: ev.MeanLoss(), Dice: ev.Dice()}
		r.meter.Add(float64(len(ev.Loss)) / validationWork)
	}
	r.result.Seconds.Evaluate += time.Since(start).Seconds()

	state, err := r.sess.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	h := &r.result.History
	h.Epochs = append(h.Epochs, e)
	if h.Best == 0 || e.Validation[s.Target].Loss < h.Epochs[h.Best-1].Validation[s.Target].Loss {
		h.Best = epoch + 1
		if r.result.Weights, err = weights(state, r.graph); err != nil {
			return nil, fmt.Errorf("reading the state: %w", err)
		}
	}
	return state, nil
}

// weights keeps of a session's state what the graph needs, in its order.
func weights(state []byte, g *nn.Graph) ([]byte, error) {
	f, err := safetensors.Decode(state)
	if err != nil {
		return nil, err
	}
	var ts []safetensors.Tensor
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		out := safetensors.Tensor{Name: t.Name, Shape: t.Shape}
		if i, ok := f.Info(t.Name); ok && i.DType == safetensors.F64 {
			out.Data, err = f.Float64(t.Name)
		} else {
			out.Data, err = f.Float32(t.Name)
		}
		if err != nil {
			return nil, err
		}
		ts = append(ts, out)
	}
	return safetensors.Encode(ts, nil)
}

// A checkpoint is one safetensors file, so that it is replaced atomically: the
// session's state and the best weights as bytes, the history and a checksum of
// it all as metadata.
func (r *runner) checkpoint(state []byte) ([]byte, error) {
	h, err := json.Marshal(r.result.History)
	if err != nil {
		return nil, err
	}
	sec, err := json.Marshal(r.result.Seconds)
	if err != nil {
		return nil, err
	}
	return safetensors.Encode([]safetensors.Tensor{
		{Name: "state", Shape: []int{len(state)}, Data: state},
		{Name: "best", Shape: []int{len(r.result.Weights)}, Data: r.result.Weights},
	}, map[string]string{"history": string(h), "seconds": string(sec), "sha256": checksum(state, r.result.Weights, h, sec)})
}

func checksum(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d\n", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// restore reads a checkpoint into the result so far and returns the session's
// state, or changes nothing.
func (r *runner) restore(c []byte) (state []byte, err error) {
	f, err := safetensors.Decode(c)
	if err != nil {
		return nil, err
	}
	read := func(name string) ([]byte, error) {
		i, ok := f.Info(name)
		if !ok {
			return nil, fmt.Errorf("no %s", name)
		}
		b := make([]byte, i.Len())
		return b, f.ReadUint8(name, 0, b)
	}
	if state, err = read("state"); err != nil {
		return nil, err
	}
	var res Result
	if res.Weights, err = read("best"); err != nil {
		return nil, err
	}
	history, seconds := []byte(f.Metadata["history"]), []byte(f.Metadata["seconds"])
	if f.Metadata["sha256"] != checksum(state, res.Weights, history, seconds) {
		return nil, errors.New("its content does not match its checksum")
	}
	if err := json.Unmarshal(history, &res.History); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if err := json.Unmarshal(seconds, &res.Seconds); err != nil {
		return nil, fmt.Errorf("seconds: %w", err)
	}
	if h := res.History; len(h.Epochs) == 0 || len(h.Epochs) > r.spec.Epochs || h.Best < 1 || h.Best > len(h.Epochs) {
		return nil, fmt.Errorf("%d epochs of %d, best %d", len(h.Epochs), r.spec.Epochs, h.Best)
	}
	r.result = res
	return state, nil
}

// LoadWeights fills the graph's parameters and statistics from a finished run's
// weights.
func LoadWeights(g *nn.Graph, weights []byte) error {
	f, err := safetensors.Decode(weights)
	if err != nil {
		return err
	}
	for _, t := range g.Tensors {
		if t.Role == nn.Constant {
			continue
		}
		i, ok := f.Info(t.Name)
		if !ok || i.Len() != t.Len() {
			return fmt.Errorf("the weights have no %q of shape %v", t.Name, t.Shape)
		}
		if i.DType == safetensors.F64 {
			d, err := f.Float64(t.Name)
			if err != nil {
				return err
			}
			for j, v := range d {
				t.Data[j] = float32(v)
			}
			continue
		}
		if t.Data, err = f.Float32(t.Name); err != nil {
			return err
		}
	}
	return nil
}
