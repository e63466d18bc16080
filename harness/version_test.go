package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// Under the Go tool, which records no commit in what it runs, the version names
// the commit that is checked out and says whether tracked files differ from it.
func TestVersionNamesTheCommit(t *testing.T) {
	t.Parallel()
	git := func(args ...string) (string, error) {
		out, err := exec.Command("git", args...).Output()
		return strings.TrimSpace(string(out)), err
	}
	_, err := git("ls-files", "--error-unmatch", "version_test.go")
	peers.Need(t, err == nil, "no git, or no checkout")
	head, err := git("rev-parse", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	changes, err := git("status", "--porcelain", "--untracked-files=no", ":/")
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := output(t, "version", "--json")
	var got struct {
		Version, Commit, Go, Platform string
		Modified                      bool
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || code != 0 {
		t.Fatal(err, code, stderr)
	}
	if got.Commit != head || got.Modified != (changes != "") {
		t.Errorf("the version is %+v, HEAD %s, changes %q", got, head, changes)
	}
	line, _, _ := output(t, "--version")
	if !strings.Contains(line, head[:12]) {
		t.Errorf("--version says %q, without %s", line, head[:12])
	}

	// An executable that was moved away from the Go tool may be older than the
	// sources: it knows no commit.
	self := refocus("version", "--json")
	b, err := os.ReadFile(self.Path)
	if err != nil {
		t.Fatal(err)
	}
	self.Path = filepath.Join(t.TempDir(), "refocus")
	if err := os.WriteFile(self.Path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := self.Output()
	if err != nil {
		t.Fatal(err)
	}
	got.Commit = ""
	if err := json.Unmarshal(out, &got); err != nil || got.Commit != "" {
		t.Errorf("a binary elsewhere says %s (%v)", out, err)
	}
}
