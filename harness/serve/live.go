package serve

import (
	"bytes"
	"net/http"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/store"
)

// attempt is a process's work on a run, for people.
type attempt struct {
	Digest, ID, Study, Where string
	Number                   int
	Percent                  float64
	Left                     string
	Error, When              string
	ended                    time.Time
}

// mostFailures that are listed.
const mostFailures = 50

// live lists the runs that some process is at now, in every process and on every
// machine that shares the store, and those whose last attempt has failed.
func (s *Server) live() (running, failed []attempt, err error) {
	digests, err := s.o.Store.Attempted()
	if err != nil {
		return nil, nil, err
	}
	for _, d := range digests {
		if s.o.Store.HasRun(d) {
			continue
		}
		state, a, err := s.o.Store.State(d)
		if err != nil {
			return nil, nil, err
		}
		if state != store.Running && state != store.Failed {
			continue
		}
		l := attempt{Digest: d, ID: a.ID, Study: a.Study, Number: a.Number, Where: a.Host, Error: a.Error, ended: a.Ended}
		if a.Device != "" {
			l.Where += ", " + a.Device
		}
		if a.Total > 0 {
			l.Percent = 100 * a.Done / a.Total
		}
		if state == store.Failed {
			l.When = a.Ended.Format("2006-01-02 15:04:05")
			failed = append(failed, l)
			continue
		}
		l.Left = "–"
		if took := a.Heard.Sub(a.Started); a.Done > a.From && took > 0 {
			l.Left = format.Duration(time.Duration(float64(took) * (a.Total - a.Done) / (a.Done - a.From)))
		}
		running = append(running, l)
	}
	slices.SortFunc(failed, func(a, b attempt) int { return b.ended.Compare(a.ended) })
	return running, failed[:min(len(failed), mostFailures)], nil
}

// log shows what was said during an attempt.
func (s *Server) log(w http.ResponseWriter, r *http.Request) error {
	digest := r.FormValue("digest")
	all, err := s.o.Store.Attempted()
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(r.FormValue("number"))
	if err != nil || !slices.Contains(all, digest) {
		return notFound("no such attempt")
	}
	attempts, err := s.o.Store.Attempts(digest)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(attempts, func(a *store.Attempt) bool { return a.Number == number })
	if i < 0 {
		return notFound("run %.12s has no attempt %d", digest, number)
	}
	a := attempts[i]
	b, err := os.ReadFile(s.o.Store.LogPath(digest, number))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	what := "on " + a.Host + ", begun " + a.Started.Format("2006-01-02 15:04:05")
	if a.Outcome != "" {
		what += ", " + a.Outcome
	}
	if a.Error != "" {
		what += ": " + a.Error
	}
	text := format.Visible(string(bytes.Trim(b, "\x00")))
	if text == "" {
		text = "Nothing was said."
	}
	return s.show(w, "log.html", "now", a.ID+", attempt "+strconv.Itoa(number), map[string]any{"What": format.Visible(what), "Text": text})
}
