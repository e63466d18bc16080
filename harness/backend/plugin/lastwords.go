package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/internal/format"
)

// ring keeps the last lines that a plugin wrote to stderr.
type ring struct {
	mu    sync.Mutex
	lines []string
	part  []byte // of a line that has not ended
}

const (
	ringLines = 40
	ringWidth = 2000 // bytes kept of a line
)

func (r *ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := len(p)
	for {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		r.part = append(r.part, line[:min(len(line), ringWidth-len(r.part))]...)
		if !ended {
			return n, nil
		}
		if s := plainLine(r.part); s != "" {
			if len(r.lines) == ringLines {
				r.lines = slices.Delete(r.lines, 0, 1)
			}
			r.lines = append(r.lines, s)
		}
		r.part = r.part[:0]
		p = rest
	}
}

// Lines returns a copy of the last lines.
func (r *ring) Lines() backend.LastWords {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := slices.Clone(r.lines)
	if s := plainLine(r.part); s != "" {
		l = append(l, s)
	}
	return l
}

// plainLine shows a line as a person would read it: a structured log line as
// "level: message key=value", control characters written out.
func plainLine(line []byte) string {
	var entry map[string]any
	if json.Unmarshal(line, &entry) == nil && entry["@message"] != nil {
		s := fmt.Sprintf("%v: %v", entry["@level"], entry["@message"])
		for _, k := range slices.Sorted(maps.Keys(entry)) {
			if !strings.HasPrefix(k, "@") {
				s += fmt.Sprintf(" %s=%v", k, entry[k])
			}
		}
		line = []byte(s)
	}
	return format.Visible(strings.TrimRight(string(line), " \t\r"))
}
