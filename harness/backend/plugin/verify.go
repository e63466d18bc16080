package plugin

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// verified opens the executable at path and returns a path under which to
// start exactly what was opened. If digest is not empty, the file's SHA-256
// must be that.
//
// On Linux the process is started from the open file, so that nobody can swap
// the file in between. Elsewhere, and for scripts, which their interpreter
// opens again, a moment remains.
func verified(path, digest string) (*os.File, string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, "", err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, "", fmt.Errorf("%s is not a regular file", path)
	}
	start := path
	var magic [2]byte
	if _, err := io.ReadFull(f, magic[:]); err == nil && string(magic[:]) != "#!" {
		start = pathOf(f)
	}
	if digest != "" {
		got, err := hashFile(f)
		if err == nil && got != digest {
			err = fmt.Errorf("%s has SHA-256 %s, expected %s: the file has changed", path, got, digest)
		}
		if err != nil {
			f.Close()
			return nil, "", err
		}
	}
	return f, start, nil
}

// hashFile is the SHA-256 of the whole file.
func hashFile(f *os.File) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hashing %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
