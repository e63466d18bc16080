package serve

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/reproduce"
	"github.com/refocus-em/refocus/harness/store"
	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/trained"
)

// studies are what the store may hold: of every spec each profile, for every
// backend.
type studies struct {
	s  *Server
	mu sync.Mutex
	// described are the backends, asked once.
	described map[string]backend.Description
	resolved  map[string]*resolved
}

// resolved is a study whose every run has its address.
type resolved struct {
	ID string // "defocus/quick/cpu"
	*reproduce.Resolved
	byDigest map[string]*reproduce.Node

	mu     sync.Mutex
	number int // of finished runs when the results were read
	last   []trained.Result
}

// Title names the study for people.
func (r *resolved) Title() string {
	return fmt.Sprintf("%s, %s, %s", r.Plan.Study.Name, r.Plan.Study.ProfileName(), r.Backend.Name)
}

// candidates are the names, profiles and backends that there are.
func (t *studies) candidates() []string {
	var ids []string
	names := append(slices.Clone(t.s.o.Specs), study.Series()...)
	for _, name := range names {
		f, err := study.Find(name)
		if err != nil {
			continue
		}
		profiles := f.Profiles()
		if len(profiles) == 0 {
			profiles = []string{""}
		}
		for _, p := range profiles {
			for _, b := range t.s.o.Backends {
				ids = append(ids, name+"@"+p+"@"+b)
			}
		}
	}
	return ids
}

// get resolves a study once. Studies of a user's own images are resolved only if
// the user named their spec, since that reads them.
func (t *studies) get(ctx context.Context, id string) (*resolved, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.resolved[id]; r != nil {
		return r, nil
	}
	parts := strings.Split(id, "@")
	if len(parts) != 3 || !slices.Contains(t.candidates(), id) {
		return nil, notFound("there is no study %q here", id)
	}
	p, err := study.Load(parts[0], parts[1])
	if err != nil {
		return nil, err
	}
	if len(p.Study.Own) > 0 && !slices.Contains(t.s.o.Specs, parts[0]) {
		return nil, notFound("%s is about somebody's own images: name its spec when you start refocus serve", parts[0])
	}
	d, ok := t.described[parts[2]]
	if !ok {
		if d, err = t.s.o.Describe(ctx, parts[2]); err != nil {
			return nil, err
		}
		if t.described == nil {
			t.described = map[string]backend.Description{}
		}
		t.described[parts[2]] = d
	}
	got, err := reproduce.Resolve(ctx, t.s.o.Store, p, d)
	if err != nil {
		return nil, err
	}
	r := &resolved{ID: id, Resolved: got, byDigest: map[string]*reproduce.Node{}, number: -1}
	for _, n := range got.Nodes {
		r.byDigest[n.Digest] = n
	}
	if t.resolved == nil {
		t.resolved = map[string]*resolved{}
	}
	t.resolved[id] = r
	return r, nil
}

// listed is a study that the store holds something of.
type listed struct {
	ID, Title string
	reproduce.States
	Percent float64
	Left    string // at the rate of what runs
	Queue   []queued
	Queued  int // runs, of which Queue has the first
}

// queued is a run that waits while others of its study are trained.
type queued struct{ ID, After, Kept string }

// mostQueued runs of a study are listed.
const mostQueued = 20

// list are the studies of which the store holds or trains something, and why
// others cannot be shown.
func (t *studies) list(ctx context.Context) (all []listed, failed []string) {
	finished, attempts, err := t.s.look.take(t.s.o.Store)
	if err != nil {
		return nil, []string{err.Error()}
	}
	for _, id := range t.candidates() {
		r, err := t.get(ctx, id)
		if err != nil {
			if _, own := err.(*problem); !own {
				failed = append(failed, fmt.Sprintf("%s: %v", strings.ReplaceAll(id, "@", ", "), err))
			}
			continue
		}
		if l, known := r.listed(finished, attempts); known {
			all = append(all, l)
		}
	}
	return all, failed
}

// listed says how much of the study is done, and whether any of it was ever begun.
func (r *resolved) listed(finished map[string]bool, attempts map[string]seen) (l listed, known bool) {
	l = listed{ID: r.ID, Title: r.Title(), States: reproduce.States{Runs: len(r.Nodes)}, Left: format.None}
	var rate, left float64
	var waits []*reproduce.Node
	for _, n := range r.Nodes {
		a, attempted := attempts[n.Digest]
		known = known || attempted || finished[n.Digest]
		switch {
		case finished[n.Digest]:
			l.Count(store.Finished)
			continue
		case attempted:
			l.Count(a.state)
			left -= min(n.Spec.Work(), a.Kept)
		default:
			l.Count(store.Untouched)
		}
		left += n.Spec.Work()
		switch {
		case attempted && a.state == store.Running:
			rate += a.Rate()
		case !attempted || a.state != store.Failed:
			waits = append(waits, n)
		}
	}
	l.Percent = 100 * float64(l.Finished) / float64(max(1, l.Runs))
	if l.Running == 0 {
		return l, known
	}
	if rate > 0 {
		l.Left = format.Duration(time.Duration(left / rate * float64(time.Second)))
	}
	l.Queued = len(waits)
	for _, n := range waits[:min(len(waits), mostQueued)] {
		q := queued{ID: n.Run.ID, After: format.None, Kept: format.None}
		if n.Parent != nil && !finished[n.Parent.Digest] {
			q.After = n.Parent.Run.ID
		}
		if a := attempts[n.Digest]; a.Attempt != nil && a.Kept > 0 {
			q.Kept = format.Percent(a.Kept / n.Spec.Work())
		}
		l.Queue = append(l.Queue, q)
	}
	return l, known
}

// results are the study's finished models, read again when more have finished.
func (s *Server) results(r *resolved) ([]trained.Result, error) {
	finished, _, err := s.look.take(s.o.Store)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	number := 0
	for _, n := range r.Nodes {
		if finished[n.Digest] {
			number++
		}
	}
	if number == r.number {
		return r.last, nil
	}
	got, err := trained.Results(r.Store, r.Nodes)
	if err != nil {
		return nil, err
	}
	r.number, r.last = number, got
	return got, nil
}

// chosen is the study that a request names, or else the first that there is.
func (s *Server) chosen(r *http.Request) (*resolved, []listed, error) {
	all, failed := s.studies.list(r.Context())
	id := r.FormValue("study")
	if id == "" && len(all) > 0 {
		id = all[0].ID
	}
	if id == "" {
		text := "nothing has been trained in this store yet; refocus reproduce defocus does that"
		if len(failed) > 0 {
			text += " (" + strings.Join(failed, "; ") + ")"
		}
		return nil, nil, notFound("%s", text)
	}
	got, err := s.studies.get(r.Context(), id)
	return got, all, err
}

// now is what runs.
func (s *Server) now(w http.ResponseWriter, r *http.Request) error {
	all, failed := s.studies.list(r.Context())
	running, failures, rate, err := s.live()
	if err != nil {
		return err
	}
	body := map[string]any{"Studies": all, "Failed": failed, "Live": running, "Failures": failures}
	if rate > 0 {
		body["Rate"] = format.Rate(rate)
	}
	return s.show(w, r, "now.html", "now", "Now", body)
}
