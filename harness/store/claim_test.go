//go:build unix

package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// node is the store at root as a machine sees it which knows of no process elsewhere,
// and whose patience is short.
func node(t testing.TB, root, name string) *Store {
	s, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	s.self = files.Process{Host: name, PID: 1, Boot: "the kernel of " + name, Start: "1"}
	s.beat, s.expiry = 10*time.Millisecond, 200*time.Millisecond
	return s
}

// patiently claims a run as soon as that is possible.
func patiently(s *Store, digest string) (*Claim, error) {
	for {
		c, err := s.Claim(digest)
		if !errors.Is(err, ErrBusy) {
			return c, err
		}
		time.Sleep(s.beat)
	}
}

// A machine of which nothing is heard loses its run to one other, which goes on from
// its checkpoint, whatever the clocks say. When it comes back it can do no harm.
func TestTakeover(t *testing.T) {
	root := t.TempDir()
	digest, m := run("a")
	silent := node(t, root, "silent")
	silent.beat, silent.every = time.Hour, time.Hour
	lost, err := silent.Claim(digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := lost.SetCheckpoint([]byte("half way")); err != nil {
		t.Fatal(err)
	}
	for _, clock := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		lost.Update(func(a *Attempt) { a.Started = time.Now().Add(clock) })
		skewed := time.Now().Add(clock)
		if err := os.Chtimes(silent.attemptPath(digest, 1), skewed, skewed); err != nil {
			t.Fatal(err)
		}
	}

	var mu sync.Mutex
	var winner *Claim
	var others sync.WaitGroup
	for i := range 8 {
		s := node(t, root, fmt.Sprintf("node %d", i))
		var busy *BusyError
		if _, err := s.Claim(digest); !errors.As(err, &busy) || busy.Alive || busy.By.Host != "silent" {
			t.Fatalf("at first sight: %v", err)
		}
		others.Go(func() {
			for {
				c, err := s.Claim(digest)
				mu.Lock()
				switch {
				case err == nil && winner != nil:
					t.Error("two have taken it over")
				case err == nil:
					winner = c
				case !errors.Is(err, ErrBusy):
					t.Error(err)
				}
				taken := winner != nil
				mu.Unlock()
				if taken {
					return
				}
				time.Sleep(s.beat)
			}
		})
	}
	others.Wait()
	if winner == nil {
		t.FailNow()
	}
	if b, err := winner.Checkpoint(); err != nil || string(b) != "half way" {
		t.Errorf("checkpoint %q, %v", b, err)
	}
	if err := winner.SetCheckpoint([]byte("further")); err != nil {
		t.Error(err)
	}

	if err := lost.SetCheckpoint([]byte("late")); !errors.Is(err, ErrSuperseded) {
		t.Errorf("a late checkpoint: %v", err)
	}
	contents := map[string][]byte{HistoryFile: []byte("{}"), WeightsFile: []byte("weights")}
	if err := lost.Commit(&Manifest{Spec: m.Spec}, contents); !errors.Is(err, ErrSuperseded) {
		t.Errorf("publishing late: %v", err)
	}
	if b, err := winner.Checkpoint(); err != nil || string(b) != "further" {
		t.Errorf("checkpoint %q, %v", b, err)
	}
	if err := winner.Commit(m, contents); err != nil {
		t.Error(err)
	}
	lost.Release()
	if bad := winner.s.Verify(digest); len(bad) > 0 {
		t.Error(bad)
	}
	all, err := silent.Attempts(digest)
	if err != nil || len(all) != 2 || all[0].Outcome != OutcomeSuperseded || all[1].Outcome != OutcomeFinished {
		t.Errorf("attempts %+v, %v", all, err)
	}
	if _, err := os.Stat(silent.workDir(digest)); err == nil {
		t.Error("the work folder is left")
	}
}

// Who works is left alone, and is known to be alive when it has been heard.
func TestAliveIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	a, b := node(t, root, "a"), node(t, root, "b")
	b.expiry = time.Hour // a machine under load may be late
	c, err := a.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	var busy *BusyError
	for alive := false; !alive; time.Sleep(time.Millisecond) {
		if _, err := b.Claim("r"); !errors.As(err, &busy) {
			t.Fatal(err)
		}
		alive = busy.Alive
	}
	if _, err := b.SetAside("r"); !errors.Is(err, ErrBusy) {
		t.Errorf("setting it aside: %v", err)
	}
	c.Release()
	if again, err := b.Claim("r"); err != nil {
		t.Error(err)
	} else {
		again.Release()
	}
}

// A holder that finds itself superseded is told so while it works.
func TestLost(t *testing.T) {
	root := t.TempDir()
	a, b := node(t, root, "a"), node(t, root, "b")
	c, err := a.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	b.expiry = 0 // it does not wait at all
	if _, err := b.Claim("r"); err != nil {
		t.Fatal(err)
	}
	<-c.Lost()
	c.Fail(errors.New("something"))
	if all, err := a.Attempts("r"); err != nil || all[0].Outcome != OutcomeSuperseded || all[0].Failures != 0 {
		t.Errorf("attempts %+v, %v", all, err)
	}
}

// What ended on the same machine is taken over at once.
func TestDeadProcess(t *testing.T) {
	if files.Self().Boot == "" {
		t.Skip("this system does not tell when a process has ended")
	}
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s.self.Start = "1" // a process of the number of this one that has ended
	c, err := s.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if state, a, err := s.State("r"); state != Untouched || a.Outcome != OutcomeLost || err != nil {
		t.Errorf("state %v, %+v, %v", state, a, err)
	}
	s.self = files.Self()
	for n := 2; n < 5; n++ {
		c, err := s.Claim("r")
		if err != nil {
			t.Fatal(err)
		}
		if state, a, err := s.State("r"); state != Running || a.Number != n || err != nil {
			t.Errorf("state %v, %+v, %v", state, a, err)
		}
		if got := c.Attempt().Fruitless; got != n-1 {
			t.Errorf("%d attempts in vain, want %d", got, n-1)
		}
		c.Release()
	}
}

// The time in which one did not look does not count as silence.
func TestObserver(t *testing.T) {
	o := &observer{seen: map[string]*sighting{}}
	a := &Attempt{Digest: "r", Number: 1, Beat: 5}
	const beat = time.Minute
	o.look(a, beat)
	for i := 1; i <= 3; i++ {
		o.seen["r"].at = time.Now().Add(-time.Hour) // since when this process was stopped
		if silent, heard := o.look(a, beat); silent != time.Duration(i)*beat || heard {
			t.Errorf("silent for %v, heard %v", silent, heard)
		}
	}
	a.Beat++
	if silent, heard := o.look(a, beat); silent != 0 || !heard {
		t.Errorf("after a word: silent for %v, heard %v", silent, heard)
	}
	if silent, heard := o.look(&Attempt{Digest: "r", Number: 2, Beat: 6}, beat); silent != 0 || heard {
		t.Errorf("another attempt: silent for %v, heard %v", silent, heard)
	}
}

// A record that a crash has left half written, or empty, is one of which nothing is
// known; it is taken over like others.
func TestDamagedRecord(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "cut": `{"format": 1, "beat`, "of another": `{"number": 7}`} {
		s := node(t, t.TempDir(), "a")
		if err := errors.Join(s.disk.Mkdir(s.attemptsDir("r")), os.WriteFile(s.attemptPath("r", 3), []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Claim("r"); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: %v at once", name, err)
		}
		c, err := patiently(s, "r")
		if err != nil {
			t.Fatal(err)
		}
		if n := c.Attempt().Number; n != 4 {
			t.Errorf("%s: attempt %d, want 4", name, n)
		}
		c.Release()
	}
}

// A failure's text is cut to the record's room, and the log is found.
func TestFailureIsKept(t *testing.T) {
	s := node(t, t.TempDir(), "a")
	c, err := s.Claim("r")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(c.Log(), "it began")
	c.Fail(fmt.Errorf("no luck: %s: the end", strings.Repeat("ß\x00", 1<<20)))
	c.Release()
	a, err := s.Last("r")
	if err != nil || a.Outcome != OutcomeFailed || a.Failures != 1 || len(a.Error) > maxError || !strings.HasPrefix(a.Error, "no luck") || !strings.HasSuffix(a.Error, "the end") {
		t.Errorf("%+v, %v", a, err)
	}
	if b, err := os.ReadFile(s.LogPath("r", 1)); err != nil || string(b) != "it began\n" {
		t.Errorf("log %q, %v", b, err)
	}
}

const asNode = "REFOCUS_TEST_NODE"

// A process with asNode in its environment is a node: it makes the runs that its
// arguments name in the store that the variable names.
func TestMain(m *testing.M) {
	root := os.Getenv(asNode)
	if root == "" {
		os.Exit(m.Run())
	}
	s, err := Open(root)
	if err == nil {
		name := fmt.Sprintf("node %d %d", os.Getpid(), time.Now().UnixNano())
		s.self = files.Process{Host: name, PID: os.Getpid(), Boot: name}
		s.beat, s.expiry = 20*time.Millisecond, 300*time.Millisecond
		for _, name := range os.Args[1:] {
			if err = work(s, name); err != nil {
				break
			}
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

const steps = 20

// chain is the state of a run after a number of steps.
func chain(name string, n int) string {
	state := name
	for range n {
		state = files.Sum([]byte(state))
	}
	return fmt.Sprintf("%d %s", n, state)
}

// work makes a run, step by step, going on from what others have left.
func work(s *Store, name string) error {
	digest, m := run(name)
	for {
		c, err := patiently(s, digest)
		if errors.Is(err, ErrDone) {
			return nil
		}
		if err != nil {
			return err
		}
		err = func() error {
			defer c.Release()
			b, err := c.Checkpoint()
			if err != nil {
				return err
			}
			done := 0
			if b != nil {
				first, _, _ := strings.Cut(string(b), " ")
				if done, err = strconv.Atoi(first); err != nil || string(b) != chain(name, done) {
					return fmt.Errorf("run %s: checkpoint %q", name, b)
				}
			}
			for done < steps {
				time.Sleep(2 * time.Millisecond)
				done++
				if err := c.SetCheckpoint([]byte(chain(name, done))); err != nil {
					return err
				}
			}
			history, _ := json.Marshal(History{Best: 1, Epochs: make([]Epoch, 1)})
			return c.Commit(m, map[string][]byte{HistoryFile: history, WeightsFile: []byte(chain(name, steps))})
		}()
		switch {
		case err == nil, errors.Is(err, ErrDone):
			return nil
		case !errors.Is(err, ErrSuperseded) && !c.Superseded():
			return err
		}
	}
}

// Processes that see neither locks nor clocks of each other share the work of one
// store, while they are killed and stopped at random moments. Every run is made once,
// whole, and right.
func TestNodes(t *testing.T) {
	kills := 30
	if n := os.Getenv("REFOCUS_KILLS"); n != "" {
		var err error
		if kills, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	rng := seed.Rand(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	s := node(t, root, "the test")
	killed, stopped, batches := 0, 0, 0
	for ; killed < kills; batches++ {
		var names []string
		for i := range 8 {
			names = append(names, fmt.Sprintf("run %d of batch %d", i, batches))
		}
		type process struct {
			*exec.Cmd
			done chan error
			said *strings.Builder
		}
		start := func() *process {
			shuffled := append([]string(nil), names...)
			rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			p := &process{exec.Command(self, shuffled...), make(chan error, 1), new(strings.Builder)}
			p.Env, p.Stderr = append(os.Environ(), asNode+"="+root), p.said
			if err := p.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { p.done <- p.Wait() }()
			return p
		}
		working := []*process{start(), start(), start()}
		for len(working) > 0 {
			i := rng.IntN(len(working))
			p := working[i]
			select {
			case err := <-p.done:
				if err != nil {
					t.Fatalf("%v: %s", err, p.said)
				}
				working = append(working[:i], working[i+1:]...)
				continue
			case <-time.After(time.Duration(rng.Int64N(int64(150 * time.Millisecond)))):
			}
			switch {
			case killed >= kills:
			case rng.IntN(5) == 0: // for long enough to be held for dead
				stopped++
				p.Process.Signal(syscall.SIGSTOP)
				time.AfterFunc(500*time.Millisecond, func() { p.Process.Signal(syscall.SIGCONT) })
			default:
				killed++
				p.Process.Kill()
				<-p.done
				working[i] = start()
			}
		}
		for _, name := range names {
			digest, _ := run(name)
			if bad := s.Verify(digest); len(bad) > 0 {
				t.Error(bad)
			}
			if b, err := s.Weights(digest); err != nil || string(b) != chain(name, steps) {
				t.Errorf("%s: weights %q, %v", name, b, err)
			}
			all, err := s.Attempts(digest)
			if err != nil {
				t.Error(err)
			}
			for i, a := range all {
				if a.Number != i+1 {
					t.Errorf("%s: attempt %d comes as number %d", name, a.Number, i+1)
				}
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(root, "runs", ".work", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
	attempts := 0
	digests, err := s.Attempted()
	if err != nil || len(digests) != 8*batches {
		t.Errorf("%d runs were attempted, %v", len(digests), err)
	}
	for _, d := range digests {
		all, _ := s.Attempts(d)
		attempts += len(all)
	}
	t.Logf("%d runs in %d attempts, %d kills, %d stops", len(digests), attempts, killed, stopped)
}
