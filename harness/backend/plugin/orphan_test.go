//go:build unix

package plugin

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/refocus-em/refocus/harness/backend"
)

// alive reports whether the process runs; one that only waits to be collected
// does not.
func alive(pid int) bool {
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		_, state, _ := strings.Cut(string(stat), ") ")
		return state[0] != 'Z'
	}
	return syscall.Kill(pid, 0) == nil
}

func gone(t *testing.T, what string, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no process number of the %s", what)
	}
	for end := time.Now().Add(time.Minute); alive(pid); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("the %s is left behind", what)
		}
	}
}

// A harness that is killed leaves no plugin and no child of a plugin.
func TestKilledHarness(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.Command(exe)
	host.Env = append(os.Environ(), behaviour+"=host", "REFOCUS_TEST_DATASET="+datasetFile(t, 1))
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(out).ReadString('\n')
	var plugin, child int
	fmt.Sscan(line, &plugin, &child)
	host.Process.Kill()
	host.Wait()
	if child == 0 {
		t.Fatalf("the host said %q", line)
	}
	gone(t, "plugin", plugin)
	gone(t, "plugin's child", child)
}

// The stdin of a plugin is enough to end it, where no kernel helps.
func TestStdinEnds(t *testing.T) {
	c := launch(t, "fine")
	c.process.stdin.Close()
	gone(t, "plugin", c.PID())
}

// What a scheduler sends to all processes of a job does not end a plugin whose harness
// lives: it has what is to be saved.
func TestSignalled(t *testing.T) {
	c := launch(t, "fine")
	s := open(t, c, 4)
	for _, sig := range stopSignals {
		if err := syscall.Kill(c.PID(), sig.(syscall.Signal)); err != nil {
			t.Fatal(err)
		}
	}
	// Signals come in no order; the answers to a few questions come after them.
	for range 20 {
		if _, err := s.State(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	c := launch(t, "children")
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.PID())); err == nil && !strings.HasPrefix(string(comm), "plugin.test") {
		t.Errorf("in a list of processes the plugin is called %s", comm)
	}
	if _, err := os.Stat(c.process.sockets); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket's folder %s is still there: %v", c.process.sockets, err)
	}
	child, err := startChild(open(t, c, 1))
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	gone(t, "plugin", c.PID())
	gone(t, "plugin's child", child)
	if how := c.process.exit(); how != "exit status 0" {
		t.Errorf("a plugin that was asked to end did so with %s", how)
	}
	if _, err := c.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "was closed") {
		t.Errorf("afterwards: %v", err)
	}
	c.Close() // again
}

// A plugin that does not even run is found out by the health check, and closed
// without waiting for it.
func TestStopped(t *testing.T) {
	c := launch(t, "waits", func(s *Spec) { s.PingInterval, s.HangTimeout = 50*time.Millisecond, time.Second })
	s := open(t, c, 4)
	err := s.Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 1000)}, func(p backend.Step) error {
		if p.Batch == 2 {
			return syscall.Kill(c.PID(), syscall.SIGSTOP)
		}
		return nil
	})
	var hang *backend.HangError
	if !errors.As(err, &hang) || hang.During != "health check" {
		t.Errorf("got %v", err)
	}
	gone(t, "plugin", c.PID())

	c = launch(t, "fine")
	syscall.Kill(c.PID(), syscall.SIGSTOP)
	c.Close()
	gone(t, "plugin", c.PID())
}

func TestKilledPlugin(t *testing.T) {
	c := launch(t, "waits")
	s := open(t, c, 4)
	err := s.Train(t.Context(), backend.TrainRequest{Batches: slices.Repeat([]backend.Batch{{{Dataset: "a"}}}, 1000)}, func(p backend.Step) error {
		if p.Batch == 2 {
			return syscall.Kill(c.PID(), syscall.SIGKILL)
		}
		return nil
	})
	var crash *backend.CrashError
	if !errors.As(err, &crash) || crash.Exit != "signal: killed" {
		t.Errorf("got %v", err)
	}
}

// A person who starts a plugin is told what it is.
func TestStartedByHand(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = []string{behaviour + "=fine"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), `is a backend plugin of refocus (backend "fake", version "1.2.3")`) {
		t.Errorf("%v: %s", err, out)
	}
}

// A script is a plugin too, although its interpreter opens it by name.
func TestScript(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), Prefix+"fake")
	script := []byte("#!/bin/sh\nexec '" + exe + "'\n")
	if err := os.WriteFile(path, script, 0o777); err != nil {
		t.Fatal(err)
	}
	c := launch(t, "fine", func(s *Spec) { s.Path, s.SHA256 = path, fmt.Sprintf("%x", sha256.Sum256(script)) })
	if _, err := c.Describe(t.Context()); err != nil {
		t.Error(err)
	}
}
