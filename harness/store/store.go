package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// Names of a run's files.
const (
	ManifestFile = "manifest.json"
	HistoryFile  = "history.json"
	WeightsFile  = "weights.safetensors"
	LossesFile   = "losses.safetensors" // of every validation image; runs of earlier versions have none
	NetworkFile  = "network.onnx"       // before training, where it is not the study's U-Net
)

// An unfinished run's files.
const (
	checkpointFile = "checkpoint.safetensors" // the last one
	damagedDir     = "damaged"                // those that could not be read
	newDir         = "new"                    // the run, about to be published
)

// Store is a directory of artifacts. Its methods may be called concurrently,
// also from several processes.
type Store struct {
	root string
	disk files.Disk

	self                files.Process
	seen                *observer
	beat, expiry, every time.Duration
}

func newStore(root string, disk files.Disk) *Store {
	return &Store{root: root, disk: disk, self: files.Self(), seen: &observer{seen: map[string]*sighting{}}, beat: beat, expiry: expiry, every: recordEvery}
}

// Open prepares the store at root, which must be one to write to.
func Open(root string) (*Store, error) { return open(root, files.Disk{}) }

func open(root string, disk files.Disk) (*Store, error) {
	s := newStore(root, disk)
	for _, dir := range []string{root, s.Data(), filepath.Join(root, "runs"), filepath.Join(root, "runs", ".work"), filepath.Join(root, "runs", ".attempts"), filepath.Join(root, "reports")} {
		if err := disk.Mkdir(dir); err != nil {
			return nil, fmt.Errorf("opening the store %s: %w", root, err)
		}
		if err := files.Writable(dir); err != nil {
			return nil, fmt.Errorf("the store %s is not one to write to (status, verify, export and report -o only read it; --out names another): %w", root, err)
		}
	}
	return s, nil
}

// Existing is Open for those who only read: a directory that is not there, or
// holds no store, is an error and stays as it is.
func Existing(root string) (*Store, error) {
	switch st, err := os.Stat(filepath.Join(root, "runs")); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no store at %s: 'refocus reproduce' makes one, --out names another", root)
	case err != nil:
		return nil, fmt.Errorf("opening the store %s: %w", root, err)
	case !st.IsDir():
		return nil, fmt.Errorf("opening the store %s: %s is not a directory", root, filepath.Join(root, "runs"))
	}
	return newStore(root, files.Disk{}), nil
}

// Root is the store's directory.
func (s *Store) Root() string { return s.root }

// Data is the directory of data sets.
func (s *Store) Data() string { return filepath.Join(s.root, "data") }

// Report is the directory of the named report.
func (s *Store) Report(name string) string { return filepath.Join(s.root, "reports", name) }

// RunDir is the directory of the run with the given digest.
func (s *Store) RunDir(digest string) string { return filepath.Join(s.root, "runs", digest) }

func (s *Store) workDir(digest string) string {
	return filepath.Join(s.root, "runs", ".work", digest)
}

// asideDir keeps runs that were finished and have been damaged.
func (s *Store) asideDir() string { return filepath.Join(s.root, "runs", ".damaged") }

// Digest is the content address of what is described by v: the SHA-256, in hex,
// of the kind and of v's JSON encoding. v must encode deterministically (no
// maps with interface keys, no times).
func Digest(kind string, v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("digest of %s: %w", kind, err)
	}
	h := sha256.New()
	fmt.Fprintf(h, "refocus/%s\n", kind)
	h.Write(b)
	return hex.EncodeToString(h.Sum(nil)), nil
}

// HasRun reports whether the run is finished, and there as far as can be seen
// without reading its files: Verify does. Its weights may have been dropped.
func (s *Store) HasRun(digest string) bool {
	// What is read of the manifest is less than Manifest reads, since thousands of runs
	// are asked for at once. It is sealed, so that no damage escapes; a manifest that
	// somebody has forged is found by whoever reads it.
	path := filepath.Join(s.RunDir(digest), ManifestFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	b, sealed, err := files.Unseal(path, b)
	if err != nil || !sealed { // of the first version
		return s.whole(digest) == nil
	}
	var m struct {
		Format int          `json:"format"`
		Digest string       `json:"digest"`
		Files  []files.File `json:"files"`
	}
	return json.Unmarshal(b, &m) == nil && m.Format == ManifestFormat && m.Digest == digest && s.complete(digest, m.Files) == nil
}

// Finished is HasRun for those who go on to read the run: it returns its manifest, nil
// where HasRun would be false.
func (s *Store) Finished(digest string) *Manifest {
	m, err := s.Manifest(digest)
	if err != nil || s.complete(digest, m.Files) != nil {
		return nil
	}
	return m
}

// whole says what is missing of a run: a *files.Damage, or an error that matches
// fs.ErrNotExist where nothing is there at all, or one of reading.
func (s *Store) whole(digest string) error {
	dir := s.RunDir(digest)
	if _, err := os.Lstat(dir); err != nil {
		return err
	}
	if st, err := os.Stat(dir); err == nil && !st.IsDir() {
		return &files.Damage{Path: dir, Problem: "it is not a directory"}
	}
	m, err := s.Manifest(digest)
	if errors.Is(err, fs.ErrNotExist) {
		return &files.Damage{Path: dir, Problem: "it has no manifest"}
	}
	if err != nil {
		return err
	}
	return s.complete(digest, m.Files)
}

// complete returns an error if a run's files are not there with the sizes that its
// manifest lists; weights may have been dropped.
func (s *Store) complete(digest string, listed []files.File) error {
	dir := s.RunDir(digest)
	for _, f := range listed {
		if err := f.CheckSize(filepath.Join(dir, f.Name)); err != nil && !isDropped(dir, f.Name) {
			return err
		}
	}
	return nil
}

// Runs lists the digests of all finished runs, damaged ones included.
func (s *Store) Runs() ([]string, error) {
	dir := filepath.Join(s.root, "runs")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	var out []string
	for _, e := range entries {
		// A link may lead to a run that is kept elsewhere, or nowhere; what is no
		// folder stands in the way of a run.
		if !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Manifest reads a finished run's manifest, and makes sure that it is what was
// written and that its spec is the one that the run's digest addresses.
func (s *Store) Manifest(digest string) (*Manifest, error) {
	dir := s.RunDir(digest)
	path := filepath.Join(dir, ManifestFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(path, b)
	switch {
	case err != nil:
		return nil, s.damaged(digest, err)
	case m.Digest != digest:
		return nil, &files.Damage{Path: dir, Problem: fmt.Sprintf("its manifest is of run %.12s", m.Digest)}
	}
	if d, err := Digest("run", m.Spec); err != nil || d != digest {
		return nil, s.damaged(digest, &files.Damage{Path: path, Problem: "its spec does not hash to the run's digest"})
	}
	return m, nil
}

func readManifest(path string, b []byte) (*Manifest, error) {
	b, sealed, err := files.Unseal(path, b)
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(m); err != nil {
		return nil, &files.Damage{Path: path, Problem: err.Error()}
	}
	switch {
	case m.Format < 1 || m.Format > ManifestFormat:
		return nil, fmt.Errorf("%s has format %d, this program reads formats up to %d: a newer refocus has written it, or it is damaged", path, m.Format, ManifestFormat)
	case m.Format > 1 && !sealed:
		return nil, &files.Damage{Path: path, Problem: "it has lost its seal"}
	}
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Name) || filepath.Base(f.Name) != f.Name {
			return nil, &files.Damage{Path: path, Problem: fmt.Sprintf("it lists a file %q", f.Name)}
		}
	}
	return m, nil
}

// History reads a finished run's history and verifies its checksum.
func (s *Store) History(digest string) (*History, error) {
	m, err := s.Manifest(digest)
	if err != nil {
		return nil, err
	}
	return s.HistoryOf(m)
}

// HistoryOf is History for those who have read the run's manifest.
func (s *Store) HistoryOf(m *Manifest) (*History, error) {
	digest := m.Digest
	b, err := s.readListed(m, HistoryFile)
	if err != nil {
		return nil, err
	}
	var h History
	path := filepath.Join(s.RunDir(digest), HistoryFile)
	if err := json.Unmarshal(b, &h); err != nil {
		return nil, s.damaged(digest, &files.Damage{Path: path, Problem: err.Error()})
	}
	if len(h.Epochs) == 0 || h.Best < 1 || h.Best > len(h.Epochs) {
		return nil, s.damaged(digest, &files.Damage{Path: path, Problem: fmt.Sprintf("its best epoch is %d of %d", h.Best, len(h.Epochs))})
	}
	return &h, nil
}

// Weights reads a finished run's exported state and verifies its checksum. Where it was
// dropped the error is a *DroppedError.
func (s *Store) Weights(digest string) ([]byte, error) { return s.read(digest, WeightsFile) }

// Losses reads the losses of every validation image after every epoch of a finished
// run, by domain F64 [epochs, images], and verifies the file's checksum. It is nil for a
// run that an earlier version has trained, whose manifest lists no such file.
func (s *Store) Losses(digest string) ([]byte, error) {
	m, err := s.Manifest(digest)
	if err != nil {
		return nil, err
	}
	return s.LossesOf(m)
}

// LossesOf is Losses for those who have read the run's manifest.
func (s *Store) LossesOf(m *Manifest) ([]byte, error) {
	if !slices.ContainsFunc(m.Files, func(f files.File) bool { return f.Name == LossesFile }) {
		return nil, nil
	}
	return s.readListed(m, LossesFile)
}

// Network reads the file of the network that a finished run has trained, where it
// was not the study's U-Net, and verifies its checksum.
func (s *Store) Network(digest string) ([]byte, error) { return s.read(digest, NetworkFile) }

// read reads a file of a finished run and compares it with the manifest.
func (s *Store) read(digest, name string) ([]byte, error) {
	m, err := s.Manifest(digest)
	if err != nil {
		return nil, err
	}
	return s.readListed(m, name)
}

func (s *Store) readListed(m *Manifest, name string) ([]byte, error) {
	digest := m.Digest
	f, err := m.file(name)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.RunDir(digest), name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && isDropped(s.RunDir(digest), name) {
		return nil, s.droppedError(m)
	}
	if err != nil {
		return nil, err
	}
	if err := f.CheckBytes(path, b); err != nil {
		return nil, s.damaged(digest, err)
	}
	return b, nil
}

// damaged says of damage to a finished run what to do.
func (s *Store) damaged(digest string, err error) error {
	return fmt.Errorf("%w (remove %s, or call 'refocus verify --repair', and reproduce again)", err, s.RunDir(digest))
}

// Verify re-hashes every file of a finished run and returns what is wrong. That its
// weights were dropped is not.
func (s *Store) Verify(digest string) []files.Damage {
	dir := s.RunDir(digest)
	m, err := s.Manifest(digest)
	var damage *files.Damage
	if errors.As(err, &damage) {
		return []files.Damage{*damage}
	} else if err != nil {
		return []files.Damage{{Path: filepath.Join(dir, ManifestFile), Problem: err.Error()}}
	}
	var bad []files.Damage
	add := func(name, problem string) {
		bad = append(bad, files.Damage{Path: filepath.Join(dir, name), Problem: problem})
	}
	listed := map[string]bool{ManifestFile: true, WeightsFile + droppedMark: true}
	for _, f := range m.Files {
		listed[f.Name] = true
		if isDropped(dir, f.Name) {
			continue
		}
		if err := f.Check(filepath.Join(dir, f.Name)); errors.As(err, &damage) {
			add(f.Name, damage.Problem)
		} else if err != nil {
			add(f.Name, err.Error())
		}
	}
	for _, name := range []string{HistoryFile, WeightsFile} {
		if !listed[name] {
			add(name, "the manifest does not list it")
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		add("", err.Error())
	}
	for _, e := range entries {
		if !listed[e.Name()] && !files.Temporary(e.Name()) { // of one who rebuilds, or was killed
			add(e.Name(), "the manifest does not list it")
		}
	}
	return bad
}

// State says how far a run is.
type State int

const (
	Untouched State = iota
	Begun           // waits to be gone on with, and has a checkpoint
	Running         // a process works on it
	Failed          // its last attempt has failed
	Finished
)

// silence is for how long a record of another machine may not have changed for its
// attempt to be shown as running. Here alone clocks are compared, that of this machine
// with that of the file system: what is shown decides nothing.
const silence = 10 * time.Minute

// State looks at a run without disturbing a process that works on it. The attempt is
// the last one of a run that is not finished, nil where there was none.
func (s *Store) State(digest string) (State, *Attempt, error) {
	if s.HasRun(digest) {
		return Finished, nil, nil
	}
	a, err := s.Last(digest)
	if err != nil {
		return 0, nil, fmt.Errorf("run %.12s: %w", digest, err)
	}
	if s.HasRun(digest) { // meanwhile
		return Finished, nil, nil
	}
	if a != nil && a.Running() {
		st, err := os.Stat(s.attemptPath(digest, a.Number))
		if err == nil && !a.Process.Ended() && time.Since(st.ModTime()) < silence {
			return Running, a, nil
		}
		a.Outcome = OutcomeLost
	}
	if a != nil && a.Outcome == OutcomeFailed && a.Failures > 0 {
		return Failed, a, nil
	}
	for _, pattern := range []string{checkpointFile, filepath.Join("*", checkpointFile)} {
		if found, err := filepath.Glob(filepath.Join(s.workDir(digest), pattern)); err == nil && len(found) > 0 {
			return Begun, a, nil
		}
	}
	return Untouched, a, nil
}
