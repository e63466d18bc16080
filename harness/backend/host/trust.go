package host

import (
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/files"
)

// Trust says how an executable stands to the lock file.
type Trust string

// The states of trust.
const (
	BuiltIn   Trust = "built in"   // part of the harness, which nobody can pin from inside
	Pinned    Trust = "pinned"     // the very file that the lock file names
	Changed   Trust = "CHANGED"    // another file than the lock file names
	NotPinned Trust = "not pinned" // the lock file, if any, does not name it for this platform
)

// UnlockedError refuses an executable that is not the one the lock file pins.
type UnlockedError struct {
	Name, Path string
	Trust      Trust // Changed or NotPinned
	LockFile   string
	Digest     string // of the executable
	Want       string // the pinned digest of a changed one
	NoLockFile bool
	Different  string // what of a script's environment is not as it was pinned, by name
}

func (e *UnlockedError) Error() string {
	how := fmt.Sprintf("if you trust it, pin it with `refocus backends pin %s`, or use --allow-unlocked this once", e.Name)
	switch {
	case e.Different != "":
		return fmt.Sprintf("backend %s: what %s runs is not what %s pins: %s: it was updated or tampered with; %s", e.Name, e.Path, e.LockFile, e.Different, how)
	case e.Trust == Changed:
		return fmt.Sprintf("backend %s: %s is not the file that %s pins (SHA-256 %s, pinned %s): it was rebuilt, updated or tampered with; %s",
			e.Name, e.Path, e.LockFile, e.Digest, e.Want, how)
	case e.NoLockFile:
		return fmt.Sprintf("backend %s: %s is not pinned, since there is no lock file yet (%s); %s", e.Name, e.Path, e.LockFile, how)
	}
	return fmt.Sprintf("backend %s: %s is not pinned for %s in %s; %s", e.Name, e.Path, platform, e.LockFile, how)
}

func (p Plugins) lockFile() string {
	if p.LockFile != "" {
		return p.LockFile
	}
	return LockPath()
}

// Trust compares an executable with the lock file, and returns its SHA-256
// (none of a built-in backend) and the reason to refuse it, if there is one.
//
// Of a script that is pinned it compares what the script runs, too.
func (p Plugins) Trust(f Found) (Trust, string, error) {
	trust, digest, _, err := p.trust(f)
	return trust, digest, err
}

// trust is Trust, and what to add to the environment of a pinned script's process.
func (p Plugins) trust(f Found) (trust Trust, digest string, variables []string, err error) {
	if f.Builtin {
		return BuiltIn, "", nil, nil
	}
	path := p.LockFileOf(f.Name)
	lock, exists, err := ReadLock(path)
	if err != nil {
		return "", "", nil, fmt.Errorf("reading the lock file: %w", err)
	}
	if exists {
		err = safe(path)
	}
	if err = errors.Join(err, safe(f.Path)); err != nil {
		return "", "", nil, fmt.Errorf("backend %s: %w", f.Name, err)
	}
	program, err := files.Describe(f.Path)
	if err != nil {
		return "", "", nil, err
	}
	digest = program.SHA256
	refusal := &UnlockedError{Name: f.Name, Path: f.Path, Trust: NotPinned, LockFile: path, Digest: digest, NoLockFile: !exists}
	pin, _ := lock.Find(f.Name)
	switch want := pin.SHA256[platform]; want {
	case digest:
		variables, err := p.environmentOf(f, pin, refusal)
		if err != nil {
			return refusal.Trust, digest, nil, err
		}
		return Pinned, digest, variables, nil
	case "":
	default:
		refusal.Trust, refusal.Want = Changed, want
	}
	return refusal.Trust, digest, nil, refusal
}

// environmentOf compares what a pinned script runs with what the pin says, and returns
// what Python must be told to keep to it; the error is the refusal where it differs.
func (p Plugins) environmentOf(f Found, pin Pin, refusal *UnlockedError) ([]string, error) {
	command, err := script(f.Path)
	if err != nil || command == nil {
		return nil, err
	}
	want := pin.Environment[platform]
	if want == "" {
		refusal.Different = "the pin does not say what the script runs, as pins do now"
		return nil, refusal
	}
	refusal.Trust = Changed
	e, err := readEnvironment(environmentPath(p.LockFileOf(f.Name), f.Name), want)
	if err != nil {
		refusal.Different = err.Error()
		return nil, refusal
	}
	if refusal.Different, err = e.compare(want); err != nil {
		return nil, fmt.Errorf("backend %s: comparing what %s runs with its pin: %w", f.Name, f.Path, err)
	}
	if refusal.Different != "" {
		return nil, refusal
	}
	return e.variables(want), nil
}
