package reproduce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/dataset"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// RetrainOptions say how a Retrainer works; of them only OtherNumerics lets a result
// be another one.
type RetrainOptions struct {
	// Launch starts a backend process, of which every call of Retrain has its own.
	Launch   func(ctx context.Context, log io.Writer) (Process, error)
	Device   string // "": the backend's first
	Threads  int
	Restarts int // see TrainOptions
	// Anew simulates the images anew where the store has them, too.
	Anew bool
	// OtherNumerics lets a backend train whose arithmetic is not that of the run.
	OtherNumerics bool
	// Progress counts work in the unit of train.Spec.Work; its phases are the caller's.
	// Nil for none.
	Progress progress.Meter
}

// Retrainer trains finished runs of a store again, from what their manifests say, and
// changes nothing in the store. Its methods may be called concurrently.
type Retrainer struct {
	st    *store.Store
	o     RetrainOptions
	meter progress.Meter
	dir   string // for what is made anew

	mu   sync.Mutex
	sets map[string]func() (dataset.Ready, error) // by digest
	runs map[string]func() (*Retrained, error)    // parents whose weights the store lacks
}

// Retrained is what came of training a run again.
type Retrained struct {
	Spec   train.Spec // its Backend is that which has trained now
	Epochs int        // that were trained, from the first
	// History, Weights and Losses are the contents of the run's files as they would be
	// in the store; after some of the epochs, with these alone and the weights of the
	// best of them.
	History, Weights, Losses []byte
	Backend                  backend.Description
	Device                   backend.Device
	Seconds                  train.Seconds
}

// Files describes the files for comparison with those that a manifest lists. Runs of
// earlier versions have no store.LossesFile.
func (r *Retrained) Files() []files.File {
	all := []files.File{files.Of(store.HistoryFile, r.History)}
	if r.Losses != nil {
		all = append(all, files.Of(store.LossesFile, r.Losses))
	}
	return append(all, files.Of(store.WeightsFile, r.Weights))
}

// NewRetrainer prepares a folder of the system's for temporary files, which Close
// removes.
func NewRetrainer(st *store.Store, o RetrainOptions) (*Retrainer, error) {
	dir, err := os.MkdirTemp("", "refocus-retrain-")
	if err != nil {
		return nil, err
	}
	return newRetrainer(st, o, dir), nil
}

func newRetrainer(st *store.Store, o RetrainOptions, dir string) *Retrainer {
	return &Retrainer{
		st: st, o: o, meter: progress.Or(o.Progress), dir: dir,
		sets: map[string]func() (dataset.Ready, error){}, runs: map[string]func() (*Retrained, error){},
	}
}

// Close removes what was made for training.
func (r *Retrainer) Close() error { return os.RemoveAll(r.dir) }

// Retrain trains a run again, or its first epochs where epochs is not 0. Images and,
// of a transfer, the weights that it begins with are those of the store, where they
// must be what their manifests say; images that it lacks are simulated from the
// settings that their digest covers, and a parent whose weights it lacks is trained
// again first, and must come to the weights that its manifest lists.
func (r *Retrainer) Retrain(ctx context.Context, digest string, epochs int) (*Retrained, error) {
	return r.retrain(ctx, digest, epochs, new(memory), nil)
}

// Disturbed is Retrain with a change of the weights that the run begins with.
func (r *Retrainer) Disturbed(ctx context.Context, digest string, epochs int, change func(*nn.Graph)) (*Retrained, error) {
	return r.retrain(ctx, digest, epochs, new(memory), change)
}

func (r *Retrainer) retrain(ctx context.Context, digest string, epochs int, keep train.Checkpoints, change func(*nn.Graph)) (*Retrained, error) {
	res, err := r.again(ctx, digest, epochs, keep, change)
	if err != nil {
		return nil, fmt.Errorf("training run %.12s again: %w", digest, err)
	}
	return res, nil
}

// job is what a run's manifest says is to be done.
func (r *Retrainer) job(digest string) (job train.Job, id string, err error) {
	m, err := r.st.Manifest(digest)
	if err != nil {
		return job, "", err
	}
	job = train.Job{Threads: r.o.Threads, Device: r.o.Device, CheckpointEvery: 5 * time.Minute}
	if err := json.Unmarshal(m.Spec, &job.Spec); err != nil {
		return job, m.ID, fmt.Errorf("reading its spec: %w", err)
	}
	if job.Spec.Format != train.Format {
		return job, m.ID, fmt.Errorf("its spec has format %d, this program trains format %d", job.Spec.Format, train.Format)
	}
	if job.Spec.ONNX != "" {
		job.Network, err = r.st.Network(digest)
	}
	return job, m.ID, err
}

// Scores validates the weights that a run has kept, with a change of them where there
// is one: its scores after its best epoch.
func (r *Retrainer) Scores(ctx context.Context, digest string, change func(*nn.Graph)) (scores map[string]store.Score, err error) {
	job, _, err := r.job(digest)
	if err == nil {
		job.Disturb = change
		job.Images, err = r.images(ctx, train.Spec{Validation: job.Spec.Validation})
	}
	var weights []byte
	if err == nil {
		weights, err = r.st.Weights(digest)
	}
	if err == nil {
		_, err = r.with(ctx, job, func(b backend.Backend, job train.Job) (err error) {
			scores, err = train.Evaluate(ctx, b, job, weights, r.meter)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("validating the weights of run %.12s: %w", digest, err)
	}
	return scores, nil
}

func (r *Retrainer) again(ctx context.Context, digest string, epochs int, keep train.Checkpoints, change func(*nn.Graph)) (*Retrained, error) {
	job, id, err := r.job(digest)
	if err != nil {
		return nil, err
	}
	if epochs < 0 || epochs > job.Spec.Epochs {
		return nil, fmt.Errorf("%d epochs were asked for, it has %d", epochs, job.Spec.Epochs)
	}
	job.Epochs, job.Disturb = epochs, change
	if job.Spec.Parent != "" {
		if job.Parent, err = r.parent(ctx, job.Spec.Parent); err != nil {
			return nil, err
		}
	}
	if job.Images, err = r.images(ctx, job.Spec); err != nil {
		return nil, err
	}
	if job.Work, err = os.MkdirTemp(r.dir, "run-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(job.Work)

	for restarts := 0; ; restarts++ {
		res, err := r.attempt(ctx, job, keep)
		if err == nil || ctx.Err() != nil || !backendFailed(err) || restarts >= r.o.Restarts {
			return res, err
		}
		r.meter.Printf("%s: %v\n%s: restarting the backend, going on from what was trained (%d of %d)", id, err, id, restarts+1, r.o.Restarts)
	}
}

func (r *Retrainer) attempt(ctx context.Context, job train.Job, keep train.Checkpoints) (*Retrained, error) {
	var res *train.Result
	out, err := r.with(ctx, job, func(b backend.Backend, job train.Job) (err error) {
		res, err = train.Run(ctx, b, job, keep, r.meter)
		return err
	})
	if err != nil {
		return nil, err
	}
	out.Epochs, out.Weights, out.Losses, out.Seconds = len(res.History.Epochs), res.Weights, res.Losses, res.Seconds
	out.History, err = encodeHistory(&res.History)
	return out, err
}

// with has something done by a backend process of its own, which gives the job its
// arithmetic.
func (r *Retrainer) with(ctx context.Context, job train.Job, do func(backend.Backend, train.Job) error) (*Retrained, error) {
	proc, err := r.o.Launch(ctx, io.Discard)
	if err != nil {
		return nil, fmt.Errorf("starting the backend: %w", err)
	}
	defer proc.Close()
	d, err := proc.Describe(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the backend to describe itself: %w", err)
	}
	was := job.Spec.Backend
	if d.Name != was.Name || d.Numerics != was.Numerics {
		if !r.o.OtherNumerics {
			return nil, fmt.Errorf("it was trained by backend %s with numerics %s, this is %s with %s, which gives other bits", was.Name, was.Numerics, d.Name, d.Numerics)
		}
		job.Spec.Backend.Name, job.Spec.Backend.Numerics = d.Name, d.Numerics
	}
	if !slices.Contains(d.Precisions, was.Precision) {
		return nil, fmt.Errorf("it was trained in precision %s, which backend %s lacks (it has %v)", was.Precision, d.Name, d.Precisions)
	}
	out := &Retrained{Spec: job.Spec, Backend: d}
	if out.Device, err = (&device{Device: backend.Device{Name: job.Device}}).in(d); err != nil {
		return nil, err
	}
	return out, do(proc, job)
}

// parent is the weights of a run that another one begins with.
func (r *Retrainer) parent(ctx context.Context, digest string) ([]byte, error) {
	b, err := r.st.Weights(digest)
	if !errors.Is(err, fs.ErrNotExist) {
		return b, err
	}
	m, err := r.st.Manifest(digest)
	if err != nil {
		return nil, fmt.Errorf("its parent: %w", err)
	}
	// Whatever is allowed of the run itself, only the same arithmetic makes these again.
	res, err := once(r, r.runs, digest, func() (*Retrained, error) {
		same := newRetrainer(r.st, r.o, r.dir)
		same.o.OtherNumerics = false
		return same.Retrain(ctx, digest, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("its parent: %w", err)
	}
	at := slices.IndexFunc(m.Files, func(f files.File) bool { return f.Name == store.WeightsFile })
	if at < 0 {
		return nil, fmt.Errorf("its parent %.12s has no weights, and its manifest does not say which they were", digest)
	}
	if err := m.Files[at].CheckBytes(r.st.RunDir(digest), res.Weights); err != nil {
		return nil, fmt.Errorf("its parent, whose weights are not in the store, was trained again and came to others: %w", err)
	}
	return res.Weights, nil
}

// images finds or makes the images that a run needs.
func (r *Retrainer) images(ctx context.Context, s train.Spec) (map[string]train.Images, error) {
	images := map[string]train.Images{}
	set := func(name, digest string, count int) (dataset.Ready, error) {
		ready, err := once(r, r.sets, digest, func() (dataset.Ready, error) { return r.set(ctx, digest) })
		if err == nil && ready.Count != count {
			err = fmt.Errorf("data set %.12s has %d images, the run is of %d", digest, ready.Count, count)
		}
		if err != nil {
			return ready, fmt.Errorf("the images of %s: %w", name, err)
		}
		return ready, nil
	}
	for _, d := range s.Validation {
		ready, err := set(d.Name, d.Digest, d.Images)
		if err != nil {
			return nil, err
		}
		images[d.Name] = train.Images{Validation: ready}
	}
	for _, p := range s.Data {
		ready, err := set(p.Name, p.Digest, p.Of)
		if err != nil {
			return nil, err
		}
		images[p.Name] = train.Images{Train: ready, Validation: images[p.Name].Validation}
	}
	return images, nil
}

// set finds or makes a set of images.
func (r *Retrainer) set(ctx context.Context, digest string) (dataset.Ready, error) {
	m, err := dataset.ReadManifest(r.st.Root(), digest)
	if err != nil {
		return dataset.Ready{}, err
	}
	if !r.o.Anew || m.Kind != dataset.Simulated {
		ready, err := dataset.Find(r.st.Root(), digest)
		var damage *files.Damage
		if err == nil || m.Kind != dataset.Simulated || !errors.As(err, &damage) {
			return ready, err
		}
	}
	src, err := m.Source()
	if err != nil {
		return dataset.Ready{}, err
	}
	ready, err := dataset.Generate(ctx, r.dir, []dataset.Source{src}, dataset.Options{DropWaves: true})
	if err != nil {
		return dataset.Ready{}, err
	}
	// The store's images, where they are damaged or gone, were these.
	if f := m.Files[filepath.Base(ready[0].Path)]; !r.o.Anew && f.SHA256 != ready[0].SHA256 {
		return dataset.Ready{}, fmt.Errorf("its images were simulated anew and have SHA-256 %s, its manifest says %s", ready[0].SHA256, f.SHA256)
	}
	return ready[0], nil
}

// once does something for a digest, and has others who want the same wait for it.
func once[T any](r *Retrainer, known map[string]func() (T, error), digest string, do func() (T, error)) (T, error) {
	r.mu.Lock()
	f := known[digest]
	if f == nil {
		f = sync.OnceValues(do)
		known[digest] = f
	}
	r.mu.Unlock()
	return f()
}

// memory keeps a checkpoint as long as the process lives.
type memory struct{ checkpoint []byte }

func (m *memory) Checkpoint() ([]byte, error)  { return m.checkpoint, nil }
func (m *memory) SetCheckpoint(b []byte) error { m.checkpoint = b; return nil }
func (m *memory) CheckpointPath() string       { return "in memory" }
func (m *memory) Damaged(err error) error      { m.checkpoint = nil; return nil }
