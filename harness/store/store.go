package store

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/gofrs/flock"
)

// Names of a run's files.
const (
	ManifestFile = "manifest.json"
	HistoryFile  = "history.json"
	WeightsFile  = "weights.safetensors"
)

// An unfinished run's files.
const (
	checkpointFile = "checkpoint.safetensors" // the last one
	damagedFile    = "damaged.safetensors"    // one that could not be read
)

// Store is a directory of artifacts. Its methods may be called concurrently,
// also from several processes.
type Store struct{ root string }

// Open prepares the store at root.
func Open(root string) (*Store, error) {
	for _, d := range []string{"data", filepath.Join("runs", ".work"), "reports"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o777); err != nil {
			return nil, fmt.Errorf("opening the store %s: %w", root, err)
		}
	}
	return &Store{root}, nil
}

// Existing is Open for those who only read: a directory that is not there, or
// holds no store, is an error and stays as it is.
func Existing(root string) (*Store, error) {
	if _, err := os.Stat(filepath.Join(root, "runs")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no store at %s: 'refocus reproduce' makes one, --out names another", root)
	}
	return Open(root)
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

// HasRun reports whether the run is finished.
func (s *Store) HasRun(digest string) bool {
	_, err := os.Stat(filepath.Join(s.RunDir(digest), ManifestFile))
	return err == nil
}

// Runs lists the digests of all finished runs.
func (s *Store) Runs() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.root, "runs"))
	if err != nil {
		return nil, fmt.Errorf("listing runs: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Manifest reads a finished run's manifest.
func (s *Store) Manifest(digest string) (*Manifest, error) {
	var m Manifest
	if err := s.readJSON(digest, ManifestFile, &m); err != nil {
		return nil, err
	}
	if m.Digest != digest {
		return nil, fmt.Errorf("%s: manifest is of run %.12s, not of its directory", s.RunDir(digest), m.Digest)
	}
	return &m, nil
}

// History reads a finished run's history.
func (s *Store) History(digest string) (*History, error) {
	var h History
	if err := s.readJSON(digest, HistoryFile, &h); err != nil {
		return nil, err
	}
	if len(h.Epochs) == 0 || h.Best < 1 || h.Best > len(h.Epochs) {
		return nil, fmt.Errorf("%s: best epoch %d of %d", filepath.Join(s.RunDir(digest), HistoryFile), h.Best, len(h.Epochs))
	}
	return &h, nil
}

// Weights reads a finished run's exported state and verifies its checksum.
func (s *Store) Weights(digest string) ([]byte, error) {
	m, err := s.Manifest(digest)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(s.RunDir(digest), WeightsFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for _, f := range m.Files {
		if f.Name == WeightsFile {
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != f.SHA256 {
				return nil, s.damaged(digest, WeightsFile, errors.New("its SHA-256 differs from the manifest's"))
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("%s: the manifest does not list %s", s.RunDir(digest), WeightsFile)
}

// readJSON reads a file of a finished run.
func (s *Store) readJSON(digest, name string, v any) error {
	b, err := os.ReadFile(filepath.Join(s.RunDir(digest), name))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return s.damaged(digest, name, err)
	}
	return nil
}

// damaged says which file of a finished run is damaged and what to do.
func (s *Store) damaged(digest, name string, err error) error {
	dir := s.RunDir(digest)
	return fmt.Errorf("%s is damaged (remove %s and reproduce again): %w", filepath.Join(dir, name), dir, err)
}

// ErrBusy says that another process holds the claim.
var ErrBusy = errors.New("another process is working on this run")

// ErrDone says that the run is already finished.
var ErrDone = errors.New("run is finished")

// Claim is the exclusive right to produce one run.
type Claim struct {
	s      *Store
	digest string
	lock   *flock.Flock
}

// Claim takes the run for this process, or returns ErrBusy or ErrDone. The
// claim ends with Commit, Release or the death of the process.
func (s *Store) Claim(digest string) (*Claim, error) {
	dir := s.workDir(digest)
	l := lock(dir)
	ok, err := l.TryLock()
	if err != nil {
		return nil, fmt.Errorf("locking run %.12s (the store's file system must allow writing and locks): %w", digest, err)
	}
	if !ok {
		return nil, ErrBusy
	}
	c := &Claim{s, digest, l}
	if s.HasRun(digest) {
		os.RemoveAll(dir) // of a process that died after publishing
		c.Release()
		return nil, ErrDone
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		c.Release()
		return nil, fmt.Errorf("claiming run %.12s: %w", digest, err)
	}
	return c, nil
}

// lock is the lock of the run with the given work directory. It lies beside the
// directory, which Commit removes, and is everybody's, as far as the umask
// allows: several people may share a store.
func lock(workDir string) *flock.Flock {
	return flock.New(workDir+".lock", flock.SetPermissions(0o666))
}

// Checkpoint returns the run's last checkpoint, or nil if there is none.
func (c *Claim) Checkpoint() ([]byte, error) {
	b, err := os.ReadFile(c.CheckpointPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// SetCheckpoint replaces the run's checkpoint; after a crash at any moment
// either the old or the new one is there, whole.
func (c *Claim) SetCheckpoint(b []byte) error {
	return WriteFile(c.CheckpointPath(), b)
}

// CheckpointPath is the file of the run's checkpoint.
func (c *Claim) CheckpointPath() string {
	return filepath.Join(c.s.workDir(c.digest), checkpointFile)
}

// SetAside renames the run's checkpoint, which is damaged, and returns its new
// path. It stays there until the run is finished.
func (c *Claim) SetAside() (string, error) {
	path := filepath.Join(c.s.workDir(c.digest), damagedFile)
	return path, os.Rename(c.CheckpointPath(), path)
}

// Commit publishes the run: the files and the manifest appear in RunDir, whole.
// It sets the manifest's Digest and Files, and ends the claim. Where it fails
// nothing is published, and the claim and the checkpoint remain.
func (c *Claim) Commit(m *Manifest, files map[string][]byte) error {
	tmp := c.s.workDir(c.digest) + ".new"
	err := c.write(tmp, m, files)
	if err == nil {
		err = os.Rename(tmp, c.s.RunDir(c.digest))
	}
	if err != nil {
		os.RemoveAll(tmp)
		return fmt.Errorf("publishing run %.12s: %w", c.digest, err)
	}
	syncDir(filepath.Join(c.s.root, "runs"))
	os.RemoveAll(c.s.workDir(c.digest)) // what should be left of it harms nobody
	return c.Release()
}

// write makes a run's directory.
func (c *Claim) write(dir string, m *Manifest, files map[string][]byte) error {
	if err := os.RemoveAll(dir); err != nil { // of a process that died
		return err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	m.Format = ManifestFormat
	m.Digest = c.digest
	m.Files = nil
	for name, b := range files {
		sum := sha256.Sum256(b)
		m.Files = append(m.Files, File{name, int64(len(b)), hex.EncodeToString(sum[:])})
		if err := WriteFile(filepath.Join(dir, name), b); err != nil {
			return err
		}
	}
	sort.Slice(m.Files, func(i, j int) bool { return m.Files[i].Name < m.Files[j].Name })
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(dir, ManifestFile), append(b, '\n'))
}

// Release ends the claim and keeps the checkpoint. The lock file stays: were it
// removed, a process waiting on the removed file and one creating a new file
// could both believe that they hold the lock.
func (c *Claim) Release() error { return c.lock.Unlock() }

// WriteFile writes a file so that it exists whole or not at all, even if the
// process is killed or the machine loses power.
func WriteFile(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	syncDir(filepath.Dir(path))
	return nil
}

// syncDir makes a rename durable where directories can be synced; elsewhere it
// does nothing.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		d.Sync()
		d.Close()
	}
}

// Damage is one thing Verify found wrong.
type Damage struct {
	Path    string
	Problem string
}

// Verify re-hashes every file of a finished run.
func (s *Store) Verify(digest string) []Damage {
	dir := s.RunDir(digest)
	m, err := s.Manifest(digest)
	if err != nil {
		return []Damage{{filepath.Join(dir, ManifestFile), err.Error()}}
	}
	var bad []Damage
	listed := map[string]bool{ManifestFile: true}
	for _, f := range m.Files {
		listed[f.Name] = true
		path := filepath.Join(dir, f.Name)
		sum, n, err := HashFile(path)
		switch {
		case err != nil:
			bad = append(bad, Damage{path, err.Error()})
		case n != f.Size:
			bad = append(bad, Damage{path, fmt.Sprintf("has %d bytes, the manifest says %d", n, f.Size)})
		case sum != f.SHA256:
			bad = append(bad, Damage{path, "its SHA-256 differs from the manifest's"})
		}
	}
	for _, name := range []string{HistoryFile, WeightsFile} {
		if !listed[name] {
			bad = append(bad, Damage{filepath.Join(dir, name), "the manifest does not list it"})
		}
	}
	if d, err := Digest("run", m.Spec); err != nil || d != digest {
		bad = append(bad, Damage{filepath.Join(dir, ManifestFile), "its spec does not hash to the run's digest"})
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		bad = append(bad, Damage{dir, err.Error()})
	}
	for _, e := range entries {
		if !listed[e.Name()] {
			bad = append(bad, Damage{filepath.Join(dir, e.Name()), "the manifest does not list it"})
		}
	}
	return bad
}

// HashFile returns a file's SHA-256 in hex and its size.
func HashFile(path string) (string, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", 0, fmt.Errorf("reading %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// State says how far a run is.
type State int

const (
	Untouched State = iota
	Begun           // has a checkpoint, and no process is working on it
	Running         // a process holds its claim
	Finished
)

// State looks at a run without disturbing a process that works on it.
func (s *Store) State(digest string) (State, error) {
	if s.HasRun(digest) {
		return Finished, nil
	}
	dir := s.workDir(digest)
	if _, err := os.Stat(dir + ".lock"); err == nil {
		l := lock(dir)
		// A shared lock: two processes asking at once must not take each other
		// for a worker.
		ok, err := l.TryRLock()
		if err != nil {
			return 0, fmt.Errorf("looking at the lock of run %.12s: %w", digest, err)
		}
		if !ok {
			return Running, nil
		}
		l.Unlock()
	}
	if _, err := os.Stat(filepath.Join(dir, checkpointFile)); err == nil {
		return Begun, nil
	}
	return Untouched, nil
}
