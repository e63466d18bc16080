package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// longer is the tiny study with more to train, so that there is a midst to be
// disturbed in.
func longer(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("testdata/tiny.toml")
	if err != nil {
		t.Fatal(err)
	}
	s := strings.Replace(string(b), "epochs         = 3", "epochs         = 8", 1)
	s = strings.Replace(s, "initialisations  = 1", "initialisations  = 3", 1)
	path := filepath.Join(t.TempDir(), "longer.toml")
	if err := os.WriteFile(path, []byte(s), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// reproduceAlone carries out a study undisturbed and returns its store.
func reproduceAlone(t *testing.T, spec string) string {
	t.Helper()
	out := t.TempDir()
	if _, errs, code := output(t, "reproduce", spec, "--out", out); code != 0 {
		t.Fatalf("exit %d\n%s", code, errs)
	}
	return out
}

var runEvent = regexp.MustCompile(`"digest":"([0-9a-f]{64})","event":"run"`)

// trainedOnce checks that no run was finished by two of the processes that said
// (--json) something.
func trainedOnce(t *testing.T, said []string) {
	t.Helper()
	by := map[string][]int{}
	count := make([]int, len(said))
	for i, s := range said {
		for _, m := range runEvent.FindAllStringSubmatch(s, -1) {
			by[m[1]] = append(by[m[1]], i+1)
			count[i]++
		}
	}
	t.Logf("finished runs by process: %v", count)
	if len(by) == 0 {
		t.Error("no process says that it finished a run")
	}
	for digest, who := range by {
		if len(who) > 1 {
			t.Errorf("run %.12s was finished by processes %v", digest, who)
		}
	}
}

// While one harness works, others join in on the same store and are killed at
// random moments. The one goes on and ends with the same bits, and no run is
// trained twice. Then several write the report and export at once.
func TestSharedStore(t *testing.T) {
	spec := longer(t)
	alone := reproduceAlone(t, spec)
	rng := seed.Rand(t)
	out := t.TempDir()
	type process struct {
		cmd  *exec.Cmd
		said bytes.Buffer // standard output and error
		done chan error
	}
	start := func(wait string) *process {
		p := &process{cmd: refocus("reproduce", spec, "--out", out, "--json", "--jobs", "1", "--threads", "1", "--wait", wait), done: make(chan error, 1)}
		p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.cmd.Process.Kill() })
		go func() { p.done <- p.cmd.Wait() }()
		return p
	}

	steady := start("all")
	var said []string
	for ended := false; !ended; {
		victim := start("work")
		select {
		case err := <-steady.done:
			if err != nil {
				t.Fatalf("the steady harness: %v\n%s", err, &steady.said)
			}
			ended = true
		case err := <-victim.done: // all runs were done, or in the hands of the other
			if err != nil {
				t.Errorf("a joining harness: %v\n%s", err, &victim.said)
			}
			said = append(said, victim.said.String())
			continue
		case <-time.After(time.Duration(rng.Float64() * float64(4*time.Second))):
		}
		victim.cmd.Process.Kill()
		<-victim.done
		said = append(said, victim.said.String())
	}
	trainedOnce(t, append([]string{steady.said.String()}, said...))
	if fingerprint(t, out) != fingerprint(t, alone) {
		t.Error("the shared study has other results")
	}

	dir := filepath.Join("reports", "tiny-base")
	writers := []*process{start("work"), start("work"), start("work")}
	for _, p := range writers {
		for waiting := true; waiting; {
			select {
			case err := <-p.done:
				if err != nil {
					t.Errorf("reporting together: %v\n%s", err, &p.said)
				}
				waiting = false
			case <-time.After(2 * time.Millisecond):
			}
			wholeReport(t, filepath.Join(out, dir))
		}
	}
	// The other files tell how long training took.
	for _, name := range []string{"results.csv", "best.onnx", "predictions.png"} {
		a, err := os.ReadFile(filepath.Join(out, dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(alone, dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("%s differs from that of an undisturbed study", name)
		}
	}
	if _, said, code := output(t, "verify", "--out", out); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, said)
	}
}

// wholeReport checks that a report can be read while it is being replaced.
func wholeReport(t *testing.T, dir string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil || !bytes.HasSuffix(bytes.TrimSpace(page), []byte("</html>")) {
		t.Fatalf("index.html of %d bytes is cut short (%v)", len(page), err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "best.onnx.certificate.json"))
	if err != nil {
		t.Fatal(err)
	}
	var certificate struct {
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(b, &certificate); err != nil {
		t.Fatalf("certificate of %d bytes: %v", len(b), err)
	}
	model, err := os.ReadFile(filepath.Join(dir, "best.onnx"))
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(model)); sum != certificate.SHA256 {
		t.Fatalf("best.onnx of %d bytes is not what its certificate says", len(model))
	}
}

func TestStoreIsAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"reproduce", "testdata/tiny.toml", "--out", path},
		{"status", "testdata/tiny.toml", "--out", path},
		{"data", "testdata/tiny.toml", "--out", path},
		{"verify", "--out", path},
	} {
		if _, errs, code := output(t, args...); code != cli.ExitFailed || !strings.Contains(errs, path) || !strings.Contains(errs, "not a directory") {
			t.Errorf("%s: exit %d, said %s", args[0], code, errs)
		}
	}
}
