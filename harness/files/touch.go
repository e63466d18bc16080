package files

import (
	"os"
	"time"
)

// Touch notes that a file is in use: Used then returns this moment. Its content stays as
// it is.
func Touch(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// Used is when the file at path was written or touched.
func Used(path string) (time.Time, error) {
	st, err := os.Stat(path)
	if err != nil {
		return time.Time{}, err
	}
	return st.ModTime(), nil
}
