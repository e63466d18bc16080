package backend

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrUnsupported is what a backend wraps to refuse something it does not
// implement: an operator, an attribute, a precision, a loss, a device. The
// text around it names the node:
//
//	fmt.Errorf("node %q (%s): group %d: %w", n.Name, n.Op, g, backend.ErrUnsupported)
//
// errors.Is finds it again on the harness's side of the wire.
var ErrUnsupported = errors.New("not supported by this backend")

// CrashError reports that a plugin's process ended, or its connection broke,
// while it was needed.
type CrashError struct {
	Plugin    string
	During    string   // the method that was waiting, or "start"
	Exit      string   // "exit status 2", "signal: killed", "the connection broke: …"
	LastWords []string // the last lines the plugin wrote to stderr
}

func (e *CrashError) Error() string {
	return fmt.Sprintf("backend %s ended during %s (%s)", e.Plugin, e.During, e.Exit) + lastWords(e.LastWords)
}

// HangError reports that a plugin stopped answering or making progress and
// was ended by the harness.
type HangError struct {
	Plugin    string
	During    string        // the method that was waiting, or "health check"
	After     time.Duration // how long nothing came
	LastWords []string
}

func (e *HangError) Error() string {
	return fmt.Sprintf("backend %s hung: nothing came from %s for %v", e.Plugin, e.During, e.After) + lastWords(e.LastWords)
}

// NonsenseError reports an answer that cannot be right: a loss that is no
// number, a wrong shape or count, a truncated state.
type NonsenseError struct {
	Plugin string
	Method string
	What   string // what is wrong, and where
}

func (e *NonsenseError) Error() string {
	return fmt.Sprintf("backend %s gave a wrong answer to %s: %s", e.Plugin, e.Method, e.What)
}

// lastWords formats the end of an error text.
func lastWords(lines []string) string {
	if len(lines) == 0 {
		return "; it wrote nothing to stderr"
	}
	return "; its last words:\n\t" + strings.Join(lines, "\n\t")
}

// remoteError is an error that a backend returned, as opposed to one of
// reaching it. It keeps the text.
type remoteError struct {
	text        string
	unsupported bool
}

func (e *remoteError) Error() string { return e.text }

func (e *remoteError) Is(target error) bool { return e.unsupported && target == ErrUnsupported }
