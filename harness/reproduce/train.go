package reproduce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/train"
)

// Process is a running backend plugin.
type Process interface {
	backend.Backend
	Close() error
}

// TrainOptions say how to train; none of them changes a result.
type TrainOptions struct {
	// Launch starts a backend process; every job has its own.
	Launch func(ctx context.Context) (Process, error)
	// SHA256 of the backend's executable, recorded in manifests.
	SHA256 string
	Jobs   int // runs trained at once
	// Slots are the devices of the runs trained at once, in place of Jobs on the
	// backend's first; see the function Slots.
	Slots []backend.Device
	// LeftOut, where it is set, is told of the devices that remain when one is left
	// out, one call at a time.
	LeftOut func(remaining []backend.Device)
	Threads int // per run
	// Restarts is how often a run whose backend crashed, hung or answered
	// nonsense is resumed from its last checkpoint before it counts as failed.
	Restarts    int
	Study       string                  // name and profile, recorded in manifests
	StudyDigest string                  // of the resolved spec, recorded in manifests
	Harness     string                  // version, recorded in manifests
	Images      map[string]train.Images // by domain
	// Progress counts the work of all runs, in the unit of train.Spec.Work, and is
	// told of restarts, damaged checkpoints and failures. Its event "run" tells of
	// every run that this process has finished. Nil for none.
	Progress progress.Meter
}

// Share divides the cores between runs trained at once and threads of each, as far
// as these are not given (0), for networks of some width. Small networks gain more
// from running side by side than from threads within one; large ones would need
// too much memory.
func Share(jobs, threads, cores, width int) (int, int) {
	if jobs <= 0 && threads <= 0 && width <= 16 {
		return cores, 1
	}
	if jobs <= 0 {
		jobs = 1
		if threads > 0 {
			jobs = max(1, cores/threads)
		}
	}
	if threads <= 0 {
		threads = max(1, cores/jobs)
	}
	return jobs, threads
}

// Failure is a run that could not be trained.
type Failure struct {
	Node *Node
	Err  error
}

// Train trains every run that the store lacks. A failed run does not stop the
// others; runs that depend on it are reported as failures too. A store that
// cannot be written to stops everything: training on would be in vain. The error
// is that of ctx or of the store.
func Train(ctx context.Context, st *store.Store, nodes []*Node, o TrainOptions) ([]Failure, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := newQueue(nodes)
	meter := progress.Or(o.Progress)
	before := begin(meter, st, nodes)
	defer meter.End()
	// Whatever ends the context must wake the workers that wait for work.
	defer context.AfterFunc(ctx, q.wake)()
	var wg sync.WaitGroup
	if o.Slots == nil {
		o.Slots = make([]backend.Device, max(1, o.Jobs))
	}
	pool, slots := newPool(&o, meter, cancel)
	for _, slot := range slots {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := &worker{st: st, o: &o, q: q, meter: meter, before: before, giveUp: cancel, pool: pool, slot: slot}
			defer w.stop()
			for !slot.out() {
				n := q.next(ctx)
				if n == nil {
					return
				}
				w.run(ctx, n)
			}
		}()
	}
	wg.Wait()
	return q.failures, context.Cause(ctx)
}

// begin begins the phase and skips the runs that the store has already, which it
// returns.
func begin(meter progress.Meter, st *store.Store, nodes []*Node) map[*Node]bool {
	var total, already float64
	before := map[*Node]bool{}
	for _, n := range nodes {
		total += n.Spec.Work()
		if st.HasRun(n.Digest) {
			already += n.Spec.Work()
			before[n] = true
		}
	}
	if len(before) > 0 {
		meter.Printf("%d of %d runs are in the store already", len(before), len(nodes))
	}
	if len(before) < len(nodes) {
		meter.Begin("training", "image-steps", total)
		meter.Skip(already)
	}
	return before
}

// retry is how long a run that another process is working on is left alone.
const retry = 300 * time.Millisecond

// queue hands out runs whose parents are done.
type queue struct {
	mu       sync.Mutex
	cond     *sync.Cond
	open     []*Node // not handed out
	away     map[*Node]time.Time
	out      int
	done     map[*Node]bool
	failed   map[*Node]error
	failures []Failure
}

func newQueue(nodes []*Node) *queue {
	q := &queue{open: append([]*Node(nil), nodes...), away: map[*Node]time.Time{}, done: map[*Node]bool{}, failed: map[*Node]error{}}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *queue) wake() { q.cond.Broadcast() }

// next waits for a run to do; nil means that there is none left, or that ctx is
// done.
func (q *queue) next(ctx context.Context) *Node {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if ctx.Err() != nil || len(q.open) == 0 && q.out == 0 {
			q.cond.Broadcast()
			return nil
		}
		var wait time.Duration
		for i := 0; i < len(q.open); i++ {
			n := q.open[i]
			if n.Parent != nil {
				if err, bad := q.failed[n.Parent]; bad {
					q.open = append(q.open[:i], q.open[i+1:]...)
					i--
					q.fail(n, fmt.Errorf("its pretraining %s failed: %w", n.Parent.Run.ID, err))
					continue
				}
				if !q.done[n.Parent] {
					continue
				}
			}
			if until := time.Until(q.away[n]); until > 0 {
				if wait == 0 || until < wait {
					wait = until
				}
				continue
			}
			q.open = append(q.open[:i], q.open[i+1:]...)
			q.out++
			return n
		}
		if len(q.open) == 0 && q.out == 0 {
			continue // the last ones failed with their parents
		}
		if wait > 0 {
			time.AfterFunc(wait, q.wake)
		}
		q.cond.Wait()
	}
}

func (q *queue) fail(n *Node, err error) {
	q.failed[n] = err
	q.failures = append(q.failures, Failure{n, err})
}

// settle takes back a run that next handed out.
func (q *queue) settle(n *Node, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out--
	switch {
	case errors.Is(err, store.ErrBusy):
		q.away[n] = time.Now().Add(retry)
		q.open = append(q.open, n)
	case err != nil:
		q.fail(n, err)
	default:
		q.done[n] = true
	}
	q.cond.Broadcast()
}

// worker trains one run after another in its own backend process.
type worker struct {
	st     *store.Store
	o      *TrainOptions
	q      *queue
	meter  progress.Meter
	before map[*Node]bool          // in the store when Train began
	giveUp context.CancelCauseFunc // ends all workers
	pool   *pool
	slot   *device
	proc   Process
	desc   backend.Description
	device backend.Device // of proc
	seen   int            // incidents of the slot's device before proc
}

func (w *worker) stop() {
	if w.proc != nil {
		w.proc.Close()
		w.proc = nil
	}
}

func (w *worker) start(ctx context.Context) error {
	if w.proc != nil {
		return nil
	}
	w.seen = w.slot.seen()
	p, err := w.o.Launch(ctx)
	if err != nil {
		return fmt.Errorf("starting the backend: %w", err)
	}
	d, err := p.Describe(ctx)
	if err != nil {
		p.Close()
		return fmt.Errorf("asking the backend to describe itself: %w", err)
	}
	v, err := w.slot.in(d)
	if err != nil {
		p.Close()
		return err
	}
	w.proc, w.desc, w.device = p, d, v
	return nil
}

func (w *worker) run(ctx context.Context, n *Node) {
	err := w.attempts(ctx, n)
	switch {
	case errors.Is(err, store.ErrDone):
		if !w.before[n] { // another process has done it
			w.meter.Skip(n.Spec.Work())
		}
		err = nil
	case err == nil, errors.Is(err, store.ErrBusy):
	case errors.As(err, new(*storeError)):
		w.giveUp(fmt.Errorf("%s: %w", n.Run.ID, err))
	case ctx.Err() == nil:
		w.meter.Printf("%s failed: %v", n.Run.ID, err)
	}
	w.q.settle(n, err)
}

// attempts claims a run and trains it, with a new backend process after each
// failure of the backend's.
func (w *worker) attempts(ctx context.Context, n *Node) error {
	if w.st.HasRun(n.Digest) {
		return store.ErrDone
	}
	claim, err := w.st.Claim(n.Digest)
	if errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrDone) {
		return err
	}
	if err != nil {
		return &storeError{err}
	}
	defer claim.Release()
	if path, why := claim.Damaged(); path != "" {
		w.meter.Printf("%s: warning: %v: making the run again; what was there is kept as %s", n.Run.ID, why, path)
	}
	started := time.Now()
	meter := &once{Meter: w.meter, told: w.pool.told(n)}
	for restarts := 0; ; restarts++ {
		meter.done = 0
		res, err := w.attempt(ctx, n, claim, meter)
		if err == nil {
			return w.commit(claim, n, res, started, restarts)
		}
		w.stop() // after any failure the process is not to be trusted
		if ctx.Err() == nil && w.slot.blamed(err) {
			return w.slot.loss(ctx, n, err, w.seen, w.o.Restarts, meter.told)
		}
		if ctx.Err() != nil || !backendFailed(err) || restarts >= w.o.Restarts {
			return err
		}
		w.meter.Printf("%s: %v\n%s: restarting the backend, going on from the last checkpoint (%d of %d)", n.Run.ID, err, n.Run.ID, restarts+1, w.o.Restarts)
	}
}

func (w *worker) attempt(ctx context.Context, n *Node, claim *store.Claim, meter progress.Meter) (*train.Result, error) {
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	if w.desc.Name != n.Spec.Backend.Name || w.desc.Numerics != n.Spec.Backend.Numerics {
		return nil, fmt.Errorf("the backend is now %s with numerics %s; this study began with %s, %s (was it replaced meanwhile?)",
			w.desc.Name, w.desc.Numerics, n.Spec.Backend.Name, n.Spec.Backend.Numerics)
	}
	job := train.Job{Spec: n.Spec, Network: n.Network, Images: w.o.Images, Threads: w.o.Threads, Device: w.device.Name, Work: filepath.Dir(claim.CheckpointPath())}
	if n.Parent != nil {
		var err error
		if job.Parent, err = w.st.Weights(n.Parent.Digest); err != nil {
			return nil, err
		}
	}
	return train.Run(ctx, w.proc, job, keeper{claim, n, meter, w.slot}, meter)
}

// once passes a run's work on to a meter, but not again what an attempt repeats of
// an earlier one.
type once struct {
	progress.Meter
	done, told float64 // in this attempt, and by all
}

func (o *once) Add(n float64)  { o.tell(n, o.Meter.Add) }
func (o *once) Skip(n float64) { o.tell(n, o.Meter.Skip) }

func (o *once) tell(n float64, tell func(float64)) {
	o.done += n
	if more := o.done - o.told; more > 0 {
		o.told = o.done
		tell(more)
	}
}

func (w *worker) commit(claim *store.Claim, n *Node, r *train.Result, started time.Time, restarts int) error {
	spec, err := json.Marshal(n.Spec)
	if err != nil {
		return err
	}
	history, err := json.MarshalIndent(r.History, "", " ")
	if err != nil {
		return err
	}
	m := &store.Manifest{
		ID:    n.Run.ID,
		Study: w.o.Study, StudyDigest: w.o.StudyDigest,
		Spec: spec,
		Backend: store.Backend{
			Name: w.desc.Name, Version: w.desc.Version, Numerics: w.desc.Numerics, Determinism: w.desc.Determinism,
			Device: w.device.Name + ": " + w.device.Info, Driver: w.device.Driver,
			Precision: n.Spec.Backend.Precision, Threads: w.o.Threads, SHA256: w.o.SHA256,
		},
		Harness: w.o.Harness,
		Host:    host(),
		Started: started.UTC(), Finished: time.Now().UTC(),
		TrainSeconds: r.Seconds.Train, EvaluateSeconds: r.Seconds.Evaluate,
		Restarts: restarts + w.pool.losses(n),
		Notes:    n.Notes,
	}
	contents := map[string][]byte{
		store.HistoryFile: append(history, '\n'),
		store.WeightsFile: r.Weights,
	}
	if n.Network != nil {
		contents[store.NetworkFile] = n.Network
	}
	if err := claim.Commit(m, contents); err != nil {
		return &storeError{err}
	}
	best := r.History.Epochs[r.History.Best-1]
	w.meter.Event("run", map[string]any{
		"id": n.Run.ID, "digest": n.Digest, "seconds": m.Finished.Sub(m.Started).Seconds(),
		"best_epoch": r.History.Best, "validation_loss": best.Validation[r.History.Target].Loss,
	})
	return nil
}

// storeError is a failure to write to the store, which no other run would escape.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

// keeper is a node's claim whose failures to write are known as the store's.
type keeper struct {
	*store.Claim
	node  *Node
	meter progress.Meter
	on    *device
}

func (k keeper) SetCheckpoint(b []byte) error {
	if err := k.Claim.SetCheckpoint(b); err != nil {
		return &storeError{err}
	}
	k.on.works()
	return nil
}

func (k keeper) Damaged(damage error) error {
	path, err := k.SetAside()
	if err != nil {
		return &storeError{err}
	}
	id := k.node.Run.ID
	k.meter.Printf("%s: warning: its checkpoint is damaged: %v\n%s: starting from its beginning, which gives the same result; the damaged file is kept as %s until the run is done", id, damage, id, path)
	return nil
}

func host() store.Host {
	name, _ := os.Hostname()
	return store.Host{Name: name, OS: runtime.GOOS + "/" + runtime.GOARCH, CPU: fmt.Sprintf("%d cores", runtime.NumCPU())}
}

// backendFailed reports whether the error is the plugin's failing, as opposed to
// a request that it rightly refused or a fault of the harness's own.
func backendFailed(err error) bool {
	var crash *backend.CrashError
	var hang *backend.HangError
	var nonsense *backend.NonsenseError
	return errors.As(err, &crash) || errors.As(err, &hang) || errors.As(err, &nonsense)
}
