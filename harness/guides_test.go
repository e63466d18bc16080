package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/study"
	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// The commands of the documents by task and of the README are run, one page after the
// other in one folder, as a reader would; what would take longer than a test may is run
// with noise and the profile smoke instead. Files that a page shows are written under the names
// that a comment gives them.
func TestGuides(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	g := guide{root: root, dir: t.TempDir(), home: t.TempDir(), bin: t.TempDir(), done: map[string]bool{}}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", asRefocus, self)
	if err := os.WriteFile(filepath.Join(g.bin, "refocus"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	listed, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	// own-images.md says that it uses what reproduce.md made.
	pages := []string{"docs/reproduce.md", "docs/own-images.md", "docs/use-a-model.md", "docs/own-specimen.md", "docs/cluster.md", "docs/speed.md", "docs/README.md"}
	for _, p := range listed {
		if !slices.Contains(pages, p) {
			t.Errorf("%s is not tested", p)
		}
	}
	commands := 0
	for _, p := range append(pages, "../README.md") {
		ok := t.Run(filepath.Base(p), func(t *testing.T) {
			text, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range blocks.FindAllStringSubmatch(string(text), -1) {
				name, kind, body := b[1], b[2], b[3]
				switch {
				case name != "":
					if err := os.WriteFile(filepath.Join(g.dir, name), []byte(body), 0o644); err != nil {
						t.Fatal(err)
					}
				case kind == "python":
					python := peers.Python(t, "onnxruntime", "tifffile", "numpy")
					g.run(t, exec.Command(python, "-c", body), body)
				case kind == "sh":
					for line := range strings.Lines(strings.ReplaceAll(body, "\\\n", " ")) {
						line, _, _ = strings.Cut(line, " # ")
						if line = strings.TrimSpace(line); line != "" {
							g.line(t, line)
							commands++
						}
					}
				default:
					t.Errorf("a block of kind %q: not tested\n%s", kind, body)
				}
			}
		})
		if !ok {
			t.FailNow() // the next pages go on from what this one left
		}
	}
	if commands < 30 {
		t.Errorf("found %d commands only", commands)
	}
}

var blocks = regexp.MustCompile("(?m)(?:^<!-- file: (\\S+) -->\n)?^```(\\w+)\n((?s:.*?))^```$")

type guide struct {
	root, dir, home, bin string
	done                 map[string]bool // what need not be reproduced again
}

// line runs one command, or checks what cannot be run here.
func (g guide) line(t *testing.T, line string) {
	t.Helper()
	line = strings.Replace(line, "go run ./harness ", "refocus ", 1)
	line = strings.Replace(line, "plugins/bin/refocus ", "refocus ", 1)
	words := strings.Fields(line)
	switch words[0] {
	case "refocus":
		g.refocus(t, line, words[1:])
	case "sbatch": // TestSlurm runs the script
		i := slices.IndexFunc(words, func(w string) bool { return strings.HasSuffix(w, ".sbatch") })
		if _, err := os.Stat(filepath.Join(g.root, words[i])); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		g.refocus(t, line, append(append([]string{"reproduce"}, words[i+1:]...), "--help")) // flags that there are
	case "just":
		text, err := os.ReadFile(filepath.Join(g.root, "Justfile"))
		if err != nil || !regexp.MustCompile(`(?m)^`+words[1]+`\b.*:`).Match(text) {
			t.Errorf("%s: no such recipe (%v)", line, err)
		}
		if words[1] == "build" {
			cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(g.dir, "plugins", "bin")+string(filepath.Separator), "./plugins/gorgonia/cmd/refocus-backend-gorgonia")
			cmd.Dir = g.root
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	case "go": // the tests themselves
		if words[1] != "test" && words[1] != "install" {
			t.Errorf("%s: not tested", line)
		}
	case "pip":
		if _, err := os.Stat(filepath.Join(g.root, words[len(words)-1], "pyproject.toml")); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	default:
		t.Errorf("%s: not tested", line)
	}
}

// refocus runs the command with the shell, whose quotes it has, where its profile is
// none that takes long.
func (g guide) refocus(t *testing.T, line string, args []string) {
	t.Helper()
	if slices.Contains(args, "--help") {
		g.run(t, exec.Command(filepath.Join(g.bin, "refocus"), args...), line)
		return
	}
	series := slices.ContainsFunc(args, func(a string) bool { return slices.Contains(study.Series(), a) })
	profile := slices.Contains(args, "--profile")
	switch {
	case slices.Contains(args, "--backend"): // as the backend's own tests do
		g.refocus(t, line, append(args, "--help"))
		return
	case args[0] == "backends" && args[1] == "verify":
		line += " --only determinism"
	case args[0] == "plan" || !series:
	case !profile: // of the series that takes least
		line = strings.Replace(line, " defocus", " noise", 1) + " --profile smoke"
	case !slices.Contains(args, "smoke"):
		t.Errorf("%s: takes too long", line)
		return
	}
	if args[0] == "reproduce" && g.done[line] {
		return
	}
	g.done[line] = true
	g.run(t, exec.Command("sh", "-c", line), line)
}

func (g guide) run(t *testing.T, cmd *exec.Cmd, what string) {
	t.Helper()
	cmd.Dir = g.dir
	cmd.Env = append(os.Environ(), "PATH="+g.bin+string(filepath.ListSeparator)+os.Getenv("PATH"), "HOME="+g.home,
		"XDG_CONFIG_HOME="+g.home, "XDG_DATA_HOME="+g.home, "XDG_CACHE_HOME="+g.home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s\n%v\n%s", what, err, out)
	}
	t.Logf("%s (%.1f s of processor)", what, (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
}
