package reproduce

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
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
	// Launch starts a backend process; every job has its own. What the process says
	// for people goes to log.
	Launch func(ctx context.Context, log io.Writer) (Process, error)
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
	Restarts int
	// MaxAttempts is how often a run may have failed, in any process, before it is left
	// alone (until store.Retry); 0 is any number of times.
	MaxAttempts int
	// Breaker is how many runs in a row may fail before this process gives up, for then
	// the fault is not theirs; 0 is any number.
	Breaker int
	Wait    Wait
	// CheckpointEvery is that of train.Job.
	CheckpointEvery time.Duration
	// Keep is which weights stay (study.Study.Keep): those that do not are dropped as
	// soon as no run starts from them any more, where the backend can rebuild them.
	// Nothing keeps all.
	Keep        string
	Study       string                  // name and profile, recorded in manifests
	StudyDigest string                  // of the resolved spec, recorded in manifests
	Harness     string                  // version, recorded in manifests
	Images      map[string]train.Images // by domain
	// Progress counts the work of all runs, in the unit of train.Spec.Work, and is
	// told of restarts, damaged checkpoints and failures. Its gauge "loss" is the mean
	// of the last steps of what is trained; its event "run" tells of every run that
	// this process has finished. Of losses the least that they can be is taken off.
	// Nil for none.
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

// Wait says when a process stops waiting for others that work on the same study.
type Wait int

const (
	// WaitForWork waits while there may be something to do again: while others
	// pretrain what this process could go on from.
	WaitForWork Wait = iota
	WaitNever        // leaves when there is nothing to do now
	WaitForAll       // stays until the study is done
)

// Failure is a run that could not be trained.
type Failure struct {
	Node *Node
	Err  error
}

// GivenUpError is of a run that has failed too often to be tried again.
type GivenUpError struct{ Last store.Attempt }

func (e *GivenUpError) Error() string {
	return fmt.Sprintf("it has failed %d times, lastly on %s, and is left alone until 'refocus retry': %s", e.Last.Failures, e.Last.Host, e.Last.Error)
}

// Train trains every run that the store lacks, until all are done or, as o.Wait says,
// the rest is in the hands of other processes; it returns how many these are. A failed
// run does not stop the others; runs that depend on it are reported as failures too.
// Too many in a row do, and so does a store that has no room: training on would be in
// vain. The error is that of ctx, or of what stopped it. When ctx is done, what is being
// trained is kept first.
func Train(ctx context.Context, st *store.Store, nodes []*Node, o TrainOptions) (failures []Failure, elsewhere int, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := newQueue(nodes, o.Wait)
	meter := progress.Or(o.Progress)
	before := begin(meter, st, nodes)
	defer meter.End()
	keep := newRetention(st, nodes, o.Keep)
	for n := range before {
		drop(keep, n, meter)
	}
	// Whatever ends the context must wake the workers that wait for work.
	defer context.AfterFunc(ctx, q.wake)()
	var wg sync.WaitGroup
	if o.Slots == nil {
		o.Slots = make([]backend.Device, max(1, o.Jobs))
	}
	pool, slots := newPool(&o, meter, cancel)
	losses := &losses{meter: meter, of: map[*account]float64{}}
	for _, slot := range slots {
		wg.Add(1)
		go func() {
			defer wg.Done()
			w := &worker{st: st, o: &o, q: q, meter: meter, before: before, keep: keep, giveUp: cancel, losses: losses, pool: pool, slot: slot, log: new(outlet)}
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
	q.tell(meter)
	return q.failures, q.elsewhere(), context.Cause(ctx)
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

// worker trains one run after another in its own backend process.
type worker struct {
	st     *store.Store
	o      *TrainOptions
	q      *queue
	meter  progress.Meter
	before map[*Node]bool // in the store when Train began
	keep   *retention
	giveUp context.CancelCauseFunc // ends all workers
	losses *losses
	pool   *pool
	slot   *device
	log    *outlet // of proc
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
	p, err := w.o.Launch(ctx, w.log)
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
	var givenUp *GivenUpError
	failed := false
	switch {
	case errors.Is(err, store.ErrDone):
		if !w.before[n] { // another process has done it
			w.meter.Skip(n.Spec.Work())
		}
		err = nil
	case err == nil, errors.Is(err, store.ErrBusy), errors.As(err, &givenUp):
	case errors.Is(err, store.ErrSuperseded):
		w.meter.Printf("%s: warning: %v; it goes on with the same result (a machine that sleeps, or a file system that was away?)", n.Run.ID, err)
	case ctx.Err() != nil:
		if !errors.Is(err, context.Cause(ctx)) {
			w.meter.Printf("%s: warning: stopped, and what was trained since the last checkpoint is lost: %v", n.Run.ID, err)
		}
	default:
		failed = true
		w.meter.Printf("%s failed: %v", n.Run.ID, err)
		w.meter.Event("failure", map[string]any{"id": n.Run.ID, "digest": n.Digest, "error": err.Error()})
	}
	row := w.q.settle(n, err)
	if err == nil {
		drop(w.keep, n, w.meter)
	}
	switch {
	case !failed:
	case noRoom(err):
		w.giveUp(fmt.Errorf("%s: %w", n.Run.ID, err))
	case w.o.Breaker > 0 && row >= w.o.Breaker:
		w.giveUp(fmt.Errorf("%d runs in a row have failed, so that the fault is hardly theirs (--breaker); the last, %s: %w", row, n.Run.ID, err))
	}
}

// drop drops the weights that need not stay now that a run is finished.
func drop(keep *retention, n *Node, meter progress.Meter) {
	nodes, err := keep.finished(n)
	for _, d := range nodes {
		if _, e := dropRun(keep.st, d.Digest, keep.why()); e != nil {
			err = e
		}
	}
	if err != nil {
		meter.Printf("%s: warning: weights stay that need not: %v", n.Run.ID, err)
	}
}

// noRoom reports whether the store cannot be written to, by this run or another.
func noRoom(err error) bool {
	return errors.As(err, new(*storeError)) &&
		(errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EROFS))
}

// attempts claims a run and trains it, with a new backend process after each
// failure of the backend's.
func (w *worker) attempts(ctx context.Context, n *Node) error {
	if w.st.HasRun(n.Digest) {
		return store.ErrDone
	}
	if w.o.MaxAttempts > 0 {
		switch last, err := w.st.Last(n.Digest); {
		case err != nil:
			return &storeError{err}
		case last != nil && last.Failures >= w.o.MaxAttempts:
			return &GivenUpError{*last}
		}
	}
	if n.Parent != nil && w.st.Dropped(n.Parent.Digest) {
		if err := w.rebuild(ctx, n.Parent); err != nil {
			return err
		}
	}
	claim, err := w.st.Claim(n.Digest)
	if errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrDone) {
		return err
	}
	if err != nil {
		return &storeError{err}
	}
	defer claim.Release()
	w.log.to(claim.Log())
	defer w.log.to(nil)
	meter := newAccount(w.meter, n, claim, w.losses, w.pool.told(n))
	defer meter.end()
	claim.Update(func(a *store.Attempt) {
		a.ID, a.Study, a.Harness, a.Parent, a.Total = n.Run.ID, w.o.Study, w.o.Harness, n.Spec.Parent, n.Spec.Work()
		a.Backend, a.Threads = n.Spec.Backend.Name, w.o.Threads
		a.Target, a.Epochs = n.Spec.Target, n.Spec.Epochs
	})
	if path, why := claim.Damaged(); path != "" {
		meter.Printf("%s: warning: %v: making the run again; what was there is kept as %s", n.Run.ID, why, path)
	}
	if k := claim.Attempt().Fruitless; k > 1 {
		meter.Printf("%s: warning: its last %d attempts ended before anything of it was kept: let it have more time, or keep it more often (--checkpoint-every)", n.Run.ID, k)
	}
	// Who goes on from here on in another's run stops.
	ctx, cancel := whileHeld(ctx, claim)
	defer cancel()
	err = w.train(ctx, n, claim, meter)
	switch {
	case err == nil, errors.Is(err, store.ErrDone):
	case claim.Superseded():
		w.stop()
		return store.ErrSuperseded
	case errors.Is(err, store.ErrBusy): // it goes on when a device is free
		claim.Update(func(a *store.Attempt) { a.Error = err.Error() })
	case ctx.Err() == nil:
		claim.Fail(err)
	}
	return err
}

// rebuild brings back the weights of a pretraining, which were dropped when no run was
// known that would start from them.
func (w *worker) rebuild(ctx context.Context, n *Node) error {
	w.stop() // the device is the rebuilder's
	r, err := NewRetrainer(w.st, RetrainOptions{Launch: w.o.Launch, Device: w.slot.Name, Threads: w.o.Threads, Restarts: w.o.Restarts})
	if err != nil {
		return err
	}
	defer r.Close()
	w.meter.Printf("%s: its weights were dropped and are needed again: it is trained again, to the same bits", n.Run.ID)
	switch _, err := r.Rebuild(ctx, n.Digest); {
	case errors.Is(err, store.ErrBusy): // somebody is at it; the run itself is nobody's
		return store.ErrBusy
	case err != nil:
		return fmt.Errorf("its pretraining: %w", err)
	}
	return nil
}

// train trains a claimed run and publishes it.
func (w *worker) train(ctx context.Context, n *Node, claim *store.Claim, meter *account) error {
	started := time.Now()
	for restarts := 0; ; restarts++ {
		meter.begin()
		res, err := w.attempt(ctx, n, claim, meter)
		if err == nil {
			return w.commit(claim, n, res, started, restarts)
		}
		w.stop() // after any failure the process is not to be trusted
		if ctx.Err() == nil && w.slot.blamed(err) {
			return w.slot.loss(ctx, n, err, w.seen, w.o.Restarts, meter.total())
		}
		if ctx.Err() != nil || !backendFailed(err) || restarts >= w.o.Restarts {
			return err
		}
		claim.Update(func(a *store.Attempt) { a.Restarts++ })
		meter.Printf("%s: %v\n%s: restarting the backend, going on from the last checkpoint (%d of %d)", n.Run.ID, err, n.Run.ID, restarts+1, w.o.Restarts)
		meter.Event("restart", map[string]any{"id": n.Run.ID, "digest": n.Digest, "error": err.Error(), "restart": restarts + 1})
	}
}

func (w *worker) attempt(ctx context.Context, n *Node, claim *store.Claim, meter *account) (*train.Result, error) {
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	if w.desc.Name != n.Spec.Backend.Name || w.desc.Numerics != n.Spec.Backend.Numerics {
		return nil, fmt.Errorf("the backend is now %s with numerics %s; this study began with %s, %s (was it replaced meanwhile?)",
			w.desc.Name, w.desc.Numerics, n.Spec.Backend.Name, n.Spec.Backend.Numerics)
	}
	claim.Update(func(a *store.Attempt) { a.Device = w.device.Name + ": " + w.device.Info })
	if p, ok := w.proc.(interface{ PID() int }); ok {
		meter.watch(p.PID())
		defer meter.watch(0)
	}
	job := train.Job{
		Spec: n.Spec, Network: n.Network, Images: w.o.Images, Threads: w.o.Threads, Device: w.device.Name,
		Work: claim.Dir(), CheckpointEvery: w.o.CheckpointEvery, Watch: meter,
	}
	if n.Parent != nil {
		var err error
		if job.Parent, err = w.st.Weights(n.Parent.Digest); err != nil {
			return nil, err
		}
	}
	return train.Run(ctx, w.proc, job, keeper{claim, n, meter, w.slot}, meter)
}

func (w *worker) commit(claim *store.Claim, n *Node, r *train.Result, started time.Time, restarts int) error {
	spec, err := json.Marshal(n.Spec)
	if err != nil {
		return err
	}
	history, err := encodeHistory(&r.History)
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
		Host:    Host(),
		Started: started.UTC(), Finished: time.Now().UTC(),
		TrainSeconds: r.Seconds.Train, EvaluateSeconds: r.Seconds.Evaluate,
		Restarts: restarts + w.pool.losses(n),
		Notes:    n.Notes,
	}
	contents := map[string][]byte{
		store.HistoryFile: history,
		store.WeightsFile: r.Weights,
	}
	if r.Losses != nil {
		contents[store.LossesFile] = r.Losses
	}
	if n.Network != nil {
		contents[store.NetworkFile] = n.Network
	}
	switch err := claim.Commit(m, contents); {
	case errors.Is(err, store.ErrDone), errors.Is(err, store.ErrSuperseded):
		return err
	case err != nil:
		return &storeError{err}
	}
	w.slot.works()
	best := r.History.Epochs[r.History.Best-1]
	w.meter.Event("run", map[string]any{
		"id": n.Run.ID, "digest": n.Digest, "seconds": m.Finished.Sub(m.Started).Seconds(),
		"best_epoch": r.History.Best, "validation_loss": best.Validation[r.History.Target].Loss - backend.LeastLoss(n.Spec.Loss, n.Spec.Network.Classes),
	})
	return nil
}

// encodeHistory is the content of a run's store.HistoryFile.
func encodeHistory(h *store.History) ([]byte, error) {
	b, err := json.MarshalIndent(h, "", " ")
	return append(b, '\n'), err
}

// storeError is a failure to write to the store.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

// keeper is a node's claim whose failures to write are known as the store's.
type keeper struct {
	*store.Claim
	node  *Node
	meter *account
	on    *device
}

func (k keeper) SetCheckpoint(b []byte) error {
	if err := k.Claim.SetCheckpoint(b); err != nil {
		return &storeError{err}
	}
	k.meter.kept()
	k.on.works()
	return nil
}

func (k keeper) Damaged(damage error) error {
	path, err := k.SetAside()
	if err != nil {
		return &storeError{err}
	}
	id := k.node.Run.ID
	k.meter.Printf("%s: warning: its checkpoint is damaged: %v\n%s: going on from the one before or from its beginning, which gives the same result; the damaged file is kept as %s until the run is done", id, damage, id, path)
	return nil
}

// Host names this machine.
func Host() store.Host {
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

// whileHeld ends, with store.ErrSuperseded as its cause, when another process goes on
// in the claim's run.
func whileHeld(ctx context.Context, claim *store.Claim) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-claim.Lost():
			cancel(store.ErrSuperseded)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
