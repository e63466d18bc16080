package dataset

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/refocus-em/refocus/harness/files"
)

// content is how this package's manifests describe a file that is named elsewhere.
type content struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

func contentOf(f files.File) content { return content{f.SHA256, f.Size} }

func (c content) file(name string) files.File {
	return files.File{Name: name, Size: c.Bytes, SHA256: c.SHA256}
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

// writeJSON writes v indented, for people, and sealed (files.SealJSON).
func writeJSON(disk files.Disk, path string, v any) error {
	b, err := files.SealJSON(v)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return disk.Write(path, b)
}

// readJSON reads what writeJSON wrote, strictly. What earlier versions of refocus wrote
// has no seal and is read without.
func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if b, _, err = files.Unseal(path, b); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return &files.Damage{Path: path, Problem: err.Error()}
	}
	return nil
}
