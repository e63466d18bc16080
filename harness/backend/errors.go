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

// ErrDeviceLost is what a backend wraps when a session's device can do no more, in
// this process or at all: a GPU that has fallen off its bus, an error that CUDA
// repeats in answer to everything. package plugin then ends the plugin's process
// with the status ExitDeviceLost, which plugins in other languages do themselves.
var ErrDeviceLost = errors.New("the device is lost")

// ExitDeviceLost is the exit status of a plugin whose device is lost, EX_UNAVAILABLE
// of sysexits.h.
const ExitDeviceLost = 69

// DeviceLostError reports that a plugin's process ended because its device was
// lost: no fault of the run's, which can go on elsewhere.
type DeviceLostError struct {
	Plugin    string
	During    string // the method that was waiting, or "start"
	LastWords LastWords
}

func (e *DeviceLostError) Error() string {
	return fmt.Sprintf("backend %s lost its device during %s", e.Plugin, e.During) + e.LastWords.String()
}

// Unwrap makes it ErrDeviceLost.
func (e *DeviceLostError) Unwrap() error { return ErrDeviceLost }

// CrashError reports that a plugin's process ended, or its connection broke,
// while it was needed.
type CrashError struct {
	Plugin    string
	During    string // the method that was waiting, or "start"
	Exit      string // "exit status 2", "signal: killed", "the connection broke: …"
	LastWords LastWords
}

func (e *CrashError) Error() string {
	return fmt.Sprintf("backend %s ended during %s (%s)", e.Plugin, e.During, e.Exit) + e.LastWords.String()
}

// HangError reports that a plugin stopped answering or making progress and
// was ended by the harness.
type HangError struct {
	Plugin    string
	During    string        // the method that was waiting, or "health check"
	After     time.Duration // how long nothing came
	LastWords LastWords
}

func (e *HangError) Error() string {
	return fmt.Sprintf("backend %s hung: nothing came from %s for %v", e.Plugin, e.During, e.After) + e.LastWords.String()
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

// LastWords are the last lines that a plugin wrote to stderr.
type LastWords []string

// String is the end of an error's text.
func (l LastWords) String() string {
	if len(l) == 0 {
		return "; it wrote nothing to stderr"
	}
	return "; its last words:\n\t" + strings.Join(l, "\n\t")
}
