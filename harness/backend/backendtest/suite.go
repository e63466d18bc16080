package backendtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
)

// Options of a run of the suite.
type Options struct {
	Device string // default: the backend's first
	// Only selects the checks whose names begin so; "describe" always runs.
	Only string
	// Observe, if set, receives each result as it comes.
	Observe func(Result)
	// Restart, if set, is called after a check that lost the backend, by a crash or
	// a hang, for another one to go on with.
	Restart func(context.Context) (backend.Backend, error)
}

// Outcome of a check.
type Outcome string

// The outcomes.
const (
	Passed     Outcome = "pass"
	Failed     Outcome = "FAIL"
	NotOffered Outcome = "not offered" // the backend says that it lacks this, and may
)

// Result of one check.
type Result struct {
	Name    string
	Outcome Outcome
	Detail  string // what is wrong or not offered, or the measured distance
	Took    time.Duration
}

// Report is what the suite found.
type Report struct {
	Description backend.Description
	Results     []Result
}

// OK reports whether nothing failed and something passed.
func (r Report) OK() bool {
	passed := false
	for _, c := range r.Results {
		if c.Outcome == Failed {
			return false
		}
		passed = passed || c.Outcome == Passed
	}
	return passed
}

// Count is the number of results with the outcome.
func (r Report) Count(o Outcome) int {
	n := 0
	for _, c := range r.Results {
		if c.Outcome == o {
			n++
		}
	}
	return n
}

// String is the result as a line of text, without its end.
func (r Result) String() string {
	s := fmt.Sprintf("%-12s %-40s %6.2fs", r.Outcome, r.Name, r.Took.Seconds())
	if r.Detail != "" {
		s += "  " + strings.ReplaceAll(r.Detail, "\n", "\n\t")
	}
	return s
}

// Print writes one line per result and a last line with the verdict.
func (r Report) Print(w io.Writer) {
	for _, c := range r.Results {
		fmt.Fprintln(w, c)
	}
	fmt.Fprintln(w, r.Verdict())
}

// Verdict is one line on the whole run.
func (r Report) Verdict() string {
	verdict := "conforms"
	if !r.OK() {
		verdict = "does not conform"
	}
	return fmt.Sprintf("backend %s %s %s: %d passed, %d failed, %d not offered",
		r.Description.Name, r.Description.Version, verdict, r.Count(Passed), r.Count(Failed), r.Count(NotOffered))
}

// Test runs the suite as subtests.
func Test(t *testing.T, b backend.Backend, o Options) {
	t.Helper()
	r := Run(t.Context(), b, o)
	for _, c := range r.Results {
		t.Run(c.Name, func(t *testing.T) {
			switch c.Outcome {
			case Failed:
				t.Error(c.Detail)
			case NotOffered:
				t.Skip("not offered: " + c.Detail)
			default:
				t.Log(c)
			}
		})
	}
	if !r.OK() && !t.Failed() {
		t.Error(r.Verdict())
	}
}

// Run runs the suite. When ctx is done, or the backend is lost and cannot be
// restarted, the remaining checks fail unchecked.
func Run(ctx context.Context, b backend.Backend, o Options) Report {
	s := &suite{backend: b, options: o}
	dir, err := os.MkdirTemp("", "refocus-conformance-")
	if err != nil {
		s.report.Results = append(s.report.Results, Result{Name: "setup", Outcome: Failed, Detail: err.Error()})
		return s.report
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	s.all(ctx)
	return s.report
}

// suite is a run in progress.
type suite struct {
	backend backend.Backend
	options Options
	dir     string // for datasets
	files   int
	lost    error // the backend crashed or hung
	report  Report
}

// check is one check in progress. Its methods end the check by a panic that
// run catches, so that checks read like a list of facts.
type check struct {
	*suite
	ctx    context.Context
	detail string
	open   []backend.Session
}

type (
	failure    struct{ text string }
	notOffered struct{ text string }
)

func (c *check) failf(format string, a ...any) { panic(failure{fmt.Sprintf(format, a...)}) }

func (c *check) skipf(format string, a ...any) { panic(notOffered{fmt.Sprintf(format, a...)}) }

// must fails the check if err is set.
func (c *check) must(err error, doing string, a ...any) {
	if err != nil {
		if lost(err) {
			c.lost = err
		}
		c.failf("%s: %v", fmt.Sprintf(doing, a...), err)
	}
}

func lost(err error) bool {
	var crash *backend.CrashError
	var hang *backend.HangError
	return errors.As(err, &crash) || errors.As(err, &hang) || errors.Is(err, backend.ErrDeviceLost)
}

// refused fails the check unless err is set.
func (c *check) refused(err error, what string, a ...any) {
	if err == nil {
		c.failf("%s was accepted", fmt.Sprintf(what, a...))
	}
	if lost(err) {
		c.lost = err
		c.failf("%s ended the backend: %v", fmt.Sprintf(what, a...), err)
	}
}

// unsupported fails the check unless err refuses what the backend does not have,
// so that whoever asked can tell it from a mistake or a fault.
func (c *check) unsupported(err error, what string) {
	c.refused(err, "%s", what)
	if !errors.Is(err, backend.ErrUnsupported) {
		c.failf("%s was refused by an error that does not wrap backend.ErrUnsupported (UNIMPLEMENTED on the wire): %v", what, err)
	}
}

// restart replaces a backend that was lost.
func (s *suite) restart(ctx context.Context) {
	if s.options.Restart == nil {
		return
	}
	b, err := s.options.Restart(ctx)
	if err != nil {
		s.options.Restart = nil // once is enough to wait for
		return
	}
	s.backend, s.lost = b, nil
}

// run makes one check, closing its sessions afterwards.
func (s *suite) run(ctx context.Context, name string, f func(c *check)) {
	if name != "describe" && !strings.HasPrefix(name, s.options.Only) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	c := &check{suite: s, ctx: ctx}
	begin := time.Now()
	r := Result{Name: name, Outcome: Passed}
	func() {
		defer func() {
			switch p := recover().(type) {
			case nil:
				r.Detail = c.detail
			case failure:
				r.Outcome, r.Detail = Failed, p.text
			case notOffered:
				r.Outcome, r.Detail = NotOffered, p.text
			default:
				panic(p)
			}
		}()
		if s.lost != nil && ctx.Err() == nil {
			s.restart(ctx)
		}
		switch {
		case s.lost != nil:
			c.failf("not checked: the backend was lost")
		case ctx.Err() != nil:
			c.failf("not checked: %v", ctx.Err())
		}
		f(c)
	}()
	for _, v := range c.open {
		if err := v.Close(); err != nil && r.Outcome == Passed {
			r.Outcome, r.Detail = Failed, fmt.Sprintf("closing the session: %v", err)
		}
	}
	r.Took = time.Since(begin)
	s.report.Results = append(s.report.Results, r)
	if s.options.Observe != nil {
		s.options.Observe(r)
	}
}
