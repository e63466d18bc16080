package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// Outcomes of an attempt.
const (
	OutcomeRunning     = ""            // so far
	OutcomeFinished    = "finished"    // the run is in the store
	OutcomeFailed      = "failed"      // Error says why
	OutcomeInterrupted = "interrupted" // somebody stopped it
	OutcomeLost        = "lost"        // its process ended, or was silent too long, without a word
	OutcomeSuperseded  = "superseded"  // it was held for lost, and another attempt goes on
)

// Attempt is the record of one process's work on a run, which stays when the run is
// finished. Of its times all are of the host's own clock.
type Attempt struct {
	Format  int    `json:"format"`
	Beat    uint64 `json:"beat"` // changes while the process works
	Digest  string `json:"digest"`
	Number  int    `json:"number"` // from 1
	ID      string `json:"id"`     // the run's readable name within its study
	Study   string `json:"study"`
	Harness string `json:"harness"` // version of refocus
	// Parent is the digest of the run whose weights this one starts from.
	Parent string `json:"parent,omitempty"`

	files.Process
	Backend string `json:"backend"`
	Device  string `json:"device"`
	Threads int    `json:"threads"`

	Started time.Time `json:"started"`
	Heard   time.Time `json:"heard"` // the last word
	Ended   time.Time `json:"ended,omitzero"`
	Outcome string    `json:"outcome"`
	Error   string    `json:"error,omitempty"` // at most maxError bytes of it
	// Restarts counts how often the backend failed and the run went on.
	Restarts int `json:"restarts"`
	// Failures counts the failed attempts up to this one since the last retry.
	Failures int `json:"failures"`
	// Fruitless counts the attempts in a row before this one that ended, without having
	// failed, before they had kept anything.
	Fruitless int `json:"fruitless,omitempty"`

	// Work of the run in training image-steps: what was done when the attempt began,
	// is done, has been kept in a checkpoint, and all.
	From  float64 `json:"from"`
	Done  float64 `json:"done"`
	Kept  float64 `json:"kept"`
	Total float64 `json:"total"`

	// The training so far, for people to see: the domain that the run is for, of how many
	// epochs it is, and how it goes, nil where nothing is known and when the run is
	// finished, since then its history says more.
	Target string `json:"target,omitempty"`
	Epochs int    `json:"epochs,omitempty"`
	Curve  *Curve `json:"curve,omitempty"`

	// Use of the backend's process, where the system tells.
	CPUSeconds  float64 `json:"cpu_seconds,omitempty"`
	MemoryBytes int64   `json:"memory_bytes,omitempty"` // the most that was resident
}

const (
	attemptFormat = 1
	attemptSize   = 16 << 10 // room for a record
	maxError      = 4 << 10
	logSize       = 128 << 10
)

// Running reports whether the attempt has not ended, as far as it says.
func (a *Attempt) Running() bool { return a.Outcome == OutcomeRunning }

// Rate is how many image-steps the attempt has done in a second, 0 where that is not
// known yet.
func (a *Attempt) Rate() float64 {
	if took := a.Heard.Sub(a.Started).Seconds(); a.Done > a.From && took > 0 {
		return (a.Done - a.From) / took
	}
	return 0
}

// Epoch is the one that the attempt is at, from 1; 0 where that is not known.
func (a *Attempt) Epoch() int {
	if a.Epochs < 1 || !(a.Total > 0) {
		return 0
	}
	return max(1, min(a.Epochs, 1+int(a.Done/a.Total*float64(a.Epochs))))
}

// Left is how long the run takes yet at that rate; negative where that is not known.
func (a *Attempt) Left() time.Duration {
	if rate := a.Rate(); rate > 0 {
		return time.Duration(max(0, a.Total-a.Done) / rate * float64(time.Second))
	}
	return -1
}

// attemptsDir holds the records of a run's attempts: 1.json, 1.log and so on.
func (s *Store) attemptsDir(digest string) string {
	return filepath.Join(s.root, "runs", ".attempts", digest)
}

func (s *Store) attemptPath(digest string, number int) string {
	return filepath.Join(s.attemptsDir(digest), strconv.Itoa(number)+".json")
}

// LogPath is the file of what was said during an attempt. There is none where nothing
// was. What no longer fits is in a second one, of a name that ends in files.OldLog.
func (s *Store) LogPath(digest string, number int) string {
	return filepath.Join(s.attemptsDir(digest), strconv.Itoa(number)+".log")
}

// numbers lists a run's attempts in order.
func (s *Store) numbers(digest string) ([]int, error) {
	entries, err := os.ReadDir(s.attemptsDir(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing the attempts of run %.12s: %w", digest, err)
	}
	var all []int
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if n, err := strconv.Atoi(name); ok && err == nil && n > 0 {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// last is the last of some numbers, 0 where there are none.
func last(numbers []int) int {
	if len(numbers) == 0 {
		return 0
	}
	return numbers[len(numbers)-1]
}

// attempt reads a record. One that is not there any more, or cannot be read as it was
// being written in a crash, is an attempt of which nothing is known.
func (s *Store) attempt(digest string, number int) (*Attempt, error) {
	path := s.attemptPath(digest, number)
	a := new(Attempt)
	for try := 0; ; try++ {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if json.Unmarshal(b, a) == nil && a.Number == number {
			return a, nil
		}
		if err != nil || try == 3 {
			return &Attempt{Digest: digest, Number: number}, nil
		}
		time.Sleep(time.Millisecond) // it is being rewritten
	}
}

// Attempts returns the records of a run's attempts in order. What the last one says is
// true if it is running, and at most seconds old.
func (s *Store) Attempts(digest string) ([]*Attempt, error) {
	numbers, err := s.numbers(digest)
	if err != nil {
		return nil, err
	}
	var all []*Attempt
	for i, n := range numbers {
		a, err := s.attempt(digest, n)
		if err != nil {
			return nil, err
		}
		if a.Running() && (i < len(numbers)-1 || a.Process.Ended()) {
			a.Outcome = OutcomeLost
		}
		all = append(all, a)
	}
	return all, nil
}

// Last returns the record of a run's last attempt as it is, nil where there was none.
func (s *Store) Last(digest string) (*Attempt, error) {
	numbers, err := s.numbers(digest)
	if n := last(numbers); err == nil && n > 0 {
		return s.attempt(digest, n)
	}
	return nil, err
}

// Attempted lists the digests of the runs that were ever attempted.
func (s *Store) Attempted() ([]string, error) {
	all, err := folders(filepath.Join(s.root, "runs", ".attempts"))
	if err != nil {
		return nil, fmt.Errorf("listing the attempts: %w", err)
	}
	return all, nil
}

// Retry forgets the failures of a run, so that it is attempted again, and reports
// whether there were any.
func (s *Store) Retry(digest string) (bool, error) {
	a, err := s.Last(digest)
	if err != nil || a == nil || a.Failures == 0 || a.Running() {
		return false, err
	}
	a.Failures = 0
	return true, s.writeAttempt(a)
}

// writeAttempt replaces the record of an attempt that is over.
func (s *Store) writeAttempt(a *Attempt) error {
	b, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	return s.disk.Write(s.attemptPath(a.Digest, a.Number), append(b, '\n'))
}

// encode is the record as it is while the attempt goes on. Where it has no room for
// the curve it goes without.
func (a Attempt) encode() ([]byte, error) {
	b, err := json.Marshal(a)
	if err == nil && len(b) >= attemptSize {
		a.Curve = nil
		b, err = json.Marshal(a)
	}
	return b, err
}

// shorten cuts an error's text to what a record has room for.
func shorten(text string) string {
	if len(text) <= maxError {
		return text
	}
	half := maxError/2 - 3
	return strings.ToValidUTF8(text[:half], "") + " … " + strings.ToValidUTF8(text[len(text)-half:], "")
}
