package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// completed asks the command as a shell's script does.
func completed(t *testing.T, words ...string) []string {
	t.Helper()
	stdout, stderr, code := output(t, append([]string{"__complete"}, words...)...)
	if code != 0 {
		t.Fatalf("%q: exit %d: %s", words, code, stderr)
	}
	var list []string
	for _, line := range strings.Split(stdout, "\n") {
		if line == "" || line[0] == ':' {
			continue
		}
		word, _, _ := strings.Cut(line, "\t")
		list = append(list, word)
	}
	return list
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ line, want string }{
		{"vers", "version"},
		{"reproduce def", "defocus"},
		{"reproduce defocus --profile q", "quick"},
		{"plan noise --profile ", "paper quick smoke"},
		{"backends verify c", "cpu"},
		{"reproduce defocus --backend c", "cpu"},
		{"export best --format ", "onnx bioimageio"},
		{"export best --series str", "structure"},
		{"export be", "best"},
		{"reproduce defocus ", ""},
	} {
		got := completed(t, strings.Split(c.line, " ")...)
		have := map[string]bool{}
		for _, g := range got {
			have[g] = true
		}
		for _, w := range strings.Fields(c.want) {
			if !have[w] {
				t.Errorf("%q is completed with %q, without %q", c.line, got, w)
			}
		}
		if c.want == "" && len(got) > 0 {
			t.Errorf("%q is completed with %q, with nothing wanted", c.line, got)
		}
	}

	// The runs of a store, however much of a digest is typed.
	store := t.TempDir()
	if _, stderr, code := output(t, "reproduce", "testdata/tiny.toml", "--out", store); code != 0 {
		t.Fatal(stderr)
	}
	runs, err := filepath.Glob(filepath.Join(store, "runs", "[0-9a-f]*"))
	if err != nil || len(runs) == 0 {
		t.Fatal("the store has no runs", err)
	}
	digest := filepath.Base(runs[0])
	for _, n := range []int{0, 5, 20, len(digest), len(digest) + 9} {
		begun := (digest + "000000000")[:n]
		got := completed(t, "export", "--out", store, begun)
		found := false
		for _, g := range got {
			found = found || strings.HasPrefix(digest, g) && len(g) >= min(n, 12)
		}
		if found != (n <= len(digest)) {
			t.Errorf("%q is completed with %q", begun, got)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	if _, _, code := output(t, "completion", "frob"); code != 2 {
		t.Errorf("completion for a shell that does not exist: exit %d", code)
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		script, stderr, code := output(t, "completion", shell)
		if code != 0 || !strings.Contains(script, "refocus") {
			t.Errorf("%s: exit %d: %s", shell, code, stderr)
		}
	}
	bash, err := exec.LookPath("bash")
	peers.Need(t, err == nil, "no bash")
	script, _, _ := output(t, "completion", "bash")
	check := exec.Command(bash, "-n")
	check.Stdin = strings.NewReader(script)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("bash refuses the script: %v: %s", err, out)
	}
}
