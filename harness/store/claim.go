package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// ErrBusy says that another process is working on the run; see BusyError.
var ErrBusy = errors.New("another process is working on this run")

// ErrDone says that the run is already finished.
var ErrDone = errors.New("run is finished")

// ErrSuperseded says that others held this process for lost and that another attempt
// goes on with the run.
var ErrSuperseded = errors.New("another process has taken this run over, after hearing nothing of this one for too long")

// BusyError is an ErrBusy that says who is working.
type BusyError struct {
	By Attempt
	// Alive is whether its process has been seen to live: it may be one that ended
	// and has not been silent for long enough.
	Alive bool
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("process %d on %s is working on this run", e.By.PID, e.By.Host)
}

func (e *BusyError) Is(target error) bool { return target == ErrBusy }

// Who works on a run says so in the record of its attempt, and changes it every beat.
// Another that has seen no change for the length of expiry takes the run over. Each
// goes by the time that it has itself seen pass: clocks are not compared.
const (
	beat   = 10 * time.Second
	expiry = 60 * time.Second
)

// Between two beats the record is brought up to date for those who watch, every so
// often, unless that would take more than one part in recordShare of the time.
const (
	recordEvery = 2 * time.Second
	recordShare = 50
)

// observer remembers what this process has seen of others' attempts.
type observer struct {
	mu   sync.Mutex
	seen map[string]*sighting // by digest
}

// sighting is what was last seen of an attempt.
type sighting struct {
	number int
	beat   uint64
	at     time.Time
	silent time.Duration // for which it has not changed
	heard  bool          // it has changed before our eyes
}

// look takes note of an attempt that says that it is running, and returns for how long
// nothing has been heard of it, and whether something has ever been. A while in which
// this process did not look, because it was stopped or the file system was away,
// counts as one beat: the other may have been kept from speaking likewise.
func (o *observer) look(a *Attempt, beat time.Duration) (silent time.Duration, heard bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	s := o.seen[a.Digest]
	switch {
	case s == nil || s.number != a.Number:
		s = &sighting{number: a.Number}
		o.seen[a.Digest] = s
	case s.beat != a.Beat:
		s.silent, s.heard = 0, true
	default:
		s.silent += min(now.Sub(s.at), beat)
	}
	s.beat, s.at = a.Beat, now
	return s.silent, s.heard
}

func (o *observer) forget(digest string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.seen, digest)
}

// Claim is one attempt to produce a run. While it lasts others leave the run alone. It
// may be taken over all the same, by a process that has not heard of this one for too
// long. Nothing is broken by that: each attempt writes into a folder of its own, all of
// them come to the same bytes, and what is published first stays.
type Claim struct {
	s      *Store
	digest string
	path   string // of what was there, damaged
	why    error
	last   string // path of the checkpoint that Checkpoint returned

	log  *files.Log
	lost chan struct{} // closed when the claim was seen to be taken over
	stop chan struct{} // closed when it has ended
	over sync.WaitGroup

	mu     sync.Mutex
	a      Attempt
	record *files.Record // nil: ended
	sample func(*Attempt)
	pruned bool
}

// Claim takes the run for this process, or returns a *BusyError or ErrDone. The claim
// ends with Commit or Release, and when its process ends without, others find out: at
// once on the same machine, where Linux tells, elsewhere after a minute of silence, so
// that one tries again from time to time. A finished run that is no longer whole is set
// aside, to be made again.
func (s *Store) Claim(digest string) (*Claim, error) {
	c, err := s.claim(digest)
	if err != nil {
		if errors.Is(err, ErrBusy) {
			return nil, err
		}
		return nil, fmt.Errorf("claiming run %.12s: %w", digest, err)
	}
	if err := c.prepare(); err != nil {
		c.abandon()
		return nil, err
	}
	return c, nil
}

// claim makes the record of the next attempt. That of several processes one alone
// makes the file of a number is the whole of the exclusion.
func (s *Store) claim(digest string) (*Claim, error) {
	if err := s.disk.Mkdir(s.attemptsDir(digest)); err != nil {
		return nil, err
	}
	var before *Attempt
	made := 0 // the greatest number that is known to be taken, which a folder's list may lack for a while
	for {
		numbers, err := s.numbers(digest)
		if err != nil {
			return nil, err
		}
		before = &Attempt{}
		if n := max(made, last(numbers)); n > 0 {
			if before, err = s.attempt(digest, n); err != nil {
				return nil, err
			}
			if err := s.busy(before); err != nil {
				return nil, err
			}
		}
		now := time.Now().UTC()
		a := Attempt{
			Format: attemptFormat, Beat: 1, Digest: digest, Number: before.Number + 1, Process: s.self,
			Started: now, Heard: now, Failures: before.Failures,
		}
		if before.Number > 0 && before.Outcome != OutcomeFailed && before.Kept <= before.From {
			a.Fruitless = before.Fruitless + 1
		}
		b, err := a.encode()
		if err != nil {
			return nil, err
		}
		record, err := files.CreateRecord(s.attemptPath(digest, a.Number), attemptSize, b)
		if errors.Is(err, fs.ErrExist) {
			made = a.Number // another was faster
			continue
		}
		if err != nil {
			return nil, err
		}
		c := &Claim{
			s: s, digest: digest, a: a, record: record,
			log:  files.NewLog(s.LogPath(digest, a.Number), logSize),
			lost: make(chan struct{}), stop: make(chan struct{}),
		}
		s.seen.forget(digest)
		if before.Running() && before.Format > 0 {
			before.Outcome = OutcomeLost
			s.writeAttempt(before) // one that is running before another is lost anyway
		}
		c.over.Go(c.keep)
		return c, nil
	}
}

// busy is a *BusyError as long as an attempt may be going on.
func (s *Store) busy(a *Attempt) error {
	if !a.Running() || a.Process.Ended() {
		return nil
	}
	silent, heard := s.seen.look(a, s.beat)
	if silent >= s.expiry {
		return nil
	}
	return &BusyError{*a, heard || a.Process.Here() && silent < 2*s.beat}
}

// keep changes the record every beat, or sooner, and finds out when the claim is taken
// over.
func (c *Claim) keep() {
	next := time.NewTimer(min(c.s.beat, c.s.every))
	defer next.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-next.C:
		}
		start := time.Now()
		c.Update(func(*Attempt) {})
		next.Reset(min(c.s.beat, max(c.s.every, recordShare*time.Since(start))))
		if c.Superseded() {
			close(c.lost)
			return
		}
	}
}

// Update changes the attempt's record. That it cannot be written harms nobody: the run
// is taken over at worst.
func (c *Claim) Update(change func(*Attempt)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record == nil {
		return
	}
	if c.sample != nil {
		c.sample(&c.a)
	}
	change(&c.a)
	c.a.Beat++
	c.a.Heard = time.Now().UTC()
	if b, err := c.a.encode(); err == nil {
		c.record.Write(b)
	}
}

// Sample has the function called before every change of the record, to fill in what
// has changed since. It must not call the claim's methods.
func (c *Claim) Sample(f func(*Attempt)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sample = f
}

// Attempt is the attempt's record so far.
func (c *Claim) Attempt() Attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.a
}

// Log is where to say what happens during the attempt.
func (c *Claim) Log() io.Writer { return c.log }

// Lost is closed when another process has taken the run over: what is still done for
// this attempt is done in vain.
func (c *Claim) Lost() <-chan struct{} { return c.lost }

// Superseded reports whether the claim has ended or another process has taken the run
// over.
func (c *Claim) Superseded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.record == nil || c.record.Replaced() {
		return true
	}
	_, err := os.Lstat(c.s.attemptPath(c.digest, c.a.Number+1))
	return err == nil
}

// SetAside takes a finished run, which is damaged, out of the way, to be made
// again, and returns where it is now.
func (s *Store) SetAside(digest string) (string, error) {
	a, err := s.Last(digest)
	if err == nil && a != nil {
		err = s.busy(a)
	}
	if err != nil {
		return "", fmt.Errorf("setting run %.12s aside: %w", digest, err)
	}
	return s.disk.SetAside(s.RunDir(digest), s.asideDir())
}

// prepare makes the work directory of a run that is not there.
func (c *Claim) prepare() error {
	err := c.s.whole(c.digest)
	if err == nil { // by another process, which may have died after publishing
		if err := c.s.disk.Settle(filepath.Dir(c.s.RunDir(c.digest))); err != nil {
			return err
		}
		c.s.disk.RemoveAll(c.s.workDir(c.digest))
		return ErrDone
	}
	var damage *files.Damage
	if !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &damage) {
		return fmt.Errorf("looking at run %.12s: %w", c.digest, err)
	}
	if damage != nil {
		c.why = damage
		if c.path, err = c.s.disk.SetAside(c.s.RunDir(c.digest), c.s.asideDir()); err != nil {
			return fmt.Errorf("setting run %.12s aside, which is damaged (%v): %w", c.digest, c.why, err)
		}
	}
	return c.workplace()
}

// workplace makes the folder of the attempt.
func (c *Claim) workplace() (err error) {
	for range 3 { // an earlier attempt may just be removing what is above
		if err = c.s.disk.Mkdir(c.Dir()); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err == nil {
		err = files.Writable(c.Dir()) // and not only after an epoch
	}
	if err != nil {
		return fmt.Errorf("claiming run %.12s: %w", c.digest, err)
	}
	return nil
}

// Damaged returns where the run is now that stood in the place of this one, and
// what is wrong with it; an empty path where there was none.
func (c *Claim) Damaged() (path string, why error) { return c.path, c.why }

// Dir is the folder of this attempt alone, which is gone when the run is finished.
func (c *Claim) Dir() string {
	return filepath.Join(c.s.workDir(c.digest), strconv.Itoa(c.a.Number))
}

// checkpoints lists the files of the checkpoints of all attempts, the last one's first.
func (s *Store) checkpoints(digest string) ([]string, error) {
	work := s.workDir(digest)
	entries, err := os.ReadDir(work)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	var all []string
	for _, n := range numbers {
		all = append(all, filepath.Join(work, strconv.Itoa(n), checkpointFile))
	}
	// Where it was before attempts had folders of their own.
	return append(all, filepath.Join(work, checkpointFile)), nil
}

// Checkpoint returns the last checkpoint of this attempt or of one before, or nil if
// there is none.
func (c *Claim) Checkpoint() ([]byte, error) {
	paths, err := c.s.checkpoints(c.digest)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		c.last = path
		if err != nil {
			return nil, err
		}
		return b, c.s.disk.Settle(filepath.Dir(path))
	}
	c.last = ""
	return nil, nil
}

// SetCheckpoint replaces the run's checkpoint; after a crash at any moment
// either the old or the new one is there, whole. It returns ErrSuperseded where another
// process goes on with the run.
func (c *Claim) SetCheckpoint(b []byte) error {
	if c.Superseded() {
		return ErrSuperseded
	}
	own := filepath.Join(c.Dir(), checkpointFile)
	if err := c.s.disk.Write(own, b); err != nil {
		if c.Superseded() {
			return ErrSuperseded
		}
		return err
	}
	c.last = own
	if !c.pruned { // those of earlier attempts
		c.pruned = true
		paths, err := c.s.checkpoints(c.digest)
		for _, path := range paths {
			if err == nil && path != own {
				c.s.disk.Remove(path)
				c.s.disk.Remove(filepath.Dir(path)) // where nothing else is in it
			}
		}
	}
	return nil
}

// CheckpointPath is the file of the checkpoint that was last read or written.
func (c *Claim) CheckpointPath() string { return c.last }

// SetAside renames the checkpoint that was last read, which is damaged, and returns its
// new path. It stays there until the run is finished.
func (c *Claim) SetAside() (string, error) {
	path, err := c.s.disk.SetAside(c.last, filepath.Join(c.Dir(), damagedDir))
	if err != nil && c.Superseded() {
		err = ErrSuperseded
	}
	return path, err
}

// Commit publishes the run: the files and the manifest appear in RunDir, whole.
// It sets the manifest's Digest and Files, and ends the claim. Where it fails
// nothing is published, and the claim and the checkpoint remain. ErrDone says that
// another attempt was faster, which has published the same; ErrSuperseded that one
// is about to.
func (c *Claim) Commit(m *Manifest, contents map[string][]byte) error {
	if c.Superseded() {
		return ErrSuperseded
	}
	made := filepath.Join(c.Dir(), newDir)
	err := c.write(made, m, contents)
	if err == nil {
		err = c.s.disk.Rename(made, c.s.RunDir(c.digest))
	}
	if err != nil {
		c.s.disk.RemoveAll(made)
		switch {
		case c.s.HasRun(c.digest):
			c.end(func(a *Attempt) { a.Outcome = OutcomeSuperseded })
			c.s.disk.RemoveAll(c.s.workDir(c.digest))
			return ErrDone
		case c.Superseded():
			return ErrSuperseded
		}
		return fmt.Errorf("publishing run %.12s: %w", c.digest, err)
	}
	c.end(func(a *Attempt) { a.Outcome, a.Done, a.Curve = OutcomeFinished, a.Total, nil })
	c.s.disk.RemoveAll(c.s.workDir(c.digest)) // what should be left of it harms nobody
	return nil
}

// write makes a run's directory.
func (c *Claim) write(dir string, m *Manifest, contents map[string][]byte) error {
	if err := c.s.disk.Mkdir(dir); err != nil {
		return err
	}
	m.Format = ManifestFormat
	m.Digest = c.digest
	m.Files = nil
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		if err := c.s.disk.Write(filepath.Join(dir, name), contents[name]); err != nil {
			return err
		}
		m.Files = append(m.Files, files.Of(name, contents[name]))
	}
	b, err := files.SealJSON(m)
	if err != nil {
		return err
	}
	return c.s.disk.Write(filepath.Join(dir, ManifestFile), b)
}

// Fail ends the claim with a failure, which counts (see Attempt.Failures).
func (c *Claim) Fail(err error) {
	c.end(func(a *Attempt) {
		a.Outcome, a.Error = OutcomeFailed, shorten(err.Error())
		a.Failures++
	})
}

// Release ends the claim, unless it has ended, and keeps the checkpoint.
func (c *Claim) Release() {
	c.end(func(a *Attempt) { a.Outcome = OutcomeInterrupted })
}

// end writes the last word.
func (c *Claim) end(last func(*Attempt)) {
	if c.Superseded() {
		last = func(a *Attempt) { a.Outcome = OutcomeSuperseded }
	}
	c.Update(func(a *Attempt) {
		last(a)
		a.Ended = time.Now().UTC()
	})
	c.mu.Lock()
	record := c.record
	c.record = nil
	c.mu.Unlock()
	if record == nil {
		return
	}
	close(c.stop)
	c.over.Wait()
	record.Close()
	c.log.Close()
	// The record is complete; the file would keep its padding.
	c.s.writeAttempt(&c.a)
	for _, dir := range []string{c.Dir(), c.s.workDir(c.digest)} { // where nothing is in them
		c.s.disk.Remove(dir)
	}
}

// abandon ends a claim as if it had never been.
func (c *Claim) abandon() {
	path := c.s.attemptPath(c.digest, c.a.Number)
	c.mu.Lock()
	record := c.record
	c.record = nil
	c.mu.Unlock()
	close(c.stop)
	c.over.Wait()
	replaced := record.Replaced()
	record.Close()
	c.s.disk.Remove(c.s.workDir(c.digest))
	if !replaced {
		os.Remove(path)
	}
}
