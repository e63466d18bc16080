package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File describes one file of a set.
type File struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// dataDir is the folder of all sets below the artifacts folder.
func dataDir(root string) string { return filepath.Join(root, "data") }

// setDir is the folder of one set. Digests come from the command line too.
func setDir(root, digest string) (string, error) {
	if b, err := hex.DecodeString(digest); err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("%q is not a data digest (64 hexadecimal digits)", digest)
	}
	return filepath.Join(dataDir(root), digest), nil
}

// writeFile writes path through a temporary name beside it, synced and renamed.
// All writers of a path write the same bytes, so it does not matter whose rename
// comes last.
func writeFile(path string, write func(io.Writer) error) (File, error) {
	dir, base := filepath.Split(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return File{}, err
	}
	prefix := ".tmp-" + base + "-"
	tmp, err := os.CreateTemp(dir, prefix+"*")
	if err != nil {
		return File{}, err
	}
	defer os.Remove(tmp.Name()) // fails after the rename, as it should
	h := sha256.New()
	n := &counter{w: io.MultiWriter(tmp, h)}
	err = write(n)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return File{}, fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		// Another process may have finished the same file and swept ours away.
		if _, serr := os.Stat(path); serr != nil {
			return File{}, err
		}
	}
	sweep(dir, prefix)
	return File{hex.EncodeToString(h.Sum(nil)), n.n}, nil
}

// sweep removes what killed writers left behind.
func sweep(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), prefix) {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// writeJSON writes v indented, for people.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = writeFile(path, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
	return err
}

// readJSON reads what writeJSON wrote, strictly.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// checkFile compares a file with its description.
func checkFile(path string, want File) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		// Damage, and not to be taken for a set that does not exist.
		return fmt.Errorf("%s is missing, its manifest lists it", path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	if n != want.Bytes {
		return fmt.Errorf("%s is damaged: %d bytes, its manifest says %d", path, n, want.Bytes)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%s is damaged: its SHA-256 is %s, its manifest says %s", path, got, want.SHA256)
	}
	return nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
