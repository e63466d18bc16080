package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend/plugin"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// put writes a file and the folders above it.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

// A pinned Python plugin is its script, its interpreter and all that it could import:
// what changes among these, is new or gone is refused by its name, and what the user's
// variables or compiled modules would have it import instead is not used.
func TestPythonEnvironment(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("scripts are not executable here")
	}
	dir := t.TempDir()
	venv := filepath.Join(dir, "venv")
	if out, err := exec.Command(peers.Python(t), "-m", "venv", "--without-pip", venv).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(venv, "lib", "python3*", "site-packages"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	site, source := found[0], filepath.Join(dir, "source")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const good = "VALUE = 1\n"
	engine, edited := filepath.Join(site, "engine", "__init__.py"), filepath.Join(source, "kernels.py")
	put(t, engine, good)
	put(t, edited, good)
	put(t, filepath.Join(site, "edited.pth"), source+"\n") // as an editable installation
	script := filepath.Join(venv, "bin", plugin.Prefix+"fake")
	put(t, script, fmt.Sprintf("#!%s/bin/python3\nimport engine, kernels, os\nassert engine.VALUE == kernels.VALUE == 1\nos.execv(%q, [%[2]q])\n", venv, self))
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	user := filepath.Join(dir, "user")
	p := Plugins{
		Places:   []Place{{user, userData}, {filepath.Join(venv, "bin"), onPath}},
		LockFile: filepath.Join(dir, LockName),
		Spec:     plugin.Spec{Env: []string{servesPlugin + "=1"}},
	}
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))

	pin, linked, err := p.Add(t.Context(), "fake")
	if err != nil {
		t.Fatal(err)
	}
	if linked != filepath.Join(user, plugin.Prefix+"fake") || pin.Runs < 100 { // the standard library alone
		t.Errorf("linked as %s, pinned with %d files", linked, pin.Runs)
	}
	starts := func(when string) {
		t.Helper()
		c, err := p.Launch(t.Context(), "fake")
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		c.Close()
	}
	starts("pinned")

	for name, change := range map[string]func() (names string){
		"a module, its size and time as before": func() string {
			st, err := os.Stat(engine)
			if err != nil {
				t.Fatal(err)
			}
			put(t, engine, strings.Replace(good, "1", "2", 1))
			if err := os.Chtimes(engine, time.Now(), st.ModTime()); err != nil {
				t.Fatal(err)
			}
			return engine + " has changed"
		},
		"an editable source": func() string {
			put(t, edited, "VALUE = 2\n")
			return edited + " has changed"
		},
		"a module that shadows another": func() string {
			put(t, filepath.Join(source, "engine.py"), good)
			return filepath.Join(source, "engine.py") + " is new"
		},
		"a module beside the script": func() string {
			put(t, filepath.Join(venv, "bin", "engine.py"), good)
			return filepath.Join(venv, "bin", "engine.py") + " is new"
		},
		"a module that every start imports": func() string {
			put(t, filepath.Join(site, "sitecustomize.py"), "")
			return "sitecustomize.py is new"
		},
		"one more folder": func() string {
			put(t, filepath.Join(site, "more.pth"), dir+"\n")
			return "more.pth is new"
		},
		"a library": func() string {
			put(t, filepath.Join(site, "engine", "libmore.so.1.2"), "")
			return "libmore.so.1.2 is new"
		},
		"a module less": func() string {
			if err := os.Remove(engine); err != nil {
				t.Fatal(err)
			}
			return engine + " is gone"
		},
		"the environment's settings": func() string {
			put(t, filepath.Join(venv, "pyvenv.cfg"), "home = /usr/bin\ninclude-system-site-packages = true\n")
			return "pyvenv.cfg has changed"
		},
		"the list": func() string {
			put(t, environmentPath(p.LockFile, "fake"), "")
			return "the lock file says"
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := map[string][]byte{}
			keep := []string{engine, edited, filepath.Join(venv, "pyvenv.cfg"), environmentPath(p.LockFile, "fake")}
			for _, path := range keep {
				if before[path], err = os.ReadFile(path); err != nil {
					t.Fatal(err)
				}
			}
			new := []string{filepath.Join(source, "engine.py"), filepath.Join(venv, "bin", "engine.py"), filepath.Join(site, "sitecustomize.py"),
				filepath.Join(site, "more.pth"), filepath.Join(site, "engine", "libmore.so.1.2")}
			defer func() {
				for path, content := range before {
					put(t, path, string(content))
				}
				for _, path := range new {
					os.Remove(path)
				}
			}()
			says := change()
			c, err := p.Launch(t.Context(), "fake")
			if err == nil {
				c.Close()
			}
			var u *UnlockedError
			if !errors.As(err, &u) || u.Trust != Changed || !strings.Contains(err.Error(), says) {
				t.Errorf("got %v, want a refusal that says %q", err, says)
			}
		})
	}
	starts("as it was")

	// What Python would rather import is not: a compiled module that claims to be of
	// the source, folders that a variable names.
	other := filepath.Join(dir, "other")
	put(t, filepath.Join(other, "engine.py"), "VALUE = 3\n")
	t.Setenv("PYTHONPATH", other)
	python := filepath.Join(venv, "bin", "python3")
	st, err := os.Stat(engine)
	if err != nil {
		t.Fatal(err)
	}
	compile := fmt.Sprintf(`import importlib._bootstrap_external as b, importlib.util as u, os
path = u.cache_from_source(%q)
os.makedirs(os.path.dirname(path), exist_ok=True)
open(path, "wb").write(b._code_to_timestamp_pyc(compile("VALUE = 4", "x", "exec"), %d, %d))`, engine, st.ModTime().Unix(), st.Size())
	cmd := exec.Command(python, "-c", compile)
	cmd.Env = append(os.Environ(), "PYTHONPATH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command(python, "-c", "import engine; print(engine.VALUE)").Output(); string(out) != "3\n" {
		t.Fatalf("the variable has no effect: %s, %v", out, err)
	}
	cmd = exec.Command(python, "-c", "import engine; print(engine.VALUE)")
	cmd.Env = append(os.Environ(), "PYTHONPATH=")
	if out, err := cmd.Output(); string(out) != "4\n" {
		t.Fatalf("the compiled module has no effect: %s, %v", out, err)
	}
	starts("with a variable and a compiled module")

	// Pinned again, what has changed is what counts.
	put(t, filepath.Join(site, "more.py"), "")
	if _, err := p.Lock(t.Context(), "fake"); err != nil {
		t.Fatal(err)
	}
	starts("pinned again")

	// Pins of scripts from before say nothing of what these run.
	lock, _, err := ReadLock(p.LockFile)
	if err != nil {
		t.Fatal(err)
	}
	lock.Backends[0].Environment = nil
	if err := lock.write(p.LockFile); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Launch(t.Context(), "fake"); err == nil || !strings.Contains(err.Error(), "the pin does not say what the script runs") {
		t.Errorf("an old pin: %v", err)
	}
}

func TestScript(t *testing.T) {
	path := filepath.Join(t.TempDir(), "script")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("no sh here")
	}
	for content, want := range map[string]string{
		"#!/opt/x/bin/python3.12 -I\nimport x":                               "/opt/x/bin/python3.12 -I",
		"#!/bin/sh\n'''exec' \"/long path/bin/python\" \"$0\" \"$@\"\n' '''": "/long path/bin/python",
		"#!/bin/sh\n'''exec' /long/bin/python \"$0\" \"$@\"\n' '''":          "/long/bin/python",
		"#!/usr/bin/env sh\n":        sh,
		"#!/usr/bin/env -S sh -e\n":  sh + " -e",
		"#!/usr/bin/env A=b sh\n":    "name the interpreter",
		"#!/usr/bin/env nonesuch7\n": "not found",
		"#!\n":                       "names no interpreter",
		"\x7fELF":                    "",
		"":                           "",
	} {
		put(t, path, content)
		words, err := script(path)
		got := strings.Join(words, " ")
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%q: %q, want %q", content, got, want)
		}
	}
}

// Of a script for something else than Python, the interpreter counts.
func TestShellEnvironment(t *testing.T) {
	path := filepath.Join(t.TempDir(), "script")
	interpreter := filepath.Join(t.TempDir(), "interpreter")
	put(t, interpreter, "one")
	put(t, path, "#!"+interpreter+"\n")
	e, err := environment(t.Context(), path)
	if err != nil || len(e.Roots) != 0 || e.Files[interpreter] != files.Sum([]byte("one")) {
		t.Fatalf("%+v, %v", e, err)
	}
	if changed, err := e.changed(); changed != "" || err != nil {
		t.Errorf("changed: %q, %v", changed, err)
	}
	put(t, interpreter, "two")
	if changed, err := e.changed(); changed != interpreter+" has changed" || err != nil {
		t.Errorf("changed: %q, %v", changed, err)
	}
}
