package serve

import (
	"bytes"
	"html/template"
	"maps"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/internal/format"
	"github.com/refocus-em/refocus/harness/report/plot"
	"github.com/refocus-em/refocus/harness/store"
)

// look is what was seen of the store a moment ago, once for all who ask.
type look struct {
	mu    sync.Mutex
	taken time.Time
	whole map[string]bool // runs that were looked at, and are finished

	finished map[string]bool
	attempts map[string]seen // at runs that are not finished
}

// seen is the state of a run that was attempted.
type seen struct {
	state store.State
	*store.Attempt
}

// lookEvery is for how long what was seen of the store will do.
const lookEvery = time.Second

// take looks at the store, unless that was done a moment ago. Of runs that were
// finished before it makes sure that they are listed, so that thousands of them cost
// little.
func (l *look) take(st *store.Store) (finished map[string]bool, attempts map[string]seen, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.taken) < lookEvery {
		return l.finished, l.attempts, nil
	}
	runs, err := st.Runs()
	if err != nil {
		return nil, nil, err
	}
	attempted, err := st.Attempted()
	if err != nil {
		return nil, nil, err
	}
	finished, attempts = map[string]bool{}, map[string]seen{}
	for _, d := range runs {
		if l.whole[d] || st.HasRun(d) {
			finished[d] = true
		}
	}
	for _, d := range attempted {
		if finished[d] {
			continue
		}
		state, a, err := st.State(d)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case state == store.Finished: // meanwhile
			finished[d] = true
		case a != nil:
			attempts[d] = seen{state, a}
		}
	}
	l.whole, l.finished, l.attempts, l.taken = finished, finished, attempts, time.Now()
	return finished, attempts, nil
}

// attempt is a process's work on a run, for people.
type attempt struct {
	Digest, ID, Study, Where string
	Number                   int
	Percent                  float64
	Epochs                   string
	Loss, Validation, Dice   string
	Curve                    template.HTML
	Rate, Left               string
	Error, When              string
	ended                    time.Time
}

// told is the attempt for people.
func told(a *store.Attempt) attempt {
	t := attempt{Digest: a.Digest, ID: a.ID, Study: a.Study, Number: a.Number, Where: a.Host, Error: a.Error, ended: a.Ended,
		Epochs: format.None, Loss: format.None, Validation: format.None, Dice: format.None, Rate: format.None, Left: format.None}
	if a.Device != "" {
		t.Where += ", " + a.Device
	}
	if a.Total > 0 {
		t.Percent = 100 * a.Done / a.Total
	}
	if n := a.Epoch(); n > 0 {
		t.Epochs = format.Count(int64(n)) + " of " + format.Count(int64(a.Epochs))
	}
	if v := a.Curve.Loss(); !math.IsNaN(v) {
		t.Loss = format.Loss(v)
	}
	if v, dice := a.Curve.Validated(); !math.IsNaN(v) {
		t.Validation, t.Dice = format.Loss(v), format.Digits(dice, 3)
	}
	if c := a.Curve; c != nil {
		var validation [][2]float64
		for _, v := range c.Validation {
			validation = append(validation, [2]float64{v[0], v[1]})
		}
		curves := [][][2]float64{c.Training}
		if len(validation) > 1 {
			curves = append(curves, validation)
		}
		t.Curve = template.HTML(plot.Spark("losses of "+a.ID+" so far, the last "+t.Loss, curves...).Inline())
	}
	if v := a.Rate(); v > 0 {
		t.Rate = format.Rate(v)
	}
	if v := a.Left(); v >= 0 {
		t.Left = format.Duration(v)
	}
	if !a.Ended.IsZero() {
		t.When = a.Ended.Format("2006-01-02 15:04:05")
	}
	return t
}

// mostFailures that are listed.
const mostFailures = 50

// live lists the runs that some process is at now, in every process and on every
// machine that shares the store, how many image-steps a second that is, and those
// whose last attempt has failed.
func (s *Server) live() (running, failed []attempt, rate float64, err error) {
	_, attempts, err := s.look.take(s.o.Store)
	if err != nil {
		return nil, nil, 0, err
	}
	for _, d := range slices.Sorted(maps.Keys(attempts)) {
		switch a := attempts[d]; a.state {
		case store.Running:
			running = append(running, told(a.Attempt))
			rate += a.Rate()
		case store.Failed:
			failed = append(failed, told(a.Attempt))
		}
	}
	slices.SortStableFunc(running, func(a, b attempt) int { return strings.Compare(a.Study+a.ID, b.Study+b.ID) })
	slices.SortStableFunc(failed, func(a, b attempt) int { return b.ended.Compare(a.ended) })
	return running, failed[:min(len(failed), mostFailures)], rate, nil
}

// unfinished shows a run that is being trained, or has failed, as far as it is.
func (s *Server) unfinished(w http.ResponseWriter, r *http.Request, a seen) error {
	body := map[string]any{"Attempt": told(a.Attempt), "Running": a.state == store.Running, "Failed": a.state == store.Failed, "Target": a.Target,
		"Address": "run?digest=" + a.Digest, "Command": s.shell("logs", a.Digest[:12])}
	if c := a.Curve; c != nil {
		l := plot.Lines{Title: "Losses of " + a.ID + " so far", X: "epoch", Y: plot.LossLabel, Dots: len(c.Validation) < 30, Marks: plot.EpochTicks(a.Epoch())}
		var validation plot.Curve
		type epoch struct{ Number, Loss, Dice string }
		var epochs []epoch
		for _, v := range c.Validation {
			validation.Points = append(validation.Points, [2]float64{v[0], v[1]})
			epochs = append(epochs, epoch{format.Plain(v[0]), format.Loss(v[1]), format.Digits(v[2], 3)})
		}
		if validation.Name = a.Target + " (target)"; len(validation.Points) > 0 {
			l.Curves = append(l.Curves, validation)
		}
		if len(c.Training) > 0 {
			l.Curves = append(l.Curves, plot.Curve{Name: "training", Dashed: true, Points: c.Training})
		}
		l.Dots = l.Dots && len(c.Training) < 30
		body["History"] = drawn(l.Draw(), "Validation on the target after every epoch, and the training loss meanwhile (dashed), a mean over some batches.")
		slices.Reverse(epochs)
		body["Epochs"] = epochs
	}
	return s.show(w, r, "unfinished.html", "now", a.ID, body)
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
	return s.show(w, r, "log.html", "now", a.ID+", attempt "+strconv.Itoa(number), map[string]any{
		"What": format.Visible(what), "Text": text, "Address": "log?digest=" + digest + "&number=" + strconv.Itoa(number),
	})
}
