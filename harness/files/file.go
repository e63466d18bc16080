package files

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// File describes a file by its content.
type File struct {
	Name   string `json:"name"` // in its folder
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
}

// Of describes the file of the given name and content.
func Of(name string, content []byte) File {
	return File{name, int64(len(content)), Sum(content)}
}

// Sum is the SHA-256 of b in hexadecimal digits.
func Sum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Describe reads the file at path and describes it.
func Describe(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return File{filepath.Base(path), n, hex.EncodeToString(h.Sum(nil))}, nil
}

// Damage is an error about a file that is not what was written.
type Damage struct {
	Path    string
	Problem string
}

func (d *Damage) Error() string { return d.Path + " is damaged: " + d.Problem }

// Check reads the file at path and compares it with the description, its name
// excepted. A difference, and also a file that is missing, is a *Damage.
func (f File) Check(path string) error {
	if err := f.CheckSize(path); err != nil {
		return err
	}
	got, err := Describe(path)
	if err != nil {
		return err
	}
	return f.compare(path, got)
}

// CheckSize is Check without reading the file.
func (f File) CheckSize(path string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Damage{path, "it is missing, its manifest lists it"}
	}
	if err != nil {
		return err
	}
	return f.compare(path, File{f.Name, st.Size(), f.SHA256})
}

// CheckBytes compares the content of the file at path with the description.
func (f File) CheckBytes(path string, content []byte) error {
	return f.compare(path, Of(f.Name, content))
}

func (f File) compare(path string, got File) error {
	switch {
	case got.Size != f.Size:
		return &Damage{path, fmt.Sprintf("it has %d bytes, its manifest says %d", got.Size, f.Size)}
	case got.SHA256 != f.SHA256:
		return &Damage{path, fmt.Sprintf("its SHA-256 is %s, its manifest says %s", got.SHA256, f.SHA256)}
	}
	return nil
}
