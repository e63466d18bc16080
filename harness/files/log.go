package files

import (
	"os"
	"sync"
)

// Log is a file that grows line by line, for people to look into after a failure. Of
// a long one the beginning goes: at most twice as many bytes are kept as it is made
// for, the older half under the name with OldLog. What cannot be written is lost:
// no work fails for a log.
type Log struct {
	path string
	most int64

	mu   sync.Mutex
	f    *os.File
	size int64
}

// OldLog ends the name of what a log said before.
const OldLog = ".old"

// NewLog is the log at path, a file that is made with the first line.
func NewLog(path string, most int64) *Log { return &Log{path: path, most: most} }

// Write appends to the log. It never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open() {
		return len(p), nil
	}
	if l.size > 0 && l.size+int64(len(p)) > l.most {
		l.f.Close()
		os.Rename(l.path, l.path+OldLog)
		if l.f = nil; !l.open() {
			return len(p), nil
		}
	}
	cut := p
	if over := int64(len(p)) - l.most; over > 0 {
		cut = p[over:]
	}
	n, _ := l.f.Write(cut)
	l.size += int64(n)
	return len(p), nil
}

func (l *Log) open() bool {
	if l.f != nil {
		return true
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		return false
	}
	l.f, l.size = f, 0
	if st, err := f.Stat(); err == nil {
		l.size = st.Size()
	}
	return true
}

// Close ends the writing.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}
