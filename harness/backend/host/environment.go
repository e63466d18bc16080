package host

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/refocus-em/refocus/harness/files"
)

// Environment is what a plugin that is a script runs beside itself: its interpreter
// and, of Python, every file of code in every folder that modules are imported from,
// used or not, so that none is changed, added or put before another unnoticed.
type Environment struct {
	Roots []string          // folders, in the order in which they are searched; some need not exist
	Files map[string]string // SHA-256 by path
}

// code tells the files that may run from those that are read: modules, libraries
// and what a GPU runs, archives of modules, and the files that say where more of them
// lie. Compiled modules in __pycache__ are left out, and not used: see variables.
var code = regexp.MustCompile(`\.(py|pyw|pyc|so|so\.[0-9.]+|pyd|dll|dylib|zip|egg|egg-link|pth|_pth|co|hsaco|metallib)$|^pyvenv\.cfg$`)

// probe has Python say from where it imports. Folders that do not exist yet count, too:
// the user's own, of packages installed without an environment, is searched once it
// does.
const probe = `import json, os, site, sys, sysconfig
home = os.path.dirname(sys.executable)
roots = [p for p in sys.path if p] + [site.getusersitepackages()] + getattr(site, "getsitepackages", list)()
library = [os.path.join(sysconfig.get_config_var("LIBDIR") or "", sysconfig.get_config_var(v) or "") for v in ("LDLIBRARY", "INSTSONAME")]
settings = [os.path.join(p, "pyvenv.cfg") for p in (home, os.path.dirname(home))]
edited = [v for m in list(sys.modules.values()) if (getattr(m, "__name__", "") or "").startswith("__editable__")
          for v in list(getattr(m, "MAPPING", {}).values()) + [p for n in getattr(m, "NAMESPACES", {}).values() for p in n]]
print(json.dumps({"roots": roots + edited, "files": [sys.executable, getattr(sys, "_base_executable", sys.executable)] + library + settings}))`

// script reads the command that a script's first line names; nil of another file. pip
// writes paths that a kernel would not take into a second line for a shell.
func script(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 4096)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first, rest, _ := strings.Cut(string(head[:n]), "\n")
	line, ok := strings.CutPrefix(strings.TrimRight(first, "\r"), "#!")
	if !ok {
		return nil, nil
	}
	if second, ok := strings.CutPrefix(rest, "'''exec' "); ok {
		if quoted := strings.SplitN(second, `"`, 3); len(quoted) == 3 && quoted[0] == "" {
			return quoted[1:2], nil
		}
		return strings.Fields(second)[:1], nil
	}
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, fmt.Errorf("%s begins with #! and names no interpreter", path)
	}
	if filepath.Base(words[0]) == "env" {
		words = slices.DeleteFunc(words[1:], func(w string) bool { return w == "-S" })
		if len(words) == 0 || strings.Contains(words[0], "=") {
			return nil, fmt.Errorf("%s: #!%s: name the interpreter itself, whose environment can then be pinned", path, line)
		}
		if words[0], err = exec.LookPath(words[0]); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return words, nil
}

var pythonName = regexp.MustCompile(`^python[0-9.]*(\.exe)?$`)

// variables are for a process of a pinned environment in which Python, whatever the
// user has set, imports from the pinned roots alone. Compiled modules it keeps in a
// folder of the pin's own: those beside the modules are not pinned.
func (e *Environment) variables(digest string) []string {
	cache := os.DevNull
	if folder, err := os.UserCacheDir(); err == nil {
		cache = filepath.Join(folder, "refocus", "pycache", digest[:16])
	}
	return append(slices.Clone(unset), "PYTHONPYCACHEPREFIX="+cache)
}

// unset are those of Python's variables that say what it imports.
var unset = []string{"PYTHONPATH=", "PYTHONHOME=", "PYTHONUSERBASE=", "PYTHONNOUSERSITE=", "PYTHONSTARTUP=", "PYTHONINSPECT=", "PYTHONBREAKPOINT=", "PYTHONWARNINGS=", "PYTHONPLATLIBDIR="}

// environment reads what the script at path runs as it is now; nil of a file that is
// no script. Python is asked, and so runs what it imports at its start.
func environment(ctx context.Context, path string) (*Environment, error) {
	command, err := script(path)
	if command == nil {
		return nil, err
	}
	e := &Environment{Files: map[string]string{}}
	e.Files[command[0]] = ""
	if pythonName.MatchString(filepath.Base(command[0])) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, command[0], append(slices.Clone(command[1:]), "-c", probe)...)
		cmd.Env = append(os.Environ(), unset...)
		cmd.Dir = filepath.Dir(path)
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
			}
			return nil, fmt.Errorf("asking %s where it imports from: %w", command[0], err)
		}
		var said struct{ Roots, Files []string }
		if err := json.Unmarshal(out, &said); err != nil {
			return nil, fmt.Errorf("asking %s where it imports from: %w", command[0], err)
		}
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, err
		}
		for _, root := range append([]string{filepath.Dir(real)}, said.Roots...) { // Python searches the script's folder first
			root = filepath.Clean(root)
			if filepath.IsAbs(root) && !slices.Contains(e.Roots, root) {
				e.Roots = append(e.Roots, root)
			}
		}
		for _, f := range said.Files {
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
				e.Files[f] = ""
			}
		}
	}
	listed, err := e.list()
	if err != nil {
		return nil, err
	}
	for _, f := range listed {
		e.Files[f] = ""
	}
	sums, err := hashAll(slices.Sorted(maps.Keys(e.Files)))
	if err != nil {
		return nil, err
	}
	e.Files = sums
	return e, nil
}

// list finds the files of code under the roots, through links as imports would.
func (e *Environment) list() ([]string, error) {
	var found []string
	visited := map[string]bool{}
	var walk func(folder string, top bool) error
	walk = func(folder string, top bool) error {
		real, err := filepath.EvalSymlinks(folder)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || visited[real] {
			return err
		}
		st, err := os.Stat(real)
		if err != nil {
			return err
		}
		if !st.IsDir() { // an archive, or a module of its own
			if top {
				found = append(found, folder)
			}
			return nil
		}
		visited[real] = true
		entries, err := os.ReadDir(real)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := filepath.Join(folder, entry.Name())
			if strings.ContainsAny(path, "\n\r\\") && runtime.GOOS != "windows" {
				return fmt.Errorf("%q: a name that cannot be written down", path)
			}
			mode := entry.Type()
			executable := false
			if mode&fs.ModeSymlink != 0 || mode.IsRegular() && !code.MatchString(entry.Name()) {
				st, err := os.Stat(path)
				if errors.Is(err, fs.ErrNotExist) {
					continue // a link to nothing
				}
				if err != nil {
					return err
				}
				mode, executable = st.Mode(), st.Mode()&0o111 != 0
			}
			switch {
			case mode.IsDir():
				if entry.Name() != "__pycache__" {
					if err := walk(path, false); err != nil {
						return err
					}
				}
			// Of the script's folder, which may be /usr/bin, only what can be imported.
			case mode.IsRegular() && (code.MatchString(entry.Name()) || executable && folder != e.Roots[0]):
				found = append(found, path)
			}
		}
		return nil
	}
	for _, root := range e.Roots {
		if err := walk(root, true); err != nil {
			return nil, fmt.Errorf("looking for modules in %s: %w", root, err)
		}
	}
	return found, nil
}

// hashAll hashes files on all cores.
func hashAll(paths []string) (map[string]string, error) {
	var mu sync.Mutex
	sums, next := make(map[string]string, len(paths)), 0
	var failure error
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			buffer := make([]byte, 1<<20)
			for {
				mu.Lock()
				if next == len(paths) || failure != nil {
					mu.Unlock()
					return
				}
				path := paths[next]
				next++
				mu.Unlock()
				sum, err := hashOf(path, buffer)
				mu.Lock()
				sums[path] = sum
				if err != nil && failure == nil {
					failure = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return sums, failure
}

func hashOf(path string, buffer []byte) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	// Without Sum's WriterTo, which would allocate a buffer for every file.
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buffer); err != nil {
		return "", fmt.Errorf("hashing %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

const rootLine = "# root "

// Bytes is the environment as a file, which `sha256sum -c` reads, too.
func (e *Environment) Bytes(name string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# What backend %s runs beside its executable. Written by `refocus backends pin %s`.\n", name, name)
	for _, root := range e.Roots {
		fmt.Fprintf(&b, "%s%s\n", rootLine, root)
	}
	for _, path := range slices.Sorted(maps.Keys(e.Files)) {
		fmt.Fprintf(&b, "%s  %s\n", e.Files[path], path)
	}
	return b.Bytes()
}

// readEnvironment reads such a file, which must have the digest that the lock file says.
func readEnvironment(path, digest string) (*Environment, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if got := files.Sum(content); got != digest {
		return nil, fmt.Errorf("%s has SHA-256 %s, the lock file says %s", path, got, digest)
	}
	e := &Environment{Files: map[string]string{}}
	lines := bufio.NewScanner(bytes.NewReader(content))
	for lines.Scan() {
		if root, ok := strings.CutPrefix(lines.Text(), rootLine); ok {
			e.Roots = append(e.Roots, root)
		} else if sum, name, ok := strings.Cut(lines.Text(), "  "); ok && hexDigest.MatchString(sum) {
			e.Files[name] = sum
		}
	}
	return e, lines.Err()
}

// changed compares the environment with what is there now, and says what is not as it
// was: a few by name, and how many more. It reads every byte: sizes and times can be
// made to look as before.
func (e *Environment) changed() (string, error) {
	listed, err := e.list()
	if err != nil {
		return "", err
	}
	var different, there []string
	for _, path := range listed {
		if _, ok := e.Files[path]; !ok {
			different = append(different, path+" is new")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(e.Files)) {
		if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
			different = append(different, path+" is gone")
			continue
		}
		there = append(there, path)
	}
	now, err := hashAll(there)
	if err != nil {
		return "", err
	}
	for _, path := range there {
		if now[path] != e.Files[path] {
			different = append(different, path+" has changed")
		}
	}
	const most = 5
	if len(different) > most {
		return fmt.Sprintf("%s, and %d more", strings.Join(different[:most], ", "), len(different)-most), nil
	}
	return strings.Join(different, ", "), nil
}

// comparisons shares one between those who ask for it before it begins: backends that
// are started together.
var comparisons struct {
	sync.Mutex
	byDigest map[string]comparison
}

type comparison struct {
	began   time.Time
	changed string
	err     error
}

// compare is changed, once for all who wait for it.
func (e *Environment) compare(digest string) (string, error) {
	asked := time.Now()
	comparisons.Lock()
	defer comparisons.Unlock()
	c, ok := comparisons.byDigest[digest]
	if !ok || c.began.Before(asked) {
		c = comparison{began: time.Now()}
		c.changed, c.err = e.changed()
		if comparisons.byDigest == nil {
			comparisons.byDigest = map[string]comparison{}
		}
		comparisons.byDigest[digest] = c
	}
	return c.changed, c.err
}
