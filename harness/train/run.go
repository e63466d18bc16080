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
	Epochs  int    // after which to stop, of those of Spec; 0: all
	// Disturb, where it is set, changes the weights that the run begins with, to see
	// what becomes of the change.
	Disturb func(*nn.Graph)
	// Work is a folder for the patches of an epoch, which are gone when Run returns.
	Work string
	// CheckpointEvery is the time between two checkpoints, where they do not take too
	// much of the time or of the disk; see runner.due. 0: whenever there can be one.
	CheckpointEvery time.Duration
	// Watch is told how the training goes; nil for nobody.
	Watch Watcher
}

// Watcher is told how a training goes, for people to see: nothing depends on it. What
// it is told it must not change.
type Watcher interface {
	// Step is told the loss of a batch, and how many epochs are done with it.
	Step(epochs, loss float64)
	// Epoch is told the history so far, after every epoch, and when a training goes on
	// from a checkpoint.
	Epoch(*store.History)
}

// Checkpoints keeps an unfinished run's last checkpoint.
type Checkpoints interface {
	Checkpoint() ([]byte, error) // the newest; nil where there is none
	SetCheckpoint([]byte) error
	CheckpointPath() string // for error messages
	// Damaged is told that the newest checkpoint is damaged, and how. It takes it out
	// of the way; the run goes on from the one before, or starts from its beginning,
	// which costs time only.
	Damaged(err error) error
}

// Result is a finished stage.
type Result struct {
	History store.History
	// Weights holds the graph's tensors after the best epoch as safetensors.
	Weights []byte
	// Losses of every validation image after every epoch, as ReadLosses takes them;
	// nil where the run went on from a checkpoint of an earlier version without.
	Losses  []byte
	Seconds Seconds
}

// Seconds of wall time, summed over all attempts.
type Seconds struct {
	Train    float64 `json:"train"`
	Evaluate float64 `json:"evaluate"`
}

// grace is how long a run may take to keep what it has trained when it is told to stop.
const grace = 2 * time.Minute

// Run trains the job on a new session of b, from its last checkpoint where
// there is one that is whole. The result does not depend on interruptions. The
// meter counts work in the unit of Spec.Work, after every optimiser step and every
// validation set; what the checkpoint saves doing again is skipped. Its phases are
// the caller's. When ctx is done, Run keeps what it has trained, which takes seconds,
// and returns the context's cause, or why what it has trained is lost; only one caused
// by store.ErrSuperseded makes it return at once.
func Run(ctx context.Context, b backend.Backend, job Job, keep Checkpoints, meter progress.Meter) (result *Result, err error) {
	var r *runner
	defer func() {
		if err != nil && ctx.Err() != nil && (r == nil || !r.fresh) {
			err = context.Cause(ctx) // whatever could not be done for that
		}
	}()
	s := job.Spec
	if err := s.Check(); err != nil {
		return nil, err
	}
	g, err := s.Graph(job.Network)
	if err != nil {
		return nil, err
	}
	if job.Disturb != nil {
		if s.Parent != "" {
			if err := LoadWeights(g, job.Parent); err != nil {
				return nil, fmt.Errorf("starting from run %.12s: %w", s.Parent, err)
			}
		}
		job.Disturb(g)
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
	r = &runner{spec: s, samples: samples, losses: losses{}, sess: sess, graph: g, meter: meter, watch: job.Watch, keep: keep, every: job.CheckpointEvery, kept: time.Now()}
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
	var state []byte
	for state == nil {
		c, err := keep.Checkpoint()
		if err != nil {
			return nil, fmt.Errorf("reading the checkpoint (where it is removed, the run starts from its beginning): %w", err)
		}
		if c == nil {
			break
		}
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
		meter.Skip(r.done())
		if job.Watch != nil {
			job.Watch.Epoch(&r.result.History)
		}
	case s.Parent != "" && job.Disturb == nil:
		if err := sess.SetState(ctx, job.Parent); err != nil {
			return nil, fmt.Errorf("starting from run %.12s: %w", s.Parent, err)
		}
	}
	r.result.History.Stage, r.result.History.Target = s.Stage, s.Target

	work, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, store.ErrSuperseded) {
			cancel(cause)
		}
		time.AfterFunc(grace, func() { cancel(cause) })
	})()
	epochs := s.Epochs
	if job.Epochs > 0 {
		epochs = min(epochs, job.Epochs)
	}
	for epoch := len(r.result.History.Epochs); epoch < epochs; epoch++ {
		if err := r.epoch(ctx, work, epoch); err != nil {
			return nil, fmt.Errorf("epoch %d: %w", epoch+1, err)
		}
	}
	if r.result.Losses, err = r.losses.encode(); err != nil {
		return nil, fmt.Errorf("losses of validation images: %w", err)
	}
	return &r.result, nil
}

// Prefixes of the ids under which a domain's two sets are loaded.
const (
	trainID      = "train/"
	validationID = "validation/"
)

func load(ctx context.Context, sess backend.Session, job Job) error {
	for _, p := range job.Spec.Data {
		if p.Crop > 0 {
			continue // patches, every epoch
		}
		if err := loadSet(ctx, sess, trainID+p.Name, job.Images[p.Name].Train); err != nil {
			return err
		}
	}
	return loadValidation(ctx, sess, job)
}

func loadValidation(ctx context.Context, sess backend.Session, job Job) error {
	for _, d := range job.Spec.Validation {
		if err := loadSet(ctx, sess, validationID+d.Name, job.Images[d.Name].Validation); err != nil {
			return err
		}
	}
	return nil
}

func loadSet(ctx context.Context, sess backend.Session, id string, f dataset.Ready) error {
	if f.Path == "" {
		return fmt.Errorf("data set %s is missing", id)
	}
	if err := sess.LoadDataset(ctx, id, f.Path, f.SHA256); err != nil {
		return fmt.Errorf("loading data set %s: %w", id, err)
	}
	return nil
}

// Evaluate validates weights, as Run keeps them, on every domain of the job's as Run
// validates after an epoch: with the weights of an epoch the scores are its own. The
// meter counts as Run's does.
func Evaluate(ctx context.Context, b backend.Backend, job Job, weights []byte, meter progress.Meter) (map[string]store.Score, error) {
	g, err := job.Spec.Graph(job.Network)
	if err != nil {
		return nil, err
	}
	if err := LoadWeights(g, weights); err != nil {
		return nil, err
	}
	if job.Disturb != nil {
		job.Disturb(g)
	}
	sess, err := b.Open(ctx, g, job.Spec.options(job))
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	defer sess.Close()
	if job.Disturb == nil { // in float64 the weights are more than the graph can hold
		if err := sess.SetState(ctx, weights); err != nil {
			return nil, fmt.Errorf("setting the weights: %w", err)
		}
	}
	if err := loadValidation(ctx, sess, job); err != nil {
		return nil, err
	}
	scores := map[string]store.Score{}
	for _, d := range job.Spec.Validation {
		ev, err := sess.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationID + d.Name})
		if err != nil {
			return nil, fmt.Errorf("validating on %s: %w", d.Name, err)
		}
		scores[d.Name] = store.Score{Loss: ev.MeanLoss(), Dice: ev.Dice()}
		meter.Add(float64(len(ev.Loss)) / validationWork)
	}
	return scores, nil
}

type runner struct {
	spec    Spec
	samples []backend.Sample
	losses  losses // nil where those of some epochs are not known
	sess    backend.Session
	graph   *nn.Graph
	meter   progress.Meter
	watch   Watcher
	result  Result
	part    part
	crops   []*cropper
	steps   int // in the next call of Train

	keep  Checkpoints
	every time.Duration
	kept  time.Time     // of the last checkpoint
	cost  time.Duration // of it
	fresh bool          // something was done since
}

// part is what is done of an epoch that is not finished.
type part struct {
	Batches    int                    `json:"batches"` // that were trained on
	Loss       float64                `json:"loss"`    // their sum
	Skipped    int                    `json:"skipped,omitempty"`
	Validation map[string]store.Score `json:"validation,omitempty"`
}

// done is the work done so far.
func (r *runner) done() float64 {
	n := 0
	for _, b := range r.spec.batches(r.samples, len(r.result.History.Epochs))[:r.part.Batches] {
		n += len(b)
	}
	v := 0
	for _, d := range r.spec.Validation {
		if _, ok := r.part.Validation[d.Name]; ok {
			v += d.Images
		}
	}
	return r.spec.epochWork()*float64(len(r.result.History.Epochs)) + float64(n) + float64(v)/validationWork
}

// epoch trains and validates what is left of one epoch, counted from 0. When ctx is
// done it keeps what there is; work is the context of what must be finished for that.
func (r *runner) epoch(ctx, work context.Context, epoch int) error {
	s := r.spec
	rate := s.rate(epoch)
	batches := s.batches(r.samples, epoch)
	start := time.Now()
	for _, c := range r.crops {
		if err := c.load(work, r.sess, epoch); err != nil {
			return err
		}
	}
	r.result.Seconds.Train += time.Since(start).Seconds()
	for r.part.Batches < len(batches) {
		if ctx.Err() != nil {
			return r.leave(ctx, work, nil)
		}
		next := batches[r.part.Batches:]
		next = next[:min(len(next), max(1, r.steps))]
		if err := r.train(work, next, len(batches), rate); err != nil {
			return err
		}
		if r.part.Batches < len(batches) && r.due(r.every) {
			if err := r.save(work, nil); err != nil {
				return err
			}
		}
	}

	// Validation does not change the state.
	state, err := r.state(work)
	if err != nil {
		return err
	}
	for _, d := range s.Validation {
		if _, ok := r.part.Validation[d.Name]; ok {
			continue
		}
		start := time.Now()
		ev, err := r.sess.Evaluate(ctx, backend.EvaluateRequest{Dataset: validationID + d.Name})
		if ctx.Err() != nil {
			return r.leave(ctx, work, state)
		}
		if err != nil {
			return fmt.Errorf("validating on %s: %w", d.Name, err)
		}
		if len(ev.Loss) != d.Images {
			return fmt.Errorf("validating on %s: the backend gives %d losses of the %d images", d.Name, len(ev.Loss), d.Images)
		}
		if r.part.Validation == nil {
			r.part.Validation = map[string]store.Score{}
		}
		r.part.Validation[d.Name] = store.Score{Loss: ev.MeanLoss(), Dice: ev.Dice()}
		if r.losses != nil {
			r.losses[d.Name] = append(r.losses[d.Name], ev.Loss)
		}
		r.fresh = true
		r.meter.Add(float64(len(ev.Loss)) / validationWork)
		r.result.Seconds.Evaluate += time.Since(start).Seconds()
	}

	h := &r.result.History
	e := store.Epoch{LearningRate: rate, TrainLoss: r.part.Loss / float64(len(batches)), Skipped: r.part.Skipped, Validation: r.part.Validation}
	h.Epochs = append(h.Epochs, e)
	r.part = part{}
	if h.Best == 0 || e.Validation[s.Target].Loss < h.Epochs[h.Best-1].Validation[s.Target].Loss {
		h.Best = epoch + 1
		if r.result.Weights, err = weights(state, r.graph); err != nil {
			return fmt.Errorf("reading the state: %w", err)
		}
	}
	if r.watch != nil {
		r.watch.Epoch(h)
	}
	if r.due(0) {
		return r.save(work, state)
	}
	return nil
}

// partTime is how long one call of Train should take: the session's state can be asked
// for only between two calls, and who is told to stop should not have to wait for long.
const partTime = 2 * time.Second

// train takes the steps of some batches of an epoch that has so many.
func (r *runner) train(ctx context.Context, batches []backend.Batch, all int, rate float64) error {
	start := time.Now()
	steps := 0
	epochs := float64(len(r.result.History.Epochs))
	err := r.sess.Train(ctx, backend.TrainRequest{Batches: batches, LearningRate: rate, Frozen: r.spec.Frozen},
		func(st backend.Step) error {
			r.fresh = true
			r.part.Loss += st.Loss
			if st.Skipped {
				r.part.Skipped++
			}
			r.meter.Add(float64(len(batches[steps])))
			steps++
			if r.watch != nil {
				r.watch.Step(epochs+float64(r.part.Batches+steps)/float64(all), st.Loss)
			}
			return nil
		})
	if err != nil {
		return err
	}
	r.part.Batches += len(batches)
	took := time.Since(start)
	r.result.Seconds.Train += took.Seconds()
	// From one step at first, in leaps, to as many as there is time for.
	r.steps = int(min(4*float64(len(batches)), float64(len(batches))*partTime.Seconds()/max(took.Seconds(), 1e-9)))
	return nil
}

func (r *runner) state(ctx context.Context) ([]byte, error) {
	state, err := r.sess.State(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading the state: %w", err)
	}
	return state, nil
}

// Checkpoints take a twentieth of the time at most, and of the disk a megabyte a second.
const (
	checkpointShare = 20
	checkpointBytes = 1e6
)

// due reports whether it is time for a checkpoint, if there should be as long as every
// between two of them. Within an epoch that is what was asked for; at an epoch's end,
// where the state is at hand, it is nothing.
func (r *runner) due(every time.Duration) bool {
	if r.every <= 0 {
		return true
	}
	size := 0.0
	for _, t := range r.graph.Tensors {
		size += 4 * 4 * float64(t.Len()) // the values, two moments, and the best so far
	}
	return time.Since(r.kept) >= max(every, checkpointShare*r.cost, time.Duration(size/checkpointBytes*float64(time.Second)))
}

// save writes a checkpoint. Where the caller has no state it is asked for.
func (r *runner) save(ctx context.Context, state []byte) (err error) {
	start := time.Now()
	if state == nil {
		if state, err = r.state(ctx); err != nil {
			return err
		}
	}
	c, err := r.checkpoint(state)
	if err != nil {
		return err
	}
	if err := r.keep.SetCheckpoint(c); err != nil {
		return fmt.Errorf("writing the checkpoint: %w", err)
	}
	r.kept, r.fresh = time.Now(), false
	r.cost = r.kept.Sub(start)
	return nil
}

// leave keeps what has been done and returns why the run stops.
func (r *runner) leave(ctx, work context.Context, state []byte) error {
	if r.fresh && work.Err() == nil {
		if err := r.save(work, state); err != nil {
			return fmt.Errorf("keeping what was trained: %w", err)
		}
	}
	return context.Cause(ctx)
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
// session's state, the best weights and the losses of the validation images as bytes,
// the history, what is done of an epoch that is not finished, and a checksum of it all
// as metadata.
func (r *runner) checkpoint(state []byte) ([]byte, error) {
	h, err := json.Marshal(r.result.History)
	if err != nil {
		return nil, err
	}
	sec, err := json.Marshal(r.result.Seconds)
	if err != nil {
		return nil, err
	}
	images, err := r.losses.encode()
	if err != nil {
		return nil, err
	}
	meta := map[string]string{"history": string(h), "seconds": string(sec)}
	covered := [][]byte{state, r.result.Weights, h, sec}
	if r.part.Batches > 0 {
		p, err := json.Marshal(r.part)
		if err != nil {
			return nil, err
		}
		meta["epoch"] = string(p)
		covered = append(covered, p)
	}
	tensors := []safetensors.Tensor{
		{Name: "state", Shape: []int{len(state)}, Data: state},
		{Name: "best", Shape: []int{len(r.result.Weights)}, Data: r.result.Weights},
	}
	if images != nil {
		tensors = append(tensors, safetensors.Tensor{Name: "losses", Shape: []int{len(images)}, Data: images})
		covered = append(covered, images)
	}
	meta["sha256"] = checksum(covered...)
	return safetensors.Encode(tensors, meta)
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
	covered := [][]byte{state, res.Weights, history, seconds}
	epoch, within := f.Metadata["epoch"]
	if within {
		covered = append(covered, []byte(epoch))
	}
	var images []byte
	if _, ok := f.Info("losses"); ok {
		if images, err = read("losses"); err != nil {
			return nil, err
		}
		covered = append(covered, images)
	}
	if f.Metadata["sha256"] != checksum(covered...) {
		return nil, errors.New("its content does not match its checksum")
	}
	if err := json.Unmarshal(history, &res.History); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	if err := json.Unmarshal(seconds, &res.Seconds); err != nil {
		return nil, fmt.Errorf("seconds: %w", err)
	}
	h, done := res.History, part{}
	if within {
		if err := json.Unmarshal([]byte(epoch), &done); err != nil {
			return nil, fmt.Errorf("epoch: %w", err)
		}
		if n := len(r.spec.batches(r.samples, len(h.Epochs))); done.Batches < 1 || done.Batches > n || len(h.Epochs) == r.spec.Epochs {
			return nil, fmt.Errorf("%d batches of the %d of an epoch after %d epochs of %d", done.Batches, n, len(h.Epochs), r.spec.Epochs)
		}
	}
	if len(h.Epochs) == 0 && !within || len(h.Epochs) > r.spec.Epochs || h.Best > len(h.Epochs) || (h.Best < 1) != (len(h.Epochs) == 0) {
		return nil, fmt.Errorf("%d epochs of %d, best %d", len(h.Epochs), r.spec.Epochs, h.Best)
	}
	var l losses
	if images != nil {
		if l, err = decodeLosses(images); err != nil {
			return nil, fmt.Errorf("losses: %w", err)
		}
	}
	r.result, r.part, r.losses = res, done, l
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
