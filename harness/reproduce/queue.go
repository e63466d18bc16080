package reproduce

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/progress"
	"github.com/refocus-em/refocus/harness/store"
)

// A run that another process is working on is left alone for a while, which grows.
const (
	firstPause = 300 * time.Millisecond
	lastPause  = 5 * time.Second
)

// queue hands out runs whose parents are done.
type queue struct {
	wait Wait

	mu       sync.Mutex
	cond     *sync.Cond
	open     []*Node // not handed out
	away     map[*Node]*away
	out      int
	done     map[*Node]bool
	failed   map[*Node]error
	failures []Failure
	streak   int // failures since the last run that was trained
	givenUp  int // of the failures, those that were not even tried
}

// away is a run in the hands of another process.
type away struct {
	until time.Time
	pause time.Duration
	alive bool // the other has been seen to live
}

func newQueue(nodes []*Node, wait Wait) *queue {
	q := &queue{wait: wait, open: slices.Clone(nodes), away: map[*Node]*away{}, done: map[*Node]bool{}, failed: map[*Node]error{}}
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *queue) wake() { q.cond.Broadcast() }

// next waits for a run to do; nil means that there is none left for this process, or
// that ctx is done.
func (q *queue) next(ctx context.Context) *Node {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if ctx.Err() != nil || q.out == 0 && (len(q.open) == 0 || q.leaves()) {
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
			if a := q.away[n]; a != nil {
				if until := time.Until(a.until); until > 0 {
					if wait == 0 || until < wait {
						wait = until
					}
					continue
				}
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

// leaves reports whether all that is open is in the hands of others, who live, or
// waits, which q.wait may not, for what is.
func (q *queue) leaves() bool {
	if q.wait == WaitForAll {
		return false
	}
	for _, n := range q.open {
		if n.Parent != nil && q.failed[n.Parent] != nil {
			return false // it is about to be settled
		}
		if q.wait == WaitNever && n.Parent != nil && !q.done[n.Parent] {
			continue // its parent is open too
		}
		if a := q.away[n]; a == nil || !a.alive {
			return false
		}
	}
	return true
}

func (q *queue) fail(n *Node, err error) {
	q.failed[n] = err
	q.failures = append(q.failures, Failure{n, err})
}

// settle takes back a run that next handed out, and returns how many in a row have
// failed.
func (q *queue) settle(n *Node, err error) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out--
	var busy *store.BusyError
	switch {
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrSuperseded):
		a := q.away[n]
		if a == nil {
			a = &away{pause: firstPause}
			q.away[n] = a
		}
		a.until = time.Now().Add(a.pause)
		a.pause = min(a.pause*3/2, lastPause)
		a.alive = errors.As(err, &busy) && busy.Alive
		q.open = append(q.open, n)
	case errors.As(err, new(*GivenUpError)):
		q.givenUp++
		q.fail(n, err)
	case err != nil:
		q.streak++
		q.fail(n, err)
	default:
		q.done[n] = true
		q.streak = 0
	}
	q.cond.Broadcast()
	return q.streak
}

// elsewhere is how many runs are left to other processes.
func (q *queue) elsewhere() int { return len(q.open) }

// tell says what was not done, and why.
func (q *queue) tell(meter progress.Meter) {
	if q.givenUp > 0 {
		meter.Printf("%d runs have failed before, as often as is allowed, and were left alone: 'refocus status --failed' lists them, 'refocus logs RUN' says why, 'refocus retry' lets them be tried again", q.givenUp)
	}
}
