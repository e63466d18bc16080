package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/BurntSushi/toml"
)

// LockName is the name of the file that pins plugins.
const LockName = "refocus.lock.toml"

// LockPath is the lock file that applies here: $REFOCUS_LOCK; else the nearest
// one upwards from the working folder, in a folder itself or in its plugins/;
// else where a new one belongs, which is plugins/ of a checkout or the working
// folder.
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
	if root := moduleRoot(); root != "" {
		if st, err := os.Stat(filepath.Join(root, "plugins")); err == nil && st.IsDir() {
			return filepath.Join(root, "plugins", LockName)
		}
	}
	return filepath.Join(start, LockName)
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
func (l Lock) write(path string) error {
	slices.SortFunc(l.Backends, func(a, b Pin) int { return strings.Compare(a.Name, b.Name) })
	var b bytes.Buffer
	b.WriteString("# Backend plugins that may be started here. Written by `refocus backends lock`.\n")
	for _, p := range l.Backends {
		fmt.Fprintf(&b, "\n[[backend]]\nname = %q\nversion = %q\nprotocol = %d\nnumerics = %q\n[backend.sha256]\n", p.Name, p.Version, p.Protocol, p.Numerics)
		for _, platform := range sortedKeys(p.SHA256) {
			fmt.Fprintf(&b, "%q = %q\n", platform, p.SHA256[platform])
		}
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+LockName+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(b.Bytes())
	err = errors.Join(err, temp.Chmod(0o644), temp.Sync(), temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	return err
}

func sortedKeys(m map[string]string) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

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
}

func (e *UnlockedError) Error() string {
	how := fmt.Sprintf("if you trust it, pin it with `refocus backends lock %s`, or use --allow-unlocked this once", e.Name)
	switch {
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
func (p Plugins) Trust(f Found) (Trust, string, error) {
	if f.Builtin {
		return BuiltIn, "", nil
	}
	path := p.lockFile()
	lock, exists, err := ReadLock(path)
	if err != nil {
		return "", "", fmt.Errorf("reading the lock file: %w", err)
	}
	file, err := os.Open(f.Path)
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	digest, err := hashFile(file)
	if err != nil {
		return "", "", err
	}
	refusal := &UnlockedError{Name: f.Name, Path: f.Path, Trust: NotPinned, LockFile: path, Digest: digest, NoLockFile: !exists}
	pin, _ := lock.Find(f.Name)
	switch want := pin.SHA256[platform]; want {
	case digest:
		return Pinned, digest, nil
	case "":
	default:
		refusal.Trust, refusal.Want = Changed, want
	}
	return refusal.Trust, digest, refusal
}

// Launch finds a backend, makes sure that it may be started, and starts it.
func (p Plugins) Launch(ctx context.Context, name string) (*Client, error) {
	f, err := p.Find(name)
	if err != nil {
		return nil, err
	}
	trust, digest, err := p.Trust(f)
	var unlocked *UnlockedError
	if errors.As(err, &unlocked) && p.AllowUnlocked {
		p.Spec.withDefaults().Logger.Warn("starting a backend that is not pinned", "backend", f.Name, "path", f.Path, "sha256", digest)
	} else if err != nil {
		return nil, err
	}
	c, err := p.start(ctx, f, digest)
	if err != nil || trust != Pinned {
		return c, err
	}
	// The file is the pinned one; it should also call itself the same.
	d, err := c.Describe(ctx)
	if err == nil {
		lock, _, _ := ReadLock(p.lockFile())
		if pin, _ := lock.Find(f.Name); d.Version != pin.Version || d.Numerics != pin.Numerics {
			err = fmt.Errorf("backend %s says version %q and numerics %q, %s pins %q and %q: pin it again with `refocus backends lock %s`",
				f.Name, d.Version, d.Numerics, p.lockFile(), pin.Version, pin.Numerics, f.Name)
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p Plugins) start(ctx context.Context, f Found, digest string) (*Client, error) {
	spec := p.Spec
	spec.Name, spec.Path, spec.Args, spec.SHA256 = f.Name, f.Path, f.Args, digest
	return Launch(ctx, spec)
}

// Lock pins the backend's executable as it is now. It is started once, to ask
// for its version.
func (p Plugins) Lock(ctx context.Context, name string) (Pin, error) {
	f, err := p.Find(name)
	if err != nil {
		return Pin{}, err
	}
	if f.Builtin {
		return Pin{}, fmt.Errorf("backend %s is part of this program and is not pinned", f.Name)
	}
	_, digest, err := p.Trust(f)
	var unlocked *UnlockedError
	if err != nil && !errors.As(err, &unlocked) {
		return Pin{}, err
	}
	c, err := p.start(ctx, f, digest)
	if err != nil {
		return Pin{}, err
	}
	defer c.Close()
	d, err := c.Describe(ctx)
	if err != nil {
		return Pin{}, err
	}
	path := p.lockFile()
	lock, _, err := ReadLock(path)
	if err != nil {
		return Pin{}, err
	}
	pin, found := lock.Find(f.Name)
	if !found || pin.Version != d.Version || pin.Numerics != d.Numerics || pin.Protocol != ProtocolVersion {
		// Other platforms' executables are of another version.
		pin = Pin{Name: d.Name, Version: d.Version, Protocol: ProtocolVersion, Numerics: d.Numerics, SHA256: map[string]string{}}
	}
	pin.SHA256[platform] = digest
	lock.Backends = append(slices.DeleteFunc(lock.Backends, func(q Pin) bool { return q.Name == pin.Name }), pin)
	if err := lock.write(path); err != nil {
		return Pin{}, fmt.Errorf("writing the lock file: %w", err)
	}
	return pin, nil
}

// PrintList writes a table of all backends and how they stand to the lock
// file. It starts nothing.
func (p Plugins) PrintList(w io.Writer) error {
	lock, exists, err := ReadLock(p.lockFile())
	if err != nil {
		return fmt.Errorf("reading the lock file: %w", err)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tTRUST\tVERSION\tWHERE\tFILE")
	hidden := false
	for _, f := range p.List() {
		trust, _, err := p.Trust(f)
		var unlocked *UnlockedError
		if err != nil && !errors.As(err, &unlocked) {
			trust = Trust("unreadable: " + err.Error())
		}
		version, file := "", f.Path
		if pin, ok := lock.Find(f.Name); ok && trust == Pinned {
			version = pin.Version
		}
		if f.Builtin {
			file = ""
		}
		name := f.Name
		if f.Hidden {
			hidden = true
			name = "(" + name + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, trust, version, f.Where, file)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if hidden {
		fmt.Fprint(w, "\nIn brackets: found after another of that name, so that only its path starts it.\n")
	}
	if exists {
		_, err = fmt.Fprintf(w, "\nLock file: %s\n", p.lockFile())
	} else {
		_, err = fmt.Fprintf(w, "\nNo lock file yet; `refocus backends lock NAME` writes %s.\n", p.lockFile())
	}
	return err
}

// determinismText says what a determinism claim means.
var determinismText = map[string]string{
	DeterminismNone:    "two runs may differ",
	DeterminismRun:     "the same bits from every run on one machine with the same settings",
	DeterminismThreads: "the same bits from every run on one machine, whatever the number of threads",
	DeterminismMachine: "the same bits from every run, whatever the number of threads and the machine",
}

// PrintInfo writes what a backend says about itself.
func PrintInfo(w io.Writer, f Found, trust Trust, d Description) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "name\t%s\nversion\t%s\nprotocol\t%d\nnumerics\t%s\ndeterminism\t%s: %s\n",
		d.Name, d.Version, ProtocolVersion, d.Numerics, d.Determinism, determinismText[d.Determinism])
	if f.Builtin {
		fmt.Fprintf(t, "from\tthis program\n")
	} else {
		fmt.Fprintf(t, "from\t%s (%s, %s)\n", f.Path, f.Where, trust)
	}
	for i, v := range d.Devices {
		role := ""
		if i == 0 {
			role = ", default"
		}
		fmt.Fprintf(t, "device\t%s (%s%s): %s\n", v.Name, v.Kind, role, v.Info)
	}
	fmt.Fprintf(t, "precisions\t%s\nlosses\t%s\n", strings.Join(d.Precisions, ", "), strings.Join(d.Losses, ", "))
	for _, o := range d.Operators {
		fmt.Fprintf(t, "operator\t%s on %s", o.Type, o.Device)
		if o.Note != "" {
			fmt.Fprintf(t, ": %s", o.Note)
		}
		fmt.Fprintln(t)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(t, "note\t%s\n", n)
	}
	return t.Flush()
}
