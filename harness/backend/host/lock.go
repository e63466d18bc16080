package host

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/refocus-em/refocus/harness/files"
)

// LockName is the name of the file that pins plugins.
const LockName = "refocus.lock.toml"

// LockPath is the lock file that applies here: $REFOCUS_LOCK; else the nearest
// one upwards from the working folder, in a folder itself or in its plugins/;
// else the one beside the harness's executable, as releases have it; else where a
// new one belongs, which is plugins/ of a checkout or the user's own, in the folder for
// configurations, which applies everywhere to what the nearest one does not name.
func LockPath() string {
	if path := os.Getenv("REFOCUS_LOCK"); path != "" {
		return path
	}
	start, err := os.Getwd()
	if err != nil {
		return LockName
	}
	for folder := start; ; folder = filepath.Dir(folder) {
		for _, path := range []string{filepath.Join(folder, LockName), filepath.Join(folder, "plugins", LockName)} {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
		if filepath.Dir(folder) == folder {
			break
		}
	}
	if exe, err := os.Executable(); err == nil {
		path := filepath.Join(filepath.Dir(exe), LockName)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	if root := moduleRoot(); root != "" {
		if st, err := os.Stat(filepath.Join(root, "plugins")); err == nil && st.IsDir() {
			return filepath.Join(root, "plugins", LockName)
		}
	}
	if path := userLock(); path != "" {
		return path
	}
	return filepath.Join(start, LockName)
}

// userLock is the user's own lock file, "" where there is no place for it.
func userLock() string {
	folder, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(folder, "refocus", LockName)
}

// LockFileOf is the lock file that decides on the backend: the one that applies here,
// or the user's own where only that names it.
func (p Plugins) LockFileOf(name string) string {
	path, own := p.lockFile(), userLock()
	if p.LockFile != "" || os.Getenv("REFOCUS_LOCK") != "" || own == "" {
		return path
	}
	for _, at := range []string{path, own} {
		l, _, err := ReadLock(at)
		if _, ok := l.Find(name); ok || err != nil {
			return at
		}
	}
	return path
}

// Lock is the content of a lock file.
type Lock struct {
	Backends []Pin `toml:"backend"`
}

// Pin is what a lock file holds of one backend.
type Pin struct {
	Name     string            `toml:"name"`
	Version  string            `toml:"version"`
	Protocol int               `toml:"protocol"`
	Numerics string            `toml:"numerics"`
	SHA256   map[string]string `toml:"sha256"` // by platform, as in "linux/amd64"
	// Environment is the SHA-256 of the file that lists what a script runs, beside the
	// lock file; by platform.
	Environment map[string]string `toml:"environment"`
	// Runs is how many files of code a script was pinned with just now.
	Runs int `toml:"-"`
}

// environmentPath is where that file is.
func environmentPath(lock, name string) string {
	return filepath.Join(strings.TrimSuffix(lock, ".toml")+".d", name+"-"+strings.ReplaceAll(platform, "/", "-")+".sha256")
}

// platform names the machine code of an executable for this computer.
const platform = runtime.GOOS + "/" + runtime.GOARCH

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ReadLock reads a lock file. One that does not exist is empty, with exists
// false.
func ReadLock(path string) (l Lock, exists bool, err error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return l, false, nil
	}
	if err != nil {
		return l, false, err
	}
	meta, err := toml.Decode(string(data), &l)
	if err != nil {
		return l, true, fmt.Errorf("%s: %w", path, err)
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return l, true, fmt.Errorf("%s: unknown key %s", path, unknown[0])
	}
	seen := map[string]bool{}
	for _, p := range l.Backends {
		if !validName.MatchString(p.Name) || seen[p.Name] {
			return l, true, fmt.Errorf("%s: the name %q is not valid or is pinned twice", path, p.Name)
		}
		seen[p.Name] = true
		for platform, digest := range p.SHA256 {
			if !hexDigest.MatchString(digest) {
				return l, true, fmt.Errorf("%s: backend %s: %q is not the SHA-256 of an executable for %s", path, p.Name, digest, platform)
			}
		}
		for platform, digest := range p.Environment {
			if !hexDigest.MatchString(digest) {
				return l, true, fmt.Errorf("%s: backend %s: %q is not the SHA-256 of what a script runs on %s", path, p.Name, digest, platform)
			}
		}
	}
	return l, true, nil
}

// Find returns the pin with the name.
func (l Lock) Find(name string) (Pin, bool) {
	i := slices.IndexFunc(l.Backends, func(p Pin) bool { return p.Name == name })
	if i < 0 {
		return Pin{}, false
	}
	return l.Backends[i], true
}

// write replaces the file at path as a whole.
func (l Lock) write(path string) error { return files.Write(path, l.Bytes()) }

// Bytes is the content of the lock as a file.
func (l Lock) Bytes() []byte {
	slices.SortFunc(l.Backends, func(a, b Pin) int { return strings.Compare(a.Name, b.Name) })
	var b bytes.Buffer
	b.WriteString("# Backend plugins that may be started here. Written by `refocus backends pin`.\n")
	for _, p := range l.Backends {
		fmt.Fprintf(&b, "\n[[backend]]\nname = %s\nversion = %s\nprotocol = %d\nnumerics = %s\n[backend.sha256]\n", quoted(p.Name), quoted(p.Version), p.Protocol, quoted(p.Numerics))
		for _, platform := range slices.Sorted(maps.Keys(p.SHA256)) {
			fmt.Fprintf(&b, "%s = %s\n", quoted(platform), quoted(p.SHA256[platform]))
		}
		if len(p.Environment) > 0 {
			b.WriteString("[backend.environment]\n")
		}
		for _, platform := range slices.Sorted(maps.Keys(p.Environment)) {
			fmt.Fprintf(&b, "%s = %s\n", quoted(platform), quoted(p.Environment[platform]))
		}
	}
	return b.Bytes()
}

// quoted is a TOML string. Its escapes are not all of Go's: control characters are
// written as \uXXXX, and what is no UTF-8 as the sign for that.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, c)
		default:
			b.WriteRune(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
