package reproduce

import (
	"fmt"
	"io"
	"math"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
)

// account is the meter of one attempt. It passes the work on to the study's meter, but
// not again what a restarted backend repeats; writes what is said into the attempt's
// log; fills in the attempt's record; and is its training's train.Watcher.
type account struct {
	progress.Meter
	log    io.Writer
	target string
	least  float64 // that the loss can be
	losses *losses

	mu         sync.Mutex
	done, told float64 // since the backend was last started, and in the whole attempt
	from, keep float64
	begun      bool
	curve      store.Recorder
	epochs     int  // of the curve
	stepped    bool // since the backend was last started
	process    usage
	before     float64 // seconds of processors that ended processes have used
}

// newAccount is the account of an attempt at a run of whose work so much has been told
// before.
func newAccount(m progress.Meter, n *Node, claim *store.Claim, l *losses, told float64) *account {
	a := &account{Meter: m, log: claim.Log(), target: n.Spec.Target, losses: l, told: told,
		least: backend.LeastLoss(n.Spec.Loss, n.Spec.Network.Classes)}
	claim.Sample(a.fill)
	return a
}

// begin is called before the backend starts on the run, again after each failure.
func (a *account) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done = 0
	a.curve, a.epochs, a.stepped = store.Recorder{}, 0, false
}

// Step is told of every step.
func (a *account) Step(epochs, loss float64) {
	a.mu.Lock()
	a.curve.Step(epochs, loss-a.least)
	a.stepped = true
	a.mu.Unlock()
	a.losses.add(a, loss-a.least)
}

// Epoch is told of every epoch. Those that a checkpoint has saved come at once; of
// their steps the means are known.
func (a *account) Epoch(h *store.History) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for ; a.epochs < len(h.Epochs); a.epochs++ {
		e := h.Epochs[a.epochs]
		if !a.stepped {
			a.curve.Step(float64(a.epochs+1), e.TrainLoss-a.least)
		}
		if v, ok := e.Validation[a.target]; ok {
			a.curve.Validated(a.epochs+1, v.Loss-a.least, v.Dice)
		}
	}
}

// end is called when nothing more is trained.
func (a *account) end() { a.losses.end(a) }

func (a *account) Add(n float64) {
	a.tell(n, a.Meter.Add)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.begun = true
}

// Skip is told of what a checkpoint saves.
func (a *account) Skip(n float64) {
	a.tell(n, a.Meter.Skip)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.begun {
		a.from, a.keep = a.done, a.done
	}
}

func (a *account) tell(n float64, tell func(float64)) {
	a.mu.Lock()
	a.done += n
	more := a.done - a.told
	if more > 0 {
		a.told = a.done
	}
	a.mu.Unlock()
	if more > 0 {
		tell(more)
	}
}

// total is how much of the run's work has been told.
func (a *account) total() float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.told
}

// kept is called when what is done is in a checkpoint.
func (a *account) kept() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep = a.done
}

func (a *account) Printf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	stamp := time.Now().UTC().Format(time.RFC3339) + " "
	fmt.Fprintf(a.log, "%s%s\n", stamp, strings.ReplaceAll(text, "\n", "\n"+stamp))
	a.Meter.Printf("%s", text)
}

// watch has the use of a process counted from now on; 0 is none.
func (a *account) watch(pid int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.process.sample()
	a.before += a.process.seconds()
	a.process = newUsage(pid, a.process.memory)
}

func (a *account) fill(r *store.Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.From, r.Done, r.Kept = a.from, max(a.done, a.keep), a.keep
	a.process.sample()
	r.Curve = a.curve.Curve()
	r.CPUSeconds, r.MemoryBytes = a.before+a.process.seconds(), a.process.memory
}

// losses is the mean over what is being trained of the loss of its last steps, for the
// meter.
type losses struct {
	meter progress.Meter

	mu   sync.Mutex
	of   map[*account]float64
	told time.Time
}

// How much of the loss a step is, and how often the meter is told.
const (
	newest    = 0.1
	lossEvery = 200 * time.Millisecond
)

func (l *losses) add(a *account, loss float64) {
	if math.IsNaN(loss) || math.IsInf(loss, 0) { // of a step that was skipped
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.of[a]; ok {
		loss = last + newest*(loss-last)
	}
	l.of[a] = loss
	if time.Since(l.told) >= lossEvery {
		l.tell()
	}
}

func (l *losses) end(a *account) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, a)
	if len(l.of) == 0 {
		l.tell()
	}
}

func (l *losses) tell() {
	sum := 0.0
	for _, v := range l.of {
		sum += v
	}
	l.meter.Gauge("loss", sum/float64(len(l.of))) // NaN where nothing is trained
	l.told = time.Now()
}

// usage is what a process has used since newUsage.
type usage struct {
	pid         int
	first, last float64 // seconds of processors
	memory      int64   // bytes, the most that was ever resident
}

func newUsage(pid int, memory int64) usage {
	u := usage{pid: pid, memory: memory}
	u.sample()
	u.first = u.last
	return u
}

// sample looks at the process. Of one that has ended the last look counts.
func (u *usage) sample() {
	if u.pid <= 0 {
		return
	}
	if seconds, memory, ok := processUsage(u.pid); ok {
		u.last, u.memory = seconds, max(u.memory, memory)
	}
}

func (u *usage) seconds() float64 { return u.last - u.first }

// outlet passes what a process says on to where it belongs now.
type outlet struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *outlet) to(w io.Writer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.w = w
}

func (o *outlet) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.w == nil {
		return len(p), nil
	}
	return o.w.Write(p)
}
