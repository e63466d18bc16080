//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/cli"
	"github.com/refocus-em/refocus/harness/testkit/peers"
	"github.com/refocus-em/refocus/harness/testkit/seed"
)

// lab is a folder that several users reach, with the command in it. They are in
// one group, the last of them is not.
type lab struct {
	t       *testing.T
	dir     string
	command string
}

const (
	alice, bob, stranger = 70001, 70002, 70003
	team, others         = 70000, 70009
)

func newLab(t *testing.T) *lab {
	t.Helper()
	probe := exec.Command("/bin/true")
	probe.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: alice, Gid: team}}
	peers.Need(t, os.Getuid() == 0 && probe.Run() == nil, "only root can be two users, and only where it may become another")
	l := &lab{t: t, dir: t.TempDir()}
	for dir := l.dir; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
		l.must(os.Chmod(dir, 0o755))
	}
	self, err := os.Executable()
	l.must(err)
	b, err := os.ReadFile(self)
	l.must(err)
	l.command = filepath.Join(l.dir, "refocus")
	l.must(os.WriteFile(l.command, b, 0o755))
	l.must(os.Chmod(l.command, 0o755))
	l.must(os.Mkdir(l.path("tmp"), 0o777))
	l.must(os.Chmod(l.path("tmp"), 0o777|fs.ModeSticky))
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// spec writes the tiny study with some of its numbers changed.
func (l *lab) spec(name string, oldnew ...string) string {
	l.t.Helper()
	b, err := os.ReadFile("testdata/tiny.toml")
	l.must(err)
	l.must(os.WriteFile(l.path(name), []byte(strings.NewReplacer(oldnew...).Replace(string(b))), 0o644))
	return name
}

// store makes an empty folder that hands its group down.
func (l *lab) store(name string) string {
	l.t.Helper()
	l.must(os.Mkdir(l.path(name), 0o775))
	l.must(os.Chown(l.path(name), 0, team))
	l.must(os.Chmod(l.path(name), 0o775|fs.ModeSetgid)) // after the change of group, which takes the bit away
	return name
}

// as prepares the command in the hands of a user.
func (l *lab) as(user, umask uint32, args ...string) (*exec.Cmd, *bytes.Buffer) {
	group := uint32(team)
	if user == stranger {
		group = others
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", fmt.Sprintf(`umask %03o; exec "$0" "$@"`, umask), l.command}, args...)...)
	cmd.Dir = l.dir
	cmd.Env = []string{asRefocus + "=1", "HOME=/nonexistent", "TMPDIR=" + l.path("tmp"), "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: group}}
	said := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = said, said
	return cmd, said
}

// run runs the command to its end.
func (l *lab) run(user, umask uint32, args ...string) (said string, code int) {
	l.t.Helper()
	cmd, out := l.as(user, umask, args...)
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		l.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// killed runs the command and kills it some moments after a file exists that the
// pattern matches, and reports whether it had not ended before.
func (l *lab) killed(rng *rand.Rand, user uint32, pattern string, args ...string) bool {
	l.t.Helper()
	cmd, said := l.as(user, 0o002, args...)
	l.must(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	after := time.Duration(rng.Int64N(int64(100 * time.Millisecond)))
	for deadline := time.Now().Add(time.Minute); ; {
		if found, _ := filepath.Glob(l.path(pattern)); len(found) > 0 {
			break
		}
		select {
		case err := <-done:
			if err != nil {
				l.t.Fatalf("%v: %v\n%s", args, err, said)
			}
			return false
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			l.t.Fatalf("%v makes no %s\n%s", args, pattern, said)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			l.t.Fatalf("%v: %v\n%s", args, err, said)
		}
		return false
	case <-time.After(after):
		cmd.Process.Kill()
		<-done
		return true
	}
}

// Two users of a group work in one store. Wherever one is killed the other goes
// on, and the results are those of one user who was never disturbed.
func TestTwoUsers(t *testing.T) {
	l := newLab(t)
	rng := seed.Rand(t)
	spec := l.spec("study.toml", "train_images      = 4", "train_images      = 40", "epochs         = 3", "epochs         = 20")
	st := l.store("store")
	reproduce := []string{"reproduce", spec, "--threads", "1", "--jobs", "2", "--out", st}
	stages := []struct{ name, pattern string }{
		{"simulating", "store/data/*/parts/*"},
		{"simulating again", "store/data/*/images.safetensors"},
		{"training", "store/runs/.work/*/*/checkpoint.safetensors"},
		{"training again", "store/runs/[0-9a-f]*/manifest.json"},
		{"reporting", "store/reports/*/best.onnx*"},
		{"reporting again", "store/reports/*/*.svg"},
	}
	for i, s := range stages {
		user := []uint32{alice, bob}[i%2]
		if l.killed(rng, user, s.pattern, reproduce...) {
			t.Logf("user %d killed while %s", user, s.name)
		}
	}
	for _, user := range []uint32{alice, bob, alice} {
		if said, code := l.run(user, 0o002, reproduce...); code != 0 {
			t.Fatalf("user %d: exit %d\n%s", user, code, said)
		}
	}
	if said, code := l.run(bob, 0o002, "verify", "--out", st); code != 0 {
		t.Errorf("verify: exit %d\n%s", code, said)
	}

	// What the one made and has been damaged the other repairs.
	runs, err := filepath.Glob(l.path("store/runs/[0-9a-f]*/manifest.json"))
	l.must(err)
	sets, err := filepath.Glob(l.path("store/data/*/images.safetensors"))
	l.must(err)
	l.must(os.Remove(runs[0]))
	l.must(os.Truncate(runs[1], 100))
	l.must(os.Truncate(filepath.Join(filepath.Dir(sets[0]), "manifest.json"), 100))
	for _, user := range []uint32{bob, alice} { // one of them made what is damaged
		said, code := l.run(user, 0o002, reproduce...)
		if code != 0 || user == bob && strings.Count(said, "what was there is kept as") != 3 {
			t.Errorf("repairing: user %d, exit %d\n%s", user, code, said)
		}
	}
	l.must(os.RemoveAll(l.path("store/runs/.damaged")))
	l.must(os.RemoveAll(l.path("store/data/.damaged")))
	l.must(os.Remove(l.path("store/data/.damaged.lock")))

	if said, code := l.run(alice, 0o022, "reproduce", spec, "--out", "tmp/alone"); code != 0 {
		t.Fatalf("alone: exit %d\n%s", code, said)
	}
	if fingerprint(t, l.path("store")) != fingerprint(t, l.path("tmp/alone")) {
		t.Error("two users have other results than one")
	}
	l.must(filepath.WalkDir(l.path("store"), func(path string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if err = errors.Join(err, ierr); err != nil {
			return err
		}
		if want := fs.FileMode(map[bool]fs.FileMode{true: 0o775, false: 0o664}[d.IsDir()]); info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != team {
			t.Errorf("%s belongs to group %d", path, gid)
		}
		return nil
	}))
}

// A folder that only another may write to stops one at the start, with the
// other's name and what to set.
func TestForeignFolders(t *testing.T) {
	l := newLab(t)
	spec := l.spec("study.toml")
	st := l.store("store")
	if said, code := l.run(alice, 0o022, "reproduce", spec, "--out", st); code != 0 {
		t.Fatalf("exit %d\n%s", code, said)
	}
	started := func(said string) bool { return strings.Contains(said, "backend cpu") } // past the preparations
	said, code := l.run(bob, 0o022, "reproduce", spec, "--out", st)
	if code != cli.ExitFailed || started(said) || !strings.Contains(said, fmt.Sprintf("belongs to user %d, group %d, with mode 2755", alice, team)) || !strings.Contains(said, "umask 002") {
		t.Errorf("under umask 022: exit %d\n%s", code, said)
	}
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"status", spec}, 0, "5 of 5 runs finished"},
		{[]string{"verify"}, 0, "5 runs are whole"},
		{[]string{"report", spec, "-o", "tmp/report"}, 0, "tmp/report/index.html"},
		{[]string{"export", "best", "--series", spec, "-o", "tmp/best.onnx"}, 0, "tmp/best.onnx"},
		{[]string{"report", spec}, cli.ExitFailed, "you are not in that group"},
		{[]string{"data", spec}, cli.ExitFailed, "you are not in that group"},
		{[]string{"reproduce", spec}, cli.ExitFailed, "you are not in that group"},
	} {
		said, code := l.run(stranger, 0o022, append(c.args, "--out", st)...)
		if code != c.code || !strings.Contains(said, c.says) || code != 0 && started(said) {
			t.Errorf("a stranger's %v: exit %d, want %d and %q\n%s", c.args, code, c.code, c.says, said)
		}
	}

	// The same below the top, where a folder was made under another umask.
	st = l.store("mixed")
	if said, code := l.run(alice, 0o002, "reproduce", spec, "--out", st); code != 0 {
		t.Fatalf("exit %d\n%s", code, said)
	}
	report := "mixed/reports/tiny-base"
	l.must(os.Chmod(l.path(report), 0o755|fs.ModeSetgid))
	if said, code := l.run(bob, 0o002, "reproduce", spec, "--out", st); code != cli.ExitFailed || started(said) || !strings.Contains(said, report+" belongs to") {
		t.Errorf("another's report: exit %d\n%s", code, said)
	}
}
